"""How many predictions make a centroid?  One branch, n clips → distances to its limits over K, by way of sampling.

The centroid of K predictions stands for the mean representation over all transformations (§3 of the paper:
h^rep = E_t[h'] ≈ h̄ = 1/K Σ u(h, t_k)). It is held against two limits: the *dense* mean of very many predictions,
which it reaches with K → ∞, and the *real* mean of embeddings of really transformed inputs, which it reaches only if
the predictor is right. Distances are root mean squares over clips and draws, in units of the clips' spread (root mean
square distance of a clip's dense mean from the mean over clips): 0.1 is a tenth of how far clips lie apart.

n clips · K sets · R draws of K sets · D latent width · E embedding width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import Tensor

from equiav.augment.uniforms import Method
from equiav.diagnose.branch import FULL, Branch, Effort, batched, latents, repeat, rest
from equiav.diagnose.figures import figure
from equiav.metrics.figures import Figure

if TYPE_CHECKING:
    from jaxtyping import Float

Project = Callable[[Tensor], Tensor]
WITHIN = 0.05  # of the limit: where more predictions no longer pay
METHODS: tuple[Method, ...] = get_args(Method)
AT_ONCE = 4096  # predictions held at a time
SOBOL = 16  # Sobol sets that are held against twice as many independent ones


@dataclass(frozen=True)
class Curve:
    """Of one way of sampling: K → distance to the dense mean (with the spread over draws), and its fitted rate."""

    to_dense: dict[int, Figure]
    rate: float  # exponent of K: −0.5 independent draws


@dataclass(frozen=True)
class ToReal:
    """K → distance to the mean over real transformations, in one space; its limit is the predictor's own error."""

    space: str
    to_real: dict[int, Figure]
    limit: float  # distance of the dense mean of predictions
    plain: float  # distance of the plain representation: what there would be without predictor
    views: int
    clips: int

    @property
    def enough(self) -> int | None:
        """The smallest K within 5 % of the limit; of a limit near 0, within 5 % of the clips' spread."""
        near = max((1 + WITHIN) * self.limit, WITHIN)
        return next((k for k, found in self.to_real.items() if found.value <= near), None)


@dataclass(frozen=True)
class CentroidReport:
    """All about the centroid of one branch."""

    clips: int
    curves: dict[str, Curve]
    noise: float  # variance of a centroid of the model's own K over fresh draws, over the variance between clips
    real: list[ToReal] = field(default_factory=list)

    @property
    def enough(self) -> int | None:
        """The smallest K whose i.i.d. centroid is within 5 % of the clips' spread of the dense mean."""
        return next((k for k, found in self.curves["iid"].to_dense.items() if found.value <= WITHIN), None)

    @property
    def sobol_against_iid(self) -> float:
        """Error of some Sobol sets over that of twice as many independent ones: at most 1 means half the sets do."""
        return self.curves["sobol"].to_dense[SOBOL].value / self.curves["iid"].to_dense[2 * SOBOL].value


def centroid_report(branch: Branch, own_count: int, effort: Effort = FULL, *, seed: int = 0) -> CentroidReport:
    """Measure one branch's centroid; the model must have a predictor, and `own_count` is its own K."""
    rows = torch.arange(min(effort.centroid_clips, len(branch.clips)))
    generator = torch.Generator().manual_seed(seed)
    tokens = batched(branch.tokens, rows)
    dense_sets = branch.space.encode(branch.space.sample(effort.dense, generator, "sobol"))
    dense = _mean_prediction(branch, tokens, dense_sets)
    curves = {}
    for method in METHODS:
        known = _curve(branch, tokens, dense, effort, generator, method=method)
        curves[method] = Curve(known, _rate(known))
    single = curves["iid"].to_dense[1].value
    real = _to_real(branch, tokens[: effort.real_clips], dense_sets, effort, generator)
    return CentroidReport(len(rows), curves, single**2 / own_count, real)


def _mean_prediction(
    branch: Branch, tokens: Tensor, codes: Float[Tensor, "K P"], project: Project = Tensor.float
) -> Float[Tensor, "n D"]:
    """The centroid of K sets that all clips share, of what `project` makes of each prediction."""
    step = max(AT_ONCE // len(tokens), 1)
    total = torch.zeros(1)
    for part in codes.split(step):
        # not every GPU knows float64
        total = total + project(branch.predict(tokens, part[None])).cpu().double().sum(1)
    return (total / len(codes)).float()


def _distance(x: Float[Tensor, "n D"], goal: Float[Tensor, "n D"]) -> float:
    """Root mean square distance over the clips, in units of the spread of the goals."""
    spread = (goal - goal.mean(0)).square().sum(1).mean().sqrt().clamp(min=1e-12)
    return float((x - goal).square().sum(1).mean().sqrt() / spread)


def _curve(
    branch: Branch,
    tokens: Tensor,
    goal: Tensor,
    effort: Effort,
    generator: torch.Generator,
    *,
    method: Method = "iid",
    project: Project = Tensor.float,
) -> dict[int, Figure]:
    """Distance of the centroid of K sets to a goal, over draws of them, by K."""
    found = {}
    for k in effort.counts:
        sets = [branch.space.encode(branch.space.sample(k, generator, method)) for _ in range(effort.draws)]
        errors = [_distance(_mean_prediction(branch, tokens, codes, project), goal) for codes in sets]
        if (known := figure(np.array(errors))) is not None:
            found[k] = known
    return found


def _rate(curve: dict[int, Figure]) -> float:
    """Exponent of K in a least-squares fit of log distance to log K; one prediction is left out."""
    points = [(k, found.value) for k, found in curve.items() if k > 1 and found.value > 0]
    if len(points) < 2:
        return float("nan")
    k, error = np.log(np.array(points, dtype=np.float64)).T
    return float(np.polyfit(k, error, 1)[0])


def _to_real(
    branch: Branch, tokens: Tensor, dense_sets: Tensor, effort: Effort, generator: torch.Generator
) -> list[ToReal]:
    """Distances to the mean over many real transformations of each clip, in the latent and the intra-modal space."""
    spaces: dict[str, Project] = {"latent": Tensor.float, "intra": branch.project}
    rows = torch.arange(len(tokens))
    plain = latents(branch, rows, repeat(rest(branch.space), len(rows)))
    real: dict[str, list[Tensor]] = {name: [] for name in spaces}
    for row in rows:
        views = latents(branch, row.expand(effort.real), branch.space.sample(effort.real, generator, "sobol"))
        for name, project in spaces.items():
            real[name].append(project(views).mean(0))
    found = []
    for name, project in spaces.items():
        goal = torch.stack(real[name])
        found.append(
            ToReal(
                name,
                _curve(branch, tokens, goal, effort, generator, project=project),
                _distance(_mean_prediction(branch, tokens, dense_sets, project), goal),
                _distance(project(plain), goal),
                effort.real,
                len(tokens),
            )
        )
    return found


def retrieval_by_count(branches: dict[str, Branch], effort: Effort = FULL, *, seed: int = 0) -> dict[str, Figure]:
    """R@1 among the clips, both directions averaged, of the same model with K predictions per centroid.

    Keys `1` … `256`: K independent sets, mean over draws, interval over the clips' sources; `plain`: the mean token, no
    predictor.
    """
    generator = torch.Generator().manual_seed(seed)
    one = next(iter(branches.values()))
    rows = torch.arange(len(one.clips))
    tokens = {name: batched(branch.tokens, rows) for name, branch in branches.items()}
    found = {}
    draws = max(effort.draws // 2, 1)
    for k in (0, *effort.counts):
        hits = torch.zeros(len(rows))
        for _ in range(draws if k else 1):
            vectors = []
            for name, branch in branches.items():
                codes = branch.space.encode(branch.space.sample(max(k, 1), generator))
                latent = _mean_prediction(branch, tokens[name], codes) if k else tokens[name].mean(1)
                vectors.append(branch.embed(latent))
            scores = vectors[0] @ vectors[1].T
            own = scores.diagonal()
            first = (scores > own[:, None]).sum(1) == 0, (scores > own).sum(0) == 0
            hits += (first[0].float() + first[1].float()) / 2 / (draws if k else 1)
        if (known := figure(hits, one.sources(rows))) is not None:
            found[str(k) if k else "plain"] = known
    return found
