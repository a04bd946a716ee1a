"""From a frame of any size and aspect to the square view, for a whole batch at once.

    frames (B, 3, H, W), sizes (B, 2), boxes -> resampling weights per sample and axis -> (B, 3, S, S) in [0, 1]

Without a box: the short side is resized to S and the centre square cut (torchvision's Resize and CenterCrop,
without rounding the long side or the offset to whole pixels). With one: the box is cut first, then resized, as
torchvision's `resized_crop` does, so the filter sees nothing outside the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from equiav.augment.filters import Interpolation, Taps, resample, resampling_taps
from equiav.augment.transform import SpaceParams
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Int64, UInt8


def cut(
    frames: Tensor,
    image_side: int,
    interpolation: Interpolation,
    *,
    sizes: Tensor | None = None,
    box: SpaceParams | None = None,
    of_frame: bool = False,
) -> Float[Tensor, "B 3 S S"]:
    """Cut and resize.

    Args:
        frames: (B, 3, H, W), uint8 or float in [0, 1], at the top left of the padding.
        image_side: S.
        interpolation: resampling filter.
        sizes: true (H, W) of each frame (B, 2); None: no padding.
        box: parameters of a crop, as shares; None or off: the centre square.
        of_frame: the box is a share of the whole frame, not of its centre square.

    Raises:
        ConfigError: frames are no (B, 3, H, W) batch.
    """
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ConfigError(f"expected frames (B, 3, H, W), found {tuple(frames.shape)}")
    x = frames.float().div_(255) if frames.dtype == torch.uint8 else frames
    B, _, H, W = x.shape
    if sizes is None:
        sizes = torch.stack([x.new_full((B,), H), x.new_full((B,), W)], dim=1)
    sizes = sizes.to(x.device, x.dtype)
    square = sizes.amin(1)
    taps: list[Taps] = []
    for axis, size in enumerate((H, W)):
        true = sizes[:, axis]
        low = (true - square) / 2
        high = low + square
        clip_low, clip_high = torch.zeros_like(true), true
        if box is not None:
            start, share = (box.column(name) for name in (("top", "height"), ("left", "width"))[axis])
            origin, extent = (torch.zeros_like(true), true) if of_frame else (low, square)
            on = box.column("on") > 0.5
            low = torch.where(on, origin + start * extent, low)
            high = torch.where(on, low + share * extent, high)
            clip_low, clip_high = torch.where(on, low, clip_low), torch.where(on, high, clip_high)
        taps.append(
            resampling_taps(
                low, high, size, image_side, clip_low=clip_low, clip_high=clip_high, interpolation=interpolation
            )
        )
    # bicubic weights overshoot
    return resample(x, *taps).clamp_(0, 1)


def stack_pictures(
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> tuple[UInt8[Tensor, "B 3 H W"], Int64[Tensor, "B 2"]]:
    """Pictures of any sizes as one batch, padded with zeros at the right and the bottom; and their sizes."""
    sizes = np.array([picture.shape[:2] for picture in pictures])
    padded = np.zeros((len(pictures), *sizes.max(axis=0), 3), dtype=np.uint8)
    for target, picture in zip(padded, pictures, strict=True):
        target[: picture.shape[0], : picture.shape[1]] = picture
    return torch.from_numpy(padded).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(sizes)
