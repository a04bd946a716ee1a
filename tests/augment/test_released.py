"""The authors' numbers, slot by slot: positions, values, sampling distribution and, on request, their effects."""

from __future__ import annotations

import pytest
import torch

from equiav.augment.audio import audio_space
from equiav.augment.space import SpaceParams
from equiav.augment.visual import visual_space
from equiav.config import Augment

T, M = 1024, 128
AUDIO = audio_space(Augment(variant="released"), T, M)
VISUAL = visual_space(Augment(variant="released"), 32)
SMALL = audio_space(Augment(variant="released"), 64, 32)
FAITHFUL = audio_space(Augment(variant="released", effects="released"), 64, 32)


def codes(space) -> torch.Tensor:
    return space.encode(space.sample(20_000, torch.Generator().manual_seed(0)))


def test_slots_are_where_the_weights_expect_them():
    order = ["first", "second", "third", "fourth", "brightness", "contrast", "saturation", "hue"]
    box = ["on", "top", "left", "height", "width"]
    mask = ["on", "time_start", "time_end", "frequency_start", "frequency_end", "shift_on", "shift"]
    jitter = [f"jitter.{name}" for name in ["on", *order]]
    tail = ["blur.on", "blur.sigma", "flip.on"]
    crop = [f"crop.{name}" for name in box]
    assert list(AUDIO.names) == [*(f"mask.{name}" for name in mask), *crop, *jitter, *tail]
    assert list(VISUAL.names) == [*crop, *jitter, *tail, "grayscale.on"]


def test_the_identity_is_zeros_but_for_the_order():
    expected = torch.zeros(18)
    expected[7:10] = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(VISUAL.encode(VISUAL.identity(1))[0], expected)
    expected = torch.zeros(24)
    expected[14:17] = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(AUDIO.encode(AUDIO.identity(1))[0], expected)


def test_audio_numbers_have_the_released_ranges():
    v = codes(AUDIO)
    on = v[:, 0] > 0
    assert on.float().mean() == pytest.approx(0.8, abs=0.01)
    bounds = v[:, 1:5]
    assert torch.equal(bounds, bounds.round())
    assert (bounds[:, 1] - bounds[:, 0]).max() == 191
    assert (bounds[:, 3] - bounds[:, 2]).max() == 47
    assert torch.equal(v[:, 5], v[:, 0]), "one coin for masks and shift"
    shift = v[on, 6] * T
    assert torch.equal(shift, shift.round())
    assert shift.min() >= -T
    assert shift.max() <= T - 1
    assert shift.std() == pytest.approx(2 * T / 12**0.5, rel=0.02)
    assert (v[:, 7] == 1).all()
    # i/128 and h/128 reach 8, j/1024 and w/1024 never pass 1/8
    assert 7 < v[:, 10].max() <= 8
    assert v[:, [9, 11]].max() <= 0.125
    area = (v[:, 10] * M / T) * (v[:, 11] * T / M)
    ratio = (v[:, 11] * T) / (v[:, 10] * M)
    assert area.min() > 0.079
    assert area.max() <= 1.0001
    assert ratio.min() > 0.0999
    assert ratio.max() < 1.5 / 8 + 1e-4


@pytest.mark.parametrize(("space", "start"), [(AUDIO, 12), (VISUAL, 5)])
def test_jitter_numbers_have_the_released_ranges(space, start):
    v = codes(space)
    on = v[:, start] > 0
    assert on.float().mean() == pytest.approx(0.8, abs=0.01)
    orders = v[:, start + 1 : start + 5]
    assert torch.equal(orders.sort(1).values, torch.arange(4.0).expand_as(orders))
    assert len(orders[on].unique(dim=0)) == 24
    assert torch.equal(orders[~on], torch.arange(4.0).expand_as(orders[~on]))
    for slot, reach in zip(range(start + 5, start + 9), (0.4, 0.4, 0.4, 0.1), strict=True):
        assert v[on, slot].std() == pytest.approx(2 * reach / 12**0.5, rel=0.03)
        assert v[:, slot].abs().max() <= reach + 1e-6
        assert (v[~on, slot] == 0).all()


def test_blur_flip_and_grayscale_have_the_released_ranges():
    for v, start in ((codes(AUDIO), 21), (codes(VISUAL), 14)):
        on = v[:, start] > 0
        assert on.float().mean() == pytest.approx(0.5, abs=0.01)
        assert v[on, start + 1].min() >= 0.1
        assert v[on, start + 1].max() <= 2.0
        assert (v[~on, start + 1] == 0).all()
        assert v[:, start + 2].mean() == pytest.approx(0.5, abs=0.01)
    assert codes(VISUAL)[:, 17].mean() == pytest.approx(0.2, abs=0.01)


def with_slots(space, **slots: float) -> SpaceParams:
    params = space.identity(1)
    for name, value in slots.items():
        params = params.replace(name.replace("__", "."), value)
    return params


def test_our_shift_moves_time_and_the_authors_does_not():
    x = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))
    slots = {"mask__on": 1.0, "mask__shift_on": 1.0, "mask__shift": -0.25}
    assert torch.equal(SMALL.apply(x, with_slots(SMALL, **slots)), x.roll(-16, 1))
    assert torch.equal(FAITHFUL.apply(x, with_slots(FAITHFUL, **slots)), x)


def test_our_flip_reverses_time_and_the_authors_the_mel_axis():
    x = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(SMALL.apply(x, with_slots(SMALL, flip__on=1.0)), x.flip(1))
    assert torch.equal(FAITHFUL.apply(x, with_slots(FAITHFUL, flip__on=1.0)), x.flip(2))


def test_our_jitter_is_linear_and_the_authors_is_clipped():
    x = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))
    slots = {"jitter__on": 1.0, "jitter__brightness": 1.2, "jitter__contrast": 0.7}
    scaled = x * 1.2
    assert torch.allclose(SMALL.apply(x, with_slots(SMALL, **slots)), scaled * 0.7 + 0.3 * scaled.mean(), atol=1e-6)
    clipped = scaled.clamp(0, 1)
    expected = (clipped * 0.7 + 0.3 * clipped.mean()).clamp(0, 1)
    assert torch.allclose(FAITHFUL.apply(x, with_slots(FAITHFUL, **slots)), expected, atol=1e-6)


def test_the_plain_view_is_bicubic_as_released():
    frame = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    bicubic = visual_space(Augment(visual={"crop": {"interpolation": "bicubic"}}), 32)
    assert torch.equal(VISUAL.plain(frame), bicubic.plain(frame))
