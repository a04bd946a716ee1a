"""What a model sees, as small pictures for pages: standardised log-mel or a view in [0, 1] → data URI.

A map of weights over the tokens can be laid over either: what gets little of it is dimmed.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

# Shown as standard deviations from the mean: quieter and louder are the ends of the colour map
QUIET, LOUD = -2.5, 2.5
SPECTROGRAM_SIZE = (264, 88)
PICTURE_SIDE = 132
DIMMED = 0.25  # brightness where a map is 0


def mel_uri(view: Float[Tensor, "T M"], weights: Float[Tensor, "rows columns"] | None = None) -> str:
    """A spectrogram, time to the right and low at the bottom; weights have a row per band of mel bins, low first."""
    from matplotlib import colormaps

    shade = ((view.T.flip(0) - QUIET) / (LOUD - QUIET)).clamp(0, 1)
    image = Image.fromarray((shade * 255).round().to(torch.uint8).numpy())
    image = image.resize(SPECTROGRAM_SIZE, Image.Resampling.BOX)
    palette = np.round(255 * colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8)
    if weights is None:
        image.putpalette(palette.tobytes())
        return _uri(image, "PNG")
    return _uri(_lit(palette[np.asarray(image)], weights.flip(0)), "JPEG")


def picture_uri(view: Float[Tensor, "3 S S"], weights: Float[Tensor, "rows columns"] | None = None) -> str:
    """A picture; weights have a row per row of patches, top first."""
    image = Image.fromarray((view * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    image = image.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    return _uri(image if weights is None else _lit(np.asarray(image), weights), "JPEG")


def _lit(pixels: UInt8[np.ndarray, "H W 3"], weights: Float[Tensor, "rows columns"]) -> Image.Image:
    """The picture as bright as the weights say, the largest of them fully."""
    share = (weights / weights.max().clamp(min=1e-12)).clamp(0, 1).numpy()
    light = Image.fromarray(np.round(255 * share).astype(np.uint8))
    size = (pixels.shape[1], pixels.shape[0])
    brightness = DIMMED + (1 - DIMMED) * np.asarray(light.resize(size, Image.Resampling.BILINEAR)) / 255
    return Image.fromarray(np.round(pixels * brightness[..., None]).astype(np.uint8))


def _uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
