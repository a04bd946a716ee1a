"""The end of a file that no window covers is dropped, and counted, also by an ingest that opens nothing."""

import os

import lance
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiav.library.ingest import ingest
from equiav.library.stats import library_stats
from equiav.library.table import Library
from equiav.media.mux import wav_file
from equiav.media.probe import MediaInfo
from equiav.media.windows import cut, dropped_tail_s, shortest_tail_s, span_of
from samples import TINY, pictures, tone, write_media

SECONDS = {"two windows.wav": 1.0, "a tail.wav": 0.9, "another tail.wav": 1.5, "short.wav": 0.2}
COUNT, TOGETHER_S = 2, (0.9 - 0.655) + (1.5 - 1.31)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "v"
    path.mkdir()
    for i, (name, seconds) in enumerate(SECONDS.items()):
        (path / name).write_bytes(wav_file(tone(seconds, 300.0 + i), 16_000))
    return path


def check(tails, count=COUNT, together_s=TOGETHER_S, unknown=0):
    assert (tails.count, tails.seconds, tails.unknown) == (count, pytest.approx(together_s, abs=1e-6), unknown)


@given(st.floats(0.05, 60), st.floats(0.1, 12), st.floats(0.1, 2), st.floats(0, 6))
def test_what_the_windows_do_not_cover_is_the_tail(length_s, clip_s, hops, least_s):
    features = TINY.model_copy(update={"clip_s": clip_s, "hop_s": clip_s * hops, "min_tail_s": least_s})
    info = MediaInfo(length_s, length_s, None, 16_000, 1, None, None, None)
    span = span_of(info, features, "x")
    windows = cut(span, info, features)
    tail_s = dropped_tail_s(span, windows, info, features)
    assert 0 <= tail_s < shortest_tail_s(features) + 1e-4
    rest_s = length_s - windows[-1][1]
    if features.hop_s <= clip_s:
        assert tail_s == pytest.approx(rest_s if rest_s >= 0.025 else 0.0)
    else:  # what lies between windows is left out on purpose
        assert tail_s <= rest_s


def test_tails_are_counted_in_the_report_and_in_the_figures_whoever_looks(folder, tmp_path):
    check(ingest(folder, tmp_path / "L", TINY, workers=1).tails)
    check(ingest(folder, tmp_path / "L", TINY, workers=1).tails)
    (folder / "a tail.wav").rename(folder / "renamed.wav")
    os.utime(folder / "another tail.wav", ns=(1, 1))
    check(ingest(folder, tmp_path / "L", TINY, workers=1).tails)
    check(library_stats(Library(tmp_path / "L")).tails)
    (folder / "another tail.wav").write_bytes(wav_file(tone(1.35), 16_000))
    check(ingest(folder, tmp_path / "L", TINY, workers=1).tails, 2, (0.9 - 0.655) + (1.35 - 1.31))


def test_an_end_of_less_than_a_spectrogram_frame_is_no_tail(folder, tmp_path):
    (folder / "a tail.wav").write_bytes(wav_file(tone(0.655 + 0.02), 16_000))
    check(ingest(folder / "a tail.wav", tmp_path / "L", TINY, workers=1).tails, 0, 0.0)


def test_the_parts_of_a_list_have_tails_of_their_own(folder, tmp_path):
    lines = ["another tail.wav,0,0.8", "another tail.wav,0.8,1.5", "short.wav,,", "two windows.wav,0.1,"]
    (folder / "l.csv").write_text("\n".join(["path,start_s,end_s", *lines]))
    check(ingest(folder / "l.csv", tmp_path / "L", TINY, workers=1).tails, 2, 0.8 - 0.655 + 0.7 - 0.655)


def test_sound_behind_the_pictures_is_no_tail(tmp_path):
    write_media(tmp_path / "x.mkv", frames=pictures(5), sound=tone(1.5))
    check(ingest(tmp_path / "x.mkv", tmp_path / "L", TINY, workers=1).tails, 0, 0.0)


def test_a_library_of_an_older_equiav_opens_and_says_of_what_it_does_not_know_the_tail(folder, tmp_path):
    ingest(folder, tmp_path / "L", TINY, workers=1)
    before = Library(tmp_path / "L").fingerprint()
    lance.dataset(tmp_path / "L" / "clips.lance").drop_columns(["item_tail_s"])
    check(library_stats(Library(tmp_path / "L")).tails, 0, 0.0, unknown=4)
    (folder / "new.wav").write_bytes(wav_file(tone(0.8, 999.0), 16_000))
    os.utime(folder / "a tail.wav", ns=(1, 1))
    tails = ingest(folder, tmp_path / "L", TINY, workers=1).tails
    check(tails, 2, 0.9 - 0.655 + 0.8 - 0.655, unknown=3)
    check(library_stats(Library(tmp_path / "L")).tails, 2, tails.seconds, unknown=3)
    assert str(tails) == (
        "2 tails shorter than 0.3 s were dropped (0.4 s in all); "
        "it is not known of 3 items that an older equiav ingested"
    )
    (folder / "new.wav").unlink()
    ingest(folder, tmp_path / "L", TINY, workers=1, prune=True)
    assert Library(tmp_path / "L").fingerprint() == before
