"""Transformations of sound on waveforms, before the spectrogram: for what a spectrogram cannot show.

    waveforms (B, S), samples in [-1, 1] -> (B, S), psi(t) (B, P)

None is in the default list; `waveform_space` takes a recipe's list of them. B batch · S samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from equiav.augment.audio_effects import AmountParams, Reverse, ShiftOptions
from equiav.augment.audio_more import NoiseParams
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.transform import FLAG, FlagOptions, Params, Range, Slot, Transform, build_transforms
from equiav.augment.uniforms import noise
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float

PAPER = ("shift", "gain")


class WaveformSpace(AugmentationSpace):
    """Transforms of waveforms."""

    def __init__(self, transforms: list[Transform[Any]]) -> None:
        super().__init__("audio", transforms)

    @override
    def apply(self, x: Float[Tensor, "B S"], params: SpaceParams) -> Float[Tensor, "B S"]:
        """All transforms in order.

        Raises:
            ConfigError: x is no (B, S) batch, or params are not B sets of this space.
        """
        if x.ndim != 2:
            raise ConfigError(f"expected waveforms (B, S), found {tuple(x.shape)}")
        return super().apply(x, params)


def waveform_space(chosen: Mapping[str, Mapping[str, Any]]) -> WaveformSpace:
    """A space on waveforms, name to options in order of application; none chosen: shift and gain.

    Raises:
        ConfigError: an unknown transform or option, or a value out of range.
    """
    return WaveformSpace(build_transforms("waveform", chosen, ALL, PAPER))


class WaveShift(Transform[AmountParams]):
    """Moves the sound later in time by whole samples; what leaves at the end comes back at the start."""

    name = "shift"
    kind = AmountParams
    Options = ShiftOptions

    def __init__(self, options: ShiftOptions) -> None:
        super().__init__(options)
        largest = options.largest
        self.slots = (FLAG, Slot.centred("amount", "share of the clip, later is positive", -largest, largest, 0.0))

    @override
    def effect(self, x: Float[Tensor, "B S"], params: AmountParams) -> Float[Tensor, "B S"]:
        S = x.shape[1]
        samples = (params.to(x.device).amount * S).round().long()
        return x.gather(1, (torch.arange(S, device=x.device) - samples[:, None]) % S)


class WaveGainOptions(FlagOptions):
    """Options of the waveform `gain`."""

    largest_db: float = Field(default=7.5, gt=0, description="Largest gain, in dB.")


class WaveGain(Transform[AmountParams]):
    """Makes the sound louder or softer; nothing is clipped."""

    name = "gain"
    kind = AmountParams
    Options = WaveGainOptions

    def __init__(self, options: WaveGainOptions) -> None:
        super().__init__(options)
        self.slots = (FLAG, Slot.centred("amount", "dB", -options.largest_db, options.largest_db, 0.0))

    @override
    def effect(self, x: Float[Tensor, "B S"], params: AmountParams) -> Float[Tensor, "B S"]:
        return x * torch.exp(params.to(x.device).amount * (math.log(10) / 20))[:, None]


class WaveNoiseOptions(FlagOptions):
    """Options of the waveform `noise`."""

    snr_db: Range = Field(default=(0.0, 30.0), description="Ratio of the clip's mean power to the noise's, in dB.")


class WaveNoise(Transform[NoiseParams]):
    """Adds white Gaussian noise; the noise itself follows from `seed`."""

    name = "noise"
    kind = NoiseParams
    Options = WaveNoiseOptions

    def __init__(self, options: WaveNoiseOptions) -> None:
        super().__init__(options)
        low, high = options.snr_db
        self.slots = (
            FLAG,
            Slot.centred("snr_db", "dB", low, high, high),
            Slot.centred("seed", "number of the noise", 0.0, 1.0, 0.0),
        )

    @override
    def effect(self, x: Float[Tensor, "B S"], params: NoiseParams) -> Float[Tensor, "B S"]:
        params = params.to(x.device)
        level = x.square().mean(1).sqrt() * torch.exp(-params.snr_db * (math.log(10) / 20))
        return x + level[:, None] * gaussian(params.seed, x.shape[1])


def gaussian(seed: Float[Tensor, " n"], width: int) -> Float[Tensor, "n width"]:
    """Standard normal numbers that follow from a seed in [0, 1) (Box and Muller 1958)."""
    radius, angle = noise(seed, 2 * width).view(len(seed), 2, width).unbind(1)
    return torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * math.pi * angle)


class RoomOptions(FlagOptions):
    """Options of `room`."""

    rt60_s: Range = Field(default=(0.1, 1.0), description="Time in which the reverberation falls by 60 dB, in seconds.")
    mix: Range = Field(default=(0.1, 0.6), description="Share of the reverberation; 0 is the dry sound.")
    sample_rate: int = Field(default=16_000, gt=0, description="Sample rate of the waveforms, in Hz.")


@dataclass(frozen=True)
class RoomParams(Params):
    """A room and how much of it."""

    rt60_s: Float[Tensor, " n"]
    mix: Float[Tensor, " n"]
    seed: Float[Tensor, " n"]


class Room(Transform[RoomParams]):
    """Mixes in the response of a made-up room: noise of unit energy that decays exponentially (Polack 1988)."""

    name = "room"
    kind = RoomParams
    Options = RoomOptions

    def __init__(self, options: RoomOptions) -> None:
        super().__init__(options)
        self.slots = (
            FLAG,
            Slot.centred("rt60_s", "seconds", *options.rt60_s, options.rt60_s[0]),
            Slot.centred("mix", "share", options.mix[0], options.mix[1], 0.0),
            Slot.centred("seed", "number of the room", 0.0, 1.0, 0.0),
        )

    @override
    def effect(self, x: Float[Tensor, "B S"], params: RoomParams) -> Float[Tensor, "B S"]:
        S = x.shape[1]
        params = params.to(x.device)
        tail = int(self.options.rt60_s[1] * self.options.sample_rate) + 1
        time_s = torch.arange(tail, device=x.device) / self.options.sample_rate
        decay = torch.exp(-3 * math.log(10) * time_s / params.rt60_s[:, None])
        response = gaussian(params.seed, tail) * decay
        response = response / response.square().sum(1, keepdim=True).sqrt()
        length = S + tail
        wet = torch.fft.irfft(torch.fft.rfft(x, length) * torch.fft.rfft(response, length), length)[:, :S]
        return torch.lerp(x, wet, params.mix[:, None])


ALL: dict[str, type[Transform[Any]]] = {kind.name: kind for kind in (WaveShift, WaveGain, WaveNoise, Room, Reverse)}
