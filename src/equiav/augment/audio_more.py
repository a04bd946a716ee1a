"""Transformations of sound beyond the paper's: for experiments on unseen transformations and users' own recipes.

    audio (B, T, M), standardised log-mel -> (B, T, M)

None is in the default list. B batch · T time frames (10 ms) · M mel bins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from equiav.augment.audio_effects import take_frames
from equiav.augment.transform import FlagOptions, Range, Slot, SpaceParams, Transform
from equiav.augment.uniforms import noise

if TYPE_CHECKING:
    from jaxtyping import Float


class MelShiftOptions(FlagOptions):
    """Options of `mel_shift`."""

    largest: float = Field(default=8.0, gt=0, description="Largest shift, in mel bins.")


class MelShift(Transform):
    """Moves the sound up the mel axis, a rough change of pitch; bins that nothing moves into become the mean."""

    name = "mel_shift"
    Options = MelShiftOptions

    @override
    def amount_slots(self) -> list[Slot]:
        largest = self.options.largest
        return [Slot.centred("amount", "mel bins, up is positive", -largest, largest, 0.0)]

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        amount = params.to(x.device).column("amount")
        bins = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)
        distance = bins[:, None] + amount[:, None, None] - bins  # from, to
        return torch.bmm(x, (1 - distance.abs()).clamp(min=0))


class StretchOptions(FlagOptions):
    """Options of `stretch`."""

    speed: Range = Field(default=(0.8, 1.25), description="Speed of play; 1 changes nothing.")


class Stretch(Transform):
    """Plays faster or slower about the middle of the clip at the same pitch; what is missing becomes the mean."""

    name = "stretch"
    Options = StretchOptions

    @override
    def amount_slots(self) -> list[Slot]:
        low, high = self.options.speed
        return [Slot.centred("factor", "speed", low, high, 1.0)]

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        T = x.shape[1]
        factor = params.to(x.device).column("factor")
        middle = (T - 1) / 2
        place = middle + (torch.arange(T, device=x.device) - middle) * factor[:, None]
        before = place.floor()
        inside = (place >= 0) & (place <= T - 1)
        earlier = take_frames(x, before.clamp(0, T - 1).long())
        later = take_frames(x, (before + 1).clamp(0, T - 1).long())
        return torch.lerp(earlier, later, (place - before)[:, :, None]).masked_fill_(~inside[:, :, None], 0.0)


class NoiseOptions(FlagOptions):
    """Options of `noise`."""

    snr_db: Range = Field(default=(0.0, 30.0), description="Ratio of the clip's mean power to the noise's, in dB.")
    log_std: float = Field(
        default=4.4, gt=0, description="Standard deviation of the log-mel, in nats: what 1 in the input stands for."
    )


class Noise(Transform):
    """Adds white noise of the same power in every mel bin; the noise itself follows from `seed`."""

    name = "noise"
    Options = NoiseOptions

    @override
    def amount_slots(self) -> list[Slot]:
        low, high = self.options.snr_db
        return [
            Slot.centred("snr_db", "dB", low, high, high),
            Slot.centred("seed", "number of the noise", 0.0, 1.0, 0.0),
        ]

    @override
    def effect(self, x: Float[Tensor, "B T M"], params: SpaceParams) -> Float[Tensor, "B T M"]:
        B, T, M = x.shape
        _, snr_db, seed = params.to(x.device).values.unbind(1)
        nats = x * self.options.log_std
        mean_power = nats.flatten(1).logsumexp(1) - math.log(T * M)
        # the power of a Gaussian signal in one cell is exponentially distributed
        cell = torch.log(-torch.log1p(-noise(seed, T * M)) + 1e-9).view(B, T, M)
        level = mean_power - snr_db * (math.log(10) / 10)
        return torch.logaddexp(nats, level[:, None, None] + cell) / self.options.log_std


ALL: dict[str, type[Transform]] = {kind.name: kind for kind in (MelShift, Stretch, Noise)}
