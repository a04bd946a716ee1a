"""Exact search:  one version of the library and of its embeddings, a query (E,) → the ranking of all clips.

A float32 product picks the candidates, with a margin wider than its rounding error, and float64 cosines rank them. So
the ranking is that of a full sort, and equal scores are ordered by clip id, whatever the order of the table. What a
clip does not have is not compared: a sound without picture is never found by its picture.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from equiav.config import MODALITIES, Modalities, Modality
from equiav.errors import ConfigError, LibraryError, ModelError
from equiav.library.table import Library
from equiav.model.encode import mean_direction
from equiav.search.embed import listed
from equiav.search.hits import SHOWN, ClipFilter, Hit, hits_of
from equiav.search.table import EmbeddingsTable, first_rows, places
from equiav.words import are, counted

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int64

_LACKS = {"audio": "sound", "visual": "picture", "both": "sound and picture"}


class Vectors:
    """One version of the embeddings table, in its order."""

    def __init__(self, table: EmbeddingsTable) -> None:
        self.table, self.ids = table, table.ids()
        self.first = first_rows(self.ids)

    @cached_property
    def audio(self) -> Float32[np.ndarray, "n E"]:
        """Those of the sounds, read when they are first asked for."""
        return self.table.vectors("audio")

    @cached_property
    def visual(self) -> Float32[np.ndarray, "n E"]:
        """Those of the pictures, read when they are first asked for."""
        return self.table.vectors("visual")

    def of(self, by: Modalities) -> list[Float32[np.ndarray, "n E"]]:
        """The matrices that are compared."""
        return [self.audio, self.visual] if by == "both" else [self.audio if by == "audio" else self.visual]


class Exact:
    """One version of the library with one of the table."""

    def __init__(self, library: Library, vectors: Vectors) -> None:
        self.library, self.vectors, self.table = library, vectors, vectors.table
        self.ids, has = listed(library)
        # where the clip of each row of the table stands in the library; -1: nowhere
        self.row = places(vectors.ids, self.ids)
        same = self.table.is_made_from(library.features)  # else these are other sounds and pictures of the same ids
        self.known: Bool[np.ndarray, " n"] = vectors.first & (self.row >= 0) & same
        self.missing = len(self.ids) - int(self.known.sum())
        self.has: dict[Modality, Bool[np.ndarray, " n"]] = {
            modality: np.append(has[modality], False)[self.row] for modality in has
        }

    def nearest(
        self,
        query: Float[np.ndarray, " E"],
        by: Modalities,
        k: int,
        exclude: Collection[str] = (),
        among: ClipFilter | None = None,
    ) -> list[Hit]:
        """The ranking of all clips that can be compared, up to the k-th."""
        unit = self._unit_query(query)
        matrices = self.vectors.of(by)
        # NaN where a clip does not have the modality
        cosines = np.stack([matrix @ unit.astype(np.float32) for matrix in matrices])
        allowed = self._allowed(np.isfinite(cosines), by, exclude, among)
        k = min(k, len(allowed))
        if not k:
            return []
        rough = np.nanmean(cosines[:, allowed], axis=0)
        # a float32 dot product of two unit vectors of width E is off by at most E·ε
        margin = 4 * len(unit) * np.finfo(np.float32).eps
        candidates = allowed[rough >= np.partition(rough, -k)[-k] - margin]
        # row-wise sums, because they round equal rows equally; a matrix product may not
        scores = np.nanmean([(matrix[candidates] * unit).sum(axis=1) for matrix in matrices], axis=0)
        rank = pc.call_function("rank", [self.vectors.ids.take(pa.array(candidates))]).to_numpy()
        best = np.lexsort((rank, -scores))[:k]
        return self._hits(candidates[best], scores[best])

    def _hits(self, positions: Int64[np.ndarray, " k"], scores: Float64[np.ndarray, " k"]) -> list[Hit]:
        rows = self.library.take(self.row[positions].tolist(), SHOWN)
        return hits_of(rows, scores, self.table.thumbnails(positions.tolist()))

    def _allowed(
        self,
        found: Bool[np.ndarray, "modalities n"],
        by: Modalities,
        exclude: Collection[str],
        among: ClipFilter | None,
    ) -> Int64[np.ndarray, " m"]:
        """Positions of the clips to rank; `found`: which embeddings there are of each."""
        if not self.known.any():
            raise LibraryError(self.not_embedded())
        has = np.stack([self.has[modality] for modality in MODALITIES if by in (modality, "both")])
        # one that was embedded when it had other modalities is not embedded
        keep = self.known & (found == has).all(axis=0) & has.any(axis=0)
        if not keep.any():
            raise LibraryError(f"{self.library.path}: all its embedded clips were ingested without {_LACKS[by]}")
        if exclude:
            keep &= places(self.vectors.ids, pa.array(list(exclude), pa.string())) < 0
        if among:
            keep &= places(self.vectors.ids, among.ids(self.library)) >= 0
        return np.flatnonzero(keep)

    def clip_vector(self, clip_id: str, by: Modalities) -> Float32[np.ndarray, " E"]:
        """The stored embedding of a clip."""
        if self.ids.index(clip_id).as_py() < 0:
            raise LibraryError(f"{self.library.path} holds no clip {clip_id!r}, or not any more")
        position = self.vectors.ids.index(clip_id).as_py()  # its first row
        modalities: tuple[Modality, ...] = MODALITIES if by == "both" else (by,)
        has: list[Modality] = [modality for modality in modalities if position >= 0 and self.has[modality][position]]
        found = [self.vectors.of(modality)[0][position] for modality in has]
        if position < 0 or not self.known[position] or not np.isfinite(found).all():
            raise LibraryError(f"clip {clip_id} is not embedded yet: run {self._embed}")
        if not found:
            raise LibraryError(f"clip {clip_id} has no {by} embedding: it was ingested without {_LACKS[by]}")
        return found[0] if len(found) == 1 else mean_direction(*found)

    def not_embedded(self) -> str:
        """What to do about the clips that cannot be found."""
        if not len(self.ids):
            return f"{self.library.path} holds no clips to search in; add some: equiav ingest"
        return (
            f"{counted(self.missing, 'clip')} {are(self.missing)} not embedded, "
            f"of {len(self.ids)} in {self.library.path}: run {self._embed}"
        )

    @property
    def _embed(self) -> str:
        return f"equiav embed --library {self.library.path} --run RUN"

    def _unit_query(self, query: Float[np.ndarray, " E"]) -> Float64[np.ndarray, " E"]:
        vector = np.asarray(query, dtype=np.float64)
        if vector.shape != (self.table.width,):
            raise ConfigError(
                f"query of shape {vector.shape}, expected one vector of the model's width: ({self.table.width},)"
            )
        norm = float(np.linalg.norm(vector))
        if not np.isfinite(norm) or norm == 0:
            raise ModelError(f"the query vector has length {norm}: it has no direction to compare")
        return vector / norm
