"""Sound of a window of a media file, on the container's clock, counted from its start. Frames: `frames`.

path, [start_s, end_s)  →  mono float32 (S,) at the asked rate
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from equiav.errors import MediaError
from equiav.media.channels import Meter, Packer, in_range, mean_of
from equiav.media.frames import read_frames
from equiav.media.probe import MediaInfo, describe, open_media
from equiav.media.stills import load_image, upright_rgb
from equiav.media.tracks import MARGINS_S, Damage, audio_stream, decoded, seek, start_of
from equiav.words import counted

__all__ = [
    "decode_audio",
    "load_image",
    "load_waveform",
    "read_audio",
    "read_frames",
    "stream_windows",
    "upright_rgb",
]

GAP_S = 0.05  # a jump of the time stamps larger than this is a hole in the sound, filled with silence
PLACED_S = 600.0  # of sound without holes so much is held until its time stamps tell where it lies
HOLE_S = 60.0  # silence of a hole comes in parts of this length
MIN_SOUND = 0.5  # a window with sound in less than this share is refused
MIN_SOUND_DAMAGED = 0.9  # the same, where packets at its start or end could not be decoded
RUNS_ON = "flac"  # the format whose packets all have a time and leave no hole: what does not is next to damage
LACK_S = 0.01  # so much sound is lost where a packet gives none and the next one begins later


def decode_audio(path: Path, start_s: float, end_s: float, sample_rate: int) -> NDArray[np.float32]:
    """The sound in [start_s, end_s), resampled; shorter than asked where it ends before.

    It is the mean of all channels, or the loudest one where that cancels: `channels`.

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
    span = _read_span(container, stream, start_s, end_s, sample_rate, None)
    loudest = span.meter.loudest_if_cancelled(0)
    if loudest is not None:
        span = _read_span(container, stream, start_s, end_s, sample_rate, loudest)
    damaged_s = min((at_s for at_s in span.damage.inside_s if start_s <= at_s < expected_s), default=None)
    if damaged_s is not None:
        raise MediaError("corrupt", f"{path.name}: the sound at {damaged_s:.2f} s is damaged")
    _check_sound(path, span.damage, info, start_s, expected_s, span.filled / sample_rate, span.covered / sample_rate)
    if not np.isfinite(span.window).all():
        raise MediaError("corrupt", f"{path.name}: the sound at {start_s:.2f} s holds values that are no numbers")
    return span.window[: span.filled]


@dataclass
class _Span:
    """The sound of a window, as far as there is any; what no piece covers is silence."""

    window: NDArray[np.float32]
    meter: Meter
    damage: Damage = field(default_factory=Damage)
    begins_s: float | None = None  # when the first sample that was decoded, maybe before the window, was heard
    parts: list[tuple[int, int]] = field(default_factory=list)  # samples that are there

    @property
    def filled(self) -> int:
        """Samples up to the last one that is there."""
        return max((last for _, last in self.parts), default=0)

    @property
    def covered(self) -> int:
        """Samples that are there."""
        count = end = 0
        for first, last in sorted(self.parts):
            count, end = count + max(last - max(first, end), 0), max(end, last)
        return count

    def put(self, first: int, samples: NDArray[np.float32]) -> None:
        """Place samples whose first one is the `first` of the window, as far as they lie in it."""
        samples, first = samples[max(-first, 0) :], max(first, 0)
        samples = samples[: max(len(self.window) - first, 0)]
        end = first + len(samples)
        if not len(samples):
            return
        if self.parts and self.parts[-1][1] == first:
            self.parts[-1] = self.parts[-1][0], end
        else:
            self.parts.append((first, end))
        self.window[first:end] = samples


def _read_span(
    container: InputContainer,
    stream: av.AudioStream,
    start_s: float,
    end_s: float,
    sample_rate: int,
    channel: int | None,
) -> _Span:
    """Decode a window, from early enough on; of all channels the mean, or one."""
    zero = start_of(container)
    begins_s = float((stream.start_time or 0) * (stream.time_base or 0)) - zero
    for margin_s in MARGINS_S:
        from_s = max(start_s - margin_s, 0.0)
        seek(container, zero + from_s, stream)
        span = _Span(np.zeros(round((end_s - start_s) * sample_rate), np.float32), Meter([(start_s, end_s)]))
        source = _Source(container, stream, end_s, sample_rate, span.meter, span.damage, channel)
        for at_s, offset, block in _placed(source.blocks(), sample_rate):
            span.begins_s = at_s if span.begins_s is None else span.begins_s
            span.put(round((at_s - start_s) * sample_rate) + offset, block)
        late = span.begins_s is None or span.begins_s > max(start_s, begins_s) + GAP_S
        if not late or from_s == 0:
            return span
    raise AssertionError("the last margin starts at 0")


class _Piece:
    """Sound without holes, of one rate. Each frame's time stamp votes for the time of the first sample: some are wrong.

    Samples before the first one on the grid of `sample_rate`, counted from the clock's zero, are dropped: so the
    result does not depend on where decoding began.
    """

    def __init__(self, source: _Source, at_s: float, rate: int) -> None:
        self.rate = rate
        self._source = source
        self._at_s = at_s if np.isfinite(at_s) else 0.0
        self._resampler = av.AudioResampler("fltp", "mono", source.sample_rate)
        self._skipped = self._skip = _off_grid(at_s, rate, source.sample_rate)
        self._starts_s: list[float] | None = []
        self._seen = self._waiting = 0
        self._raw: list[NDArray[Any]] = []

    def placed_s(self) -> float:
        """The time of the first sample that is kept; no time stamp is asked any more."""
        starts_s, self._starts_s = self._starts_s, None
        return (float(np.median(starts_s)) if starts_s else 0.0) + self._skipped / self.rate

    def add(self, channels: NDArray[Any], at_s: float) -> Iterator[NDArray[np.float32]]:
        """Take in the next samples (C, S), which begin at `at_s` if their time stamp is right; give what is ready."""
        if self._starts_s is not None and np.isfinite(at_s):
            self._starts_s.append(at_s - self._seen / self.rate)
        if self._raw and (len(self._raw[0]), self._raw[0].dtype) != (len(channels), channels.dtype):
            yield from self._resampled()
        self._seen += channels.shape[1]
        self._raw.append(channels)
        self._waiting += channels.shape[1]
        if self._waiting >= self.rate:  # a second at once: calls cost more than samples
            yield from self._resampled()

    def rest(self) -> Iterator[NDArray[np.float32]]:
        """What is left; nothing can be added afterwards."""
        yield from self._resampled()
        yield from (out.to_ndarray()[0] for out in self._resampler.resample(None))

    def _resampled(self) -> Iterator[NDArray[np.float32]]:
        if not self._raw:
            return
        block = np.concatenate(self._raw, axis=1)
        self._source.meter.add(block, self._at_s + (self._seen - self._waiting) / self.rate, self.rate)
        mono = self._source.mono(block)[None, self._skip :]
        self._raw, self._waiting, self._skip = [], 0, 0
        if mono.size:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono), format="fltp", layout="mono")
            frame.sample_rate = self.rate  # no pts: holes are ours to find, nothing shall be stretched over them
            yield from (out.to_ndarray()[0] for out in self._resampler.resample(frame))


@dataclass
class _Source:
    """All sound from where a container stands up to `end_s`, at `sample_rate`: the channels' mean, or one of them."""

    container: InputContainer
    stream: av.AudioStream
    end_s: float
    sample_rate: int
    meter: Meter
    damage: Damage
    channel: int | None

    def blocks(self) -> Iterator[tuple[_Piece, NDArray[np.float32]]]:
        """Samples, each block with the piece that it goes on with."""
        packer, zero, ends_at, piece = Packer(), start_of(self.container), -np.inf, None
        known, waiting, runs_on = 0, list[float](), self.container.format.name == RUNS_ON
        for frame in decoded(self.container, self.stream, self.damage):
            stamped_s = frame.time
            at = ends_at if stamped_s is None else stamped_s - zero
            if runs_on and piece is not None and (stamped_s is None or at - ends_at > LACK_S):
                self.damage.inside_s += [ends_at, max(at - LACK_S / 2, ends_at)]  # both ends of the hole
            if waiting or self.damage.blank_s or len(self.damage.at_s) > known:
                new, known = waiting + self.damage.at_s[known:], len(self.damage.at_s)
                lost = self.damage.blank_s if at - ends_at > LACK_S else []
                # what is damaged itself waits for sound behind it: the last packet of a cut file is no whole one
                waiting = [time_s for time_s in new if time_s >= at]
                if piece is not None:
                    self.damage.inside_s += [time_s for time_s in (*new, *lost) if time_s < at]
                self.damage.blank_s.clear()
            if at >= self.end_s + GAP_S:
                break
            if piece is None or abs(at - ends_at) > GAP_S or frame.rate != piece.rate:
                if piece is not None:
                    yield from ((piece, block) for block in piece.rest())
                piece = _Piece(self, at, frame.rate)
            for block in piece.add(packer.channels(frame), at):
                yield piece, block
            ends_at = at + frame.samples / frame.rate
        if piece is not None:
            yield from ((piece, block) for block in piece.rest())

    def mono(self, channels: NDArray[Any]) -> NDArray[np.float32]:
        """(C, S) → (S,)."""
        if self.channel is None or self.channel >= len(channels):
            return mean_of(channels)
        return in_range(channels[self.channel])


def _placed(
    blocks: Iterator[tuple[_Piece, NDArray[np.float32]]], sample_rate: int
) -> Iterator[tuple[float, int, NDArray[np.float32]]]:
    """Blocks with the time at which their piece begins, and the samples of it that came before."""
    for piece, parts in groupby(blocks, key=itemgetter(0)):
        held, size, offset = deque[NDArray[np.float32]](), 0, 0
        for _, block in parts:
            held.append(block)
            size += len(block)
            if size >= PLACED_S * sample_rate:
                break
        at_s = piece.placed_s()
        for block in chain((held.popleft() for _ in range(len(held))), (block for _, block in parts)):
            yield at_s, offset, block
            offset += len(block)


def _off_grid(at_s: float, rate: int, sample_rate: int) -> int:
    """Samples of `rate` from `at_s` to the one nearest to a sample of `sample_rate`, counted from the clock's zero."""
    ahead = np.arange(max(rate // sample_rate, 1) + 1)
    phase = (at_s * sample_rate + ahead * (sample_rate / rate)) if np.isfinite(at_s) else np.zeros(1)
    return int(np.abs(phase - np.round(phase)).argmin())


def _check_sound(
    path: Path, damage: Damage, info: MediaInfo, start_s: float, expected_s: float, filled_s: float, sound_s: float
) -> None:
    """Refuse a window whose sound is not what the file promised: up to `filled_s`, and `sound_s` of it."""
    length_s = expected_s - start_s
    missing_s = length_s - filled_s
    where = f"{path.name}, {start_s:.2f}–{expected_s:.2f} s"
    if info.cut and missing_s > GAP_S:
        raise MediaError("truncated", f"{where}: the last {missing_s:.2f} s of sound are missing")
    if damage.packets and sound_s < MIN_SOUND_DAMAGED * length_s:
        raise MediaError("corrupt", f"{where}: {counted(damage.packets, 'packet')} of sound cannot be decoded")
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


class _Buffer:
    """What is still wanted of a sound of `size` samples at most, which comes a part at a time."""

    def __init__(self, path: Path, size: int, sample_rate: int) -> None:
        self.end = self.covered = 0  # samples so far, with and without the silence of holes
        self._path, self._size, self._rate = path, size, sample_rate
        self._first, self._kept = 0, np.zeros(0, np.float32)

    def add(self, first: int, samples: NDArray[np.float32]) -> Iterator[None]:
        """Take in samples of which the first is the `first` of all; before that is silence, a part at a time."""
        while self.end < min(first, self._size):
            hole = min(first, self._size) - self.end
            yield self._put(np.zeros(min(hole, round(HOLE_S * self._rate)), np.float32))
        samples = samples[max(self.end - first, 0) : max(self._size - first, 0)]
        if not np.isfinite(samples).all():
            at_s = self.end / self._rate
            raise MediaError(
                "corrupt", f"{self._path.name}: the sound at {at_s:.2f} s holds values that are no numbers"
            )
        self.covered += len(samples)
        yield self._put(samples)

    def _put(self, samples: NDArray[np.float32]) -> None:
        self._kept = np.concatenate([self._kept, samples])
        self.end += len(samples)

    def part(self, first: int, last: int) -> NDArray[np.float32]:
        """The samples [first, last), as far as they are there."""
        return self._kept[first - self._first : last - self._first]

    def drop(self, before: int) -> None:
        """Drop what came before a sample."""
        count = min(max(before - self._first, 0), len(self._kept))
        self._first, self._kept = self._first + count, self._kept[count:]


def stream_windows(
    path: Path, plan: Callable[[float], Sequence[tuple[float, float]]], sample_rate: int
) -> Iterator[NDArray[np.float32]]:
    """The sound of windows of a file, one after the other, decoded once and never held as a whole.

    Each is a part of what `load_waveform` gives, but for one whose channels cancel: that is as `read_audio` gives it.

    Args:
        path: an audio or video file.
        plan: the windows [start_s, end_s) of a sound of so many seconds, by their starts; those that lie before the
            end of a shorter one are the same.
        sample_rate: of the windows, in Hz.

    Raises:
        MediaError: not a media file, no sound in it, corrupt; of what is seen at the end only, after the last window.
    """
    with ExitStack() as opened:
        container = opened.enter_context(open_media(path))
        stream = audio_stream(container)
        if stream is None:
            raise MediaError("no_audio", f"{path.name} has no sound track")
        info = describe(container, path)
        end_s = info.audio_end_s or info.duration_s
        windows = plan(end_s)
        meter, damage = Meter(windows), Damage()
        again: list[InputContainer] = []

        def cut(number: int, window: tuple[float, float]) -> NDArray[np.float32]:
            if meter.loudest_if_cancelled(number) is None:
                first, last = (round(time_s * sample_rate) for time_s in window)
                return sound.part(first, last)
            again[:] = again or [opened.enter_context(open_media(path))]
            return read_audio(again[0], path, *window, sample_rate, info)

        seek(container, start_of(container), stream)
        source = _Source(container, stream, end_s, sample_rate, meter, damage, None)
        sound, done = _Buffer(path, round(end_s * sample_rate), sample_rate), 0
        for at_s, offset, block in _placed(source.blocks(), sample_rate):
            for _ in sound.add(round(at_s * sample_rate) + offset, block):
                # the last window may become longer or shorter
                while done < len(windows) - 1 and round(windows[done][1] * sample_rate) <= sound.end:
                    yield cut(done, windows[done])
                    done += 1
                    sound.drop(round(windows[done][0] * sample_rate))
        _check_sound(path, damage, info, 0.0, end_s, sound.end / sample_rate, sound.covered / sample_rate)
        for number, window in list(enumerate(plan(sound.end / sample_rate)))[done:]:
            yield cut(number, window)
