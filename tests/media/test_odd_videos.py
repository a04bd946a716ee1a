"""Videos as people have them: other containers, late tracks, no durations, turned pictures, damage in the middle."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import PictureType
from PIL import Image

from equiav.errors import MediaError
from equiav.media.decode import decode_audio, load_image, load_waveform, read_audio, read_frames
from equiav.media.probe import REASONS, open_media, probe
from tapes import Recording, brightness, click_at, pictures, record

VIDEOS = [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".flv"]


def frames_at(path, times, side=64):
    with open_media(path) as container:
        return read_frames(container, path, list(times), side, 95)


def reason_of(call, *arguments):
    with pytest.raises(MediaError) as error:
        call(*arguments)
    return error.value.reason


@pytest.mark.parametrize("suffix", VIDEOS)
def test_flash_and_click_meet_in_every_container(tmp_path, suffix):
    path = record(tmp_path / f"x{suffix}")
    heard = click_at(decode_audio(path, 0.0, 3.0, 16_000), 16_000)
    assert heard == pytest.approx(1.5, abs=0.03)  # an encoder's delay where the container cannot tell it
    times = np.arange(1.3, 1.7, 0.01)
    seen = times[[brightness(jpeg) > 220 for jpeg in frames_at(path, times)[0]]]
    assert seen.min() == pytest.approx(heard, abs=0.03 if suffix != ".avi" else 0.06)
    assert seen.max() - seen.min() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_pictures_that_are_decoded_in_another_order_are_shown_in_theirs(tmp_path, suffix):
    """B-frames; an AVI has no times of display."""
    path = tmp_path / f"x{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=20, options={"g": "20", "bf": "3", "x264-params": "b-adapt=0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(60):
            grey = np.full((48, 64, 3), 20 + 3 * i, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert any(frame.pict_type == PictureType.B for frame in container.decode(video=0))
    for first in (0.025, 1.325):
        times = np.arange(first, first + 1.5, 0.05)
        shown, since = frames_at(path, times)
        assert [brightness(jpeg) for jpeg in shown] == pytest.approx(20 + 60 * (times - 0.025), abs=1.5)
        assert since == pytest.approx(times - 0.025, abs=0.002)


@pytest.mark.parametrize("suffix", VIDEOS)
def test_a_window_is_a_piece_of_the_whole(tmp_path, suffix):
    """Reading from the middle gives the samples and the pictures that reading from the start gives."""
    path = record(tmp_path / f"x{suffix}", seconds=8.0, fps=25, tone_hz=313.0, gop=50, click_s=5.0, flash_s=5.0)
    whole = decode_audio(path, 0.0, 8.0, 16_000)
    for start, end in ((1.0, 3.0), (4.5, 6.5), (6.123, 7.5)):
        part = decode_audio(path, start, end, 16_000)
        expected = whole[round(start * 16_000) : round(end * 16_000)]
        apart = np.abs(part - expected)[800:-800]
        if suffix in (".mkv", ".webm", ".flv"):  # clocks of 1 ms: off by parts of a sample, which a click shows
            apart = apart[np.abs(expected)[800:-800] < 0.12]
        # codecs with a memory differ a little; a whole sample too early or too late would differ by 0.012
        assert np.percentile(apart, 99) < 0.006
    times = np.arange(0.02, 7.9, 0.49)
    alone = [frames_at(path, [time]) for time in times]
    together = frames_at(path, times)
    assert [a[0][0] for a in alone] == together[0]
    assert [a[1][0] for a in alone] == together[1]
    assert all(-0.0011 < time - shown < 0.06 for time, shown in zip(times[2:], together[1][2:], strict=True))


def test_a_container_serves_many_windows(tmp_path):
    path = record(tmp_path / "x.mp4", seconds=4.0)
    with open_media(path) as container:
        first = read_frames(container, path, [0.5, 3.0], 64, 95)
        read_frames(container, path, [1.0], 64, 95)
        assert read_frames(container, path, [0.5, 3.0], 64, 95) == first


@pytest.mark.parametrize(
    ("layout", "loud", "mean"), [("stereo", [1], 0.25), ("5.1", [0, 3], 1 / 6), ("4.0", [2], 0.125)]
)
def test_channels_count_alike(tmp_path, layout, loud, mean):
    """Mono is the mean of the channels: the constant 0.5 in some of them comes out as 0.5 · share."""
    count = av.AudioLayout(layout).nb_channels
    samples = np.zeros((16_000, count), np.float32)
    samples[:, loud] = 0.5
    for codec, fmt, dtype, scale in (("pcm_f32le", "flt", "f4", 1), ("pcm_s16le", "s16", "i2", 32768)):
        path = tmp_path / f"{codec}.wav"
        with av.open(str(path), "w") as out:
            stream = out.add_stream(codec, rate=16_000, layout=layout)
            packed = (samples * scale).astype(dtype).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format=fmt, layout=layout)
            frame.sample_rate = 16_000
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        assert decode_audio(path, 0.0, 1.0, 16_000) == pytest.approx(mean, abs=1e-4)
        assert decode_audio(path, 0.2, 0.8, 8_000)[50:-50] == pytest.approx(mean, abs=2e-3)


def test_a_video_without_a_duration_is_measured(tmp_path):
    """What browsers record: a live WebM says nothing of its length."""
    path = record(tmp_path / "live.webm", seconds=4.0, mux={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    info = probe(path)
    assert info.duration_s == pytest.approx(4.0, abs=0.05)
    assert info.audio_end_s == pytest.approx(4.0, abs=0.05)
    assert info.video_end_s == pytest.approx(4.0, abs=0.05)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_a_sound_that_ends_early_is_no_damage(tmp_path, suffix):
    path = record(tmp_path / f"x{suffix}", seconds=6.0, audio_seconds=2.5, tone_hz=400.0)
    info = probe(path)
    assert not info.cut
    assert info.audio_end_s == pytest.approx(2.5, abs=0.1)
    assert info.video_end_s == pytest.approx(6.0, abs=0.1)
    assert len(decode_audio(path, 0.0, 6.0, 16_000)) == pytest.approx(2.5 * 16_000, abs=1600)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".flv"])
def test_a_cut_file_is_truncated_behind_the_cut_and_good_before(tmp_path, suffix):
    options = {"movflags": "+faststart"} if suffix in (".mp4", ".mov") else None
    path = record(tmp_path / f"x{suffix}", seconds=10.0, tone_hz=500.0, mux=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert probe(path).cut
    assert len(decode_audio(path, 0.0, 2.0, 16_000)) == 32_000
    assert len(frames_at(path, [0.5, 1.5])[0]) == 2
    assert reason_of(decode_audio, path, 3.5, 10.0, 16_000) == "truncated"
    assert reason_of(decode_audio, path, 8.0, 10.0, 16_000) == "truncated"
    assert reason_of(frames_at, path, [2.0, 5.0, 8.0]) == "truncated"
    assert reason_of(frames_at, path, [9.0]) == "truncated"


def remuxed(path, *sources, marked=(), **options):
    """The tracks of these files, side by side; `marked`: their dispositions."""
    with av.open(str(path), "w", **options) as out:
        opened = [av.open(str(source)) for source in sources]
        tracks = {stream: out.add_stream_from_template(stream) for source in opened for stream in source.streams}
        for track, disposition in zip(tracks.values(), marked, strict=False):
            track.disposition = disposition
        packets = [packet for source in opened for packet in source.demux() if packet.dts is not None]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            packet.stream = tracks[packet.stream]
            out.mux(packet)
        for source in opened:
            source.close()
    return path


def test_subtitles_or_a_second_sound_that_outlast_the_film_are_no_damage(tmp_path):
    film, comment, cues = record(tmp_path / "film.mkv"), tmp_path / "comment.mka", tmp_path / "cues.srt"
    record(tmp_path / "comment.m4a", seconds=5.0, video=False, tone_hz=200.0)
    remuxed(comment, tmp_path / "comment.m4a")
    cues.write_text("1\n00:00:01,000 --> 00:00:09,000\nto be continued\n")
    for other in (comment, cues):
        path = remuxed(tmp_path / "x.mkv", film, other)
        info = probe(path)
        assert not info.cut
        assert (info.audio_end_s, info.video_end_s) == pytest.approx((3.0, 3.0), abs=0.1)
        assert len(decode_audio(path, 0.0, 9.0, 16_000)) == pytest.approx(3.0 * 16_000, abs=1600)
    whole = remuxed(path, film, comment).read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert probe(path).cut


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_of_several_tracks_the_marked_ones_are_taken_as_players_do(tmp_path, suffix):
    film, other = (record(tmp_path / f"{at}{suffix}", flash_s=at, click_s=at) for at in (1.5, 0.5))
    none, chosen, for_the_blind = Disposition(0), Disposition.default, Disposition.visual_impaired
    for marks, sound_s, picture_s in (
        ((none, none, chosen, chosen), 1.5, 1.5),
        ((chosen, for_the_blind, none, none), 1.5, 0.5),
        ((chosen, chosen, none, none), 0.5, 0.5),
    ):
        path = remuxed(tmp_path / f"x{suffix}", other, film, marked=marks)
        assert click_at(decode_audio(path, 0.0, 3.0, 16_000), 16_000) == pytest.approx(sound_s, abs=0.03)
        assert brightness(frames_at(path, [picture_s + 0.05])[0][0]) > 220


def in_two_programmes(stream: bytes) -> bytes:
    """A transport stream of three tracks: the first becomes a programme of its own, the others a second one."""

    def section(pid, table, number, body):
        head = struct.pack(">BHHBBB", table, 0xB000 | len(body) + 9, number, 0xC1, 0, 0) + body
        crc = 0xFFFFFFFF
        for byte in head:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
        packet = struct.pack(">BHBB", 0x47, 0x4000 | pid, 0x10, 0) + head + struct.pack(">I", crc)
        return packet.ljust(188, b"\xff")

    def tracks(*kinds):
        return b"".join(struct.pack(">BHH", kind, 0xE000 | pid, 0xF000) for kind, pid in kinds)

    aac, h264 = 0x0F, 0x1B
    tables = section(0, 0, 1, struct.pack(">4H", 1, 0xF000, 2, 0xF001))
    tables += section(0x1000, 2, 1, struct.pack(">HH", 0xE100, 0xF000) + tracks((aac, 0x100)))
    tables += section(0x1001, 2, 2, struct.pack(">HH", 0xE101, 0xF000) + tracks((h264, 0x101), (aac, 0x102)))
    packets = [stream[at : at + 188] for at in range(0, len(stream), 188)]
    pids = [int.from_bytes(packet[1:3], "big") & 0x1FFF for packet in packets]
    return tables + b"".join(packet for packet, pid in zip(packets, pids, strict=True) if 0x100 <= pid < 0x1000)


def test_pictures_have_the_sound_of_their_own_programme(tmp_path):
    """A recording of a whole channel of digital television: a radio programme first."""
    radio, film = record(tmp_path / "radio.m4a", click_s=0.5), record(tmp_path / "film.mp4")
    path = remuxed(tmp_path / "x.ts", radio, film)
    path.write_bytes(in_two_programmes(path.read_bytes()))
    assert click_at(decode_audio(path, 0.0, 3.0, 16_000), 16_000) == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav", "pcm_s16le"])
def test_a_wav_whose_header_says_a_wrong_byte_rate_is_read_at_the_right_times(tmp_path, codec):
    """FFmpeg writes the bit rate that it was asked for into the header, whatever its ADPCM takes."""
    path, rate = tmp_path / "x.wav", 16_000
    wave = np.zeros(8 * rate, np.int16)
    wave[5 * rate : 5 * rate + 32] = 30_000
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.codec_context.bit_rate = 128_000
        size = stream.codec_context.frame_size or rate
        for first in range(0, len(wave), size):
            frame = av.AudioFrame.from_ndarray(wave[None, first : first + size].copy(), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
            resampled = av.AudioResampler(stream.format.name, "mono", rate).resample(frame)
            out.mux([packet for piece in resampled for packet in stream.encode(piece)])
        out.mux(stream.encode(None))
    info = probe(path)
    assert (info.cut, info.duration_s) == (False, pytest.approx(8.0, abs=0.1))
    for start in (0.0, 3.0, 4.5):
        assert start + click_at(decode_audio(path, start, 8.0, rate), rate) == pytest.approx(5.0, abs=0.01)


def test_a_cut_sound_file_is_truncated(tmp_path):
    path = record(tmp_path / "x.wav", seconds=4.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason_of(load_waveform, path, 16_000) == "truncated"


def test_damage_costs_only_the_windows_that_it_hits(tmp_path):
    path = record(tmp_path / "x.mp4", seconds=12.0, tone_hz=500.0, gop=20)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, float((p.pts or 0) * p.time_base)) for p in container.demux() if p.size]
    data = bytearray(path.read_bytes())
    for at, size, time in packets:
        if 5.0 <= time < 8.0:
            data[at : at + size] = b"\xff" * size
    path.write_bytes(bytes(data))
    assert reason_of(decode_audio, path, 5.0, 8.0, 16_000) == "corrupt"
    assert reason_of(frames_at, path, [5.5, 6.5, 7.5]) == "corrupt"
    for start in (0.0, 9.0):
        assert len(decode_audio(path, start, start + 3.0, 16_000)) == 48_000
        shown = frames_at(path, [start + 0.5, start + 2.5])[0]
        grey = [(64 + 32 * (start + t)) % 256 for t in (0.5, 2.5)]
        assert [brightness(jpeg) for jpeg in shown] == pytest.approx(grey, abs=8)


def test_a_window_that_is_mostly_silent_gap_is_refused(tmp_path):
    path = record(tmp_path / "late.mkv", seconds=6.0, audio_starts_s=4.0, audio_seconds=2.0, tone_hz=400.0)
    assert reason_of(decode_audio, path, 0.0, 6.0, 16_000) == "gap"
    assert len(decode_audio(path, 3.5, 6.0, 16_000)) == 40_000


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_picture_is_turned_back(tmp_path, degrees):
    """The player turns the stored picture counter-clockwise by the degrees of the display matrix: so do we."""
    path = record(tmp_path / "x.mp4", rotation=degrees)
    upright = np.rot90(pictures(Recording())[10], k=degrees // 90)
    shown = np.asarray(Image.open(io.BytesIO(frames_at(path, [0.52])[0][0])), np.float64)
    assert shown.shape == upright.shape
    assert np.abs(shown - upright).mean() < 8


@pytest.mark.parametrize(
    ("matrix", "shown_as"),
    [
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((1, 0, 0, -1), lambda x: x[::-1]),
        ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda x: x[::-1, ::-1].swapaxes(0, 1)),
        ((0, 0, 0, 0), lambda x: x),
        ((1, 0, 0, 0), lambda x: x),
    ],
)
def test_a_mirrored_picture_is_mirrored_back_and_a_matrix_of_no_use_is_none(tmp_path, matrix, shown_as):
    """(x, y) is shown at (a x + c y, b x + d y): ISO 14496-12, 6.2.2."""
    path = record(tmp_path / "x.mp4")
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (one << 16 for one in matrix)
    data = path.read_bytes()
    at = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + len(plain) :])
    upright = shown_as(pictures(Recording())[10].astype(float))
    shown = np.asarray(Image.open(io.BytesIO(frames_at(path, [0.52])[0][0])), np.float64)
    assert shown.shape == upright.shape
    assert np.abs(shown - upright).mean() < 8


@pytest.mark.parametrize("suffix", [".ts", ".mpg", ".mkv", ".webm", ".flac"])
def test_recordings_one_behind_the_other_are_not_mixed(tmp_path, suffix):
    """Their clock starts again: sound of one would stand beside pictures of the other."""
    one, two = (record(tmp_path / f"{seed}{suffix}", seed=seed, tone_hz=400.0 * (seed + 1)) for seed in (0, 1))
    assert probe(one).duration_s == pytest.approx(3.0, abs=0.3)
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(MediaError, match="clock starts again"):
        probe(joined)


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_file_whose_clock_does_not_begin_at_zero_is_whole(tmp_path, suffix):
    path, late = record(tmp_path / f"x{suffix}"), tmp_path / f"late{suffix}"
    with av.open(str(path)) as source, av.open(str(late), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            ticks = round(100_000 / packet.time_base)  # more than a day: no film is that long
            packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, streams[packet.stream.index]
            target.mux(packet)
    info = probe(late)
    assert not info.cut
    assert info.duration_s == pytest.approx(probe(path).duration_s, abs=0.05)
    assert click_at(decode_audio(late, 0.0, 3.0, 16_000), 16_000) == pytest.approx(1.5, abs=0.01)


def test_an_mp4_without_tracks_is_a_reject(tmp_path):
    path = tmp_path / "x.mp4"
    boxes = [(b"ftyp", b"isom\0\0\2\0isom"), (b"moov", b""), (b"mdat", bytes(100))]
    path.write_bytes(b"".join(struct.pack(">I", len(body) + 8) + name + body for name, body in boxes))
    assert reason_of(probe, path) in ("corrupt", "truncated", "not_media")


def test_pixels_come_out_square(tmp_path):
    path = record(tmp_path / "x.mp4", width=72, height=64, pixel_aspect=(4, 3))
    shown = Image.open(io.BytesIO(frames_at(path, [0.5])[0][0]))
    assert shown.size == (96, 64)


def test_a_very_long_picture_loses_its_ends(tmp_path):
    path = record(tmp_path / "x.mp4", width=640, height=32)
    assert Image.open(io.BytesIO(frames_at(path, [0.5], 32)[0][0])).size == (128, 32)


def test_a_still_that_stays_is_no_damage(tmp_path):
    """A slide show: one picture every 4 s."""
    path = tmp_path / "slides.mkv"
    record(path, seconds=1.0, fps=5, video_times_s=[0.0, 4.0, 8.0, 12.0, 12.2], audio_seconds=12.0, tone_hz=300.0)
    assert frames_at(path, [0.5, 3.5, 7.9, 11.9])[1] == pytest.approx([0.0, 0.0, 4.0, 8.0], abs=0.01)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"ffconcat version 1.0\nfile 'good.mp4'\n", "not_media"),
        (b"1\n00:00:01,000 --> 00:00:02,000\nhello\n", "not_media"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://example.com/a.ts\n", "not_media"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "unsupported"),
        (b"\0" * 4096, "not_media"),
    ],
)
def test_what_is_no_recording_is_refused_whatever_its_name(tmp_path, content, reason):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    assert reason_of(probe, path) == reason


def test_a_picture_comes_upright_and_whole_or_with_a_reason(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways: turn clockwise
    Image.fromarray(colours).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_image(tmp_path / "turned.png"), np.rot90(colours, k=-1))
    jpeg = io.BytesIO()
    Image.fromarray(np.tile(colours, (40, 40, 1))).save(jpeg, "JPEG")
    assert reason_of(load_image, jpeg.getvalue()[: len(jpeg.getvalue()) // 2]) == "corrupt"
    assert reason_of(load_image, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not_media"
    assert reason_of(load_image, b"") == "not_media"


def test_a_track_that_begins_in_the_middle_ends_nothing(tmp_path):
    path = record(tmp_path / "x.flv", tone_hz=300.0)
    data = bytearray(path.read_bytes())
    tag, pictures_seen = 13, 0
    while pictures_seen < 30:
        pictures_seen += data[tag] == 9
        here, tag = tag, tag + 11 + int.from_bytes(data[tag + 1 : tag + 4], "big") + 4
    data[here] = 18  # the thirtieth picture poses as text: a track that the header did not announce
    path.write_bytes(bytes(data))
    assert probe(path).audio_end_s == pytest.approx(3.0, abs=0.05)
    assert len(decode_audio(path, 0.0, 3.0, 16_000)) == 48_000
    assert len(frames_at(path, [0.5, 2.5])[0]) == 2


@pytest.mark.parametrize("suffix", VIDEOS)
def test_damage_of_any_kind_has_a_reason(tmp_path, suffix):
    """Changed bytes in the header, the data or the index, missing blocks, cuts: sound and frames, or a MediaError."""
    path = record(tmp_path / f"x{suffix}", seconds=2.0, tone_hz=300.0)
    whole, rng, reasons = path.read_bytes(), np.random.default_rng(len(suffix)), set()
    for kind in ("header", "data", "index", "block", "cut") * 2:
        data = bytearray(whole)
        low, high = {"header": (0, 1500), "index": (len(data) - 1500, len(data))}.get(kind, (0, len(data)))
        if kind == "block":
            first = rng.integers(len(data))
            del data[first : first + rng.integers(1, 4000)]
        elif kind == "cut":
            del data[rng.integers(1, len(data)) :]
        else:
            for at in rng.integers(low, high, 12):
                data[at] = rng.integers(256)
        path.write_bytes(bytes(data))
        try:
            with open_media(path) as container:
                sound = read_audio(container, path, 0.2, 1.8, 16_000)
                frames, _ = read_frames(container, path, [0.5, 1.5], 32, 90)
        except MediaError as error:
            reasons.add(error.reason)
            continue
        assert np.isfinite(sound).all()
        assert len(frames) == 2
    assert reasons <= set(REASONS)
