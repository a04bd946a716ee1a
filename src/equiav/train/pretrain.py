"""Pretrain EquiAV on a library:  (recipe, library) → run folder (recipe.yaml, metrics.jsonl, …, state/, model/).

Run again with the same recipe it goes on where it was; another recipe in the same folder is refused.
"""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from equiav.config import ModelConfig, Recipe, recipes_for
from equiav.errors import TrainingError
from equiav.library.loader import ClipLoader
from equiav.library.table import Library
from equiav.model.convert import start_encoders
from equiav.model.equiav import EquiAV
from equiav.model.initialise import load_strictly
from equiav.train.checkpoint import has_state, steps_done
from equiav.train.loop import Step
from equiav.train.objective import Pretraining
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
from equiav.train.schedule import Schedule, estimated_seconds, with_enough_steps
from equiav.train.throughput import step_flops
from equiav.words import counted

log = logging.getLogger(__name__)


def pretrain(
    recipe: Recipe,
    library: Library,
    run: Path,
    *,
    on_plan: Callable[[Schedule], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train, or go on training, the model of `recipe` on `library` into the folder `run`.

    Started by `torchrun` or `accelerate launch`, all processes call this; the run folder must be one that they share.

    Args:
        on_plan: called before the first step, on the main process, with how long the run will be.
        on_step: called after every step, likewise.
        should_stop: asked after every step.

    Raises:
        TrainingError: nothing to train on, `run` belongs to another recipe or library, features that the recipe or the
            model it starts from does not know, or the loss is not finite.
        ConfigError: a tracker that is not installed.
    """
    plan = make_plan(recipe, library, run)
    asked, recipe, accelerator = recipe, plan.recipe, plan.accelerator
    from_main(accelerator, lambda: claim_run(run, recipe, library))
    flops = step_flops(plan.config)
    if on_plan and accelerator.is_main_process:
        on_plan(_schedule(plan, asked.train.epochs, run, flops))
    model = EquiAV(plan.config, seed=recipe.train.seed)
    if not from_main(accelerator, lambda: has_state(run)):  # a state needs nothing of what the run started from
        if recipe.init.model:
            load_strictly(model, EquiAV.from_pretrained(recipe.init.model).state_dict(), where=recipe.init.model)
        start_encoders(model, recipe.init)
    model.to(accelerator.device)
    return train_and_keep(
        model,
        plan.loader,
        Pretraining(model, recipe),
        run,
        recipe,
        accelerator,
        lambda: EquiAV(plan.config, seed=None),
        flops_per_clip=flops,
        on_step=on_step,
        should_stop=should_stop,
    )


@dataclass(frozen=True)
class Plan:
    """A recipe made concrete: on this library, this machine, these processes."""

    recipe: Recipe
    config: ModelConfig
    accelerator: Accelerator
    loader: ClipLoader

    @property
    def share(self) -> int:
        """Clips of each batch that are this process's."""
        smallest, more = divmod(self.recipe.train.global_batch, self.accelerator.num_processes)
        return smallest + (self.accelerator.process_index < more)


def _schedule(plan: Plan, asked_epochs: int, run: Path, flops: int) -> Schedule:
    train, accelerator, per_epoch = plan.recipe.train, plan.accelerator, len(plan.loader)
    done, device = steps_done(run), accelerator.device
    clips = (per_epoch * train.epochs - done) * train.global_batch
    return Schedule(
        clips=len(plan.loader.rows),
        batch=train.global_batch,
        per_epoch=per_epoch,
        epochs=train.epochs,
        asked_epochs=asked_epochs,
        min_steps=train.min_steps,
        done=done,
        seconds=estimated_seconds(flops * clips, device, train.precision, accelerator.num_processes),
        where=f"{device.type}, {train.precision}",
    )


def make_plan(recipe: Recipe, library: Library, run: Path) -> Plan:
    """Resolve the recipe and open the loader; writes nothing."""
    check_trackers(recipe.train)
    # what is measured here must be the same everywhere
    joined = make_accelerator()
    recipe = from_main(joined, lambda: resolve(recipe, library, joined.num_processes, run))
    accelerator = make_accelerator(recipe.train.precision, recipe.train.trackers, run)
    loader = ClipLoader(
        library,
        recipe.data.split,
        recipe.train.global_batch,
        recipe.train.seed,
        rows=rows_of_run(recipe, library, begun_run(run))["train"],
        shard=(accelerator.process_index, accelerator.num_processes),
    )
    return Plan(recipe, model_config(recipe), accelerator, loader)


def resolve(recipe: Recipe, library: Library, processes: int = 1, run: Path | None = None) -> Recipe:
    """Fill in what the library and the machine decide: features, normalisation, precision, a batch that fits.

    Args:
        run: the folder that it is resolved for; what was decided when it began is kept.

    Raises:
        TrainingError: too few clips, not those that the run began with, or features that `init.from` or the recipe does
            not know.
    """
    begun, split = begun_run(run), recipe.data.split
    if begun:
        check_library(begun, recipe, library)
    elif not recipe.init.model:  # what that knows decides
        _check_fits(recipe, library)
    clips = len(rows_of_run(recipe, library, begun)["train"])
    if clips < 2:
        raise TrainingError(
            f"{library.path}: split {split!r} has {counted(clips, 'clip')} with both sound and picture; "
            "contrastive training needs at least 2: ingest more videos"
        )
    known = _of_its_start(recipe, library) if recipe.init.model and begun is None else None
    mean, std = normalisation(recipe.data, begun, lambda: known or library.log_mel_stats(split))
    resolved = recipe.model_copy(
        update={
            "features": library.features,
            "data": recipe.data.model_copy(update={"audio_mean": mean, "audio_std": std}),
            "train": fit_here(recipe.train, clips, processes, begun),
        }
    )
    return with_enough_steps(resolved, clips)


def _check_fits(recipe: Recipe, library: Library) -> None:
    """A library that was ingested for one of the shipped recipes is not learned from with one for other clips.

    Features that no shipped recipe has are the user's own choice: any recipe takes them.

    Raises:
        TrainingError: names the recipe that fits the library, and the ingest that fits the recipe.
    """
    fitting = recipes_for(library.features)
    if not fitting or "features" not in recipe.model_fields_set or not library.features.differences(recipe.features):
        return
    clips = "clips of {0.clip_s:g} s, {0.time_frames} × {0.mel_bins}".format
    wanted = next(iter(recipes_for(recipe.features)), "FILE.yaml")
    raise TrainingError(
        f"{library.path} was ingested for recipe {' or '.join(fitting)} ({clips(library.features)}), this one is for "
        f"{clips(recipe.features)}. Take `equiav pretrain {fitting[0]} --library {library.path}`, or ingest the videos "
        f"into another library: `equiav ingest VIDEOS --library NEW --recipe {wanted}`"
    )


def _of_its_start(recipe: Recipe, library: Library) -> tuple[float, float]:
    """Mean and deviation that the weights of `init.from` know, once their features are known to be the library's."""
    config = config_for(library, str(recipe.init.model))
    known, given = (config.audio_mean, config.audio_std), (recipe.data.audio_mean, recipe.data.audio_std)
    if any(own is not None and own != other for own, other in zip(given, known, strict=True)):
        log.warning(
            "the sounds of %s were normalised with mean %g and deviation %g; this run takes data.audio_mean=%s and "
            "data.audio_std=%s instead, which its weights have to get used to",
            *(recipe.init.model, *known),
            *(other if own is None else own for own, other in zip(given, known, strict=True)),
        )
    return known


def model_config(recipe: Recipe) -> ModelConfig:
    """What the model folder keeps of a resolved recipe."""
    if recipe.data.audio_mean is None or recipe.data.audio_std is None:
        raise TrainingError(
            "data.audio_mean and data.audio_std are not known yet: resolve the recipe on a library first"
        )
    return ModelConfig(
        architecture=recipe.model,
        features=recipe.features,
        augment=recipe.augment,
        audio_mean=recipe.data.audio_mean,
        audio_std=recipe.data.audio_std,
    )
