"""The pairs of windows that are found are those of comparing all, in bounded memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equiav.search.alike import alike, unit_rows
from search.vectors import unit

# of length 1 with cosines that float32 holds exactly: half, quarter and whole multiples of each other
CORNERS = np.array([[s * 0.5 for s in signs] for signs in np.array(np.meshgrid(*[[1, -1]] * 4)).reshape(4, -1).T])


def brute_force(vectors, file, least, most):
    """Pairs, and of each window how many other files have one like it, by comparing window with window."""
    n = len(file)
    cosine = [[float(vectors[i] @ vectors[j]) for j in range(n)] for i in range(n)]
    files, pairs = [], set()
    for i in range(n):
        others = [[j for j in range(n) if file[j] == other] for other in sorted(set(file) - {file[i]})]
        nearest = [max(windows, key=lambda j: (cosine[i][j], -j)) for windows in others]
        nearest = sorted((j for j in nearest if cosine[i][j] >= least), key=lambda j: (-cosine[i][j], j))
        files.append(len(nearest))
        pairs |= {(min(i, j), max(i, j)) for j in nearest[:most]}
    return sorted(pairs), files


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
    least=st.sampled_from([0.0, 0.5, 1.0]),
    most=st.integers(1, 5),
    block=st.integers(1, 12),
)
def test_pairs_and_counts_equal_those_of_comparing_window_with_window(sizes, seed, least, most, block):
    vectors = CORNERS[np.random.default_rng(seed).integers(0, 16, sum(sizes))].astype(np.float32)
    file = np.repeat(np.arange(len(sizes)), sizes)
    found = alike(vectors, file, least, nearest=most, block=block)
    pairs, files = brute_force(vectors, file.tolist(), least, most)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == pairs
    np.testing.assert_array_equal(found.files, files)


@pytest.mark.parametrize("sizes", [[], [3]])
def test_no_windows_and_one_file_have_no_pairs(sizes):
    file = np.repeat(np.arange(len(sizes)), sizes)
    found = alike(np.ones((len(file), 4), np.float32) / 2, file, 0.5)
    assert (len(found.first), found.files.tolist()) == (0, [0] * len(file))


def test_what_is_compared_so_far_is_told_up_to_the_end():
    file, told = np.arange(10), []
    alike(
        unit(np.random.default_rng(0).normal(size=(10, 4))), file, 0.9, block=4, on_progress=lambda *p: told.append(p)
    )
    assert told == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize(("sizes", "least"), [([1] * 3000, -1.0), ([1] * 3000, 0.99), ([1500, 1500], -1.0)])
def test_memory_is_that_of_a_few_blocks_and_of_the_pairs_that_are_kept_however_many_are_alike(sizes, least):
    file, block, most = np.repeat(np.arange(len(sizes)), sizes), 200, 5
    vectors = unit(np.random.default_rng(0).normal(size=(len(file), 8)))
    alike(vectors[:9], np.arange(9), least)  # what is loaded once is not counted
    tracemalloc.start()
    alike(vectors, file, least, nearest=most, block=block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # all cosines at once would be 36 MB
    assert peak < 12 * block**2 * 4 + 8 * len(file) * most * 48


def test_vectors_without_a_direction_are_told():
    vectors, there = unit_rows(np.array([[3, 4], [0, 0], [np.nan, np.nan]], np.float32))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0], [0, 0]])
    assert there.tolist() == [True, False, False]
