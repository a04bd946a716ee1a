"""Videos as people have them, made up: textured, moving, with noise of a camera and a sound that changes."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

RATE = 44_100


# x264's options, as different makers of videos set them
ENCODINGS: dict[str, dict[str, str]] = {
    "x264's defaults: CRF 23, key frames up to 250 apart": {},
    "a site: 2.5 Mbit/s, a key frame every 2 s": {"b": "2500k", "maxrate": "3500k", "bufsize": "5000k", "g": "60"},
    "a phone: 12 Mbit/s, a key frame every second, no B": {"b": "12000k", "g": "30", "bf": "0"},
}


def write_video(
    path: Path,
    seed: int,
    *,
    seconds: float,
    size: tuple[int, int],
    fps: int,
    options: dict[str, str] | None = None,
) -> None:
    """H.264 with x264's `options`, and stereo AAC of 128 kbit/s."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as out:
        video, audio = (
            out.add_stream("libx264", rate=fps, options=options),
            out.add_stream("aac", rate=RATE, layout="stereo"),
        )
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio.bit_rate = 128_000
        for picture in _pictures(rng, round(seconds * fps), size):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(_sound(rng, seconds), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))


def copies(originals: list[Path], folder: Path, wanted: int) -> None:
    """`wanted` MP4 files of unlike content: each an original with a box at its end that players skip."""
    folder.mkdir(parents=True)
    contents = [path.read_bytes() for path in originals]
    for number in range(wanted):
        box = struct.pack(">I4sQ", 16, b"free", number)
        (folder / f"{number:06d}.mp4").write_bytes(contents[number % len(contents)] + box)


def _pictures(rng: np.random.Generator, frames: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """A pan over a texture with detail of all sizes, things that move across it, and a camera's noise."""
    width, height = size
    large = np.zeros((height + frames, width + 2 * frames, 3), np.float32)
    for octave in range(1, 9):
        cells = rng.integers(0, 256, (2 + (3 << octave), 2 + (5 << octave), 3), dtype=np.uint8)
        large += np.asarray(Image.fromarray(cells).resize((large.shape[1], large.shape[0]))) / 1.6**octave * 0.6
    things = [
        (Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)), *rng.uniform(0, 1, 4)) for _ in "12345"
    ]
    noise = [rng.normal(0, 4, (height, width, 1)).astype(np.float32) for _ in range(8)]
    shown = []
    for i in range(frames):
        picture = large[i : i + height, 2 * i : 2 * i + width].copy()
        for thing, left, top, across, down in things:
            side = height // 5
            x = round((left + across * i / frames) % 1 * (width - side))
            y = round((top + down * i / frames) % 1 * (height - side))
            picture[y : y + side, x : x + side] = np.asarray(thing.resize((side, side)))
        shown.append((picture + noise[i % 8]).clip(0, 255).astype(np.uint8))
    return shown


def _sound(rng: np.random.Generator, seconds: float) -> NDArray[np.float32]:
    """Tones that glide, over noise that swells: (2, S)."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    sound = 0.1 * rng.normal(size=(2, len(time_s))) * (1 + np.sin(2 * np.pi * rng.uniform(0.2, 2) * time_s)) / 2
    for _ in range(4):
        sweep = 2 * np.pi * (rng.uniform(100, 2000) * time_s + rng.uniform(-50, 50) * time_s**2)
        sound += 0.1 * np.sin(sweep)
    return sound.astype(np.float32)
