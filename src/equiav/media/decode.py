"""Sound of a window of a media file, on the container's clock, counted from its start. Frames: `frames`.

path, [start_s, end_s)  →  mono float32 (S,) at the asked rate
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from equiav.errors import MediaError
from equiav.media.frames import read_frames
from equiav.media.probe import MediaInfo, describe, open_media
from equiav.media.stills import load_image, upright_rgb
from equiav.media.tracks import MARGINS_S, Damage, audio_stream, decoded, seek, start_of

__all__ = ["decode_audio", "load_image", "load_waveform", "read_audio", "read_frames", "upright_rgb"]

GAP_S = 0.05  # a jump of the time stamps larger than this is a hole in the sound, filled with silence
MAX_PLANES = 8  # PyAV reads beyond the memory of frames with more
MIN_SOUND = 0.5  # a window with sound in less than this share is refused
MIN_SOUND_DAMAGED = 0.9  # the same, where packets could not be decoded


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
    span = _Span([], Damage())
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
    damage: Damage


def _decode_span(container: InputContainer, stream: av.AudioStream, end_s: float, sample_rate: int) -> _Span:
    """All sound from where the container stands up to `end_s`, at `sample_rate`, in pieces."""
    span, zero, ends_at = _Span([], Damage()), start_of(container), -np.inf
    for frame in decoded(container, stream, span.damage):
        at = ends_at if frame.pts is None else float(frame.pts * (frame.time_base or Fraction(1, frame.rate))) - zero
        if at >= end_s + GAP_S:
            break
        if not span.pieces or abs(at - ends_at) > GAP_S or frame.rate != span.pieces[-1].rate:
            span.pieces.append(_Piece(at, frame.rate, sample_rate))
        span.pieces[-1].add(frame, at)
        ends_at = at + frame.samples / frame.rate
    return span


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
    if span.damage.packets and sound_s < MIN_SOUND_DAMAGED * length_s:
        raise MediaError("corrupt", f"{where}: {span.damage.packets} packets of sound cannot be decoded")
    if missing_s > max(0.5, 0.05 * length_s) and (info.audio_end_s or 0.0) > expected_s + GAP_S:
        raise MediaError("gap", f"{where}: no sound in the last {missing_s:.2f} s of it, and more after it")
    if missing_s > max(0.5, 0.05 * length_s):
        raise MediaError("truncated", f"{where}: the last {missing_s:.2f} s of sound are missing")
    if not filled_s:
        raise MediaError("too_short", f"{where}: no sound")
    if sound_s < MIN_SOUND * length_s:
        raise MediaError("gap", f"{where}: only {sound_s:.2f} s of it have sound")


def load_waveform(source: Path | str, sample_rate: int) -> NDArray[np.float32]:
    """The whole sound of an audio or video file: mono (S,), resampled.

    Raises:
        MediaError: not a media file, no sound in it, corrupt.
    """
    path = Path(source)
    with open_media(path) as container:
        info = describe(container, path)
        return read_audio(container, path, 0.0, info.audio_end_s or info.duration_s, sample_rate, info)
