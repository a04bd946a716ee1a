"""Transformations of a picture in [0, 1]: the paper's families, with the meaning of PIL and torchvision.

    (B, 3, S, S) in [0, 1] -> (B, 3, S, S) in [0, 1]; the crop starts from the frame

EquiAV §3: random resized crop, colour jitter in a sampled order, blur, horizontal flip, grayscale. There
is no rounding to 8 bits between the steps. Deliberate difference from the release: the crop is a share of the
square that the base view shows, so that psi(t) alone says how one leads to the other; a share of the whole frame
(`of: frame`, as released) depends on the frame's aspect, which the predictor does not get.

B batch · S side of the view.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from equiav.augment.boxes import Crop
from equiav.augment.color import grey, jitter_
from equiav.augment.filters import Blur, Interpolation
from equiav.augment.transform import FlagOptions, Probability, Range, Slot, SpaceParams, Transform, moved
from equiav.augment.view import cut

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


class VisualCropOptions(FlagOptions):
    """Options of the visual `crop`."""

    p: Probability = Field(default=0.9, description="Probability that the crop is on.")
    scale: Range = Field(default=(0.08, 1.0), description="Area of the box, as a share of the square or frame.")
    ratio: Range = Field(default=(3 / 4, 4 / 3), description="Width over height of the box, both as shares.")
    interpolation: Interpolation = Field(default="bilinear", description="Resampling filter, antialiased as in PIL.")
    of: Literal["square", "frame"] = Field(
        default="square", description="What the box is a share of: the base view's centre square, or the whole frame."
    )


class VisualCrop(Crop):
    """Cuts a box out of the frame and resizes it to the view.

    `p` is 0.9, not 1 as released: with the crop always on, the plain view and the views with one other effect lie
    outside of what the predictor was trained on and can't be asked about.
    """

    axes = ("the height", "the width")
    Options = VisualCropOptions

    @override
    def effect(self, x: Float[Tensor, "B 3 H W"], params: SpaceParams) -> Float[Tensor, "B 3 H W"]:
        """Crop square pictures to their own size; `view` takes frames of any size."""
        return self.view(x, params, x.shape[-1], None)

    def view(
        self, frames: Tensor, params: SpaceParams, image_side: int, sizes: Tensor | None
    ) -> Float[Tensor, "B 3 S S"]:
        """The view of side S that the box shows."""
        of_frame = self.options.of == "frame"
        params = params.to(frames.device)
        return cut(frames, image_side, self.options.interpolation, sizes=sizes, box=params, of_frame=of_frame)


class JitterOptions(FlagOptions):
    """Options of `jitter`."""

    p: Probability = Field(default=0.8, description="Probability that the jitter is on.")
    brightness: float = Field(default=0.4, ge=0, le=1, description="Largest change of the brightness factor from 1.")
    contrast: float = Field(default=0.4, ge=0, le=1, description="Largest change of the contrast factor from 1.")
    saturation: float = Field(default=0.4, ge=0, le=1, description="Largest change of the saturation factor from 1.")
    hue: float = Field(default=0.1, ge=0, le=0.5, description="Largest turn of the hue, in turns.")


class Jitter(Transform):
    """Changes brightness, contrast, saturation and hue, one after the other in a sampled order.

    The slots first .. fourth are the order (0 brightness, 1 contrast, 2 saturation, 3 hue), the next four the amounts.
    """

    name = "jitter"
    Options = JitterOptions

    @override
    def amount_slots(self) -> list[Slot]:
        effect = "0 brightness, 1 contrast, 2 saturation, 3 hue"
        order = [
            Slot.centred(name, effect, 0.0, 3.0, float(i))
            for i, name in enumerate(("first", "second", "third", "fourth"))
        ]
        factors = [
            Slot.centred(name, "factor", 1 - reach, 1 + reach, 1.0)
            for name in ("brightness", "contrast", "saturation")
            for reach in [getattr(self.options, name)]
        ]
        return [*order, *factors, Slot.centred("hue", "turns", -self.options.hue, self.options.hue, 0.0)]

    @property
    @override
    def uniforms(self) -> int:
        """The coin, one for the order, four amounts."""
        return 6

    @override
    def amounts(self, u: Float[Tensor, "n 5"]) -> tuple[Tensor, ...]:
        orders = torch.tensor(_ORDERS, dtype=u.dtype, device=u.device)[(u[:, 0] * len(_ORDERS)).long()]
        o = self.options
        reach = u.new_tensor([o.brightness, o.contrast, o.saturation, o.hue])
        amounts = (2 * u[:, 1:] - 1) * reach + u.new_tensor([1.0, 1.0, 1.0, 0.0])
        return (*orders.unbind(1), *amounts.unbind(1))

    @override
    def effect(self, x: Float[Tensor, "B 3 S S"], params: SpaceParams) -> Float[Tensor, "B 3 S S"]:
        amounts = moved(params.values[:, 5:], x.device)
        start = 0
        for order, count in zip(*_order_key(params).unique_consecutive(return_counts=True), strict=True):
            stop = start + int(count)
            jitter_(x[start:stop], amounts[start:stop], _ORDERS[int(order)])
            start = stop
        return x

    @override
    def alike(self, params: SpaceParams) -> Tensor | None:
        return _order_key(params).argsort()

    @override
    def settle(self, params: SpaceParams) -> SpaceParams:
        """Ranks of the order slots: any four numbers become a permutation."""
        ranks = order_of(params).argsort(dim=1, stable=True).argsort(dim=1).to(params.values.dtype)
        values = torch.cat([params.values[:, :1], ranks, params.values[:, 5:]], dim=1)
        return SpaceParams(values, params.names)


_ORDERS = tuple(permutations((0, 1, 2, 3)))


def order_of(params: SpaceParams) -> Float[Tensor, "n 4"]:
    """The effects of a jitter one after the other."""
    return params.values[:, 1:5]


def _order_key(params: SpaceParams) -> Int64[Tensor, " n"]:
    """Which of `_ORDERS` each set has."""
    return (order_of(params).round().long()[:, None] == torch.tensor(_ORDERS)).all(2).long().argmax(1)


class Flip(Transform):
    """Mirrors left and right."""

    name = "flip"
    axis: ClassVar[int] = 3

    @override
    def effect(self, x: Float[Tensor, "B 3 S S"], params: SpaceParams) -> Float[Tensor, "B 3 S S"]:
        return x.flip(self.axis)


class GrayscaleOptions(FlagOptions):
    """Options of `grayscale`."""

    p: Probability = Field(default=0.2, description="Probability that the picture loses its colour.")


class Grayscale(Transform):
    """Removes the colour: every channel becomes the luma."""

    name = "grayscale"
    Options = GrayscaleOptions

    @override
    def effect(self, x: Float[Tensor, "B 3 S S"], params: SpaceParams) -> Float[Tensor, "B 3 S S"]:
        return x.copy_(grey(x))


PAPER = ("crop", "jitter", "blur", "flip", "grayscale")
ALL: dict[str, type[Transform]] = {kind.name: kind for kind in (VisualCrop, Jitter, Blur, Flip, Grayscale)}
