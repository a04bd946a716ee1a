"""95 % intervals of a mean or a median by resampling the queries.

Per-query values (n,) -> (low, high), the percentile bootstrap (Efron and Tibshirani 1993, section 13.3). The gallery
stays as it is: the interval says how much the figure depends on which queries were asked, and nothing about the seed
of training or about a gallery of other clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64

LOW, HIGH = 2.5, 97.5
# Counts held at once while resampling: 32 MB of float64
CHUNK_ENTRIES = 4_000_000


def mean_intervals(
    values: Float64[np.ndarray, "n m"], *, resamples: int, seed: int
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Interval of the mean of each column; all columns see the same resamples."""
    means = np.concatenate([counts @ values for counts in _resample_counts(len(values), resamples, seed)]) / len(values)
    low, high = np.percentile(means, [LOW, HIGH], axis=0)
    return low, high


def median_interval(values: Float64[np.ndarray, " n"], *, resamples: int, seed: int) -> tuple[float, float]:
    """Interval of the median (the mean of the two middle values when n is even)."""
    n = len(values)
    order = np.argsort(values)
    ascending = values[order]
    middle = ((n - 1) // 2, n // 2)
    medians = []
    for counts in _resample_counts(n, resamples, seed):
        reached = np.cumsum(counts[:, order], axis=1)
        # the item at sorted position p is the first one whose running count exceeds p
        medians.append(sum(ascending[np.argmax(reached > position, axis=1)] for position in middle) / 2)
    low, high = np.percentile(np.concatenate(medians), [LOW, HIGH])
    return float(low), float(high)


def _resample_counts(n: int, resamples: int, seed: int) -> Iterator[Float64[np.ndarray, "r n"]]:
    """How often each of n items is drawn, a block of resamples at a time: (r, n), every row sums to n."""
    generator = np.random.default_rng(seed)
    block = max(1, min(resamples, CHUNK_ENTRIES // n))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
