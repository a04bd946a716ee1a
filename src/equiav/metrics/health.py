"""Is the model still learning what it should?  Embeddings of a batch → measures; measures → alarms that say what to do.

The signatures of failure of this method: embeddings that collapse, a predictor that predicts no change, a centroid
that says more about its K draws than about the clip, similarities that the temperature flattens. The training loop
asks after every epoch, on the batch it has just seen.

B batch · E embedding width · K parameter sets · D latent width
"""

# torch has no whole types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

PAIRED_ROWS = 1024  # rows of a batch that measures over all pairs look at


def alignment(audio: Float[Tensor, "B E"], visual: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """Mean squared distance of partners on the unit sphere: 0 the same, 2 at right angles (Wang and Isola 2020)."""
    return (_unit(audio) - _unit(visual)).square().sum(1).mean()


def uniformity(x: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """log mean exp(-2 d²) over pairs on the unit sphere: 0 collapsed, about -4 spread out (Wang and Isola 2020)."""
    return torch.pdist(_unit(x)[:PAIRED_ROWS]).square().mul(-2).exp().mean().log()


def deviation(x: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """Mean standard deviation of a coordinate on the unit sphere, times √E: 1 spread out, 0 collapsed."""
    return _unit(x).std(0, correction=0).mean() * x.shape[1] ** 0.5


def effective_rank(x: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """Exponential of the entropy of the singular values of the centred embeddings (Roy and Vetterli 2007)."""
    if not x.isfinite().all():
        return x.new_tensor(float("nan"))
    return torch.special.entr(spectrum(x)).sum().exp()


def spectrum(x: Float[Tensor, "B E"]) -> Float[Tensor, " R"]:
    """Singular values of the centred unit embeddings, largest first, as shares of their sum."""
    values = torch.linalg.svdvals(_unit(x) - _unit(x).mean(0))
    return values / values.sum().clamp(min=1e-12)


def rank_share(x: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """Effective rank over the largest that B embeddings can have: 1 all directions alike, 0 collapsed."""
    return effective_rank(x) / max(min(len(x) - 1, x.shape[1]), 1)


def modality_gap(audio: Float[Tensor, "B E"], visual: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """Distance between the modalities' mean unit vectors: 0 they share one region, 2 opposite poles (Liang 2022)."""
    return (_unit(audio).mean(0) - _unit(visual).mean(0)).norm()


def displacement_ratio(
    plain: Float[Tensor, "B E"], predicted: Float[Tensor, "B E"], transformed: Float[Tensor, "B E"]
) -> Float[Tensor, ""]:
    """How far the predictor moves an embedding, over how far the transformation moves it: 0 predicts no change."""
    moved = (_unit(transformed) - _unit(plain)).norm(dim=1).mean()
    return (_unit(predicted) - _unit(plain)).norm(dim=1).mean() / moved.clamp(min=1e-12)


def centroid_noise(moved: Float[Tensor, "B K D"]) -> Float[Tensor, ""]:
    """Variance of a centroid over fresh draws of its K sets, over the variance of centroids between clips."""
    own = moved.var(1).sum(1).mean() / moved.shape[1]
    between = moved.mean(1).var(0).sum()
    return own / between.clamp(min=1e-12)


def logit_spread(audio: Float[Tensor, "B E"], visual: Float[Tensor, "B E"], temperature: float) -> Float[Tensor, ""]:
    """Standard deviation of the inter-modal logits: near 0 the softmax is flat whatever the pairs are."""
    rows = slice(PAIRED_ROWS)
    return (_unit(audio)[rows] @ _unit(visual)[rows].T / temperature).std(correction=0)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.detach().float(), dim=-1)


@dataclass(frozen=True)
class Alarm:
    """A measure beyond its threshold: what it means and what to do."""

    name: str
    measure: str  # rings for this measure, of either modality
    below: float | None
    above: float | None
    advice: str

    def rings(self, value: float) -> bool:
        """Is the value out of bounds? NaN is."""
        low = self.below is not None and not value >= self.below
        return low or (self.above is not None and not value <= self.above)

    def describe(self, measure: str, value: float) -> str:
        """One line for people."""
        if math.isnan(value):
            return f"{measure} is not a number: the embeddings are not finite; lower optim.lr"
        bound = f"below {self.below}" if self.below is not None else f"above {self.above}"
        return f"{self.name}: {measure} is {value:.3g}, {bound}; {self.advice}"


ALARMS = (
    Alarm(
        "embedding collapse",
        "deviation",
        0.1,
        None,
        "all clips get nearly one embedding: lower optim.lr, lengthen optim.warmup_epochs, or raise train.global_batch",
    ),
    Alarm(
        "dimensional collapse",
        "rank_share",
        0.05,
        None,
        "the embeddings use a few directions only: lower optim.lr, or give the inter-modal loss more negatives",
    ),
    Alarm(
        "predictor predicts no change",
        "displacement_ratio",
        0.1,
        None,
        "the transformations do not reach the prediction: raise loss.intra_audio and loss.intra_visual, or widen the "
        "ranges of augment",
    ),
    Alarm(
        "centroid too noisy",
        "centroid_noise",
        None,
        0.5,
        "the centroid depends on its draws as much as on its clip: raise model.centroid_samples, or take "
        "model.centroid_sampling=sobol",
    ),
    Alarm(
        "dead temperature",
        "logit_spread",
        0.05,
        None,
        "the similarities are flat at this temperature, which gives hardly any gradient: lower loss.temperature",
    ),
    Alarm(
        "data-starved",
        "data_wait",
        None,
        0.2,
        "steps wait for the loader: use faster storage, smaller features.frame_side, or fewer other readers",
    ),
)


def ringing(measures: dict[str, float]) -> dict[str, str]:
    """Measure → line, for each that sets off an alarm; a measure is called `audio.deviation` or just `data_wait`."""
    return {
        name: alarm.describe(name, value)
        for name, value in measures.items()
        for alarm in ALARMS
        if name.split(".")[-1] == alarm.measure and alarm.rings(value)
    }
