"""Do predictions compose?  One branch, clips → what is predicted for nothing, and for one transformation after another.

A transformation group would have u(x, id) = f(x) and u(x, t₂∘t₁) = f(t₂(t₁(x))). The attention predictor starts from
tokens and ends in one vector, so it can't be applied twice; what can be asked is whether it is right about the
parameters of the composition, which may lie outside of what training draws (a crop of a crop), or whether it would do
as well if the second step were left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch

from equiav.augment.audio import AudioSpace
from equiav.augment.visual import VisualSpace
from equiav.diagnose.branch import FULL, Branch, Effort, join, states, trained_on
from equiav.diagnose.figures import figure
from equiav.errors import ConfigError
from equiav.metrics import displacement as measures
from equiav.metrics.figures import Figure

COMPOSABLE = {"audio": ("shift", "gain", "contrast", "reverse"), "visual": ("crop", "flip", "grayscale")}


@dataclass(frozen=True)
class Composition:
    """How right the predictor is about two transformations one after the other, in the intra-modal space."""

    transforms: list[str]
    rest_ratio: Figure | None = None  # |u(x, nothing) − f(x)| / |f(t(x)) − f(x)|: 0 where nothing done changes nothing
    cosine: Figure | None = None
    relative_error: Figure | None = None
    margin: Figure | None = None  # cosine with both steps given minus cosine with the first alone
    reason: str = ""  # why there are no figures


def composition(branch: Branch, effort: Effort = FULL, *, seed: int = 0) -> Composition:
    """Two draws of the transforms that compose to one parameter set, in turn."""
    rows, draws = torch.arange(min(effort.composed_clips, len(branch.clips))), effort.composed_draws
    names = [name for name in COMPOSABLE[branch.name] if name in trained_on(branch.space)]
    if not names:
        return Composition([], reason="none of its transformations compose to one")
    generator = torch.Generator().manual_seed(seed)
    part = branch.space.only(*names)
    first, then = (part.sample(len(rows) * draws, generator) for _ in range(2))
    space = cast("AudioSpace | VisualSpace", branch.space)
    try:
        both = space.compose(first, then)
    except ConfigError as error:
        return Composition(names, reason=str(error))
    sets = join(both, first)
    order = torch.arange(len(sets)).view(2, len(rows), draws).transpose(0, 1).reshape(-1)
    seen = states(branch, rows, sets[order]).projected(branch)
    whole, half = seen.views(list(range(draws))), seen.views(list(range(draws, 2 * draws)))
    if whole.r is None or half.r is None or whole.r_before is None:
        return Composition(names, reason="no predictor")
    both_given = measures.displacement_cosine(whole.p, whole.q, whole.r)
    first_alone = measures.displacement_cosine(whole.p, whole.q, half.r)
    rests = (whole.r_before - whole.p).norm(dim=-1).mean(1) / (whole.q - whole.p).norm(dim=-1).mean(1)
    error = measures.relative_error(whole.p, whole.q, whole.r)
    known = [figure(x, branch.sources(rows)) for x in (rests, both_given, error, both_given - first_alone)]
    return Composition(names, known[0], known[1], known[2], known[3])
