"""Which of its channels stand for a sound:  decoded frame → channels (C, S) → mono (S,), in [-1, 1].

The channels' mean does. Where it cancels, as of a stereo track with one side turned over, the loudest channel does, for
the whole window: the mean has less than a tenth of the energy that unrelated channels would leave in it (10 dB), or it
is silent and a channel is not. Energy is that of the samples about their mean, so a constant offset has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import av
import numpy as np
from av.audio.frame import format_dtypes
from numpy.typing import NDArray

SILENCE = 2e-3  # a sound whose samples, of -1 to 1, stay within a range of this is none: -60 dB
CANCELLED = 0.1  # of the energy that the mean of unrelated channels has
AS_LOUD = 0.8  # of the loudest channel's energy (1 dB): of such channels the first, lest windows choose in turn


class Packer:
    """Samples of frames, channel by channel.

    PyAV ends the process on planar frames of eight channels and more: it looks for a plane behind the last one, and
    FFmpeg keeps room for eight. So whatever has several planes is packed into one before an array is taken.
    """

    def __init__(self) -> None:
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None

    def channels(self, frame: av.AudioFrame) -> NDArray[Any]:
        """(C, S), as integers or floats, as they were coded."""
        count, name = frame.layout.nb_channels, frame.format.name
        if (frame.format.is_planar and count > 1) or name.startswith("s64"):
            frames = self._packed(frame, "dbl" if name.startswith("s64") else frame.format.packed.name)
            return np.concatenate([part.to_ndarray().reshape(-1, count) for part in frames]).T
        # as `to_ndarray` reads it, without the copies that it makes to put planes together
        samples = np.frombuffer(frame.planes[0], format_dtypes[name], frame.samples * count)  # type: ignore[arg-type]
        return samples.reshape(-1, count).T

    def _packed(self, frame: av.AudioFrame, name: str) -> list[av.AudioFrame]:
        kind = frame.format.name, frame.layout.name, frame.rate
        if self._resampler is None or self._kind != kind:
            self._resampler, self._kind = av.AudioResampler(format=name), kind
        return self._resampler.resample(frame)


def in_range(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Samples as they were coded → [-1, 1]."""
    if samples.dtype == np.uint8:
        return ((samples - np.float32(128)) / np.float32(128)).astype(np.float32)
    if np.issubdtype(samples.dtype, np.integer):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return samples.astype(np.float32)


def mean_of(channels: NDArray[Any]) -> NDArray[np.float32]:
    """(C, S) → (S,). FFmpeg's own downmix weighs channels by 1/√2 and can leave [-1, 1]."""
    if channels.dtype == np.uint8:
        return in_range(channels).mean(axis=0, dtype=np.float32)
    if np.issubdtype(channels.dtype, np.integer):
        return (channels.mean(axis=0) / -float(np.iinfo(channels.dtype).min)).astype(np.float32)
    return channels.mean(axis=0, dtype=np.float32)


class Levels:
    """How loud each channel of the window [start_s, end_s) is, and their mean, in its last row."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self.start_s, self.end_s = start_s, end_s
        self._count = 0
        self._sums = self._squares = self._lowest = self._highest = np.zeros(0)
        self._changes = False  # the number of channels does, so none is there all the time

    def add(self, channels: NDArray[Any], at_s: float, rate: int) -> None:
        """Take in (C, S), of which the first samples are of the time `at_s`."""
        first, last = (round((time_s - at_s) * rate) for time_s in (self.start_s, self.end_s))
        inside = channels[:, max(first, 0) : max(last, 0)]
        if len(inside) < 2 or not inside.shape[1]:
            return
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number is refused elsewhere
            self._add(np.concatenate([in_range(inside), mean_of(inside)[None]]).astype(np.float64))

    def _add(self, rows: NDArray[np.float64]) -> None:
        lowest, highest = rows.min(axis=1), rows.max(axis=1)
        if not self._count:
            self._sums, self._squares = np.zeros(len(rows)), np.zeros(len(rows))
            self._lowest, self._highest = lowest, highest
        if len(rows) != len(self._sums):
            self._changes = True
            return
        self._count += rows.shape[1]
        self._sums += rows.sum(axis=1)
        self._squares += np.square(rows).sum(axis=1)
        self._lowest, self._highest = np.minimum(self._lowest, lowest), np.maximum(self._highest, highest)

    def loudest_if_cancelled(self) -> int | None:
        """The channel that stands for the window, where the mean does not."""
        if not self._count or self._changes:
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            *channels, mean = self._squares / self._count - np.square(self._sums / self._count)
            *ranges, left = self._highest - self._lowest
        unrelated = sum(channels) / len(channels) ** 2
        if max(ranges) >= SILENCE and (mean < CANCELLED * unrelated or left < SILENCE):
            return int(np.argmax(np.array(channels) >= AS_LOUD * max(channels)))
        return None


class Meter:
    """The levels of many windows, in order of time, read on the way."""

    def __init__(self, windows: Sequence[tuple[float, float]]) -> None:
        self._levels = [Levels(*window) for window in windows]
        self._first = 0  # of those that may still get sound

    def add(self, channels: NDArray[Any], at_s: float, rate: int) -> None:
        """Take in (C, S), of which the first samples are of the time `at_s`; it comes after what came before."""
        while self._first < len(self._levels) and self._levels[self._first].end_s < at_s:
            self._first += 1
        for levels in islice(self._levels, self._first, None):
            if levels.start_s > at_s + channels.shape[1] / rate:
                break
            levels.add(channels, at_s, rate)

    def loudest_if_cancelled(self, window: int) -> int | None:
        """The channel that stands for a window, where the mean does not."""
        return self._levels[window].loudest_if_cancelled() if window < len(self._levels) else None
