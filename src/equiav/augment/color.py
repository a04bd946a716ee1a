"""Colour effects on RGB in [0, 1] with the meaning they have in PIL and torchvision, batched.

Brightness, contrast and saturation blend with black, with the mean grey and with the grey picture
(`PIL.ImageEnhance`); hue turns the colour circle (`torchvision.transforms.functional.adjust_hue`). Each is
clipped to [0, 1] before the next, as on 8-bit pictures, but nothing is rounded.

Every sample has its own order of the four. The three blends are one 3×3 colour matrix and one offset, so the batch
runs six blends, three before the hue turn and three after, where those not due are x·1 + 0, and one turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, PIL's convert("L")
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def grey(x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Luma of every pixel."""
    red, green, blue = x.unbind(1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])[:, None]


def jitter(
    x: Float[Tensor, "B 3 H W"], factors: Float[Tensor, "B 3"], turn: Float[Tensor, " B"], order: Float[Tensor, "B 4"]
) -> Float[Tensor, "B 3 H W"]:
    """Brightness, contrast, saturation and hue, in the order given for each sample.

    Args:
        factors: of brightness, contrast and saturation; 1 changes nothing.
        turn: of the hue, in turns; 0 changes nothing.
        order: `order[b, r]` is the effect (0 to 3: brightness, contrast, saturation, hue) of round r.
    """
    order = order.round().long()
    factor = torch.cat([factors, torch.ones_like(factors[:, :1])], dim=1).gather(1, order)
    before_hue = (order == HUE).cumsum(1) == 0
    for round_ in range(3):
        x = _blend(x, factor[:, round_], order[:, round_], before_hue[:, round_])
    x = torch.where((turn != 0)[:, None, None, None], _turn_hue(x, turn), x)
    for round_ in range(1, 4):
        x = _blend(x, factor[:, round_], order[:, round_], ~before_hue[:, round_])
    return x


def _blend(x: Tensor, factor: Tensor, effect: Tensor, due: Tensor) -> Tensor:
    """One round: factor·x + (1 - factor)·(black, mean grey or grey), clipped."""
    B, C, H, W = x.shape
    luma = x.new_tensor(_LUMA)
    rest = torch.where(due, 1 - factor, 0.0)
    of_grey = torch.where(effect == SATURATION, rest, 0.0)[:, None, None]
    matrix = torch.eye(3, device=x.device, dtype=x.dtype) * (1 - rest)[:, None, None] + of_grey * luma
    offset = torch.where(effect == CONTRAST, rest, 0.0) * (x.mean((2, 3)) @ luma)
    mixed = torch.baddbmm(offset[:, None, None], matrix, x.reshape(B, C, H * W))
    return mixed.clamp_(0, 1).view(x.shape)


def _turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of HSV, keeping the largest and the smallest channel of each pixel."""
    red, green, blue = x.unbind(1)
    largest, smallest = x.amax(1), x.amin(1)
    spread = largest - smallest
    safe = spread.clamp(min=1e-8)
    sixths = torch.where(
        largest == red,
        (green - blue) / safe,
        torch.where(largest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sixths = torch.remainder(sixths + 6 * turn[:, None, None], 6.0)
    # how far each channel lies from the smallest (0) to the largest (1), as a function of the hue
    share = torch.stack([(sixths - 3).abs_().sub_(1), 2 - (sixths - 2).abs_(), 2 - (sixths - 4).abs_()], dim=1).clamp_(
        0, 1
    )
    return share.mul_(spread[:, None]).add_(smallest[:, None])
