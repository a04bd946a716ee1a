"""Which clips are windows of one recording."""

import numpy as np
import pytest

from equiav.library.recordings import recording
from equiav.metrics.sources import another, numbered


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/v/dog.mp4", "/v/dog.mp4"),
        ("/v/dog.wav#frames", "/v/dog.wav"),
        ("/v/a.tar#train/dog", "/v/a.tar#train/dog"),
        ("/v/-0jeONf82dE_000021.mp4", "/w/-0jeONf82dE_000121.mp4"),
        ("/v/-0jeONf82dE_21.000_31.000.mp4", "/v/-0jeONf82dE.webm"),
        ("/v/Y-0jeONf82dE-21000.wav", "/v/-0jeONf82dE_000021.wav#frames"),
        ("/v/shard-0.tar#test/-0jeONf82dE_000021", "/v/shard-1.tar#test/-0jeONf82dE_000051"),
    ],
)
def test_windows_of_one_file_sample_or_youtube_video_are_of_one_recording(one, other):
    assert recording(one) == recording(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/v/dog.mp4", "/w/dog.mp4"),
        ("/v/a.tar#train/dog", "/v/a.tar#test/dog"),
        ("/v/a.tar#train/dog", "/v/b.tar#train/dog"),
        ("/v/dog#1.mp4", "/v/dog#2.mp4"),
        ("/v/-0jeONf82dE_000021.mp4", "/v/-0jeONf82dA_000021.mp4"),
        # names of a series, which only look like an id of 11 characters and a second
        ("/v/holiday2020_001.mp4", "/v/holiday2020_002.mp4"),
        ("/v/dog-barking_000001.mp4", "/v/dog-barking_000002.mp4"),
        ("/v/IMG20240101_1.mp4", "/v/IMG20240101_2.mp4"),
        ("/v/Recording01_1.wav", "/v/Recording01_2.wav"),
        ("/v/glockenspie-000001.mp4", "/v/glockenspie-000002.mp4"),
    ],
)
def test_other_files_are_other_recordings(one, other):
    assert recording(one) != recording(other)


def test_numbers_come_in_the_order_of_the_names():
    assert numbered(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
    assert numbered([]).tolist() == []


def test_another_item_is_the_one_before_that_is_of_another_source():
    assert another(np.arange(4)).tolist() == [3, 0, 1, 2]
    assert another(np.array([0, 0, 0, 1, 1])).tolist() == [4, 4, 4, 2, 2]
    assert another(np.array([5, 5, 5])).tolist() == [2, 0, 1], "where there is no other source: the one before"
    rng = np.random.default_rng(0)
    sources, ring = rng.integers(0, 4, 30), rng.permutation(30)
    found = another(sources, ring)
    assert (sources[found] != sources).all()
    assert another(np.arange(30), ring)[ring].tolist() == np.roll(ring, 1).tolist()
