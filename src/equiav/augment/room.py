"""A made-up room, heard in the waveform before the spectrogram is made: what a spectrogram cannot show.

    waveforms (B, S), samples in [-1, 1] -> (B, S), psi(t) (B, P)

No recipe has it: `equiav diagnose` asks a model about it. B batch · S samples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from equiav.augment.space import AugmentationSpace
from equiav.augment.transform import FlagOptions, Range, Slot, SpaceParams, Transform
from equiav.augment.uniforms import noise
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float


class RoomOptions(FlagOptions):
    """Options of `room`."""

    rt60_s: Range = Field(default=(0.1, 1.0), description="Time in which the reverberation falls by 60 dB, in seconds.")
    mix: Range = Field(default=(0.1, 0.6), description="Share of the reverberation; 0 is the dry sound.")
    sample_rate: int = Field(default=16_000, gt=0, description="Sample rate of the waveforms, in Hz.")


class Room(Transform):
    """Mixes in the response of a made-up room: noise of unit energy that decays exponentially (Polack 1988)."""

    name = "room"
    Options = RoomOptions

    @override
    def amount_slots(self) -> list[Slot]:
        (shortest, longest), (least, most) = self.options.rt60_s, self.options.mix
        return [
            Slot.centred("rt60_s", "seconds", shortest, longest, shortest),
            Slot.centred("mix", "share", least, most, 0.0),
            Slot.centred("seed", "number of the room", 0.0, 1.0, 0.0),
        ]

    @override
    def effect(self, x: Float[Tensor, "B S"], params: SpaceParams) -> Float[Tensor, "B S"]:
        S = x.shape[1]
        _, rt60_s, mix, seed = params.to(x.device).values.unbind(1)
        tail = int(self.options.rt60_s[1] * self.options.sample_rate) + 1
        time_s = torch.arange(tail, device=x.device) / self.options.sample_rate
        decay = torch.exp(-3 * math.log(10) * time_s / rt60_s[:, None])
        response = gaussian(seed, tail) * decay
        response = response / response.square().sum(1, keepdim=True).sqrt()
        length = S + tail
        wet = torch.fft.irfft(torch.fft.rfft(x, length) * torch.fft.rfft(response, length), length)[:, :S]
        return torch.lerp(x, wet, mix[:, None])


def gaussian(seed: Float[Tensor, " n"], width: int) -> Float[Tensor, "n width"]:
    """Standard normal numbers that follow from a seed in [0, 1) (Box and Muller 1958)."""
    radius, angle = noise(seed, 2 * width).view(len(seed), 2, width).unbind(1)
    return torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * math.pi * angle)


class RoomSpace(AugmentationSpace):
    """Waveforms in one kind of room."""

    def __init__(self, options: RoomOptions) -> None:
        super().__init__("audio", [Room(options)])

    @override
    def apply(self, x: Float[Tensor, "B S"], params: SpaceParams) -> Float[Tensor, "B S"]:
        """Each sound in its room.

        Raises:
            ConfigError: x is no (B, S) batch, or params are not B sets of this space.
        """
        if x.ndim != 2:
            raise ConfigError(f"expected waveforms (B, S), found {tuple(x.shape)}")
        return super().apply(x, params)
