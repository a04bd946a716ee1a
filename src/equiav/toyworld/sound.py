"""How the things of the toy world sound: additive synthesis, noise and glides; larger is lower, harder is brighter.

(kind, size, hardness, count, seed)  ->  mono samples (S,)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equiav.toyworld.clip import Factors

Array = NDArray[np.floating[Any]]

RATE = 24_000  # Hz


@dataclass(frozen=True)
class Note:
    """What a timbre needs to know: `time` (S,) seconds since the strike, pitch in Hz, hardness, a generator."""

    time: Array
    pitch: float
    hardness: float
    rng: np.random.Generator

    def decay(self, seconds: float) -> Array:
        """Exponential decay to 1/e in `seconds` for a middling material: a third of it if soft, three times if hard."""
        return np.exp(-self.time / np.float32(seconds * 3.0 ** (2 * self.hardness - 1)))

    def partials(self, ratios: list[float], tilt: float, decay_s: float) -> Array:
        """Decaying sine partials; soft materials lose the high ones first, in level and in time."""
        total = np.zeros_like(self.time)
        for k, ratio in enumerate(ratios):
            frequency = self.pitch * ratio
            if frequency < 0.45 * RATE:
                level = np.float32((k + 1.0) ** (-tilt * (1.6 - self.hardness)))
                turn = np.float32(2 * np.pi * frequency)
                tone = np.sin(turn * self.time + np.float32(self.rng.uniform(0, 6.28)))
                total += level * tone * self.decay(decay_s / (1 + 0.3 * k))
        return total

    def glide(self, frequency: Array) -> Array:
        """A sine whose frequency in Hz follows `frequency` (S,)."""
        turns = np.cumsum(frequency, dtype=np.float64) / RATE  # in double precision: it grows over the whole clip
        return np.sin((2 * np.pi * (turns % 1.0)).astype(np.float32))

    def noise(self, low: float, high: float) -> Array:
        """White noise limited to [low, high] Hz."""
        size = 1 << (len(self.time) - 1).bit_length()  # a power of two: the FFT is fast
        spectrum = np.fft.rfft(self.rng.standard_normal(size, np.float32))
        frequency = np.fft.rfftfreq(size, 1 / RATE)
        spectrum[(frequency < low) | (frequency > high)] = 0
        noise = np.fft.irfft(spectrum, size)[: len(self.time)].astype(np.float32)
        return noise / (np.std(noise) + np.float32(1e-9))


def _bell(v: Note) -> Array:
    return v.partials([0.5, 1.0, 1.19, 1.5, 2.0, 2.74, 3.76], 0.6, 0.5)


def _string(v: Note) -> Array:
    return v.partials([float(k) for k in range(1, 13)], 1.1, 0.25)


def _drum(v: Note) -> Array:
    skin = v.partials([1.0, 1.59, 2.14, 2.3, 2.65, 2.92], 0.8, 0.12)
    return skin + (0.3 + 0.7 * v.hardness) * v.noise(200, 3000 + 5000 * v.hardness) * np.exp(-v.time / 0.02)


def _siren(v: Note) -> Array:
    sweep = v.pitch * 2 ** (0.5 * np.sin(2 * np.pi * 1.2 * v.time + v.rng.uniform(0, 6.28)))
    return sum((_level(v, k) * v.glide(sweep * k) for k in (1, 2, 3, 5)), np.zeros_like(v.time))


def _engine(v: Note) -> Array:
    puffs = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * v.pitch / 8 * v.time)) * np.cos(2 * np.pi * v.pitch / 16 * v.time)
    hum = sum(
        (_level(v, k) * v.glide(np.full_like(v.time, v.pitch * k)) for k in range(1, 10)),
        np.zeros_like(v.time),
    )
    return hum * puffs + 0.3 * puffs * v.noise(100, 1500 + 3000 * v.hardness)


def _drip(v: Note) -> Array:
    rise = v.pitch * (1 + 6 * v.time)
    return v.glide(np.minimum(rise, 0.45 * RATE)) * v.decay(0.05) + 0.2 * v.hardness * v.noise(4000, 9000) * np.exp(
        -v.time / 0.01
    )


def _bird(v: Note) -> Array:
    warble = v.pitch * (1 + 0.25 * np.sin(2 * np.pi * 14 * v.time) - 0.8 * v.time)
    song = v.glide(warble) + (0.1 + 0.5 * v.hardness) * v.glide(2 * warble)
    return song * np.exp(-(((v.time - 0.12) / 0.07) ** 2))


def _cricket(v: Note) -> Array:
    pulses = np.maximum(0, np.sin(2 * np.pi * 28 * v.time)) ** 2 * (v.time < 0.22)
    tone = v.glide(np.full_like(v.time, v.pitch)) + 0.6 * v.hardness * v.glide(np.full_like(v.time, v.pitch * 1.5))
    return tone * pulses


def _wind(v: Note) -> Array:
    slow = np.interp(v.time, np.linspace(0, 5, 12), v.rng.uniform(0.2, 1, 12)).astype(np.float32)
    width = 1.25 + 0.75 * v.hardness
    return slow * (v.noise(v.pitch / width, v.pitch * width) + 0.4 * v.hardness * v.noise(4000, 9000))


def _ball(v: Note) -> Array:
    total = np.zeros_like(v.time)
    start, gap = 0.0, 0.22
    for k in range(5):  # each bounce sooner and softer than the last
        first = int(start * RATE)
        later = Note(v.time[: max(len(v.time) - first, 0)], v.pitch, v.hardness, v.rng)
        total[first:] += np.float32(0.75**k) * later.partials([1.0, 2.4, 4.1], 0.7, 0.03)
        start, gap = start + gap, gap * 0.72
    return total


def _rattle(v: Note) -> Array:
    grains = np.maximum(0, np.sin(2 * np.pi * 19 * v.time)) ** 6 * (v.time < 0.32)
    return grains * v.noise(v.pitch, min(v.pitch * (1.6 + 1.4 * v.hardness), 0.48 * RATE))


def _flute(v: Note) -> Array:
    vibrato = v.pitch * (1 + 0.02 * np.sin(2 * np.pi * 5.5 * v.time + v.rng.uniform(0, 6.28)))
    tone = v.glide(vibrato) + _level(v, 2) * v.glide(2 * vibrato) + _level(v, 3) * 0.7 * v.glide(3 * vibrato)
    return tone + 0.08 * v.noise(v.pitch, 0.45 * RATE)


def _level(v: Note, k: int) -> float:
    """Level of the k-th harmonic of a sustained sound: harder is brighter."""
    return float(k ** (-2.2 + 1.7 * v.hardness))


@dataclass(frozen=True)
class Timbre:
    """How a kind sounds: one note, its middle pitch in Hz, and whether it sounds all the time."""

    play: Callable[[Note], Array]
    pitch: float
    sustained: bool = False


TIMBRES = {
    "bell": Timbre(_bell, 900),
    "string": Timbre(_string, 260),
    "drum": Timbre(_drum, 130),
    "siren": Timbre(_siren, 650, sustained=True),
    "engine": Timbre(_engine, 110, sustained=True),
    "drip": Timbre(_drip, 1100),
    "bird": Timbre(_bird, 3000),
    "cricket": Timbre(_cricket, 4200),
    "wind": Timbre(_wind, 900, sustained=True),
    "ball": Timbre(_ball, 240),
    "rattle": Timbre(_rattle, 2200),
    "flute": Timbre(_flute, 800, sustained=True),
}


def render_sound(clip: Factors, seed: int) -> NDArray[np.float32]:
    """The sound of a clip: mono (S,) at `RATE`, peak below 1."""
    rng = np.random.default_rng([seed, clip.index, 1])
    samples = int(clip.duration_s * RATE)
    timbre = TIMBRES[clip.kind]
    pitch = timbre.pitch * 2.0 ** (1.4 * (0.5 - clip.size))
    total = np.zeros(samples, np.float32)
    for start, length in _strikes(timbre, clip, rng):
        length = min(length, samples - start)
        if length <= 0:
            continue
        detune = 2.0 ** rng.normal(0, 0.02)
        note = Note(np.arange(length, dtype=np.float32) / RATE, pitch * detune, clip.hardness, rng)
        total[start : start + length] += np.float32(rng.uniform(0.7, 1.0)) * timbre.play(note)
    total = _tone_control(total, clip.hardness)
    total /= np.abs(total).max() + 1e-9
    floor = rng.uniform(0.002, 0.02) * _coloured_noise(samples, rng.uniform(0, 1.2), rng)
    return (rng.uniform(0.25, 0.9) * np.clip(total + floor, -1, 1)).astype(np.float32)


def _strikes(timbre: Timbre, clip: Factors, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """(first sample, length) of every note; more things strike more often, or sound together."""
    if timbre.sustained:
        for thing in range(clip.count):
            yield int(rng.uniform(0, 0.15) * RATE) if thing else 0, int(clip.duration_s * RATE)
        return
    gap_s = 1.0 / clip.count
    time_s = rng.uniform(0, gap_s)
    while time_s < clip.duration_s - 0.05:
        yield int(time_s * RATE), int(1.2 * RATE)
        time_s += gap_s * rng.uniform(0.75, 1.25)


def _tone_control(sound: Array, hardness: float) -> Array:
    """Soft things sound as through a blanket, hard ones thin: a slope of -5 to +5 dB per octave around 1 kHz."""
    size = 1 << (len(sound) - 1).bit_length()
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / RATE), 60.0) / 1000.0)
    gain_db = np.clip((10 * hardness - 5) * octaves, -30, 30)
    return np.fft.irfft(np.fft.rfft(sound, size) * 10 ** (gain_db / 20), size)[: len(sound)].astype(np.float32)


def _coloured_noise(samples: int, slope: float, rng: np.random.Generator) -> Array:
    size = 1 << (samples - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1.0) ** (slope / 2)
    noise = np.fft.irfft(spectrum, size)[:samples].astype(np.float32)
    return noise / np.std(noise)
