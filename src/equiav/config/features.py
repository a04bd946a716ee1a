"""How a window of a media file becomes numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from equiav.config.loading import Settings
from equiav.errors import LibraryError

Modality = Literal["audio", "visual"]
MODALITIES: tuple[Modality, ...] = ("audio", "visual")
# What is looked at: where it is one modality, clips that have no more than that one count too
Modalities = Literal["audio", "visual", "both"]


def covers(modalities: Modalities, modality: Modality) -> bool:
    """Whether `modality` is looked at."""
    return modalities in (modality, "both")


def stored_modalities(about: Mapping[str, Any]) -> Modalities:
    """What a stored file says is looked at; earlier files call it `senses`, and both of them `audio-visual`."""
    found = about["senses"] if "senses" in about else about["modalities"]
    return "both" if found == "audio-visual" else found


class Features(Settings):
    """How a window of a media file becomes numbers; stored with the library, and with the model."""

    sample_rate: int = Field(
        default=16_000, ge=1000, le=768_000, description="Audio sample rate after resampling, in Hz."
    )
    mel_bins: int = Field(default=128, gt=0, le=1024, description="M, the number of mel bins.")
    clip_s: float = Field(default=10.0, ge=0.025, le=3600, description="Length of a window, in seconds.")
    hop_s: float = Field(default=10.0, ge=0.01, le=86_400, description="Distance between window starts, in seconds.")
    min_tail_s: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="A last window shorter than this, in seconds, is dropped (a whole short file never is).",
    )
    time_frames: int = Field(
        default=1024,
        gt=0,
        le=360_000,
        description="T, the number of 10 ms spectrogram frames: cut or zero-padded at the end.",
    )
    frame_side: int = Field(default=256, gt=0, le=8192, description="Short side of the stored JPEG frames, in pixels.")
    frames_per_clip: int = Field(
        default=10, gt=0, le=10_000, description="Video frames stored per window, evenly spaced inside it."
    )
    frame_pick: Literal["exact", "key"] = Field(
        default="exact",
        description="Which frames: those on the screen at these times; or (key) the window's key frames nearest to "
        "them, decoded several times as fast, and fewer where several times are near one.",
    )
    jpeg_quality: int = Field(default=92, ge=1, le=100, description="JPEG quality of the stored frames.")

    def differences(self, wanted: Features) -> str:
        """What makes spectrograms of these settings another kind than those of `wanted`; empty when nothing does."""
        names = ("sample_rate", "mel_bins", "time_frames", "clip_s")
        pairs = {name: (getattr(self, name), getattr(wanted, name)) for name in names}
        return "; ".join(
            f"{name} is {ours}, the model's {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs
        )


def check_features(library: Features, model: Features, where: object) -> None:
    """The spectrograms of the library at `where` must be of the kind that the model was trained on.

    Raises:
        LibraryError: sample rate, mel bins, frames or window length differ.
    """
    if differ := library.differences(model):
        raise LibraryError(
            f"{where} was ingested with features that the model does not know: {differ}. Ingest the videos into a new "
            "library like the model's: equiav ingest VIDEOS --library NEW --like MODEL"
        )
