"""How the things of the toy world look: twelve silhouettes on textured, drifting, noisy backgrounds.

(kind, size, hardness, count, seed)  ->  frames (F, SIDE, SIDE, 3), boxes of the things in each
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equiav.toyworld.clip import Factors

Image = NDArray[np.floating[Any]]

SIDE = 96  # pixels
FPS = 10

# ---- silhouettes: distance(x, y) < 0 inside, in units of the thing's radius --------------------------------


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
    return np.maximum(_box(x, y, 0, 0, 1.0, 0.27), -holes)


@dataclass(frozen=True)
class Look:
    """A silhouette, the marks on it (where positive) with their colour, and its size beside the others."""

    shape: Callable[[Image, Image], Image]
    marks: Callable[[Image, Image], Image]
    colour: tuple[float, float, float]
    scale: float = 1.0


WHITE, BLACK, RED, GREEN, BLUE, YELLOW = (1, 1, 1), (0, 0, 0), (0.9, 0, 0), (0, 0.7, 0), (0.1, 0.1, 0.9), (1, 0.9, 0)

LOOKS = {
    "bell": Look(_bell_shape, lambda x, y: np.sin(9 * y + 0 * x), WHITE),
    "string": Look(_string_shape, lambda x, y: np.abs(y + 0 * x) - 0.45, BLACK, 1.25),
    "drum": Look(_drum_shape, lambda x, y: np.sin(9 * x + 0 * y), RED),
    "siren": Look(_siren_shape, lambda x, y: y - 0.1 + 0 * x, BLUE),
    "engine": Look(_engine_shape, lambda x, y: 0.75 - np.hypot(x, y), BLACK),
    "drip": Look(_drip_shape, lambda x, y: 0.4 - np.hypot(x, y - 0.4), BLUE),
    "bird": Look(_bird_shape, lambda x, y: np.abs(x) - 0.4 + 0 * y, WHITE, 1.3),
    "cricket": Look(_cricket_shape, lambda x, y: np.sin(7 * (x + y)), GREEN),
    "wind": Look(_wind_shape, lambda x, y: y + 0 * x, YELLOW),
    "ball": Look(_ball_shape, lambda x, y: np.sin(5 * x) * np.sin(5 * y), RED),
    "rattle": Look(_rattle_shape, lambda x, y: 0.5 - np.hypot(x, y + 0.35), YELLOW, 1.3),
    "flute": Look(_flute_shape, lambda x, y: np.sin(12 * x + 0 * y), GREEN, 1.3),
}


def render_frames(clip: Factors, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The picture of a clip: frames (F, SIDE, SIDE, 3), and where the things are, boxes (F, count, 4) x0, y0, x1, y1.

    A box holds what is seen of the thing, in pixels; that of a thing out of sight is all zeros.
    """
    rng = np.random.default_rng([seed, clip.index, 2])
    frames = int(clip.duration_s * FPS)
    drift = rng.uniform(-0.9, 0.9, 2)  # pixels per frame
    canvas = _texture(rng, SIDE + 2 * frames)
    sprites = [_sprite(clip, rng) for _ in range(clip.count)]
    centres = _places(clip, rng)
    sway = rng.uniform(0, 3.0, (clip.count, 2))
    phase = rng.uniform(0, 6.28, (clip.count, 2))
    camera = np.cumsum(rng.normal(0, 0.5, (frames, 2)), axis=0)
    light = _lighting(rng)
    out = np.empty((frames, SIDE, SIDE, 3), np.uint8)
    boxes = np.zeros((frames, clip.count, 4), np.int64)
    for f in range(frames):
        left, top = (np.array([frames, frames]) + drift * f).astype(int)
        picture = canvas[top : top + SIDE, left : left + SIDE].copy()
        for n, (colour, cover) in enumerate(sprites):
            centre = centres[n] + camera[f] + sway[n] * np.sin(2 * np.pi * 0.5 * f / FPS + phase[n])
            boxes[f, n] = _paste(picture, colour, cover, centre)
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


def _sprite(clip: Factors, rng: np.random.Generator) -> tuple[Image, Image]:
    """Colour (h, w, 3) and coverage (h, w, 1) of one thing, tilted a little."""
    look = LOOKS[clip.kind]
    radius = look.scale * (11.0 + 11.0 * clip.size) * rng.uniform(0.95, 1.05)
    reach = int(np.ceil(radius * 1.35))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32) / np.float32(radius)
    tilt = rng.uniform(-0.25, 0.25)
    x, y = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    distance = look.shape(x, y) * radius
    cover = np.clip(0.5 - distance, 0, 1).astype(np.float32)[..., None]
    hue = 0.66 * clip.hardness + rng.normal(0, 0.01)
    body = np.array(colorsys.hsv_to_rgb(hue % 1.0, 0.85, 0.95), np.float32)
    colour = np.where(look.marks(x, y)[..., None] > 0, np.array(look.colour, np.float32), body)
    shade = np.clip(0.85 - 0.25 * (x + y), 0.5, 1.1).astype(np.float32)[..., None]
    return colour * shade, cover


def _places(clip: Factors, rng: np.random.Generator) -> NDArray[np.float64]:
    """Centres (count, 2) in pixels, at most one per quarter of the picture: things do not hide each other."""
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


def _paste(picture: Image, colour: Image, cover: Image, centre: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Draw a thing, and say which pixels it covers at least half: the smallest box around them."""
    height, width = cover.shape[:2]
    left, top = (np.round(centre) - np.array([width // 2, height // 2])).astype(int)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, SIDE), min(top + height, SIDE)
    if x0 >= x1 or y0 >= y1:
        return 0, 0, 0, 0
    part = cover[y0 - top : y1 - top, x0 - left : x1 - left]
    target = picture[y0:y1, x0:x1]
    target += part * (colour[y0 - top : y1 - top, x0 - left : x1 - left] - target)
    rows, columns = np.nonzero(part[..., 0] >= 0.5)
    if not len(rows):
        return 0, 0, 0, 0
    left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return int(x0 + left), int(y0 + top), int(x0 + right), int(y0 + bottom)
