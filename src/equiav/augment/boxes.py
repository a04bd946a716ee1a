"""Boxes of a random resized crop, drawn without trying again, and what both modalities' crops share.

A box of area s and ratio r = width/height, in shares of the whole, fits inside it if |log r| <= -log s.
torchvision (`RandomResizedCrop.get_params`) draws s and log r uniformly until the box fits, ten times at most.
What it accepts is uniform on the pairs that fit, so here log r comes from the inverse distribution function of
that marginal (tabulated once per setting) and s is uniform on what is left of its range: one pass, every uniform
used once, as antithetic and Sobol draws need. Left out are the rounding of boxes to whole pixels and the limit of ten
tries, after which torchvision takes a central crop: one try fails in 14 % (visual) and 16 % (audio) of the draws at
the paper's ranges, ten in less than 2e-8.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from equiav.augment.transform import Slot, SpaceParams, Transform
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float

_KNOTS = 1024
_THINNEST = 0.01


class Crop(Transform):
    """A random resized crop; its options have `scale` (area of the box) and `ratio` (width over height)."""

    name = "crop"
    axes: ClassVar[tuple[str, str]]
    """What top and height, and left and width, are shares of."""

    @override
    def amount_slots(self) -> list[Slot]:
        return box_slots(self.axes, self.options.scale, self.options.ratio)

    @override
    def amounts(self, u: Float[Tensor, "n 4"]) -> tuple[Tensor, ...]:
        return draw_box(u, self.options.scale, self.options.ratio)

    @override
    def settle(self, params: SpaceParams) -> SpaceParams:
        """The nearest box inside the whole, at least 1 % long and wide."""
        on, top, left, height, width = params.values.unbind(1)
        height, width = height.clamp(_THINNEST, 1), width.clamp(_THINNEST, 1)
        top, left = torch.minimum(top, 1 - height), torch.minimum(left, 1 - width)
        return SpaceParams(torch.stack([on, top, left, height, width], dim=1), params.names)


def box_slots(
    axes: tuple[str, str], scale: tuple[float, float] = (0.0, 1.0), ratio: tuple[float, float] = (1.0, 1.0)
) -> list[Slot]:
    """Slots of a box with the ranges that `draw_box` fills; neutral at the whole."""
    height, width = math.sqrt(scale[0] / ratio[1]), math.sqrt(scale[0] * ratio[0])
    return [
        Slot.centred("top", f"share of {axes[0]}", 0.0, 1.0 - height, 0.0),
        Slot.centred("left", f"share of {axes[1]}", 0.0, 1.0 - width, 0.0),
        Slot.centred("height", f"share of {axes[0]}", height, 1.0, 1.0),
        Slot.centred("width", f"share of {axes[1]}", width, 1.0, 1.0),
    ]


def draw_box(
    u: Float[Tensor, "n 4"], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of boxes of area `scale` and width/height `ratio`, in shares of the whole."""
    table = _log_ratio_table(scale, ratio, u.device)
    place = u[:, 0] * _KNOTS
    knot = place.long()
    log_ratio = torch.lerp(table[knot], table[knot + 1], place - knot)
    largest = torch.exp(-log_ratio.abs()).clamp(max=scale[1])
    area = scale[0] + u[:, 1] * (largest - scale[0]).clamp(min=0)
    # rounding of the table may leave a side longer than the whole by an ulp
    width = torch.exp(0.5 * (area.log() + log_ratio)).clamp(max=1.0)
    height = torch.exp(0.5 * (area.log() - log_ratio)).clamp(max=1.0)
    return u[:, 2] * (1 - height), u[:, 3] * (1 - width), height, width


@lru_cache(maxsize=32)
def _log_ratio_table(
    scale: tuple[float, float], ratio: tuple[float, float], device: torch.device
) -> Float[Tensor, " knots"]:
    """log r at even steps of its distribution function."""
    low, high = torch.tensor(ratio, dtype=torch.float64).log().tolist()
    if low == high:
        return torch.full((_KNOTS + 1,), low, device=device)
    edges = torch.linspace(low, high, 16 * _KNOTS + 1, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    fits = torch.exp(-middle.abs())
    density = (fits.clamp(max=scale[1]) - scale[0]).clamp(min=0)
    if not density.any():  # a single area: every ratio that fits is as likely
        density = (fits >= scale[0]).double()
    if not density.any():
        raise ConfigError(f"crop: no box of area {scale} and ratio {ratio} fits inside the whole")
    mass = torch.cat([density.new_zeros(1), density.cumsum(0)]) / density.sum()
    target = torch.linspace(0, 1, _KNOTS + 1, dtype=torch.float64)
    right = torch.searchsorted(mass, target).clamp(1, len(mass) - 1)
    step = (mass[right] - mass[right - 1]).clamp(min=1e-300)
    inverse = edges[right - 1] + (target - mass[right - 1]) / step * (edges[right] - edges[right - 1])
    return inverse.float().to(device)
