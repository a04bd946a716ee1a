"""Intervals resample sources whole: against loops, against scipy, and by how often they hold the truth."""

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, roc_auc_score

from equiav.metrics.bootstrap import (
    CLASS_RESAMPLES,
    interval,
    mean_intervals,
    median_interval,
    resampled_classes,
    resampled_means,
)

SOURCES = np.array([7, 3, 7, 7, 0, 3, 5, 5, 7, 9, 0, 2])  # 6 of unlike sizes, in no order


def resampled_items(sources, resamples, seed):
    """Rows of each resample, drawn source by source in a loop."""
    names = list(dict.fromkeys(sources.tolist()))
    draws = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = draws.integers(0, len(names), len(names))
        yield np.concatenate([np.flatnonzero(sources == names[i]) for i in drawn])


@pytest.mark.parametrize("seed", [0, 5])
def test_means_and_medians_are_those_of_items_gathered_source_by_source(seed):
    values = np.random.default_rng(1).integers(1, 9, size=len(SOURCES)).astype(float)
    rows = list(resampled_items(SOURCES, 300, seed))
    slow = np.percentile([values[own].mean() for own in rows], [2.5, 97.5])
    np.testing.assert_allclose(
        np.ravel(mean_intervals(values[:, None], resamples=300, seed=seed, sources=SOURCES)), slow
    )
    slow = np.percentile([np.median(values[own]) for own in rows], [2.5, 97.5])
    np.testing.assert_allclose(median_interval(values, resamples=300, seed=seed, sources=SOURCES), slow)


def test_classes_are_ranked_again_on_items_gathered_source_by_source():
    rng = np.random.default_rng(2)
    truth, scores = rng.random((len(SOURCES), 3)) < 0.4, rng.random((len(SOURCES), 3))
    precision, area = resampled_classes(truth, scores, seed=4, sources=SOURCES)
    for i, rows in enumerate(resampled_items(SOURCES, CLASS_RESAMPLES, 4)):
        own, present = truth[rows], truth[rows].any(0)
        mixed = present & ~own.all(0)
        known = [average_precision_score(own[:, c], scores[rows, c]) for c in np.flatnonzero(present)]
        assert precision[i] == pytest.approx(np.mean(known)) if known else np.isnan(precision[i])
        known = [roc_auc_score(own[:, c], scores[rows, c]) for c in np.flatnonzero(mixed)]
        assert area[i] == pytest.approx(np.mean(known)) if known else np.isnan(area[i])


def test_where_every_item_has_its_own_source_it_is_the_plain_bootstrap_whatever_they_are_called():
    rng = np.random.default_rng(3)
    values, names = rng.random((50, 4)), rng.permutation(50) * 3
    truth, scores = rng.random((50, 3)) < 0.4, rng.random((50, 3))
    plain = resampled_means(values, resamples=200, seed=1)
    np.testing.assert_array_equal(resampled_means(values, resamples=200, seed=1, sources=names), plain)
    draws = np.random.default_rng(1).integers(0, 50, size=(200, 50))
    np.testing.assert_allclose(plain, values[draws].mean(1))
    column = values[:, 0]
    assert median_interval(column, resamples=200, seed=1, sources=names) == median_interval(
        column, resamples=200, seed=1
    )
    for own, other in zip(
        resampled_classes(truth, scores, seed=1), resampled_classes(truth, scores, seed=1, sources=names), strict=True
    ):
        np.testing.assert_array_equal(own, other)


def test_the_interval_is_what_scipy_resamples_of_sums_and_sizes():
    rng = np.random.default_rng(5)
    sources = rng.integers(0, 60, 300)
    values = rng.normal(size=60)[sources] + rng.normal(size=300)
    (low,), (high,) = mean_intervals(values[:, None], resamples=4000, seed=0, sources=sources)
    sums, sizes = np.bincount(sources, values), np.bincount(sources)
    found = bootstrap(
        (sums, sizes),
        lambda total, count, axis: total.sum(axis) / count.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.03 * (high - low))


@pytest.mark.parametrize(("sources", "least"), [(40, 0.91), (10, 0.86)])
def test_intervals_hold_the_truth_where_windows_of_a_source_are_alike_and_those_of_windows_alone_do_not(sources, least):
    rng = np.random.default_rng(6)
    number, rounds = np.repeat(np.arange(sources), 6), 400
    held = np.zeros(2)
    for seed in range(rounds):
        values = (rng.normal(size=sources)[number] + rng.normal(size=len(number)))[:, None]
        for i, known in enumerate((number, None)):
            low, high = mean_intervals(values, resamples=300, seed=seed, sources=known)
            held[i] += low[0] <= 0 <= high[0]
    assert least <= held[0] / rounds <= 0.98
    assert held[1] / rounds < 0.72


def test_one_source_has_no_interval():
    values = np.array([0.0, 1.0, 1.0])
    one = np.zeros(3, dtype=int)
    assert np.isnan(mean_intervals(values[:, None], resamples=10, seed=0, sources=one)).all()
    assert np.isnan(median_interval(values, resamples=10, seed=0, sources=one)).all()
    truth = values[:, None] > 0
    assert np.isnan(interval(resampled_classes(truth, values[:, None], seed=0, sources=one)[0])).all()
