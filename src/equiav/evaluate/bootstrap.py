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
    from jaxtyping import Float64, Int64

LOW, HIGH = 2.5, 97.5
# Draws held at once while resampling: 8 MB
CHUNK_ENTRIES = 1_000_000


def mean_intervals(
    values: Float64[np.ndarray, "n m"], *, resamples: int, seed: int
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Interval of the mean of each column; all columns see the same resamples."""
    n = len(values)
    means = []
    for drawn in _draws(n, resamples, seed):
        drawn += n * np.arange(len(drawn))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)  # of each item in each resample
        means.append(counts.astype(np.float64) @ values / n)
    low, high = np.percentile(np.concatenate(means), [LOW, HIGH], axis=0)
    return low, high


def median_interval(values: Float64[np.ndarray, " n"], *, resamples: int, seed: int) -> tuple[float, float]:
    """Interval of the median (the mean of the two middle values when n is even)."""
    draws = _draws(len(values), resamples, seed)
    medians = [np.median(values[drawn], axis=1, overwrite_input=True) for drawn in draws]
    low, high = np.percentile(np.concatenate(medians), [LOW, HIGH])
    return float(low), float(high)


def _draws(n: int, resamples: int, seed: int) -> Iterator[Int64[np.ndarray, "r n"]]:
    """Which of n items each resample holds, a block of resamples at a time."""
    generator = np.random.default_rng(seed)
    block = max(1, CHUNK_ENTRIES // n)
    for start in range(0, resamples, block):
        yield generator.integers(0, n, size=(min(block, resamples - start), n))
