"""Embed every clip of a library:  (library, model) -> L/embeddings/<model fingerprint>.lance.

Only clips without an embedding are embedded, and those of clips that left the library are dropped: run again after
an ingest, or after being killed, it goes on where it was. Each commit holds whole clips, all of them or none.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from equiav.errors import LibraryError
from equiav.library.loader import Batch, ClipLoader
from equiav.search.encode import Embeddings, embed_batch, encode
from equiav.search.index import EmbeddedClips, EmbeddingsTable

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV

__all__ = ["EmbeddingsTable", "check_features", "embed_library", "encode"]

# A killed run does at most these again
COMMIT_CLIPS = 512
THUMBNAIL_SIDE = 128
THUMBNAIL_QUALITY = 85


def embed_library(
    library: Library,
    model: EquiAV,
    *,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddingsTable:
    """Embed the sound and the middle frame of every clip that the model has not embedded yet.

    Args:
        library: its clips with both sound and picture.
        model: its fingerprint names the table.
        batch_size: clips per pass through the model.
        on_progress: called with (clips embedded so far, clips in the library).

    Raises:
        LibraryError: no clips, features that are not the model's, or a foreign or damaged table.
        ModelError: the model gave NaN or infinite values.
    """
    check_features(library, model)
    table = EmbeddingsTable.create(library.path, model.fingerprint(), model.config.architecture.embedding)
    loader = ClipLoader(library, None, batch_size, frame="middle", shuffle=False, drop_last=False)
    ids = library.clips(columns=["clip_id"])["clip_id"].to_pylist()
    known = set(table.clip_ids())
    table.remove(known - set(ids))
    total = len(ids)
    loader.rows = loader.rows[np.array([clip_id not in known for clip_id in ids])]
    done = total - len(loader.rows)
    if done == total:
        return table
    waiting: list[tuple[Batch, Embeddings]] = []
    for batch in loader.epoch(0):
        waiting.append((batch, embed_batch(model, batch)))
        done += len(batch.clip_ids)
        if sum(len(part.clip_ids) for part, _ in waiting) >= COMMIT_CLIPS or done == total:
            table.append(_rows(library, waiting))
            waiting = []
        if on_progress:
            on_progress(done, total)
    return table


def check_features(library: Library, model: EquiAV) -> None:
    """The library's spectrograms must be of the kind that the model was trained on.

    Raises:
        LibraryError: sample rate, mel bins, frames or window length differ.
    """
    found, wanted = library.features, model.config.features
    names = ("sample_rate", "mel_bins", "time_frames", "clip_s")
    differ = [f"{k} is {getattr(found, k)}, the model's {getattr(wanted, k)}" for k in names]
    differ = [text for k, text in zip(names, differ, strict=True) if getattr(found, k) != getattr(wanted, k)]
    if differ:
        raise LibraryError(
            f"{library.path} was ingested with features that the model does not know: {'; '.join(differ)}. "
            "Ingest the videos into a new library with the recipe of the model"
        )


def _rows(library: Library, parts: list[tuple[Batch, Embeddings]]) -> EmbeddedClips:
    """The columns of the embeddings table for some embedded batches."""
    rows = [int(row) for batch, _ in parts for row in batch.indices]
    about = library.take(rows, ["source", "start_s", "end_s"])
    return EmbeddedClips(
        clip_id=[clip_id for batch, _ in parts for clip_id in batch.clip_ids],
        source=about["source"].to_pylist(),
        start_s=about["start_s"].to_pylist(),
        end_s=about["end_s"].to_pylist(),
        labels=[labels for batch, _ in parts for labels in batch.labels],
        thumbnail=[data for batch, _ in parts for data in _thumbnails(batch)],
        audio_embedding=np.concatenate([embedded.audio for _, embedded in parts]),
        visual_embedding=np.concatenate([embedded.visual for _, embedded in parts]),
    )


def _thumbnails(batch: Batch) -> Iterator[bytes]:
    for frame, (height, width) in zip(batch.frames, batch.sizes.tolist(), strict=True):
        yield _thumbnail(frame[:, :height, :width])


def _thumbnail(frame: UInt8[Tensor, "3 h w"]) -> bytes:
    """A JPEG that fits into a square of `THUMBNAIL_SIDE` pixels."""
    image = Image.fromarray(frame.permute(1, 2, 0).numpy())
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()
