"""Transformations of one video frame, and the space that trains on them.

    frames (B, 3, H, W) uint8 or float in [0, 1], zero-padded to one size; sizes (B, 2) the true H, W
        -> view (B, 3, S, S) in [0, 1], psi(t) (B, P);  normalise(view) -> what the encoder sees

The paper's families (EquiAV §3; DESIGN §4): random resized crop, colour jitter in a sampled order, blur,
horizontal flip, grayscale, with the meaning of PIL and torchvision, without rounding to 8 bits in between.
Deliberate difference from the release (`datasets/AudioVisual.py:304,:316`): base and augmented view come from
the same frame, and the crop is a share of the square that the base view shows, so that psi(t) alone says how one
leads to the other; a share of the whole frame (`of: frame`, as released) depends on the frame's aspect.

B batch · H, W frame · S side of the view · P parameter slots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from equiav.augment.boxes import BoxParams, box_slots, draw_box
from equiav.augment.color import grey, jitter
from equiav.augment.filters import Blur, Interpolation, resample, resampling_weights
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.transform import (
    FLAG,
    FlagOptions,
    Params,
    Probability,
    Range,
    Slot,
    Transform,
    build_transforms,
)
from equiav.config import Augment
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    """ImageNet normalisation of a view in [0, 1]."""
    mean, std = x.new_tensor(_IMAGENET_MEAN), x.new_tensor(_IMAGENET_STD)
    return (x - mean[:, None, None]) / std[:, None, None]


class VisualSpace(AugmentationSpace):
    """The visual transforms of a recipe, for views of side S.

    Args:
        transforms: in order of application; a crop must come first.
        image_side: S.
        interpolation: of the plain view where the space has no crop.

    Raises:
        ConfigError: the crop is not the first transform.
    """

    def __init__(
        self, transforms: list[Transform[Any]], image_side: int, interpolation: Interpolation = "bilinear"
    ) -> None:
        super().__init__("visual", transforms)
        names = [transform.name for transform in transforms]
        if "crop" in names[1:]:
            raise ConfigError(f"augment.visual: crop makes the view from the frame and comes first, found {names}")
        self.image_side = image_side
        first = transforms[0] if transforms else None
        self._crop = first if isinstance(first, VisualCrop) else None
        self._interpolation: Interpolation = self._crop.options.interpolation if self._crop else interpolation

    def apply(
        self,
        x: Tensor,
        params: SpaceParams,
        sizes: Tensor | None = None,
    ) -> Float[Tensor, "B 3 S S"]:
        """The view: crop and resize, then the other transforms in order.

        Args:
            x: frames (B, 3, H, W), uint8 or float in [0, 1].
            sizes: true (H, W) of each frame in a zero-padded batch (B, 2); None: no padding.

        Raises:
            ConfigError: x is no (B, 3, H, W) batch, or params are not B sets of this space.
        """
        self._check_lengths(x, params)
        box = self.part(params, "crop") if self._crop else None
        view = self._cut(x, box if isinstance(box, BoxParams) else None, sizes)
        for transform in self.transforms[1 if self._crop else 0 :]:
            view = transform.apply(view, self.part(params, transform.name))
        return view

    def plain(self, frames: Tensor, sizes: Tensor | None = None) -> Float[Tensor, "B 3 S S"]:
        """The base view: the short side resized to S, the centre square cut. Equal to `apply` at identity."""
        return self._cut(frames, None, sizes)

    def _cut(self, frames: Tensor, box: BoxParams | None, sizes: Tensor | None) -> Tensor:
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise ConfigError(f"expected frames (B, 3, H, W), found {tuple(frames.shape)}")
        x = frames.float().div_(255) if frames.dtype == torch.uint8 else frames
        B, _, H, W = x.shape
        if sizes is None:
            sizes = torch.tensor([[H, W]], device=x.device).expand(B, 2)
        sizes = sizes.to(x.device, torch.float32)
        of_frame = self._crop is not None and self._crop.options.of == "frame"
        weights = [self._axis_weights(sizes, axis, size, box, of_frame=of_frame) for axis, size in enumerate((H, W))]
        view = resample(x, weights[0], weights[1])
        # bicubic overshoots
        return view.clamp_(0, 1)

    def _axis_weights(self, sizes: Tensor, axis: int, size: int, box: BoxParams | None, *, of_frame: bool) -> Tensor:
        """Resampling weights of one axis: the centre square, or the box in it (or in the frame)."""
        true = sizes[:, axis]
        side = sizes.amin(1)
        low = (true - side) / 2
        high = low + side
        clip_low, clip_high = torch.zeros_like(true), true
        if box is not None:
            start, share = (box.top, box.height) if axis == 0 else (box.left, box.width)
            on = box.on > 0.5
            origin, extent = (torch.zeros_like(low), true) if of_frame else (low, side)
            low = torch.where(on, origin + start * extent, low)
            high = torch.where(on, low + share * extent, high)
            clip_low, clip_high = torch.where(on, low, clip_low), torch.where(on, high, clip_high)
        return resampling_weights(
            low,
            high,
            size,
            self.image_side,
            clip_low=clip_low,
            clip_high=clip_high,
            interpolation=self._interpolation,
        )


def visual_space(settings: Augment, image_side: int) -> VisualSpace:
    """The visual space of a recipe; empty settings mean the paper's list.

    Raises:
        ConfigError: an unknown transform or option, a value out of range, or a crop that is not first.
    """
    return VisualSpace(build_transforms("visual", settings.visual, VISUAL, PAPER), image_side)


class VisualCropOptions(FlagOptions):
    """Options of the visual `crop`."""

    p: Probability = Field(0.9, description="Probability that the crop is on.")
    scale: Range = Field((0.08, 1.0), description="Area of the box, as a share of the square or frame.")
    ratio: Range = Field((3 / 4, 4 / 3), description="Width over height of the box, both as shares.")
    interpolation: Interpolation = Field("bilinear", description="Resampling filter, antialiased as in PIL.")
    of: Literal["square", "frame"] = Field(
        "square", description="What the box is a share of: the base view's centre square, or the whole frame."
    )


class VisualCrop(Transform[BoxParams]):
    """Cuts a box out of the frame and resizes it to the view.

    `p` is 0.9, not 1 as released: with the crop always on, the plain view and the views with one other effect lie
    outside of what the predictor was trained on and can't be asked about (DESIGN §4).
    """

    name = "crop"
    kind = BoxParams
    Options = VisualCropOptions
    slots = box_slots("the height", "the width")

    @override
    def amounts(self, u: Float[Tensor, "n 4"]) -> tuple[Tensor, ...]:
        return draw_box(u, self.options.scale, self.options.ratio)

    @override
    def apply(self, x: Float[Tensor, "B 3 H W"], params: BoxParams) -> Float[Tensor, "B 3 H W"]:
        """Crop square pictures to their own size; `VisualSpace.apply` takes frames of any size."""
        return VisualSpace([self], x.shape[-1])._cut(x, params, None)


class JitterOptions(FlagOptions):
    """Options of `jitter`."""

    p: Probability = Field(0.8, description="Probability that the jitter is on.")
    brightness: float = Field(0.4, ge=0, le=1, description="Largest change of the brightness factor from 1.")
    contrast: float = Field(0.4, ge=0, le=1, description="Largest change of the contrast factor from 1.")
    saturation: float = Field(0.4, ge=0, le=1, description="Largest change of the saturation factor from 1.")
    hue: float = Field(0.1, ge=0, le=0.5, description="Largest turn of the hue, in turns.")


@dataclass(frozen=True)
class JitterParams(Params):
    """Order (first .. fourth: 0 brightness, 1 contrast, 2 saturation, 3 hue) and amounts."""

    first: Float[Tensor, " n"]
    second: Float[Tensor, " n"]
    third: Float[Tensor, " n"]
    fourth: Float[Tensor, " n"]
    brightness: Float[Tensor, " n"]
    contrast: Float[Tensor, " n"]
    saturation: Float[Tensor, " n"]
    hue: Float[Tensor, " n"]


class Jitter(Transform[JitterParams]):
    """Changes brightness, contrast, saturation and hue, one after the other in a sampled order."""

    name = "jitter"
    kind = JitterParams
    Options = JitterOptions

    def __init__(self, options: JitterOptions) -> None:
        super().__init__(options)
        self.slots = jitter_slots(options.brightness, options.contrast, options.saturation, options.hue)

    @property
    @override
    def uniforms(self) -> int:
        """The coin, one for the order, four amounts."""
        return 6

    @override
    def amounts(self, u: Float[Tensor, "n 5"]) -> tuple[Tensor, ...]:
        orders = u.new_tensor(_ORDERS)[(u[:, 0] * len(_ORDERS)).long()]
        o = self.options
        reach = u.new_tensor([o.brightness, o.contrast, o.saturation, o.hue])
        amounts = (2 * u[:, 1:] - 1) * reach + u.new_tensor([1.0, 1.0, 1.0, 0.0])
        return (*orders.unbind(1), *amounts.unbind(1))

    @override
    def apply(self, x: Float[Tensor, "B 3 S S"], params: JitterParams) -> Float[Tensor, "B 3 S S"]:
        factors = torch.stack([params.brightness, params.contrast, params.saturation], dim=1)
        order = torch.stack([params.first, params.second, params.third, params.fourth], dim=1)
        return jitter(x, factors, params.hue, order)

    @override
    def settle(self, params: JitterParams) -> JitterParams:
        """Ranks of the order slots: any four numbers become a permutation."""
        order = torch.stack([params.first, params.second, params.third, params.fourth], dim=1)
        ranks = order.argsort(dim=1, stable=True).argsort(dim=1).to(order.dtype)
        first, second, third, fourth = ranks.unbind(1)
        return replace(params, first=first, second=second, third=third, fourth=fourth)


_ORDERS = tuple(permutations((0.0, 1.0, 2.0, 3.0)))


def jitter_slots(brightness: float, contrast: float, saturation: float, hue: float) -> tuple[Slot, ...]:
    """Slots of a jitter with the given reaches."""
    effect = "0 brightness, 1 contrast, 2 saturation, 3 hue"
    return (
        FLAG,
        *(
            Slot.centred(name, effect, 0.0, 3.0, float(i))
            for i, name in enumerate(("first", "second", "third", "fourth"))
        ),
        Slot.centred("brightness", "factor", 1 - brightness, 1 + brightness, 1.0),
        Slot.centred("contrast", "factor", 1 - contrast, 1 + contrast, 1.0),
        Slot.centred("saturation", "factor", 1 - saturation, 1 + saturation, 1.0),
        Slot.centred("hue", "turns", -hue, hue, 0.0),
    )


class Flip(Transform[Params]):
    """Mirrors left and right."""

    name = "flip"
    kind = Params
    Options = FlagOptions
    slots = (FLAG,)

    @override
    def apply(self, x: Float[Tensor, "B 3 S S"], params: Params) -> Float[Tensor, "B 3 S S"]:
        return torch.where(params.on[:, None, None, None] > 0.5, x.flip(3), x)


class GrayscaleOptions(FlagOptions):
    """Options of `grayscale`."""

    p: Probability = Field(0.2, description="Probability that the picture loses its colour.")


class Grayscale(Transform[Params]):
    """Takes the colour away: every channel becomes the luma."""

    name = "grayscale"
    kind = Params
    Options = GrayscaleOptions
    slots = (FLAG,)

    @override
    def apply(self, x: Float[Tensor, "B 3 S S"], params: Params) -> Float[Tensor, "B 3 S S"]:
        return torch.where(params.on[:, None, None, None] > 0.5, grey(x), x)


PAPER = ("crop", "jitter", "blur", "flip", "grayscale")
VISUAL: dict[str, type[Transform[Any]]] = {kind.name: kind for kind in (VisualCrop, Jitter, Blur, Flip, Grayscale)}
