"""Where the right answer lands: ranks with ties, in bounded memory.

(n, E) queries and (n, E) gallery, pair i belonging together -> per-query ranks, and per-query class-level scores.

The cosines are computed in chunks of queries, so that memory is a chunk times n and not n times n. Ties are
exact: equal gallery rows share one column of the product, because a matrix product may round equal columns
differently at the edges of its blocks. The released evaluation counted tied ranks several times (JongSuk1/EquiAV
retrieval.py:47-59, 100 queries -> 2,550 "ranks"); here a tie is an interval [better + 1, better + tied] of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from equiav.errors import ConfigError, ModelError
from equiav.machine import usable_cores
from equiav.metrics.class_level import ClassLevels, ClassScorer, QueryFigures
from equiav.words import counted, have

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64

# Entries of the similarity matrix held at once: 40 MB of float32
CHUNK_ENTRIES = 10_000_000
# Of them, those that a thread works on
PART_ENTRIES = 1_000_000


class Ranks(NamedTuple):
    """Ranks of the own partner, from 1; `optimistic` before all ties, `pessimistic` after them, `mean` between."""

    optimistic: Int64[np.ndarray, " n"]
    pessimistic: Int64[np.ndarray, " n"]

    @property
    def mean(self) -> Float64[np.ndarray, " n"]:
        """The expected rank when ties are broken by chance."""
        return (self.optimistic + self.pessimistic) / 2


@dataclass(frozen=True)
class MergedRows:
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
            f"{name}: {len(broken)} of {counted(len(array), 'row')} {have(len(broken))} NaN or infinite values, "
            f"the first is row {broken[0]}; "
            "look at the training run's losses, or embed these clips again"
        )
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    if not norms.all():
        raise ModelError(f"{name}: row {int(np.argmin(norms))} is all zeros, a cosine needs a direction")
    return array / norms


def similarity(a: npt.ArrayLike, b: npt.ArrayLike) -> Float32[np.ndarray, "n m"]:
    """Cosines of all pairs of n and m vectors, which need not have unit length; one vector (E,) is a set of one.

    Raises:
        ConfigError: not (n, E) and (m, E).
        ModelError: a vector has no direction.
    """
    first: Float32[np.ndarray, "n E"] = unit_rows(np.atleast_2d(a), name="a")
    second: Float32[np.ndarray, "m E"] = unit_rows(np.atleast_2d(b), name="b")
    if first.shape[1] != second.shape[1]:
        raise ConfigError(f"vectors of widths {first.shape[1]} and {second.shape[1]} cannot be compared")
    return np.einsum("ne,me->nm", first, second, optimize=True)


def merge_equal_rows(rows: Float32[np.ndarray, "n E"]) -> MergedRows:
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
    return MergedRows(rows=rows[keep] if len(keep) < len(rows) else rows, column=column)


def rank(
    queries: Float32[np.ndarray, "n E"],
    gallery: MergedRows,
    labels: Sequence[Sequence[str]] | None = None,
    *,
    ks: tuple[int, ...] = (1, 10),
    sources: Int64[np.ndarray, " n"] | None = None,
) -> tuple[Ranks, ClassLevels]:
    """Rank of gallery item i for query i: 1 + the items strictly better, up to that plus the tied others.

    With `labels`, also the average precision and the precision at `ks` of the class level; `sources` are those of
    `ClassScorer`.
    """
    n, threads = len(queries), usable_cores()
    optimistic = np.empty(n, dtype=np.int64)
    pessimistic = np.empty(n, dtype=np.int64)
    scorer = ClassScorer(labels, ks, sources) if labels else None

    def place(part: slice, scores: Float32[np.ndarray, "p n"]) -> list[list[QueryFigures | None]]:
        own = scores[np.arange(len(scores)), np.arange(n)[part]][:, None]
        optimistic[part] = 1 + np.count_nonzero(scores > own, axis=1)
        pessimistic[part] = np.count_nonzero(scores >= own, axis=1)
        return [scorer.score(part.start + i, row) for i, row in enumerate(scores)] if scorer else []

    found: list[list[QueryFigures | None]] = []
    # numpy lets other threads run while it compares and sorts
    with ThreadPoolExecutor(threads) as pool:
        for chunk, scores in _similarity_chunks(queries, gallery):
            step = max(1, min(ceil(len(scores) / threads), PART_ENTRIES // n))
            parts = [slice(start, min(start + step, chunk.stop)) for start in range(chunk.start, chunk.stop, step)]
            for scored in pool.map(place, parts, np.split(scores, range(step, len(scores), step))):
                found += scored
    return Ranks(optimistic, pessimistic), scorer.levels(found) if scorer else ClassLevels(None, None)


def _similarity_chunks(
    queries: Float32[np.ndarray, "n E"], gallery: MergedRows
) -> Iterator[tuple[slice, Float32[np.ndarray, "c n"]]]:
    """Slices of queries with their cosines to every gallery item; the array is overwritten by the next one."""
    n = len(gallery.column)
    step = max(1, min(len(queries), CHUNK_ENTRIES // n))
    product = np.empty((step, len(gallery.rows)), dtype=np.float32)
    for start in range(0, len(queries), step):
        chunk = slice(start, min(start + step, len(queries)))
        scores = product[: chunk.stop - start]
        np.matmul(queries[chunk], np.transpose(gallery.rows), out=scores)
        yield chunk, scores.take(gallery.column, axis=1) if gallery.duplicates else scores
