"""A copy is changed in the way that its kind says, and in no other one; it begins where it is said to."""

import numpy as np
import pytest

from equiav.config import Features
from equiav.errors import MediaError
from equiav.media.alter import FPS, KINDS, RATE, alter, read_video
from samples import pictures, tone, write_media

FEATURES = Features(clip_s=0.6, hop_s=0.5, min_tail_s=0.3, time_frames=64, mel_bins=32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    paths = [
        write_media(folder / f"{i}.mp4", frames=pictures(30, seed=i), sound=tone(3.0, 300 + 400 * i)) for i in range(2)
    ]
    return [read_video(path, 48) for path in paths]


def altered(kind, videos, seed=0):
    return alter(kind, *videos, np.random.default_rng(seed), FEATURES)


def test_a_video_is_read_with_its_pictures_and_its_sound(videos):
    assert videos[0].frames.shape == (30, 48, 64, 3)
    assert videos[0].seconds == 3.0
    assert len(videos[0].sound) == pytest.approx(3 * RATE, abs=RATE / 20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_keeps_what_it_does_not_change_and_is_drawn_by_the_generator(videos, kind):
    copy, start_s = altered(kind, videos)
    again, _ = altered(kind, videos)
    np.testing.assert_array_equal(copy.frames, again.frames)
    np.testing.assert_array_equal(copy.sound, again.sound)
    original = videos[0].within(start_s, start_s + copy.seconds)
    pictures_kept = copy.frames.shape == original.frames.shape and bool((copy.frames == original.frames).all())
    sound_kept = len(copy.sound) == len(original.sound) and bool((copy.sound == original.sound).all())
    assert pictures_kept == (kind in ("gained", "other_sound", "shifted", "part"))
    assert sound_kept == (kind not in ("gained", "other_sound"))
    assert (
        (copy.crf, copy.bit_rate) != (24, 64_000) if kind == "reencoded" else (copy.crf, copy.bit_rate) == (24, 64_000)
    )


def test_a_part_holds_three_windows_and_begins_with_one(videos):
    for seed in range(5):
        copy, start_s = altered("part", videos, seed)
        assert copy.seconds == pytest.approx(2 * FEATURES.hop_s + FEATURES.clip_s, abs=0.5 / FPS)
        assert start_s % FEATURES.hop_s == pytest.approx(0)


def test_what_is_too_short_has_no_part_and_what_lacks_a_track_cannot_be_changed(videos, tmp_path):
    assert alter("part", videos[0].within(0, 0.6), videos[1], np.random.default_rng(0), FEATURES) is None
    write_media(tmp_path / "silent.mp4", frames=pictures(10))
    with pytest.raises(MediaError, match="no_audio"):
        read_video(tmp_path / "silent.mp4", 48)


def test_a_copy_is_written_and_read_again(videos, tmp_path):
    copy, _ = altered("flipped", videos)
    copy.write(tmp_path / "x.mp4")
    again = read_video(tmp_path / "x.mp4", 48)
    assert again.frames.shape == copy.frames.shape
    assert np.abs(again.frames.astype(int) - copy.frames).mean() < 12
