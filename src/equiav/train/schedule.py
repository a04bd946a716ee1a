"""How long a run is: in epochs and steps, which few clips raise; and in time, estimated first and then measured."""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from equiav.config import FinetuneRecipe, Recipe
from equiav.train.loop import Step
from equiav.train.throughput import matmul_rate
from equiav.words import counted, duration

R = TypeVar("R", Recipe, FinetuneRecipe)
USED = 0.4  # of the rate of matrix products, by a step with its views and losses: 0.3 to 0.8 where it was measured
MEASURED_STEPS = 3


def with_enough_steps(recipe: R, clips: int) -> R:
    """The recipe with epochs enough for `train.min_steps`, and a warm-up that is the same share of them.

    Args:
        recipe: its batch is one that the clips fill.
        clips: in the split; the same ones, and the same recipe, give the same epochs.
    """
    train, optim = recipe.train, recipe.optim
    epochs = max(train.epochs, -(-train.min_steps // (clips // train.global_batch)))
    if epochs == train.epochs:
        return recipe
    warmup = optim.warmup_epochs * epochs / train.epochs
    changed = {
        "train": train.model_copy(update={"epochs": epochs}),
        "optim": optim.model_copy(update={"warmup_epochs": warmup}),
    }
    return recipe.model_copy(update=changed)


@dataclass(frozen=True)
class Schedule:
    """What a run is about to do."""

    clips: int  # in the split
    batch: int
    per_epoch: int  # steps
    epochs: int
    asked_epochs: int  # by the recipe
    min_steps: int
    done: int  # steps, of a run that goes on
    seconds: float  # that the others take, estimated
    where: str  # device and precision

    def __str__(self) -> str:
        """In two lines."""
        steps, epochs = counted(self.per_epoch * self.epochs, "step"), counted(self.epochs, "epoch")
        raised = f" instead of {self.asked_epochs}, for at least {self.min_steps} steps (train.min_steps)"
        goes_on = f"; goes on at step {self.done}" if self.done else ""
        return (
            f"plan: {counted(self.clips, 'clip')}, {counted(self.per_epoch, 'step')} of {self.batch} in an epoch, "
            f"{epochs}{raised if self.epochs > self.asked_epochs else ''}: {steps}{goes_on}\n"
            f"about {duration(self.seconds)} on {self.where}: estimated from its matrix products, measured after "
            f"{MEASURED_STEPS} steps"
        )


def estimated_seconds(flops: float, device: torch.device, precision: str, processes: int) -> float:
    """Seconds of a training whose matrix products are so many FLOPs, at a usual rate."""
    return flops / (processes * USED * matmul_rate(device, precision))


class Pace:
    """Says once, when a few steps are done, how long a run takes.

    Args:
        say: called with that line.
        clock: seconds.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._first: tuple[int, float] | None = None  # step that was done, and when; the first one warms up
        self._said = False

    def __call__(self, step: Step) -> None:
        """After every step."""
        if self._first is None:
            self._first = step.step, self._clock()
        begun, at = self._first
        measured = step.step - begun
        if self._said or measured < MEASURED_STEPS:
            return
        self._said = True
        whole = begun == 1
        seconds = (self._clock() - at) / measured * (step.steps if whole else step.steps - step.step)
        epochs = counted(round(step.steps * step.epoch / step.step), "epoch")
        of = f"for {epochs}" if whole else f"more for the rest of {epochs}"
        self._say(f"about {duration(seconds)} {of}: measured over {measured} steps")
