"""The authors' parameter vectors: 24 numbers for sound, 18 for pictures, as their weights expect them.

    variant: released -> audio_space (P=24), visual_space (P=18); JongSuk1/EquiAV `datasets/AudioVisual.py`

Audio, T frames and M bins (1024 and 128 in the release):
    0       mask.on                    one coin, p 0.8, for the masks and the shift
    1, 2    mask.time_start, _end      frames 0..T, at most 3T/16 wide
    3, 4    mask.frequency_start, _end bins 0..M, at most 3M/8 wide
    5, 6    mask.shift_on, mask.shift  the coin again; share of the clip, a multiple of 1/T in [-1, 1)
    7       crop.on                    always 1
    8..11   crop.top .. crop.width     top and height (time) in frames / M, left and width (mel) in bins / T:
                                       the release swaps the two sizes (:546-549), so values reach T/M = 8
    12      jitter.on                  p 0.8
    13..16  jitter.first .. fourth     the order: 0 brightness, 1 contrast, 2 saturation, 3 hue; 0,1,2,3 when off
    17..20  jitter.brightness .. hue   factor - 1 in ±0.4, three times; hue in turns, ±0.1
    21, 22  blur.on, blur.sigma        p 0.5; cells, 0.1 to 2
    23      flip.on                    p 0.5
Visual:
    0       crop.on                    always 1
    1..4    crop.top .. crop.width     shares of the whole frame's height and width
    5..13   jitter                     as in audio 12..20
    14, 15  blur.on, blur.sigma        p 0.5; pixels of the view, 0.1 to 2
    16, 17  flip.on, grayscale.on      p 0.5, p 0.2

The effects are ours by default: brightness multiplies the standardised map, contrast widens it about its mean,
neither is clipped, saturation and hue do nothing to a map without colour, the flip reverses time, the shift shifts.
`effects: released` gives the authors' (no shift, :538; jitter clipped to [0, 1], :562-571; mel axis flipped, :589).
Sampling differs from theirs in two ways: boxes are not rounded to whole cells, and are drawn without trying again
(see `boxes.py`: 2e-8 of the draws); visual boxes are drawn for square frames, since a sampler does not see the
frames: height and width are 0.67 of them on average, where the release has 0.72 and 0.56 on 4:3, 0.73 and 0.43 on
16:9 frames.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import override

from equiav.augment.audio_effects import AudioCrop, AudioCropOptions, kept, shift_frames
from equiav.augment.boxes import box_slots
from equiav.augment.color import BRIGHTNESS, CONTRAST
from equiav.augment.filters import Blur, BlurOptions
from equiav.augment.transform import FLAG, FlagOptions, Slot, SpaceParams, Transform
from equiav.augment.visual_effects import (
    Flip,
    Grayscale,
    GrayscaleOptions,
    Jitter,
    JitterOptions,
    VisualCrop,
    VisualCropOptions,
    order_of,
)
from equiav.config import Augment
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float


def released_audio_transforms(settings: Augment, time_frames: int, mel_bins: int) -> list[Transform]:
    """Transforms of the 24-slot audio space.

    Raises:
        ConfigError: the recipe lists audio transforms: the released list is fixed.
    """
    _check_no_list("audio", settings.audio)
    faithful = settings.effects == "released"
    return [
        ReleasedMask(time_frames, mel_bins, shifts=not faithful),
        ReleasedAudioCrop(time_frames, mel_bins),
        ReleasedAudioJitter(clips=faithful),
        ReleasedBlur(BlurOptions()),
        ReleasedAudioFlip(flips_mel=faithful),
    ]


def released_visual_transforms(settings: Augment) -> list[Transform]:
    """Transforms of the 18-slot visual space.

    Raises:
        ConfigError: the recipe lists visual transforms: the released list is fixed.
    """
    _check_no_list("visual", settings.visual)
    return [
        ReleasedVisualCrop(VisualCropOptions(p=1.0, of="frame")),
        ReleasedJitter(JitterOptions()),
        ReleasedBlur(BlurOptions()),
        Flip(FlagOptions()),
        Grayscale(GrayscaleOptions()),
    ]


def _check_no_list(modality: str, chosen: dict[str, dict[str, Any]]) -> None:
    if chosen:
        raise ConfigError(
            f"augment.{modality} lists {', '.join(chosen)}, but variant released has a fixed list: "
            "leave it empty, or take variant unit"
        )


class ReleasedMask(Transform):
    """Silences an interval of time and a band of bins to the mean, then shifts the sound, on one coin."""

    name = "mask"
    everywhere = True

    def __init__(self, time_frames: int, mel_bins: int, *, shifts: bool) -> None:
        self.time_frames, self.mel_bins, self.shifts = time_frames, mel_bins, shifts
        super().__init__(FlagOptions(p=0.8))

    @override
    def amount_slots(self) -> list[Slot]:
        axes = (("time", "frames", self.time_frames), ("frequency", "bins", self.mel_bins))
        masks = [
            Slot.centred(f"{axis}_{end}", unit, 0, size, 0).coded()
            for axis, unit, size in axes
            for end in ("start", "end")
        ]
        shift = Slot.centred("shift", "share of the clip", -1, 1 - 1 / self.time_frames, 0).coded()
        return [*masks, dataclasses.replace(FLAG, name="shift_on"), shift]

    @override
    def amounts(self, u: Float[Tensor, "n 6"]) -> list[Tensor]:
        columns: list[Tensor] = []
        sizes = ((self.time_frames, 192 / 1024), (self.mel_bins, 48 / 128))
        for i, (size, widest) in enumerate(sizes):
            width = u[:, 2 * i] * (widest * size)
            start = (u[:, 2 * i + 1] * (size - width)).floor()
            columns += [start, start + width.floor()]
        shift = torch.floor((2 * u[:, 4] - 1) * self.time_frames) / self.time_frames
        return [*columns, torch.ones_like(shift), shift]

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        T, M = x.shape[1:]
        _, time_start, time_end, low, high, _, shift = params.to(x.device).values.unbind(1)
        x = x.mul_(kept(T, time_start / T, time_end / T, 1))
        x = x.mul_(kept(M, low / M, high / M, 2))
        return shift_frames(x, shift) if self.shifts else x

    @override
    def settle(self, params: SpaceParams) -> SpaceParams:
        on, *bounds, _, shift = params.values.unbind(1)
        values = torch.stack([on, *(bound.round() for bound in bounds), on, shift], dim=1)
        return SpaceParams(values, params.names)


class ReleasedAudioCrop(AudioCrop):
    """Cuts a box of time × frequency and stretches it over the whole map."""

    def __init__(self, time_frames: int, mel_bins: int) -> None:
        self.time_by_mel = time_frames / mel_bins
        super().__init__(AudioCropOptions(p=1.0))

    @override
    def amount_slots(self) -> list[Slot]:
        ones = (1 / self.time_by_mel, self.time_by_mel) * 2
        return [slot.coded(one=one) for slot, one in zip(box_slots(self.axes), ones, strict=True)]


class ReleasedVisualCrop(VisualCrop):
    """Cuts a box out of the frame and resizes it to the view."""

    @override
    def amount_slots(self) -> list[Slot]:
        # the whole range: on frames that are not square the release draws thinner boxes
        return [slot.coded() for slot in box_slots(self.axes)]


class ReleasedJitter(Jitter):
    """Changes brightness, contrast, saturation and hue, one after the other in a sampled order."""

    @override
    def amount_slots(self) -> list[Slot]:
        *order, brightness, contrast, saturation, hue = super().amount_slots()
        factors = [slot.coded(zero=1.0) for slot in (brightness, contrast, saturation)]
        return [*(slot.coded(off=float(i)) for i, slot in enumerate(order)), *factors, hue.coded()]


class ReleasedAudioJitter(ReleasedJitter):
    """Scales the map (brightness) and widens it about its mean (contrast); saturation and hue do nothing."""

    def __init__(self, *, clips: bool) -> None:
        super().__init__(JitterOptions())
        self.clips = clips

    @override
    def alike(self, params: SpaceParams) -> None:
        return None

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        params = params.to(x.device)
        brightness, contrast = params.column("brightness"), params.column("contrast")
        for effect in order_of(params).round().unbind(1):
            factor = torch.where(effect == BRIGHTNESS, brightness, torch.ones_like(brightness))
            factor = torch.where(effect == CONTRAST, contrast, factor)
            offset = torch.where(effect == CONTRAST, 1 - factor, 0.0) * x.mean((1, 2))
            x = x.mul_(factor[:, None, None]).add_(offset[:, None, None])
            if self.clips:
                x = x.clamp_(0, 1)
        return x


class ReleasedBlur(Blur):
    """Smooths with a Gaussian, the same width along both axes."""

    @override
    def amount_slots(self) -> list[Slot]:
        return [slot.coded() for slot in super().amount_slots()]


class ReleasedAudioFlip(Transform):
    """Plays the clip backwards, or (effects: released) turns the mel axis upside down."""

    name = "flip"

    def __init__(self, *, flips_mel: bool) -> None:
        super().__init__(FlagOptions())
        self.axis = 2 if flips_mel else 1

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        return x.flip(self.axis)
