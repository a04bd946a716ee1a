"""Laws of the audio effects: support of masks, shifts that undo, whole crops, energy, plain-loop second opinions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from equiav.augment.audio import audio_space
from equiav.augment.room import RoomOptions, RoomSpace
from equiav.augment.space import SpaceParams
from equiav.config import Augment
from equiav.errors import ConfigError

T, M = 96, 32


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def space_of(name: str, **options):
    return audio_space(Augment(audio={name: options}), T, M)


def params_of(space, *rows: tuple[float, ...]) -> SpaceParams:
    return SpaceParams(torch.tensor(rows), space.names)


def sound(n: int = 1) -> torch.Tensor:
    return torch.randn(n, T, M, generator=seeded())


@pytest.mark.parametrize(("name", "axis", "size"), [("time_mask", 1, T), ("frequency_mask", 2, M)])
def test_a_mask_silences_its_interval_and_nothing_else(name, axis, size):
    space = space_of(name)
    x = sound()
    y = space.apply(x, params_of(space, (1.0, 0.25, 0.5)))
    inside = y.narrow(axis, size // 4, size // 4)
    assert inside.abs().max() == 0
    for start, length in ((0, size // 4), (size // 2, size // 2)):
        assert torch.equal(y.narrow(axis, start, length), x.narrow(axis, start, length))


def test_masks_are_as_wide_as_the_paper_says():
    space = audio_space(Augment(), 1024, 128)
    params = space.sample(4000, seeded())
    time = params.column("time_mask.end") - params.column("time_mask.start")
    mel = params.column("frequency_mask.end") - params.column("frequency_mask.start")
    assert 0.98 * 192 / 1024 < time.max() <= 192 / 1024 + 1e-6
    assert 0.98 * 48 / 128 < mel.max() <= 48 / 128 + 1e-6


def test_a_shift_is_a_roll_and_undoes():
    space = space_of("shift")
    x = sound()
    y = space.apply(x, params_of(space, (1.0, 0.25)))
    assert torch.equal(y, x.roll(T // 4, dims=1))
    assert torch.equal(space.apply(y, params_of(space, (1.0, -0.25))), x)


def test_a_crop_of_the_whole_is_the_identity():
    space = space_of("crop")
    x = sound()
    assert torch.equal(space.apply(x, params_of(space, (1.0, 0.0, 0.0, 1.0, 1.0))), x)


def test_a_crop_equals_cutting_and_linear_interpolation():
    space = space_of("crop")
    x = sound()
    top, left, height, width = 24, 8, 48, 16
    y = space.apply(x, params_of(space, (1.0, top / T, left / M, height / T, width / M)))
    box = x[:, None, top : top + height, left : left + width]
    expected = torch.nn.functional.interpolate(box, size=(T, M), mode="bilinear", align_corners=False)[:, 0]
    assert (y - expected).abs().max() < 1e-5


def test_gain_adds_and_contrast_scales_about_the_mean():
    x = sound(2) + 0.7
    gain, contrast = space_of("gain"), space_of("contrast")
    assert torch.equal(gain.apply(x, params_of(gain, (1.0, 0.3), (0.0, 0.0))), torch.stack([x[0] + 0.3, x[1]]))
    y = contrast.apply(x, params_of(contrast, (1.0, 1.4), (1.0, 0.6)))
    assert torch.allclose(y.mean((1, 2)), x.mean((1, 2)), atol=1e-5)
    assert torch.allclose(y.std((1, 2)) / x.std((1, 2)), torch.tensor([1.4, 0.6]), atol=1e-4)


def test_blur_equals_scipy_and_keeps_the_mean():
    space = space_of("blur")
    x = sound(2)
    y = space.apply(x, params_of(space, (1.0, 1.5), (1.0, 0.4)))
    for row, sigma in enumerate((1.5, 0.4)):
        expected = ndimage.gaussian_filter(x[row].numpy(), sigma, mode="nearest", radius=int(np.ceil(3 * sigma)))
        assert abs(y[row].numpy() - expected).max() < 1e-5
    assert (y.var((1, 2)) < x.var((1, 2))).all()


def test_reversal_flips_time_only_and_undoes():
    space = space_of("reverse")
    x = sound()
    on = params_of(space, (1.0,))
    assert torch.equal(space.apply(x, on), x.flip(1))
    assert torch.equal(space.apply(space.apply(x, on), on), x)


def test_mel_shift_moves_bins_and_fills_with_the_mean():
    space = space_of("mel_shift")
    x = sound()
    y = space.apply(x, params_of(space, (1.0, 3.0)))
    assert torch.equal(y[:, :, 3:], x[:, :, :-3])
    assert y[:, :, :3].abs().max() == 0
    halfway = space.apply(x, params_of(space, (1.0, 0.5)))
    assert torch.allclose(halfway[:, :, 1:], (x[:, :, 1:] + x[:, :, :-1]) / 2, atol=1e-6)


def test_stretch_samples_time_about_the_middle():
    space = space_of("stretch", speed=[0.5, 2.0])
    ramp = torch.arange(T, dtype=torch.float32)[None, :, None].expand(1, T, M).contiguous()
    middle = (T - 1) / 2
    slow = space.apply(ramp, params_of(space, (1.0, 0.5)))[0, :, 0]
    assert torch.allclose(slow, middle + (torch.arange(T) - middle) * 0.5, atol=1e-4)
    fast = space.apply(ramp, params_of(space, (1.0, 2.0)))[0, :, 0]
    assert fast[: T // 4 - 1].abs().max() == 0
    assert fast[T // 2] == pytest.approx(middle + 1)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_noise_on_a_map_has_the_power_that_is_set(snr_db):
    space = audio_space(Augment(audio={"noise": {"log_std": 4.0}}), 1024, 64)
    x = torch.randn(1, 1024, 64, generator=seeded()) * 0.2
    y = space.apply(x, params_of(space, (1.0, snr_db, 0.5)))
    added = (y * 4.0).exp().double().mean() - (x * 4.0).exp().double().mean()
    assert 10 * np.log10(float((x * 4.0).exp().double().mean() / added)) == pytest.approx(snr_db, abs=0.3)


@pytest.mark.parametrize("order", [["shift", "gain", "contrast", "reverse"], ["reverse", "contrast", "shift", "gain"]])
def test_two_views_compose_to_one(order):
    space = audio_space(Augment(audio={name: {"p": 0.7} for name in order}), T, M)
    x = sound(64)
    first, then = space.sample(64, seeded(1)), space.sample(64, seeded(2))
    both = space.apply(x, space.compose(first, then))
    assert torch.allclose(both, space.apply(space.apply(x, first), then), atol=1e-5)


def test_views_that_do_not_compose_are_an_error():
    space = audio_space(Augment(), T, M)
    with pytest.raises(ConfigError, match=r"also on: .*crop"):
        space.compose(space.sample(8, seeded()), space.identity(8))


def test_a_room_is_a_convolution_that_falls_by_60_db():
    space = RoomSpace(RoomOptions(sample_rate=4000, mix=(0.5, 1.0), rt60_s=(0.1, 0.5)))
    click = torch.zeros(1, 4000)
    click[0, 0] = 1.0
    params = params_of(space, (1.0, 0.4, 1.0, 0.2))
    response = space.apply(click, params)[0]
    assert response.square().sum() == pytest.approx(1.0, abs=1e-3)
    left = response.square().flip(0).cumsum(0).flip(0)
    decay_db = 10 * torch.log10(left / left[0])
    # Schroeder's integral of an exponential is a line; 60 dB in 0.4 s are 15 dB in 0.1 s
    assert decay_db[800] - decay_db[400] == pytest.approx(-15.0, abs=2.0)
    x = torch.randn(1, 4000, generator=seeded()) * 0.1
    expected = signal.fftconvolve(x[0].numpy(), response.numpy())[:4000]
    assert abs(space.apply(x, params)[0].numpy() - expected).max() < 1e-5
