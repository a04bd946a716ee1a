"""What pages show of clips, as data URIs: stored log-mels, frames and sounds, and the views that a model sees.

A map of weights over the tokens can be laid over a view: what gets little of it is dimmed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

# Shown as standard deviations from the mean: quieter and louder are the ends of the colour map
QUIET, LOUD = -2.5, 2.5
SPECTROGRAM_SIZE = (264, 88)
PICTURE_SIDE = 132
DIMMED = 0.25  # brightness where a map is 0
# A raw log-mel is shown as natural-log energies below its loudest cell: quieter is the colour map's floor
DYNAMIC_RANGE = 10.0
RAW_SIZE = (288, 96)


@dataclass(frozen=True)
class ClipShown:
    """A clip as the page shows it; `log_mel` is raw (T, M), `audio` any file that a browser plays."""

    clip_id: str
    source: str
    start_s: float
    end_s: float
    labels: Sequence[str]
    thumbnail: bytes
    log_mel: Float[np.ndarray, "T M"] | None = None
    audio: bytes | None = None
    score: float | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any], log_mel: Float[np.ndarray, "T M"], score: float | None = None) -> ClipShown:
        """A clip as a library's row has it, with its middle frame."""
        about = {name: row[name] for name in ("clip_id", "source", "start_s", "end_s", "labels")}
        return cls(**about, thumbnail=row["frames"][len(row["frames"]) // 2], log_mel=log_mel, score=score)


def mel_uri(view: Float[Tensor, "T M"], weights: Float[Tensor, "rows columns"] | None = None) -> str:
    """A spectrogram, time to the right and low at the bottom; weights have a row per band of mel bins, low first."""
    shade = ((view.T.flip(0) - QUIET) / (LOUD - QUIET)).clamp(0, 1)
    image = Image.fromarray((shade * 255).round().to(torch.uint8).numpy())
    image = image.resize(SPECTROGRAM_SIZE, Image.Resampling.BOX)
    if weights is None:
        return data_uri("image/png", _magma_png(image))
    return image_uri(_lit(_magma()[np.asarray(image)], weights.flip(0)), "JPEG")


def picture_uri(view: Float[Tensor, "3 S S"], weights: Float[Tensor, "rows columns"] | None = None) -> str:
    """A picture; weights have a row per row of patches, top first."""
    image = Image.fromarray((view * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    image = image.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    return image_uri(image if weights is None else _lit(np.asarray(image), weights), "JPEG")


def spectrogram_uri(log_mel: Float[np.ndarray, "T M"]) -> str:
    """`spectrogram_png` as data URI."""
    return data_uri("image/png", spectrogram_png(log_mel))


def spectrogram_png(log_mel: Float[np.ndarray, "T M"]) -> bytes:
    """A small PNG of a log-mel: time to the right, low at the bottom, magma from quiet to loud."""
    mel = np.asarray(log_mel, dtype=np.float32)
    if mel.ndim != 2 or not np.isfinite(mel).all():
        raise ConfigError(f"a spectrogram is a finite (T, M) array, found shape {mel.shape}")
    # clips shorter than the window end in exact zeros, which would read as loud
    sounding = np.flatnonzero(mel.any(axis=1))
    mel = mel[: sounding[-1] + 1] if len(sounding) else mel
    shade = np.clip((mel - mel.max()) / DYNAMIC_RANGE + 1, 0, 1)
    image = Image.fromarray(np.round(255 * shade.T[::-1]).astype(np.uint8))
    resampling = Image.Resampling.BOX if mel.shape[0] > RAW_SIZE[0] else Image.Resampling.BICUBIC
    return _magma_png(image.resize(RAW_SIZE, resampling))


def _magma() -> UInt8[np.ndarray, "256 3"]:
    from matplotlib import colormaps

    return np.round(255 * colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8)


def _magma_png(shades: Image.Image) -> bytes:
    """Shades of grey in the colours of a spectrogram."""
    shades.putpalette(_magma().tobytes())
    return _encoded(shades, "PNG")


def file_uri(data: bytes) -> str:
    """A JPEG or PNG as data URI."""
    if data.startswith(b"\x89PNG"):
        return data_uri("image/png", data)
    if data.startswith(b"\xff\xd8"):
        return data_uri("image/jpeg", data)
    raise ConfigError(f"a thumbnail is a JPEG or PNG file, found bytes that start with {data[:8]!r}")


def sound_uri(data: bytes) -> str:
    """A WAV, Ogg, FLAC, MP3 or MP4 sound as data URI."""
    kinds = {b"RIFF": "audio/wav", b"OggS": "audio/ogg", b"fLaC": "audio/flac", b"ID3": "audio/mpeg"}
    kind = next((kind for start, kind in kinds.items() if data.startswith(start)), "audio/mp4")
    return data_uri(kind, data)


def _lit(pixels: UInt8[np.ndarray, "H W 3"], weights: Float[Tensor, "rows columns"]) -> Image.Image:
    """The picture as bright as the weights say, the largest of them fully."""
    share = (weights / weights.max().clamp(min=1e-12)).clamp(0, 1).numpy()
    light = Image.fromarray(np.round(255 * share).astype(np.uint8))
    size = (pixels.shape[1], pixels.shape[0])
    brightness = DIMMED + (1 - DIMMED) * np.asarray(light.resize(size, Image.Resampling.BILINEAR)) / 255
    return Image.fromarray(np.round(pixels * brightness[..., None]).astype(np.uint8))


def image_uri(image: Image.Image, kind: str) -> str:
    """An image as data URI, encoded as `kind`: PNG or JPEG."""
    return data_uri(f"image/{kind.lower()}", _encoded(image, kind))


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    return buffer.getvalue()


def data_uri(kind: str, data: bytes) -> str:
    """Bytes of a media type as data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
