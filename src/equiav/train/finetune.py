"""Fine-tune encoders with labels:  (recipe, library) → run folder (recipe.yaml, metrics.jsonl, state/, model/).

A classifier on the encoders of a pretrained model, or on fresh ones, is trained in the loop that pretraining uses: run
again with the same recipe it goes on where it was. Only the training split, and a validation split where one is named,
is looked at: whatever else the library holds has no influence on the weights. (Of a test split the labels are checked
first, so that a run of days does not end in one that it can't measure.)

EquiAV's release (ft_main.py, ft_trainer.py, datasets/AudioVisual.py). Deliberate differences: the head really learns
at `head_lr_ratio` (the released scheduler writes one rate to all groups), SpecAugment is really applied (the released
guard tests another option), masks take the mean of the standardised spectrogram, sounds are mixed in power
(`mix_sounds`).
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from equiav.config import ModelConfig
from equiav.config.finetuning import FinetuneRecipe
from equiav.errors import TrainingError
from equiav.library.loader import NAMED
from equiav.library.records import USABLE
from equiav.library.table import Library
from equiav.model.classifier import Classifier
from equiav.model.convert import start_encoders
from equiav.model.equiav import EquiAV
from equiav.train.checkpoint import has_state
from equiav.train.classification import Classification, check_labels
from equiav.train.loop import Step
from equiav.train.mixing import MixingLoader
from equiav.train.processes import from_main, make_accelerator
from equiav.train.run_folder import (
    Outcome,
    begun_run,
    check_library,
    check_trackers,
    claim_run,
    config_for,
    fit_here,
    normalisation,
    rows_of_run,
    train_and_keep,
)
from equiav.train.schedule import with_enough_steps
from equiav.train.scoring import error, score_split
from equiav.words import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def finetune(
    recipe: FinetuneRecipe,
    library: Library,
    run: Path,
    *,
    test: str | None = None,
    on_step: Callable[[Step], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train, or go on training, a classifier on the labelled clips of `library` into the folder `run`.

    Args:
        test: split that will be measured on: before the first step its labels must be ones that the task can use.

    Started by `torchrun` or `accelerate launch`, all processes call this; the run folder must be one that they share.

    Raises:
        TrainingError: `run` belongs to another recipe or library, features that the pretrained model does not know, or
            the loss is not finite.
        LibraryError: the split has no clips, or labels that the task cannot use.
        ConfigError: a tracker that is not installed.
    """
    check_trackers(recipe.train)
    joined = make_accelerator()
    recipe, config = from_main(joined, lambda: resolve(recipe, library, joined.num_processes, test, run))
    accelerator = make_accelerator(recipe.train.precision, recipe.train.trackers, run)
    rows = rows_of_run(recipe, library, begun_run(run))
    from_main(accelerator, lambda: claim_run(run, recipe, library, config))
    loader = MixingLoader(library, recipe, (accelerator.process_index, accelerator.num_processes), rows=rows["train"])
    begins = not from_main(accelerator, lambda: has_state(run))
    model = _first_classifier(recipe, config, begins).to(accelerator.device)
    chosen_on = recipe.data.validation

    def judge() -> float:
        scores = score_split(model, library, str(chosen_on), accelerator, rows=rows["validation"])
        return error(scores, model.labels)

    def lr_ratio(name: str) -> float:
        return recipe.optim.head_lr_ratio if model.is_new(name) else 1.0

    return train_and_keep(
        model,
        loader,
        Classification(model, recipe),
        run,
        recipe,
        accelerator,
        lambda: Classifier(config, model.classes, model.modalities, model.labels, seed=None),
        lr_ratio=lr_ratio,
        judge=None if chosen_on is None else judge,
        on_step=on_step,
        should_stop=should_stop,
    )


def resolve(
    recipe: FinetuneRecipe, library: Library, processes: int = 1, test: str | None = None, run: Path | None = None
) -> tuple[FinetuneRecipe, ModelConfig]:
    """Fill in what the pretrained model, the library and the machine decide; the config of the encoders.

    Raises:
        TrainingError: features that the pretrained model does not know, or more processes than clips in a batch.
        LibraryError: no clips, or labels that the task cannot use.
    """
    begun = begun_run(run)
    if begun:
        check_library(begun, recipe, library)
    rows = rows_of_run(recipe, library, begun)
    classes = _classes(recipe, library, rows, test)
    if begun and has_state(begun.run) and begun.encoders:
        config = begun.encoders  # what it started from may be gone
    elif recipe.init.model:
        config = config_for(library, recipe.init.model)
    else:
        split, modalities = recipe.data.split, recipe.task.modalities

        def measure() -> tuple[float, float]:
            return (0.0, 1.0) if modalities == "visual" else library.log_mel_stats(split, USABLE[modalities])

        mean, std = normalisation(recipe.data, begun, measure)
        config = ModelConfig(architecture=recipe.model, features=library.features, audio_mean=mean, audio_std=std)
    if recipe.init.model:
        # how a run spends memory and time is its own affair
        ours = {name: getattr(recipe.model, name) for name in ("checkpointing", "compile")}
        config = config.model_copy(update={"architecture": config.architecture.model_copy(update=ours)})
    known = {"audio_mean": config.audio_mean, "audio_std": config.audio_std}
    made = {
        "features": library.features,
        "model": config.architecture,
        "data": recipe.data.model_copy(update=known),
        "task": recipe.task.model_copy(update={"classes": classes}),
        "train": fit_here(recipe.train, len(rows["train"]), processes, begun),
    }
    return with_enough_steps(recipe.model_copy(update=made), len(rows["train"])), config


def _classes(
    recipe: FinetuneRecipe, library: Library, rows: dict[str, NDArray[np.int64]], test: str | None
) -> tuple[str, ...]:
    """The classes, once the labels of all clips that are looked at are known to be among them."""
    splits, usable = recipe.data.splits, USABLE[recipe.task.modalities]
    labels = {splits[role]: library.take(own.tolist(), ["labels"])["labels"].to_pylist() for role, own in rows.items()}
    for split, own in labels.items():
        if len(own) < 2:
            raise TrainingError(
                f"{library.path}: split {split!r} has {counted(len(own), 'clip')} with "
                f"{NAMED[recipe.task.modalities]}; it has the splits {', '.join(library.splits(usable)) or 'none'}"
            )
    classes = list(recipe.task.classes or sorted({name for own in labels[recipe.data.split] for name in own}))
    if test is not None:
        labels[test] = library.clips(test, ["labels"], usable)["labels"].to_pylist()
    for split, own in labels.items():
        check_labels(own, recipe.task.labels, classes, f"{library.path}, split {split!r}")
    if len(classes) < 2:
        raise TrainingError(f"{library.path}: all clips have the label {classes[0]!r}; a classifier needs two classes")
    return tuple(classes)


def _first_classifier(recipe: FinetuneRecipe, config: ModelConfig, begins: bool) -> Classifier:
    """What the run starts from; one that goes on from a state needs nothing of it."""
    task, seed = recipe.task, recipe.train.seed
    classifier = Classifier(
        config, task.classes or (), task.modalities, task.labels, drop_path=task.drop_path, seed=seed
    )
    if not begins:
        return classifier
    if recipe.init.model:
        classifier.start_from(EquiAV.from_pretrained(recipe.init.model))
    elif recipe.init.audio or recipe.init.visual:
        model = EquiAV(config, seed=seed)
        start_encoders(model, recipe.init)
        classifier.start_from(model)
    return classifier
