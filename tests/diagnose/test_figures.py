"""Figures and gates: intervals over clips, NaN left out, names by their ends."""

import numpy as np
import pytest

from equiav.diagnose.figures import figure, parse_gate
from equiav.errors import ConfigError
from equiav.metrics.figures import Figure

FIGURES = {
    "visual.alone.flip.mrr": Figure(0.6, 0.5, 0.7, 9),
    "visual.context.flip.mrr": Figure(0.4, 0.3, 0.5, 9),
    "audio.centroid.k16": 0.09,
}


def test_a_figure_is_a_mean_with_an_interval_around_it():
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = figure(values)
    assert found.value == pytest.approx(values.mean())
    assert found.low < values.mean() < found.high
    assert found.high - found.low == pytest.approx(4 / 20, rel=0.3), "about four standard errors"
    assert found.n == 400


def test_values_that_are_no_numbers_are_left_out():
    found = figure(np.array([1.0, np.nan, 2.0]))
    assert (found.value, found.n) == (1.5, 2)
    assert figure(np.array([np.nan])) is None


@pytest.mark.parametrize(
    ("gate", "met"),
    [
        ("flip.mrr>0.3", True),
        ("flip.mrr>0.5", False),  # one of the two that the name fits
        ("alone.flip.mrr>0.5", True),
        ("centroid.k16<0.1", True),
        ("centroid.k16 < 1e-3", False),
        ("visual.alone.flip.mrr>.59", True),
    ],
)
def test_a_condition_holds_of_every_figure_that_its_name_fits(gate, met):
    (condition,) = parse_gate(gate)
    held, line = condition.check(FIGURES)
    assert held is met
    assert ("NOT MET" not in line) is met


def test_a_gate_is_several_conditions():
    assert len(parse_gate("flip.mrr>0.5, centroid.k16<0.1,")) == 2


@pytest.mark.parametrize("gate", ["", " , ", "flip.mrr", "flip.mrr>", "flip.mrr>=0.5", "flip.mrr>half", ">0.5"])
def test_what_is_no_condition_is_refused(gate):
    with pytest.raises(ConfigError, match=r"flip\.mrr>0\.5"):
        parse_gate(gate)


def test_a_name_that_fits_nothing_names_the_nearest():
    (condition,) = parse_gate("flip.mmr>0.5")
    with pytest.raises(ConfigError, match=r"did you mean .*flip\.mrr"):
        condition.check(FIGURES)
    (half,) = parse_gate("lip.mrr>0.5")
    with pytest.raises(ConfigError, match="no figure"):
        half.check(FIGURES)
