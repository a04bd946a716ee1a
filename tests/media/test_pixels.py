"""What a frame looks like: colours, one moment a picture, upright, nothing hidden by transparency."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from equiav.errors import MediaError
from equiav.media.decode import read_frames
from equiav.media.pixels import frame_jpeg
from equiav.media.probe import open_media

RED_BT709 = (63, 102, 240)  # Y, Cb, Cr
WIDE = [(1280, 536), (1920, 800), (2560, 1080), (1280, 720), (720, 1280), (1080, 1920), (960, 720), (640, 640)]
STANDARD = [(720, 576), (1024, 576), (640, 480), (720, 480), (352, 288), (64, 64)]


def frame_of(size, planes, matrix=2):
    """A frame of one colour in BT.709's or another matrix."""
    width, height = size
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, planes, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace = matrix
    return frame


def jpeg_of(frame, side=64, codec="h264"):
    return frame_jpeg(VideoReformatter(), frame, side, 95, 1.0, codec)


def pixels_of(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def shown_at(path, times_s, side=64):
    with open_media(path) as container:
        jpegs, _ = read_frames(container, path, list(times_s), side, 95)
    return [pixels_of(jpeg) for jpeg in jpegs]


def encoded(codec, pictures, pix_fmt="yuv420p", **options):
    """The packets of pictures (H, W, C), and their stream's settings."""
    out = io.BytesIO()
    with av.open(out, "w", format="mov" if codec in ("png", "prores_ks", "qtrle") else "matroska") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    out.seek(0)
    return out


def write_video(path, codec, *parts):
    """A video of these packets' streams, one behind the other in one track."""
    at = 0
    with av.open(str(path), "w") as out:
        track = None
        for part in parts:
            with av.open(part) as source:
                if track is None:
                    track = out.add_stream_from_template(source.streams.video[0])
                count = 0
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = round((at + count) / 25 / packet.time_base)
                        packet.stream, count = track, count + 1
                        out.mux(packet)
                at += count
    return path


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "rgb24", "gray", "yuv420p10le", "rgba"]
)
@pytest.mark.parametrize("matrix", [1, 5, 6])
def test_a_progressive_sdr_frame_is_what_the_scaler_makes_of_it_bit_for_bit(pix_fmt, matrix):
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt, dst_colorspace="ITU709")
    frame.colorspace, frame.color_trc, frame.color_primaries = matrix, matrix, matrix
    scaled = VideoReformatter().reformat(frame, 85, 64, "rgb24", interpolation="AREA", threads=1)
    expected = io.BytesIO()
    Image.fromarray(scaled.to_ndarray()).save(expected, "JPEG", quality=95)
    assert jpeg_of(frame) == expected.getvalue()


@pytest.mark.parametrize("size", WIDE + STANDARD, ids=str)
def test_untagged_colours_are_those_of_the_size_as_players_take_them(size):
    """mpv and libplacebo: BT.709 where it is at least 1280 wide or more than 576 high."""
    reddest = pixels_of(jpeg_of(frame_of(size, RED_BT709)))[5, 5, 0]
    assert reddest == pytest.approx(254 if size in WIDE else 231, abs=3)


@pytest.mark.parametrize(("said", "red"), [(1, 254), (5, 231), (6, 231), (3, 254), (200, 254)])
def test_tagged_colours_are_those_of_the_tag_and_a_reserved_tag_is_none(said, red):
    assert pixels_of(jpeg_of(frame_of((1280, 720), RED_BT709, said)))[5, 5, 0] == pytest.approx(red, abs=3)


@pytest.mark.parametrize(("said", "name"), [(8, "YCgCo"), (14, "ICtCp")])
def test_a_colour_matrix_that_is_not_converted_is_named(said, name):
    with pytest.raises(MediaError, match=name) as error:
        jpeg_of(frame_of((64, 64), RED_BT709, said))
    assert error.value.reason == "unsupported"


@pytest.mark.parametrize(
    ("lines", "said", "matrix"), [(64, 2, "ITU601"), (720, 2, "ITU709"), (720, 6, "ITU601"), (64, 1, "ITU709")]
)
def test_a_videos_colours_are_read_as_they_were_written(tmp_path, lines, said, matrix):
    """Without a tag (2), SD pictures are BT.601 and HD ones BT.709; many telephones tag 601 (6)."""
    colour = np.array([30, 180, 60], np.uint8)
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=5, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, lines, "yuv420p"
        stream.codec_context.colorspace = said
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.broadcast_to(colour, (lines, 64, 3)).copy(), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
            frame.colorspace = said
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert shown_at(path, [0.5])[0].reshape(-1, 3).mean(axis=0) == pytest.approx(colour, abs=4)


def fields(count, size=(96, 128), first=0):
    """Frames (H, W, 3) of two fields; the n-th field of all is grey 20 + 10 n."""
    frames = np.empty((count, *size, 3), np.uint8)
    for i in range(count):
        frames[i, 0::2], frames[i, 1::2] = (20 + 10 * (first + 2 * i + n) for n in (0, 1))
    return list(frames)


INTERLACED = {"flags": "+ildct+ilme"}


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("libx264", "yuv420p", ".mp4"),
        ("mpeg2video", "yuv420p", ".mkv"),
        ("mpeg2video", "yuv422p", ".mkv"),
        ("mpeg4", "yuv420p", ".mp4"),
        ("prores_ks", "yuv422p10le", ".mov"),
    ],
)
@pytest.mark.parametrize("side", [32, 96])
def test_no_picture_of_interlaced_video_holds_two_moments(tmp_path, codec, pix_fmt, suffix, side):
    options = INTERLACED | ({"bf": "0"} if codec != "prores_ks" else {})
    path = write_video(tmp_path / f"x{suffix}", codec, encoded(codec, fields(10), pix_fmt, **options))
    for number, picture in zip((1, 4, 8), shown_at(path, [n / 25 + 0.01 for n in (1, 4, 8)], side), strict=True):
        assert picture.shape == (side, round(side * 4 / 3), 3)
        assert np.ptp(picture) <= 3
        moment = (picture.mean() - 20) / 10
        assert abs(moment - round(moment)) < 0.4
        assert round(moment) in (2 * number, 2 * number + 1)


def test_in_a_stream_of_both_kinds_each_frame_is_read_by_its_own_flag(tmp_path):
    """Television: a film, whose frames are whole, and between them what a studio camera took."""
    whole = np.zeros((96, 128, 3), np.uint8)
    whole[::2] = 200  # every other row, so half the rows would be another picture
    film = encoded("mpeg2video", [whole] * 10, bf="0", qscale="2")
    studio = encoded("mpeg2video", fields(10), bf="0", **INTERLACED)
    path = write_video(tmp_path / "x.mkv", "mpeg2video", film, studio)
    of_film, of_studio = shown_at(path, [0.21, 0.61], side=96)
    assert np.abs(np.diff(of_film[:, 10, 0])).min() > 120
    assert np.ptp(of_studio) <= 3


def test_a_png_that_is_stored_interlaced_keeps_all_its_rows(tmp_path):
    """Adam7 stores a picture coarse first; FFmpeg flags it as if it were made of fields."""
    rows = np.zeros((48, 64, 3), np.uint8)
    rows[::2] = 255
    assert (pixels_of(jpeg_of(interlaced(rows), 48, "png"))[::2] > 200).all()
    assert np.ptp(pixels_of(jpeg_of(interlaced(rows), 48, "h264"))) <= 3


def interlaced(picture):
    """A frame of this picture, flagged as interlaced."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=picture.shape[1], height=picture.shape[0], format="rgb24", time_base=Fraction(1, 25)
    )
    flag, sink = graph.add("setfield", mode="tff"), graph.add("buffersink")
    graph.link_nodes(source, flag, sink).configure()
    graph.vpush(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    frame = graph.vpull()
    assert frame.interlaced_frame
    return frame


def test_an_interlaced_frame_of_an_odd_height_is_read_too():
    assert pixels_of(jpeg_of(interlaced(np.full((49, 64, 3), 90, np.uint8)), 49)).shape == (49, 64, 3)


@pytest.mark.parametrize("suffix", [".mov", ".avi", ".mkv"])
def test_motion_jpeg_of_camera_pictures_is_read_upright(tmp_path, suffix):
    """Each picture is a JPEG with EXIF, whose orientation counts; FFmpeg hands EXIF out, PyAV 18 does not know it."""
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :32] = 255
    for orientation in range(9):
        exif, jpeg = Image.Exif(), io.BytesIO()
        exif[0x010F] = "a camera"
        if orientation:
            exif[0x0112] = orientation
        Image.fromarray(stored).save(jpeg, "JPEG", quality=95, exif=exif)
        path = tmp_path / f"{orientation}{suffix}"
        with av.open(str(path), "w") as out:
            stream = out.add_stream("mjpeg", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            for i in range(10):
                packet = av.Packet(jpeg.getvalue())
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 10), i, i
                packet.duration, packet.is_keyframe = 1, True
                out.mux(packet)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(jpeg))).astype(int)
        shown = shown_at(path, [0.5])[0]
        assert shown.shape == upright.shape
        assert np.abs(shown - upright).mean() < 3


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("qtrle", "argb", ".mov"),
        ("png", "rgba", ".mov"),
        ("prores_ks", "yuva444p10le", ".mov"),
        ("ffv1", "yuva420p", ".mkv"),
    ],
)
@pytest.mark.parametrize(("ink", "ground"), [(10, 255), (240, 0)])
def test_what_lies_on_transparent_ground_in_a_video_can_be_seen(tmp_path, codec, pix_fmt, suffix, ink, ground):
    picture = np.zeros((48, 64, 4), np.uint8)
    picture[..., :3] = ink  # hidden pixels have the colour of the visible ones
    picture[12:36, 16:48, 3] = 255
    path = write_video(tmp_path / f"x{suffix}", codec, encoded(codec, [picture] * 5, pix_fmt))
    shown = shown_at(path, [0.1], 24)[0]
    assert shown[12, 16] == pytest.approx(ink, abs=8)
    assert shown[2, 2] == pytest.approx(ground, abs=3)


def test_hidden_colours_do_not_run_into_visible_ones():
    """Thin white lines over hidden black ones, made four times as small: as bright as a quarter of white on black."""
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[::4] = 255
    frame = av.VideoFrame.from_ndarray(picture, format="rgba")
    assert pixels_of(jpeg_of(frame, 16, "png")).mean() == pytest.approx(255 / 4, abs=4)
