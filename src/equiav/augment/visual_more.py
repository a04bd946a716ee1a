"""Transformations of a picture beyond the paper's: for experiments on unseen transformations and users' recipes.

    (B, 3, S, S) in [0, 1] -> (B, 3, S, S) in [0, 1]

None is in the default list. B batch · S side of the view.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from equiav.augment.transform import FlagOptions, Range, Slot, SpaceParams, Transform
from equiav.augment.visual_effects import Flip

if TYPE_CHECKING:
    from jaxtyping import Float


class VerticalFlip(Flip):
    """Mirrors top and bottom."""

    name = "vertical_flip"
    axis = 2


class RotationOptions(FlagOptions):
    """Options of `rotation`."""

    largest: float = Field(default=30.0, gt=0, le=180, description="Largest angle, in degrees.")


class Rotation(Transform):
    """Turns the picture counter-clockwise about its middle, bilinear; corners without picture become black."""

    name = "rotation"
    Options = RotationOptions

    @override
    def amount_slots(self) -> list[Slot]:
        largest = self.options.largest
        return [Slot.centred("angle", "degrees, counter-clockwise is positive", -largest, largest, 0.0)]

    @override
    def effect(self, x: Float[Tensor, "B 3 S S"], params: SpaceParams) -> Float[Tensor, "B 3 S S"]:
        across, down = _grid(x)
        angle = (params.to(x.device).column("angle") * (math.pi / 180))[:, None, None]
        source = (
            torch.cos(angle) * across - torch.sin(angle) * down,
            torch.sin(angle) * across + torch.cos(angle) * down,
        )
        return _look_up(x, *source)


class PerspectiveOptions(FlagOptions):
    """Options of `perspective`."""

    largest: float = Field(
        default=0.3, gt=0, lt=0.5, description="Largest tilt: how much the far edge shrinks, as a share."
    )


class Perspective(Transform):
    """Tilts the picture plane about its middle: (x, y) shows (x, y) / (1 + across·x + down·y) of it, black outside."""

    name = "perspective"
    Options = PerspectiveOptions

    @override
    def amount_slots(self) -> list[Slot]:
        largest = self.options.largest
        return [
            Slot.centred("across", "tilt to the right", -largest, largest, 0.0),
            Slot.centred("down", "tilt to the bottom", -largest, largest, 0.0),
        ]

    @override
    def effect(self, x: Float[Tensor, "B 3 S S"], params: SpaceParams) -> Float[Tensor, "B 3 S S"]:
        across, down = _grid(x)
        _, right, bottom = params.to(x.device).values[:, :, None, None].unbind(1)
        depth = 1 + right * across + bottom * down
        return _look_up(x, across / depth, down / depth)


def _grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres across and down, the picture's edges at -1 and 1."""
    H, W = x.shape[2:]
    down = (torch.arange(H, device=x.device, dtype=x.dtype) * 2 + 1) / H - 1
    across = (torch.arange(W, device=x.device, dtype=x.dtype) * 2 + 1) / W - 1
    return across.expand(H, W), down[:, None].expand(H, W)


def _look_up(x: Tensor, across: Tensor, down: Tensor) -> Tensor:
    grid = torch.stack([across, down], dim=3)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class JpegOptions(FlagOptions):
    """Options of `jpeg`."""

    quality: Range = Field(default=(10.0, 90.0), description="JPEG quality, 1 to 100.")


class Jpeg(Transform):
    """Quantises 8×8 blocks as JPEG does (ITU-T T.81, tables K.1 and K.2), colour at full resolution."""

    name = "jpeg"
    Options = JpegOptions

    @override
    def amount_slots(self) -> list[Slot]:
        low, high = self.options.quality
        return [Slot.centred("quality", "JPEG quality", low, high, 100.0)]

    @override
    def effect(self, x: Float[Tensor, "B 3 S S"], params: SpaceParams) -> Float[Tensor, "B 3 S S"]:
        H, W = x.shape[2:]
        quality = params.to(x.device).column("quality").clamp(1, 100)
        percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None, None]
        tables = x.new_tensor((_LUMINANCE, _CHROMINANCE, _CHROMINANCE)).view(3, 8, 8)
        steps = ((tables * percent + 50) / 100).floor().clamp(1, 255)[:, :, None, None]
        colours, back, basis = x.new_tensor(_YCBCR), x.new_tensor(_RGB), _cosines(x)
        padded = functional.pad(x, (0, -W % 8, 0, -H % 8), mode="replicate") * 255
        blocks = torch.einsum("cd,bdhw->bchw", colours, padded)
        blocks = blocks.sub_(x.new_tensor((128.0, 0.0, 0.0))[:, None, None])
        blocks = blocks.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
        coefficients = (basis @ blocks @ basis.T).div_(steps).round_().mul_(steps)
        blocks = (basis.T @ coefficients @ basis).transpose(3, 4).flatten(4).flatten(2, 3)
        blocks = blocks + x.new_tensor((128.0, 0.0, 0.0))[:, None, None]
        restored = torch.einsum("cd,bdhw->bchw", back, blocks)[:, :, :H, :W] / 255
        return restored.clamp(0, 1)


def _cosines(x: Tensor) -> Float[Tensor, "8 8"]:
    """The orthonormal DCT-II of 8 points."""
    k = torch.arange(8, device=x.device, dtype=x.dtype)
    basis = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) / 2
    return torch.where(k[:, None] == 0, basis / math.sqrt(2), basis)


_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
# fmt: off
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61,  12, 12, 14, 19, 26, 58, 60, 55,  14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,  18, 22, 37, 56, 68, 109, 103, 77,  24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,  72, 92, 95, 98, 112, 100, 103, 99,
)
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,  18, 21, 26, 66, 99, 99, 99, 99,  24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,  *(99,) * 32,
)
# fmt: on


class CutoutOptions(FlagOptions):
    """Options of `cutout`."""

    side: Range = Field(default=(0.1, 0.4), description="Side of the square, as a share of the picture's.")


class Cutout(Transform):
    """Covers a square with middle grey (DeVries and Taylor 2017)."""

    name = "cutout"
    Options = CutoutOptions

    @override
    def amount_slots(self) -> list[Slot]:
        sides = (("top", "height"), ("left", "width"), ("side", "side"))
        return [Slot.centred(name, f"share of the {side}", 0.0, 1.0, 0.0) for name, side in sides]

    @override
    def amounts(self, u: Float[Tensor, "n 3"]) -> tuple[Tensor, Tensor, Tensor]:
        low, high = self.options.side
        side = low + u[:, 2] * (high - low)
        return u[:, 0] * (1 - side), u[:, 1] * (1 - side), side

    @override
    def effect(self, x: Float[Tensor, "B 3 S S"], params: SpaceParams) -> Float[Tensor, "B 3 S S"]:
        across, down = _grid(x)
        _, top, left, side = params.to(x.device).values[:, :, None, None].unbind(1)
        inside = ((across + 1) / 2 - left - side / 2).abs() < side / 2
        inside = inside & (((down + 1) / 2 - top - side / 2).abs() < side / 2)
        return x.masked_fill_(inside[:, None], 0.5)


ALL: dict[str, type[Transform]] = {kind.name: kind for kind in (VerticalFlip, Rotation, Perspective, Jpeg, Cutout)}
