"""What a training would take, before it is started:  (recipe, library) → sizes, memory, time. Writes nothing.

One step is really done, on as many clips as fit its purpose: time and activations are measured, not guessed.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from equiav.config import Recipe
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.train.objective import Pretraining
from equiav.train.optim import make_optimizer
from equiav.train.pretrain import make_plan
from equiav.train.throughput import matmul_rate, memory_gb, step_flops
from equiav.words import counted

CLIPS = 4  # of the step that is measured


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
    mfu: float  # of the measured step
    seconds_per_step: float
    hours: float
    weights_gb: float  # per process: weights, gradients, moments, averaged weights
    activations_gb: float  # per process: of a micro batch
    shapes: dict[str, tuple[int, ...]]  # of the model's arguments, for this process's share of the first batch

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def to_table(self) -> Table:
        """For people."""
        table = Table("", "", show_header=False)
        rows = {
            "parameters": f"{self.parameters / 1e6:.1f} M",
            "training": f"{counted(self.clips, 'clip')}, "
            f"{counted(self.steps, 'step')} of {counted(self.global_batch, 'clip')}",
            "processes": f"{self.processes} on {self.device}, {self.precision}: "
            f"{counted(self.process_batch, 'clip')} each, "
            f"{self.micro_batch} at once",
            "negatives per anchor": f"{self.negatives_inter} inter-modal, {self.negatives_intra} intra-modal",
            "memory per process": f"{self.weights_gb:.2f} GB weights, gradients and moments + "
            f"{self.activations_gb:.2f} GB activations",
            "time": f"{self.hours:.1f} h: {self.seconds_per_step:.2f} s per step of {self.tflop_per_step:.2f} TFLOP, "
            f"MFU {self.mfu:.0%}, from one step of a few clips",
            **{f"first batch: {name}": " × ".join(map(str, shape)) for name, shape in self.shapes.items()},
        }
        for name, text in rows.items():
            table.add_row(name, text)
        return table


NAMES = (
    *("audio", "visual", "audio_view", "visual_view", "audio_params", "visual_params"),
    *("audio_centroid_params", "visual_centroid_params"),
)


def dry_run(recipe: Recipe, library: Library, run: Path) -> Estimate:
    """Resolve the recipe on the library, build everything, do one step on a few clips, and measure.

    Raises:
        TrainingError: what `pretrain` would refuse.
    """
    plan = make_plan(recipe, library, run)
    train, accelerator = plan.recipe.train, plan.accelerator
    model = EquiAV(plan.config, seed=train.seed).to(accelerator.device)
    objective, optimizer = Pretraining(model, plan.recipe), make_optimizer(model, plan.recipe.optim)
    batch = next(plan.loader.epoch(0))
    share = len(batch.clip_ids)
    micro_batch = min(train.micro_batch or share, share)
    few = batch.split(max(2, min(CLIPS, share)))[0]
    n = len(few.clip_ids)
    inputs = objective.inputs(batch, 0)
    shapes = {name: tuple(x.shape) for name, x in zip(NAMES, inputs, strict=False)}
    del inputs

    def step() -> tuple[float, float]:
        """Seconds, and the memory that is held between forward and backward."""
        before, start = memory_gb(accelerator.device), time.perf_counter()
        arguments = objective.inputs(few, 0)  # views are made in full precision
        with accelerator.autocast():
            output = model(*arguments)
        held = memory_gb(accelerator.device) - before
        accelerator.backward(sum(x.float().square().sum() for x in output if x is not None))
        optimizer.zero_grad()
        return time.perf_counter() - start, held

    _, held = step()
    seconds = min(step()[0] for _ in range(2)) / n
    flops = step_flops(plan.config)
    passes = 1 if micro_batch == share else 4 / 3  # one more forward pass
    steps = len(plan.loader) * train.epochs
    per_step = seconds * share * passes
    count = sum(p.numel() for p in model.parameters())
    sharded = accelerator.num_processes if train.parallel == "fsdp" else 1
    return Estimate(
        parameters=count,
        clips=len(plan.loader.rows),
        steps=steps,
        processes=accelerator.num_processes,
        device=str(accelerator.device),
        precision=train.precision,
        global_batch=train.global_batch,
        process_batch=share,
        micro_batch=micro_batch,
        negatives_inter=train.global_batch - 1,
        negatives_intra=2 * train.global_batch - 2,
        tflop_per_step=flops * train.global_batch / 1e12,
        mfu=flops / seconds / matmul_rate(accelerator.device, train.precision),
        seconds_per_step=per_step,
        hours=per_step * steps / 3600,
        weights_gb=(4 if train.ema is None else 5) * 4 * count / sharded / 1e9,
        activations_gb=max(held, 0.0) / n * micro_batch,
        shapes=shapes,
    )
