"""Boxes of the random resized crop against torchvision's loop of ten tries, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from equiav.augment.audio_effects import AudioCrop, AudioCropOptions
from equiav.augment.boxes import draw_box
from equiav.augment.space import SpaceParams


def ten_tries(rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[float, ...]:
    """RandomResizedCrop.get_params in shares of a square, without rounding to pixels."""
    for _ in range(10):
        area = rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = math.sqrt(area * shape), math.sqrt(area / shape)
        if width <= 1 and height <= 1:
            return rng.uniform(0, 1 - height), rng.uniform(0, 1 - width), height, width
    raise AssertionError("no box in ten tries: not seen at the ranges of this test")


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.08, 1.0), (0.8, 1.5)), ((0.2, 0.6), (0.5, 2.0)), ((0.5, 0.5), (0.5, 2.0))],
)
def test_boxes_are_distributed_as_by_trying_again(scale, ratio):
    rng = np.random.default_rng(0)
    loop = np.array([ten_tries(rng, scale, ratio) for _ in range(20_000)])
    u = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0))
    ours = torch.stack(draw_box(u, scale, ratio), dim=1).double().numpy()
    derived = [np.concatenate([b, b[:, 2:3] * b[:, 3:], b[:, 3:] / b[:, 2:3]], axis=1) for b in (loop, ours)]
    for name, expected, found in zip(
        ("top", "left", "height", "width", "area", "ratio"), *map(np.transpose, derived), strict=True
    ):
        # the single area of the last case is a constant up to rounding
        if expected.std() < 1e-9:
            assert abs(found - expected.mean()).max() < 1e-5
            continue
        assert stats.ks_2samp(expected, found).pvalue > 1e-3, name


def test_boxes_lie_inside_and_keep_their_ranges():
    u = torch.rand(50_000, 4, generator=torch.Generator().manual_seed(1))
    top, left, height, width = draw_box(u, (0.08, 1.0), (3 / 4, 4 / 3))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1 + 1e-6).all()
    assert (left + width <= 1 + 1e-6).all()
    area, ratio = height * width, width / height
    assert area.min() > 0.08 - 1e-5
    assert ratio.min() > 3 / 4 - 1e-4
    assert ratio.max() < 4 / 3 + 1e-4


def test_one_ratio_and_extreme_uniforms_are_fine():
    u = torch.tensor([[0.0] * 4, [1 - 2.0**-24] * 4])
    top, left, height, width = draw_box(u, (0.25, 1.0), (1.0, 1.0))
    assert torch.allclose(height, width)
    assert torch.allclose(height, torch.tensor([0.5, 1.0]), atol=1e-4)
    assert torch.allclose(top + height, torch.tensor([0.5, 1.0]), atol=1e-4)
    assert torch.equal(top, left)


def test_settling_moves_a_box_inside_the_whole():
    crop = AudioCrop(AudioCropOptions())
    names = tuple(slot.name for slot in crop.slots)
    settled = crop.settle(SpaceParams(torch.tensor([[1.0, 0.9, 0.2, 0.5, 0.0]]), names))
    assert settled.column("on") == 1
    assert settled.column("top") == 0.5
    assert settled.column("left") == pytest.approx(0.2)
    assert settled.column("height") == 0.5
    assert settled.column("width") == pytest.approx(0.01)
