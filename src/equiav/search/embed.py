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

from equiav.config import Senses
from equiav.errors import LibraryError
from equiav.library.loader import ClipLoader
from equiav.search.encode import embed_log_mels, embed_pictures, encode
from equiav.search.index import EmbeddedClips, EmbeddingsTable

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy.typing import NDArray
    from torch import Tensor

    from equiav.library.table import Library
    from equiav.model.classifier import Classifier
    from equiav.model.equiav import EquiAV

__all__ = ["EmbeddingsTable", "check_features", "embed_library", "encode"]

# A killed run does at most these again
COMMIT_CLIPS = 512
# What is embedded of clips of each status: all that was stored of them
STORED: dict[Senses, tuple[str, ...]] = {
    "audio-visual": ("ok", "silent", "still"),
    "audio": ("no_video",),
    "visual": ("no_audio",),
}
THUMBNAIL_SIDE = 128
THUMBNAIL_QUALITY = 85


def embed_library(
    library: Library,
    model: EquiAV,
    *,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddingsTable:
    """Embed the sound and the middle frame of every clip that the model has not embedded yet; of one sense, that one.

    Args:
        library: its clips, of whatever status.
        model: its fingerprint names the table.
        batch_size: clips per pass through the model.
        on_progress: called with (clips embedded so far, clips in the library).

    Raises:
        LibraryError: no clips, features that are not the model's, or a foreign or damaged table.
        ModelError: the model gave NaN or infinite values.
    """
    check_features(library, model)
    table = EmbeddingsTable.create(library.path, model.fingerprint(), model.config.architecture.embedding)
    ids, known = library.all_ids(), set(table.clip_ids())
    if not ids:
        raise LibraryError(f"{library.path} holds no clips to embed; add some: equiav ingest")
    table.remove(known - set(ids))
    missing = np.array([clip_id not in known for clip_id in ids])
    done, waiting = int((~missing).sum()), list[EmbeddedClips]()
    for part in _embedded(library, model, missing, batch_size):
        waiting.append(part)
        done += len(part.clip_id)
        if sum(len(part.clip_id) for part in waiting) >= COMMIT_CLIPS or done == len(ids):
            table.append(*waiting)
            waiting = []
        if on_progress:
            on_progress(done, len(ids))
    return table


def _embedded(library: Library, model: EquiAV, missing: NDArray[np.bool_], batch_size: int) -> Iterator[EmbeddedClips]:
    """The clips that are missing, batch by batch: those with both senses, then those with one."""
    for senses, statuses in STORED.items():
        rows = library.positions(statuses=statuses)
        rows = rows[missing[rows]]
        if not len(rows):
            continue
        heard, seen = "audio" in senses, "visual" in senses
        loader = ClipLoader(
            library, None, batch_size, frame="middle", shuffle=False, drop_last=False, senses=senses, rows=rows
        )
        for batch in loader.epoch(0):
            sizes = batch.sizes.tolist() if seen else []
            yield _clips(
                library,
                batch.indices.tolist(),
                embed_log_mels(model, batch.audio) if heard else None,
                embed_pictures(model, batch.frames, batch.sizes) if seen else None,
                [frame[:, :high, :wide] for frame, (high, wide) in zip(batch.frames, sizes, strict=False)],
            )


def check_features(library: Library, model: EquiAV | Classifier) -> None:
    """The library's spectrograms must be of the kind that the model was trained on.

    Raises:
        LibraryError: sample rate, mel bins, frames or window length differ.
    """
    if differ := library.features.differences(model.config.features):
        raise LibraryError(
            f"{library.path} was ingested with features that the model does not know: {differ}. "
            "Ingest the videos into a new library with the recipe of the model"
        )


def _clips(
    library: Library,
    rows: list[int],
    audio: NDArray[np.float32] | None,
    visual: NDArray[np.float32] | None,
    pictures: list[Tensor],
) -> EmbeddedClips:
    """The columns of the embeddings table for some clips."""
    about = library.take(rows, ["clip_id", "source", "start_s", "end_s", "labels"]).to_pydict()
    thumbnails = [_thumbnail(picture) for picture in pictures] or [b""] * len(rows)
    return EmbeddedClips(**about, thumbnail=thumbnails, audio_embedding=audio, visual_embedding=visual)


def _thumbnail(frame: UInt8[Tensor, "3 h w"]) -> bytes:
    """A JPEG that fits into a square of `THUMBNAIL_SIDE` pixels."""
    image = Image.fromarray(frame.permute(1, 2, 0).numpy())
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()
