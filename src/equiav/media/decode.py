"""Sound and frames of a window of a media file, on one clock: the container's time, counted from its start.

path, [start_s, end_s)  →  mono float32 (S,) at the asked rate;  path, times → JPEG frames
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Colorspace, VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from equiav.errors import MediaError
from equiav.media.probe import (
    MAX_PIXELS,
    MediaInfo,
    audio_stream,
    describe,
    open_media,
    packets,
    seek,
    start_of,
    video_stream,
)

GAP_S = 0.05  # a jump of the time stamps larger than this is a hole in the sound, filled with silence
# Decoders need packets before the asked time, and some demuxers land late: each try starts earlier than the last
MARGINS_S = (1.0, 5.0, 30.0, np.inf)
SEEK_AHEAD_S = 2.0  # nearer than this, decoding on is cheaper than seeking
ROUNDING_S = 1e-3  # containers round time stamps to milliseconds
HD_LINES = 720  # pictures of this height and more are in BT.709 colours unless they say otherwise
MAX_PLANES = 8  # PyAV reads beyond the memory of frames with more
MIN_SOUND = 0.5  # a window with sound in less than this share is refused
MIN_SOUND_DAMAGED = 0.9  # the same, where packets could not be decoded
MAX_ASPECT = 4.0  # of a stored frame; the sides of a longer one are cut off
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")


def decode_audio(path: Path, start_s: float, end_s: float, sample_rate: int) -> NDArray[np.float32]:
    """The mean of all channels in [start_s, end_s), resampled; shorter than asked where the sound ends before.

    Raises:
        MediaError: no_audio, corrupt, gap, truncated, too_short (nothing in the window).
    """
    with open_media(path) as container:
        return read_audio(container, path, start_s, end_s, sample_rate)


def read_audio(
    container: InputContainer,
    path: Path,
    start_s: float,
    end_s: float,
    sample_rate: int,
    info: MediaInfo | None = None,
) -> NDArray[np.float32]:
    """As `decode_audio`, of an open container; `info` saves describing it anew."""
    stream = audio_stream(container)
    if stream is None:
        raise MediaError("no_audio", f"{path.name} has no sound track")
    info = info or describe(container, path)
    expected_s = min(info.audio_end_s or end_s, end_s)
    if start_s >= expected_s:
        raise MediaError("too_short", f"{path.name}: no sound at {start_s:.2f} s, it ends at {expected_s:.2f} s")
    begins_s = float((stream.start_time or 0) * (stream.time_base or 0)) - start_of(container)
    span = _Span([], 0)
    for margin_s in MARGINS_S:
        from_s = max(start_s - margin_s, 0.0)
        seek(container, start_of(container) + from_s, stream)
        span = _decode_span(container, stream, end_s, sample_rate)
        late = not span.pieces or span.pieces[0].start_s > max(start_s, begins_s) + GAP_S
        if not late or from_s == 0:
            break
    return _place(path, span, info, start_s, end_s, sample_rate)


class _Piece:
    """Sound without holes, of one rate. Each frame's time stamp votes for the time of the first sample: some are wrong.

    Samples before the first one on the grid of `sample_rate`, counted from the clock's zero, are dropped: so the
    result does not depend on where decoding began.
    """

    def __init__(self, at_s: float, rate: int, sample_rate: int) -> None:
        self.rate = rate
        self._resampler = av.AudioResampler("fltp", "mono", sample_rate)
        self._skipped = self._skip = _off_grid(at_s, rate, sample_rate)
        self._starts_s: list[float] = []
        self._seen = self._waiting = 0
        self._raw: list[NDArray[np.float32]] = []
        self._resampled: list[NDArray[np.float32]] = []

    @property
    def start_s(self) -> float:
        """The time of the first sample that is kept."""
        return (float(np.median(self._starts_s)) if self._starts_s else 0.0) + self._skipped / self.rate

    def add(self, frame: av.AudioFrame, at_s: float) -> None:
        """Take in the next frame, said to begin at `at_s`."""
        if np.isfinite(at_s):
            self._starts_s.append(at_s - self._seen / self.rate)
        self._seen += frame.samples
        self._raw.append(_mean_of_channels(frame))
        self._waiting += frame.samples
        if self._waiting >= self.rate:  # a second at once: calls cost more than samples
            self._resample()

    def samples(self) -> NDArray[np.float32]:
        """All of it, resampled; nothing can be added afterwards."""
        self._resample()
        self._resampled += [out.to_ndarray()[0] for out in self._resampler.resample(None)]
        return np.concatenate(self._resampled) if self._resampled else np.zeros(0, np.float32)

    def _resample(self) -> None:
        if not self._raw:
            return
        block = np.concatenate(self._raw)[None, self._skip :]
        self._raw, self._waiting, self._skip = [], 0, 0
        if block.size:
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate = self.rate  # no pts: holes are ours to find, nothing shall be stretched over them
            self._resampled += [out.to_ndarray()[0] for out in self._resampler.resample(frame)]


@dataclass
class _Span:
    pieces: list[_Piece]
    damaged: int  # packets that could not be decoded


def _decode_span(container: InputContainer, stream: av.AudioStream, end_s: float, sample_rate: int) -> _Span:
    """All sound from where the container stands up to `end_s`, at `sample_rate`, in pieces."""
    span, zero, ends_at = _Span([], 0), start_of(container), -np.inf
    for frame in _frames(container, stream, span):
        at = ends_at if frame.pts is None else float(frame.pts * (frame.time_base or Fraction(1, frame.rate))) - zero
        if at >= end_s + GAP_S:
            break
        if not span.pieces or abs(at - ends_at) > GAP_S or frame.rate != span.pieces[-1].rate:
            span.pieces.append(_Piece(at, frame.rate, sample_rate))
        span.pieces[-1].add(frame, at)
        ends_at = at + frame.samples / frame.rate
    return span


def _frames(container: InputContainer, stream: av.AudioStream | av.VideoStream, span: _Span) -> Iterator[Any]:
    """Decoded frames; a damaged packet is counted and skipped, as players do, and damage to the file ends it."""
    coming = packets(container, stream)
    while True:
        try:
            packet = next(coming, None)
        except av.error.FFmpegError:
            span.damaged += 1
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            span.damaged += 1


def _off_grid(at_s: float, rate: int, sample_rate: int) -> int:
    """Samples of `rate` from `at_s` to the one nearest to a sample of `sample_rate`, counted from the clock's zero."""
    ahead = np.arange(max(rate // sample_rate, 1) + 1)
    phase = (at_s * sample_rate + ahead * (sample_rate / rate)) if np.isfinite(at_s) else np.zeros(1)
    return int(np.abs(phase - np.round(phase)).argmin())


def _mean_of_channels(frame: av.AudioFrame) -> NDArray[np.float32]:
    """(S,) in [-1, 1]. FFmpeg's own downmix weighs channels by 1/√2 and can leave that range."""
    channels = frame.layout.nb_channels
    if frame.format.name.startswith("s64") or (frame.format.is_planar and channels > MAX_PLANES):
        raise MediaError("unsupported", f"sound with {channels} channels in format {frame.format.name}")
    samples: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        return ((samples.astype(np.float32) - 128) / 128).mean(axis=0)
    if np.issubdtype(samples.dtype, np.integer):
        return (samples.mean(axis=0) / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return samples.mean(axis=0, dtype=np.float32)


def _place(path: Path, span: _Span, info: MediaInfo, start_s: float, end_s: float, rate: int) -> NDArray[np.float32]:
    """Put the decoded pieces where their time stamps say; what no piece covers is silence."""
    window = np.zeros(round((end_s - start_s) * rate), np.float32)
    covered = np.zeros(len(window), dtype=bool)
    for piece in span.pieces:
        samples = piece.samples()
        first = round((piece.start_s - start_s) * rate)
        samples, first = samples[max(-first, 0) :], max(first, 0)
        samples = samples[: max(len(window) - first, 0)]
        window[first : first + len(samples)] = samples
        covered[first : first + len(samples)] = True
    filled = int(np.flatnonzero(covered)[-1]) + 1 if covered.any() else 0
    _check_sound(path, span, info, start_s, min(info.audio_end_s or end_s, end_s), filled / rate, covered.sum() / rate)
    if not np.isfinite(window).all():
        raise MediaError("corrupt", f"{path.name}: the sound at {start_s:.2f} s holds values that are no numbers")
    return window[:filled]


def _check_sound(
    path: Path, span: _Span, info: MediaInfo, start_s: float, expected_s: float, filled_s: float, sound_s: float
) -> None:
    """Refuse a window whose sound is not what the file promised: up to `filled_s`, and `sound_s` of it."""
    length_s = expected_s - start_s
    missing_s = length_s - filled_s
    where = f"{path.name}, {start_s:.2f}–{expected_s:.2f} s"
    if info.cut and missing_s > GAP_S:
        raise MediaError("truncated", f"{where}: the last {missing_s:.2f} s of sound are missing")
    if span.damaged and sound_s < MIN_SOUND_DAMAGED * length_s:
        raise MediaError("corrupt", f"{where}: {span.damaged} packets of sound cannot be decoded")
    if missing_s > max(0.5, 0.05 * length_s):
        raise MediaError("truncated", f"{where}: the last {missing_s:.2f} s of sound are missing")
    if not filled_s:
        raise MediaError("too_short", f"{where}: no sound")
    if sound_s < MIN_SOUND * length_s:
        raise MediaError("gap", f"{where}: only {sound_s:.2f} s of it have sound")


def read_frames(
    container: InputContainer,
    path: Path,
    times_s: list[float],
    short_side: int,
    quality: int,
    info: MediaInfo | None = None,
) -> tuple[list[bytes], list[float]]:
    """The frames shown at `times_s` (ascending), as JPEG with at most `short_side` pixels on the short side.

    Returns the pictures, upright and with square pixels, and the times at which each began to show.

    Raises:
        MediaError: no_video, corrupt, truncated.
    """
    stream = video_stream(container)
    if stream is None:
        raise MediaError("no_video", f"{path.name} has no picture track")
    info = info or describe(container, path)
    played = _play(container, stream, times_s)
    if len(played.shown) < len(times_s):
        reason = "corrupt" if played.damaged and not info.cut else "truncated"
        raise MediaError(reason, f"{path.name}: no picture could be decoded at {times_s[len(played.shown)]:.2f} s")
    times = [time_s for time_s, _ in played.shown]
    # a picture that stays for long is no fault of the file, unless packets are broken or missing after it
    if times_s[-1] - times[-1] > (0.0 if info.cut else 1.0) + 2.0 / (info.fps or 1.0):
        if played.damaged and not (info.cut and played.ended):
            raise MediaError("corrupt", f"{path.name}: {played.damaged} packets of pictures cannot be decoded")
        if played.ended:
            raise MediaError("truncated", f"{path.name}: no pictures after {times[-1]:.2f} s")
    pixel = float(stream.sample_aspect_ratio or 1)
    scaler = VideoReformatter()
    jpegs = [_jpeg(scaler, frame, short_side, quality, pixel) for _, frame in played.shown]
    return jpegs, [max(time_s, 0.0) for time_s in times]


@dataclass
class _Played:
    shown: list[tuple[float, av.VideoFrame]]  # what is on the screen at each asked time, and since when
    damaged: int  # packets that could not be decoded
    ended: bool  # the track was read to its end


def _play(container: InputContainer, stream: av.VideoStream, times_s: list[float]) -> _Played:
    """Decode from the key frame before each time on; near times are reached by decoding, far ones by seeking."""
    if not stream.codec_context.is_open:
        stream.thread_type = "NONE"
    span, played = _Span([], 0), _Played([], 0, ended=False)
    frames: Iterator[tuple[float, av.VideoFrame]] = iter(())
    current: tuple[float, av.VideoFrame] | None = None
    ahead: tuple[float, av.VideoFrame] | None = None
    for time_s in times_s:
        if not played.ended and (ahead is None or time_s - ahead[0] > SEEK_AHEAD_S):
            frames, ahead = _start_at(container, stream, time_s, span)
            current = None
        while ahead is not None and ahead[0] <= time_s + ROUNDING_S:
            current, ahead = ahead, next(frames, None)
        played.ended = ahead is None
        # before the first frame of a track, players show that frame
        picture = current or ahead
        if picture is None:
            break
        played.shown.append(picture)
    played.damaged = span.damaged
    return played


def _start_at(
    container: InputContainer, stream: av.VideoStream, time_s: float, span: _Span
) -> tuple[Iterator[tuple[float, av.VideoFrame]], tuple[float, av.VideoFrame] | None]:
    """Frames from one shown at or before `time_s` on, and the first of them."""
    for margin_s in (0.0, *MARGINS_S):
        from_s = max(time_s - margin_s, 0.0)
        seek(container, start_of(container) + from_s)
        frames = _timed(container, stream, span)
        first = next(frames, None)
        if (first is not None and first[0] <= time_s + ROUNDING_S) or from_s == 0:
            return frames, first
    raise AssertionError("the last margin starts at 0")


def _timed(container: InputContainer, stream: av.VideoStream, span: _Span) -> Iterator[tuple[float, av.VideoFrame]]:
    time_s, zero = 0.0, start_of(container)
    for frame in _frames(container, stream, span):
        # a frame without a time stamp comes one frame after the last
        time_s = time_s + float(1 / (stream.average_rate or 25)) if frame.time is None else float(frame.time) - zero
        yield time_s, frame


def _jpeg(scaler: VideoReformatter, frame: av.VideoFrame, short_side: int, quality: int, pixel_aspect: float) -> bytes:
    """One frame as JPEG; `pixel_aspect` is the width of a pixel over its height."""
    wide, high = frame.width * pixel_aspect, float(frame.height)
    scale = min(1.0, short_side / min(wide, high))
    width, height = (max(1, round(side * scale)) for side in (wide, high))
    if frame.colorspace not in set(Colorspace) and frame.height >= HD_LINES:
        frame.colorspace = Colorspace.ITU709  # FFmpeg takes untagged pictures for SD ones
    interpolation = "AREA" if scale < 1 else "BICUBIC"
    small = scaler.reformat(frame, width, height, "rgb24", interpolation=interpolation, threads=1)
    picture = Image.fromarray(small.to_ndarray())
    picture = picture.crop(_middle(picture.width, picture.height))
    if frame.rotation:
        picture = picture.rotate(frame.rotation, expand=True)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """The box without the ends of a very long picture: one such would blow up its whole batch."""
    longest = int(MAX_ASPECT * min(width, height))
    left, top = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    return left, top, width - left, height - top


def load_waveform(source: Path | str, sample_rate: int) -> NDArray[np.float32]:
    """The whole sound of an audio or video file: mono (S,), resampled.

    Raises:
        MediaError: not a media file, no sound in it, corrupt.
    """
    path = Path(source)
    with open_media(path) as container:
        info = describe(container, path)
        return read_audio(container, path, 0.0, info.audio_end_s or info.duration_s, sample_rate, info)


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
    try:
        with warnings.catch_warnings():
            # the limit is ours, below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=PICTURE_FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise MediaError("unsupported", f"{name} has {picture.width}x{picture.height} pixels")
                upright = ImageOps.exif_transpose(picture)
                if upright.mode in ("I;16", "I", "F"):
                    raise MediaError("unsupported", f"{name} is a picture of mode {upright.mode}, expected 8 bits")
                return np.asarray(upright.convert("RGB"))
    except UnidentifiedImageError:
        raise MediaError("not_media", f"{name} is no picture in a known format") from None
    except Image.DecompressionBombError as error:
        raise MediaError("unsupported", f"{name}: {error}") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError("corrupt", f"{name} cannot be decoded as a picture: {error}") from None
