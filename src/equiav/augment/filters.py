"""Linear filters with their own settings for every sample of a batch: resampling and Gaussian smoothing.

    box of each sample -> weights (B, S, H) -> weights @ x          antialiased crop and resize, any aspect
    sigma of each sample -> kernels (B, R) -> depthwise convolution

The resampling weights are PIL's (`Image.resize`): the filter is widened by the shrinking factor, cut at the box
and normalised. There is no rounding to 8 bits between the passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from equiav.augment.transform import FLAG, FlagOptions, Params, Probability, Range, Slot, Transform

if TYPE_CHECKING:
    from jaxtyping import Float

Interpolation = Literal["bilinear", "bicubic"]

_CUBIC = -0.5  # PIL's and torchvision's antialiased a (Keys 1981)


def resampling_weights(
    low: Float[Tensor, " B"],
    high: Float[Tensor, " B"],
    size_in: int,
    size_out: int,
    *,
    clip_low: Float[Tensor, " B"],
    clip_high: Float[Tensor, " B"],
    interpolation: Interpolation,
) -> Float[Tensor, "B S H"]:
    """Weights that resize the interval [low, high) of an axis, in pixels, to `size_out` pixels.

    Args:
        clip_low: first edge that the filter may see, in pixels (rounded down).
        clip_high: last edge that the filter may see, in pixels (rounded up).
    """
    scale = ((high - low) / size_out)[:, None]
    centre = low[:, None] + (torch.arange(size_out, device=low.device, dtype=low.dtype) + 0.5) * scale
    pixel = torch.arange(size_in, device=low.device, dtype=low.dtype) + 0.5
    distance = (pixel - centre[:, :, None]).div_(scale.clamp(min=1.0)[:, :, None]).abs_()
    weights = _triangle(distance) if interpolation == "bilinear" else _cubic(distance)
    seen = (pixel > clip_low[:, None].floor()) & (pixel < clip_high[:, None].ceil())
    weights.mul_(seen[:, None, :])
    return weights.div_(weights.sum(2, keepdim=True))


def resample(
    x: Float[Tensor, "B C H W"], rows: Float[Tensor, "B S H"], columns: Float[Tensor, "B Z W"]
) -> Float[Tensor, "B C S Z"]:
    """Apply resampling weights to both axes of every sample."""
    B, C, H, W = x.shape
    narrow = torch.bmm(x.reshape(B, C * H, W), columns.transpose(1, 2)).view(B, C, H, -1)
    return torch.stack([torch.bmm(rows, narrow[:, channel]) for channel in range(C)], dim=1)


def smooth(x: Float[Tensor, "B C H W"], sigma: Float[Tensor, " B"], radius: int) -> Float[Tensor, "B C H W"]:
    """Gaussian smoothing with a standard deviation per sample, in pixels; edges are repeated.

    Args:
        radius: taps on either side, at least three times the largest sigma for a full kernel.
    """
    B, C, H, W = x.shape
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    # a sigma of 0 must give the delta kernel, not 0/0
    kernel = torch.softmax(-0.5 * (taps / sigma.clamp(min=1e-2)[:, None]) ** 2, dim=1)
    kernel = kernel.repeat_interleave(C, dim=0)[:, None, :, None]
    for across in (False, True):
        padding = (radius, radius, 0, 0) if across else (0, 0, radius, radius)
        padded = functional.pad(x, padding, mode="replicate")
        weight = kernel.transpose(2, 3) if across else kernel
        x = functional.conv2d(padded.view(1, B * C, *padded.shape[2:]), weight, groups=B * C).view(B, C, H, W)
    return x


def _triangle(distance: Tensor) -> Tensor:
    return distance.neg_().add_(1.0).clamp_(min=0.0)


def _cubic(distance: Tensor) -> Tensor:
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * _CUBIC - 4 * _CUBIC
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


class BlurOptions(FlagOptions):
    """Options of `blur`."""

    p: Probability = Field(default=0.5, description="Probability that the blur is on.")
    sigma: Range = Field(default=(0.1, 2.0), description="Standard deviation, in cells (frames and bins) or pixels.")


@dataclass(frozen=True)
class BlurParams(Params):
    """Width of the Gaussian."""

    sigma: Float[Tensor, " n"]


class Blur(Transform[BlurParams]):
    """Smooths with a Gaussian, the same width along both axes."""

    name = "blur"
    kind = BlurParams
    Options = BlurOptions

    def __init__(self, options: BlurOptions) -> None:
        super().__init__(options)
        # three deviations hold 99.7 % of the kernel
        self.radius = max(1, int(3 * options.sigma[1] + 0.999))
        self.slots = (FLAG, Slot.centred("sigma", "cells", options.sigma[0], options.sigma[1], 0.0))

    @override
    def apply(self, x: Tensor, params: BlurParams) -> Tensor:
        """Smooth (B, T, M) or (B, C, H, W)."""
        images = x if x.ndim == 4 else x[:, None]
        smoothed = smooth(images, params.sigma, self.radius)
        return torch.where(params.on[:, None, None, None] > 0.5, smoothed, images).view(x.shape)
