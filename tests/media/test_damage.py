"""Damage inside a file: the windows that hold it are corrupt, the others are as they were."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from equiav.errors import MediaError
from equiav.media.decode import decode_audio, read_frames
from equiav.media.probe import open_media
from samples import pictures, tone, write_media
from tapes import record


def spoil(path: Path, kind: str, first_s: float, last_s: float, spoiled) -> Path:
    """Each packet of a track from `first_s` to before `last_s` becomes `spoiled(its bytes)`; the size stays."""
    data, at, count = bytearray(path.read_bytes()), 0, 0
    with av.open(str(path)) as container:
        track = getattr(container.streams, kind)[0]
        packets = [(bytes(each), float(each.pts * each.time_base)) for each in container.demux(track) if each.size]
    for content, time_s in packets:
        at = data.find(content, at)
        assert at >= 0
        if first_s <= time_s < last_s:
            data[at : at + len(content)] = spoiled(content)
            count += 1
        at += len(content)
    assert count
    path.write_bytes(data)
    return path


def overwritten(content):
    return b"\xff" * len(content)


def one_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def half(content):
    middle = len(content) // 2
    return content[:middle] + np.random.default_rng(0).bytes(len(content) - middle)


def sound(path, codec, seconds=4.0):
    """A tone over noise, so that packets differ."""
    samples = tone(seconds, rate=48_000) + np.random.default_rng(1).normal(0, 0.02, int(48_000 * seconds))
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        for piece in av.AudioResampler(stream.format.name, "mono", 48_000, stream.frame_size or 1024).resample(frame):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return path


def reason_of(call, *args):
    try:
        call(*args)
    except MediaError as error:
        return error.reason
    return "ok"


def frames_at(path, times_s, **options):
    with open_media(path) as container:
        return read_frames(container, path, times_s, 48, 90, **options)


@pytest.mark.parametrize(
    ("name", "codec", "spoiled"),
    [
        ("one packet.m4a", "aac", overwritten),
        ("one packet.mkv", "aac", overwritten),
        ("one packet.mp3", "libmp3lame", overwritten),
        ("a packet that gives nothing.m4a", "alac", overwritten),
        ("one bit of several packets.flac", "flac", one_bit),
        ("one bit in a.mkv", "flac", one_bit),
        ("one bit.ac3", "ac3", one_bit),
        ("one bit in an.mp4", "ac3", one_bit),
    ],
)
def test_a_window_of_sound_with_one_damaged_packet_is_corrupt_and_the_others_are_not(tmp_path, name, codec, spoiled):
    path = sound(tmp_path / name, codec)
    assert reason_of(decode_audio, path, 1.0, 3.0, 16_000) == "ok"
    spoil(path, "audio", 2.0, 2.03 if codec not in ("alac", "flac") else 2.1 if codec == "alac" else 2.4, spoiled)
    assert reason_of(decode_audio, path, 1.0, 3.0, 16_000) == "corrupt"
    assert reason_of(decode_audio, path, 0.0, 1.5, 16_000) == "ok"
    assert reason_of(decode_audio, path, 2.7, 3.8, 16_000) == "ok"


def test_one_bit_of_a_bare_flac_costs_its_window_and_no_other_one_changes(tmp_path):
    path = sound(tmp_path / "x.flac", "flac", 6.0)
    whole, data, windows = decode_audio(path, 0.0, 6.0, 16_000), path.read_bytes(), np.arange(6)
    with av.open(str(path)) as container:
        packets = [(packet.pos, float(packet.pts * packet.time_base)) for packet in container.demux() if packet.size]
    rng = np.random.default_rng(0)
    for _ in range(20):
        at = int(rng.integers(packets[8][0], packets[-8][0]))
        broken = bytearray(data)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        said = [reason_of(decode_audio, path, second, second + 1.0, 16_000) for second in windows]
        time_s = max(time_s for pos, time_s in packets if pos <= at)
        assert said[int(time_s)] == "corrupt"
        assert said.count("ok") >= 4
        for second in windows[np.array(said) == "ok"]:
            found = decode_audio(path, second, second + 1.0, 16_000)
            assert np.array_equal(found, whole[second * 16_000 : (second + 1) * 16_000])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("spoiled", [overwritten, half])
def test_pictures_that_are_made_from_damage_are_corrupt_until_the_next_key_frame(tmp_path, suffix, spoiled):
    path = write_media(tmp_path / f"x{suffix}", frames=pictures(40), fps=10)  # a key frame each second
    spoil(path, "video", 1.2, 1.5, spoiled)
    assert reason_of(frames_at, path, [0.45, 0.85]) == "ok"
    for time_s in (1.35, 1.65, 1.95):
        assert reason_of(frames_at, path, [0.45, time_s]) == "corrupt"
    assert reason_of(frames_at, path, [2.05, 2.55, 3.5]) == "ok"


def test_the_damaged_one_of_several_key_frames_is_corrupt_and_a_window_of_whole_ones_is_not(tmp_path):
    path = write_media(tmp_path / "x.mp4", frames=pictures(40), fps=10)
    _, times = frames_at(path, [0.5, 1.5], keys_s=(0.0, 2.0))
    assert times == pytest.approx([0.0, 1.0], abs=0.01) or times == pytest.approx([1.0, 1.0], abs=0.01)
    spoil(path, "video", 0.75, 1.5, overwritten)
    assert reason_of(lambda: frames_at(path, [1.0, 1.5], keys_s=(0.5, 2.0))) == "corrupt"
    assert reason_of(lambda: frames_at(path, [2.1, 3.1], keys_s=(2.0, 4.0))) == "ok"


def test_damage_at_the_very_start_of_the_sound_costs_nothing_if_it_is_short(tmp_path):
    path = spoil(sound(tmp_path / "x.m4a", "aac"), "audio", -1.0, 0.03, overwritten)
    assert reason_of(decode_audio, path, 0.0, 2.0, 16_000) == "ok"


def test_undamaged_files_of_every_container_are_ok_everywhere(tmp_path):
    for suffix in (".mp4", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".flv"):
        path = record(tmp_path / f"x{suffix}", seconds=3.0)
        for start_s in (0.0, 0.7, 1.9):
            assert reason_of(decode_audio, path, start_s, start_s + 1.0, 16_000) == "ok"
            assert reason_of(frames_at, path, [start_s + 0.1, start_s + 0.9]) == "ok"
