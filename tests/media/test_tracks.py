"""Which tracks of a file are read: those that can be decoded; fonts and covers are none."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

from equiav.errors import MediaError
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media.decode import decode_audio, load_image, read_frames
from equiav.media.probe import open_media, probe
from equiav.media.tracks import in_seconds
from films import film, unknown
from samples import TINY, pictures, tone
from tapes import brightness, click_at, record


def test_time_stamps_in_seconds_round_as_fractions_do():
    rng = np.random.default_rng(0)
    stamps = [*map(int, rng.integers(-(2**40), 2**62, 2000)), 0, -1, 1]
    for tick in (Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 10**9), Fraction(3, 1)):
        assert [in_seconds(stamp, tick) for stamp in stamps] == [float(stamp * tick) for stamp in stamps]


def click(at_s):
    samples = np.zeros(2 * 16_000, np.float32)
    samples[round(at_s * 16_000) : round(at_s * 16_000) + 100] = 0.9
    return samples


@pytest.mark.parametrize(
    "marked", [(), (0, Disposition.default, 0), (0, Disposition.default, Disposition.hearing_impaired)]
)
@pytest.mark.parametrize(("suffix", "old", "new"), [(".mov", b"sowt", b"zzzz"), (".mkv", b"A_AAC", b"A_ZZZ")])
def test_a_sound_that_can_be_decoded_goes_before_a_marked_one_that_cannot(tmp_path, suffix, old, new, marked):
    path = film(tmp_path / f"x{suffix}", [click(0.5), click(1.5)], [pictures(20)], marked=marked)
    assert click_at(decode_audio(path, 0.0, 2.0, 16_000), 16_000) == pytest.approx(0.5, abs=0.03)
    unknown(path, old, new)
    assert click_at(decode_audio(path, 0.0, 2.0, 16_000), 16_000) == pytest.approx(1.5, abs=0.03)
    ingest(path, tmp_path / "L", TINY, workers=1)
    assert {row["status"] for row in Library(tmp_path / "L")._clips.to_table().to_pylist()} <= {"ok", "silent"}


@pytest.mark.parametrize(
    ("suffix", "old", "new"), [(".mp4", b"avc1", b"zzzz"), (".mkv", b"V_MPEG4/ISO/AVC", b"V_ZZZZZ/ISO/ZZZ")]
)
def test_pictures_that_can_be_decoded_go_before_those_that_cannot(tmp_path, suffix, old, new):
    grey, white = (np.full((20, 48, 64, 3), level, np.uint8) for level in (60, 220))
    path = film(tmp_path / f"x{suffix}", [tone(2.0)], [grey, white], marked=(Disposition.default, 0))
    levels = []
    for _ in range(2):
        with open_media(path) as container:
            levels.append(brightness(read_frames(container, path, [1.0], 48, 95)[0][0]))
        # an MP4 also names its codecs in its first box
        unknown(path, old, new, 1 + (path.read_bytes()[:32].count(old)))
    assert levels == pytest.approx([60, 220], abs=4)


def test_a_track_that_nobody_can_decode_is_unsupported(tmp_path):
    path = film(tmp_path / "x.mkv", [tone(2.0), tone(2.0)])
    unknown(path, b"A_AAC", b"A_ZZZ", 2)
    with pytest.raises(MediaError, match="unsupported"):
        probe(path)


@pytest.mark.parametrize(("fonts", "subtitles"), [(70, 0), (30, 60)])
def test_fonts_and_subtitles_are_no_streams_of_the_limit(tmp_path, fonts, subtitles):
    path = film(tmp_path / "x.mkv", [tone(2.0)], [pictures(20)], fonts=fonts, subtitles=subtitles)
    with av.open(str(path)) as container:
        assert len(container.streams) == 2 + fonts + subtitles
    info = probe(path)
    assert (info.audio_end_s, info.video_end_s) == (pytest.approx(2.0, abs=0.1), pytest.approx(2.0, abs=0.1))
    assert not info.cut
    with open_media(path) as container:
        assert len(read_frames(container, path, [0.5, 1.5], 32, 90)[0]) == 2


@pytest.mark.parametrize(("suffix", "fonts"), [(".mkv", 3), (".mp4", 0)])
def test_too_many_tracks_of_sound_are_refused_beside_any_fonts(tmp_path, suffix, fonts):
    path = film(tmp_path / f"x{suffix}", [tone(0.1)] * 65, fonts=fonts)
    with pytest.raises(MediaError, match=r"unsupported.*65 sound and picture tracks"):
        probe(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
def test_a_song_with_a_single_picture_keeps_its_whole_sound(tmp_path, suffix):
    """A cover that is not marked as one: 0.1 s of picture, 2 s of sound."""
    path = film(tmp_path / f"x{suffix}", [tone(2.0)], [pictures(1)])
    info = probe(path)
    assert (info.video_end_s, info.width, info.cut) == (None, None, False)
    assert info.audio_end_s == pytest.approx(2.0, abs=0.15)
    ingest(path, tmp_path / "L", TINY, workers=1)
    rows = Library(tmp_path / "L")._clips.to_table().to_pylist()
    assert [row["status"] for row in rows] == ["no_video"] * len(rows)
    assert max(row["end_s"] for row in rows) > 1.9
    assert load_image(path).shape == (48, 64, 3)


def test_a_single_picture_that_lasts_as_long_as_the_sound_is_a_still_one(tmp_path):
    made = film(tmp_path / "made.mp4", [tone(2.0)], [pictures(1)])
    path = tmp_path / "x.mp4"
    with av.open(str(made)) as source, av.open(str(path), "w") as out:
        tracks = {stream: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                if packet.stream.type == "video":
                    packet.duration = round(2.0 / packet.time_base)
                packet.stream = tracks[packet.stream]
                out.mux(packet)
    assert probe(path).video_end_s == pytest.approx(2.0, abs=0.1)
    ingest(path, tmp_path / "L", TINY, workers=1)
    rows = Library(tmp_path / "L")._clips.to_table().to_pylist()
    assert {row["status"] for row in rows} == {"still"}
    assert max(row["end_s"] for row in rows) > 1.9


def test_a_video_without_sound_keeps_its_single_picture(tmp_path):
    path = record(tmp_path / "x.mp4", seconds=0.05, audio=False)
    assert probe(path).video_end_s == pytest.approx(0.05)
    assert load_image(path).shape == (64, 96, 3)


def test_a_flash_video_whose_sound_goes_on_is_whole(tmp_path):
    """FFmpeg looks for a picture when it jumps about in one, up to the end: the sound is found all the same."""
    path = film(tmp_path / "x.flv", [tone(12.0)], [pictures(40)])
    info = probe(path)
    assert (info.cut, info.audio_end_s) == (False, pytest.approx(12.0, abs=0.1))
    assert info.video_end_s == pytest.approx(4.0, abs=0.1)
