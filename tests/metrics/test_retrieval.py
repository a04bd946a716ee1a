"""Retrieval figures against an obvious brute force, scikit-learn, and closed forms; ties counted as intervals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from equiav.errors import ConfigError, ModelError
from equiav.metrics.bootstrap import mean_intervals, median_interval
from equiav.metrics.class_level import expected_average_precision
from equiav.metrics.ranking import merge_equal_rows, rank, unit_rows
from equiav.metrics.retrieval import RetrievalResult, retrieval_metrics

# Sign patterns of length 4 have norm 2: their cosines (0, ±½, ±1) are exact in float32, so ties are exact too
PATTERN = st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4)


@st.composite
def tied_pairs(draw):
    """Queries, gallery, labels, and the source of each pair."""
    n = draw(st.integers(1, 14))
    queries = draw(st.lists(PATTERN, min_size=n, max_size=n))
    gallery = draw(st.lists(PATTERN, min_size=n, max_size=n))
    labels = draw(st.lists(st.lists(st.sampled_from("abc"), max_size=2, unique=True), min_size=n, max_size=n))
    sources = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    return np.array(queries), np.array(gallery), labels, np.array(sources)


def brute_ranks(queries, gallery):
    """(first, last) place of the partner in any order of the ties, from n·n dot products."""
    for i, query in enumerate(queries):
        scores = [float(np.dot(query, item)) for item in gallery]
        better = sum(score > scores[i] for score in scores)
        equal = sum(score == scores[i] for score in scores)
        yield better + 1, better + equal


@given(tied_pairs())
@settings(max_examples=150, deadline=None)
def test_every_figure_equals_the_brute_force_also_with_ties(case):
    queries, gallery, *_ = case
    result = retrieval_metrics(queries, gallery, resamples=5)
    places = list(brute_ranks(queries, gallery))
    mean = [(first + last) / 2 for first, last in places]
    assert result.mean_rank.value == pytest.approx(sum(mean) / len(mean))
    assert result.median_rank.value == pytest.approx(np.median(mean))
    assert result.mean_reciprocal_rank.value == pytest.approx(sum(1 / rank for rank in mean) / len(mean))
    for k, estimate in {1: result.recall_at_1, 5: result.recall_at_5, 10: result.recall_at_10}.items():
        assert estimate.value == pytest.approx(sum(rank <= k for rank in mean) / len(mean))
    gains = [1 / math.log2(1 + rank) if rank <= 10 else 0 for rank in mean]
    assert result.ndcg_at_10.value == pytest.approx(sum(gains) / len(gains))
    tied = sum(first != last for first, last in places)
    assert (result.ties is None) == (tied == 0)
    if result.ties:
        assert result.ties.queries == tied
        assert result.ties.optimistic["mean_rank"] == pytest.approx(np.mean([first for first, _ in places]))
        assert result.ties.pessimistic["recall_at_5"] == pytest.approx(np.mean([last <= 5 for _, last in places]))


def brute_precision(scores, relevant, k):
    """Relevant share of the first k, averaged over every order of the items that respects the scores."""
    size = min(k, len(scores))
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return np.mean([sum(relevant[i] for i in order[:size]) / size for order in orders])


@given(tied_pairs(), st.sampled_from(["with own", "others", "other sources"]))
@settings(max_examples=120, deadline=None)
def test_class_level_figures_equal_scikit_learn_and_counting_with_ties_and_sources(case, which):
    queries, gallery, labels, sources = case
    rows = unit_rows(queries, name="q"), merge_equal_rows(unit_rows(gallery, name="g"))
    known = sources if which == "other sources" else None
    _, levels = rank(*rows, labels, ks=(1, 3), sources=known)
    found = levels.with_own if which == "with own" else levels.others
    expected, asked, chances = [], [], []
    for i, query in enumerate(queries):
        own = {"with own": [], "others": [i], "other sources": np.flatnonzero(sources == sources[i]).tolist()}[which]
        others = [j for j in range(len(gallery)) if j not in own]
        relevant = [bool(set(labels[i]) & set(labels[j])) for j in others]
        if any(relevant):
            scores = np.array([np.dot(query, gallery[j]) for j in others])
            expected.append([average_precision_score(relevant, scores), *(tied(scores, relevant, k) for k in (1, 3))])
            asked.append(i)
            chances.append(np.mean(relevant))
    if not expected:
        assert found is None
    else:
        measured = [found.average_precision, found.precision_at[1], found.precision_at[3]]
        np.testing.assert_allclose(np.stack(measured, axis=1), expected, atol=1e-12)
        assert found.queries.tolist() == asked
        assert found.chance_precision == pytest.approx(np.mean(chances))


def tied(scores, relevant, k):
    """Expected share of relevant items among the first k, counted: all that are better, and a share of those tied."""
    size = min(k, len(scores))
    line = np.sort(scores)[-size]
    above, equal = scores > line, scores == line
    relevant = np.array(relevant)
    return (relevant[above].sum() + relevant[equal].mean() * (size - above.sum())) / size


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_class_level_precision_is_the_mean_over_all_orders_of_the_ties(own, k):
    rng = np.random.default_rng(3)
    queries, gallery = rng.choice([-1.0, 1.0], size=(2, 7, 4))
    labels = [list(names) for names in ("a", "b", "a", "ab", "", "b", "a")]
    _, levels = rank(unit_rows(queries, name="q"), merge_equal_rows(unit_rows(gallery, name="g")), labels, ks=(k,))
    found = levels.with_own if own else levels.others
    expected = []
    for i, query in enumerate(queries):
        others = [j for j in range(7) if own or j != i]
        relevant = [bool(set(labels[i]) & set(labels[j])) for j in others]
        if any(relevant):
            expected.append(brute_precision([float(np.dot(query, gallery[j])) for j in others], relevant, k))
    np.testing.assert_allclose(found.precision_at[k], expected, atol=1e-12)


def test_ndcg_equals_scikit_learn_on_untied_scores():
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(2, 40, 8))
    scores = unit_rows(queries, name="q") @ unit_rows(gallery, name="g").T
    result = retrieval_metrics(queries, gallery, resamples=5)
    assert result.ties is None
    assert result.ndcg_at_10.value == pytest.approx(ndcg_score(np.eye(40), scores, k=10), rel=1e-9)


def test_chunks_do_not_change_the_figures(monkeypatch):
    rng = np.random.default_rng(1)
    queries, gallery = unit_rows(rng.normal(size=(50, 16)), name="q"), unit_rows(rng.normal(size=(50, 16)), name="g")
    labels = [[], *([str(i % 4)] for i in range(48)), ["alone"]]
    ranks, levels = rank(queries, merge_equal_rows(gallery), labels)
    monkeypatch.setattr("equiav.metrics.ranking.CHUNK_ENTRIES", 21 * 50)
    monkeypatch.setattr("equiav.metrics.ranking.PART_ENTRIES", 4 * 50)
    ranks_of_parts, levels_of_parts = rank(queries, merge_equal_rows(gallery), labels)
    np.testing.assert_array_equal(ranks_of_parts.mean, ranks.mean)
    np.testing.assert_array_equal(rank(queries, merge_equal_rows(gallery))[0].mean, ranks.mean)
    for part, whole in zip(levels_of_parts, levels, strict=True):
        np.testing.assert_allclose(part.average_precision, whole.average_precision, rtol=1e-12)
        np.testing.assert_allclose(part.precision_at[10], whole.precision_at[10], rtol=1e-12)


def test_equal_embeddings_tie_exactly_wherever_they_stand():
    """A matrix product may round equal columns differently at its blocks' edges; a tie must not hang on that."""
    rng = np.random.default_rng(2)
    gallery = np.repeat(rng.normal(size=(1, 37)), 203, axis=0)
    result = retrieval_metrics(rng.normal(size=(203, 37)), gallery, resamples=5)
    assert result.gallery_duplicates == 202
    assert result.mean_rank.value == 102
    assert result.ties is not None
    assert result.ties.queries == 203
    assert result.ties.optimistic["recall_at_1"] == 1
    assert result.recall_at_10.value == 0


def test_a_single_pair_is_found_at_rank_one():
    result = retrieval_metrics([[3.0, 4.0]], [[-1.0, 0.0]], labels=[["a"]])
    assert result.mean_rank.value == result.recall_at_1.value == result.recall_at_1.chance == 1
    assert result.gallery_size == 1
    assert result.class_level is not None
    assert result.class_level.mean_average_precision.value == 1
    assert result.class_level_others is None


def test_one_label_everywhere_makes_every_class_figure_one_and_chance_too():
    rng = np.random.default_rng(4)
    result = retrieval_metrics(*rng.normal(size=(2, 20, 8)), labels=[["x"]] * 20, resamples=20)
    assert result.class_level is not None
    assert result.class_level_others is not None
    for level in (result.class_level, result.class_level_others):
        for estimate in (level.precision_at_1, level.precision_at_10, level.mean_average_precision):
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1, 1, 1))
            assert estimate.chance == pytest.approx(1)


def test_chance_levels_are_what_random_embeddings_reach():
    rng = np.random.default_rng(5)
    n, rounds = 30, 120
    labels = [[str(i % 6)] for i in range(n)]
    runs = [retrieval_metrics(*rng.normal(size=(2, n, 64)), labels=labels, resamples=1) for _ in range(rounds)]
    names = ["recall_at_1", "recall_at_5", "recall_at_10", "mean_rank", "mean_reciprocal_rank", "ndcg_at_10"]
    names += ["class_level.precision_at_10", "class_level.mean_average_precision"]
    names += ["class_level_others.precision_at_10", "class_level_others.mean_average_precision"]
    for name in names:
        estimates = []
        for run in runs:
            owner = run
            for part in name.split("."):
                owner = getattr(owner, part)
            estimates.append(owner)
        values = np.array([estimate.value for estimate in estimates])
        error = values.std() / math.sqrt(rounds)
        assert abs(values.mean() - estimates[0].chance) < 4 * error, name


def test_expected_average_precision_equals_all_orders():
    for n, relevant in [(1, 1), (4, 1), (5, 2), (6, 4)]:
        flags = [1] * relevant + [0] * (n - relevant)
        every = []
        for order in itertools.permutations(flags):
            hits = [sum(order[: i + 1]) / (i + 1) for i in range(n) if order[i]]
            every.append(np.mean(hits))
        assert expected_average_precision(np.array(relevant), n) == pytest.approx(np.mean(every))


def test_clips_without_labels_are_no_class_level_queries():
    rng = np.random.default_rng(6)
    pairs = rng.normal(size=(2, 5, 8))
    result = retrieval_metrics(*pairs, labels=[["a"], [], ["a"], ["b"], []], resamples=5)
    assert result.class_level is not None
    assert result.class_level_others is not None
    assert (result.class_level.queries, result.class_level_others.queries) == (3, 2)
    assert retrieval_metrics(*pairs, labels=[[]] * 5, resamples=5).class_level is None


def test_intervals_are_seeded_hold_the_value_and_narrow_with_more_queries():
    rng = np.random.default_rng(7)
    queries = rng.normal(size=(400, 16))
    gallery = queries + 1.5 * rng.normal(size=(400, 16))
    once, again = (retrieval_metrics(queries, gallery, seed=3) for _ in range(2))
    assert once == again
    small = retrieval_metrics(queries[:50], gallery[:50])
    for name in ("recall_at_1", "mean_reciprocal_rank", "median_rank"):
        wide, narrow = getattr(small, name), getattr(once, name)
        assert narrow.low <= narrow.value <= narrow.high
        if name == "recall_at_1":
            assert narrow.high - narrow.low < wide.high - wide.low


def test_bootstrap_equals_resampling_one_by_one():
    rng = np.random.default_rng(8)
    values = rng.integers(1, 9, size=21).astype(float)
    # the same stream of draws, one resample after the other
    draws = np.random.default_rng(0).integers(0, 21, size=(400, 21))
    for found, statistic in [
        (mean_intervals(values[:, None], resamples=400, seed=0), np.mean),
        (median_interval(values, resamples=400, seed=0), np.median),
    ]:
        slow = np.percentile([statistic(values[row]) for row in draws], [2.5, 97.5])
        np.testing.assert_allclose(np.ravel(found), slow)


def test_the_interval_of_a_share_is_the_binomial_one():
    values = np.zeros((1000, 1))
    values[:300] = 1
    low, high = mean_intervals(values, resamples=4000, seed=1)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert low[0] == pytest.approx(0.3 - half, abs=0.003)
    assert high[0] == pytest.approx(0.3 + half, abs=0.003)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_embeddings_are_an_error_that_names_the_row(bad):
    broken = np.ones((4, 3))
    broken[2, 1] = bad
    with pytest.raises(ModelError, match=r"gallery: 1 of 4 rows .* row 2"):
        retrieval_metrics(np.ones((4, 3)), broken)


def test_what_does_not_fit_is_a_clear_error():
    ones = np.ones((4, 3))
    with pytest.raises(ModelError, match="row 0 is all zeros"):
        retrieval_metrics(np.zeros((4, 3)), ones)
    with pytest.raises(ConfigError, match=r"\(4, 3\) and gallery \(3, 3\)"):
        retrieval_metrics(ones, ones[:3])
    with pytest.raises(ConfigError, match="3 label lists for 4 pairs"):
        retrieval_metrics(ones, ones, labels=[[]] * 3)
    with pytest.raises(ConfigError, match="3 sources for 4 pairs"):
        retrieval_metrics(ones, ones, sources=[0] * 3)
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        retrieval_metrics(ones[0], ones)
    with pytest.raises(ConfigError, match="non-empty"):
        retrieval_metrics(ones[:0], ones[:0])
    with pytest.raises(ConfigError, match="resamples must be at least 1"):
        retrieval_metrics(ones, ones, resamples=0)


@pytest.mark.parametrize("sources", [None, ["x"] * 12, ["x", "y", "z"] * 4])
def test_the_result_survives_json(sources):
    rng = np.random.default_rng(9)
    labels = [["a"], ["b"]] * 6
    result = retrieval_metrics(*rng.normal(size=(2, 12, 4)), labels=labels, sources=sources, resamples=10)
    assert RetrievalResult.model_validate_json(result.model_dump_json()) == result
    assert "NaN" not in result.model_dump_json()


def clustered(sources, windows, seed=0):
    """Pairs of several windows each, alike in what they are and in how hard they are; and their sources."""
    rng = np.random.default_rng(seed)
    number = np.repeat(np.arange(sources), windows)
    hard = np.where(np.arange(sources) % 2, 0.3, 6.0)[number]
    queries = rng.normal(size=(len(number), 16)) + 0.5 * rng.normal(size=(sources, 16))[number]
    return queries, queries + hard[:, None] * rng.normal(size=queries.shape), number


def test_intervals_are_those_of_a_loop_over_resampled_sources():
    queries, gallery, number = clustered(9, 5)
    result = retrieval_metrics(queries, gallery, sources=number.tolist(), resamples=300, seed=3)
    assert (result.gallery_size, result.sources) == (45, 9)
    draws, ranks = np.random.default_rng(3), np.array(result.ranks)
    rows = [np.concatenate([np.flatnonzero(number == i) for i in draws.integers(0, 9, 9)]) for _ in range(300)]
    for estimate, statistic in [
        (result.recall_at_10, lambda r: (r <= 10).mean()),
        (result.mean_reciprocal_rank, lambda r: (1 / r).mean()),
        (result.median_rank, np.median),
    ]:
        slow = np.percentile([statistic(ranks[own]) for own in rows], [2.5, 97.5])
        assert (estimate.low, estimate.high) == pytest.approx(tuple(slow))
    alone = retrieval_metrics(queries, gallery, resamples=300, seed=3).recall_at_10
    assert result.recall_at_10.value == alone.value
    assert result.recall_at_10.high - result.recall_at_10.low > 1.3 * (alone.high - alone.low)


def test_windows_of_the_querys_source_are_no_others_of_its_class():
    """Each source is a class of its own but for one pair of sources: only these have others."""
    queries, gallery, number = clustered(6, 4)
    labels = [["pair"] if i < 2 else [str(i)] for i in number]
    result = retrieval_metrics(queries, gallery, labels=labels, sources=number.tolist(), resamples=20)
    assert (result.class_level.queries, result.class_level.sources) == (24, 6)
    assert (result.class_level_others.queries, result.class_level_others.sources) == (8, 2)
    assert result.class_level_others.precision_at_1.chance == pytest.approx(4 / 20)
    alone = retrieval_metrics(queries, gallery, labels=labels, resamples=20)
    assert alone.class_level_others.queries == 24
    for level in (result.class_level_others, alone.class_level_others):
        assert level.precision_at_10.low <= level.precision_at_10.value <= level.precision_at_10.high


def test_one_source_each_gives_the_figures_of_no_sources_and_one_source_alone_no_interval():
    queries, gallery, number = clustered(8, 3)
    labels = [[str(i % 3)] for i in number]
    each = retrieval_metrics(queries, gallery, labels=labels, sources=[f"v{i}" for i in range(24)])
    assert each == retrieval_metrics(queries, gallery, labels=labels)
    one = retrieval_metrics(queries, gallery, labels=labels, sources=["v"] * 24)
    assert one.sources == 1
    assert {(found.low, found.high) for found in one.estimates().values()} == {(None, None)}
    assert one.class_level_others is None
    assert one.recall_at_5.value == each.recall_at_5.value
