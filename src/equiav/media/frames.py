"""Pictures of a media file on its clock, and picture files:  path, times → JPEG frames;  path → RGB (H, W, 3).

Only what is needed is decoded: the packets of the asked span are read first, so the packet that is shown at each time
is known, decoding begins at the key frame before it, and pictures that no other picture is made from are left out.
Where that gives anything but the very frame that was asked for, the track is played as a player does.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Colorspace, VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from equiav.errors import MediaError
from equiav.media.probe import (
    MARGINS_S,
    MAX_PIXELS,
    Damage,
    MediaInfo,
    decoded,
    describe,
    open_media,
    packets,
    read_head,
    seek,
    start_of,
    video_stream,
)

SEEK_AHEAD_S = 2.0  # nearer than this, decoding on is cheaper than seeking
ROUNDING_S = 1e-3  # containers round time stamps to milliseconds
HD_LINES = 720  # pictures of this height and more are in BT.709 colours unless they say otherwise
UNTIMED = frozenset({"h264", "hevc"})  # codecs whose order of display FFmpeg does not work out without time stamps
UNSAID = 2  # FFmpeg's number of "no matrix was said"
MAX_ASPECT = 4.0  # of a stored frame; the sides of a longer one are cut off
PICTURE_FORMATS = frozenset({"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"})
MATRIX = struct.Struct("=9i")  # as FFmpeg gives a display matrix
MAX_HELD = 256 * 2**20  # bytes of packets that are held to plan with
# Decoders that take one packet at a time and can leave out a picture that no other one refers to
SKIPPING = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
STILL = 3  # grey levels of 255: the blocks of a still picture change by less, through compression alone


def read_frames(
    container: InputContainer,
    path: Path,
    times_s: list[float],
    short_side: int,
    quality: int,
    info: MediaInfo | None = None,
    *,
    keys_s: tuple[float, float] | None = None,
) -> tuple[list[bytes], list[float]]:
    """The frames shown at `times_s` (ascending), as JPEG with at most `short_side` pixels on the short side.

    Returns the pictures, upright and with square pixels, and the times at which each began to show.

    Args:
        keys_s: of this span the key frames nearest to `times_s`, if it has any: they need no other picture decoded.

    Raises:
        MediaError: no_video, corrupt, truncated.
    """
    stream = video_stream(container)
    if stream is None:
        raise MediaError("no_video", f"{path.name} has no picture track")
    info = info or describe(container, path)
    if not stream.codec_context.is_open:
        stream.thread_type = "NONE"
    played = _pick(container, stream, times_s, keys_s) or _play(container, stream, times_s)
    if len(played.shown) < len(times_s):
        reason = "corrupt" if played.damage.packets and not info.cut else "truncated"
        raise MediaError(reason, f"{path.name}: no picture could be decoded at {times_s[len(played.shown)]:.2f} s")
    times = [time_s for time_s, _ in played.shown]
    if times[0] > times_s[-1] + 2.0 / (info.fps or 1.0):
        raise MediaError("gap", f"{path.name}: no picture before {times[0]:.2f} s, asked for {times_s[-1]:.2f} s")
    # a picture that stays for long is no fault of the file, unless packets are broken or missing after it
    if times_s[-1] - times[-1] > (0.0 if info.cut else 1.0) + 2.0 / (info.fps or 1.0):
        if played.damage.packets and not (info.cut and played.ended):
            raise MediaError("corrupt", f"{path.name}: {played.damage.packets} packets of pictures cannot be decoded")
        if played.ended:
            raise MediaError("truncated", f"{path.name}: no pictures after {times[-1]:.2f} s")
    # some containers leave it to the decoder to say
    pixel = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    scaler = VideoReformatter()
    jpegs = [_jpeg(scaler, frame, short_side, quality, pixel) for _, frame in played.shown]
    return jpegs, [max(time_s, 0.0) for time_s in times]


@dataclass
class _Played:
    shown: list[tuple[float, av.VideoFrame]]  # what is on the screen at each asked time, and since when
    damage: Damage
    ended: bool  # the track was read to its end


@dataclass
class _Held:
    """A packet, and when the picture in it begins to show."""

    packet: av.Packet
    time_s: float


def _pick(
    container: InputContainer, stream: av.VideoStream, times_s: list[float], keys_s: tuple[float, float] | None
) -> _Played | None:
    """Decode as few packets as give exactly the pictures shown at `times_s`; None where that is not certain."""
    if _is_untimed(container, stream):
        return None
    held, whole = _hold(container, stream, times_s)
    shown = [entry for entry in held if not entry.packet.is_discard]
    if not shown or len({entry.packet.pts for entry in shown}) < len(shown):
        return None
    shown.sort(key=lambda entry: entry.time_s)
    marks = [entry.time_s for entry in shown]
    # before the first frame of a track, players show that frame
    numbers = np.maximum(np.searchsorted(marks, np.array(times_s) + ROUNDING_S, side="right") - 1, 0)
    first_s, end_s = keys_s or (0.0, 0.0)
    keys = [i for i, entry in enumerate(shown) if entry.packet.is_keyframe and first_s <= entry.time_s < end_s]
    if keys:
        numbers = np.array([min(keys, key=lambda i: abs(marks[i] - time_s)) for time_s in times_s])
        held = [shown[i] for i in keys]
    wanted = {shown[number].packet.pts: shown[number].time_s for number in numbers}
    try:
        frames = _decode_wanted(stream, held, wanted)
    except av.error.FFmpegError:
        return None
    if frames is None:
        return None
    ended = whole and not keys and marks[-1] <= times_s[-1]
    return _Played([(marks[n], frames[shown[n].packet.pts]) for n in numbers], Damage(), ended)


def _hold(container: InputContainer, stream: av.VideoStream, times_s: list[float]) -> tuple[list[_Held], bool]:
    """The packets from the key frame shown at or before the first time up to the picture after the last one.

    And whether they are all that the track still has.
    """
    zero = start_of(container)
    for margin_s in (0.0, *MARGINS_S):
        from_s = max(times_s[0] - margin_s, 0.0)
        seek(container, zero + from_s)
        held, size, ended = list[_Held](), 0, True
        try:
            for packet in packets(container, stream):
                if packet.size == 0:
                    continue  # the end
                size += packet.size
                if packet.pts is None or packet.dts is None or packet.is_corrupt or size > MAX_HELD:
                    return [], False
                if held or packet.is_keyframe:
                    held.append(_Held(packet, float(packet.pts * packet.time_base) - zero))
                # what comes is decoded later, so it is shown later
                if held and float(packet.dts * packet.time_base) - zero > times_s[-1] + ROUNDING_S:
                    ended = False
                    break
        except av.error.FFmpegError:
            return [], False
        if held and (held[0].time_s <= times_s[0] + ROUNDING_S or from_s == 0):
            return held, ended
    return [], False


def _decode_wanted(
    stream: av.VideoStream, held: list[_Held], wanted: dict[int | None, float]
) -> dict[int | None, av.VideoFrame] | None:
    """Frames by time stamp; None if one did not come out."""
    decoder, frames, at = stream.codec_context, dict[int | None, av.VideoFrame](), 0
    keys = [(entry.time_s, i) for i, entry in enumerate(held) if entry.packet.is_keyframe]
    skip = decoder.name in SKIPPING
    decoder.flush_buffers()
    try:
        for stamp, time_s in sorted(wanted.items(), key=lambda item: item[1]):
            start = max((i for key_s, i in keys if key_s <= time_s), default=0)
            if start > at and stamp not in frames:
                decoder.flush_buffers()
                at = start
            while stamp not in frames and at < len(held):
                packet = held[at].packet
                decoder.skip_frame = "NONREF" if skip and packet.pts not in wanted else "DEFAULT"
                frames |= {frame.pts: frame for frame in packet.decode() if frame.pts in wanted}
                at += 1
            if stamp not in frames:
                frames |= {frame.pts: frame for frame in decoder.decode(None) if frame.pts in wanted}
                decoder.flush_buffers()
    finally:
        decoder.skip_frame = "DEFAULT"
        decoder.flush_buffers()
    return frames if len(frames) == len(wanted) else None


def _play(container: InputContainer, stream: av.VideoStream, times_s: list[float]) -> _Played:
    """Decode from the key frame before each time on; near times are reached by decoding, far ones by seeking."""
    played = _Played([], Damage(), ended=False)
    frames: Iterator[tuple[float, av.VideoFrame]] = iter(())
    current: tuple[float, av.VideoFrame] | None = None
    ahead: tuple[float, av.VideoFrame] | None = None
    for time_s in times_s:
        if not played.ended and (ahead is None or time_s - ahead[0] > SEEK_AHEAD_S):
            frames, ahead = _start_at(container, stream, time_s, played.damage)
            current = None
        while ahead is not None and ahead[0] <= time_s + ROUNDING_S:
            current, ahead = ahead, next(frames, None)
        played.ended = ahead is None
        # before the first frame of a track, players show that frame
        picture = current or ahead
        if picture is None:
            break
        played.shown.append(picture)
    return played


def _start_at(
    container: InputContainer, stream: av.VideoStream, time_s: float, damage: Damage
) -> tuple[Iterator[tuple[float, av.VideoFrame]], tuple[float, av.VideoFrame] | None]:
    """Frames from one shown at or before `time_s` on, and the first of them."""
    for margin_s in (0.0, *MARGINS_S):
        from_s = max(time_s - margin_s, 0.0)
        seek(container, start_of(container) + from_s)
        frames = _timed(container, stream, damage)
        first = next(frames, None)
        if (first is not None and first[0] <= time_s + ROUNDING_S) or from_s == 0:
            return frames, first
    raise AssertionError("the last margin starts at 0")


def _timed(container: InputContainer, stream: av.VideoStream, damage: Damage) -> Iterator[tuple[float, av.VideoFrame]]:
    time_s, zero = 0.0, start_of(container)
    taken = deque[av.Packet]() if _is_untimed(container, stream) else None
    for frame in decoded(container, stream, damage, taken):
        # the n-th picture that comes out is shown at the time of the n-th packet that went in
        packet = taken.popleft() if taken else None
        told = frame.time if packet is None or packet.dts is None else packet.dts * packet.time_base
        # a frame without a time stamp comes one frame after the last
        time_s = time_s + float(1 / (stream.average_rate or 25)) if told is None else float(told) - zero
        yield time_s, frame


def _is_untimed(container: InputContainer, stream: av.VideoStream) -> bool:
    """Whether FFmpeg guesses when pictures are shown, and wrong: an AVI only knows their order of decoding."""
    return container.format.name == "avi" and stream.codec_context.name in UNTIMED


def probe_picture(path: Path) -> MediaInfo | None:
    """What a picture file holds, from its headers; None when it is none. Animations are read as videos.

    Raises:
        MediaError: unsupported (too many pixels), missing, unreadable, empty_file.
    """
    read_head(path)  # to open a pipe would be to wait for whoever writes into it
    try:
        with _opened(path, path.name, PICTURE_FORMATS - {"GIF"}) as picture:
            return MediaInfo(0.0, None, 0.0, None, None, picture.width, picture.height, None, picture=True)
    except MediaError as error:
        if error.reason == "unsupported":
            raise
        return None


def read_picture(path: Path, short_side: int, quality: int) -> bytes:
    """A picture file as JPEG of the size that frames of videos have.

    Raises:
        MediaError: not_media, corrupt, unsupported.
    """
    picture = Image.fromarray(load_image(path))
    scale = min(1.0, short_side / min(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return _encoded(picture.resize((width, height), Image.Resampling.BOX), quality)


def _jpeg(scaler: VideoReformatter, frame: av.VideoFrame, short_side: int, quality: int, pixel_aspect: float) -> bytes:
    """One frame as JPEG; `pixel_aspect` is the width of a pixel over its height."""
    wide, high = frame.width * pixel_aspect, float(frame.height)
    scale = min(1.0, short_side / min(wide, high))
    width, height = (max(1, round(side * scale)) for side in (wide, high))
    if frame.colorspace == UNSAID and frame.height >= HD_LINES:
        frame.colorspace = Colorspace.ITU709  # FFmpeg takes untagged pictures for SD ones
    interpolation = "AREA" if scale < 1 else "BICUBIC"
    small = scaler.reformat(frame, width, height, "rgb24", interpolation=interpolation, threads=1)
    return _encoded(Image.fromarray(_upright(frame, np.asarray(small.to_ndarray(), np.uint8))), quality)


def _upright(frame: av.VideoFrame, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) turned and mirrored as the file's display matrix says, by right angles; one of no use is none.

    The matrix of ISO 14496-12, 6.2.2: the pixel (x, y) is shown at (a x + c y, b x + d y).
    """
    said = frame.side_data.get("DISPLAYMATRIX")
    if said is None:
        return pixels
    a, b, _, c, d, *_ = MATRIX.unpack_from(said)
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    right, down = (c, b) if turned else (a, d)
    if not right or not down:
        return pixels
    pixels = np.swapaxes(pixels, 0, 1) if turned else pixels
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def _encoded(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.crop(_middle(picture.width, picture.height)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """The box without the ends of a very long picture: one such would blow up its whole batch."""
    longest = int(MAX_ASPECT * min(width, height))
    left, top = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    return left, top, width - left, height - top


def load_image(source: Path | str | bytes) -> NDArray[np.uint8]:
    """A picture as RGB (H, W, 3), upright; a video file gives its middle frame.

    Raises:
        MediaError: neither a picture nor a video.
    """
    if isinstance(source, bytes):
        return _picture(io.BytesIO(source), "these bytes")
    path = Path(source)
    if not path.is_file():
        raise MediaError("missing", f"{path} is not a regular file")
    try:
        return _picture(path, path.name)
    except MediaError as error:
        if error.reason != "not_media":
            raise
    with open_media(path) as container:
        info = describe(container, path)
        frames, _ = read_frames(container, path, [(info.video_end_s or info.duration_s) / 2], 1024, 95, info)
    return _picture(io.BytesIO(frames[0]), path.name)


def _picture(file: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    with _opened(file, name, PICTURE_FORMATS) as picture:
        return upright_rgb(picture, name)


def upright_rgb(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    """What a Pillow picture shows, as RGB (H, W, 3).

    Raises:
        MediaError: more than 8 bits, which the conversion would clip to white.
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        raise MediaError("unsupported", f"{name} is a picture of mode {upright.mode}, expected 8 bits")
    return np.asarray(upright.convert("RGB"))


@contextmanager
def _opened(file: Path | io.BytesIO, name: str, formats: frozenset[str]) -> Iterator[Image.Image]:
    """A picture within our limits, its headers read; whatever Pillow says against it becomes a MediaError."""
    try:
        with warnings.catch_warnings():
            # the limit is ours
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=sorted(formats)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise MediaError("unsupported", f"{name} has {picture.width}x{picture.height} pixels")
                yield picture
    except UnidentifiedImageError:
        raise MediaError("not_media", f"{name} is no picture in a known format") from None
    except Image.DecompressionBombError as error:
        raise MediaError("unsupported", f"{name}: {error}") from None
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:  # the last is AVIF's
        raise MediaError("corrupt", f"{name} cannot be decoded as a picture: {error}") from None


def is_still(jpegs: list[bytes]) -> bool:
    """True when several pictures show the same: no block of 8 x 8 pixels has another colour in one of them."""
    if len(jpegs) < 2:
        return False
    small = [_blocks(jpeg) for jpeg in jpegs]
    return all(
        other.shape == small[0].shape and np.abs(other.astype(np.int16) - small[0]).max() <= STILL for other in small
    )


def _blocks(jpeg: bytes) -> NDArray[np.uint8]:
    """A JPEG at an eighth of its size, which its blocks' means give without decoding the rest."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        picture.draft("RGB", (max(picture.width // 8, 1), max(picture.height // 8, 1)))
        return np.asarray(picture.convert("RGB"))
