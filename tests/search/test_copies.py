"""Two files are judged at the offset, over the part and by the scores that a plain search over all of them gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equiav.search.alike import alike
from equiav.search.copies import WHOLE, Limits, Windows, best_run, is_enough, is_known_elsewhere, matches
from search.test_alike import CORNERS

HOP_S = 10.0
APART = np.eye(99)
LIMITS = Limits({"audio": 0.7, "visual": 0.7}, {"audio": 0.4, "visual": 0.4})


def windows_of(files, directions, hop_s=HOP_S, starts=None):
    """Windows with numbers of the directions of their sound and their picture, None where they have none; and pairs."""
    file = np.repeat(np.arange(len(files)), [len(one) for one in files])
    start_s = np.concatenate([np.arange(len(one)) * hop_s for one in files] if starts is None else starts)
    vectors, has, others, found = {}, {}, {}, []
    for side, modality in enumerate(("audio", "visual")):
        numbers = [window[side] for one in files for window in one]
        has[modality] = np.array([one is not None for one in numbers])
        vectors[modality] = np.array([directions[one or 0] * (one is not None) for one in numbers], np.float32)
        chosen = np.flatnonzero(has[modality])
        pairs = alike(vectors[modality][chosen], file[chosen], LIMITS.least[modality], nearest=99)
        others[modality] = np.zeros(len(file), int)
        others[modality][chosen] = pairs.files
        found.append(np.stack([chosen[pairs.first], chosen[pairs.second]]))
    first = np.searchsorted(file, np.arange(len(files) + 1))
    windows = Windows(file, first, start_s, start_s + hop_s, hop_s, vectors, has, has, others)
    return windows, *np.unique(np.concatenate(found, axis=1), axis=1)


def judged(files, *, partial=True, directions=APART, **options):
    """(a, b) → (kind, offset in hops, windows), of what is reported."""
    windows, first, second = windows_of(files, directions, **options)
    found = [match for match in matches(windows, first, second, LIMITS) if is_enough(match, partial=partial)]
    found = [match for match in found if not is_known_elsewhere(match)]
    return {(m.a, m.b): (m.kind, round(m.offset_s / HOP_S, 9), len(m.rows)) for m in found}


def naive(files):
    """The same with loops over windows, files, offsets and runs."""

    def cosine(one, other, side):
        return None if one[side] is None or other[side] is None else float(CORNERS[one[side]] @ CORNERS[other[side]])

    def others(window, file, side):
        scores = [[cosine(window, w, side) or 0.0 for w in one] for i, one in enumerate(files) if i != file]
        return max(1, sum(max(found) >= 0.7 for found in scores))

    found = {}
    for b in range(len(files)):
        for a in range(b):
            best = None
            for offset in range(1 - len(files[b]), len(files[a])):
                pairs = [(i, i - offset) for i in range(len(files[a])) if 0 <= i - offset < len(files[b])]
                rows = {side: [] for side in (0, 1)}
                for i, j in pairs:
                    for side in (0, 1):
                        value = cosine(files[a][i], files[b][j], side)
                        weight = 1 / max(others(files[a][i], a, side), others(files[b][j], b, side))
                        rows[side].append((0.0, 0.0) if value is None else (value, weight))
                runs = {}
                for side in (0, 1):
                    sums = {(0, 0): 0.0} | {
                        (s, e): sum(w * (c - 0.7) for c, w in rows[side][s:e])
                        for s in range(len(pairs))
                        for e in range(s + 1, len(pairs) + 1)
                    }
                    runs[side] = max(sums.items(), key=lambda item: (round(item[1], 9), -(item[0][1] - item[0][0])))
                gain = round(sum(value for _, value in runs.values()), 6)
                key = (gain, len(pairs), -abs(offset), -offset)
                if gain > 0 and (best is None or key > best[0]):
                    best = key, offset, pairs, rows, runs
            if best is None:
                continue
            _, offset, pairs, rows, runs = best

            def score(side, run, rows=rows):
                part = rows[side][slice(*run)]
                weight = sum(w for _, w in part)
                return sum(c * w for c, w in part) / weight if weight else None

            run, reached = (0, len(pairs)), [s for s in (0, 1) if (score(s, (0, len(pairs))) or 0) >= 0.7]
            if not reached:
                most = max((0, 1), key=lambda side: runs[side][1])
                run, reached = runs[most][0], [most]
            length = run[1] - run[0]
            shares = length / len(files[a]), length / len(files[b])
            agree = {s: s in reached or score(s, run) >= 0.4 for s in (0, 1) if score(s, run) is not None}
            evidence = max(sum(w for _, w in rows[s][slice(*run)]) for s in reached)
            if all(agree.values()):
                whole = min(shares) >= WHOLE
                kind = "same_recording" if whole else "part_of" if max(shares) >= WHOLE else "shared_part"
            else:
                kind = "same_sound" if agree[0] else "same_picture"
            if min(shares) < WHOLE and not ((max(shares) >= WHOLE or length >= 3) and evidence >= 0.5):
                continue
            turned = len(files[a]) < len(files[b])
            found[(b, a) if turned else (a, b)] = (kind, -offset if turned else offset, length)
    return found


corner = st.integers(0, 15)
# no window of a file is like another one of it: of a loop several offsets are equally good
file = st.integers(1, 4).flatmap(
    lambda size: st.tuples(
        st.lists(corner, min_size=size, max_size=size, unique=True),
        st.lists(st.none() | corner, min_size=size, max_size=size, unique=True),
    ).map(lambda sides: list(zip(*sides, strict=True)))
)


@settings(max_examples=300, deadline=None)
@given(
    originals=st.lists(file, min_size=1, max_size=4),
    cuts=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4)), max_size=3),
)
def test_what_is_found_equals_a_search_over_all_files_offsets_and_runs(originals, cuts):
    parts = [originals[i % len(originals)][start : start + size] for i, start, size in cuts]
    files = originals + [part for part in parts if part]
    assert judged(files, directions=CORNERS) == naive(files)


@given(st.lists(st.integers(-5, 5), max_size=8))
def test_the_best_run_has_the_highest_sum_of_all_runs(values):
    start, stop, total = best_run(np.array(values, float))
    assert sum(values[start:stop]) == total
    assert total == max(sum(values[s:e]) for s in range(len(values) + 1) for e in range(s, len(values) + 1))


A = [(0, 10), (1, 11), (2, 12), (3, 13), (4, 14), (5, 15)]
OTHER = [(6, 3), (7, 2), (8, 4), (9, 5)]


def test_a_part_is_found_where_it_lies_and_only_when_parts_are_asked_for():
    assert judged([A, A[2:5]]) == {(0, 1): ("part_of", 2.0, 3)}
    assert judged([A[2:5], A]) == {(1, 0): ("part_of", 2.0, 3)}
    assert judged([A, A[2:5]], partial=False) == {}


def test_a_part_in_common_is_found_with_its_offset():
    assert judged([OTHER + A[:3], [(12, 7), (13, 8), *A[:3]]]) == {(0, 1): ("shared_part", 2.0, 3)}


def test_windows_of_unequal_grids_are_laid_side_by_side_within_half_a_hop():
    starts = [np.arange(6) * HOP_S, np.array([3.0, 13.0, 23.0])]
    (found,) = judged([A, A[2:5]], starts=starts).values()
    assert found == ("part_of", 1.7, 3)


@pytest.mark.parametrize("more", [0, 1, 2])
def test_a_loop_lies_as_it_was_recorded(more):
    loop = [(1, 2)] * 4
    assert judged([loop, loop[: 4 - more]]) == {(0, 1): ("same_recording" if not more else "part_of", 0.0, 4 - more)}


def test_the_same_sound_with_another_picture_is_no_copy_and_the_other_way_round():
    visual = [(sound, picture) for (sound, _), (_, picture) in zip(A, A[::-1], strict=True)]
    assert judged([A, visual], partial=False) == {(0, 1): ("same_sound", 0.0, 6)}
    audio = [(sound, picture) for (sound, _), (_, picture) in zip(A[::-1], A, strict=True)]
    assert judged([A, audio], partial=False) == {(0, 1): ("same_picture", 0.0, 6)}


def test_what_one_of_two_files_lacks_does_not_make_them_differ():
    sound = [(sound, None) for sound, _ in A]
    assert judged([A, sound], partial=False) == {(0, 1): ("same_recording", 0.0, 6)}


def test_a_picture_that_is_far_nearer_than_usual_is_that_of_the_copy_and_no_other_one():
    near = int(np.flatnonzero(np.isclose(CORNERS @ CORNERS[10], 0.5))[0])
    assert judged([[(0, 10)], [(0, near)]], directions=CORNERS) == {(0, 1): ("same_recording", 0.0, 1)}


@pytest.mark.parametrize("partial", [False, True])
def test_a_jingle_in_all_files_makes_no_copies(partial):
    jingle = [(90, 90), (91, 91), (92, 92)]
    files = [jingle + [(4 * i + j, 4 * i + j) for j in range(4)] for i in range(12)]
    assert judged([*files, jingle], partial=partial) == {}
    assert judged([*files, files[3]], partial=partial) == {(3, 12): ("same_recording", 0.0, 7)}
