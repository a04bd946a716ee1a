"""Sound and frames come from one clock; whatever cannot be read says why."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from equiav.errors import MediaError
from equiav.media.decode import decode_audio, load_image, load_waveform, read_frames
from equiav.media.probe import REASONS, open_media, probe
from samples import BAD, pictures, tone, write_media


def frames_at(path, times, side=32):
    with open_media(path) as container:
        return read_frames(container, path, times, side, 95)


def brightness(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).mean()


def test_probe_reads_the_headers(good_video):
    info = probe(good_video)
    assert (info.width, info.height, info.sample_rate, info.channels, info.fps) == (64, 48, 16_000, 1, 10.0)
    assert info.duration_s == pytest.approx(1.4, abs=0.1)


@pytest.mark.parametrize("kind", BAD)
def test_every_bad_file_says_why(bad_videos, kind):
    path = bad_videos[kind]

    def read_all():
        decode_audio(path, 0.0, 4.0, 16_000)
        frames_at(path, [0.1, 1.0, 3.5])

    with pytest.raises(MediaError) as error:
        read_all()
    assert error.value.reason == BAD[kind]
    assert BAD[kind] in REASONS


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".mov"])
def test_a_click_and_its_flash_are_at_the_same_time(tmp_path, suffix):
    """Flash and click at 1.0 s and 3.0 s: within 20 ms and one frame of each other, in every container."""
    rate = 48_000
    sound = np.random.default_rng(0).normal(0, 1e-3, 4 * rate).astype(np.float32)
    frames = np.zeros((100, 48, 64, 3), np.uint8)
    for at in (1, 3):
        sound[at * rate : at * rate + 480] = 0.8
        frames[25 * at] = 255
    path = write_media(tmp_path / f"click{suffix}", frames=frames, sound=sound, fps=25, rate=rate)
    for start in (0.0, 0.5, 2.5):
        heard = decode_audio(path, start, 4.0, 16_000)
        clicks = start + np.flatnonzero(np.abs(heard) > 0.3) / 16_000
        for at in (1.0, 3.0):
            if at > start:
                assert np.abs(clicks - at).min() <= 0.02, (suffix, start, clicks[:3])
    times = [i / 50 for i in range(190)]
    seen = [t for t, jpeg in zip(times, frames_at(path, times)[0], strict=True) if brightness(jpeg) > 128]
    assert all(min(abs(t - 1.0), abs(t - 3.0)) <= 0.02 + 1 / 25 for t in seen)
    assert {round(t) for t in seen} == {1, 3}


def test_a_late_sound_track_stays_late(tmp_path):
    path = write_media(tmp_path / "late.mkv", frames=pictures(30), sound=tone(2.0), audio_start_s=0.5)
    sound = decode_audio(path, 0.0, 2.0, 16_000)
    assert np.abs(sound[: int(0.4 * 16_000)]).max() < 0.01
    assert np.abs(sound[int(0.6 * 16_000) :]).max() > 0.3


def test_frames_of_a_variable_rate_are_those_shown_at_the_time(tmp_path):
    frames = np.stack([np.full((48, 64, 3), 20 * i, np.uint8) for i in range(10)])
    times = [0.0, 0.05, 0.1, 0.6, 0.7, 1.5, 1.55, 1.6, 2.4, 2.5]
    path = write_media(tmp_path / "vfr.mkv", frames=frames, sound=tone(2.6), fps=100, times_s=times)
    shown = [round(brightness(jpeg) / 20) for jpeg in frames_at(path, [0.3, 0.65, 1.0, 1.58, 2.0, 2.6])[0]]
    assert shown == [2, 3, 4, 6, 7, 9]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mov", ".ts"])
def test_key_frames_are_those_nearest_in_the_span_and_exact_ones_where_it_has_none(tmp_path, suffix):
    path = write_media(tmp_path / f"keys{suffix}", frames=pictures(40), sound=tone(4.0))  # a key frame every second
    times = [0.4, 0.7, 1.5, 2.3, 3.7]
    with open_media(path) as container:
        jpegs, shown = read_frames(container, path, times, 32, 95, keys_s=(0.0, 4.0))
    with av.open(str(path)) as container:  # where the encoder put them
        stream = container.streams.video[0]
        start_s = (container.start_time or 0) / av.time_base
        found = [float(p.pts * p.time_base) - start_s for p in container.demux(stream) if p.size and p.is_keyframe]
    keys = np.array(found)
    assert len(keys) >= 4
    assert np.allclose(shown, [keys[np.abs(keys - time).argmin()] for time in times], atol=1e-3)
    assert jpegs == frames_at(path, [time + 0.05 for time in shown])[0]
    span = keys[1] + 0.15, keys[2]  # holds none
    with open_media(path) as container:
        between = read_frames(container, path, [keys[1] + 0.25, keys[1] + 0.55], 32, 95, keys_s=span)
    assert between == frames_at(path, [keys[1] + 0.25, keys[1] + 0.55])


@pytest.mark.parametrize("channels", [2, 6])
def test_many_channels_become_one(tmp_path, channels):
    sound = np.stack([tone(1.0, 300 + 10 * c) for c in range(channels)])
    path = write_media(tmp_path / "multi.mp4", frames=pictures(10), sound=sound)
    mono = decode_audio(path, 0.0, 1.0, 16_000)
    assert mono.ndim == 1
    assert 0.05 < np.abs(mono).max() <= 1.0


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_any_sample_rate_keeps_pitch_and_length(tmp_path, rate):
    path = write_media(tmp_path / "rate.mkv", frames=pictures(10), sound=tone(1.0, 440, rate), rate=rate)
    mono = decode_audio(path, 0.0, 1.0, 16_000)
    assert abs(len(mono) - 16_000) < 1200
    peak = np.fft.rfftfreq(len(mono), 1 / 16_000)[np.abs(np.fft.rfft(mono)).argmax()]
    assert peak == pytest.approx(440, abs=3)


def test_a_window_behind_the_end_is_too_short(good_video):
    with pytest.raises(MediaError, match="too_short"):
        decode_audio(good_video, 5.0, 6.0, 16_000)


@pytest.mark.parametrize("name", ["-rf.mp4", "a\nb.mp4", "concat:x.mp4", "%d.mp4", "ä ö.mp4", "q" * 250 + ".mp4"])
def test_a_name_is_only_a_name(tmp_path, good_video, name):
    path = tmp_path / name
    path.write_bytes(good_video.read_bytes())
    assert len(decode_audio(path, 0.0, 0.5, 16_000)) == 8_000


def test_a_playlist_opens_nothing(tmp_path, good_video):
    path = tmp_path / "list.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{good_video}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match="not_media"):
        probe(path)


def test_frames_shrink_to_the_short_side_and_are_never_enlarged(good_video):
    def size(side):
        return Image.open(io.BytesIO(frames_at(good_video, [0.5], side)[0][0])).size

    assert size(24) == (32, 24)
    assert size(480) == (64, 48)


def test_a_whole_sound_or_a_picture_can_be_loaded(tmp_path, good_video, bad_videos):
    assert len(load_waveform(good_video, 16_000)) / 16_000 == pytest.approx(1.4, abs=0.1)
    Image.fromarray(pictures(1)[0]).save(tmp_path / "p.png")
    assert np.array_equal(load_image(tmp_path / "p.png"), pictures(1)[0])
    assert load_image(good_video).shape == (48, 64, 3)
    with pytest.raises(MediaError, match="not_media"):
        load_image(bad_videos["text"])
    with pytest.raises(MediaError, match="missing"):
        load_image(tmp_path / "none.png")
