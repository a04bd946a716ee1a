"""Measures on embeddings whose answer is known, and the alarms that they set off."""

import math

import pytest
import torch

from equiav.metrics.health import (
    ALARMS,
    alignment,
    centroid_noise,
    deviation,
    displacement_ratio,
    effective_rank,
    logit_spread,
    rank_share,
    ringing,
    uniformity,
)


def sphere(n, e, seed=0):
    return torch.randn(n, e, generator=torch.Generator().manual_seed(seed))


def test_spread_out_embeddings_and_collapsed_ones():
    spread, collapsed = sphere(512, 32), torch.ones(512, 32) + 1e-3 * sphere(512, 32)
    assert float(deviation(spread)) == pytest.approx(1, abs=0.02)
    assert float(deviation(collapsed)) < 0.01
    assert float(uniformity(spread)) == pytest.approx(-4, abs=0.3)
    assert float(uniformity(collapsed)) == pytest.approx(0, abs=1e-4)
    assert float(alignment(spread, 3 * spread)) == pytest.approx(0, abs=1e-6)
    assert float(alignment(spread, -spread)) == pytest.approx(4)


def test_effective_rank_counts_directions():
    directions = torch.cat([torch.eye(4), -torch.eye(4)])
    assert float(effective_rank(directions)) == pytest.approx(4, rel=1e-4)
    plane = torch.nn.functional.pad(sphere(64, 2), (0, 30))
    assert float(effective_rank(plane)) == pytest.approx(2, abs=0.1)
    assert float(rank_share(plane)) == pytest.approx(2 / 32, abs=0.01)


def test_a_predictor_without_effect_and_a_perfect_one():
    plain, transformed = sphere(20, 8), sphere(20, 8, 1)
    assert float(displacement_ratio(plain, plain, transformed)) == 0
    assert float(displacement_ratio(plain, transformed, transformed)) == pytest.approx(1)


def test_noise_of_a_centroid_falls_with_k_and_rises_with_the_draws():
    clips = sphere(256, 1, 3)[:, None] * torch.ones(1, 16, 4)
    moved = clips + 0.5 * torch.randn(256, 16, 4, generator=torch.Generator().manual_seed(4))
    assert float(centroid_noise(moved)) == pytest.approx(0.25 / 16, rel=0.2)
    assert float(centroid_noise(clips)) == pytest.approx(0, abs=1e-6)


def test_logits_of_equal_embeddings_are_flat():
    same = torch.ones(8, 4)
    assert float(logit_spread(same, same, 0.07)) == pytest.approx(0, abs=1e-5)
    assert float(logit_spread(sphere(64, 16), sphere(64, 16, 1), 0.07)) == pytest.approx(1 / 0.07 / 4, rel=0.1)


@pytest.mark.parametrize("alarm", ALARMS, ids=lambda alarm: alarm.name)
def test_an_alarm_comes_beyond_its_threshold_and_says_what_to_do(alarm):
    low = alarm.below is not None
    bad, good = (0.0, 1.0) if low else (1.0, 0.0)
    for measure in (alarm.measure, f"audio.{alarm.measure}"):
        assert ringing({measure: good}) == {}
        line = ringing({measure: bad})[measure]
        assert alarm.name in line
        assert alarm.advice in line
        assert "not finite; lower optim.lr" in ringing({measure: math.nan})[measure]


def test_embeddings_that_are_not_finite_have_no_measures_and_set_off_alarms():
    broken = sphere(8, 4)
    broken[3] = math.nan
    measures = {"deviation": deviation(broken), "rank_share": rank_share(broken), "uniformity": uniformity(broken)}
    assert all(math.isnan(float(value)) for value in measures.values())
    assert set(ringing({name: float(value) for name, value in measures.items()})) == {"deviation", "rank_share"}
