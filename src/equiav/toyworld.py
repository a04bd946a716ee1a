"""A made-up but physical audio-visual world, rendered to ordinary .mp4 files (H.264 + AAC).

    (seed, number of clips)  ->  OUT/{train,test}/*.mp4, labels.csv, factors.csv, README.md

Every clip shows 1-4 sounding things of one kind on a textured, moving, noisy background. What any one frame
shows determines what is heard; `README_TEXT` (written beside the clips) says what is shared and what is nuisance.
Deterministic: clip i of a world depends on (seed, i) alone.
"""

from __future__ import annotations

import colorsys
import csv
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equiav.errors import ConfigError
from equiav.media.mux import write_clip

Array = NDArray[np.float32]
Image = NDArray[np.float32]

SIDE = 96  # pixels
FPS = 10
RATE = 24_000  # Hz
README_TEXT = """# A toy world

Made by `equiav toyworld`: ordinary .mp4 files (H.264 96x96, 10 frames/s; AAC mono 24 kHz) of 2-4 seconds.
`labels.csv` (path,label,split) is what `equiav ingest` takes; `factors.csv` holds the truth behind each clip.

Shared by picture and sound (any single frame shows all of it):

| what one sees | what one hears |
|---|---|
| the kind of thing (12 silhouettes) | its timbre: modes, noise, glides |
| its size | its pitch: larger is lower |
| its hue, from red (soft) to blue (hard) | brightness of the spectrum, length of the decay |
| how many there are (1-4) | density: strikes per second, or voices |

Nuisance, drawn independently for the two senses: background texture and colours, its drift, camera shift,
lighting, grain, positions, tilt and sway of the things | loudness, onset, noise floor and its colour, exact
times of the strikes, small detuning.
"""


@dataclass(frozen=True)
class Clip:
    """The shared factors of one clip: all that picture and sound have in common."""

    index: int
    kind: str
    size: float  # 0 small .. 1 large
    hardness: float  # 0 soft, red .. 1 hard, blue
    count: int  # 1..4
    duration_s: float


def draw_clip(seed: int, index: int) -> Clip:
    """The shared factors of clip `index`; kinds take turns so that every split holds them evenly."""
    rng = np.random.default_rng([seed, index, 0])
    kinds = list(KINDS)
    return Clip(
        index=index,
        kind=kinds[(index * 5 + index // len(kinds)) % len(kinds)],
        size=float(rng.random()),
        hardness=float(rng.random()),
        count=int(rng.integers(1, 5)),
        duration_s=float(rng.uniform(2.2, 3.8)),
    )


# ---- sound -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voice:
    """What a timbre needs to know: `time` (S,) seconds since the strike, pitch in Hz, hardness, a generator."""

    time: Array
    pitch: float
    hardness: float
    rng: np.random.Generator

    def decay(self, seconds: float) -> Array:
        """Exponential decay to 1/e in `seconds` for a middling material; three times longer if hard, shorter if soft."""
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


def _bell(v: Voice) -> Array:
    return v.partials([0.5, 1.0, 1.19, 1.5, 2.0, 2.74, 3.76], 0.6, 0.5)


def _string(v: Voice) -> Array:
    return v.partials([float(k) for k in range(1, 13)], 1.1, 0.25)


def _drum(v: Voice) -> Array:
    skin = v.partials([1.0, 1.59, 2.14, 2.3, 2.65, 2.92], 0.8, 0.12)
    return skin + (0.3 + 0.7 * v.hardness) * v.noise(200, 3000 + 5000 * v.hardness) * np.exp(-v.time / 0.02)


def _siren(v: Voice) -> Array:
    sweep = v.pitch * 2 ** (0.5 * np.sin(2 * np.pi * 1.2 * v.time + v.rng.uniform(0, 6.28)))
    return sum((_level(v, k) * v.glide(sweep * k) for k in (1, 2, 3, 5)), np.zeros_like(v.time))


def _engine(v: Voice) -> Array:
    puffs = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * v.pitch / 8 * v.time)) * np.cos(2 * np.pi * v.pitch / 16 * v.time)
    hum = sum(
        (_level(v, k) * v.glide(np.full_like(v.time, v.pitch * k)) for k in range(1, 10)),
        np.zeros_like(v.time),
    )
    return hum * puffs + 0.3 * puffs * v.noise(100, 1500 + 3000 * v.hardness)


def _drip(v: Voice) -> Array:
    rise = v.pitch * (1 + 6 * v.time)
    return v.glide(np.minimum(rise, 0.45 * RATE)) * v.decay(0.05) + 0.2 * v.hardness * v.noise(4000, 9000) * np.exp(
        -v.time / 0.01
    )


def _bird(v: Voice) -> Array:
    warble = v.pitch * (1 + 0.25 * np.sin(2 * np.pi * 14 * v.time) - 0.8 * v.time)
    song = v.glide(warble) + (0.1 + 0.5 * v.hardness) * v.glide(2 * warble)
    return song * np.exp(-(((v.time - 0.12) / 0.07) ** 2))


def _cricket(v: Voice) -> Array:
    pulses = np.maximum(0, np.sin(2 * np.pi * 28 * v.time)) ** 2 * (v.time < 0.22)
    tone = v.glide(np.full_like(v.time, v.pitch)) + 0.6 * v.hardness * v.glide(np.full_like(v.time, v.pitch * 1.5))
    return tone * pulses


def _wind(v: Voice) -> Array:
    slow = np.interp(v.time, np.linspace(0, 5, 12), v.rng.uniform(0.2, 1, 12)).astype(np.float32)
    width = 1.25 + 0.75 * v.hardness
    return slow * (v.noise(v.pitch / width, v.pitch * width) + 0.4 * v.hardness * v.noise(4000, 9000))


def _ball(v: Voice) -> Array:
    total = np.zeros_like(v.time)
    start, gap = 0.0, 0.22
    for k in range(5):  # each bounce sooner and softer than the last
        first = int(start * RATE)
        later = Voice(v.time[: max(len(v.time) - first, 0)], v.pitch, v.hardness, v.rng)
        total[first:] += np.float32(0.75**k) * later.partials([1.0, 2.4, 4.1], 0.7, 0.03)
        start, gap = start + gap, gap * 0.72
    return total


def _rattle(v: Voice) -> Array:
    grains = np.maximum(0, np.sin(2 * np.pi * 19 * v.time)) ** 6 * (v.time < 0.32)
    return grains * v.noise(v.pitch, min(v.pitch * (1.6 + 1.4 * v.hardness), 0.48 * RATE))


def _flute(v: Voice) -> Array:
    vibrato = v.pitch * (1 + 0.02 * np.sin(2 * np.pi * 5.5 * v.time + v.rng.uniform(0, 6.28)))
    tone = v.glide(vibrato) + _level(v, 2) * v.glide(2 * vibrato) + _level(v, 3) * 0.7 * v.glide(3 * vibrato)
    return tone + 0.08 * v.noise(v.pitch, 0.45 * RATE)


def _level(v: Voice, k: int) -> float:
    """Level of the k-th harmonic of a sustained sound: harder is brighter."""
    return float(k ** (-2.2 + 1.7 * v.hardness))


# ---- shapes: d(x, y) < 0 inside, in units of the thing's radius --------------------------------------------


def _box(x: Image, y: Image, cx: float, cy: float, hx: float, hy: float) -> Image:
    return np.maximum(np.abs(x - cx) - hx, np.abs(y - cy) - hy)


def _disc(x: Image, y: Image, cx: float, cy: float, r: float, squash: float = 1.0) -> Image:
    return np.hypot(x - cx, (y - cy) / squash) - r


def _bell_shape(x: Image, y: Image) -> Image:
    skirt = np.maximum(np.abs(x) - (0.38 + 0.42 * np.clip((y + 0.5) / 1.2, 0, 1) ** 2), np.abs(y) - 0.7)
    return np.minimum(np.minimum(skirt, _disc(x, y, 0, -0.65, 0.33)), _disc(x, y, 0, 0.82, 0.17))


def _string_shape(x: Image, y: Image) -> Image:
    body = np.minimum(_disc(x, y, 0, 0.55, 0.42), _disc(x, y, 0, 0.05, 0.28))
    return np.maximum(np.minimum(body, _box(x, y, 0, -0.5, 0.07, 0.5)), 0.13 - np.hypot(x, y - 0.5))


def _drum_shape(x: Image, y: Image) -> Image:
    return np.minimum(
        _box(x, y, 0, 0.15, 0.85, 0.45),
        np.minimum(_disc(x, y, 0, -0.3, 0.85, 0.3), _disc(x, y, 0, 0.6, 0.85, 0.3)),
    )


def _siren_shape(x: Image, y: Image) -> Image:
    dome = np.maximum(_disc(x, y, 0, 0.3, 0.62), y - 0.3)
    rays = np.maximum(
        np.abs(np.sin(3 * np.arctan2(y - 0.3, x))) * 0.5 - 0.08,
        np.maximum(np.hypot(x, y - 0.3) - 1.2, y - 0.2),
    )
    return np.minimum(np.minimum(dome, _box(x, y, 0, 0.5, 0.8, 0.2)), np.maximum(rays, 0.8 - np.hypot(x, y - 0.3)))


def _engine_shape(x: Image, y: Image) -> Image:
    gear = np.hypot(x, y) - (0.78 + 0.2 * np.sign(np.sin(8 * np.arctan2(y, x))))
    return np.maximum(gear, 0.35 - np.hypot(x, y))


def _drip_shape(x: Image, y: Image) -> Image:
    return np.minimum(
        _disc(x, y, 0, 0.4, 0.55),
        np.maximum(np.abs(x) - 0.5 * np.clip((y + 0.95) / 1.2, 0, 1), np.abs(y + 0.3) - 0.65),
    )


def _bird_shape(x: Image, y: Image) -> Image:
    left = np.maximum(_disc(x, y, -0.5, 0.25, 0.55), 0.45 - np.hypot(x + 0.5, y - 0.5))
    right = np.maximum(_disc(x, y, 0.5, 0.25, 0.55), 0.45 - np.hypot(x - 0.5, y - 0.5))
    return np.minimum(np.minimum(left, right), _disc(x, y, 0, 0.15, 0.2, 1.6))


def _cricket_shape(x: Image, y: Image) -> Image:
    legs = np.maximum(np.abs(np.abs(x) - 0.55 + 0.4 * np.abs(y)) - 0.09, np.abs(y) - 0.9)
    return np.minimum(_disc(x, y, 0, 0, 0.24, 3.2), legs)


def _wind_shape(x: Image, y: Image) -> Image:
    wave = y + 0.18 * np.sin(5 * x)
    return np.maximum(np.abs(np.mod(wave + 0.25, 0.5) - 0.25) - 0.1, np.maximum(np.abs(x) - 0.95, np.abs(y) - 0.75))


def _ball_shape(x: Image, y: Image) -> Image:
    return _disc(x, y, 0, 0, 0.85)


def _rattle_shape(x: Image, y: Image) -> Image:
    dots = np.hypot(np.mod(x + 0.2, 0.4) - 0.2, np.mod(y + 0.55, 0.4) - 0.2) - 0.08
    return np.minimum(np.maximum(_disc(x, y, 0, -0.35, 0.55), -dots), _box(x, y, 0, 0.55, 0.12, 0.45))


def _flute_shape(x: Image, y: Image) -> Image:
    holes = np.maximum(np.abs(np.mod(x + 0.15, 0.3) - 0.15) - 0.06, np.abs(y) - 0.09)
    return np.maximum(_box(x, y, 0, 0, 1.0, 0.2), -holes)


@dataclass(frozen=True)
class Kind:
    """A kind of sounding thing: silhouette, timbre, middle pitch in Hz, and whether it sounds all the time."""

    shape: Callable[[Image, Image], Image]
    timbre: Callable[[Voice], Array]
    pitch: float
    sustained: bool = False


KINDS = {
    "bell": Kind(_bell_shape, _bell, 900),
    "string": Kind(_string_shape, _string, 260),
    "drum": Kind(_drum_shape, _drum, 130),
    "siren": Kind(_siren_shape, _siren, 650, sustained=True),
    "engine": Kind(_engine_shape, _engine, 110, sustained=True),
    "drip": Kind(_drip_shape, _drip, 1100),
    "bird": Kind(_bird_shape, _bird, 3000),
    "cricket": Kind(_cricket_shape, _cricket, 4200),
    "wind": Kind(_wind_shape, _wind, 900, sustained=True),
    "ball": Kind(_ball_shape, _ball, 240),
    "rattle": Kind(_rattle_shape, _rattle, 2200),
    "flute": Kind(_flute_shape, _flute, 800, sustained=True),
}


def render_sound(clip: Clip, seed: int) -> NDArray[np.float32]:
    """The sound of a clip: mono (S,) at `RATE`, peak below 1."""
    rng = np.random.default_rng([seed, clip.index, 1])
    samples = int(clip.duration_s * RATE)
    kind = KINDS[clip.kind]
    pitch = kind.pitch * 2.0 ** (1.4 * (0.5 - clip.size))
    total = np.zeros(samples, np.float32)
    for start, length in _strikes(kind, clip, rng):
        length = min(length, samples - start)
        if length <= 0:
            continue
        detune = 2.0 ** rng.normal(0, 0.02)
        voice = Voice(np.arange(length, dtype=np.float32) / RATE, pitch * detune, clip.hardness, rng)
        total[start : start + length] += np.float32(rng.uniform(0.7, 1.0)) * kind.timbre(voice)
    total /= np.abs(total).max() + 1e-9
    floor = rng.uniform(0.002, 0.02) * _coloured_noise(samples, rng.uniform(0, 1.2), rng)
    return (rng.uniform(0.25, 0.9) * np.clip(total + floor, -1, 1)).astype(np.float32)


def _strikes(kind: Kind, clip: Clip, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """(first sample, length) of every strike or voice; more things strike more often, or sound in more voices."""
    if kind.sustained:
        for voice in range(clip.count):
            yield int(rng.uniform(0, 0.15) * RATE) if voice else 0, int(clip.duration_s * RATE)
        return
    gap_s = 0.95 / clip.count
    time_s = rng.uniform(0, gap_s)
    while time_s < clip.duration_s - 0.05:
        yield int(time_s * RATE), int(1.2 * RATE)
        time_s += gap_s * rng.uniform(0.75, 1.25)


def _coloured_noise(samples: int, slope: float, rng: np.random.Generator) -> Array:
    size = 1 << (samples - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1.0) ** (slope / 2)
    noise = np.fft.irfft(spectrum, size)[:samples].astype(np.float32)
    return noise / np.std(noise)


def render_frames(clip: Clip, seed: int) -> tuple[NDArray[np.uint8], list[list[int]]]:
    """The picture of a clip: frames (F, SIDE, SIDE, 3), and each thing's box [x0, y0, x1, y1] in the middle frame."""
    rng = np.random.default_rng([seed, clip.index, 2])
    frames = int(clip.duration_s * FPS)
    drift = rng.uniform(-1.2, 1.2, 2)
    canvas = _texture(rng, SIDE + 2 * frames)
    sprites = [_sprite(clip, rng) for _ in range(clip.count)]
    centres = _places(clip, rng)
    sway = rng.uniform(0, 3.0, (clip.count, 2))
    phase = rng.uniform(0, 6.28, (clip.count, 2))
    camera = np.cumsum(rng.normal(0, 0.5, (frames, 2)), axis=0)
    light = _lighting(rng)
    out = np.empty((frames, SIDE, SIDE, 3), np.uint8)
    boxes: list[list[int]] = []
    for f in range(frames):
        left, top = (np.array([frames, frames]) + drift * f * 0.9).astype(int)
        picture = canvas[top : top + SIDE, left : left + SIDE].copy()
        shown = []
        for n, (colour, cover) in enumerate(sprites):
            centre = centres[n] + camera[f] + sway[n] * np.sin(2 * np.pi * 0.5 * f / FPS + phase[n])
            shown.append(_paste(picture, colour, cover, centre))
        if f == frames // 2:
            boxes = shown
        picture = picture * light + np.float32(0.03) * rng.standard_normal((SIDE, SIDE, 1), np.float32)
        out[f] = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return out, boxes


def _texture(rng: np.random.Generator, side: int) -> Image:
    """A smooth two-colour background with blobs at two scales: (side, side, 3) in [0, 1]."""
    blend = np.zeros((side, side), np.float32)
    for cells, weight in ((5, 0.7), (17, 0.3)):
        grid = rng.random((cells + 1, cells + 1))
        at = np.linspace(0, cells, side, endpoint=False)
        low, part = at.astype(int), (at % 1)[:, None]
        rows = grid[low] * (1 - part) + grid[low + 1] * part
        blend += (weight * (rows[:, low] * (1 - part.T) + rows[:, low + 1] * part.T)).astype(np.float32)
    dark, light = (
        np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.45), v), np.float32) for v in (0.25, 0.6)
    )
    return dark + blend[..., None] * (light - dark)


def _sprite(clip: Clip, rng: np.random.Generator) -> tuple[Image, Image]:
    """Colour (h, w, 3) and coverage (h, w, 1) of one thing, tilted a little."""
    radius = (9.0 + 10.0 * clip.size) * rng.uniform(0.95, 1.05)
    reach = int(np.ceil(radius * 1.35))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32) / np.float32(radius)
    tilt = rng.uniform(-0.25, 0.25)
    x, y = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    distance = KINDS[clip.kind].shape(x, y) * radius
    cover = np.clip(0.5 - distance, 0, 1).astype(np.float32)[..., None]
    hue = 0.66 * clip.hardness + rng.normal(0, 0.01)
    colour = np.array(colorsys.hsv_to_rgb(hue % 1.0, 0.85, 0.95), np.float32)
    shade = np.clip(0.85 - 0.25 * (x + y), 0.5, 1.1).astype(np.float32)[..., None]
    return colour * shade, cover


def _places(clip: Clip, rng: np.random.Generator) -> Array:
    """Centres (count, 2) in pixels, one per quarter of the picture, in random quarters: things do not hide each other."""
    quarters = rng.permutation(np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]))[: clip.count]
    if clip.count == 1:
        return SIDE / 2 + rng.uniform(-20, 20, (1, 2))
    return SIDE / 2 + quarters * SIDE / 4.4 + rng.uniform(-4, 4, (clip.count, 2))


def _lighting(rng: np.random.Generator) -> Image:
    """A gain that changes across the picture: (SIDE, SIDE, 1)."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE - 0.5
    angle = rng.uniform(0, 6.28)
    slope = rng.uniform(0, 0.5) * (x * np.cos(angle) + y * np.sin(angle))
    return (rng.uniform(0.75, 1.15) + slope).astype(np.float32)[..., None]


def _paste(picture: Image, colour: Image, cover: Image, centre: Array) -> list[int]:
    height, width = cover.shape[:2]
    left, top = (np.round(centre) - np.array([width // 2, height // 2])).astype(int)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, SIDE), min(top + height, SIDE)
    if x0 >= x1 or y0 >= y1:
        return [0, 0, 0, 0]
    part = cover[y0 - top : y1 - top, x0 - left : x1 - left]
    target = picture[y0:y1, x0:x1]
    target += part * (colour[y0 - top : y1 - top, x0 - left : x1 - left] - target)
    return [int(v) for v in (x0, y0, x1, y1)]


# ---- the world on disk -------------------------------------------------------------------------------------


def make_world(
    out: Path,
    clips: int,
    seed: int,
    *,
    test: int | None = None,
    workers: int = 2,
    on_clip: Callable[[], None] | None = None,
) -> None:
    """Render `clips` clips into `out`; the last `test` (default: an eighth) are the test split.

    A clip already there is kept, so a killed rendering goes on where it was.

    Raises:
        ConfigError: fewer than two clips, or a test split that leaves nothing to train on.
    """
    test = max(1, clips // 8) if test is None else test
    if clips < 2 or not 0 < test < clips:
        raise ConfigError(f"a world needs at least one training and one test clip, found clips={clips}, test={test}")
    for split in ("train", "test"):
        (out / split).mkdir(parents=True, exist_ok=True)
    _claim(out, seed, clips, test)
    names = [f"{'test' if i >= clips - test else 'train'}/{draw_clip(seed, i).kind}-{i:06d}.mp4" for i in range(clips)]
    render = partial(_render_file, out, seed)
    boxes: list[list[list[int]]] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for shown in pool.map(render, range(clips), names, chunksize=8):
            boxes.append(shown)
            if on_clip:
                on_clip()
    _write_tables(out, seed, names, boxes)


def _claim(out: Path, seed: int, clips: int, test: int) -> None:
    """Clips of two worlds never mix in one folder."""
    found, wanted = out / "world.json", {"version": 1, "seed": seed, "clips": clips, "test": test}
    if found.exists() and json.loads(found.read_text(encoding="utf-8")) != wanted:
        raise ConfigError(
            f"{out} holds another world: {found.read_text(encoding='utf-8')}, wanted {wanted}; give another folder"
        )
    found.write_text(json.dumps(wanted), encoding="utf-8")
    (out / "README.md").write_text(README_TEXT, encoding="utf-8")


def _render_file(out: Path, seed: int, index: int, name: str) -> list[list[int]]:
    clip = draw_clip(seed, index)
    frames, boxes = render_frames(clip, seed)
    if not (out / name).exists():
        write_clip(out / name, frames, FPS, render_sound(clip, seed), RATE)
    return boxes


def _write_tables(out: Path, seed: int, names: list[str], boxes: list[list[list[int]]]) -> None:
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        table.writerows([name, draw_clip(seed, i).kind, name.split("/")[0]] for i, name in enumerate(names))
    with (out / "factors.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "kind", "size", "hardness", "count", "duration_s", "boxes"])
        for i, (name, shown) in enumerate(zip(names, boxes, strict=True)):
            c = draw_clip(seed, i)
            numbers = [f"{c.size:.4f}", f"{c.hardness:.4f}", c.count, f"{c.duration_s:.3f}"]
            table.writerow([name, c.kind, *numbers, json.dumps(shown)])
