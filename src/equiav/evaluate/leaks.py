"""Was the model trained on what it is measured on?  Clips of a library, what a run learned from → how many it knows.

A model that has learned from one window of a recording knows the others too: voices, rooms, pictures stay. So a clip
counts as seen if any window of its recording was learned from, be it under the same path, under the same YouTube id,
or at another path with the same content (the id of a clip is a hash of content and window).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from equiav.errors import LibraryError
from equiav.library.recordings import recording
from equiav.train.trained_on import about_to_train

if TYPE_CHECKING:
    from equiav.library.table import Library
    from equiav.train.trained_on import TrainedOn


def split_of_training(training: Library, split: str) -> TrainedOn:
    """What a model was trained on, if it was that split of a library.

    Raises:
        LibraryError: that split has no clips: none in common would say nothing.
    """
    if not training.count(split):
        raise LibraryError(
            f"{training.path}: split {split!r} has no clips that a model could be trained on "
            f"(splits: {', '.join(training.splits()) or 'none'}); evaluate_retrieval takes another as training_split"
        )
    return about_to_train(training, {"train": split})


def seen_in_training(library: Library, clip_ids: Sequence[str], *learned: TrainedOn | None) -> int | None:
    """How many of these clips are of recordings that were learned from; None where nothing is known of the training."""
    known = [one for one in learned if one is not None]
    if not known:
        return None
    table = library.take(range(len(library.all_ids())), ["clip_id", "source"])
    sources = zip(table["clip_id"].to_pylist(), table["source"].to_pylist(), strict=True)
    recordings = {clip_id: recording(source) for clip_id, source in sources}
    seen = {recording(source) for one in known for source in one.sources}
    seen |= {name for clip_id, name in recordings.items() if any(clip_id in one.clip_ids for one in known)}
    return sum(recordings[clip_id] in seen for clip_id in clip_ids)
