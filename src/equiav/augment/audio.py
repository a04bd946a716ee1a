"""The space of sound: the transforms of a recipe on standardised log-mel spectrograms.

    recipe -> audio_space -> sample, apply (B, T, M), encode (B, P)

An empty recipe means the paper's list (`audio_effects.py`), which a recipe can reorder, change or extend with the
transforms of `audio_more.py`; `variant: released` has the authors' list and numbers (`released.py`).

B batch · T time frames (10 ms) · M mel bins · P parameter slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from equiav.augment import audio_effects, audio_more
from equiav.augment.released import released_audio_transforms
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.transform import Transform, build_transforms
from equiav.config import Augment
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float


class AudioSpace(AugmentationSpace):
    """The audio transforms of a recipe, for spectrograms of T frames and M bins."""

    def __init__(self, transforms: list[Transform], time_frames: int, mel_bins: int) -> None:
        super().__init__("audio", transforms)
        self.time_frames = time_frames
        self.mel_bins = mel_bins

    @override
    def apply(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        """The view: all transforms in order.

        Raises:
            ConfigError: x is no (B, T, M) batch of the space's size, or params are not B sets of this space.
        """
        if x.ndim != 3 or x.shape[1:] != (self.time_frames, self.mel_bins):
            expected = f"(B, {self.time_frames}, {self.mel_bins})"
            raise ConfigError(f"expected log-mel audio {expected}, found {tuple(x.shape)}")
        return super().apply(x, params)

    def compose(self, first: SpaceParams, then: SpaceParams) -> SpaceParams:
        """Sets whose view is that of `first` and then `then`; amounts may leave the range that is sampled.

        Raises:
            ConfigError: something else than shift, gain, contrast and reverse is on.
        """
        for params in (first, then):
            self._check_composable(params, ("shift", "gain", "contrast", "reverse"))
        result = first
        known = [transform.name for transform in self.transforms]
        if "gain" in known:
            result = _either(result, then, "gain").replace(
                "gain.amount", first.column("gain.amount") + then.column("gain.amount")
            )
        if "contrast" in known:
            result = _either(result, then, "contrast").replace(
                "contrast.factor", first.column("contrast.factor") * then.column("contrast.factor")
            )
        if "reverse" in known:
            result = result.replace("reverse.on", (first.column("reverse.on") != then.column("reverse.on")).float())
        if "shift" in known:
            result = _either(result, then, "shift").replace("shift.amount", self._sum_of_shifts(first, then))
        return result

    def _sum_of_shifts(self, first: SpaceParams, then: SpaceParams) -> Tensor:
        known = [transform.name for transform in self.transforms]
        frames = [(params.column("shift.amount") * self.time_frames).round() for params in (first, then)]
        if "reverse" in known:
            # a shift on the far side of a reversal counts backwards
            late = known.index("shift") < known.index("reverse")
            turned = (first if late else then).column("reverse.on") > 0.5
            frames[late] = torch.where(turned, -frames[late], frames[late])
        half = self.time_frames // 2
        return ((frames[0] + frames[1] + half) % self.time_frames - half) / self.time_frames


def _either(result: SpaceParams, then: SpaceParams, name: str) -> SpaceParams:
    return result.replace(f"{name}.on", torch.maximum(result.column(f"{name}.on"), then.column(f"{name}.on")))


def audio_space(settings: Augment, time_frames: int, mel_bins: int) -> AudioSpace:
    """The audio space of a recipe; empty settings mean the paper's list.

    Raises:
        ConfigError: an unknown transform or option, a value out of range, or released effects without its numbers.
    """
    if settings.effects == "released" and settings.variant != "released":
        raise ConfigError("augment.effects: released goes with augment.variant: released only, found variant unit")
    if settings.variant == "released":
        transforms = released_audio_transforms(settings, time_frames, mel_bins)
    else:
        transforms = build_transforms("audio", settings.audio, KNOWN, audio_effects.PAPER)
    return AudioSpace(transforms, time_frames, mel_bins)


KNOWN = {**audio_effects.ALL, **audio_more.ALL}
