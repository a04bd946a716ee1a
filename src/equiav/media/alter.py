"""Copies of a video as people make them, to measure with:  a file → another one of it, changed in one known way.

Ten kinds: seven that keep the whole sound and picture, a part, and two that keep one of sound and picture. How much is
changed is drawn: the same generator gives the same file.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance

from equiav.config import Features
from equiav.errors import MediaError
from equiav.media.decode import read_audio
from equiav.media.frames import read_frames
from equiav.media.mux import write_clip
from equiav.media.probe import describe, open_media

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

RATE = 24_000  # Hz
FPS = 10
LONGEST_S = 60.0  # of a file so much is read
QUALITY = 95  # of the JPEGs in between


@dataclass(frozen=True)
class Video:
    """Sound and picture of a file, or of a part of it, from its start on."""

    frames: UInt8[np.ndarray, "F H W 3"]  # FPS of them per second, of even height and width
    sound: Float32[np.ndarray, " S"]  # RATE samples per second
    crf: int = 24
    bit_rate: int = 64_000

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.frames) / FPS

    def within(self, start_s: float, end_s: float) -> Video:
        """A part of it."""
        frames = self.frames[round(start_s * FPS) : round(end_s * FPS)]
        return replace(self, frames=frames, sound=self.sound[round(start_s * RATE) : round(end_s * RATE)])

    def write(self, path: Path) -> None:
        """As .mp4, H.264 and AAC."""
        write_clip(path, self.frames, FPS, self.sound, RATE, crf=self.crf, bit_rate=self.bit_rate)


def read_video(path: Path, side: int) -> Video:
    """The first `LONGEST_S` seconds of a file, with pictures of at most `side` pixels on the short side.

    Raises:
        MediaError: it has no sound or no picture, or they cannot be decoded.
    """
    with open_media(path) as container:
        info = describe(container, path)
        if info.audio_end_s is None or info.video_end_s is None:
            raise MediaError("no_audio" if info.audio_end_s is None else "no_video", f"{path.name} lacks a track")
        seconds = min(info.audio_end_s, info.video_end_s, LONGEST_S)
        times_s = [(i + 0.5) / FPS for i in range(max(1, int(seconds * FPS)))]
        jpegs, _ = read_frames(container, path, times_s, side, QUALITY, info)
    with open_media(path) as container:
        sound = read_audio(container, path, 0.0, len(jpegs) / FPS, RATE, info)
    frames = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs])
    return Video(_even(frames), sound)


def alter(
    kind: str, video: Video, other: Video, rng: np.random.Generator, features: Features
) -> tuple[Video, float] | None:
    """A copy of one of `KINDS`, and where it begins in the video, in seconds; None where the video is too short.

    Args:
        kind: what is changed.
        video: the original.
        other: sound or picture to put in its place.
        rng: how much is changed.
        features: of the windows that the copy is to be found by; a part has three of them where there are more.
    """
    if kind == "shifted":
        start_s = round(rng.uniform(0.1, 0.5) * min(features.hop_s, features.clip_s), 1)
        return (
            (video.within(start_s, video.seconds), start_s) if video.seconds > start_s + features.clip_s / 2 else None
        )
    if kind == "part":
        windows = 1 + int(max(0.0, video.seconds - features.clip_s) / features.hop_s)
        size = 3 if windows > 3 else 1
        if windows == 1:
            return None
        start_s = round(int(rng.integers(0, windows - size + 1)) * features.hop_s, 1)
        return video.within(start_s, start_s + (size - 1) * features.hop_s + features.clip_s), start_s
    return ALTERATIONS[kind](video, other, rng), 0.0


def _reencoded(video: Video, _: Video, rng: np.random.Generator) -> Video:
    small = _resized(video.frames, float(rng.uniform(0.5, 0.8)))
    return replace(video, frames=small, crf=int(rng.integers(30, 38)), bit_rate=24_000)


def _cropped(video: Video, _: Video, rng: np.random.Generator) -> Video:
    high, wide = video.frames.shape[1:3]
    share = rng.uniform(0.7, 0.9)
    height, width = round(share * high), round(share * wide)
    top, left = rng.integers(0, high - height + 1), rng.integers(0, wide - width + 1)
    return replace(video, frames=_even(video.frames[:, top : top + height, left : left + width]))


def _flipped(video: Video, _: Video, __: np.random.Generator) -> Video:
    return replace(video, frames=np.ascontiguousarray(video.frames[:, :, ::-1]))


def _letterboxed(video: Video, _: Video, rng: np.random.Generator) -> Video:
    high, wide = video.frames.shape[1:3]
    bar, axis = 2 * int(rng.uniform(0.05, 0.15) * min(high, wide)), int(rng.integers(1, 3))
    margins = [(0, 0), (0, 0), (0, 0), (0, 0)]
    margins[axis] = (bar, bar)
    return replace(video, frames=np.pad(video.frames, margins))


def _recoloured(video: Video, _: Video, rng: np.random.Generator) -> Video:
    brightness, contrast, colour = rng.uniform(0.75, 1.25, 3)
    turn = int(rng.integers(-12, 13))  # of 256: up to 17 degrees

    def changed(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        hsv = np.asarray(Image.fromarray(frame).convert("HSV")).copy()
        hsv[..., 0] += np.uint8(turn % 256)
        image = Image.fromarray(hsv, "HSV").convert("RGB")
        for enhance, factor in (
            (ImageEnhance.Brightness, brightness),
            (ImageEnhance.Contrast, contrast),
            (ImageEnhance.Color, colour),
        ):
            image = enhance(image).enhance(float(factor))
        return np.asarray(image)

    return replace(video, frames=np.stack([changed(frame) for frame in video.frames]))


def _gained(video: Video, _: Video, rng: np.random.Generator) -> Video:
    decibel = rng.choice([-1, 1]) * rng.uniform(3, 8)
    return replace(video, sound=np.clip(video.sound * np.float32(10 ** (decibel / 20)), -1, 1))


def _other_sound(video: Video, other: Video, _: np.random.Generator) -> Video:
    return replace(video, sound=np.resize(other.sound, len(video.sound)))


def _other_picture(video: Video, other: Video, _: np.random.Generator) -> Video:
    return replace(video, frames=other.frames[np.arange(len(video.frames)) % len(other.frames)])


def _resized(frames: UInt8[np.ndarray, "F H W 3"], scale: float) -> UInt8[np.ndarray, "F h w 3"]:
    high, wide = (max(2, 2 * round(scale * side / 2)) for side in frames.shape[1:3])
    return np.stack([np.asarray(Image.fromarray(frame).resize((wide, high))) for frame in frames])


def _even(frames: UInt8[np.ndarray, "F H W 3"]) -> UInt8[np.ndarray, "F h w 3"]:
    return np.ascontiguousarray(frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2])


_Change = Callable[[Video, Video, np.random.Generator], Video]
ALTERATIONS: dict[str, _Change] = {
    "reencoded": _reencoded,
    "cropped": _cropped,
    "flipped": _flipped,
    "letterboxed": _letterboxed,
    "recoloured": _recoloured,
    "gained": _gained,
    "other_sound": _other_sound,
    "other_picture": _other_picture,
}
KINDS = (*ALTERATIONS, "shifted", "part")
