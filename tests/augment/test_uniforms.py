"""Draws: keyed bits against a plain SplitMix64, antithetic pairs, Sobol strata, independence of workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from equiav.augment.audio import audio_space
from equiav.augment.uniforms import from_generator, from_keys, noise
from equiav.augment.visual import visual_space
from equiav.config import Augment
from equiav.errors import ConfigError

MASK = (1 << 64) - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def splitmix(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    return word ^ (word >> 31)


def test_keyed_bits_equal_splitmix64_in_python():
    golden = 0x9E3779B97F4A7C15
    seed, epoch, stream, width = 5, 3, 1, 4
    salt = 0
    for number in (seed, epoch, stream):
        salt = splitmix((salt + number + 1) * golden & MASK)
    keys = [0, 1, -1, 2**62, -(2**63)]
    found = from_keys(torch.tensor(keys), width, seed=seed, epoch=epoch, stream=stream)
    for row, key in zip(found.tolist(), keys, strict=True):
        start = splitmix((key + salt) & MASK)
        expected = [(splitmix((start + i * golden) & MASK) >> 40) * 2.0**-24 for i in range(1, width + 1)]
        assert row == expected


@pytest.mark.parametrize("method", ["iid", "antithetic", "sobol"])
def test_draws_are_uniform_in_every_dimension(method):
    for u in (
        from_generator(65_536, 20, seeded(), method, group=16),
        from_keys(torch.arange(4096), 20, seed=0, epoch=0, stream=0, count=16, method=method),
    ):
        assert u.min() >= 0
        assert u.max() < 1
        for column in u.T.numpy():
            assert stats.kstest(column, "uniform").pvalue > 1e-4
        correlation = np.corrcoef(u.T.numpy()) - np.eye(20)
        # two dimensions may share their strata in one Sobol group, with a sign that the scrambling draws
        assert abs(correlation).max() < 0.06


def test_antithetic_pairs_mirror():
    u = from_generator(3 * 5, 7, seeded(), "antithetic", group=5).view(3, 5, 7)
    assert torch.equal(u[:, 3:] + u[:, :2], torch.full((3, 2, 7), 1 - 2.0**-24))


def test_sobol_sets_hold_one_point_per_stratum_in_every_group():
    u = from_generator(8 * 16, 40, seeded(), "sobol", group=16).view(8, 16, 40)
    strata = (u * 16).long().sort(dim=1).values
    assert torch.equal(strata, torch.arange(16)[None, :, None].expand_as(strata))
    assert not torch.equal(u[0], u[1]), "every clip has its own scrambling"
    # the first two dimensions are a (0, 4, 2)-net: every elementary box of area 1/16 holds one point
    for rows in (2, 4, 8):
        boxes = (u[..., 0] * rows).long() * (16 // rows) + (u[..., 1] * (16 // rows)).long()
        assert torch.equal(boxes.sort(1).values, torch.arange(16).expand(8, 16))


@pytest.mark.parametrize("method", ["antithetic", "sobol"])
def test_spread_draws_estimate_means_better_than_independent_ones(method):
    def error(kind: str) -> float:
        u = from_generator(500 * 16, 12, seeded(1), kind, group=16).view(500, 16, 12)
        smooth = (1.5 * u).exp().mean(2)
        return float((smooth.mean(1) - (np.exp(1.5) - 1) / 1.5).square().mean().sqrt())

    assert error(method) < 0.5 * error("iid")


def test_a_clip_gets_its_view_whatever_its_batch():
    space = visual_space(Augment(), 32)
    keys = torch.randint(-(2**62), 2**62, (40,), generator=seeded())
    options = {"seed": 1, "epoch": 4, "count": 4, "method": "sobol"}
    whole = space.sample_for(keys, **options)
    order = torch.randperm(40, generator=seeded(1))
    rows = (order[:, None] * 4 + torch.arange(4)).view(-1)
    assert torch.equal(space.sample_for(keys[order], **options).values, whole.values[rows])
    parts = [space.sample_for(part, **options).values for part in keys.split(7)]
    assert torch.equal(torch.cat(parts), whole.values)


def test_seed_epoch_stream_and_modality_change_the_view():
    visual, audio = visual_space(Augment(), 32), audio_space(Augment(), 32, 16)
    keys = torch.arange(64)
    base = {"seed": 1, "epoch": 2, "stream": 0}
    first = visual.sample_for(keys, **base)
    for name in base:
        assert not torch.equal(visual.sample_for(keys, **{**base, name: 9}).values, first.values)
    flips = first.column("flip.on")
    reversals = audio.sample_for(keys, **base).column("reverse.on")
    assert 10 < int((flips != reversals).sum()) < 54, "the modalities are drawn independently"


def test_noise_follows_from_its_seed():
    seeds = torch.tensor([0.0, 0.25, 0.25, 1 - 2.0**-24])
    found = noise(seeds, 5000)
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])
    assert stats.kstest(found[3].numpy(), "uniform").pvalue > 1e-3


def test_too_many_dimensions_for_sobol_are_an_error():
    with pytest.raises(ConfigError, match="dimensions"):
        from_generator(4, 30_000, seeded(), "sobol")
