"""All settings of a fine-tuning run, as frozen pydantic models; `load_finetune_recipe` reads shipped ones and files.

The sections that pretraining has too (features, model, init, optim, train) mean the same here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from equiav.config.architecture import Architecture
from equiav.config.features import Features, Modalities, stored_modalities
from equiav.config.loading import Settings, read_settings
from equiav.config.training import Data, Init, Optim, Train


def under_current_names(task: Any) -> Any:
    """A stored task, whose settings may have the names that they had earlier."""
    if not isinstance(task, dict) or "senses" not in task:
        return task
    return {"modalities": stored_modalities(task), **{name: task[name] for name in task if name != "senses"}}


class Task(Settings):
    """What is learned."""

    labels: Literal["multi-label", "single-label"] = Field(
        default="multi-label",
        description="Any number of classes per clip (binary cross-entropy), or exactly one (cross-entropy).",
    )
    modalities: Modalities = Field(default="both", description="What the classifier looks at.")
    classes: tuple[str, ...] | None = Field(
        default=None, description="Names of the classes; the labels of the training split when not given."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Share of a target that is spread evenly over all classes."
    )
    drop_path: float = Field(
        default=0.1, ge=0, lt=1, description="Chance that a clip skips a branch of the last block; less before it."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, tree: Any) -> Any:
        return under_current_names(tree)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if twice := sorted({name for name in self.classes or () if (self.classes or ()).count(name) > 1}):
            raise ValueError(f"classes: {', '.join(twice)} stand there twice; a class is one output")
        return self


class FinetuneData(Data):
    """What a run reads from its library."""

    validation: str | None = Field(
        default=None,
        description="Split by whose mAP or top-1 the best epoch is chosen; without one the last weights are kept.",
    )
    balanced: bool = Field(
        default=False,
        description="Draw clips with replacement, each by the sum over its labels of 1 / clips with that label.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.validation == self.split:
            raise ValueError(f"validation and training split are both {self.split!r}")
        return self

    @property
    def splits(self) -> dict[str, str]:
        """The splits that are read, by role."""
        return super().splits | ({} if self.validation is None else {"validation": self.validation})


class FinetuneAugment(Settings):
    """What is done to a clip before it is learned from; time rolls with `train.roll`."""

    mix: float = Field(default=0.5, ge=0, le=1, description="Share of the clips that are mixed with another.")
    mix_beta: float = Field(
        default=10.0, gt=0, description="Both parameters of the Beta distribution of a clip's share in its mixture."
    )
    audio: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"time_mask": {"p": 1.0}, "frequency_mask": {"p": 1.0}},
        description="Audio transforms of `equiav.augment` and their options (default: SpecAugment); {} for none.",
    )
    visual: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Visual transforms of `equiav.augment` and their options; none by default."
    )


class FinetuneOptim(Optim):
    """AdamW and its schedule."""

    head_lr_ratio: float = Field(
        default=50.0, gt=0, description="Learning rate of the projections and the head, over that of the encoders."
    )


class FinetuneRecipe(Settings):
    """All settings of a run. `equiav finetune` writes the resolved recipe into the run folder."""

    features: Features = Features()
    data: FinetuneData = FinetuneData()
    task: Task = Task()
    augment: FinetuneAugment = FinetuneAugment()
    model: Architecture = Architecture()
    init: Init = Init()
    optim: FinetuneOptim = FinetuneOptim()
    train: Train = Train()

    @model_validator(mode="after")
    def _check(self) -> Self:
        averaged = self.train.ema or self.train.average_last
        if self.data.validation and (averaged or self.train.parallel == "fsdp"):
            raise ValueError(
                "data.validation chooses among whole weights of single epochs: leave out train.ema, "
                "train.average_last and train.parallel=fsdp"
            )
        return self


def load_finetune_recipe(
    name: str | Path, overrides: list[str] | tuple[str, ...] = (), *, source: str | Path | None = None
) -> FinetuneRecipe:
    """Read a recipe by shipped name or path, apply `key=value` overrides, check it.

    Args:
        source: run, model folder or hf://owner/name of the pretrained model to start from; its sizes replace `model`.

    Raises:
        ConfigError: no such recipe, broken YAML, an unknown key, a value out of range.
    """
    recipe = read_settings(FinetuneRecipe, name, overrides)
    if source is None:
        return recipe
    folder = Path(source) / "model"
    return recipe.model_copy(update={"init": Init.model_validate({"from": str(folder if folder.is_dir() else source)})})
