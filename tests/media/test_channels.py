"""A sound is the mean of its channels, or the loudest one where that cancels: for a whole window, in any layout."""

from fractions import Fraction

import av
import numpy as np
import pytest

from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media.channels import SILENCE, Levels, Meter, Packer
from equiav.media.decode import decode_audio, load_waveform
from samples import TINY, pictures, tone, write_media

RATE = 16_000
LOUD = np.sqrt(1.5) / 2  # what is left of a tone's peak, in all bins around it, by the Hann window
NOISE = np.random.default_rng(0).normal(0, 0.1, (24, 4096)).astype(np.float32)
MANY = ["mono", "stereo", "2.1", "5.1", "6.1", "7.1", "7.1.4", "hexadecagonal", "22.2", "9 channels"]


def planar(samples, layout, rate=RATE, fmt="fltp"):
    """A planar frame of (C, S), filled by FFmpeg: PyAV's own way of filling it ends the process from 8 channels on."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), format="flt", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    return av.AudioResampler(format=fmt).resample(frame)[0]


def write_sound(path, samples, layout, codec, rate=RATE):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 64_000 * len(samples)
        resampler = av.AudioResampler(stream.format.name, frame_size=stream.codec_context.frame_size or 1024)
        for frame in [*resampler.resample(planar(samples, layout, rate)), *resampler.resample(None)]:
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("layout", MANY)
def test_the_channels_of_a_planar_frame_of_any_layout_are_its_samples(layout):
    samples = NOISE[: av.AudioLayout(layout).nb_channels]
    packer = Packer()
    for part in (samples, samples[:, ::-1]):
        np.testing.assert_array_equal(packer.channels(planar(part, layout)), part)


def test_a_packer_follows_a_track_that_changes_layout_and_format():
    packer = Packer()
    for layout, fmt, dtype in (
        ("stereo", "fltp", "f4"),
        ("5.1", "fltp", "f4"),
        ("5.1", "s16p", "i2"),
        ("mono", "s16", "i2"),
    ):
        found = packer.channels(planar(NOISE[: av.AudioLayout(layout).nb_channels], layout, fmt=fmt))
        assert (found.dtype, found.shape) == (dtype, (av.AudioLayout(layout).nb_channels, 4096))


@pytest.mark.parametrize(
    ("layout", "codec", "suffix"),
    [
        ("5.1", "aac", ".m4a"),
        ("6.1", "aac", ".m4a"),
        ("7.1", "aac", ".m4a"),
        ("7.1", "libopus", ".mka"),
        ("7.1", "flac", ".flac"),
        ("7.1", "pcm_s16le", ".wav"),
    ],
)
def test_a_track_of_up_to_eight_channels_is_read_as_their_mean(tmp_path, layout, codec, suffix):
    rate = 48_000 if codec == "libopus" else RATE
    count = av.AudioLayout(layout).nb_channels
    samples = np.stack([(0.2 + 0.1 * c) * tone(1.0, 300 + 100 * c, rate) for c in range(count)])
    heard = decode_audio(write_sound(tmp_path / f"x{suffix}", samples, layout, codec, rate), 0.0, 1.0, rate)
    hertz = np.arange(len(heard) // 2 + 1) * rate / len(heard)
    spectrum = 2 * np.abs(np.fft.rfft(heard * np.hanning(len(heard)))) / len(heard)
    for c in range(count):
        if (layout, c) == ("6.1", 3) or codec == "flac" or suffix == ".wav" or c != 3:  # lossy codecs cut the deep one
            near = spectrum[np.abs(hertz - (300 + 100 * c)) < 20]
            assert np.sqrt(np.square(near).sum()) == pytest.approx(0.4 * (0.2 + 0.1 * c) / count * LOUD, rel=0.1)


def turned(kind):
    """(C, S) whose mean is far softer than its channels."""
    wave, soft = tone(2.0, 500), 0.02 * np.random.default_rng(0).normal(0, 0.3, 2 * RATE).astype(np.float32)
    return {
        "opposite": [wave, -wave],
        "nearly": [wave, -0.8 * wave],
        "with some of one's own": [wave + soft, -wave],
        "with an offset": [wave + 0.3, -wave + 0.3],
        "six, two against two": [wave, -wave, 0 * wave, 0 * wave, wave, -wave],
        "a soft one of six": [0 * wave] * 5 + [0.004 * wave],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["opposite", "nearly", "with some of one's own", "with an offset", "six, two against two", "a soft one of six"],
)
def test_where_the_mean_cancels_the_loudest_channel_is_taken_in_whatever_part_it_is_read(tmp_path, kind):
    channels = np.stack(turned(kind))
    layout = {2: "stereo", 6: "5.1"}[len(channels)]
    path = write_sound(tmp_path / "x.wav", channels, layout, "pcm_f32le")
    loudest = channels[5 if kind == "a soft one of six" else 0]
    for start_s, end_s in ((0.0, 2.0), (0.3, 1.7), (1.0, 1.1)):
        heard = decode_audio(path, start_s, end_s, RATE)
        np.testing.assert_allclose(heard, loudest[round(start_s * RATE) : round(end_s * RATE)], atol=1e-6)
        assert np.ptp(heard) > SILENCE / 2
    np.testing.assert_array_equal(load_waveform(path, RATE), decode_audio(path, 0.0, 2.0, RATE))


def test_what_does_not_cancel_is_the_mean_as_before(tmp_path):
    wave, other = tone(2.0, 500), tone(2.0, 700)
    kinds = {
        "same": [wave, wave],
        "unrelated": [wave, other],
        "one of two": [wave, 0 * wave],
        "half of it": [wave, -0.5 * wave],
        "one of six": [0 * wave, wave, *[0 * wave] * 4],
        "offsets against each other": [wave + 0.3, wave - 0.3],
        "silence on offsets": [0 * wave + 0.3, 0 * wave - 0.3],
    }
    for kind, channels in kinds.items():
        path = write_sound(tmp_path / "x.wav", np.stack(channels), {2: "stereo", 6: "5.1"}[len(channels)], "pcm_f32le")
        mean = np.stack(channels).mean(axis=0, dtype=np.float32)
        np.testing.assert_allclose(decode_audio(path, 0.0, 2.0, RATE), mean, atol=1e-6, err_msg=kind)


def test_the_choice_is_one_for_a_window_whatever_its_parts_would_choose(tmp_path):
    wave = tone(4.0, 500)
    turns = np.where(np.arange(4 * RATE) < 1.5 * RATE, -1, 1).astype(np.float32)
    path = write_sound(tmp_path / "x.wav", np.stack([wave, turns * wave]), "stereo", "pcm_f32le")
    mean = (wave + turns * wave) / 2
    np.testing.assert_allclose(decode_audio(path, 0.0, 4.0, RATE), mean, atol=1e-6)  # most of it is heard
    np.testing.assert_allclose(decode_audio(path, 0.0, 1.5, RATE), wave[: round(1.5 * RATE)], atol=1e-6)


def test_levels_do_not_depend_on_how_the_sound_comes_in_blocks():
    rng, channels = np.random.default_rng(1), np.stack([tone(2.0, 500), -tone(2.0, 500)])
    for start_s, end_s in ((0.0, 2.0), (0.51, 1.03)):
        for _ in range(5):
            levels, at = Levels(start_s, end_s), 0
            while at < 2 * RATE:
                size = int(rng.integers(1, 9000))
                levels.add(channels[:, at : at + size], at / RATE, RATE)
                at += size
            assert levels.loudest_if_cancelled() == 0
            expected = channels[0, round(start_s * RATE) : round(end_s * RATE)]
            assert levels._squares[0] == pytest.approx(np.square(expected, dtype=np.float64).sum(), rel=1e-9)
    meter = Meter([(0.0, 1.0), (0.5, 1.5), (3.0, 4.0)])
    for at in range(0, 2 * RATE, 1000):
        meter.add(channels[:, at : at + 1000], at / RATE, RATE)
    assert [meter.loudest_if_cancelled(i) for i in range(4)] == [0, 0, None, None]


@pytest.mark.parametrize("turn", [-1, 1])
def test_ingest_calls_a_loud_sound_of_opposite_channels_ok(tmp_path, turn):
    (tmp_path / "v").mkdir()
    write_media(tmp_path / "v" / "x.mp4", frames=pictures(20), sound=np.stack([tone(2.0), turn * tone(2.0)]))
    ingest(tmp_path / "v", tmp_path / "L", TINY, workers=1)
    rows = Library(tmp_path / "L")._clips.to_table().to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    peak = np.mean([np.array(row["fbank"], np.float32).max() for row in rows])
    assert peak > 0
