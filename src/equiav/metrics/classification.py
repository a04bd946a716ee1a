"""How right the scores of classes are:  truth and scores (n, classes)  →  mAP, AUC, d′, top-k."""

# scipy has no whole types
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64


def mean_average_precision(truth: Bool[np.ndarray, "n classes"], scores: Float[np.ndarray, "n classes"]) -> float:
    """Macro mean over the classes that occur, as the field takes it; NaN where none does."""
    return float(class_mean(ranked(truth, scores)[0])[0])


def class_mean(columns: Float[np.ndarray, "r classes"]) -> Float64[np.ndarray, " r"]:
    """The mean over the classes that have a figure; NaN where none has."""
    known = np.isfinite(columns)
    with np.errstate(invalid="ignore"):
        return np.where(known, columns, 0.0).sum(1) / known.sum(1)


def ranked(
    truth: Bool[np.ndarray, "n classes"],
    scores: Float[np.ndarray, "n classes"],
    counts: Float[np.ndarray, "r n"] | None = None,
) -> tuple[Float[np.ndarray, "r classes"], Float[np.ndarray, "r classes"]]:
    """Average precision and AUC of each class, with every clip counted as often as `counts` says; None: once, r = 1.

    scikit-learn's definitions with sample weights, for many weights at once: each class is sorted a single time. NaN
    where a class has no right clip, or, for the AUC, no wrong one.
    """
    counts = np.ones((1, len(truth))) if counts is None else counts
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


def d_prime(auc: float) -> float:
    """Distance, in standard deviations, of two normal distributions with this AUC: √2 Φ⁻¹(AUC)."""
    from scipy.stats import norm

    return float(math.sqrt(2) * norm.ppf(auc))


def top_hits(truth: Bool[np.ndarray, "n classes"], scores: Float[np.ndarray, "n classes"], k: int) -> np.ndarray:
    """1 for every clip whose class is among the k most probable, else 0; ties in the order of the columns."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(truth, best, axis=1).any(1).astype(float)
