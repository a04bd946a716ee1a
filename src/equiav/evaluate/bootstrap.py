"""95 % intervals by resampling what was measured on: of a mean, a median, or a mean over classes that rank clips.

Per-item values (n,), or scores and truth (n, classes) -> (low, high), the percentile bootstrap (Efron and Tibshirani
1993, section 13.3). The gallery of a retrieval stays as it is: the interval says how much the figure depends on which
queries were asked, and nothing about the seed of training or about a gallery of other clips.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64

LOW, HIGH = 2.5, 97.5
RESAMPLES, CLASS_RESAMPLES = 1000, 200  # of a mean over clips; of figures whose classes all have to be ranked again
# Draws held at once while resampling: 8 MB
CHUNK_ENTRIES = 1_000_000


def mean_intervals(
    values: Float64[np.ndarray, "n m"], *, resamples: int, seed: int
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Interval of the mean of each column; all columns see the same resamples."""
    low, high = np.percentile(resampled_means(values, resamples=resamples, seed=seed), [LOW, HIGH], axis=0)
    return low, high


def resampled_means(
    values: Float64[np.ndarray, "n m"], *, resamples: int, seed: int | Sequence[int]
) -> Float64[np.ndarray, "r m"]:
    """The mean of each column in each resample."""
    n = len(values)
    means = []
    for drawn in _draws(n, resamples, seed):
        drawn += n * np.arange(len(drawn))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)  # of each item in each resample
        means.append(counts.astype(np.float64) @ values / n)
    return np.concatenate(means)


def median_interval(values: Float64[np.ndarray, " n"], *, resamples: int, seed: int) -> tuple[float, float]:
    """Interval of the median (the mean of the two middle values when n is even)."""
    draws = _draws(len(values), resamples, seed)
    medians = [np.median(values[drawn], axis=1, overwrite_input=True) for drawn in draws]
    low, high = np.percentile(np.concatenate(medians), [LOW, HIGH])
    return float(low), float(high)


def interval(resampled: Float64[np.ndarray, " r"]) -> tuple[float, float]:
    """Ends of the interval of a figure's resamples; those in which it has no value are left out."""
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, [LOW, HIGH]) if len(known) else (math.nan, math.nan)
    return float(low), float(high)


def resampled_classes(
    truth: Bool[np.ndarray, "n classes"], scores: Float[np.ndarray, "n classes"], *, seed: int | Sequence[int]
) -> tuple[Float64[np.ndarray, " r"], Float64[np.ndarray, " r"]]:
    """mAP and AUC, each the mean over the classes that a resample has, in each of `CLASS_RESAMPLES`; NaN of none."""
    n = len(truth)
    rng = np.random.default_rng(seed)
    counts = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(CLASS_RESAMPLES)])
    precision, area = ranked(truth, scores, counts.astype(float))
    return _class_mean(precision), _class_mean(area)


def _class_mean(columns: Float[np.ndarray, "r classes"]) -> Float64[np.ndarray, " r"]:
    known = np.isfinite(columns)
    with np.errstate(invalid="ignore"):
        return np.where(known, columns, 0.0).sum(1) / known.sum(1)


def ranked(
    truth: Bool[np.ndarray, "n classes"], scores: Float[np.ndarray, "n classes"], counts: Float[np.ndarray, "r n"]
) -> tuple[Float[np.ndarray, "r classes"], Float[np.ndarray, "r classes"]]:
    """Average precision and AUC of each class, with every clip counted as often as `counts` says.

    scikit-learn's definitions with sample weights, for many weights at once: each class is sorted a single time. NaN
    where a class has no right clip, or, for the AUC, no wrong one.
    """
    precision, area = (np.full((len(counts), truth.shape[1]), np.nan) for _ in range(2))
    for column in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, column], kind="stable")
        ends = np.append(np.flatnonzero(np.diff(scores[order, column])), len(order) - 1)  # tied clips count together
        weights = counts[:, order]
        right = np.cumsum(weights * truth[order, column], axis=1)[:, ends]
        reached = np.cumsum(weights, axis=1)[:, ends]
        wrong = reached - right
        with np.errstate(invalid="ignore", divide="ignore"):
            steps = np.diff(right, axis=1, prepend=0)
            share = np.where(steps > 0, right / reached, 0.0)
            precision[:, column] = (steps * share).sum(1) / right[:, -1]
            before = np.pad(right, ((0, 0), (1, 0)))[:, :-1]
            above = (np.diff(wrong, axis=1, prepend=0) * (right + before) / 2).sum(1)
            area[:, column] = above / (right[:, -1] * wrong[:, -1])
    return precision, area


def _draws(n: int, resamples: int, seed: int | Sequence[int]) -> Iterator[Int64[np.ndarray, "r n"]]:
    """Which of n items each resample holds, a block of resamples at a time."""
    generator = np.random.default_rng(seed)
    block = max(1, CHUNK_ENTRIES // n)
    for start in range(0, resamples, block):
        yield generator.integers(0, n, size=(min(block, resamples - start), n))
