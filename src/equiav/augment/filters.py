"""Linear filters with their own settings for every sample of a batch: resampling and Gaussian smoothing.

    box of each sample -> taps: indices and weights (B, S, k) -> weighted sums of rows      crop and resize
    sigma of each sample -> kernels (B, R) -> depthwise convolution                         smoothing

The resampling weights are PIL's (`Image.resize`): the filter is widened by the shrinking factor, cut at the box
and normalised. There is no rounding to 8 bits between the passes. Weighted sums of whole rows (`embedding_bag`) are
many times faster than products with the (S, H) matrices they stand for; columns are rows of the transposed map.
kornia, which has the like, is no dependency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from equiav.augment.transform import FlagOptions, Probability, Range, Slot, SpaceParams, Transform, moved

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

Interpolation = Literal["bilinear", "bicubic"]

_CUBIC = -0.5  # PIL's and torchvision's antialiased a (Keys 1981)


@dataclass(frozen=True)
class Taps:
    """Which k rows of an axis make up each of S outputs, per sample."""

    index: Int64[Tensor, "B S k"]
    weight: Float[Tensor, "B S k"]


def resampling_taps(
    low: Float[Tensor, " B"],
    high: Float[Tensor, " B"],
    size_in: int,
    size_out: int,
    *,
    clip_low: Float[Tensor, " B"],
    clip_high: Float[Tensor, " B"],
    interpolation: Interpolation,
) -> Taps:
    """Taps that resize the interval [low, high) of an axis, in pixels, to `size_out` pixels.

    Args:
        clip_low: first edge that the filter may see, in pixels (rounded down).
        clip_high: last edge that the filter may see, in pixels (rounded up).
    """
    reach = 1 if interpolation == "bilinear" else 2
    # no interval is longer than the axis, which bounds the taps without looking at the boxes
    most = math.ceil(2 * reach * max(1.0, size_in / size_out))
    scale = ((high - low) / size_out)[:, None]
    widen = scale.clamp(min=1.0)
    centre = low[:, None] + (torch.arange(size_out, device=low.device, dtype=low.dtype) + 0.5) * scale
    first = (centre - reach * widen - 0.5).floor() + 1
    pixel = first[:, :, None] + torch.arange(most, device=low.device, dtype=low.dtype)
    distance = (pixel + 0.5 - centre[:, :, None]).abs() / widen[:, :, None]
    weight = _triangle(distance) if interpolation == "bilinear" else _cubic(distance)
    seen = (pixel >= clip_low[:, None, None].floor()) & (pixel < clip_high[:, None, None].ceil())
    weight = weight * seen
    weight = weight / weight.sum(2, keepdim=True)
    return Taps(pixel.clamp(0, size_in - 1).long(), weight)


def resample_rows(x: Float[Tensor, "B C H W"], taps: Taps) -> Float[Tensor, "B C S W"]:
    """Weighted sums of rows."""
    B, C, H, W = x.shape
    S, most = taps.index.shape[1:]
    plane = torch.arange(B * C, device=x.device).view(B, C, 1, 1) * H
    index = (taps.index[:, None] + plane).view(-1, most)
    weight = taps.weight[:, None].expand(B, C, S, most).reshape(-1, most)
    rows = x.reshape(B * C * H, W)
    return functional.embedding_bag(index, rows, mode="sum", per_sample_weights=weight).view(B, C, S, W)


def resample(x: Float[Tensor, "B C H W"], rows: Taps, columns: Taps) -> Float[Tensor, "B C S Z"]:
    """Resample both axes."""
    turned = resample_rows(x, rows).transpose(2, 3).contiguous()
    return resample_rows(turned, columns).transpose(2, 3).contiguous()


def smooth(x: Float[Tensor, "B C H W"], sigma: Float[Tensor, " B"], radius: int) -> Float[Tensor, "B C H W"]:
    """Gaussian smoothing with a standard deviation per sample, in pixels, over three of them; edges are repeated.

    Args:
        radius: taps on either side, at least three times the largest sigma.
    """
    B, C, H, W = x.shape
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    # a sigma of 0 is the delta kernel, not 0/0
    kernel = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-2)[:, None]) ** 2)
    # a kernel must not depend on the widest of its batch
    kernel = kernel * (taps.abs() <= (3 * sigma).ceil()[:, None])
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(C, dim=0)[:, None, :, None]
    for across in (False, True):
        padding = (radius, radius, 0, 0) if across else (0, 0, radius, radius)
        padded = functional.pad(x, padding, mode="replicate")
        weight = kernel.transpose(2, 3) if across else kernel
        x = functional.conv2d(padded.view(1, B * C, *padded.shape[2:]), weight, groups=B * C).view(B, C, H, W)
    return x


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * _CUBIC - 4 * _CUBIC
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


class BlurOptions(FlagOptions):
    """Options of `blur`."""

    p: Probability = Field(default=0.5, description="Probability that the blur is on.")
    sigma: Range = Field(default=(0.1, 2.0), description="Standard deviation, in cells (frames and bins) or pixels.")


class Blur(Transform):
    """Smooths with a Gaussian, the same width along both axes."""

    name = "blur"
    Options = BlurOptions

    @override
    def amount_slots(self) -> list[Slot]:
        low, high = self.options.sigma
        return [Slot.centred("sigma", "cells", low, high, 0.0)]

    @override
    def effect(self, x: Tensor, params: SpaceParams) -> Tensor:
        """Smooth (B, T, M) or (B, C, H, W)."""
        sigma = params.column("sigma")
        radius = max(1, math.ceil(3 * float(sigma.max())))
        images = x if x.ndim == 4 else x[:, None]
        return smooth(images, moved(sigma, x.device), radius).view(x.shape)
