"""Recipes: every setting of a run, as frozen pydantic models.

A recipe is a YAML file (shipped ones by bare name: `toy`, `base`, `audioset2m`) with dotted overrides on top:
`load_recipe("toy", ["optim.lr=3e-4", "train.epochs=5"])`. An unknown key is an error that names the nearest
known one. Each field carries one sentence with its unit; `equiav` never reads a setting from anywhere else.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from equiav.errors import ConfigError

# What is looked at: where it is one sense, clips that have no more than that one count too
Senses = Literal["audio", "visual", "audio-visual"]


class Settings(BaseModel):
    """Frozen, strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


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
    """Sizes of the encoders, the predictor and the heads (DESIGN: ViT-B/16 and the released predictor)."""

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
        default="modalities", description="One predictor for both senses, or one per modality (as released)."
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


class Loss(Settings):
    """The three contrastive losses."""

    temperature: float = Field(default=0.07, gt=0, description="Temperature of all three losses.")
    inter: float = Field(default=1 / 3, ge=0, description="Weight of the inter-modal loss.")
    intra_audio: float = Field(default=1 / 3, ge=0, description="Weight of the intra-modal audio loss.")
    intra_visual: float = Field(default=1 / 3, ge=0, description="Weight of the intra-modal visual loss.")


class Optim(Settings):
    """AdamW with linear warm-up and a cosine (released values)."""

    lr: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    lr_start: float = Field(default=2e-7, ge=0, description="Learning rate at step 0 of the warm-up.")
    lr_end: float = Field(default=1e-6, ge=0, description="Learning rate at the end of the cosine.")
    warmup_epochs: float = Field(default=2.0, ge=0, description="Length of the linear warm-up, in epochs.")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="AdamW's moment decays.")
    weight_decay: float = Field(
        default=1e-5, ge=0, description="Decoupled weight decay; norms, biases and positions have none."
    )
    clip_norm: float = Field(default=0.01, gt=0, description="Gradient norm clip; .inf for none.")
    halve_from_epoch: int | None = Field(
        default=None,
        gt=0,
        description="Instead of the cosine: this epoch (the first is 0) and each later one has half the learning rate "
        "of the one before.",
    )


class Train(Settings):
    """How long, how wide, how precise."""

    epochs: int = Field(default=20, gt=0, description="Passes over the training clips.")
    global_batch: int = Field(
        default=128,
        gt=1,
        description="B, clips per optimizer step over all processes; an epoch's last incomplete batch is dropped.",
    )
    micro_batch: int | None = Field(
        default=None,
        gt=0,
        description="Clips per process whose activations are held at once; fewer than its share of the batch cost one "
        "more forward pass (gradient caching) and change nothing else.",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto",
        description="Autocast type; auto takes bf16 where the processor multiplies it natively, else fp32.",
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="With several processes: whole weights on each, or a shard on each."
    )
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="Decay of a running average of the weights, which is then what is kept."
    )
    average_last: int | None = Field(
        default=None,
        gt=0,
        description="Last epochs (all, of fewer) whose final weights are averaged, which is then what is kept.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of initialisation, order and augmentation.")
    roll: bool = Field(default=True, description="Roll the base spectrogram by a random time, as the release does.")
    log_every: int = Field(default=10, gt=0, description="Steps between two lines of metrics.jsonl.")
    save_every: int = Field(default=1000, gt=0, description="Steps between saves, besides those after each epoch.")
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        default=("tensorboard",), description="Where metrics go besides metrics.jsonl; wandb and trackio: pip install."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ema and self.average_last:
            raise ValueError("ema and average_last are two ways to average the weights: leave out one")
        return self


class Data(Settings):
    """What a run reads from its library."""

    split: str = Field(default="train", description="Split to train on; clips without a split count as train.")
    audio_mean: float | None = Field(
        default=None, description="Mean of the log-mel; measured on the library when not given."
    )
    audio_std: float | None = Field(
        default=None, gt=0, description="Standard deviation of the log-mel; measured when not given."
    )


class Init(Settings):
    """Where the first weights come from; fresh ones when not given."""

    model: str | None = Field(
        default=None,
        alias="from",
        description="Model folder, run or hf://owner/name whose weights a new run starts from, all of them.",
    )
    audio: str | None = Field(
        default=None, description="File or hf://owner/name of a masked autoencoder's ViT for the audio encoder."
    )
    visual: str | None = Field(
        default=None, description="File or hf://owner/name of a masked autoencoder's ViT for the visual encoder."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model and (self.audio or self.visual):
            raise ValueError("from gives all weights: leave out audio and visual")
        return self


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


class Recipe(Settings):
    """All settings of a run. `equiav pretrain` writes the resolved recipe into the run folder."""

    features: Features = Features()
    data: Data = Data()
    augment: Augment = Augment()
    model: Architecture = Architecture()
    init: Init = Init()
    loss: Loss = Loss()
    optim: Optim = Optim()
    train: Train = Train()


RECIPES = Path(__file__).parent / "recipes"


def load_recipe(name: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe by shipped name or path, apply `key=value` overrides, check it.

    Raises:
        ConfigError: no such recipe, broken YAML, an unknown key, a value out of range.
    """
    return read_settings(Recipe, name, overrides)


S = TypeVar("S", bound=Settings)


def read_settings(kind: type[S], name: str | Path, overrides: Iterable[str] = ()) -> S:
    """`load_recipe` for any kind of recipe."""
    path = Path(name)
    if not path.is_file():
        path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(f"no recipe {str(name)!r}: neither a file nor one of the shipped recipes ({shipped})")
    tree = load_yaml(path, "recipe") or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, found {type(tree).__name__}")
    overrides = list(overrides)
    for override in overrides:
        _apply_override(tree, override)
    return parse_settings(kind, tree, where=str(path), overrides=overrides)


def load_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file.

    Args:
        path: the file.
        what: what it should hold, for the message.

    Raises:
        ConfigError: it is no YAML, or has a key twice, of which YAML takes the last one.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Once)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML {what}: {error}") from None


class _Once(yaml.SafeLoader):
    """Keys stand there once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({name for name in names if names.count(name) > 1 and name != "<<"}):
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse_settings(kind: type[S], tree: dict[str, Any], *, where: str, overrides: Iterable[str] = ()) -> S:
    """Validate `tree` as `kind`; every problem in one ConfigError, unknown keys with the nearest known one.

    Args:
        where: the file that the tree is from.
        overrides: `key=value` that were put into it: a problem with one of them names it instead of the file.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = [
            (_origin(problem["loc"], overrides) or where, _explain(kind, dict(problem))) for problem in error.errors()
        ]
        raise ConfigError("; ".join(f"{origin}: {problem}" for origin, problem in problems)) from None


def _origin(place: tuple[int | str, ...], overrides: Iterable[str]) -> str:
    """The overrides of the setting at a place, or of a part of it."""
    wanted = [str(part) for part in place]
    keys = {override: override.partition("=")[0].split(".") for override in overrides}
    # a problem with a whole section names every override in it
    return " ".join(text for text, key in keys.items() if wanted and key[: len(wanted)] == wanted[: len(key)])


def nearest(name: str, known: Iterable[str]) -> str:
    """`(did you mean X?) Known: …`: the tail of every unknown-name message."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{hint}. Known: {', '.join(known)}"


def _explain(kind: type[Settings], problem: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        found = "" if problem["type"] == "value_error" else f", found {problem['input']!r}"
        return f"{key or kind.__name__}: {problem['msg']}{found}"
    owner: type[BaseModel] = kind
    for part in problem["loc"][:-1]:
        owner = owner.model_fields[str(part)].annotation  # type: ignore[assignment]
    known = [field.alias or name for name, field in owner.model_fields.items()]
    return f"{key} is not a key of {owner.__name__}{nearest(str(problem['loc'][-1]), known)}"


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value, e.g. optim.lr=3e-4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {error}") from None
    if isinstance(value, str):
        # YAML 1.1 reads 3e-4 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {override!r}: {section} is not a section")
    tree[last] = value
