"""Cross-modal retrieval on a library: does a sound find its own picture, and a picture its own sound?

A library and a model -> `RetrievalReport`, both directions: cosine, the whole gallery, the own partner as the only
right answer. Two scoring modes of the field, which are not comparable with each other:

- `middle` (CAV-MAE, EquiAV): one vector per clip and modality, from the whole sound and the middle frame;
- `diagonal` (CAV-MAE Sync, TG-DP): every stored frame with the sound around it, 13/32 of the clip as their 416 of 1,024
  spectrogram frames; the score of two clips is the mean of the cosines of frame k and sound k. (They take 16 frames;
  here it is the library's `frames_per_clip`.)

The model's embedding is deterministic: the released code embeds with fresh random transformation parameters,
so its figures change from run to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field

from equiav.augment.view import stack_pictures
from equiav.config import check_features
from equiav.errors import LibraryError
from equiav.evaluate.gallery import choose, shared_sources, sources_of
from equiav.evaluate.leaks import seen_in_training, split_of_training
from equiav.evaluate.results import Result, about
from equiav.library.loader import ClipLoader, pictures_of
from equiav.metrics.figures import Figure, RankingFigure, counted_clips, figure_table, seen_warning, source_warning
from equiav.metrics.retrieval import FrozenResult, RetrievalResult, retrieval_metrics
from equiav.model.encode import embed_log_mels, embed_pictures
from equiav.words import counted

if TYPE_CHECKING:
    from jaxtyping import Float32
    from numpy.typing import NDArray

    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.train.trained_on import TrainedOn

Scoring = Literal["middle", "diagonal"]
PROTOCOLS: dict[Scoring, str] = {
    "middle": "whole sound (one window) and middle frame of each clip; cosine",
    "diagonal": "each stored frame with the 13/32 of the sound around it; mean of the cosines of equal places",
}
_SHORT_NAMES = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "median_rank": "median rank",
    "mean_rank": "mean rank",
    "mean_reciprocal_rank": "MRR",
    "ndcg_at_10": "nDCG@10",
    "precision_at_1": "P@1",
    "precision_at_10": "P@10",
    "mean_average_precision": "mAP",
}


class RetrievalReport(FrozenResult):
    """Both directions over one split, and what could flatter them."""

    split: str
    scoring: Scoring = Field(description="How clips are scored.")
    clips: int = Field(description="Gallery size of both directions: the pairs that are ranked.")
    listed: int | None = Field(description="Ids of the list that chose the clips; None without one.")
    found: int | None = Field(description="Of them, ids with a clip.")
    elsewhere: list[str] = Field([], description="Where others of them are, in sentences.")
    rejected: int = Field(description="Items of the library, of any split, that gave no clip, or not all of theirs.")
    audio_to_visual: RetrievalResult
    visual_to_audio: RetrievalResult
    equal_sounds: int = Field(description="Clips whose log-mel equals an earlier clip's.")
    equal_pictures: int = Field(description="Clips whose frame equals an earlier clip's.")
    shared_sources: int = Field(description="Clips of a source that also gave clips to another split.")
    trained_on: int | None = Field(
        description="Clips of sources that the model was trained on; None where these are unknown."
    )
    clip_ids: list[str] = Field(description="The clips, in the order of `ranks`.")
    clip_sources: list[int] = Field([], description="A number for each, equal where two are of one source.")

    @property
    def warnings(self) -> list[str]:
        """One sentence for each thing that makes the figures easier or harder than they look."""
        counts = [
            (self.equal_sounds, "clips have the same sound as an earlier one"),
            (self.equal_pictures, "clips have the same picture as an earlier one"),
            (self.audio_to_visual.gallery_duplicates, "picture embeddings equal an earlier one"),
            (self.visual_to_audio.gallery_duplicates, "sound embeddings equal an earlier one"),
            (self.shared_sources, "clips come from files that also gave clips to another split"),
        ]
        found = [f"{count} of {self.clips} {what}" for count, what in counts if count]
        found += seen_warning(self.trained_on, self.clips)
        if self.listed is not None:
            found[:0] = [f"{self.found} of {self.listed} listed ids found", *self.elsewhere]
        if self.rejected:
            found.append(f"{counted(self.rejected, 'item')} of the library gave no clip, or not all of theirs")
        return source_warning(self.audio_to_visual.sources) + found

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return self.model_dump(mode="json")

    def to_table(self) -> Any:
        """A rich table: a row per figure, a column per direction, the gallery size in its title."""
        clips = counted_clips(self.clips, self.audio_to_visual.sources)
        title = f"retrieval ({self.scoring}) on split {self.split!r}: {clips}; value [95 % interval]"
        ways = (
            f"sound → picture (of {self.audio_to_visual.gallery_size})",
            f"picture → sound (of {self.visual_to_audio.gallery_size})",
        )
        table = figure_table("", *ways, "chance", title=title, warnings=self.warnings)
        for name, there, back in _table_rows(self.audio_to_visual, self.visual_to_audio):
            table.add_row(name, there.text(), back.text(), f"{there.chance:.3g}")
        return table


def evaluate_retrieval(
    library: Library,
    model: EquiAV,
    *,
    split: str = "test",
    scoring: Scoring = "middle",
    subset: Path | None = None,
    training: Library | None = None,
    training_split: str = "train",
    learned: TrainedOn | None = None,
    batch_size: int = 32,
    resamples: int = 1000,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> RetrievalReport:
    """Embed every clip of a split, and rank each modality by the other.

    The model embeds each clip by itself: no padding or statistic of a batch reaches an embedding, so `batch_size`
    changes speed alone.

    Args:
        subset: a list of ids (`gallery.read_ids`): of the split, only those clips.
        training: library whose `training_split` the model was trained on: clips of its sources are counted.
        learned: what the model's run was trained on, likewise (`load_trained_on`).
        on_progress: called with (clips embedded, clips).

    Raises:
        LibraryError: no clips, features that are not the model's, or clips without the same number of frames.
        ConfigError: a wrong list. ModelError: an embedding is not finite.
    """
    check_features(library.features, model.config.features, library.path)
    gallery, trained = choose(library, split, subset), split_of_training(training, training_split) if training else None
    labels, ids, sounds, pictures = [], [], _Contents(), _Contents()
    for part in (_middle if scoring == "middle" else _diagonal)(library, model, gallery.rows, batch_size):
        sounds.add(part.sounds, part.audio)
        pictures.add(part.pictures, part.visual)
        labels += part.labels
        ids += part.ids
        if on_progress:
            on_progress(len(ids), len(gallery.rows))
    audio, visual = sounds.vectors(), pictures.vectors()
    sources = sources_of(library, gallery.rows).tolist()
    measure = partial(retrieval_metrics, labels=labels, sources=sources, resamples=resamples, seed=seed)
    return RetrievalReport(
        split=split,
        scoring=scoring,
        clips=len(labels),
        listed=gallery.listed,
        found=gallery.found,
        elsewhere=gallery.elsewhere,
        rejected=len(library.rejects()),
        audio_to_visual=measure(audio, visual),
        visual_to_audio=measure(visual, audio),
        equal_sounds=sounds.repeated,
        equal_pictures=pictures.repeated,
        shared_sources=shared_sources(library, gallery.rows, split),
        trained_on=seen_in_training(library, ids, learned, trained),
        clip_ids=ids,
        clip_sources=sources,
    )


def retrieval_result(
    report: RetrievalReport, library: Library, model: EquiAV, *, seed: int = 0, run: Path | None = None
) -> Result:
    """The report as a result that can be stored and compared."""
    directions = {"audio_to_visual": report.audio_to_visual, "visual_to_audio": report.visual_to_audio}
    figures = {
        f"{way}.{name}": Figure(found.value, found.low, found.high, *direction.asked(name))
        for way, direction in directions.items()
        for name, found in direction.estimates().items()
    }
    per_item = {
        f"{way}.{name}": values for way, found in directions.items() for name, values in found.per_query().items()
    }
    chosen = "all clips of the split" if report.listed is None else f"{report.found} of {report.listed} listed ids"
    protocol = f"{PROTOCOLS[report.scoring]}; gallery: {chosen}"
    kept_apart: Any = {"clip_ids": True, "clip_sources": True} | {way: {"ranks"} for way in directions}
    return Result(
        evaluation="retrieval",
        about=about(model, library, report.split, protocol=protocol, seed=seed, run=run),
        figures=figures,
        items=report.clip_ids,
        sources=report.clip_sources,
        per_item=per_item,
        details=report.model_dump(mode="json", exclude=kept_apart),
    )


@dataclass(frozen=True)
class _Embedded:
    """Some clips: unit vectors of both modalities, and the hashes of what they were made from."""

    audio: Float32[np.ndarray, "B E"]
    visual: Float32[np.ndarray, "B E"]
    sounds: list[bytes]
    pictures: list[bytes]
    labels: list[list[str]]
    ids: list[str]


def _middle(library: Library, model: EquiAV, rows: NDArray[np.int64], batch_size: int) -> Iterator[_Embedded]:
    loader = ClipLoader(library, None, batch_size, frame="middle", shuffle=False, drop_last=False, rows=rows)
    for batch in loader.epoch(0):
        # without the padding, which depends on the batch
        cut = zip(batch.frames, batch.sizes.tolist(), strict=True)
        pictures = [_digest(frame[:, :height, :width].numpy()) for frame, (height, width) in cut]
        sounds = [_digest(sound.numpy()) for sound in batch.audio]
        yield _Embedded(
            embed_log_mels(model, batch.audio),
            embed_pictures(model, batch.frames, batch.sizes),
            sounds,
            pictures,
            batch.labels,
            batch.clip_ids,
        )


def _diagonal(library: Library, model: EquiAV, rows: NDArray[np.int64], batch_size: int) -> Iterator[_Embedded]:
    """The vectors of a clip's K places one after the other: the cosine of two such rows is the mean over the places."""
    patch, frames = model.config.architecture.audio_patch, library.features.time_frames
    width = max(1, round(frames * 13 / 32 / patch)) * patch
    for first in range(0, len(rows), batch_size):
        table = library.take(rows[first : first + batch_size].tolist())
        counts = [len(found) for found in table["frames"].to_pylist()]
        places = library.features.frames_per_clip
        if set(counts) != {places}:
            raise LibraryError(f"{library.path}: clips with {sorted(set(counts))} frames, expected {places} of each")
        mels, lengths = library.fbanks(table), table["fbank_frames"].to_pylist()
        audio, visual = [], []
        for place in range(places):
            share = (place + 0.5) / places
            starts = [round(min(max(share * n - width / 2, 0), max(n - width, 0))) for n in lengths]
            windows = np.stack([mel[start : start + width] for mel, start in zip(mels, starts, strict=True)])
            audio.append(embed_log_mels(model, torch.from_numpy(windows)))
            visual.append(embed_pictures(model, *stack_pictures(pictures_of(table, np.full(len(table), share)))))
        yield _Embedded(
            np.concatenate(audio, axis=1),
            np.concatenate(visual, axis=1),
            [_digest(mel) for mel in mels],
            [hashlib.blake2b(b"".join(found)).digest() for found in table["frames"].to_pylist()],
            table["labels"].to_pylist(),
            table["clip_id"].to_pylist(),
        )


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(f"{array.shape}".encode() + array.tobytes(), digest_size=16).digest()


class _Contents:
    """Vectors of contents. Equal content gets one: computed in two batches, its rounding could break the tie."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._first: list[int] = []
        self._known: dict[bytes, int] = {}

    def add(self, digests: list[bytes], vectors: Float32[np.ndarray, "B E"]) -> None:
        for digest, vector in zip(digests, vectors, strict=True):
            self._first.append(self._known.setdefault(digest, len(self._first)))
            self._rows.append(vector)

    def vectors(self) -> Float32[np.ndarray, "n E"]:
        return np.stack([self._rows[i] for i in self._first])

    @property
    def repeated(self) -> int:
        return len(self._first) - len(self._known)


def _table_rows(there: RetrievalResult, back: RetrievalResult) -> Iterator[tuple[str, RankingFigure, RankingFigure]]:
    """Short name and figure of both directions; class level last, without and with the own partner."""
    levels: list[tuple[str, Any, Any]] = [("", there, back)]
    for prefix, key in (("others, class ", "class_level_others"), ("class ", "class_level")):
        levels.append((prefix, getattr(there, key), getattr(back, key)))
    for prefix, first, second in levels:
        if first is None or second is None:
            continue
        for name, short in _SHORT_NAMES.items():
            if hasattr(first, name):
                yield prefix + short, getattr(first, name), getattr(second, name)
