"""What every training run has around its steps: a recipe that fits this machine, a folder claimed, the weights kept."""

# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import yaml
from accelerate import Accelerator

from equiav.config import Data, FinetuneRecipe, Modalities, ModelConfig, Recipe, Train, parse_settings
from equiav.config.finetuning import under_current_names
from equiav.errors import ConfigError, TrainingError
from equiav.files import flush, make_folder, write_text
from equiav.library.records import USABLE
from equiav.library.table import Library
from equiav.model.folder import CONFIG, WEIGHTS, fetch, read_config, read_json
from equiav.train.checkpoint import best_weights, has_state
from equiav.train.loop import train
from equiav.train.processes import agreed, whole
from equiav.train.throughput import choose_precision
from equiav.train.trained_on import TrainedOn, about_to_train, check_clips, load_trained_on
from equiav.words import are, counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from equiav.library.loader import ClipLoader
    from equiav.model.classifier import Classifier
    from equiav.model.equiav import EquiAV
    from equiav.train.gradient import Objective
    from equiav.train.mixing import MixingLoader

log = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
OUTCOME = "outcome.json"
MODEL = Path("model") / WEIGHTS
START = Path("state") / "start.json"
AnyRecipe: TypeAlias = Recipe | FinetuneRecipe
# of `train`: what they are decides nothing of the result; what min_steps decides are the epochs
FREE = ("log_every", "save_every", "trackers", "min_steps")


@dataclass(frozen=True)
class Outcome:
    """Where a training ended."""

    run: Path
    step: int
    steps: int
    clips: int
    classes: int = 0  # of a classifier
    stopped: bool = False  # on request; the last step may have been done by then

    @property
    def done(self) -> bool:
        """False when the run was stopped before its last step."""
        return self.step == self.steps


def is_finished(run: Path) -> bool:
    """Whether model/ holds the weights after the last step of `run`: not those of an earlier stop, nor others."""
    try:
        found = json.loads((run / OUTCOME).read_text(encoding="utf-8"))
        return found["step"] == found["steps"] and found["weights"] == hash_of_file(run / MODEL)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def hash_of_file(path: Path) -> str:
    """Sixteen hexadecimal digits of its content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def fit_here(settings: Train, clips: int, processes: int, begun: Begun | None = None) -> Train:
    """A batch that the clips fill, whatever the number of processes, and a precision: the run's, or this machine's.

    Args:
        clips: in the split.
        processes: that share each batch; their shares differ by one clip at most.
        begun: the run that goes on; precision `auto` was decided when it began, and is kept.

    Raises:
        TrainingError: more processes than clips in a batch, or shares that make unlike numbers of micro-batches.
    """
    batch = min(settings.global_batch, clips)
    if batch < settings.global_batch:
        log.warning("batch reduced from %d to %d: the split has %d clips", settings.global_batch, batch, clips)
    smallest, more = divmod(batch, processes)
    if not smallest:
        raise TrainingError(f"{counted(batch, 'clip')} {are(batch)} too few for {processes} processes: start fewer")
    micro = settings.micro_batch
    if more and micro and smallest % micro == 0:
        fitting = next(size for size in count(micro + 1) if smallest % size)
        raise TrainingError(
            f"{processes} processes share a batch of {batch} clips by {smallest + 1} and {smallest}, which make unlike "
            f"numbers of micro-batches of {micro}: take train.micro_batch={fitting}, or start a number of processes "
            "that divides the batch"
        )
    precision = _precision(settings.precision, begun)
    return settings.model_copy(update={"global_batch": batch, "precision": precision})


def _precision(wish: str, begun: Begun | None) -> str:
    kept = begun.kept("train", "precision") if begun and wish == "auto" else None
    if begun and kept == "bf16" and choose_precision("auto") != kept:
        log.warning(
            "%s was begun in bf16, which this machine computes slowly; it goes on in bf16. Another run folder and "
            "train.precision=fp32 start again from the beginning",
            begun.run,
        )
    return kept or choose_precision(wish)


def config_for(library: Library, model: str) -> ModelConfig:
    """The config of a model whose weights a run on `library` starts from.

    Raises:
        TrainingError: the library has other features than the model knows.
        ModelError: there is no such model.
    """
    config = read_config(fetch(model, CONFIG))
    if differ := library.features.differences(config.features):
        raise TrainingError(
            f"{library.path} was ingested with features that {model} does not know: {differ}. Ingest "
            f"the videos into a new library: equiav ingest VIDEOS --library NEW --like {model}"
        )
    return config


def check_trackers(settings: Train) -> None:
    """All of them must be installed.

    Raises:
        ConfigError: one is not.
    """
    for tracker in settings.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(f"train.trackers: {tracker} is not installed: pip install {tracker}, or leave it out")


def train_and_keep(
    model: EquiAV | Classifier,
    loader: ClipLoader | MixingLoader,
    objective: Objective,
    run: Path,
    recipe: AnyRecipe,
    accelerator: Accelerator,
    make_model: Callable[[], EquiAV | Classifier],
    *,
    should_stop: Callable[[], bool],
    **others: Any,
) -> Outcome:
    """Train the model, then put the weights to keep into model/ and note how far they are. All processes call this.

    Those of the best epoch are kept, where it is chosen; else the averages, where they are made; else the last ones.

    Args:
        make_model: makes the model that is written; its weights are filled in.
        others: likewise for `train`.
    """
    accelerator.init_trackers("equiav", config=_flat(recipe.model_dump(mode="json")))
    progress, average = train(
        model,
        loader,
        objective,
        run,
        settings=recipe.train,
        optim=recipe.optim,
        accelerator=accelerator,
        should_stop=should_stop,
        **others,
    )
    for tracker in accelerator.trackers:
        tracker.finish()
    weights = {name: whole(tensor.detach()) for name, tensor in (model.state_dict() | average).items()}
    if accelerator.is_main_process:
        kept = make_model()
        kept.load_state_dict(best_weights(run, progress) if others.get("judge") and progress.best_step else weights)
        kept.eval().save_pretrained(run / "model")
        for written in (*(run / "model").iterdir(), run / "model"):
            flush(written)
    stopped = agreed(accelerator, should_stop())
    classes = len(recipe.task.classes or ()) if isinstance(recipe, FinetuneRecipe) else 0
    outcome = Outcome(run, progress.step, len(loader) * recipe.train.epochs, len(loader.rows), classes, stopped)
    if accelerator.is_main_process:
        found = {"step": outcome.step, "steps": outcome.steps, "clips": outcome.clips}
        write_text(run / OUTCOME, json.dumps({**found, "weights": hash_of_file(run / MODEL)}), TrainingError)
    return outcome


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings under dotted names, as trackers take them."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return found


@dataclass(frozen=True)
class Begun:
    """A run that is there: its resolved recipe as stored, and its clips."""

    run: Path
    recipe: dict[str, Any]
    trained_on: TrainedOn
    encoders: ModelConfig | None  # that a fine-tuning started from
    weights: dict[str, str | None]  # key of `init` → hash of the file that the run started from

    def kept(self, section: str, key: str) -> Any:
        """A setting as it was resolved when the run began; None where it has none."""
        return (self.recipe.get(section) or {}).get(key)


def begun_run(run: Path | None) -> Begun | None:
    """What `run` was begun with; None where there is no run yet.

    Raises:
        TrainingError: the folder does not say what it was begun with, or not readably.
    """
    if run is None or not (run / RECIPE).exists():
        return None
    try:
        recipe = yaml.safe_load((run / RECIPE).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{run / RECIPE} is no recipe that equiav wrote: {error}") from None
    if not isinstance(recipe, dict):
        raise TrainingError(f"{run / RECIPE} is no recipe that equiav wrote: a mapping expected, found {recipe!r}")
    if "task" in recipe:
        recipe["task"] = under_current_names(recipe["task"])
    trained_on = load_trained_on(run)
    if trained_on is None:
        raise TrainingError(
            f"{run} has no trained_on.json, which lists the clips of a run: it is of an older equiav. "
            "Finish it with that one, or begin another run in another --run folder"
        )
    start: dict[str, Any] = read_json(run / START) if (run / START).is_file() else {"encoders": None, "weights": {}}
    encoders = start["encoders"]
    config = None if encoders is None else parse_settings(ModelConfig, encoders, where=str(run / START))
    return Begun(run, recipe, trained_on, config, start["weights"])


def _modalities(recipe: AnyRecipe) -> Modalities:
    return recipe.task.modalities if isinstance(recipe, FinetuneRecipe) else "both"


def _reads_the_same(begun: Begun, recipe: AnyRecipe) -> bool:
    then = begun.trained_on
    return (then.splits, then.modalities) == (recipe.data.splits, _modalities(recipe))


def check_library(begun: Begun, recipe: AnyRecipe, library: Library) -> None:
    """A run goes on with the clips that it began with: they must be there; what was added is left out.

    Raises:
        TrainingError: it is another library, or has lost clips, or labels that are learned have changed.
    """
    then, features = begun.trained_on, library.features.model_dump(mode="json")
    if not _reads_the_same(begun, recipe):
        return  # it is another recipe, too: `claim_run` tells how it differs
    if differing := sorted(_differences(begun.recipe.get("features"), features, "features")):
        raise TrainingError(
            f"{begun.run} was begun on another library, {then.library}: {'; '.join(differing)} in {library.path}. "
            "Give that library, or begin another run: another --run folder"
        )
    check_clips(begun.run, then, about_to_train(library, then.splits, then.modalities, labelled=then.labelled))


def normalisation(data: Data, begun: Begun | None, measure: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """Mean and standard deviation of the log-mel: as given, else as the run began with, else measured."""
    mean, std = data.audio_mean, data.audio_std
    if mean is not None and std is not None:
        return mean, std
    known = (begun.kept("data", "audio_mean"), begun.kept("data", "audio_std")) if begun else measure()
    return (known[0] if mean is None else mean), (known[1] if std is None else std)


def rows_of_run(recipe: AnyRecipe, library: Library, begun: Begun | None) -> dict[str, NDArray[np.int64]]:
    """Row numbers of a run's clips, by role: of one that has begun, of those that it began with."""
    usable = USABLE[_modalities(recipe)]
    found = {role: library.positions(split, usable) for role, split in recipe.data.splits.items()}
    if begun is None or not _reads_the_same(begun, recipe):
        return found
    ids = np.array(library.all_ids(), dtype=object)
    known = {role: set(begun.trained_on.of(role)["clip_id"].to_pylist()) for role in found}
    return {
        role: rows[np.array([clip_id in known[role] for clip_id in ids[rows]], dtype=bool)]
        for role, rows in found.items()
    }


def claim_run(run: Path, recipe: AnyRecipe, library: Library, encoders: ModelConfig | None = None) -> None:
    """Write recipe.yaml and what the run is trained on, or check that the run found there is the same one.

    How often a run notes and saves does not decide what comes out: these settings may change.

    Args:
        recipe: resolved.
        library: whose clips a run that begins now is trained on.
        encoders: config of those that it starts from, if that says more than the recipe.

    Raises:
        TrainingError: it is of another recipe.
    """
    make_folder(run)
    begun, wanted = begun_run(run), recipe.model_dump(mode="json")
    if begun is None:
        labelled = isinstance(recipe, FinetuneRecipe)
        splits, start = recipe.data.splits, recipe.init.model
        about_to_train(library, splits, _modalities(recipe), labelled=labelled, start=start).save(run)
        _note_start(run, wanted, encoders)
        write_text(run / RECIPE, yaml.safe_dump(wanted, sort_keys=False), TrainingError)
    else:
        check_recipe(begun, recipe)
        if not has_state(run):
            _note_start(run, wanted, encoders)


def _note_start(run: Path, recipe: dict[str, Any], encoders: ModelConfig | None) -> None:
    config = encoders and encoders.model_dump(mode="json")
    start = {"encoders": config, "weights": start_weights(recipe)}
    write_text(run / START, json.dumps(start, indent=1), TrainingError)


def start_weights(recipe: dict[str, Any]) -> dict[str, str | None]:
    """Hashes of the files that a run of this recipe starts from; None for one that is not on this machine."""
    files = {name: Path(source) for name, source in recipe.get("init", {}).items() if source is not None}
    files = {name: path / WEIGHTS if path.is_dir() else path for name, path in files.items()}
    return {name: hash_of_file(path) if path.is_file() else None for name, path in files.items()}


def check_start(begun: Begun, recipe: AnyRecipe) -> None:
    """The weights that a run started from are those that are there now, as far as both are known.

    Raises:
        TrainingError: a file has changed since.
    """
    now = start_weights(recipe.model_dump(mode="json"))
    for name, known in begun.weights.items():
        if known and now.get(name) not in (None, known):
            raise TrainingError(
                f"{begun.run} started from other weights: the file of init.{name} has changed since then. Bring it "
                "back, or begin another run: another --run folder"
            )


def check_recipe(begun: Begun, recipe: AnyRecipe) -> None:
    """A run goes on with the recipe that it began with.

    Raises:
        TrainingError: names all that differs.
    """
    wanted = recipe.model_dump(mode="json")
    if differing := sorted(_differences(_decisive(begun.recipe), _decisive(wanted))):
        raise TrainingError(
            f"{begun.run} holds a run of another recipe: {'; '.join(differing)}. "
            "Use another --run folder, or the same recipe to go on with this one"
        )


def _decisive(recipe: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe decides the result; folders that weights start from by their place, however they are written."""
    kept = {name: value for name, value in recipe.get("train", {}).items() if name not in FREE}
    start = {name: _place(source) for name, source in recipe.get("init", {}).items()}
    return {**recipe, "train": kept, "init": start}


def _place(source: str | None) -> str | None:
    if source is None or source.startswith("hf://"):
        return source
    path = Path(os.path.abspath(source))  # noqa: PTH100  (nothing is resolved: it may be gone)
    return str(path.parent if path.name == "model" else path)


def _differences(found: object, wanted: object, key: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = found.keys() | wanted.keys()
        return [d for k in keys for d in _differences(found.get(k), wanted.get(k), f"{key}.{k}" if key else str(k))]
    return [] if found == wanted else [f"{key} was {found!r}, now {wanted!r}"]
