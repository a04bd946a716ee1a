"""Where the right answer lands: ranks with ties, average precision and precision at k, in bounded memory.

(n, E) queries and (n, E) gallery, pair i belonging together -> per-query ranks, and per-query class-level scores.

The cosines are computed in chunks of queries, so that memory is a chunk times n and not n times n. Ties are
exact: equal gallery rows share one column of the product, because a matrix product may round equal columns
differently at the edges of its blocks. The released evaluation counted tied ranks several times (JongSuk1/EquiAV
retrieval.py:47-59, 100 queries -> 2,550 "ranks"); here a tie is an interval [better + 1, better + tied] of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from equiav.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64

# Entries of the similarity matrix held at once: 40 MB of float32
CHUNK_ENTRIES = 10_000_000
# The class-level pass holds a chunk twice: as computed and sorted
CLASS_CHUNK_ENTRIES = 5_000_000


class Ranks(NamedTuple):
    """Ranks of the own partner, from 1; `optimistic` before all ties, `pessimistic` after them, `mean` between."""

    optimistic: Int64[np.ndarray, " n"]
    pessimistic: Int64[np.ndarray, " n"]

    @property
    def mean(self) -> Float64[np.ndarray, " n"]:
        """The expected rank when ties are broken by chance."""
        return (self.optimistic + self.pessimistic) / 2


@dataclass(frozen=True)
class Gallery:
    """Unit vectors with equal rows merged: `column[i]` is the row of `rows` that holds item i."""

    rows: Float32[np.ndarray, "u E"]
    column: Int64[np.ndarray, " n"]

    @property
    def duplicates(self) -> int:
        """Items that equal an earlier one."""
        return len(self.column) - len(self.rows)


def unit_rows(x: npt.ArrayLike, *, name: str) -> Float32[np.ndarray, "n E"]:
    """Rows scaled to length 1, as float32.

    Raises:
        ConfigError: not a non-empty (n, E) array of numbers.
        ModelError: a value is NaN or infinite, or a row is all zeros and has no direction.
    """
    array = np.asarray(x, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise ConfigError(f"{name}: expected a non-empty array of shape (n, E), found shape {array.shape}")
    broken = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(broken):
        raise ModelError(
            f"{name}: {len(broken)} of {len(array)} rows hold NaN or infinite values, the first is row {broken[0]}; "
            "look at the training run's losses, or embed these clips again"
        )
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    if not norms.all():
        raise ModelError(f"{name}: row {int(np.argmin(norms))} is all zeros, a cosine needs a direction")
    return array / norms


def merge_equal_rows(rows: Float32[np.ndarray, "n E"]) -> Gallery:
    """Give equal rows one column, in order of first appearance."""
    first: dict[bytes, int] = {}
    keep: list[int] = []
    column = np.empty(len(rows), dtype=np.int64)
    # adding zero turns -0.0 into 0.0: equal numbers get equal bytes
    for i, row in enumerate(rows + np.float32(0)):
        key = row.tobytes()
        if key not in first:
            first[key] = len(keep)
            keep.append(i)
        column[i] = first[key]
    return Gallery(rows=rows[keep] if len(keep) < len(rows) else rows, column=column)


def partner_ranks(queries: Float32[np.ndarray, "n E"], gallery: Gallery) -> Ranks:
    """Rank of gallery item i for query i: 1 + the items strictly better, up to that plus the tied others."""
    n = len(queries)
    optimistic = np.empty(n, dtype=np.int64)
    pessimistic = np.empty(n, dtype=np.int64)
    for chunk, scores in similarity_chunks(queries, gallery, CHUNK_ENTRIES):
        own = scores[np.arange(len(scores)), np.arange(n)[chunk]][:, None]
        optimistic[chunk] = 1 + np.count_nonzero(scores > own, axis=1)
        pessimistic[chunk] = np.count_nonzero(scores >= own, axis=1)
    return Ranks(optimistic, pessimistic)


def similarity_chunks(
    queries: Float32[np.ndarray, "n E"], gallery: Gallery, entries: int
) -> Iterator[tuple[slice, Float32[np.ndarray, "c n"]]]:
    """Slices of queries with their cosines to every gallery item; the array is overwritten by the next one."""
    n = len(gallery.column)
    step = max(1, min(len(queries), entries // n))
    product = np.empty((step, len(gallery.rows)), dtype=np.float32)
    for start in range(0, len(queries), step):
        chunk = slice(start, min(start + step, len(queries)))
        scores = product[: chunk.stop - start]
        np.matmul(queries[chunk], gallery.rows.T, out=scores)
        yield chunk, scores[:, gallery.column] if gallery.duplicates else scores


class ClassScores(NamedTuple):
    """Class-level scores of the queries that have at least one relevant item, and what a random order would give."""

    average_precision: Float64[np.ndarray, " q"]
    precision_at: dict[int, Float64[np.ndarray, " q"]]
    chance_average_precision: float
    chance_precision: float


class ClassLevels(NamedTuple):
    """With the query's partner in the gallery, where it is relevant, and with the partner taken out."""

    with_own: ClassScores | None
    others: ClassScores | None


def class_scores(
    queries: Float32[np.ndarray, "n E"], gallery: Gallery, labels: Sequence[Sequence[str]], *, ks: tuple[int, ...]
) -> ClassLevels:
    """Average precision and precision at k, where relevant means: shares a label with the query.

    Ties count as one threshold, as scikit-learn's `average_precision_score` has it; precision at k is its mean
    over all orders of the tied items, among the first n where k is larger. None: no query has a relevant item.
    """
    n = len(queries)
    members = _members(labels)
    found: tuple[list[_QueryScores], list[_QueryScores]] = ([], [])
    for chunk, scores in similarity_chunks(queries, gallery, CLASS_CHUNK_ENTRIES):
        ascending = np.sort(scores, axis=1)
        for row, i in enumerate(range(n)[chunk]):
            if not labels[i]:
                continue
            relevant = np.unique(np.concatenate([members[name] for name in labels[i]]))
            found[0].append(_score_query(ascending[row], scores[row, relevant], ks))
            if len(relevant) > 1:
                without = np.delete(ascending[row], np.searchsorted(ascending[row], scores[row, i]))
                found[1].append(_score_query(without, scores[row, relevant[relevant != i]], ks))
    return ClassLevels(_collect(found[0], ks, n), _collect(found[1], ks, n - 1))


def expected_average_precision(relevant: Int64[np.ndarray, "*shape"], candidates: int) -> Float64[np.ndarray, "*shape"]:
    """Average precision of a random order: E[AP] = (H_n + (R - 1)/(n - 1) · (n - H_n)) / n for R relevant of n."""
    harmonic = harmonic_number(candidates)
    share = (relevant - 1) / max(candidates - 1, 1)
    return (harmonic + share * (candidates - harmonic)) / candidates


def harmonic_number(n: int) -> float:
    """H_n = 1 + 1/2 + … + 1/n."""
    return float(np.sum(1 / np.arange(1, n + 1)))


class _QueryScores(NamedTuple):
    relevant: int
    average_precision: float
    precision_at: list[float]


def _members(labels: Sequence[Sequence[str]]) -> dict[str, Int64[np.ndarray, " m"]]:
    """The items that carry each label."""
    members: dict[str, list[int]] = {}
    for i, names in enumerate(labels):
        for name in set(names):
            members.setdefault(name, []).append(i)
    return {name: np.array(items) for name, items in members.items()}


def _score_query(
    ascending: Float32[np.ndarray, " n"], relevant: Float32[np.ndarray, " r"], ks: tuple[int, ...]
) -> _QueryScores:
    """One query from all scores in ascending order and the scores of its relevant items."""
    n, r = len(ascending), len(relevant)
    relevant = np.sort(relevant)
    # precision at the end of each relevant item's tied group
    reached = r - np.searchsorted(relevant, relevant)
    average_precision = float(np.mean(reached / (n - np.searchsorted(ascending, relevant))))
    precision_at = []
    for k in ks:
        size = min(k, n)
        line = ascending[n - size]
        above = n - np.searchsorted(ascending, line, side="right")
        tied = n - above - np.searchsorted(ascending, line)
        relevant_above = r - np.searchsorted(relevant, line, side="right")
        relevant_tied = r - relevant_above - np.searchsorted(relevant, line)
        precision_at.append(float(relevant_above + relevant_tied * (size - above) / tied) / size)
    return _QueryScores(r, average_precision, precision_at)


def _collect(found: list[_QueryScores], ks: tuple[int, ...], candidates: int) -> ClassScores | None:
    if not found:
        return None
    counts = np.array([query.relevant for query in found])
    precisions = np.array([query.precision_at for query in found])
    return ClassScores(
        average_precision=np.array([query.average_precision for query in found]),
        precision_at={k: precisions[:, i] for i, k in enumerate(ks)},
        chance_average_precision=float(np.mean(expected_average_precision(counts, candidates))),
        chance_precision=float(np.mean(counts / candidates)),
    )
