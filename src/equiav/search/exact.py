"""Exact search:  one version of the library and of its embeddings, a query (E,) → the ranking of all clips.

A float32 product picks the candidates, with a margin wider than its rounding error, and float64 cosines rank them. So
the ranking is that of a full sort, and equal scores are ordered by clip id, whatever the order of the table. What a
clip does not have is not compared: a sound without picture is never found by its picture.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from equiav.config import MODALITIES, Modalities, Modality, covers
from equiav.errors import ConfigError, LibraryError, ModelError
from equiav.library.records import HAS
from equiav.library.table import Library
from equiav.metrics.directions import mean_direction
from equiav.search.hits import SHOWN, ClipFilter, Hit, hits_of
from equiav.search.table import EmbeddingsTable, first_rows, matrix_of, places
from equiav.words import are, counted

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int64

LACKS = {"audio": "sound", "visual": "picture", "both": "sound and picture"}


FEW = 10_000  # rows are read by themselves; of more, all are read


class Vectors:
    """One version of the embeddings table, in its order.

    Args:
        keep: keep the vectors in memory; else they are read at each query.
    """

    def __init__(self, table: EmbeddingsTable, *, keep: bool) -> None:
        self.table, self._keep = table, keep
        self._kept: dict[Modality, Float32[np.ndarray, "n E"]] = {}

    @cached_property
    def ids(self) -> pa.StringArray:
        """Of all rows."""
        return self.table.ids()

    @cached_property
    def first(self) -> Bool[np.ndarray, " n"]:
        """Of each id one row."""
        return first_rows(self.ids)

    def cosines(
        self, modality: Modality, unit: Float64[np.ndarray, " E"], positions: Int64[np.ndarray, " m"]
    ) -> Float32[np.ndarray, " m"]:
        """Roughly: with a vector, of the rows at these positions; NaN where a clip does not have the modality."""
        query = unit.astype(np.float32)
        if self._keep:
            return (self._all(modality) @ query)[positions]
        if len(positions) <= FEW:
            return self.rows(modality, positions) @ query
        return np.concatenate([batch @ query for batch in self.table.batches(modality)])[positions]

    def rows(self, modality: Modality, positions: Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "m E"]:
        """The vectors at these positions."""
        if self._keep:
            return self._all(modality)[positions]
        column = f"{modality}_embedding"
        return matrix_of(self.table.take(positions.tolist(), [column])[column])

    def _all(self, modality: Modality) -> Float32[np.ndarray, "n E"]:
        if modality not in self._kept:
            self._kept[modality] = self.table.vectors(modality)
        return self._kept[modality]


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
        unit: Float64[np.ndarray, " E"],
        by: Modalities,
        k: int,
        exclude: Collection[str] = (),
        among: ClipFilter | None = None,
    ) -> list[Hit]:
        """The ranking of all clips that can be compared with a unit vector, up to the k-th."""
        compared = compared_by(by)
        chosen = self._chosen(compared, by, exclude, among)
        cosines = np.stack([self.vectors.cosines(modality, unit, chosen) for modality in compared])
        # one that was embedded when it had other modalities is not embedded
        same = (np.isfinite(cosines) == [self.has[modality][chosen] for modality in compared]).all(axis=0)
        allowed, cosines = chosen[same], cosines[:, same]
        k = min(k, len(allowed))
        if not k:
            return []
        rough = np.nanmean(cosines, axis=0)
        candidates = allowed[rough >= np.partition(rough, -k)[-k] - rounding(unit)]
        scores = mean_cosines([self.vectors.rows(modality, candidates) for modality in compared], unit)
        rank = pc.call_function("rank", [self.vectors.ids.take(pa.array(candidates))]).to_numpy()
        best = np.lexsort((rank, -scores))[:k]
        positions = candidates[best]
        rows = self.library.take(self.row[positions].tolist(), SHOWN).to_pylist()
        return hits_of(rows, scores[best], self.table.thumbnails(positions.tolist()))

    def _chosen(
        self, compared: list[Modality], by: Modalities, exclude: Collection[str], among: ClipFilter | None
    ) -> Int64[np.ndarray, " m"]:
        """Positions of the clips to compare."""
        if not self.known.any():
            raise LibraryError(self.not_embedded())
        keep = self.known & np.any([self.has[modality] for modality in compared], axis=0)
        if not keep.any():
            raise LibraryError(f"{self.library.path}: all its embedded clips were ingested without {LACKS[by]}")
        if exclude:
            keep &= places(self.vectors.ids, pa.array(list(exclude), pa.string())) < 0
        if among:
            keep &= places(self.vectors.ids, among.ids(self.library)) >= 0
        return np.flatnonzero(keep)

    def sample(
        self, by: Modalities, size: int, columns: list[str]
    ) -> tuple[list[dict[str, Any]], Float32[np.ndarray, "n E"]]:
        """Rows of the library and vectors of at most `size` clips, evenly over the ids of those that have them."""
        compared = compared_by(by)
        some = np.flatnonzero(self.known & np.any([self.has[modality] for modality in compared], axis=0))
        order = pc.call_function("sort_indices", [self.vectors.ids.take(pa.array(some))]).to_numpy()
        picked = np.linspace(0, len(some) - 1, min(size, len(some))).round().astype(np.int64)
        positions = some[order[picked]]
        parts = np.stack([self.vectors.rows(modality, positions) for modality in compared])
        # one that was embedded when it had other modalities is not embedded
        same = (np.isfinite(parts[:, :, 0]) == [self.has[modality][positions] for modality in compared]).all(axis=0)
        total = np.nan_to_num(parts).sum(axis=0, dtype=np.float64)
        norms = np.linalg.norm(total, axis=1)
        kept = same & (norms > 0)
        rows = self.library.take(self.row[positions[kept]].tolist(), columns).to_pylist()
        return rows, (total[kept] / norms[kept, None]).astype(np.float32)

    def clip_vector(self, clip_id: str, by: Modalities) -> Float32[np.ndarray, " E"]:
        """The stored embedding of a clip."""
        if self.ids.index(clip_id).as_py() < 0:
            raise LibraryError(f"{self.library.path} holds no clip {clip_id!r}, or not any more")
        position = self.vectors.ids.index(clip_id).as_py()  # its first row
        has: list[Modality] = [m for m in compared_by(by) if position >= 0 and self.has[m][position]]
        found = [self.vectors.rows(modality, np.array([position]))[0] for modality in has]
        if position < 0 or not self.known[position] or not np.isfinite(found).all():
            raise LibraryError(f"clip {clip_id} is not embedded yet: run {embed_command(self.library)}")
        if not found:
            raise LibraryError(f"clip {clip_id} has no {by} embedding: it was ingested without {LACKS[by]}")
        return found[0] if len(found) == 1 else mean_direction(*found)

    def not_embedded(self) -> str:
        """What to do about the clips that cannot be found."""
        if not len(self.ids):
            return f"{self.library.path} holds no clips to search in; add some: equiav ingest"
        return (
            f"{counted(self.missing, 'clip')} {are(self.missing)} not embedded, "
            f"of {len(self.ids)} in {self.library.path}: run {embed_command(self.library)}"
        )


def listed(library: Library) -> tuple[pa.StringArray, dict[Modality, Bool[np.ndarray, " n"]]]:
    """Ids of all clips of a library, in the table's order, and which of them have which modality."""
    rows = library.select(["clip_id", "status"])
    statuses, has = rows["status"].combine_chunks(), dict[Modality, np.ndarray]()
    for modality in MODALITIES:
        has[modality] = pc.call_function("is_in", [statuses], pc.SetLookupOptions(pa.array(HAS[modality]))).to_numpy(
            zero_copy_only=False
        )
    return rows["clip_id"].combine_chunks(), has


def compared_by(by: Modalities) -> list[Modality]:
    """The modalities that are compared."""
    return [modality for modality in MODALITIES if covers(by, modality)]


def embed_command(library: Library) -> str:
    """What embeds the clips that are not embedded yet."""
    return f"equiav embed --library {library.path} --run RUN"


def unit_vector(query: Float[np.ndarray, " E"], width: int) -> Float64[np.ndarray, " E"]:
    """The direction of a query.

    Raises:
        ConfigError: it is not one vector of this width.
        ModelError: it has none.
    """
    vector = np.asarray(query, dtype=np.float64)
    if vector.shape != (width,):
        raise ConfigError(f"query of shape {vector.shape}, expected one vector of the model's width: ({width},)")
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0:
        raise ModelError(f"the query vector has length {norm}: it has no direction to compare")
    return vector / norm


def rounding(unit: Float64[np.ndarray, " E"]) -> float:
    """More than float32 cosines of two unit vectors of width E, which are off by at most E·ε, can differ by."""
    return float(4 * len(unit) * np.finfo(np.float32).eps)


def mean_cosines(
    matrices: list[Float32[np.ndarray, "n E"]], unit: Float64[np.ndarray, " E"]
) -> Float64[np.ndarray, " n"]:
    """Scores: the mean cosine of the modalities that there are."""
    # row-wise sums, because they round equal rows equally; a matrix product may not
    return np.nanmean([(matrix * unit).sum(axis=1) for matrix in matrices], axis=0)
