"""Colour effects on RGB in [0, 1] with the meaning they have in PIL and torchvision, batched.

Brightness, contrast and saturation blend with black, with the mean grey and with the grey picture
(`PIL.ImageEnhance`); hue turns the colour circle (`torchvision.transforms.functional.adjust_hue`). Each is
clipped to [0, 1] before the next, as on 8-bit pictures, but nothing is rounded.

Samples that share their order of the four are done together, in place. kornia, which has the like, is no dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def jitter_(
    x: Float[Tensor, "B 3 H W"], amounts: Float[Tensor, "B 4"], order: Sequence[int]
) -> Float[Tensor, "B 3 H W"]:
    """Brightness, contrast, saturation and hue in the given order, overwriting x.

    Args:
        amounts: factors of brightness, contrast and saturation (1 changes nothing), turns of the hue (0).
        order: the effects (0 to 3) one after the other.
    """
    columns = amounts[:, :, None, None, None].unbind(1)
    for effect in order:
        if effect == HUE:
            _turn_hue_(x, columns[HUE][:, 0])
            continue
        factor = columns[effect]
        if effect == BRIGHTNESS:
            x.mul_(factor)
        else:
            other = grey(x)
            if effect == CONTRAST:
                other = other.mean((2, 3), keepdim=True)
            x.mul_(factor).add_(other.mul_(1 - factor))
        x.clamp_(0, 1)
    return x


def _turn_hue_(x: Float[Tensor, "B 3 H W"], turn: Float[Tensor, "B 1 1"]) -> None:
    """Turn the hue of HSV, keeping the largest and the smallest channel of each pixel.

    On the colour hexagon red's share s_r of the way from smallest to largest is clamp(2 - |h|, 0, 1), h the hue in
    sixths of a turn from red; green's and blue's are the same at h - 2 and h + 2. Hence |h| = 1 - s_r + s_g + s_b
    all the way round, and its sign is that of green - blue: no case analysis, which is ten times slower here.
    """
    red, green, blue = x.unbind(1)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    largest = torch.maximum(torch.maximum(red, green), blue)
    spread = largest - smallest
    hue = (green + blue).sub_(red).add_(largest).sub_(smallest, alpha=2).div_(spread.clamp(min=1e-12))
    hue = hue.copysign_(green - blue).add_(6 * turn)
    hue.sub_((hue / 6).round_(), alpha=6)  # into [-3, 3]
    for channel, centre in ((red, 0), (green, 2), (blue, -2)):
        share = torch.sub(hue, centre).abs_()
        if centre:
            share = torch.minimum(share, 6 - share)
        channel.copy_(share.neg_().add_(2).clamp_(0, 1).mul_(spread).add_(smallest))
