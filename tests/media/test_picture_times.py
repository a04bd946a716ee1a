"""When pictures are shown: in their order where the container knows none, as long as it says, whatever is left out."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from equiav.errors import MediaError
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media import frames
from equiav.media.decode import load_image, read_frames
from equiav.media.probe import open_media, probe
from films import grey, movie, slides
from samples import TINY, tone
from tapes import brightness

RATE = 25


def numbers_at(path, times_s, info=None):
    """Which pictures are shown at these times."""
    with open_media(path) as container:
        jpegs, _ = read_frames(container, path, list(times_s), 48, 95, info)
    return np.array([(brightness(jpeg) - 20) / 2 for jpeg in jpegs])


@pytest.mark.parametrize(
    ("suffix", "codec", "late"),
    [
        (".avi", "libx264", 0),
        (".avi", "mpeg4", 1),  # FFmpeg starts the clock with the first packet, one frame before the first picture
        (".asf", "libx264", 0),
        (".asf", "mpeg2video", 0),
        (".asf", "mpeg1video", 0),
        (".mxf", "libx264", 0),
        (".mxf", "mpeg2video", 0),
        (".vob", "mpeg2video", 0),
        (".mpg", "mpeg1video", 0),
        (".mpg", "libx265", 0),
        (".h264", "libx264", 0),
        (".hevc", "libx265", 0),
        (".m2v", "mpeg2video", 0),
        (".m1v", "mpeg1video", 0),
        (".mjpeg", "mjpeg", 0),
    ],
)
def test_pictures_come_in_their_order_whatever_the_container_knows_of_it(tmp_path, suffix, codec, late):
    """B frames, read whole and in windows: of several groups of pictures, from each of which seeking may begin."""
    path = movie(tmp_path / f"x{suffix}", codec)
    info = probe(path)
    assert info.video_end_s == pytest.approx(4.0, abs=0.15)
    for first, last in ((3, 97), (11, 17), (24, 30), (26, 32), (49, 55), (51, 57), (74, 80), (76, 82)):
        asked = np.arange(first, last)
        assert numbers_at(path, (asked + 0.5) / RATE, info) == pytest.approx(asked - late, abs=0.8)


@pytest.mark.parametrize(("suffix", "codec"), [(".h264", "libx264"), (".265", "libx265"), (".m2v", "mpeg2video")])
def test_a_bare_stream_is_timed_by_its_frame_rate(tmp_path, suffix, codec):
    """It has no times at all: a window of a list is one of counted pictures."""
    kind = {"libx264": "h264", "libx265": "hevc"}.get(codec)
    (tmp_path / "videos").mkdir()
    path = movie(tmp_path / "videos" / f"pi{suffix}", codec, count=100, rate=50, container=kind)
    info = probe(path)
    assert (info.video_end_s, info.audio_end_s, info.fps) == (pytest.approx(2.0), None, 50.0)
    features = TINY.model_copy(update={"clip_s": 0.5, "hop_s": 0.5, "frames_per_clip": 5})
    (tmp_path / "list.csv").write_text(f"path,start_s,end_s\nvideos/pi{suffix},0.6,1.1\n")
    ingest(tmp_path / "list.csv", tmp_path / "L", features, workers=1)
    (row,) = Library(tmp_path / "L")._clips.to_table().to_pylist()
    assert (row["start_s"], row["end_s"], row["status"]) == (0.6, 1.1, "no_audio")
    assert row["frame_times_s"] == pytest.approx([0.64, 0.74, 0.84, 0.94, 1.04], abs=1e-6)
    assert [(brightness(jpeg) - 20) / 2 for jpeg in row["frames"]] == pytest.approx([32, 37, 42, 47, 52], abs=0.8)
    ingest(tmp_path / "videos", tmp_path / "folder", features, workers=1)
    assert len(Library(tmp_path / "folder")._clips.to_table()) == 4


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "libx264"), (".mov", "mpeg4"), (".mkv", "libx264"), (".webm", "libvpx"), (".avi", "mpeg4")],
)
@pytest.mark.parametrize("sound_s", [12.0, None])
def test_a_picture_is_shown_for_as_long_as_its_packet_says_the_last_one_too(tmp_path, suffix, codec, sound_s):
    path = slides(tmp_path / f"x{suffix}", [0.0, 0.05, 0.1, 4.0, 4.05], 12.0, codec, sound_s)
    info = probe(path)
    assert (info.cut, info.video_end_s) == (False, pytest.approx(12.0, abs=0.1))
    assert numbers_at(path, [0.12, 1.0, 3.9, 4.07, 7.0, 11.9], info) == pytest.approx([20, 20, 20, 40, 40, 40], abs=1)
    assert numbers_at(path, [9.0, 10.0, 11.0], info) == pytest.approx(40, abs=1)
    assert load_image(path).mean() == pytest.approx(100, abs=3)
    with pytest.raises(MediaError, match=r"truncated.*no pictures after 12\.0"):
        numbers_at(path, [15.0], info)


def test_the_windows_of_a_picture_that_stays_are_still(tmp_path):
    """Slides: one that moves for a second, then one that stays to the end."""
    path = slides(tmp_path / "x.mp4", [i / 20 for i in range(20)], 4.0, sound_s=4.0)
    features = TINY.model_copy(update={"clip_s": 1.0, "hop_s": 1.0, "frames_per_clip": 4})
    report = ingest(path, tmp_path / "L", features, workers=1)
    rows = sorted(Library(tmp_path / "L")._clips.to_table().to_pylist(), key=lambda row: row["start_s"])
    assert [row["status"] for row in rows] == ["ok", "still", "still", "still"]
    assert rows[3]["frame_times_s"] == pytest.approx([0.95] * 4)
    assert not report.rejects


def patched(path, box, *fields):
    """An MP4 with other values in the first box of this kind: (offset behind its name, format, value)."""
    data = bytearray(path.read_bytes())
    at = data.index(box) + 4
    for offset, form, value in fields:
        struct.pack_into(form, data, at + offset, value)
    path.write_bytes(data)


def test_a_picture_that_stays_does_so_behind_an_edit_list_too(tmp_path):
    """The edit list leaves out the first two seconds; FFmpeg then gives the last packet the length of any."""
    path = slides(tmp_path / "x.mp4", [i / 20 for i in range(80)], 12.0, sound_s=12.0)
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
    patched(path, b"elst", (8, ">I", 10_000), (12, ">i", round(2 / tick)))
    info = probe(path)
    assert (info.cut, info.video_end_s, info.audio_end_s) == (False, pytest.approx(10.0), pytest.approx(12.0, abs=0.1))
    # pictures 40, 60 and 79
    assert numbers_at(path, [0.02, 1.0, 9.9]) == pytest.approx([10 * n % 110 for n in (40, 60, 79)], abs=1)
    assert len(set(numbers_at(path, [1.97, 5.0, 9.9]))) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_slides_that_are_cut_are_truncated_where_they_are(tmp_path, suffix):
    """The picture before the cut is good for as long as its packet says, what comes behind is missing."""
    path = slides(tmp_path / f"x{suffix}", [0.0, 4.0, 8.0, 12.0], 16.0, "mpeg4", 16.0, movflags="faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    info = probe(path)
    assert info.cut
    with pytest.raises(MediaError, match="truncated"):
        numbers_at(path, [14.0, 15.0], info)
    assert numbers_at(path, [1.0, 5.0], info) == pytest.approx([0, 10], abs=1)


def test_a_track_that_is_cut_behind_a_whole_one_is_truncated(tmp_path):
    """An MP4 with all its sound first: what is cut off are pictures alone, and nothing of them stays."""
    whole = slides(tmp_path / "whole.mp4", [i / 20 for i in range(200)], 10.0, sound_s=10.0)
    path, options = tmp_path / "x.mp4", {"movflags": "faststart", "max_interleave_delta": "1"}
    with av.open(str(whole)) as source, av.open(str(path), "w", options=options) as out:
        tracks = {stream: out.add_stream_from_template(stream) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.size]
        for kind in ("audio", "video"):
            for packet in packets:
                if packet.stream.type == kind:
                    packet.stream = tracks[packet.stream]
                    out.mux_one(packet)
    assert not probe(path).cut
    path.write_bytes(path.read_bytes()[:-1500])
    info = probe(path)
    assert info.cut
    assert numbers_at(path, [0.02], info) == pytest.approx(0, abs=1)
    with pytest.raises(MediaError, match="truncated"):
        numbers_at(path, [9.0, 9.9], info)


@pytest.mark.parametrize("picked", [True, False])
def test_empty_packets_say_that_the_picture_stays(tmp_path, monkeypatch, picked):
    """As Theora writes them for slides: to a decoder, an empty packet is the end of the track."""
    if not picked:
        monkeypatch.setattr(frames, "_pick", lambda *_: None)
    for dropped, shown in ((range(5, 150), [2, 4, 4, 155]), (range(5, 160), [2, 4, 4, 4])):
        path = slides(tmp_path / "x.nut", [i / 20 for i in range(160)], 8.0, "mpeg4", dropped=dropped)
        with av.open(str(path)) as container:
            assert sum(packet.size == 0 for packet in container.demux() if packet.pts is not None) == len(dropped)
        info = probe(path)
        assert (info.cut, info.video_end_s) == (False, pytest.approx(8.0, abs=0.06))
        for times in ([0.12, 1.0, 7.2, 7.77], [7.77]):
            assert numbers_at(path, times, info) == pytest.approx([10 * n % 110 for n in shown[-len(times) :]], abs=1)


def test_an_animation_stays_on_its_last_picture(tmp_path):
    first, *others = [Image.fromarray(grey(10 * i)) for i in range(3)]
    first.save(tmp_path / "x.gif", save_all=True, append_images=others, duration=[100, 100, 5000])
    assert probe(tmp_path / "x.gif").video_end_s == pytest.approx(5.2)
    assert numbers_at(tmp_path / "x.gif", [0.05, 0.15, 2.0, 5.0]) == pytest.approx([0, 10, 20, 20], abs=1)


def test_the_last_sound_is_over_when_its_samples_are(tmp_path):
    """A packet of sound that says that it lasts for seconds: no sound is missing then."""
    path = slides(tmp_path / "x.mp4", [i / 20 for i in range(120)], 6.0)
    with av.open(str(path)) as source, av.open(str(tmp_path / "y.mp4"), "w") as out:
        video, audio = out.add_stream_from_template(source.streams.video[0]), out.add_stream("aac", rate=16_000)
        audio.layout = "mono"
        frame = av.AudioFrame.from_ndarray(tone(2.0)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        packets = audio.encode(frame) + audio.encode(None)
        packets[-1].duration = 4 * 16_000
        for packet in source.demux():
            if packet.size:
                packet.stream = video
                packets.append(packet)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    info = probe(tmp_path / "y.mp4")
    assert (info.cut, info.video_end_s) == (False, pytest.approx(6.0))
    assert info.audio_end_s == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("suffix", [".wmv", ".mkv", ".mp4"])
@pytest.mark.parametrize("first_s", [0.25, 0.5])
def test_a_picture_that_comes_a_little_behind_the_sound_stands_for_what_is_before_it(tmp_path, suffix, first_s):
    path = slides(tmp_path / f"x{suffix}", [first_s + i / 20 for i in range(20)], first_s + 1, "mpeg4", sound_s=3.0)
    with open_media(path) as container:
        _, times = read_frames(container, path, [0.05], 48, 90, probe(path))
    assert times == pytest.approx([first_s], abs=0.08)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_pictures_that_begin_long_after_the_window_are_a_gap(tmp_path, suffix):
    path = slides(tmp_path / f"x{suffix}", [1.5 + i / 20 for i in range(20)], 2.5, "mpeg4", sound_s=3.0)
    with open_media(path) as container, pytest.raises(MediaError, match="gap"):
        read_frames(container, path, [0.05], 48, 90, probe(path))
