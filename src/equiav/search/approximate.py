"""Search by the index of a large table:  a query (E,) → the ranking of all clips, without reading all vectors.

The index names candidates, more than are asked for. Their scores are float64 cosines of the stored vectors, as in
exact search; the distances that the index gives are not looked at. Rows that were added since, which no index holds
yet, are compared one by one. A clip that was not named cannot score above a bound: the lowest cosine of the candidates,
or of two modalities the mean of both (Fagin's threshold algorithm). Hits above it are the answer. While there are too
few of them, more candidates are asked for, and in the end all vectors are compared. So a search is wrong only where the
index is, and that is measured when it is built.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from equiav.config import MODALITIES, Modalities, Modality
from equiav.errors import LibraryError
from equiav.library.records import HAS
from equiav.library.table import Library
from equiav.metrics.directions import mean_direction
from equiav.search.exact import FEW, LACKS, Exact, Vectors, compared_by, embed_command, mean_cosines, rounding
from equiav.search.hits import SHOWN, ClipFilter, Hit, hits_of
from equiav.search.indexing import CANDIDATES, EmbeddingIndex, near
from equiav.search.table import matrix_of

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64

FEWEST = 10  # hits for which candidates are asked for: of fewer ones the index is less sure
GROWTH = 4
MOST = 10_000  # candidates of a modality; with more, all vectors are compared as fast
COLUMNS = ["clip_id", *(f"{modality}_embedding" for modality in MODALITIES)]


class _Ranked(NamedTuple):
    """Candidates, best first; a clip that is not among them scores at most `bound`."""

    clip_ids: list[str]
    row_ids: Int64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    has: list[list[bool]]  # which of the modalities that are compared
    bound: float


class Approximate:
    """One version of the library with one of its embeddings and of their index."""

    def __init__(self, library: Library, vectors: Vectors, index: EmbeddingIndex) -> None:
        self.library, self.vectors, self.table, self.index = library, vectors, vectors.table, index
        self._tails: dict[Modality, pa.Table] = {}

    @cached_property
    def exact(self) -> Exact:
        """The same, compared one by one; it reads all ids."""
        return Exact(self.library, self.vectors)

    def sample(
        self, by: Modalities, size: int, columns: list[str]
    ) -> tuple[list[dict[str, Any]], Float32[np.ndarray, "n E"]]:
        """As `Exact.sample`."""
        return self.exact.sample(by, size, columns)

    @property
    def missing(self) -> int:
        """Clips of the library that are not embedded yet."""
        all_there = self.index.embedded is not None and self.index.embedded == self.library.opened
        return 0 if all_there else self.exact.missing

    def not_embedded(self) -> str:
        """What to do about the clips that cannot be found."""
        return self.exact.not_embedded()

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
        n, library = CANDIDATES * max(k, FEWEST), _Lookup(self.library, among, frozenset(exclude))
        while n <= MOST:
            ranked = self._ranked(unit, compared, n)
            if hits := self._hits(ranked, compared, k, library):
                return hits
            if among and n <= CANDIDATES * max(k, FEWEST) and len(among.ids(self.library)) <= FEW:
                break  # they are compared one by one
            n *= GROWTH
        return self.exact.nearest(unit, by, k, exclude, among)

    def _hits(self, ranked: _Ranked, compared: list[Modality], k: int, library: _Lookup) -> list[Hit]:
        """The k best, or none where the candidates do not tell."""
        certain, found = int((ranked.scores > ranked.bound).sum()), list[int]()
        for first in range(0, certain, k):
            part = range(first, min(first + k, certain))
            library.read([ranked.clip_ids[i] for i in part])
            found += [i for i in part if library.has(ranked.clip_ids[i], compared) == ranked.has[i]]
            if len(found) >= k:
                chosen = found[:k]
                pictures = self.table.rows(ranked.row_ids[chosen], ["thumbnail"])
                by_id = dict(zip(pictures["_rowid"].to_pylist(), pictures["thumbnail"].to_pylist(), strict=True))
                thumbnails = [by_id[row_id] for row_id in ranked.row_ids[chosen].tolist()]
                rows = [library[ranked.clip_ids[i]] for i in chosen]
                return hits_of(rows, ranked.scores[chosen], thumbnails)
        return []

    def _ranked(self, unit: Float64[np.ndarray, " E"], compared: list[Modality], n: int) -> _Ranked:
        """The n candidates of each modality, and those of the rows outside of its index."""
        parts, bounds = list[pa.Table](), dict[Modality, float]()
        columns = ["clip_id", *(f"{modality}_embedding" for modality in compared)]
        for modality in compared:
            column, bound = f"{modality}_embedding", -np.inf
            if modality in self.index.covered:
                facts = self.index.facts.get(modality)
                named = near(self.table, modality, unit.astype(np.float32), n, facts.probes if facts else None)
                parts.append(self.table.rows(named, columns))
                bound = self._bound(modality, matrix_of(parts[-1][column]), unit, n)
            tail = self._tail(modality).select([*columns, "_rowid"])
            cosines = matrix_of(tail[column]) @ unit.astype(np.float32)
            if len(tail) > n:
                floor = float(np.partition(cosines, -n)[-n])
                bound = max(bound, floor)
                tail = tail.filter(pa.array(cosines >= floor))
            parts.append(tail)
            bounds[modality] = bound + rounding(unit)
        return self._sorted(pa.concat_tables(parts), unit, compared, self._bound_of_scores(bounds))

    def _bound(
        self, modality: Modality, named: Float32[np.ndarray, "m E"], unit: Float64[np.ndarray, " E"], n: int
    ) -> float:
        """The cosine that no row in the index but not among the candidates exceeds."""
        facts = self.index.facts.get(modality)
        if len(named) < n:  # it gave up, or has no more
            return np.inf
        lowest = float(mean_cosines([named], unit).min())
        return lowest if facts and not facts.zeros else max(lowest, 0.0)  # vectors without direction are in no index

    def _bound_of_scores(self, bounds: dict[Modality, float]) -> float:
        """The score that no clip exceeds which is not a candidate."""
        facts = self.index.facts
        alone = [bound for modality, bound in bounds.items() if modality not in facts or facts[modality].alone]
        # where all clips with one modality are candidates, all clips with both are
        together = -np.inf if -np.inf in bounds.values() else float(np.mean(list(bounds.values())))
        return max(together, *alone, -np.inf)

    def _sorted(
        self, rows: pa.Table, unit: Float64[np.ndarray, " E"], compared: list[Modality], bound: float
    ) -> _Ranked:
        clip_ids, row_ids = rows["clip_id"].to_pylist(), rows["_rowid"].to_numpy().astype(np.int64)
        matrices = [matrix_of(rows[f"{modality}_embedding"]) for modality in compared]
        scores, first = mean_cosines(matrices, unit), dict[str, int]()
        for i in np.argsort(self.table.places(row_ids), kind="stable").tolist():
            first.setdefault(clip_ids[i], i)  # of a clip that is stored twice the first row counts
        order = sorted(first.values(), key=lambda i: (-scores[i], clip_ids[i]))
        has = np.stack([np.isfinite(matrix).all(axis=1) for matrix in matrices], axis=1)[order]
        return _Ranked([clip_ids[i] for i in order], row_ids[order], scores[order], has.tolist(), bound)

    def _tail(self, modality: Modality) -> pa.Table:
        """The rows that no index of a modality holds."""
        if modality not in self._tails:
            covered = self.index.covered.get(modality, frozenset())
            self._tails[modality] = self.table.outside(covered, f"{modality}_embedding IS NOT NULL", COLUMNS)
        return self._tails[modality]

    def clip_vector(self, clip_id: str, by: Modalities) -> Float32[np.ndarray, " E"]:
        """The stored embedding of a clip."""
        compared = compared_by(by)
        library = _Lookup(self.library, None, frozenset())
        library.read([clip_id])
        there = library.has(clip_id, compared)
        if there is None:
            raise LibraryError(f"{self.library.path} holds no clip {clip_id!r}, or not any more")
        row = self.table.find([clip_id], COLUMNS).slice(0, 1)
        has = [modality for modality, has in zip(compared, there, strict=True) if has]
        found = [matrix_of(row[f"{modality}_embedding"]) for modality in has]
        if not len(row) or not np.isfinite(found).all():
            raise LibraryError(f"clip {clip_id} is not embedded yet: run {embed_command(self.library)}")
        if not found:
            raise LibraryError(f"clip {clip_id} has no {by} embedding: it was ingested without {LACKS[by]}")
        return found[0][0] if len(found) == 1 else mean_direction(*(vectors[0] for vectors in found))


class _Lookup:
    """What the library says of some clips; none of those that may not be found."""

    def __init__(self, library: Library, among: ClipFilter | None, exclude: frozenset[str]) -> None:
        self._library, self._among, self._exclude = library, among or ClipFilter(), exclude
        self._rows: dict[str, dict[str, Any] | None] = {}

    def read(self, clip_ids: list[str]) -> None:
        """Let these clips be looked up."""
        new = [clip_id for clip_id in clip_ids if clip_id not in self._rows and clip_id not in self._exclude]
        if new:
            columns = list(dict.fromkeys([*SHOWN, "status", *self._among.columns]))
            rows = self._among.of(self._library.select(columns, self._among.where, new)).to_pylist()
            self._rows |= dict.fromkeys(new) | {row["clip_id"]: row for row in rows}

    def __getitem__(self, clip_id: str) -> dict[str, Any]:
        if (row := self._rows.get(clip_id)) is None:
            raise KeyError(clip_id)
        return row

    def has(self, clip_id: str, compared: list[Modality]) -> list[bool] | None:
        """Which modalities a clip has; None: it is not there."""
        row = self._rows.get(clip_id)
        return [row["status"] in HAS[modality] for modality in compared] if row else None
