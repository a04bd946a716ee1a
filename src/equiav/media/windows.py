"""The windows of one file:  headers, settings  →  which windows;  a window  →  its log-mel and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from equiav.config import Features
from equiav.errors import MediaError
from equiav.media.channels import SILENCE
from equiav.media.decode import read_audio
from equiav.media.fbank import FRAME_S, log_mel
from equiav.media.frames import read_frames
from equiav.media.probe import MAX_DURATION_S, InputContainer, MediaInfo


class Window(NamedTuple):
    """[start_s, end_s) on the clock of a file."""

    start_s: float
    end_s: float


def span_of(
    info: MediaInfo, features: Features, name: str, start_s: float | None = None, end_s: float | None = None
) -> Window:
    """Where the windows of a file lie: within all the tracks that it has, and within the start and end given.

    A start alone means the one window there.

    Raises:
        MediaError: too_short, too_long, unsupported (neither sound nor picture).
    """
    if info.picture:
        return Window(0.0, 0.0)
    # a track whose length the headers do not give ends where the container does
    ends = [end or info.duration_s for end in (info.audio_end_s, info.video_end_s) if end is not None]
    if not ends:
        raise MediaError("unsupported", f"{name} has neither a sound nor a picture track")
    first_s, last_s = start_s or 0.0, min(ends)
    if end_s is not None:
        last_s = min(last_s, end_s)
    elif start_s is not None:
        last_s = min(last_s, start_s + features.clip_s)
    if first_s >= last_s:
        raise MediaError("too_short", f"{name} ends at {last_s:.2f} s, the window starts at {first_s:.2f} s")
    if last_s - first_s > MAX_DURATION_S:
        raise MediaError(
            "too_long",
            f"{name} says {last_s - first_s:.0f} s, at most {MAX_DURATION_S:.0f} s at once; "
            "name the parts to take with start_s and end_s in a CSV",
        )
    return Window(first_s, last_s)


def cut(span: Window, info: MediaInfo, features: Features) -> list[Window]:
    """The windows of a span: one of `clip_s` every `hop_s`.

    A last, shorter one stays if it has `min_tail_s`, and a span too short for any gives one window, whose spectrogram
    is padded. A picture file is one window of no length.
    """
    if info.picture:
        return [span]
    tail_s = shortest_tail_s(features)
    count = 1 + max(0, int(np.floor((span.end_s - span.start_s - tail_s) / features.hop_s + 1e-6)))
    starts = [span.start_s + i * features.hop_s for i in range(count)]
    return [Window(start, min(start + features.clip_s, span.end_s)) for start in starts]


def shortest_tail_s(features: Features) -> float:
    """How much a last window must have, in seconds."""
    return min(max(features.min_tail_s, FRAME_S), features.clip_s)


def dropped_tail_s(span: Window, windows: list[Window], info: MediaInfo, features: Features) -> float:
    """The end of a span behind its last window, in seconds, which is too short for a window of its own.

    Less than a frame of a spectrogram is none: tracks end up to a packet later than what was recorded. What lies
    between windows (`hop_s` above `clip_s`) is none either.
    """
    if info.picture:
        return 0.0
    rest_s = span.end_s - windows[-1].start_s - max(features.clip_s, features.hop_s)
    return rest_s if rest_s >= FRAME_S else 0.0


class Sound(NamedTuple):
    """The sound of a window."""

    log_mel: NDArray[np.float32]  # (T, M), not padded
    seconds: float
    silent: bool


class Pictures(NamedTuple):
    """The pictures of a window, and since when each is shown."""

    jpegs: list[bytes]
    times_s: list[float]


def read_sound(container: InputContainer, path: Path, window: Window, features: Features, info: MediaInfo) -> Sound:
    """The sound of a window of an open file.

    Raises:
        MediaError: there is less than one spectrogram frame of it, or what `read_audio` says.
    """
    wave = read_audio(container, path, window.start_s, window.end_s, features.sample_rate, info)
    mel, seconds = log_mel(wave, features)[: features.time_frames], len(wave) / features.sample_rate
    if not len(mel):
        raise MediaError("too_short", f"{path.name}: {1000 * seconds:.0f} ms of sound, at least {1000 * FRAME_S:.0f}")
    return Sound(mel, seconds, silent=bool(np.ptp(wave) < SILENCE))


def read_pictures(
    container: InputContainer, path: Path, window: Window, features: Features, info: MediaInfo
) -> Pictures:
    """The pictures shown at `frames_per_clip` times evenly inside a window of an open file, or near them.

    Raises:
        MediaError: what `read_frames` says.
    """
    times, span = _picture_times(window, features, info)
    side, quality = features.frame_side, features.jpeg_quality
    if features.frame_pick == "exact":
        return Pictures(*read_frames(container, path, times, side, quality, info))
    jpegs, times = read_frames(container, path, times, side, quality, info, keys_s=span)
    different = dict(zip(times, jpegs, strict=True))
    return Pictures(list(different.values()), list(different))


def middle_picture(container: InputContainer, path: Path, window: Window, features: Features, info: MediaInfo) -> bytes:
    """The middle one of `read_pictures`, as JPEG: what a clip is embedded by. With exact times no other is decoded.

    Raises:
        MediaError: what `read_frames` says.
    """
    if features.frame_pick == "key":
        jpegs = read_pictures(container, path, window, features, info).jpegs
        return jpegs[len(jpegs) // 2]
    times, _ = _picture_times(window, features, info)
    middle_s = [times[len(times) // 2]]
    return read_frames(container, path, middle_s, features.frame_side, features.jpeg_quality, info)[0][0]


def _picture_times(window: Window, features: Features, info: MediaInfo) -> tuple[list[float], tuple[float, float]]:
    """The times that pictures of a window are asked for, and the span of it that has pictures."""
    n, shown_s = features.frames_per_clip, min(window.end_s, info.video_end_s or window.end_s) - window.start_s
    times = [window.start_s + (i + 0.5) / n * shown_s for i in range(n)]
    return times, (window.start_s, window.start_s + shown_s)
