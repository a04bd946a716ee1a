"""What a training would take, before it is started:  (recipe, library) → sizes, memory, time. Keeps nothing.

The steps are the run's own, on batches of its own loader, and what they take is measured. Where whole steps would last
for long or need more memory than there is, steps of ever more clips are taken, and the rest is drawn from them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from inspect import signature
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.table import Table

from equiav.config import Recipe, Train
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.train.loop import Loop
from equiav.train.memory import available_gb, is_out_of_memory, peak_gb, reset_peak, used_gb
from equiav.train.objective import HEALTH_CLIPS, Pretraining
from equiav.train.pretrain import Plan, make_plan
from equiav.train.processes import agreed, is_sharded
from equiav.train.throughput import Ceiling, now, step_flops
from equiav.words import counted

TIGHT = 0.9  # of the memory that is free: more is not counted on
WHOLE_STEPS = 3
QUICK_S = 10.0  # a whole step that would last longer is not done
ENOUGH_S = 5.0  # a step that lasted longer is the last
SEARCH_STEPS = 30  # of fp16, until its gradients are finite

OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Growth:
    """Memory by the clips whose activations are held at once: a straight line, in 10^9 bytes."""

    clips: int  # measured at,
    gb: float  # with this
    per_clip: float

    def at(self, clips: int) -> float:
        """Peak with that many clips at once."""
        return self.gb + self.per_clip * (clips - self.clips)

    def most(self, gb: float) -> int:
        """The largest power of two that fits; 0 where none does."""
        fitting = [1 << power for power in range(20) if self.at(1 << power) <= gb]
        return max(fitting, default=0)


@dataclass(frozen=True)
class Estimate:
    """What was found."""

    parameters: int
    clips: int  # in the split
    steps: int
    processes: int
    device: str
    precision: str
    global_batch: int
    process_batch: int
    micro_batch: int
    negatives_inter: int  # per anchor
    negatives_intra: int
    tflop_per_step: float  # useful work of all processes
    mfu: float | None  # of the measured steps; None where none could be done
    seconds_per_step: float | None
    hours: float | None
    memory_gb: float  # per process, at its peak: the next three; more than this where the last is None
    other_gb: float  # interpreter, libraries and batches read; 0 on a GPU
    weights_gb: float  # weights, gradients, moments, averaged weights
    activations_gb: float | None  # of a micro batch, and what a step needs besides
    available_gb: float  # per process, with what it has already
    whole_steps: bool  # measured; else drawn from steps of fewer clips
    advice: str  # what to change where it does not fit; else empty
    shapes: dict[str, tuple[int, ...]]  # of the model's arguments, for this process's share of the first batch

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def to_table(self) -> Table:
        """For people."""
        table = Table("", "", show_header=False)
        rows = {
            "parameters": f"{self.parameters / 1e6:.1f} M",
            "training": f"{counted(self.clips, 'clip')}, {counted(self.steps, 'step')} of "
            f"{counted(self.global_batch, 'clip')}",
            "processes": f"{self.processes} on {self.device}, {self.precision}: "
            f"{counted(self.process_batch, 'clip')} each, {self.micro_batch} at once",
            "negatives per anchor": f"{self.negatives_inter} inter-modal, {self.negatives_intra} intra-modal",
            "memory per process": self._memory(),
            "time": self._time(),
            **{f"first batch: {name}": " × ".join(map(str, shape)) for name, shape in self.shapes.items()},
        }
        for name, text in rows.items():
            table.add_row(name, text)
        return table

    def _memory(self) -> str:
        more = "more than " if self.activations_gb is None else ""
        parts = {
            "the process": self.other_gb,
            "weights, gradients and moments": self.weights_gb,
            "activations": self.activations_gb,
        }
        sum_of = " + ".join(f"{gb:.2f} GB {name}" for name, gb in parts.items() if gb)
        return f"{more}{self.memory_gb:.2f} GB at its peak ({sum_of}); {self.available_gb:.1f} GB are free"

    def _time(self) -> str:
        if self.hours is None or self.seconds_per_step is None or self.mfu is None:
            return "not measured: it does not fit"
        whole = f"{self.hours:.1f} h" if self.hours >= 1 else f"{60 * self.hours:.1f} min"
        how = "from whole steps" if self.whole_steps else "from steps of fewer clips"
        return (
            f"{whole}: {self.seconds_per_step:.2f} s per step of {self.tflop_per_step:.2f} TFLOP, "
            f"MFU {self.mfu:.0%}, {how}"
        )


def dry_run(
    recipe: Recipe, library: Library, run: Path, *, on_step: OnStep = lambda _done, _of, _last: None
) -> Estimate:
    """Resolve the recipe on the library, build everything, do a few steps, and measure; nothing is written to `run`.

    Args:
        on_step: called after every step: how many are done, of how many, and what the last one took.

    Raises:
        TrainingError: what `pretrain` would refuse.
    """
    plan = make_plan(recipe, library, run)
    train, accelerator = plan.recipe.train, plan.accelerator
    device, processes = accelerator.device, accelerator.num_processes
    available = available_gb(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in EquiAV(plan.config, seed=None).parameters())
    weights = weights_gb(parameters, train, processes)
    flops, steps, taken = step_flops(plan.config), len(plan.loader) * train.epochs, None
    used = used_gb(device)
    # all processes do the same steps: in each they wait for each other
    if not agreed(accelerator, used + weights > available):
        taken = _try(plan, weights, available, on_step)
    needed = taken.peak if taken else max(used + weights, available)
    # what the process held before may be given back meanwhile: the parts are those of the peak
    other = max(0.0, min(taken.other if taken else used, needed - weights))
    share = plan.share
    micro_batch = min(train.micro_batch or share, share)
    return Estimate(
        parameters=parameters,
        clips=len(plan.loader.rows),
        steps=steps,
        processes=processes,
        device=str(device),
        precision=train.precision,
        global_batch=train.global_batch,
        process_batch=share,
        micro_batch=micro_batch,
        negatives_inter=train.global_batch - 1,
        negatives_intra=2 * train.global_batch - 2,
        tflop_per_step=flops * train.global_batch / 1e12,
        mfu=taken and taken.ceiling.share(flops * share / taken.seconds),
        seconds_per_step=taken and taken.seconds,
        hours=taken and taken.seconds * steps / 3600,
        memory_gb=needed,
        other_gb=other,
        weights_gb=weights,
        activations_gb=taken and max(0.0, needed - weights - other),
        available_gb=available,
        whole_steps=taken is not None and taken.whole,
        advice=advise(needed, available, taken and taken.growth, micro_batch, _larger(plan)),
        shapes=taken.shapes if taken else {},
    )


def advise(needed_gb: float, available_gb: float, growth: Growth | None, micro_batch: int, larger: list[str]) -> str:
    """What to change where a training does not fit; empty where it does.

    Args:
        needed_gb: at its peak, per process.
        growth: None where not even the first step fits.
        larger: settings that need less memory otherwise.
    """
    if needed_gb <= TIGHT * available_gb:
        return ""
    more = "more than " if growth is None else ""
    problem = f"this does not fit: a process needs {more}{needed_gb:.1f} GB, and {available_gb:.1f} GB are free"
    fitting = min(growth.most(TIGHT * available_gb), micro_batch) if growth else 0
    if growth and 0 < fitting < micro_batch:
        return (
            f"{problem}. train.micro_batch={fitting} takes about {growth.at(fitting):.1f} GB: the same steps, with "
            "one more forward pass"
        )
    return f"{problem}. What takes less: {', '.join(larger)}"


def weights_gb(parameters: int, train: Train, processes: int = 1) -> float:
    """Of one process, in 10^9 bytes: weights, gradients, two moments, and their average where one is kept."""
    copies = 5 if train.ema or train.average_last else 4
    return copies * 4 * parameters / (processes if train.parallel == "fsdp" else 1) / 1e9


def measured(device: torch.device, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that `work` takes, and the peak of memory meanwhile, in 10^9 bytes."""
    reset_peak(device)
    start = now(device)
    work()
    return now(device) - start, peak_gb(device)


def _larger(plan: Plan) -> list[str]:
    """Settings that need less memory than now."""
    train, accelerator = plan.recipe.train, plan.accelerator
    found = [] if plan.recipe.model.checkpointing else ["model.checkpointing=true"]
    if accelerator.num_processes > 1 and train.parallel != "fsdp":
        found.append("train.parallel=fsdp")
    return [*found, "a smaller model.depth or model.width", "a smaller train.global_batch"]


def _try(plan: Plan, weights: float, available: float, on_step: OnStep) -> _Trial | None:
    """Steps of ever more clips, then whole ones if they are quick and fit; None where not even the first fits."""
    with TemporaryDirectory(prefix="equiav-") as folder:
        try:
            return _Trial(plan, Path(folder), weights, available, on_step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None


class _Trial:
    """What steps take, measured by the run's own loop and loader, in a folder that is removed.

    Attributes:
        seconds: per whole step.
        peak: of the memory, in 10^9 bytes.
        other: what was in use before there was a model, likewise.
        whole: whether whole steps were measured; else they are drawn from steps of fewer clips.
        growth: memory by clips.
        ceiling: of the device.
        shapes: of the model's arguments.
    """

    def __init__(self, plan: Plan, folder: Path, weights: float, available: float, on_step: OnStep) -> None:
        self.weights, self.limit, self.on_step = weights, TIGHT * available, on_step
        self.train, self.accelerator, self.device = plan.recipe.train, plan.accelerator, plan.accelerator.device
        self.share = plan.share
        self.part = min(self.train.micro_batch or self.share, self.share)
        # doubled up to those that are held at once; a loss needs two
        doubled = [1 << power for power in range(1, 20) if 1 << power < self.part]
        self.sizes = [*doubled, min(max(self.part, 2), self.share)]
        self.done, self.total = 0, 1 + len(self.sizes) + WHOLE_STEPS
        on_step(0, self.total, "building the model")
        self.ceiling = Ceiling(self.device, self.train.precision)
        self.batches = chain.from_iterable(plan.loader.epoch(epoch) for epoch in count())
        self.batch = next(self.batches)
        self.other = used_gb(self.device)
        model = EquiAV(plan.config, seed=self.train.seed).to(self.device)
        self.objective = Pretraining(model, plan.recipe)
        steps, optim = len(plan.loader), plan.recipe.optim
        self.loop = Loop(model, self.objective, folder, self.train, optim, self.accelerator, steps, lambda _: 1.0)
        self.loop.called.train()
        inputs = self.objective.inputs(self.batch.split(1)[0], 0)
        names = list(signature(EquiAV.forward).parameters)[1:]  # the first is the model
        self.shapes = {name: (self.share, *x.shape[1:]) for name, x in zip(names, inputs, strict=False)}
        self._warm_up()
        self.growth, self.seconds = self._grow()
        self.peak = max(self.growth.at(self.part), self._health_peak(self.growth.clips))
        self.whole = not agreed(self.accelerator, self.seconds > QUICK_S or self.peak > self.limit)
        if self.whole:
            self.total = self.done + WHOLE_STEPS
            self.seconds, self.peak = self._whole_steps()
            self.growth = Growth(self.part, self.peak, (self.peak - self.other - weights) / self.part)
        on_step(self.done, self.done, "")

    def _warm_up(self) -> None:
        """Steps until there are moments: the first one makes them; in fp16 the first whose gradients are finite."""
        for _ in range(SEARCH_STEPS):
            seconds, peak = self._step(self.sizes[0])
            if self.loop.trained.optimizer.state:
                self._tell(self.sizes[0], seconds, peak)
                return

    def _grow(self) -> tuple[Growth, float]:
        """Memory by clips at once, and the seconds of a whole step by the largest one done."""
        growth, seconds = Growth(0, self.other + self.weights, 0.0), 0.0
        for clips in self.sizes:
            seconds, peak = self._step(clips)
            self._tell(clips, seconds, peak)
            at_once, last = min(clips, self.part), growth
            growth = Growth(at_once, peak, max(0.0, peak - last.gb) / (at_once - last.clips))
            seconds *= self.share / clips * (1 if self.part == self.share else 4 / 3)  # one more forward pass
            slow = last.clips > 0 and seconds * clips > ENOUGH_S * self.share
            if agreed(self.accelerator, slow or growth.at(2 * at_once) > self.limit):
                break
            # by the first of them, both are more than they will be: whole steps tell it better
            if not agreed(self.accelerator, seconds > QUICK_S or growth.at(self.part) > self.limit):
                break
        return growth, seconds

    def _step(self, clips: int) -> tuple[float, float]:
        """Seconds and peak of a step of the first clips."""
        return measured(self.device, lambda: self.loop.step(self.batch.split(clips)[0], 0))

    def _health_peak(self, clips: int) -> float:
        """Peak of the measures after an epoch, which look at more clips than a small part has."""
        looked = min(HEALTH_CLIPS, self.share)
        if looked <= self.part or is_sharded(self.loop.model):
            return 0.0
        parts = self.batch.split(clips)[0], self.batch.split(2 * clips)[0]
        less, more = (measured(self.device, partial(self.objective.health, part, 0))[1] for part in parts)
        return less + max(0.0, more - less) * (looked / clips - 1)

    def _whole_steps(self) -> tuple[float, float]:
        """Seconds of a step with its wait for the loader, and the peak of steps and of what follows an epoch."""
        reset_peak(self.device)
        best = float("inf")
        for number in range(WHOLE_STEPS):
            start = now(self.device)
            if number:
                self.batch = next(self.batches)
            self.loop.step(self.batch, 0)
            seconds = now(self.device) - start
            best = min(best, seconds) if number else best  # the first has its batch
            self._tell(self.share, seconds, peak_gb(self.device))
        self.loop.end_epoch(0, None)
        if not is_sharded(self.loop.model):
            self.objective.health(self.batch, 0)
        return best, peak_gb(self.device)

    def _tell(self, clips: int, seconds: float, peak: float) -> None:
        self.done += 1
        self.on_step(self.done, self.total, f"{counted(clips, 'clip')}: {seconds:.2f} s, {peak:.2f} GB at the peak")
