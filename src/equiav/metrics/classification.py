"""How right the scores of classes are:  truth and scores (n, classes)  →  mAP, AUC, d′, top-k."""

# scikit-learn and scipy have no whole types
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def mean_average_precision(truth: Bool[np.ndarray, "n classes"], scores: Float[np.ndarray, "n classes"]) -> float:
    """Macro mean over the classes that occur, as the field takes it (scikit-learn's average precision)."""
    from sklearn.metrics import average_precision_score

    present = truth.any(0)
    return float(average_precision_score(truth[:, present], scores[:, present], average="macro"))


def mean_auc(truth: Bool[np.ndarray, "n classes"], scores: Float[np.ndarray, "n classes"]) -> float:
    """Macro mean of the area under the ROC curve over the classes that some clips have and some have not."""
    from sklearn.metrics import roc_auc_score

    mixed = truth.any(0) & ~truth.all(0)
    return float(roc_auc_score(truth[:, mixed], scores[:, mixed], average="macro")) if mixed.any() else math.nan


def d_prime(auc: float) -> float:
    """Distance, in standard deviations, of two normal distributions with this AUC: √2 Φ⁻¹(AUC)."""
    from scipy.stats import norm

    return float(math.sqrt(2) * norm.ppf(auc))


def top_hits(truth: Bool[np.ndarray, "n classes"], scores: Float[np.ndarray, "n classes"], k: int) -> np.ndarray:
    """1 for every clip whose class is among the k most probable, else 0; ties in the order of the columns."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(truth, best, axis=1).any(1).astype(float)
