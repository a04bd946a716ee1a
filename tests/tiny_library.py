"""A small model, and random clips made without decoding anything."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from equiav.config import Architecture, Features, ModelConfig
from equiav.library.records import Clip
from equiav.model.equiav import EquiAV

FEATURES = Features(
    sample_rate=8000,
    mel_bins=32,
    clip_s=0.4,
    hop_s=0.4,
    min_tail_s=0.2,
    time_frames=32,
    frame_side=40,
    frames_per_clip=3,
)
SIZES = Architecture(
    width=24,
    depth=1,
    heads=3,
    image_side=32,
    parameter_width=8,
    predictor_heads=2,
    predictor_head_width=8,
    head_hidden=16,
    embedding=12,
    centroid_samples=3,
)


def make_model(seed=0, **changes):
    config = ModelConfig(
        architecture=SIZES.model_copy(update=changes), features=FEATURES, audio_mean=-6.0, audio_std=4.0
    )
    return EquiAV(config, seed=seed).eval()


def make_clip(i, seed=0, **changes):
    rng = np.random.default_rng([seed, i])
    frames = []
    for _ in range(FEATURES.frames_per_clip):
        buffer = io.BytesIO()
        # pictures of unlike sizes, so that batches are padded
        picture = rng.integers(0, 256, (40, 40 + 7 * (i % 3), 3), dtype=np.uint8)
        Image.fromarray(picture).save(buffer, "JPEG", quality=90)
        frames.append(buffer.getvalue())
    clip = Clip(
        clip_id=f"clip{i}",
        item=f"item{i}",
        source=f"videos/{i}.mp4",
        start_s=0.0,
        end_s=0.4,
        labels=[f"class{i % 3}"],
        split="train",
        status="ok",
        fbank=rng.normal(-6, 4, (FEATURES.time_frames, FEATURES.mel_bins)).astype(np.float16),
        fbank_frames=FEATURES.time_frames,
        fbank_mean=-6.0,
        fbank_square=52.0,
        frames=frames,
        frame_times_s=[0.1, 0.2, 0.3],
        file_size=1,
        file_mtime_ns=1,
    )
    if changes.get("status") == "no_audio":
        changes |= {"fbank": None, "fbank_frames": 0, "fbank_mean": None, "fbank_square": None}
    if changes.get("status") == "no_video":
        changes |= {"frames": [], "frame_times_s": []}
    return replace(clip, **changes)
