"""A filtered, grouped or paged search is the whole ranking less what does not match; and what a score means."""

from itertools import combinations

import numpy as np
import pytest

from equiav.errors import ConfigError
from equiav.library.table import Library
from equiav.search.index import SearchIndex
from equiav.search.table import EmbeddedClips, EmbeddingsTable
from search.vectors import of_width, unit
from tiny_library import FEATURES, make_clip

SOURCES = ["/videos/pets/dog.mp4", "/videos/pets/it's [1].mp4", "/videos/town/dog.mp4", "s3://bucket/hotdog.mkv"]
LABELS = [[], ["dog"], ["cat"], ["dog", "it's"]]


def moments(n):
    """n clips: windows of four files, of random labels and splits."""
    rng = np.random.default_rng(0)
    for i in range(n):
        start = float(rng.integers(0, 20))
        yield make_clip(
            i,
            clip_id=f"clip{i:03}",
            source=SOURCES[rng.integers(4)],
            labels=LABELS[rng.integers(4)],
            split=("train", "test")[rng.integers(2)],
            start_s=start,
            end_s=start + 10,
            frame_times_s=[start + 2.5, start + 5, start + 7.5],
        )


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("filters")
    clips = list(moments(80))
    Library.create(path, FEATURES).append(clips)
    audio, visual = unit(np.random.default_rng(1).normal(size=(2, 80, 8)))
    with EmbeddingsTable.for_writing(path, "model-a", 8, FEATURES) as table:
        table.append(EmbeddedClips([clip.clip_id for clip in clips], [b""] * 80, audio, visual))
    return SearchIndex(path, of_width(8))


QUERY = np.arange(1.0, 9.0)
FILTERS = {
    "labels": (["dog", "it's"], lambda hit: bool({"dog", "it's"} & set(hit.labels))),
    "sources": ("dog.mp4", lambda hit: hit.source.endswith("/dog.mp4")),
    "split": ("test", lambda hit: hit.split == "test"),
    "start_s": (15.0, lambda hit: hit.end_s > 15),
    "end_s": (18.5, lambda hit: hit.start_s < 18.5),
    "min_score": (-0.1, lambda hit: hit.score >= -0.1),
    "exclude": (["clip000", "clip041", "unknown"], lambda hit: hit.clip_id not in ("clip000", "clip041")),
}


@pytest.mark.parametrize("names", [*combinations(FILTERS, 1), *combinations(FILTERS, 2), tuple(FILTERS)])
def test_a_filter_leaves_the_ranking_of_the_clips_that_match(index, names):
    everything = index.search(vector=QUERY, k=80)
    wanted = [hit for hit in everything if all(FILTERS[name][1](hit) for name in names)]
    given = {name: FILTERS[name][0] for name in names}
    assert 0 < len(wanted) < 80
    assert index.search(vector=QUERY, k=80, **given) == wanted
    assert index.search(vector=QUERY, k=3, **given) == wanted[:3]
    assert index.search(vector=QUERY, k=2, offset=3, **given) == wanted[3:5]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("dog.mp4", [0, 2]),
        ("*dog.m*", [0, 2, 3]),
        ("pets/*", [0, 1]),
        ("/videos/*", [0, 1, 2]),
        ("ets/*", []),
        ("DOG.mp4", []),
        ("it's [[]1].mp4", [1]),
        ("?otdog.mk[uv]", [3]),
        (["dog.mp4", "s3://*"], [0, 2, 3]),
    ],
)
def test_a_pattern_matches_the_whole_path_or_its_end_after_a_slash(index, pattern, found):
    hits = index.search(vector=QUERY, k=80, sources=pattern)
    assert {hit.source for hit in hits} == {SOURCES[i] for i in found}


def test_of_each_file_the_best_moment_in_the_order_of_the_ranking(index):
    everything = index.search(vector=QUERY, k=80, labels="dog")
    best = [hit for i, hit in enumerate(everything) if hit.source not in {before.source for before in everything[:i]}]
    assert len(best) == 4
    assert index.search(vector=QUERY, k=80, labels="dog", group_by="source") == best
    assert index.search(vector=QUERY, k=2, offset=1, labels="dog", group_by="source") == best[1:3]
    lowest = best[2].score
    assert index.search(vector=QUERY, k=1, labels="dog", group_by="source", min_score=lowest, offset=2) == [best[2]]
    assert index.search(vector=QUERY, k=9, labels="dog", group_by="source", min_score=lowest) == best[:3]


def test_nothing_that_matches_is_no_hit(index):
    assert index.search(vector=QUERY, labels="bird") == []
    assert index.search(vector=QUERY, offset=80) == []
    assert index.search(vector=QUERY, split="'; --", group_by="source") == []


def test_a_hit_tells_the_time_of_its_frame(index):
    for hit in index.search(vector=QUERY, k=80):
        assert hit.frame_s == hit.start_s + 5


@pytest.mark.parametrize("by", ["audio", "visual", "both"])
def test_a_percentile_is_the_share_of_pairs_of_clips_that_score_less(index, by):
    audio, visual = unit(np.random.default_rng(1).normal(size=(2, 80, 8)))
    matrices = {"audio": [audio], "visual": [visual], "both": [audio, visual]}[by]
    scores = [
        np.mean([rows[j] @ unit(audio[i] + visual[i]) for rows in matrices])
        for i in range(80)
        for j in range(80)
        if i != j
    ]
    for hit in index.search(vector=QUERY, by=by, k=80)[::7]:
        assert hit.percentile == pytest.approx(100 * np.mean(np.array(scores) < hit.score), abs=0.05)


def test_without_two_clips_there_is_no_percentile(tmp_path):
    Library.create(tmp_path, FEATURES).append([make_clip(0)])
    with EmbeddingsTable.for_writing(tmp_path, "model-a", 8, FEATURES) as table:
        table.append(EmbeddedClips(["clip0"], [b""], *unit(np.ones((2, 1, 8)))))
    (hit,) = SearchIndex(tmp_path, of_width(8)).search(vector=QUERY)
    assert hit.percentile is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"offset": -1}, "offset=-1"),
        ({"offset": True}, "offset=True"),
        ({"group_by": "label"}, "group_by='label'"),
        ({"start_s": 20.0, "end_s": 10.0}, "20.0 to 10.0"),
        ({"start_s": float("nan"), "end_s": 10.0}, "nan to 10.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(index, wrong, message):
    with pytest.raises(ConfigError, match=message):
        index.search(vector=QUERY, **wrong)
