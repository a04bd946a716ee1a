"""Transformations of sound on the standardised log-mel spectrogram: the paper's families.

    audio (B, T, M), mean 0 and deviation 1 over the data -> (B, T, M)

EquiAV §3: masks of time and frequency, time shift, random resized crop, jitter, blur, flip. Deliberate
differences from the released code (`datasets/AudioVisual.py`):
    time shift moves time (:538 rolls identical channels, so nothing moves while the vector says so);
    jitter is gain and contrast, unclipped (:562-571 clips the standardised map to [0, 1]);
    the flip reverses time (:589 flips the mel axis);
    each slot is in [-1, 1] (:528-549 mixes raw indices up to 1024 and swapped normalisers with flags);
    masks and shift have a coin each, not one for all three.

B batch · T time frames (10 ms) · M mel bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from equiav.augment.boxes import Crop
from equiav.augment.filters import Blur, resample_rows, resampling_taps
from equiav.augment.transform import FlagOptions, Probability, Range, Slot, SpaceParams, Transform

if TYPE_CHECKING:
    from jaxtyping import Float


class TimeMaskOptions(FlagOptions):
    """Options of `time_mask`."""

    p: Probability = Field(default=0.8, description="Probability that the mask is on.")
    widest: float = Field(default=192 / 1024, gt=0, le=1, description="Longest mask, as a share of the clip.")


class FrequencyMaskOptions(FlagOptions):
    """Options of `frequency_mask`."""

    p: Probability = Field(default=0.8, description="Probability that the mask is on.")
    widest: float = Field(default=48 / 128, gt=0, le=1, description="Widest mask, as a share of the mel axis.")


class _Mask(Transform):
    """Sets an interval of one axis to 0, the mean (SpecAugment, Park et al. 2019)."""

    everywhere = True
    axis: ClassVar[int]
    of: ClassVar[str]

    @override
    def amount_slots(self) -> list[Slot]:
        return [Slot.centred(name, f"share of {self.of}", 0.0, 1.0, 0.0) for name in ("start", "end")]

    @override
    def amounts(self, u: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
        width = u[:, 0] * self.options.widest
        start = u[:, 1] * (1 - width)
        return start, start + width

    @override
    def settle(self, params: SpaceParams) -> SpaceParams:
        return params.replace("end", torch.maximum(params.column("start"), params.column("end")))

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        _, start, end = params.to(x.device).values.unbind(1)
        return x.mul_(kept(x.shape[self.axis], start, end, self.axis))


def kept(size: int, start: Tensor, end: Tensor, axis: int) -> Tensor:
    """0 where the centre of a frame (axis 1) or bin (axis 2) lies in [start, end), else 1.

    A factor of shape (B, size, 1) or (B, 1, size): on a processor many times faster than filling by mask.
    """
    centre = (torch.arange(size, device=start.device) + 0.5) / size
    inside = (centre >= start[:, None]) & (centre < end[:, None])
    return (~inside).float().unsqueeze(2 if axis == 1 else 1)


class TimeMask(_Mask):
    """Silences an interval of time to the mean."""

    name = "time_mask"
    Options = TimeMaskOptions
    axis = 1
    of = "the clip"


class FrequencyMask(_Mask):
    """Silences a band of mel bins to the mean."""

    name = "frequency_mask"
    Options = FrequencyMaskOptions
    axis = 2
    of = "the mel axis"


class ShiftOptions(FlagOptions):
    """Options of `shift`."""

    p: Probability = Field(default=0.8, description="Probability that the shift is on.")
    largest: float = Field(
        default=0.5,
        gt=0,
        le=0.5,
        description="Largest shift, as a share of the clip; 0.5 reaches every circular shift.",
    )


class Shift(Transform):
    """Moves the sound later in time by whole frames; what leaves at the end comes back at the start."""

    name = "shift"
    everywhere = True
    Options = ShiftOptions

    @override
    def amount_slots(self) -> list[Slot]:
        largest = self.options.largest
        return [Slot.centred("amount", "share of the clip, later is positive", -largest, largest, 0.0)]

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        return shift_frames(x, params.to(x.device).column("amount"))


def shift_frames(x: Float[Tensor, "B T M"], amount: Float[Tensor, " B"]) -> Float[Tensor, "B T M"]:
    """Frames moved later by `amount`, a share of the clip."""
    T = x.shape[1]
    frames = (amount * T).round().long()
    return take_frames(x, (torch.arange(T, device=x.device) - frames[:, None]) % T)


def take_frames(x: Float[Tensor, "B T M"], index: Tensor) -> Float[Tensor, "B T M"]:
    """Frames x[b, index[b, t]]: a gather of whole rows, ten times faster than `gather` on a processor."""
    B, T, M = x.shape
    rows = index + T * torch.arange(B, device=x.device)[:, None]
    return x.reshape(B * T, M).index_select(0, rows.reshape(-1)).view(B, index.shape[1], M)


class AudioCropOptions(FlagOptions):
    """Options of the audio `crop`."""

    p: Probability = Field(default=0.9, description="Probability that the crop is on.")
    scale: Range = Field(default=(0.08, 1.0), description="Area of the box, as a share of the spectrogram.")
    ratio: Range = Field(
        default=(0.8, 1.5),
        description="Share of the mel axis over share of the clip (1/10 to 1.5/8 in bins per frame).",
    )


class AudioCrop(Crop):
    """Cuts a box of time × frequency and stretches it over the whole map, linearly between cell centres.

    `p` is 0.9, not 1 as released: with the crop always on, a view without it (identity, or one transform alone)
    lies outside of what the predictor was trained on and can't be asked about.
    """

    axes = ("the clip", "the mel axis")
    everywhere = True
    Options = AudioCropOptions

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        B, T, M = x.shape
        _, top, left, height, width = params.to(x.device).values.unbind(1)
        first, last = left * M, (left + width) * M
        bins = resampling_taps(first, last, M, M, clip_low=first, clip_high=last, interpolation="bilinear")
        first, last = top * T, (top + height) * T
        frames = resampling_taps(first, last, T, T, clip_low=first, clip_high=last, interpolation="bilinear")
        # a product is faster than two transpositions: the mel axis is short
        matrix = x.new_zeros(B, M, M).scatter_add_(1, bins.index.transpose(1, 2), bins.weight.transpose(1, 2))
        return torch.bmm(resample_rows(x[:, None], frames)[:, 0], matrix)


class GainOptions(FlagOptions):
    """Options of `gain`."""

    p: Probability = Field(default=0.8, description="Probability that the gain is on.")
    largest: float = Field(
        default=0.4, gt=0, description="Largest gain, in standard deviations of the log-mel (0.4 is about 7.5 dB)."
    )


class Gain(Transform):
    """Makes the sound louder or softer: adds a constant to the log-mel."""

    name = "gain"
    everywhere = True
    Options = GainOptions

    @override
    def amount_slots(self) -> list[Slot]:
        largest = self.options.largest
        return [Slot.centred("amount", "standard deviations of the log-mel", -largest, largest, 0.0)]

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        return x.add_(params.to(x.device).column("amount")[:, None, None])


class ContrastOptions(FlagOptions):
    """Options of the audio `contrast`."""

    p: Probability = Field(default=0.8, description="Probability that the contrast is on.")
    largest: float = Field(default=0.4, gt=0, lt=1, description="Largest change of the factor from 1.")


class Contrast(Transform):
    """Widens or narrows the dynamic range about the clip's own mean level."""

    name = "contrast"
    everywhere = True
    Options = ContrastOptions

    @override
    def amount_slots(self) -> list[Slot]:
        return [Slot.centred("factor", "factor", 1 - self.options.largest, 1 + self.options.largest, 1.0)]

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        factor = params.to(x.device).column("factor")[:, None, None]
        offset = x.mean((1, 2), keepdim=True) * (1 - factor)
        return x.mul_(factor).add_(offset)


class Reverse(Transform):
    """Plays the clip backwards."""

    name = "reverse"

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        return x.flip(1)


PAPER = ("time_mask", "frequency_mask", "shift", "crop", "gain", "contrast", "blur", "reverse")
ALL: dict[str, type[Transform]] = {
    kind.name: kind for kind in (TimeMask, FrequencyMask, Shift, AudioCrop, Gain, Contrast, Blur, Reverse)
}
