"""What a transformation does to an embedding, against what the predictor says it does: tensors → one number per clip.

Notation (the source is cited at each measure):  p = f(x) the plain embedding, q = f(t(x)) that of the really
transformed input, r = u(x, t) the predicted one;  q − p the true displacement, r − p the predicted one.

    p, q, r (n, M, E)  →  measures (n,), a mean over the M views of a clip; NaN where a clip is not moved at all

n clips · M views of each · E width
"""

# torch and scikit-learn have no whole types
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64

STILL = 1e-4  # a view that moves the embedding by less than this share of the clips' spread is taken as unmoved


def moved(p: Float[Tensor, "*n E"], q: Float[Tensor, "*n E"]) -> Bool[Tensor, "*n"]:
    """Views that change the embedding at all, beyond rounding: of the others no direction can be asked."""
    spread = p.reshape(-1, p.shape[-1]).std(0, correction=0).norm()
    return (q - p).norm(dim=-1) > STILL * torch.maximum(spread, STILL * p.norm(dim=-1).mean())


def displacement_cosine(
    p: Float[Tensor, "n M E"], q: Float[Tensor, "n M E"], r: Float[Tensor, "n M E"]
) -> Float[Tensor, " n"]:
    """Mean cosine of predicted and true displacement: 1 the right direction, 0 a random one, or no prediction."""
    cosine = torch.where(moved(p, r), torch.cosine_similarity(r - p, q - p, dim=-1), 0.0)
    return torch.where(moved(p, q), cosine, torch.nan).nanmean(1)


def relative_error(
    p: Float[Tensor, "n M E"], q: Float[Tensor, "n M E"], r: Float[Tensor, "n M E"]
) -> Float[Tensor, " n"]:
    """|r − q| over |q − p|, each summed over the views: 0 perfect, 1 as good as predicting no change."""
    true = (q - p).norm(dim=-1)
    where = moved(p, q)
    return torch.where(where, (r - q).norm(dim=-1), 0).sum(1) / torch.where(where, true, 0).sum(1)


def similarity(q: Float[Tensor, "n M E"], r: Float[Tensor, "n M E"]) -> Float[Tensor, " n"]:
    """Mean cosine of predicted and true embedding, the paper's measure ("Similarity", Table "Predictor").

    An encoder that ignores transformations has 1 too: read it beside `similarity(q, p)`, the invariance.
    """
    return torch.cosine_similarity(r, q, dim=-1).mean(1)


def step_ratio(p: Float[Tensor, "n M E"], q: Float[Tensor, "n M E"], r: Float[Tensor, "n M E"]) -> Float[Tensor, " n"]:
    """|r − p| over |q − p|, each summed over the views: 1 the right size, 0 the predictor predicts no change."""
    where = moved(p, q)
    return torch.where(where, (r - p).norm(dim=-1), 0).sum(1) / torch.where(where, (q - p).norm(dim=-1), 0).sum(1)


def ranks(q: Float[Tensor, "n M E"], r: Float[Tensor, "n M E"]) -> Float[Tensor, "n M"]:
    """Place of view m among the M views of its clip, asked by prediction m; ties share the mean of their places.

    The protocol of SIE (Garrido et al. 2023, evaluation of MRR and H@k): cosine, the same clip's views as gallery.
    """
    scores = torch.nn.functional.normalize(r, dim=-1) @ torch.nn.functional.normalize(q, dim=-1).transpose(1, 2)
    own = scores.diagonal(dim1=1, dim2=2)[..., None]
    better, equal = (scores > own).sum(2), (scores == own).sum(2)
    return 1 + better + (equal - 1) / 2


def chance(views: int) -> dict[str, float]:
    """What a random order of M views gives: MRR, and H@k."""
    return {
        "mrr": float(np.mean(1 / np.arange(1, views + 1))),
        "h1": 1 / views,
        "h5": min(5 / views, 1.0),
    }


def relative_rotation(p: Float[Tensor, "n E"], q: Float[Tensor, "n E"]) -> float:
    """γ of CARE (Gupta et al. 2024, §4) for one transformation applied to n clips: how far it is from one rotation.

    Change of the squared distances between clips, squared, over the squared distances that it moved them: 0 where the
    transformation turns the whole space rigidly. The mean over the pairs of clips is taken above and below the line
    by itself: a mean of ratios hangs on the few pairs that hardly move. NaN where nothing moves (an invariant encoder).
    """
    i, j = torch.triu_indices(len(p), len(p), offset=1)
    step = (q - p).square().sum(1)
    if not bool(moved(p, q).any()):
        return float("nan")
    change = (q[i] - q[j]).square().sum(1) - (p[i] - p[j]).square().sum(1)
    return float(change.square().mean() / (step[i] + step[j]).square().mean())


def rotation_residual(p: Float[Tensor, "n E"], q: Float[Tensor, "n E"]) -> float:
    """Share of a transformation's effect on n clips that no single rotation explains (Wahba's problem; CARE, §4).

    min over rotations R of ‖pR − q‖ / ‖p − q‖: 0 one rotation does it all, 1 no rotation helps. With fewer clips than
    dimensions a rotation has much freedom: compare only figures of equal n and E. NaN where nothing moves.
    """
    if not bool(moved(p, q).any()):
        return float("nan")
    u, _, vh = torch.linalg.svd(q.double().T @ p.double())
    signs = torch.ones(len(u), dtype=torch.float64)
    signs[-1] = torch.linalg.det(u).sign() * torch.linalg.det(vh).sign()
    rotation = u * signs @ vh
    return float((p.double() @ rotation.T - q.double()).norm() / (p - q).norm())


def explained_parameters(
    p: Float[Tensor, "n M E"],
    q: Float[Tensor, "n M E"],
    params: Float[Tensor, "n M P"],
    folds: int = 5,
    sources: Int64[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " P"]:
    """R² of each parameter from (p, q) by ridge regression, on clips that it was not fitted on (SIE; AugSelf, 2021).

    A source is fitted on whole, or not at all. 1: the pair of embeddings says what was done; 0 or less: no better than
    the mean. NaN for a constant parameter.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.preprocessing import StandardScaler

    n, views = params.shape[:2]
    features = torch.cat([p, q], dim=-1).flatten(0, 1).double().numpy()
    targets = params.flatten(0, 1).double().numpy()
    units = np.arange(n) if sources is None else sources
    clips = np.repeat(units, views)
    predicted = np.zeros_like(targets)
    for train, test in GroupKFold(min(folds, len(np.unique(units)))).split(features, groups=clips):
        scale = StandardScaler().fit(features[train])
        model = RidgeCV(np.logspace(-1, 5, 13)).fit(scale.transform(features[train]), targets[train])
        predicted[test] = model.predict(scale.transform(features[test])).reshape(len(test), -1)
    rest = np.square(targets - predicted).sum(0)
    total = np.square(targets - targets.mean(0)).sum(0)
    constant = total <= 1e-9 * len(targets)
    return np.where(constant, np.nan, 1 - rest / np.where(constant, 1, total))
