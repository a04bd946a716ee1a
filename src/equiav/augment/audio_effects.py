"""Transformations of sound on the standardised log-mel spectrogram: the paper's families.

    audio (B, T, M), mean 0 and deviation 1 over the data -> (B, T, M)

EquiAV §3; DESIGN §4: masks of time and frequency, time shift, random resized crop, jitter, blur, flip. Deliberate
differences from the released code (`datasets/AudioVisual.py`):
    time shift moves time (:538 rolls identical channels, so nothing moves while the vector says so);
    jitter is gain and contrast, unclipped (:562-571 clips the standardised map to [0, 1]);
    the flip reverses time (:589 flips the mel axis);
    each slot is in [-1, 1] (:528-549 mixes raw indices up to 1024 and swapped normalisers with flags);
    masks and shift have a coin each, not one for all three.

B batch · T time frames (10 ms) · M mel bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from equiav.augment.boxes import BoxParams, box_slots, draw_box, settle_box
from equiav.augment.filters import Blur, resampling_weights
from equiav.augment.transform import (
    FLAG,
    FlagOptions,
    Params,
    Probability,
    Range,
    Slot,
    Transform,
)

if TYPE_CHECKING:
    from jaxtyping import Float


class MaskOptions(FlagOptions):
    """Options of a mask."""

    p: Probability = Field(default=0.8, description="Probability that the mask is on.")
    widest: float = Field(gt=0, le=1, description="Widest mask, as a share of the axis.")


class TimeMaskOptions(MaskOptions):
    """Options of `time_mask`."""

    widest: float = Field(default=192 / 1024, gt=0, le=1, description="Longest mask, as a share of the clip.")


class FrequencyMaskOptions(MaskOptions):
    """Options of `frequency_mask`."""

    widest: float = Field(default=48 / 128, gt=0, le=1, description="Widest mask, as a share of the mel axis.")


@dataclass(frozen=True)
class MaskParams(Params):
    """A masked interval, in shares of the axis."""

    start: Float[Tensor, " n"]
    end: Float[Tensor, " n"]


class _Mask(Transform[MaskParams]):
    """Sets an interval of one axis to 0, the mean (SpecAugment, Park et al. 2019)."""

    kind = MaskParams
    axis: int
    of: str

    def __init__(self, options: MaskOptions) -> None:
        super().__init__(options)
        self.slots = (
            FLAG,
            Slot.centred("start", f"share of {self.of}", 0.0, 1.0, 0.0),
            Slot.centred("end", f"share of {self.of}", 0.0, 1.0, 0.0),
        )

    @override
    def amounts(self, u: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
        width = u[:, 0] * self.options.widest
        start = u[:, 1] * (1 - width)
        return start, start + width

    @override
    def settle(self, params: MaskParams) -> MaskParams:
        return MaskParams(params.on, params.start, torch.maximum(params.start, params.end))

    @override
    def apply(self, x: Float[Tensor, "B T M"], params: MaskParams) -> Float[Tensor, "B T M"]:
        return x.masked_fill(masked(x.shape[self.axis], params.start, params.end, self.axis), 0.0)


def masked(size: int, start: Tensor, end: Tensor, axis: int) -> Tensor:
    """Where the centre of a frame (axis 1) or bin (axis 2) lies in [start, end): (B, size, 1) or (B, 1, size)."""
    centre = (torch.arange(size, device=start.device) + 0.5) / size
    inside = (centre >= start[:, None]) & (centre < end[:, None])
    return inside.unsqueeze(2 if axis == 1 else 1)


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


@dataclass(frozen=True)
class AmountParams(Params):
    """One amount, in the unit of its slot."""

    amount: Float[Tensor, " n"]


class Shift(Transform[AmountParams]):
    """Moves the sound later in time by whole frames; what leaves at the end comes back at the start."""

    name = "shift"
    kind = AmountParams
    Options = ShiftOptions

    def __init__(self, options: ShiftOptions) -> None:
        super().__init__(options)
        largest = options.largest
        self.slots = (FLAG, Slot.centred("amount", "share of the clip, later is positive", -largest, largest, 0.0))

    @override
    def apply(self, x: Float[Tensor, "B T M"], params: AmountParams) -> Float[Tensor, "B T M"]:
        T = x.shape[1]
        frames = (params.amount * T).round().long()
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


class AudioCrop(Transform[BoxParams]):
    """Cuts a box of time × frequency and stretches it over the whole map, linearly between cell centres.

    `p` is 0.9, not 1 as released: with the crop always on, a view without it (identity, or one transform alone)
    lies outside of what the predictor was trained on and can't be asked about (DESIGN §4).
    """

    name = "crop"
    kind = BoxParams
    Options = AudioCropOptions
    slots = box_slots("the clip", "the mel axis")

    @override
    def amounts(self, u: Float[Tensor, "n 4"]) -> tuple[Tensor, ...]:
        return draw_box(u, self.options.scale, self.options.ratio)

    @override
    def settle(self, params: BoxParams) -> BoxParams:
        return settle_box(params)

    @override
    def apply(self, x: Float[Tensor, "B T M"], params: BoxParams) -> Float[Tensor, "B T M"]:
        M = x.shape[2]
        first, last = params.left * M, (params.left + params.width) * M
        weights = resampling_weights(first, last, M, M, clip_low=first, clip_high=last, interpolation="bilinear")
        return torch.bmm(stretch_time(x, params.top, params.height), weights.transpose(1, 2))


def stretch_time(x: Float[Tensor, "B T M"], start: Tensor, share: Tensor) -> Float[Tensor, "B T M"]:
    """Stretch the interval [start, start + share) of the clip over all T frames; a share is at most 1.

    Enlarging needs two taps per frame, so rows are gathered: (B, T, T) weights would cost eight batches of memory.
    """
    T = x.shape[1]
    low, high = start * T, (start + share) * T
    frame = torch.arange(T, device=x.device) + 0.5
    place = low[:, None] + frame * share[:, None] - 0.5
    place = place.clamp(low[:, None].floor(), high[:, None].ceil() - 1).clamp(0, T - 1)
    before = place.floor()
    after = torch.minimum(before + 1, (high[:, None].ceil() - 1).clamp(0, T - 1))
    return torch.lerp(take_frames(x, before.long()), take_frames(x, after.long()), (place - before)[:, :, None])


class GainOptions(FlagOptions):
    """Options of `gain`."""

    p: Probability = Field(default=0.8, description="Probability that the gain is on.")
    largest: float = Field(
        default=0.4, gt=0, description="Largest gain, in standard deviations of the log-mel (0.4 is about 7.5 dB)."
    )


class Gain(Transform[AmountParams]):
    """Makes the sound louder or softer: adds a constant to the log-mel."""

    name = "gain"
    kind = AmountParams
    Options = GainOptions

    def __init__(self, options: GainOptions) -> None:
        super().__init__(options)
        unit = "standard deviations of the log-mel"
        self.slots = (FLAG, Slot.centred("amount", unit, -options.largest, options.largest, 0.0))

    @override
    def apply(self, x: Float[Tensor, "B T M"], params: AmountParams) -> Float[Tensor, "B T M"]:
        return x + params.amount[:, None, None]


class ContrastOptions(FlagOptions):
    """Options of the audio `contrast`."""

    p: Probability = Field(default=0.8, description="Probability that the contrast is on.")
    largest: float = Field(default=0.4, gt=0, lt=1, description="Largest change of the factor from 1.")


@dataclass(frozen=True)
class FactorParams(Params):
    """One factor."""

    factor: Float[Tensor, " n"]


class Contrast(Transform[FactorParams]):
    """Widens or narrows the dynamic range about the clip's own mean level."""

    name = "contrast"
    kind = FactorParams
    Options = ContrastOptions

    def __init__(self, options: ContrastOptions) -> None:
        super().__init__(options)
        self.slots = (FLAG, Slot.centred("factor", "factor", 1 - options.largest, 1 + options.largest, 1.0))

    @override
    def apply(self, x: Float[Tensor, "B T M"], params: FactorParams) -> Float[Tensor, "B T M"]:
        factor = params.factor[:, None, None]
        # not mean + f·(x - mean), which is not exactly x at f = 1
        return (x * factor).add_(x.mean((1, 2), keepdim=True) * (1 - factor))


class Reverse(Transform[Params]):
    """Plays the clip backwards: a spectrogram (B, T, M) or a waveform (B, S)."""

    name = "reverse"
    kind = Params
    Options = FlagOptions
    slots = (FLAG,)

    @override
    def apply(self, x: Float[Tensor, "B T M"], params: Params) -> Float[Tensor, "B T M"]:
        on = params.on.view(-1, *[1] * (x.ndim - 1)) > 0.5
        return torch.where(on, x.flip(1), x)


PAPER = ("time_mask", "frequency_mask", "shift", "crop", "gain", "contrast", "blur", "reverse")
ALL: dict[str, type[Transform[Any]]] = {
    kind.name: kind for kind in (TimeMask, FrequencyMask, Shift, AudioCrop, Gain, Contrast, Blur, Reverse)
}
