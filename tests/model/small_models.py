"""Small models and batches for the model's tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiav.config import ModelConfig
from equiav.model.equiav import EquiAV

SMALL = {
    "width": 24,
    "depth": 2,
    "heads": 3,
    "image_side": 32,
    "parameter_width": 8,
    "predictor_heads": 2,
    "predictor_head_width": 8,
    "head_hidden": 32,
    "embedding": 16,
    "centroid_samples": 4,
}


def small_config(**architecture: Any) -> ModelConfig:
    features = {"time_frames": 48, "mel_bins": 32}
    return ModelConfig.model_validate({"architecture": SMALL | architecture, "features": features})


def small_model(**architecture: Any) -> EquiAV:
    return EquiAV(small_config(**architecture))


def batch_for(model: EquiAV, size: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """All arguments of `forward`, random."""
    generator = torch.Generator().manual_seed(seed)
    architecture, features = model.config.architecture, model.config.features
    k, side = architecture.centroid_samples, architecture.image_side
    shapes = {
        "audio": (features.time_frames, features.mel_bins),
        "visual": (3, side, side),
        "audio_view": (features.time_frames, features.mel_bins),
        "visual_view": (3, side, side),
        "audio_params": (model.audio_space.size,),
        "visual_params": (model.visual_space.size,),
        "audio_centroid_params": (k, model.audio_space.size),
        "visual_centroid_params": (k, model.visual_space.size),
    }
    return {name: torch.randn(size, *shape, generator=generator) for name, shape in shapes.items()}
