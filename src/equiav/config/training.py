"""Every setting of a pretraining run, each with its unit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from equiav.config.architecture import Architecture, Augment
from equiav.config.features import Features
from equiav.config.loading import Settings, read_settings

SHIPPED = ("toy", "laptop", "gpu", "base", "audioset2m")  # recipes of pretraining, the smallest first


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
    min_steps: int = Field(
        default=0,
        ge=0,
        description="Few clips are passed over so often that there are this many steps, with a warm-up as much longer; "
        "0 where train.epochs is given as an override.",
    )
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

    @property
    def splits(self) -> dict[str, str]:
        """The splits that are read, by role."""
        return {"train": self.split}


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


def load_recipe(name: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe by shipped name or path, apply `key=value` overrides, check it.

    Raises:
        ConfigError: no such recipe, broken YAML, an unknown key, a value out of range.
    """
    if any(override.startswith("train.epochs=") for override in overrides):  # given epochs are meant
        overrides = ["train.min_steps=0", *overrides]
    return read_settings(Recipe, name, overrides)


def recipes_for(features: Features) -> list[str]:
    """The shipped recipes of pretraining whose clips have these features, as far as a model knows them."""
    return [name for name in SHIPPED if not load_recipe(name).features.differences(features)]
