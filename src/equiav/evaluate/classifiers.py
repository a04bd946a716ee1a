"""The classifiers of probes, on features held in memory:  features of each modality → class scores.

- linear: logistic regression on standardised features, C = 1, nothing tuned;
- sgd: vectors (n, D) of each modality side by side, standardised, linear; SGD with momentum 0.9 and no weight decay, as
  MAE and MoCo v3 probe;
- knn: votes of the k nearest training clips by cosine, weighted by exp(similarity / 0.07) (Wu et al. 2018); windows of
  the clip's own source do not vote;
- attentive: tokens (n, N, D) of each modality, each pooled by a learned query, side by side, LayerNorm, linear; AdamW.
  CAV-MAE Sync's and TG-DP's "linear probe" has such an attention inside: do not hold it against a linear one.

sgd and attentive run a cosine over their epochs, of few clips over 1,000 steps: nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64

    from equiav.model.equiav import EquiAV

Kind = Literal["linear", "sgd", "knn", "attentive"]
NEIGHBOURS, TEMPERATURE = 20, 0.07
FEWEST_STEPS, BATCH = 1000, 64
EPOCHS = {"attentive": 30, "sgd": 90}


class AttentiveProbe(nn.Module):
    """One pooling query per modality."""

    def __init__(self, modalities: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(modalities, 1, width))
        self.pools = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(modalities))
        self.norm = nn.LayerNorm(modalities * width)
        self.head = nn.Linear(modalities * width, classes)

    def forward(self, tokens: list[Float[Tensor, "B N D"]]) -> Float[Tensor, "B classes"]:
        """Scores before softmax or sigmoid."""
        pairs = zip(self.pools, self.queries, tokens, strict=True)
        pooled = [pool(query.expand(len(x), -1, -1), x, x, need_weights=False)[0][:, 0] for pool, query, x in pairs]
        return self.head(self.norm(torch.cat(pooled, dim=1)))


class LinearProbe(nn.Module):
    """A plane per class, over features scaled to mean 0 and deviation 1 on the clips that are fitted."""

    def __init__(self, train: list[Float[Tensor, "n D"]], classes: int) -> None:
        super().__init__()
        features = torch.cat(train, dim=1)
        self.mean, scale = features.mean(0), features.std(0, correction=0)
        # what is constant here has a weight that nothing taught: it is left as it is and not blown up
        self.scale = torch.where(scale > 1e-6, scale, 1.0)
        self.head = nn.Linear(features.shape[1], classes)

    def forward(self, features: list[Float[Tensor, "B D"]]) -> Float[Tensor, "B classes"]:
        """Scores before softmax or sigmoid."""
        return self.head((torch.cat(features, dim=1) - self.mean) / self.scale)


def fitted_scores(
    kind: Literal["attentive", "sgd"],
    train: list[Tensor],
    targets: Bool[Tensor, "n classes"],
    test: list[Tensor],
    *,
    heads: int,
    one_label: bool,
    seed: int = 0,
    on_epoch: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "m classes"]:
    """Fit on one set of clips, score another; the seed decides initialisation and order.

    `train` and `test` hold one part per modality: (n, N, D) for attentive, (n, D) for sgd. `on_epoch` is called with
    (epochs begun, epochs).
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classes = targets.shape[1]
        if kind == "attentive":
            probe = AttentiveProbe(len(train), train[0].shape[2], heads, classes)
            optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-3, weight_decay=0.05)
        else:
            probe = LinearProbe(train, classes)
            optimizer = torch.optim.SGD(probe.parameters(), lr=0.1, momentum=0.9)
        per_epoch = -(-len(targets) // BATCH)
        epochs = max(EPOCHS[kind], -(-FEWEST_STEPS // per_epoch))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
        for epoch in range(epochs):
            if on_epoch:
                on_epoch(epoch + 1, epochs)
            for rows in torch.randperm(len(targets)).split(BATCH):
                scores, goal = probe([x[rows].float() for x in train]), targets[rows]
                if one_label:
                    loss = F.cross_entropy(scores, goal.int().argmax(1))
                else:
                    loss = F.binary_cross_entropy_with_logits(scores, goal.float())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():
        parts = torch.arange(len(test[0])).split(BATCH)
        return torch.cat([probe.eval()([x[rows].float() for x in test]) for rows in parts])


def class_scores(
    kind: Kind,
    model: EquiAV,
    train: list[Tensor],
    targets: Bool[np.ndarray, "n classes"],
    test: list[Tensor],
    one_label: bool,
    neighbours: int,
    sources: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]],
    seed: int,
    tell: Callable[[str], None] | None,
) -> Float[np.ndarray, "m classes"]:
    """What the classifier says of every clip and class; larger is more likely."""
    if kind in ("attentive", "sgd"):
        heads, goal = model.config.architecture.heads, torch.from_numpy(targets)
        on_epoch = (lambda epoch, epochs: tell(f"epoch {epoch} of {epochs}")) if tell else None
        options = {"heads": heads, "one_label": one_label, "seed": seed, "on_epoch": on_epoch}
        return fitted_scores(kind, train, goal, test, **options).numpy()
    here, there = (torch.cat(parts, dim=1).double().numpy() for parts in (train, test))
    return vote(here, targets, there, neighbours, sources) if kind == "knn" else linear(here, targets, there, one_label)


def vote(
    train: Float[np.ndarray, "n E"],
    targets: Bool[np.ndarray, "n classes"],
    test: Float[np.ndarray, "m E"],
    neighbours: int,
    sources: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]] | None = None,
) -> Float[np.ndarray, "m classes"]:
    """The votes of the nearest training clips that are of another source; 0 for all classes where there are none."""
    from sklearn.neighbors import NearestNeighbors

    here, there = sources or (np.zeros(len(train), int), np.ones(len(test), int))
    known, counts = np.unique(here, return_counts=True)
    most = int(counts[np.isin(known, there)].max(initial=0))  # windows of its own source that come before others
    index = NearestNeighbors(n_neighbors=min(neighbours + most, len(train)), metric="cosine").fit(train)
    distance, nearest = index.kneighbors(test)
    votes = here[nearest] != there[:, None]
    votes &= np.cumsum(votes, axis=1) <= neighbours
    first = np.where(votes, distance, np.inf).min(1, keepdims=True)
    weight = np.where(votes, np.exp((np.where(votes, first, distance) - distance) / TEMPERATURE), 0.0)
    return (weight[:, :, None] * targets[nearest]).sum(1) / np.maximum(weight.sum(1, keepdims=True), 1e-300)


def linear(
    train: Float[np.ndarray, "n E"],
    targets: Bool[np.ndarray, "n classes"],
    test: Float[np.ndarray, "m E"],
    one_label: bool,
) -> Float[np.ndarray, "m classes"]:
    """The scores of logistic regression; very low for classes that the training clips lack."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(train)
    train, test = np.asarray(scale.transform(train)), np.asarray(scale.transform(test))
    scores = np.full((len(test), targets.shape[1]), -1e9)  # of classes that the training split lacks
    if one_label and targets.any(0).sum() == 1:  # of a fold without the rare class
        scores[:, targets.any(0)] = 0.0
        return scores
    if one_label:
        model = LogisticRegression(max_iter=1000).fit(train, targets.argmax(1))
        scores[:, model.classes_] = model.predict_log_proba(test)
        return scores
    for column in np.flatnonzero(targets.any(0) & ~targets.all(0)):
        model = LogisticRegression(max_iter=1000).fit(train, targets[:, column])
        scores[:, column] = model.decision_function(test)
    return scores
