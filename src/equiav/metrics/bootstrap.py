"""95 % intervals by resampling what was measured on: of a mean, a median, or a mean over classes that rank clips.

Per-item values (n,), or scores and truth (n, classes) -> (low, high), the percentile bootstrap (Efron and Tibshirani
1993, section 13.3). What is drawn, with replacement, is *sources* and not items: windows of one recording are alike, so
all of them come with it, as often as it is drawn (the cluster bootstrap; Davison and Hinkley 1997, section 3.8). Where
every item has a source of its own that is the plain bootstrap. One source alone has no interval: NaN.

The gallery of a retrieval stays as it is: the interval says how much the figure depends on which queries were asked,
and nothing about the seed of training or about a gallery of other clips. With few sources the percentile interval is
too narrow: it holds the truth in about 90 % of cases with ten of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from equiav.metrics.classification import class_mean, ranked

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64

LOW, HIGH = 2.5, 97.5
RESAMPLES, CLASS_RESAMPLES = 1000, 200  # of a mean over clips; of figures whose classes all have to be ranked again
FEW = 20  # sources, below which an interval is rough
# Draws held at once while resampling: 8 MB
CHUNK_ENTRIES = 1_000_000


def mean_intervals(
    values: Float64[np.ndarray, "n m"],
    *,
    resamples: int,
    seed: int | Sequence[int],
    sources: Int64[np.ndarray, " n"] | None = None,
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Interval of the mean of each column; all columns see the same resamples.

    Args:
        sources: a number for each item, equal where two come from one source; None: each has its own.
    """
    low, high = np.percentile(
        resampled_means(values, resamples=resamples, seed=seed, sources=sources), [LOW, HIGH], axis=0
    )
    return low, high


def resampled_means(
    values: Float64[np.ndarray, "n m"],
    *,
    resamples: int,
    seed: int | Sequence[int],
    sources: Int64[np.ndarray, " n"] | None = None,
) -> Float64[np.ndarray, "r m"]:
    """The mean of each column over all items of each resample."""
    number, units = _units(len(values), sources)
    sums, sizes = np.zeros((units, values.shape[1])), np.bincount(number).astype(np.float64)
    np.add.at(sums, number, values)
    means: list[np.ndarray] = []
    for counts in _counted(units, units, resamples, seed):
        counts = counts.astype(np.float64)
        means.append(counts @ sums / (counts @ sizes)[:, None])
    return np.concatenate(means) if units > 1 else np.full((resamples, values.shape[1]), np.nan)


def median_interval(
    values: Float64[np.ndarray, " n"], *, resamples: int, seed: int, sources: Int64[np.ndarray, " n"] | None = None
) -> tuple[float, float]:
    """Interval of the median (the mean of the two middle values when there are evenly many)."""
    number, units = _units(len(values), sources)
    if units == 1:
        return math.nan, math.nan
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    medians: list[np.ndarray] = []
    for counts in _counted(units, len(values), resamples, seed):
        reached = np.cumsum(counts.astype(np.int32)[:, number[order]], axis=1, dtype=np.int32)  # items up to each value
        middle = [row.searchsorted([(row[-1] + 1) // 2, row[-1] // 2 + 1]) for row in reached]
        medians.append(ascending[middle].mean(axis=1))
    low, high = np.percentile(np.concatenate(medians), [LOW, HIGH])
    return float(low), float(high)


def interval(resampled: Float64[np.ndarray, " r"]) -> tuple[float, float]:
    """Ends of the interval of a figure's resamples; those in which it has no value are left out."""
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, [LOW, HIGH]) if len(known) else (math.nan, math.nan)
    return float(low), float(high)


def resampled_classes(
    truth: Bool[np.ndarray, "n classes"],
    scores: Float[np.ndarray, "n classes"],
    *,
    seed: int | Sequence[int],
    sources: Int64[np.ndarray, " n"] | None = None,
) -> tuple[Float64[np.ndarray, " r"], Float64[np.ndarray, " r"]]:
    """mAP and AUC, each the mean over the classes that a resample has, in each of `CLASS_RESAMPLES`; NaN of none."""
    number, units = _units(len(truth), sources)
    if units == 1:
        return np.full(CLASS_RESAMPLES, np.nan), np.full(CLASS_RESAMPLES, np.nan)
    counts = np.concatenate(list(_counted(units, units, CLASS_RESAMPLES, seed)))[:, number]
    precision, area = ranked(truth, scores, counts.astype(float))
    return class_mean(precision), class_mean(area)


def few_sources(count: int) -> str:
    """What to say of intervals over fewer than `FEW` sources."""
    if count == 1:
        return "all clips are of 1 source: there is no interval, which would be over sources"
    return f"the clips are of {count} sources: with fewer than {FEW} the intervals are rough, and rather too narrow"


def _units(n: int, sources: Int64[np.ndarray, " n"] | None) -> tuple[Int64[np.ndarray, " n"], int]:
    """What is drawn: the number of each item's source, from 0 in the order in which they first come; how many."""
    if sources is None:
        return np.arange(n), n
    _, first, place = np.unique(sources, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place], len(first)


def _counted(units: int, items: int, resamples: int, seed: int | Sequence[int]) -> Iterator[Int64[np.ndarray, "r u"]]:
    """How often each resample holds each unit, a block of resamples at a time; `items`: held beside it for each."""
    generator = np.random.default_rng(seed)
    block = max(1, CHUNK_ENTRIES // items)
    for start in range(0, resamples, block):
        drawn = generator.integers(0, units, size=(min(block, resamples - start), units))
        drawn += units * np.arange(len(drawn))[:, None]
        yield np.reshape(np.bincount(drawn.ravel(), minlength=drawn.size), drawn.shape)
