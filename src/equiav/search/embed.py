"""Embed every clip of a library:  (library, model) -> L/embeddings/<model fingerprint>.lance.

Only clips without an embedding are embedded, and those of clips that left the library are dropped: run again after
an ingest, or after being killed, it goes on where it was. Each commit holds whole clips, all of them or none. One embed
of a model writes at a time; what an equiav without that rule stored twice is dropped too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from equiav.config import MODALITIES, Modalities, Modality, check_features, covers
from equiav.errors import LibraryError
from equiav.library.loader import ClipLoader
from equiav.library.records import STATUSES
from equiav.library.table import Library
from equiav.model.encode import embed_log_mels, embed_pictures
from equiav.search.table import EmbeddedClips, EmbeddingsTable, first_rows, places

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import UInt8
    from numpy.typing import NDArray
    from torch import Tensor

    from equiav.model.equiav import EquiAV

# A killed run does at most these again
COMMIT_CLIPS = 512
# What is embedded of clips of each status: all that was stored of them
STORED: dict[Modalities, tuple[str, ...]] = {
    "both": ("ok", "silent", "still"),
    "audio": ("no_video",),
    "visual": ("no_audio",),
}
HAS: dict[Modality, tuple[str, ...]] = {
    "audio": STORED["both"] + STORED["audio"],
    "visual": STORED["both"] + STORED["visual"],
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
    """Embed the sound and the middle frame of every clip that the model has not embedded yet, or the one that it has.

    Args:
        library: its clips, of whatever status.
        model: its fingerprint names the table.
        batch_size: clips per pass through the model.
        on_progress: called with (clips embedded so far, clips in the library).

    Raises:
        LibraryError: no clips, features that are not the model's, another embed at work, or a damaged table.
        ModelError: the model gave NaN or infinite values.
    """
    check_features(library.features, model.config.features, library.path)
    width = model.config.architecture.embedding
    with EmbeddingsTable.for_writing(library.path, model.fingerprint(), width, library.features) as table:
        library = Library(library.path)  # as it is now: another embed may have seen clips that came since
        ids, has = listed(library)
        if not len(ids):
            raise LibraryError(f"{library.path} holds no clips to embed; add some: equiav ingest")
        missing = _reconcile(table, ids, has)
        done, waiting = int((~missing).sum()), list[EmbeddedClips]()
        if missing.any():
            table.note_made_with(f"{model.precision} on {model.device.type}")
        for part in _embedded(library, model, missing, batch_size):
            waiting.append(part)
            done += len(part.clip_id)
            if sum(len(part.clip_id) for part in waiting) >= COMMIT_CLIPS or done == len(ids):
                table.append(*waiting)
                waiting = []
                table.tidy()
            if on_progress:
                on_progress(done, len(ids))
        table.tidy()
        table.forget_old_versions()
    return table


def _reconcile(
    table: EmbeddingsTable, ids: pa.StringArray, has: dict[Modality, NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """Which of the clips `ids` are not embedded, when what is of no use is dropped.

    That is rows of clips that are gone, that are there already, or that `has` other modalities now.
    """
    known = table.ids()
    place = places(known, ids)
    keep = first_rows(known) & (place >= 0)
    for there, modalities in zip(table.modalities(), has.values(), strict=True):
        keep[keep] = modalities[place[keep]] == there[keep]
    table.remove(np.flatnonzero(~keep))
    missing = np.ones(len(ids), dtype=bool)
    missing[place[keep]] = False
    return missing


def listed(library: Library) -> tuple[pa.StringArray, dict[Modality, NDArray[np.bool_]]]:
    """Ids of all clips of a library, in the table's order, and which of them have which modality."""
    rows = library.clips(columns=["clip_id", "status"], statuses=STATUSES)
    statuses = rows["status"].to_pylist()
    has: dict[Modality, NDArray[np.bool_]] = {}
    for modality in MODALITIES:
        has[modality] = np.array([status in HAS[modality] for status in statuses], dtype=bool)
    return rows["clip_id"].combine_chunks(), has


def _embedded(library: Library, model: EquiAV, missing: NDArray[np.bool_], batch_size: int) -> Iterator[EmbeddedClips]:
    """The clips that are missing, batch by batch: those with both modalities, then those with one."""
    for modalities, statuses in STORED.items():
        rows = library.positions(statuses=statuses)
        rows = rows[missing[rows]]
        if not len(rows):
            continue
        heard, seen = covers(modalities, "audio"), covers(modalities, "visual")
        loader = ClipLoader(
            library, None, batch_size, frame="middle", shuffle=False, drop_last=False, modalities=modalities, rows=rows
        )
        for batch in loader.epoch(0):
            pictures = zip(batch.frames, batch.sizes.tolist(), strict=True) if seen else ()
            yield _clips(
                batch.clip_ids,
                embed_log_mels(model, batch.audio) if heard else None,
                embed_pictures(model, batch.frames, batch.sizes) if seen else None,
                [frame[:, :high, :wide] for frame, (high, wide) in pictures],
            )


def _clips(
    ids: list[str],
    audio: NDArray[np.float32] | None,
    visual: NDArray[np.float32] | None,
    pictures: list[Tensor],
) -> EmbeddedClips:
    """The columns of the embeddings table for some clips."""
    thumbnails = [_thumbnail(picture) for picture in pictures] or [b""] * len(ids)
    return EmbeddedClips(clip_id=ids, thumbnail=thumbnails, audio_embedding=audio, visual_embedding=visual)


def _thumbnail(frame: UInt8[Tensor, "3 h w"]) -> bytes:
    """A JPEG that fits into a square of `THUMBNAIL_SIDE` pixels."""
    image = Image.fromarray(frame.permute(1, 2, 0).numpy())
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()
