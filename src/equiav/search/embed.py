"""Embed every clip of a library:  (library, model) -> L/embeddings/<model fingerprint>.lance.

Only clips without an embedding are embedded, and those of clips that left the library are dropped: run again after
an ingest, or after being killed, it goes on where it was. Each commit holds whole clips, all of them or none. One embed
of a model writes at a time; what an equiav without that rule stored twice is dropped too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from equiav.config import Modality, check_features
from equiav.errors import LibraryError
from equiav.library.records import STATUSES, STORED
from equiav.library.table import Library
from equiav.search.engines import Engine, Rows, in_process
from equiav.search.exact import listed
from equiav.search.indexing import is_large, update_index
from equiav.search.table import EmbeddedClips, EmbeddingsTable, first_rows, places

if TYPE_CHECKING:
    from equiav.model.equiav import EquiAV

# A killed run does at most these again
COMMIT_CLIPS = 512


def embed_library(
    library: Library,
    model: EquiAV,
    *,
    batch_size: int = 32,
    engine: Engine = in_process,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddingsTable:
    """Embed the sound and the middle frame of every clip that the model has not embedded yet, or the one that it has.

    Args:
        library: its clips, of whatever status.
        model: its fingerprint names the table.
        batch_size: clips per pass through the model.
        engine: who runs the model: this process, or what `search.engines` has besides; the table is the same.
        on_progress: called with (clips embedded so far, clips in the library).

    Raises:
        LibraryError: no clips, features that are not the model's, another embed at work, or a damaged table.
        ModelError: the model gave NaN or infinite values.
        ConfigError, WorkerError: of the engine.
    """
    check_features(library.features, model.config.features, library.path)
    width = model.config.architecture.embedding
    with EmbeddingsTable.for_writing(library.path, model.fingerprint(), width, library.features) as table:
        if is_large(library.count(statuses=STATUSES)):
            with suppress(LibraryError):  # another process writes to it: the next embed
                library.index_ids()
        library = Library(library.path)  # as it is now: another embed may have seen clips that came since
        ids, has = listed(library)
        if not len(ids):
            raise LibraryError(f"{library.path} holds no clips to embed; add some: equiav ingest")
        missing = _reconcile(table, ids, has)
        done, waiting = int((~missing).sum()), list[EmbeddedClips]()
        with closing(engine(library, model, _batches(library, missing, batch_size))) as parts:
            for part in parts:
                waiting.append(part)
                done += len(part.clip_id)
                if sum(len(part.clip_id) for part in waiting) >= COMMIT_CLIPS or done == len(ids):
                    for how in sorted({part.made_with for part in waiting}):
                        table.note_made_with(how)
                    table.append(*waiting)
                    waiting = []
                    table.tidy()
                if on_progress:
                    on_progress(done, len(ids))
        table.tidy()
        update_index(table, library.opened)
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


def _batches(library: Library, missing: NDArray[np.bool_], batch_size: int) -> list[Rows]:
    """The clips that are missing, in the order in which they are stored: those with both modalities, then the others.

    Of an embed that was killed the rest of the batches are missing, so they are the same ones.
    """
    batches: list[Rows] = []
    for modalities, statuses in STORED.items():
        rows = library.positions(statuses=statuses)
        rows = rows[missing[rows]]
        batches += [Rows(modalities, rows[first : first + batch_size]) for first in range(0, len(rows), batch_size)]
    return batches
