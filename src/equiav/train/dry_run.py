"""What a training would take, before it is started:  (recipe, library) → sizes, memory, time. Keeps nothing.

The steps are the run's own, on batches of its own loader, and what they take is measured. Where whole steps would last
for long or need more memory than there is, steps of ever more clips are taken, and the rest is drawn from them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from equiav.config import Recipe, Train
from equiav.library.loader import Batch, ClipLoader
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.train.estimate import TIGHT, Estimate, Growth, advise
from equiav.train.loop import Loop
from equiav.train.memory import available_gb, is_out_of_memory, peak_gb, reset_peak, used_gb
from equiav.train.objective import HEALTH_CLIPS, Pretraining
from equiav.train.pretrain import Plan, make_plan
from equiav.train.processes import agreed, is_sharded
from equiav.train.throughput import Ceiling, now, step_flops
from equiav.words import counted

WHOLE_STEPS = 3
QUICK_S = 10.0  # a whole step that would last longer is not done
ENOUGH_S = 5.0  # a step that lasted longer is the last
SEARCH_STEPS = 30  # of fp16, until its gradients are finite

NAMES = (
    *("audio", "visual", "audio_view", "visual_view", "audio_params", "visual_params"),
    *("audio_centroid_params", "visual_centroid_params"),
)

OnStep = Callable[[int, int, str], None]


def dry_run(recipe: Recipe, library: Library, run: Path, *, on_step: OnStep = lambda *_: None) -> Estimate:
    """Resolve the recipe on the library, build everything, do a few steps, and measure.

    Args:
        recipe: as for `pretrain`.
        library: likewise.
        run: likewise; nothing is written there.
        on_step: told of every step: how many are done, of how many, and what the last one took.

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
    needed = taken.peak_gb if taken else max(used + weights, available)
    # what the process held before may be given back meanwhile: the parts are those of the peak
    other = max(0.0, min(taken.other_gb if taken else used, needed - weights))
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


def weights_gb(parameters: int, train: Train, processes: int = 1) -> float:
    """Of one process, in 10^9 bytes: weights, gradients, two moments, and their average where one is kept."""
    copies = 5 if train.ema or train.average_last else 4
    return copies * 4 * parameters / (processes if train.parallel == "fsdp" else 1) / 1e9


def measured(device: torch.device, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that `work` takes on `device`, and the peak of memory meanwhile, in 10^9 bytes."""
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


def _batches(loader: ClipLoader) -> Iterator[Batch]:
    for epoch in count():
        yield from loader.epoch(epoch)


@dataclass(frozen=True)
class _Taken:
    """By the steps of one process."""

    seconds: float  # per whole step
    peak_gb: float
    other_gb: float  # before there was a model
    whole: bool
    growth: Growth
    ceiling: Ceiling
    shapes: dict[str, tuple[int, ...]]


def _try(plan: Plan, weights: float, available: float, on_step: OnStep) -> _Taken | None:
    """Steps of ever more clips, then whole ones if they are quick and fit; None where not even the first fits."""
    with TemporaryDirectory(prefix="equiav-") as folder:
        try:
            return _Trial(plan, Path(folder), weights, available, on_step).run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None


class _Trial:
    """The run's own loop and loader, in a folder that goes away."""

    def __init__(self, plan: Plan, folder: Path, weights: float, available: float, on_step: OnStep) -> None:
        self.plan, self.weights, self.limit, self.on_step = plan, weights, TIGHT * available, on_step
        self.train, self.accelerator, self.device = plan.recipe.train, plan.accelerator, plan.accelerator.device
        self.share = plan.share
        self.part = min(self.train.micro_batch or self.share, self.share)
        self.sizes = _sizes(self.part, self.share)
        self.done, self.total = 0, 1 + len(self.sizes) + WHOLE_STEPS
        on_step(0, self.total, "building the model")
        self.ceiling = Ceiling(self.device, self.train.precision)
        self.batches = _batches(plan.loader)
        self.batch = next(self.batches)
        self.other = used_gb(self.device)
        model = EquiAV(plan.config, seed=self.train.seed).to(self.device)
        self.objective = Pretraining(model, plan.recipe)
        steps, optim = len(plan.loader), plan.recipe.optim
        self.loop = Loop(model, self.objective, folder, self.train, optim, self.accelerator, steps, lambda _: 1.0)
        self.loop.called.train()

    def run(self) -> _Taken:
        """All steps."""
        shapes = self._shapes()
        self._warm_up()
        growth, seconds = self._grow()
        peak = max(growth.at(self.part), self._health_peak(growth.clips))
        whole = not agreed(self.accelerator, seconds > QUICK_S or peak > self.limit)
        if whole:
            self.total = self.done + WHOLE_STEPS
            seconds, peak = self._whole_steps()
            growth = Growth(self.part, peak, (peak - self.other - self.weights) / self.part)
        self.on_step(self.done, self.done, "")
        return _Taken(seconds, peak, self.other, whole, growth, self.ceiling, shapes)

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

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        inputs = self.objective.inputs(self.batch.split(1)[0], 0)
        return {name: (self.share, *x.shape[1:]) for name, x in zip(NAMES, inputs, strict=False)}

    def _tell(self, clips: int, seconds: float, peak: float) -> None:
        self.done += 1
        self.on_step(self.done, self.total, f"{counted(clips, 'clip')}: {seconds:.2f} s, {peak:.2f} GB at the peak")


def _sizes(part: int, share: int) -> list[int]:
    """Clips of the steps of a trial: doubled up to those that are held at once; a loss needs two."""
    doubled = [1 << power for power in range(1, 20) if 1 << power < part]
    return [*doubled, min(max(part, 2), share)]
