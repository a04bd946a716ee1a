"""The space of pictures: the transforms of a recipe on video frames.

    frames (B, 3, H, W) uint8 or float in [0, 1], zero-padded to one size; sizes (B, 2) the true H, W
        -> view (B, 3, S, S) in [0, 1], psi(t) (B, P);  normalise(view) -> what the encoder sees

An empty recipe means the paper's list (`visual_effects.py`), which a recipe can reorder, change or extend with the
transforms of `visual_more.py`; `variant: released` has the authors' list and numbers (`released.py`). Base and
augmented view come from the same frame (the release draws two, `datasets/AudioVisual.py:304,:316`).

B batch · H, W frame · S side of the view · P parameter slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from equiav.augment import visual_effects, visual_more
from equiav.augment.filters import Interpolation
from equiav.augment.released import released_visual_transforms
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.transform import Transform, build_transforms
from equiav.augment.view import cut
from equiav.augment.visual_effects import VisualCrop
from equiav.config import Augment
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    """ImageNet normalisation of a view in [0, 1]."""
    mean, std = x.new_tensor(_IMAGENET_MEAN), x.new_tensor(_IMAGENET_STD)
    return (x - mean[:, None, None]).div_(std[:, None, None])


class VisualSpace(AugmentationSpace):
    """The visual transforms of a recipe, for views of side S.

    Args:
        transforms: in order of application; a crop must come first.
        image_side: S.
        plain_interpolation: filter of the plain view; None: the crop's, so that identity is the plain view.

    Raises:
        ConfigError: a crop is not the first transform.
    """

    def __init__(
        self,
        transforms: list[Transform],
        image_side: int,
        plain_interpolation: Interpolation | None = None,
    ) -> None:
        super().__init__("visual", transforms)
        names = [transform.name for transform in transforms]
        if "crop" in names[1:]:
            raise ConfigError(f"augment.visual: crop makes the view from the frame and comes first, found {names}")
        self.image_side = image_side
        first = transforms[0] if transforms else None
        self._crop = first if isinstance(first, VisualCrop) else None
        crop_interpolation: Interpolation = self._crop.options.interpolation if self._crop else "bilinear"
        self._plain_interpolation: Interpolation = plain_interpolation or crop_interpolation

    @override
    def apply(self, x: Tensor, params: SpaceParams, sizes: Tensor | None = None) -> Float[Tensor, "B 3 S S"]:
        """The view: crop and resize, then the other transforms in order.

        Args:
            x: frames (B, 3, H, W), uint8 or float in [0, 1].
            params: B sets of this space.
            sizes: true (H, W) of each frame in a zero-padded batch (B, 2); None: no padding.

        Raises:
            ConfigError: x is no (B, 3, H, W) batch, or params are not B sets of this space.
        """
        self._check_lengths(x, params)
        if self._crop is None:
            return self._overwrite(self.plain(x, sizes), params, self.transforms)
        view = self._crop.view(x, self.part(params, self._crop), self.image_side, sizes)
        return self._overwrite(view, params, self.transforms[1:])

    def plain(self, frames: Tensor, sizes: Tensor | None = None) -> Float[Tensor, "B 3 S S"]:
        """The base view: the short side resized to S, the centre square cut. Equal to `apply` at identity.

        Raises:
            ConfigError: frames are no (B, 3, H, W) batch.
        """
        return cut(frames, self.image_side, self._plain_interpolation, sizes=sizes)

    def compose(self, first: SpaceParams, then: SpaceParams) -> SpaceParams:
        """Sets whose view of a frame is the view that `then` makes of the view that `first` makes.

        Raises:
            ConfigError: something else than crop, flip and grayscale is on, or the crop is a share of the frame.
        """
        for params in (first, then):
            self._check_composable(params, ("crop", "flip", "grayscale"))
        if self._crop is None or self._crop.options.of == "frame":
            raise ConfigError("crops compose only where they are shares of the square (augment.visual.crop.of)")
        known = [transform.name for transform in self.transforms]
        outer, inner = self.part(first, self._crop), self.part(then, self._crop)
        on, top, left, height, width = outer.values.unbind(1)
        inner_on, inner_top, inner_left, inner_height, inner_width = inner.values.unbind(1)
        if "flip" in known:
            inner_left = torch.where(first.column("flip.on") > 0.5, 1 - inner_left - inner_width, inner_left)
        box = {
            "on": torch.maximum(on, inner_on),
            "top": top + inner_top * height,
            "left": left + inner_left * width,
            "height": height * inner_height,
            "width": width * inner_width,
        }
        result = first
        for name, values in box.items():
            result = result.replace(f"crop.{name}", values)
        if "flip" in known:
            result = result.replace("flip.on", (first.column("flip.on") != then.column("flip.on")).float())
        if "grayscale" in known:
            grey = torch.maximum(first.column("grayscale.on"), then.column("grayscale.on"))
            result = result.replace("grayscale.on", grey)
        return result


def visual_space(settings: Augment, image_side: int) -> VisualSpace:
    """The visual space of a recipe.

    Raises:
        ConfigError: an unknown transform or option, a value out of range, or a crop that is not first.
    """
    if settings.variant == "released":
        return VisualSpace(released_visual_transforms(settings), image_side, plain_interpolation="bicubic")
    transforms = build_transforms("visual", settings.visual, KNOWN, visual_effects.PAPER)
    return VisualSpace(transforms, image_side)


KNOWN = {**visual_effects.ALL, **visual_more.ALL}
