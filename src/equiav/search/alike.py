"""Which windows of different files are alike:  vectors (n, E), their files, a least cosine → pairs of windows.

All pairs are compared: a float32 product, block by block, each pair of blocks once. Blocks hold whole files, so of each
window it is known how many other files have one like it, and which window of each is the nearest. Those nearest ones
are the pairs that are kept, in either direction: they tell how two files lie in time.

A window that is like windows of more than `limit` files (a jingle, a test picture) says nothing about two of them: it
is counted, and its pairs are not kept. So at most n · limit pairs are held, of 8 bytes each, beside the vectors and
five times block² · 4 bytes: of 100,000 windows 80 MB beside E · 0.4 MB and 336 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64

    Pairs = tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]

LIMIT = 100  # files
BLOCK = 4096  # windows


@dataclass(frozen=True)
class Alike:
    """Pairs of windows of different files, sorted; and of each window how many other files have one like it."""

    first: Int64[np.ndarray, " p"]
    second: Int64[np.ndarray, " p"]  # above `first`
    files: Int64[np.ndarray, " n"]


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
    limit: int = LIMIT,
    block: int = BLOCK,
    on_progress: Callable[[int, int], None] | None = None,
) -> Alike:
    """Compare all windows with those of other files.

    Args:
        vectors: of length 1.
        file: a number for each window, never falling: windows of one file stand together.
        least: cosine from which on two windows are alike.
        limit: files; a window that is like windows of more has no pairs.
        block: windows of a block; one that holds a longer file is as long as that.
        on_progress: called with (windows compared so far, windows): each with all before it.
    """
    blocks, files = _blocks(file, block), np.zeros(len(file), np.int64)
    found: list[Pairs] = []
    for number, one in enumerate(blocks):
        for other in blocks[: number + 1]:
            # of two blocks only the first may be too long for one product, and then it is one file
            long, short = (one, other) if len(one) >= len(other) else (other, one)
            for rows, columns in _nearest(vectors, long, short, files, least, limit, block):
                known = files[columns] <= limit
                found.append((rows[known].astype(np.int32), columns[known].astype(np.int32)))
        if on_progress:
            on_progress(one.stop, len(file))
    rows, columns = (
        np.concatenate([np.zeros(0, np.int32), *(pair[side] for pair in found)]).astype(np.int64) for side in (0, 1)
    )
    known = (files[rows] <= limit) & (files[columns] <= limit)
    low, high = np.minimum(rows, columns)[known], np.maximum(rows, columns)[known]
    numbers = np.unique(low * len(file) + high)
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


def _nearest(
    vectors: Float32[np.ndarray, "n E"],
    one: _Block,
    other: _Block,
    files: Int64[np.ndarray, " n"],
    least: float,
    limit: int,
    block: int,
) -> Iterator[Pairs]:
    """Pairs (i, j): j is of all windows of its file the nearest to i. `files` grows by what is found."""
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
        rows, found = _row_by_row(products, other.starts, files[start : start + len(products)], least, limit)
        yield rows + start, found + other.start
        if one == other:
            return  # both directions
        if len(one.starts) > 1:
            found, rows = _row_by_row(products.T, one.starts, files[other.start : other.stop], least, limit)
            yield found + other.start, rows + one.start
            return
        row = products.argmax(axis=0)
        highest = np.take_along_axis(products, row[None], axis=0)[0]
        better = highest > best
        best[better], place[better] = highest[better], row[better] + start
    hits = np.flatnonzero(best >= least)
    files[other.start + hits] += 1
    yield other.start + hits, place[hits]


def _row_by_row(
    products: Float32[np.ndarray, "r c"],
    starts: Int64[np.ndarray, " f"],
    files: Int64[np.ndarray, " r"],
    least: float,
    limit: int,
) -> Pairs:
    """Of each row and each file of the columns the highest product, the first of equal ones, where that is enough."""
    chosen = np.flatnonzero(products.max(axis=1) >= least)
    products = np.ascontiguousarray(products[chosen])
    best = np.maximum.reduceat(products, starts, axis=1)
    hits = best >= least
    files[chosen] += hits.sum(axis=1)
    best[~hits | (files[chosen] > limit)[:, None]] = np.inf
    sizes = np.diff(starts, append=products.shape[1])
    row, column = np.nonzero(products == np.repeat(best, sizes, axis=1))
    number = np.repeat(np.arange(len(starts)), sizes)[column] + row * len(starts)
    first = np.diff(number, prepend=-1) > 0
    return chosen[row[first]], column[first]


def unit_rows(vectors: Float32[np.ndarray, "n E"]) -> tuple[Float32[np.ndarray, "n E"], Bool[np.ndarray, " n"]]:
    """Vectors of length 1, and which of them have a direction; the others are zero."""
    lengths = np.linalg.norm(vectors, axis=1)
    there = np.isfinite(lengths) & (lengths > 0)
    return np.where(there[:, None], vectors / np.where(there, lengths, 1)[:, None], 0).astype(np.float32), there
