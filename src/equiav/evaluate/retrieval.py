"""Cross-modal retrieval on a library: does a sound find its own picture, and a picture its own sound?

A library and a model -> `RetrievalReport`, both directions. The protocol of the field's zero-shot tables (CAV-MAE,
EquiAV): one vector per clip and sense, from the whole sound and the middle frame; cosine; the whole split as gallery;
the own partner as the only right answer. The model's embedding is deterministic: the released code embeds with fresh
random transformation parameters (DESIGN §4, difference 6), so its figures change from run to run.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from equiav.evaluate.metrics import RetrievalReport, RetrievalResult, retrieval_metrics
from equiav.evaluate.results import Measured, Result, about
from equiav.library.loader import ClipLoader
from equiav.search.embed import check_features
from equiav.search.encode import embed_batch

if TYPE_CHECKING:
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV

PROTOCOL = "whole sound (one window) and middle frame of each clip; cosine; gallery: all clips of the split"
__all__ = ["RetrievalReport", "RetrievalResult", "evaluate_retrieval", "retrieval_metrics"]


def evaluate_retrieval(
    library: Library, model: EquiAV, *, split: str = "test", batch_size: int = 32, resamples: int = 1000, seed: int = 0
) -> RetrievalReport:
    """Embed every clip of a split, its sound and its middle frame, and rank each sense by the other.

    The model embeds each clip by itself: no padding or statistic of a batch reaches an embedding, so `batch_size`
    changes speed alone.

    Raises:
        LibraryError: the split has no clips, or the library's features are not the model's.
        ModelError: an embedding is not finite.
    """
    check_features(library, model)
    loader = ClipLoader(library, split, batch_size, seed, frame="middle", shuffle=False, drop_last=False)
    audio, visual, labels, ids = [], [], [], []
    sounds, pictures = _Contents(), _Contents()
    for batch in loader.epoch(0):
        embedded = embed_batch(model, batch)
        audio.append(embedded.audio)
        visual.append(embedded.visual)
        labels += batch.labels
        ids += batch.clip_ids
        for sound, picture, (height, width) in zip(batch.audio, batch.frames, batch.sizes.tolist(), strict=True):
            sounds.add(sound.numpy())
            # without the padding, which depends on the batch
            pictures.add(picture[:, :height, :width].numpy())
    # equal content gets one vector: computed in two batches, its rounding could break the tie
    audio_rows, visual_rows = np.concatenate(audio)[sounds.first], np.concatenate(visual)[pictures.first]

    def measure(queries: np.ndarray, gallery: np.ndarray) -> RetrievalResult:
        return retrieval_metrics(queries, gallery, labels=labels, resamples=resamples, seed=seed)

    return RetrievalReport(
        split=split,
        clips=len(labels),
        audio_to_visual=measure(audio_rows, visual_rows),
        visual_to_audio=measure(visual_rows, audio_rows),
        equal_sounds=sounds.repeated,
        equal_pictures=pictures.repeated,
        shared_sources=_shared_sources(library, split),
        clip_ids=ids,
    )


def retrieval_result(report: RetrievalReport, library: Library, model: EquiAV, *, seed: int = 0) -> Result:
    """The report as a result that can be stored and compared."""
    directions = {"audio_to_visual": report.audio_to_visual, "visual_to_audio": report.visual_to_audio}
    figures = {
        f"{way}.{name}": Measured(value=found.value, low=found.low, high=found.high, n=report.clips)
        for way, direction in directions.items()
        for name, found in direction.estimates().items()
    }
    per_item = {
        f"{way}.{name}": values for way, found in directions.items() for name, values in found.per_query().items()
    }
    return Result(
        evaluation="retrieval",
        about=about(model, library, report.split, protocol=PROTOCOL, seed=seed),
        figures=figures,
        items=report.clip_ids,
        per_item=per_item,
        details=report.model_dump(mode="json", exclude={"clip_ids": True} | {way: {"ranks"} for way in directions}),
    )


class _Contents:
    """For each array added, the number of the first one equal to it."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self._known: dict[bytes, int] = {}

    def add(self, array: np.ndarray) -> None:
        digest = hashlib.blake2b(f"{array.shape}".encode() + array.tobytes(), digest_size=16).digest()
        self.first.append(self._known.setdefault(digest, len(self.first)))

    @property
    def repeated(self) -> int:
        return len(self.first) - len(self._known)


def _shared_sources(library: Library, split: str) -> int:
    """Clips of the split that were cut from a file which also gave clips to another split."""
    table = library.clips(columns=["source", "split"])
    sources, splits = table["source"].to_pylist(), table["split"].to_pylist()
    elsewhere = {source for source, name in zip(sources, splits, strict=True) if name != split}
    return sum(source in elsewhere for source, name in zip(sources, splits, strict=True) if name == split)
