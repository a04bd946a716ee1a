"""A classifier's probabilities for every clip of a split, and how right they are.

    library, split, classifier -> `Scores`: probabilities and truth (n, classes) -> mAP, AUC, d', top-1, top-5

With several processes each scores a part, and all get the whole: every clip once, none twice. Pictures: the
probabilities of several of the stored frames are averaged, as CAV-MAE does; one frame is the middle one.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from equiav.augment.view import stack_pictures
from equiav.augment.visual import normalise, visual_space
from equiav.config import covers
from equiav.errors import LibraryError, ModelError
from equiav.library.loader import pictures_of
from equiav.library.records import USABLE
from equiav.metrics.classification import mean_average_precision, top_hits
from equiav.train.classification import check_labels, label_matrix

if TYPE_CHECKING:
    import pyarrow as pa
    from accelerate import Accelerator
    from jaxtyping import Bool, Float
    from numpy.typing import NDArray

    from equiav.library.table import Library
    from equiav.model.classifier import Classifier

BATCH = 64  # clips scored at once


@dataclass(frozen=True)
class Scores:
    """Of n clips, in the order of the rows that were asked."""

    clip_ids: list[str]
    probabilities: Float[np.ndarray, "n classes"]
    truth: Bool[np.ndarray, "n classes"]


@torch.no_grad()
def score_split(
    classifier: Classifier,
    library: Library,
    split: str,
    accelerator: Accelerator,
    *,
    frames: int = 1,
    rows: NDArray[np.int64] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score every clip of a split; all processes call this and get the same.

    Args:
        frames: stored frames, evenly spread, whose probabilities are averaged.
        rows: row numbers of the clips to score instead of all of the split.

    Raises:
        LibraryError: the split is empty, or a clip's labels are none of the classifier's.
        ModelError: probabilities that are not finite.
    """
    usable = USABLE[classifier.modalities]
    rows = library.positions(split, usable) if rows is None else rows
    labels = library.take(rows.tolist(), ["labels"])["labels"].to_pylist()
    where = f"{library.path}, split {split!r}"
    if not labels:
        raise LibraryError(
            f"{where}: no clips to measure on; it has the splits {', '.join(library.splits(usable)) or 'none'}"
        )
    check_labels(labels, classifier.labels, classifier.classes, where)
    own = slice(accelerator.process_index, None, accelerator.num_processes)
    mine, places = rows[own], np.arange(len(rows))[own]
    found: list[tuple[np.int64, str, np.ndarray]] = []
    stored = {"fbank": "audio", "frames": "visual"}
    columns = ["clip_id", *(name for name, modality in stored.items() if modality in classifier.encoders)]
    training = classifier.training
    classifier.eval()
    for start in range(0, len(mine), BATCH):
        part = mine[start : start + BATCH].tolist()
        table = library.take(part, columns)
        with accelerator.autocast(), classifier.computing():
            probabilities = _probabilities(classifier, library, table, frames)
        at = places[start : start + BATCH]
        found += zip(at, table["clip_id"].to_pylist(), probabilities.cpu().numpy(), strict=True)
        if on_progress:
            on_progress(min((start + BATCH) * accelerator.num_processes, len(rows)), len(rows))
    classifier.train(training)
    gathered = sorted(gather_object(found), key=lambda one: one[0])
    scores = np.stack([one[2] for one in gathered])
    if not np.isfinite(scores).all():
        raise ModelError("the classifier gave NaN or infinite probabilities: its weights are broken")
    truth = label_matrix(labels, classifier.classes).bool().numpy()
    return Scores([one[1] for one in gathered], scores, truth)


def _probabilities(
    classifier: Classifier, library: Library, table: pa.Table, frames: int
) -> Float[Tensor, "B classes"]:
    device = classifier.head.weight.device
    projected: list[Tensor] = []
    if covers(classifier.modalities, "audio"):
        audio = torch.from_numpy(library.fbanks(table)).to(device)
        projected.append(classifier.project("audio", classifier.standardise(audio)))
    if not covers(classifier.modalities, "visual"):
        return classifier.probabilities(classifier.head(projected[0]))
    settings = classifier.config
    plain = visual_space(settings.augment, settings.architecture.image_side).plain
    total = torch.zeros(())
    for frame in range(frames):
        pictures, sizes = stack_pictures(pictures_of(table, np.full(len(table), (frame + 0.5) / frames)))
        visual = classifier.project("visual", normalise(plain(pictures.to(device), sizes.to(device))))
        total = total.to(device) + classifier.probabilities(classifier.head(torch.cat([*projected, visual], dim=1)))
    return total / frames


def error(scores: Scores, labels: str) -> float:
    """What validation lowers: 1 - mAP (multi-label) or 1 - top-1."""
    if labels == "multi-label":
        return 1 - mean_average_precision(scores.truth, scores.probabilities)
    return 1 - float(top_hits(scores.truth, scores.probabilities, 1).mean())
