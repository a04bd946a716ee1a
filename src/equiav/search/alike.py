"""Which windows of different files are alike:  vectors (n, E), their files, a least cosine → pairs of windows.

All pairs are compared: a float32 product, block by block, each pair of blocks once. Blocks hold whole files, so of each
window it is known how many other files have one like it, and which window of each is the nearest. Those of the nearest
files are the pairs that are kept, in either direction: they tell how two files lie in time.

At most 8 · n · `nearest` pairs of 12 bytes are held, beside the vectors and five times block² · 4 bytes: of 100,000
windows 48 MB beside E · 0.4 MB and 336 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int32, Int64

NEAREST = 5  # files
BLOCK = 4096  # windows


@dataclass(frozen=True)
class Alike:
    """Pairs of windows of different files, sorted; and of each window how many other files have one like it."""

    first: Int64[np.ndarray, " p"]
    second: Int64[np.ndarray, " p"]  # above `first`
    files: Int64[np.ndarray, " n"]


class _Pairs(NamedTuple):
    """Of each row a column that is the nearest of its file, and their cosine."""

    rows: Int32[np.ndarray, " p"]
    columns: Int32[np.ndarray, " p"]
    cosines: Float32[np.ndarray, " p"]

    @classmethod
    def none(cls) -> _Pairs:
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))

    @classmethod
    def of(cls, rows: np.ndarray, columns: np.ndarray, cosines: np.ndarray) -> _Pairs:
        return cls(rows.astype(np.int32), columns.astype(np.int32), cosines)


class _Block(NamedTuple):
    """Windows [start, stop) of whole files; `starts`: where each of these begins, counted from `start`."""

    start: int
    stop: int
    starts: Int64[np.ndarray, " f"]

    def __len__(self) -> int:
        return self.stop - self.start


def alike(
    vectors: Float32[np.ndarray, "n E"],
    file: Int64[np.ndarray, " n"],
    least: float,
    *,
    nearest: int = NEAREST,
    block: int = BLOCK,
    on_progress: Callable[[int, int], None] | None = None,
) -> Alike:
    """Compare all windows with those of other files.

    Args:
        vectors: of length 1.
        file: a number for each window, never falling: windows of one file stand together.
        least: cosine from which on two windows are alike.
        nearest: of each window the pairs with so many files are kept: those that have the nearest windows, of equally
            near ones the first.
        block: windows of a block; one that holds a longer file is as long as that.
        on_progress: called with (windows compared so far, windows): each with all before it.
    """
    blocks, files = _blocks(file, block), np.zeros(len(file), np.int64)
    kept, found = _Pairs.none(), list[_Pairs]()
    for number, one in enumerate(blocks):
        for other in blocks[: number + 1]:
            # of two blocks only the first may be too long for one product, and then it is one file
            long, short = (one, other) if len(one) >= len(other) else (other, one)
            found += _nearest(vectors, long, short, files, least, nearest, block)
            if sum(len(part.rows) for part in found) > 7 * nearest * len(file):
                kept, found = _best([kept, *found], nearest), []
        if on_progress:
            on_progress(one.stop, len(file))
    kept = _best([kept, *found], nearest)
    rows, columns = kept.rows.astype(np.int64), kept.columns.astype(np.int64)
    numbers = np.unique(np.minimum(rows, columns) * len(file) + np.maximum(rows, columns))
    return Alike(*np.divmod(numbers, max(1, len(file))), files)


def _blocks(file: Int64[np.ndarray, " n"], block: int) -> list[_Block]:
    """As many whole files to a block as go in, or one that is longer."""
    starts = np.flatnonzero(np.diff(file, prepend=-1))
    ends = np.append(starts[1:], len(file))
    blocks: list[_Block] = []
    first = 0
    while first < len(starts):
        last = max(int(np.searchsorted(ends, starts[first] + block, side="right")), first + 1)
        blocks.append(_Block(int(starts[first]), int(ends[last - 1]), starts[first:last] - starts[first]))
        first = last
    return blocks


def _best(parts: list[_Pairs], nearest: int) -> _Pairs:
    """Of each row the nearest ones."""
    rows, columns, cosines = (np.concatenate([part[side] for part in parts]) for side in range(3))
    order = np.lexsort((columns, -cosines, rows))
    rows = rows[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    order = order[place < nearest]
    return _Pairs(rows[place < nearest], columns[order], cosines[order])


def _nearest(
    vectors: Float32[np.ndarray, "n E"],
    one: _Block,
    other: _Block,
    files: Int64[np.ndarray, " n"],
    least: float,
    nearest: int,
    block: int,
) -> Iterator[_Pairs]:
    """The pairs of two blocks, in both directions. `files` grows by what is found."""
    if one == other and len(one.starts) == 1:
        return
    step = max(1, block**2 // len(other)) if len(one.starts) == 1 else len(one)
    best, place = np.full(len(other), -np.inf, np.float32), np.zeros(len(other), np.int64)
    columns = vectors[other.start : other.stop].T
    for start in range(one.start, one.stop, step):
        products = vectors[start : min(start + step, one.stop)] @ columns
        if one == other:
            for first, last in zip(one.starts, [*one.starts[1:], len(one)], strict=True):
                products[first:last, first:last] = -np.inf
        row, column, cosine = _row_by_row(products, other.starts, files[start : start + len(products)], least, nearest)
        yield _Pairs.of(row + start, column + other.start, cosine)
        if one == other:
            return  # both directions
        if len(one.starts) > 1:
            row, column, cosine = _row_by_row(products.T, one.starts, files[other.start : other.stop], least, nearest)
            yield _Pairs.of(row + other.start, column + one.start, cosine)
            return
        row = products.argmax(axis=0)
        highest = np.take_along_axis(products, row[None], axis=0)[0]
        better = highest > best
        best[better], place[better] = highest[better], row[better] + start
    hits = np.flatnonzero(best >= least)
    files[other.start + hits] += 1
    yield _Pairs.of(other.start + hits, place[hits], best[hits])


def _row_by_row(
    products: Float32[np.ndarray, "r c"],
    starts: Int64[np.ndarray, " f"],
    files: Int64[np.ndarray, " r"],
    least: float,
    nearest: int,
) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"], Float32[np.ndarray, " p"]]:
    """Rows, columns, products: of each row and each of the nearest files of the columns the highest one, the first."""
    chosen = np.flatnonzero(products.max(axis=1) >= least)
    products = np.ascontiguousarray(products[chosen])
    best = np.maximum.reduceat(products, starts, axis=1)
    hits = best >= least
    files[chosen] += hits.sum(axis=1)
    crowded = np.flatnonzero(hits.sum(axis=1) > nearest)
    if len(crowded):
        last = -np.partition(-best[crowded], nearest - 1, axis=1)[:, nearest - 1 : nearest]
        above, equal = best[crowded] > last, best[crowded] == last
        hits[crowded] = above | (equal & (equal.cumsum(axis=1) <= nearest - above.sum(axis=1, keepdims=True)))
    best[~hits] = np.inf
    sizes = np.diff(starts, append=products.shape[1])
    row, column = np.nonzero(products == np.repeat(best, sizes, axis=1))
    number = np.repeat(np.arange(len(starts)), sizes)[column] + row * len(starts)
    first = np.diff(number, prepend=-1) > 0
    row, column = row[first], column[first]
    return chosen[row], column, products[row, column]


def unit_rows(vectors: Float32[np.ndarray, "n E"]) -> tuple[Float32[np.ndarray, "n E"], Bool[np.ndarray, " n"]]:
    """Vectors of length 1, and which of them have a direction; the others are zero."""
    lengths = np.linalg.norm(vectors, axis=1)
    there = np.isfinite(lengths) & (lengths > 0)
    return np.where(there[:, None], vectors / np.where(there, lengths, 1)[:, None], 0).astype(np.float32), there
