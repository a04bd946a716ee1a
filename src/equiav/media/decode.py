"""Sound and frames of a window of a media file, on one clock: the container's time, counted from its start.

path, [start_s, end_s)  →  mono float32 (S,) at the asked rate;  path, times → JPEG frames
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from equiav.errors import MediaError
from equiav.media.probe import describe, open_media, start_of, video_stream

GAP_S = 0.05  # a jump of the time stamps larger than this is a hole in the sound, filled with silence
SEEK_MARGIN_S = 1.0  # decoders need packets before the asked time; so do codecs with priming


def decode_audio(path: Path, start_s: float, end_s: float, sample_rate: int) -> NDArray[np.float32]:
    """The mean of all channels in [start_s, end_s), resampled; shorter than asked where the sound ends before.

    Raises:
        MediaError: no_audio, corrupt, truncated, too_short (nothing in the window).
    """
    with open_media(path) as container:
        return read_audio(container, path, start_s, end_s, sample_rate)


def read_audio(
    container: InputContainer, path: Path, start_s: float, end_s: float, sample_rate: int
) -> NDArray[np.float32]:
    """As `decode_audio`, of an open container."""
    if not container.streams.audio:
        raise MediaError("no_audio", f"{path.name} has no sound track")
    stream, zero = container.streams.audio[0], start_of(container)
    expected_s = min(describe(container, path).audio_end_s or end_s, end_s)
    _seek(container, zero + start_s - SEEK_MARGIN_S)
    pieces: list[tuple[float, list[NDArray[np.float32]]]] = []
    resampler, ends_at = av.AudioResampler("fltp", "mono", sample_rate), -np.inf
    for frame in container.decode(stream):
        at = ends_at if frame.pts is None else float(frame.pts * (frame.time_base or Fraction(1, frame.rate))) - zero
        if at >= end_s + GAP_S:
            break
        if not pieces or abs(at - ends_at) > GAP_S:
            if pieces:
                pieces[-1][1].extend(_samples(resampler, None))
            resampler = av.AudioResampler("fltp", "mono", sample_rate)
            pieces.append((max(at, 0.0) if np.isfinite(at) else 0.0, []))
        pieces[-1][1].extend(_samples(resampler, frame))
        ends_at = at + frame.samples / frame.rate
    if not pieces:
        _explain_nothing(path, start_s, expected_s)
    pieces[-1][1].extend(_samples(resampler, None))
    return _place(path, pieces, start_s, end_s, expected_s, sample_rate)


def _samples(resampler: av.AudioResampler, frame: av.AudioFrame | None) -> list[NDArray[np.float32]]:
    if frame is not None:
        frame.pts = None  # holes are ours to find: the resampler shall not stretch over them
    return [out.to_ndarray()[0] for out in resampler.resample(frame)]


def _explain_nothing(path: Path, start_s: float, expected_s: float) -> None:
    if start_s >= expected_s:
        raise MediaError("too_short", f"{path.name}: no sound at {start_s:.2f} s, it ends at {expected_s:.2f} s")
    raise MediaError("truncated", f"{path.name}: headers promise sound up to {expected_s:.2f} s, none could be decoded")


def _place(
    path: Path,
    pieces: list[tuple[float, list[NDArray[np.float32]]]],
    start_s: float,
    end_s: float,
    expected_s: float,
    rate: int,
) -> NDArray[np.float32]:
    """Put the decoded pieces where their time stamps say; what no piece covers is silence."""
    window = np.zeros(round((end_s - start_s) * rate), np.float32)
    filled = 0
    for at, chunks in pieces:
        samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
        first = round((at - start_s) * rate)
        samples, first = samples[max(-first, 0) :], max(first, 0)
        samples = samples[: max(len(window) - first, 0)]
        window[first : first + len(samples)] = samples
        filled = max(filled, first + len(samples) if len(samples) else 0)
    missing_s = expected_s - (start_s + filled / rate)
    if missing_s > max(0.5, 0.05 * (expected_s - start_s)):
        raise MediaError("truncated", f"{path.name}: {missing_s:.2f} s of sound before {expected_s:.2f} s are missing")
    if not filled:
        raise MediaError("too_short", f"{path.name}: no sound between {start_s:.2f} and {end_s:.2f} s")
    if not np.isfinite(window).all():
        raise MediaError("corrupt", f"{path.name}: the sound holds values that are no numbers")
    return window[:filled]


def read_frames(
    container: InputContainer, path: Path, times_s: list[float], short_side: int, quality: int
) -> tuple[list[bytes], list[float]]:
    """The frames shown at `times_s` (ascending), as JPEG with at most `short_side` pixels on the short side.

    Returns the pictures and the times at which each began to show. Decodes from the key frame before each time on.

    Raises:
        MediaError: no_video, corrupt, truncated.
    """
    stream, zero = video_stream(container), start_of(container)
    if stream is None:
        raise MediaError("no_video", f"{path.name} has no picture track")
    stream.thread_type = "NONE"
    shown: list[av.VideoFrame] = []
    current: av.VideoFrame | None = None
    gap_s = 2.0  # nearer than this, decoding on is cheaper than seeking
    frames, ahead = None, None
    for time_s in times_s:
        if frames is None or (ahead is not None and time_s - _time(ahead, zero) > gap_s):
            _seek(container, zero + time_s)
            frames, current, ahead = container.decode(stream), None, None
        while ahead is None or _time(ahead, zero) <= time_s + 1e-3:
            if ahead is not None:
                current = ahead
            ahead = next(frames, None)
            if ahead is None:
                break
        picture = current or ahead
        if picture is None:
            break
        shown.append(picture)
        if ahead is None:  # the last frame stays
            ahead = picture
    if len(shown) < len(times_s):
        raise MediaError("truncated", f"{path.name}: no picture could be decoded at {times_s[len(shown)]:.2f} s")
    info = describe(container, path)
    late = times_s[-1] - _time(shown[-1], zero)
    if info.video_end_s and late > 1.0 + 2.0 / (info.fps or 1.0) and times_s[-1] < info.video_end_s - 0.5:
        raise MediaError("truncated", f"{path.name}: the picture stops {late:.2f} s before {times_s[-1]:.2f} s")
    return [_jpeg(frame, short_side, quality) for frame in shown], [max(_time(frame, zero), 0.0) for frame in shown]


def _time(frame: av.VideoFrame, zero: float) -> float:
    return 0.0 if frame.time is None else float(frame.time) - zero


def _seek(container: InputContainer, time_s: float) -> None:
    container.seek(max(int(time_s * av.time_base), container.start_time or 0), backward=True)


def _jpeg(frame: av.VideoFrame, short_side: int, quality: int) -> bytes:
    scale = min(1.0, short_side / min(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA" if scale < 1 else "BICUBIC")
    picture = Image.fromarray(small.to_ndarray())
    if frame.rotation:
        picture = picture.rotate(frame.rotation, expand=True)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def load_waveform(source: Path | str, sample_rate: int) -> NDArray[np.float32]:
    """The whole sound of an audio or video file: mono (S,), resampled.

    Raises:
        MediaError: not a media file, no sound in it, corrupt.
    """
    path = Path(source)
    with open_media(path) as container:
        end_s = describe(container, path).duration_s or 24 * 3600.0
        return read_audio(container, path, 0.0, end_s, sample_rate)


def load_image(source: Path | str | bytes) -> NDArray[np.uint8]:
    """A picture as RGB (H, W, 3), upright; a video file gives its middle frame.

    Raises:
        MediaError: neither a picture nor a video.
    """
    data = source if isinstance(source, bytes) else None
    path = None if isinstance(source, bytes) else Path(source)
    if path is not None:
        if not path.is_file():
            raise MediaError("missing", f"{path} is not a regular file")
        data = path.read_bytes() if path.stat().st_size < 1 << 28 else b""
    try:
        with Image.open(io.BytesIO(data or b"")) as picture:
            from PIL import ImageOps

            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        if path is None:
            raise MediaError("not_media", "these bytes are no picture in a known format") from None
    with open_media(path) as container:
        middle = describe(container, path).duration_s / 2
        frames, _ = read_frames(container, path, [middle], 1024, 95)
    return np.asarray(Image.open(io.BytesIO(frames[0])).convert("RGB"))
