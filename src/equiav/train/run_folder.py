"""What every training run has around its steps: a recipe that fits this machine, a folder claimed, the weights kept."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from torch import Tensor, nn

from equiav.config import Settings, Train
from equiav.errors import ConfigError, TrainingError
from equiav.train.processes import whole
from equiav.train.throughput import choose_precision
from equiav.train.trained_on import TrainedOn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Where a training ended."""

    run: Path
    step: int
    steps: int
    clips: int
    classes: int = 0  # of a classifier
    stopped: bool = False  # told to; the last step may have been done by then

    @property
    def done(self) -> bool:
        """False when the run was told to stop before its last step."""
        return self.step == self.steps


def fit_here(settings: Train, clips: int, processes: int) -> Train:
    """A batch that the clips fill and the processes share, and a precision that this machine computes.

    Raises:
        TrainingError: more processes than clips.
    """
    batch = settings.global_batch
    if batch > clips:
        batch = clips - clips % processes
        if not batch:
            raise TrainingError(f"{clips} clips are too few for {processes} processes: start fewer")
        log.warning("batch reduced from %d to %d: the split has %d clips", settings.global_batch, batch, clips)
    return settings.model_copy(update={"global_batch": batch, "precision": choose_precision(settings.precision)})


def check_trackers(settings: Train) -> None:
    """All of them must be installed.

    Raises:
        ConfigError: one is not.
    """
    for tracker in settings.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(f"train.trackers: {tracker} is not installed: pip install {tracker}, or leave it out")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings under dotted names, as trackers take them."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return found


def finish(accelerator: Accelerator, model: nn.Module, average: dict[str, Tensor]) -> dict[str, Tensor]:
    """Close the trackers; the weights to keep, whole: averaged where an average was kept. All processes call this."""
    for tracker in accelerator.trackers:
        tracker.finish()
    return {name: whole(tensor.detach()) for name, tensor in (model.state_dict() | average).items()}


def claim_run(run: Path, recipe: Settings, begin: Callable[[], TrainedOn]) -> None:
    """Write recipe.yaml and what the run is trained on, or check that the run found there is the same one.

    Args:
        run: folder of the run.
        recipe: resolved.
        begin: tells the clips of a run that begins now.

    Raises:
        TrainingError: it is of another recipe.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = run / "recipe.yaml"
    wanted = recipe.model_dump(mode="json")
    if file.exists():
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        differing = sorted(_differences(found, wanted))
        if differing:
            raise TrainingError(
                f"{run} holds a run of another recipe: {'; '.join(differing)}. "
                "Use another --run folder, or the same recipe to go on with this one"
            )
        return
    begin().save(run)
    beside = file.with_suffix(".part")
    beside.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
    beside.replace(file)


def _differences(found: object, wanted: object, key: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = found.keys() | wanted.keys()
        return [d for k in keys for d in _differences(found.get(k), wanted.get(k), f"{key}.{k}" if key else str(k))]
    return [] if found == wanted else [f"{key} was {found!r}, now {wanted!r}"]
