"""The model: sizes, transformations, and all that config.json beside its weights holds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from equiav.config.features import Features
from equiav.config.loading import Settings


class Augment(Settings):
    """The transformations of both modalities, in order of application; names and ranges in `equiav.augment`.

    `audio` and `visual` map a transform's name to its options; empty means the paper's list with its ranges.
    """

    variant: Literal["unit", "released"] = Field(
        default="unit", description="Encoding of the parameters: every slot in [-1, 1], or the authors' numbers."
    )
    effects: Literal["ours", "released"] = Field(
        default="ours",
        description="With variant released: our audio effects, or the authors' (no shift, clipped jitter, mel flip).",
    )
    audio: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Audio transforms and their options.")
    visual: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Visual transforms and their options.")


class Architecture(Settings):
    """Sizes of the encoders, the predictor and the heads (default: ViT-B/16 and the released predictor)."""

    width: int = Field(default=768, gt=0, description="D, the width of a token.")
    depth: int = Field(default=12, gt=0, description="Transformer blocks per encoder.")
    heads: int = Field(default=12, gt=0, description="Attention heads per block; divides width.")
    audio_patch: int = Field(default=16, gt=0, description="Side of an audio patch, in frames and mel bins.")
    visual_patch: int = Field(default=16, gt=0, description="Side of a visual patch, in pixels.")
    image_side: int = Field(default=224, gt=0, description="Side of the image the encoder sees, in pixels.")
    parameter_width: int = Field(default=256, gt=0, description="Width of the transformation-parameter encoder.")
    predictor: Literal["attention", "linear", "mlp", "hypernetwork"] = Field(
        default="attention", description="How a representation is moved by a transformation."
    )
    predictor_heads: int = Field(default=8, gt=0, description="Heads of the predictor's attention.")
    predictor_head_width: int = Field(default=64, gt=0, description="Width of one predictor head.")
    share: Literal["modalities", "none"] = Field(
        default="modalities", description="One predictor for both modalities, or one per modality (as released)."
    )
    head_hidden: int = Field(default=2048, gt=0, description="Hidden width of the projection heads.")
    embedding: int = Field(default=512, gt=0, description="E, the width of an embedding.")
    centroid_samples: int = Field(default=16, gt=0, description="K, the transformations averaged into a centroid.")
    centroid_sampling: Literal["iid", "antithetic", "sobol"] = Field(
        default="iid", description="How the K parameter sets of a centroid are drawn in training."
    )
    method: Literal["equiav", "invariant", "plain"] = Field(
        default="equiav",
        description="equiav; invariant: intra-modal contrast without predictor; plain: inter-modal loss only.",
    )
    inter: Literal["centroid", "predicted", "mean", "augmented"] = Field(
        default="centroid",
        description="Which representation enters the inter-modal loss; without predictor (method invariant) centroid "
        "and predicted mean augmented, and method plain has the mean alone.",
    )
    checkpointing: bool = Field(default=False, description="Recompute activations in the backward pass to save memory.")
    compile: bool = Field(
        default=False, description="Compile the transformer blocks with torch.compile (needs a C++ compiler)."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads} and of 4")
        if self.image_side % self.visual_patch:
            raise ValueError(f"image_side {self.image_side} must be a multiple of visual_patch {self.visual_patch}")
        return self

    @property
    def inter_source(self) -> Literal["centroid", "predicted", "mean", "augmented"]:
        """`inter`, as far as `method` has it."""
        if self.method == "plain":
            return "mean"
        if self.method == "invariant" and self.inter in ("centroid", "predicted"):
            return "augmented"
        return self.inter


class ModelConfig(Settings):
    """What config.json beside the weights holds: all that preprocessing, augmentation and the model need."""

    schema_version: Literal[1] = Field(default=1, description="Version of this file's layout.")
    architecture: Architecture = Architecture()
    features: Features = Features()
    augment: Augment = Augment()
    audio_mean: float = Field(default=-4.346, description="Mean of the training log-mel (default: AudioSet).")
    audio_std: float = Field(
        default=4.332, gt=0, description="Standard deviation of the training log-mel (default: AudioSet)."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("mel_bins", "time_frames"):
            size, patch = getattr(self.features, name), self.architecture.audio_patch
            if size % patch:
                raise ValueError(f"features.{name} {size} must be a multiple of audio_patch {patch}")
        return self
