"""A size that a writer left open is no promise; one that the file does not reach says that it is cut."""

import struct

import av
import numpy as np
import pytest

from equiav.errors import MediaError
from equiav.library.items import Item
from equiav.library.windows import plan_windows
from equiav.media.decode import decode_audio, load_waveform, read_frames
from equiav.media.probe import open_media, probe
from equiav.media.sizes import is_placeholder, sizes_of
from hand_written import BIG, PCM, RATE, RIFX, SAMPLES, SIZE, WAVE, aiff, gsm, piped, wav
from samples import TINY
from tapes import record

W64_TAIL = "f3acd3118cd100c04f8edb8a"


def rf64(data_size):
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, min(data_size + 72, 2**64 - 1), data_size, 0, 0)
    return wav(2**32 - 1, 2**32 - 1, form=b"RF64", extra=ds64)


def w64(data_size):
    names = [bytes.fromhex(name) for name in ("726966662e91cf11a5d628db04c10000", "77617665" + W64_TAIL)]
    chunks = [bytes.fromhex(name + W64_TAIL) for name in ("666d7420", "64617461")]
    fmt = chunks[0] + struct.pack("<QHHIIHH", 40, 1, 1, RATE, 2 * RATE, 2, 16)
    sizes = [struct.pack("<Q", min(size, 2**64 - 1)) for size in (data_size + 104, data_size + 24)]
    return names[0] + sizes[0] + names[1] + fmt + chunks[1] + sizes[1] + PCM


def caf(data_size):
    desc = struct.pack(">q d4sIIIII", 32, float(RATE), b"lpcm", 2, 2, 1, 1, 16)
    size = data_size + 4 if data_size >= 0 else -1
    return b"caff" + struct.pack(">HH", 1, 0) + b"desc" + desc + b"data" + struct.pack(">qI", size, 0) + PCM


MAKERS = {
    "wav": wav,
    "rf64": rf64,
    "aiff": aiff,
    "aifc": lambda size: aiff(size, b"AIFC"),
    "w64": w64,
    "caf": caf,
    "rifx": lambda size: wav(size, data=BIG, form=b"RIFX"),
}
OPEN = [0, 0x7F000000, 0x7FFFF000, 0x7FFFFFFF - 36, 0x80000000, 2_000_000_000, 2**32 - 1, 2**62]
LARGEST = {"caf": 2**63 - 5, "w64": 2**64 - 25, "rf64": 2**64 - 1}


def write(tmp_path, kind, size):
    path = tmp_path / f"x.{'wav' if kind in ('rf64', 'rifx') else kind}"
    path.write_bytes(MAKERS[kind](size))
    return path


def windows_of(path):
    return plan_windows(Item(path), probe(path), TINY)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_sound_with_a_placeholder_for_its_size_is_as_long_as_it_is(tmp_path, kind):
    whole = write(tmp_path, kind, SIZE)
    expected = probe(whole), windows_of(whole), load_waveform(whole, RATE)
    assert expected[0].audio_end_s == pytest.approx(3.0, abs=1e-6)
    np.testing.assert_allclose(expected[2], SAMPLES / 32768, atol=1e-6)
    for size in [*OPEN, LARGEST.get(kind, 2**32 - 1), SIZE * 150]:
        path = write(tmp_path, kind, size)
        assert sizes_of(path).is_open, size
        assert (probe(path).audio_end_s, probe(path).cut) == (pytest.approx(3.0, abs=1e-6), False), size
        assert windows_of(path) == expected[1], size
        np.testing.assert_array_equal(load_waveform(path, RATE), expected[2], err_msg=str(size))
        np.testing.assert_array_equal(decode_audio(path, 1.3, 2.2, RATE), expected[2][20_800:35_200], err_msg=str(size))


@pytest.mark.parametrize(("bits", "code"), RIFX)
def test_a_big_endian_wav_of_any_depth_is_the_sound_that_was_written(tmp_path, bits, code):
    samples, apart = RIFX[bits, code]
    data = samples.tobytes()
    for size in (len(data), 2**32 - 1):
        (tmp_path / "x.wav").write_bytes(wav(size, data=data, code=code, bits=bits, form=b"RIFX"))
        assert not probe(tmp_path / "x.wav").cut
        np.testing.assert_allclose(load_waveform(tmp_path / "x.wav", RATE), WAVE, rtol=0, atol=apart + 1e-7)


@pytest.mark.parametrize("frames", [150, 150 * 160])
def test_gsm_in_an_aifc_is_as_long_as_it_is_whether_packets_or_samples_are_declared(tmp_path, frames):
    path = tmp_path / "x.aifc"
    path.write_bytes(gsm(frames))
    assert (probe(path).audio_end_s, probe(path).cut) == (pytest.approx(3.0, abs=1e-6), False)
    assert len(load_waveform(path, 8000)) == 24_000
    with av.open(str(path)) as container:
        expected = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]) / 32768
    np.testing.assert_allclose(load_waveform(path, 8000), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("share", [0.6, 0.1])
def test_a_sound_that_ends_before_its_size_is_cut(tmp_path, kind, share):
    path = write(tmp_path, kind, SIZE)
    header = path.stat().st_size - SIZE
    path.write_bytes(path.read_bytes()[: header + round(share * SIZE)])
    info = probe(path)
    assert info.cut
    assert info.audio_end_s == pytest.approx(3.0, rel=0.1)
    assert len(decode_audio(path, 0.0, 2.0 * share, RATE)) == 2.0 * share * RATE
    with pytest.raises(MediaError, match="truncated"):
        load_waveform(path, RATE)


def test_what_is_a_placeholder():
    there = 50_000_000
    for open_size in (0, -1, 0x7F000000 + 46, 0x7FFFF024, 0x7FFFFFFF, 0x80000024, 2**32 - 1, 2_000_000_036, 2**63 - 1):
        assert is_placeholder(open_size, there), open_size
    for size in (
        there,
        there - 4,
        there + 4,
        2 * there,
        19 * there + 7,
        5 * 10**8,
        1_234_567_890,
        2**31 + 10**6,
        3_456_789_012,
    ):
        assert not is_placeholder(size, there), size
    assert is_placeholder(101 * there, there)
    assert not is_placeholder(0, 0)  # an empty file says so
    assert not is_placeholder(2**32 - 1, 2**32 - 1)  # it is there


PIPED = {
    ".avi": ("avi", {}),
    ".flv": ("flv", {}),
    ".mkv": ("matroska", {}),
    ".webm": ("webm", {}),
    ".mp4": ("mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    ".mov": ("mov", {"movflags": "frag_keyframe+empty_moov"}),
}


@pytest.mark.parametrize("suffix", PIPED)
def test_a_video_written_to_a_pipe_is_as_long_as_it_is(tmp_path, suffix):
    plain = record(tmp_path / f"plain{suffix}", tone_hz=300.0)
    path = piped(plain, tmp_path / f"piped{suffix}", *PIPED[suffix])
    info, expected = probe(path), probe(plain)
    assert not info.cut
    assert info.audio_end_s == pytest.approx(expected.audio_end_s, abs=0.11)
    assert info.video_end_s == pytest.approx(expected.video_end_s, abs=0.11)
    assert len(plan_windows(Item(path), info, TINY)) == len(plan_windows(Item(plain), expected, TINY))
    clicks = [np.abs(decode_audio(one, 1.0, 2.0, RATE)).argmax() / RATE for one in (path, plain)]
    assert clicks[0] == pytest.approx(clicks[1], abs=0.13)  # an MP4 in fragments tells of no priming samples
    seen = []
    for one in (path, plain):
        with open_media(one) as container:
            seen.append(read_frames(container, one, [0.2, 1.55, 2.7], 32, 90)[0])
    assert len(seen[0]) == 3
    assert seen[0] == seen[1] or suffix in (".mp4", ".mov")  # nor of the delay of pictures


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_fragmented_video_that_ends_inside_a_fragment_is_cut(tmp_path, suffix):
    path = piped(record(tmp_path / f"plain{suffix}", tone_hz=300.0), tmp_path / f"x{suffix}", *PIPED[suffix])
    path.write_bytes(path.read_bytes()[: round(0.6 * path.stat().st_size)])
    assert probe(path).cut
    assert len(decode_audio(path, 0.0, 1.0, RATE)) == RATE
