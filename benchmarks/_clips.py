"""Clips of full size, made up: what a loader has to read, without any video."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from equiav.config import Features
from equiav.library.records import Clip
from equiav.library.table import Library


def picture(rng: np.random.Generator, side: int, quality: int) -> bytes:
    """A JPEG with a photograph's mixture of smooth and fine, 4:3."""
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((side * 4 // 3, side))
    fine = rng.normal(0, 6, (side, side * 4 // 3, 1))
    whole = Image.fromarray((np.asarray(coarse) + fine).clip(0, 255).astype(np.uint8))
    out = io.BytesIO()
    whole.save(out, "JPEG", quality=quality)
    return out.getvalue()


def make_library(folder: Path, clips: int, features: Features) -> Library:
    """A library of `clips` random clips, with `features.frames_per_clip` pictures each."""
    library, rng = Library.create(folder, features), np.random.default_rng(0)
    shape, count = (features.time_frames, features.mel_bins), features.frames_per_clip
    pictures = [picture(rng, features.frame_side, features.jpeg_quality) for _ in range(64)]
    for start in range(0, clips, 128):
        rows = []
        for number in range(start, min(start + 128, clips)):
            fbank = rng.normal(-4, 4, shape).astype(np.float16)
            rows.append(
                Clip(
                    clip_id=f"{number:024x}",
                    item=f"{number}.mp4",
                    source=f"{number}.mp4",
                    start_s=0.0,
                    end_s=features.clip_s,
                    labels=[],
                    split="train",
                    status="ok",
                    fbank=fbank,
                    fbank_frames=features.time_frames,
                    fbank_mean=-4.0,
                    fbank_square=32.0,
                    frames=[pictures[(number + i) % len(pictures)] for i in range(count)],
                    frame_times_s=[float(i) for i in range(count)],
                    file_size=0,
                    file_mtime_ns=0,
                )
            )
        library.append(rows)
    return library
