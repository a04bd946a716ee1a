"""One loop for every training: batch → gradient → clip → step → log → save. Resumable, on any number of processes.

Everything random follows from (seed, epoch, clip), so a run's state is its weights, its moments and `Progress`. The
loop knows nothing of audio or pictures: the caller's `Objective` makes the model's inputs and what is to be minimised.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from equiav.config import Optim, Train
from equiav.errors import TrainingError
from equiav.files import write_text
from equiav.metrics.health import ringing
from equiav.train.checkpoint import Progress, Trained, load_state, save_state
from equiav.train.gradient import Clips, Objective, backward
from equiav.train.memory import peak_gb
from equiav.train.optim import follow, learning_rate, make_optimizer, share_of_epoch, share_of_step
from equiav.train.processes import agreed, is_sharded, make_accelerator, spread, whole
from equiav.train.throughput import Ceiling

log = logging.getLogger(__name__)

_NORM = "gradient_norm"
SKIPPED = "skipped.jsonl"
MAX_BAD_STEPS = 3  # non-finite steps in a row before the run stops


@dataclass(frozen=True)
class Step:
    """One finished step; a line of metrics.jsonl."""

    step: int  # finished optimizer steps
    steps: int  # of how many
    epoch: float
    lr: float
    gradient_norm: float
    clips_per_s: float  # over all processes
    data_wait: float  # share of the step's time spent waiting for the loader
    mfu: float | None  # matrix-product FLOPs of the model over the best that the processor has shown in this run
    memory_gb: float  # at its peak so far: of this process (processor) or of its GPU
    skipped: int  # steps skipped so far because of a non-finite loss or gradient
    losses: dict[str, float]  # "loss", its parts, accuracies, and what else the objective measures

    def describe(self) -> str:
        """One line for a progress bar."""
        parts = {name.removeprefix("loss_"): value for name, value in self.losses.items() if name.startswith("loss")}
        shown = [" ".join(f"{name} {value:.2f}" for name, value in parts.items())]
        if "accuracy_inter" in self.losses:
            shown.append(f"acc {self.losses['accuracy_inter']:.0%}")
        if "alignment" in self.losses:
            shown.append(f"align {self.losses['alignment']:.2f} uniform {self.losses['uniformity']:.2f}")
        shown.append(f"{self.clips_per_s:.0f} clips/s, wait {self.data_wait:.0%}")
        if self.mfu is not None:
            shown.append(f"MFU {self.mfu:.0%}")
        shown.append(f"{self.memory_gb:.1f} GB")
        return " · ".join(shown)

    def numbers(self) -> dict[str, float]:
        """All of it, flat."""
        return {key: value for key, value in vars(self).items() if key != "losses"} | self.losses


class JsonLines:
    """A file of JSON lines with a "step" each. Opened again at a step, later lines and a half one are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        if not path.exists():
            return
        lines = (text for text in path.read_text(encoding="utf-8").splitlines(keepends=True) if text[-1] == "\n")
        kept = [text for text in lines if json.loads(text)["step"] <= step]
        write_text(path, "".join(kept), TrainingError)

    def add(self, line: dict[str, Any]) -> None:
        """Append one; what is not finite becomes null, which every reader of JSON takes."""
        finite = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in line.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")


class Loader(Protocol):
    """Batches of an epoch, from any batch on; the order depends on (its seed, epoch) alone."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]:
        """This process's share of the batches of `epoch`, from `start_batch` on."""
        ...


def train(
    model: nn.Module,
    loader: Loader,
    objective: Objective,
    run: Path,
    *,
    settings: Train,
    optim: Optim,
    accelerator: Accelerator | None = None,
    lr_ratio: Callable[[str], float] = lambda _: 1.0,
    judge: Callable[[], float] | None = None,
    flops_per_clip: float | None = None,
    on_step: Callable[[Step], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Progress, dict[str, Tensor]]:
    """Train until `settings.epochs` are done or `should_stop()`; what is on disk then is what is in memory.

    Args:
        model: trained in place.
        run: folder for state/, metrics.jsonl, health.jsonl and skipped.jsonl.
        accelerator: the processes to train on; by default this one alone.
        lr_ratio: of a parameter, by its name: its learning rate over that of the schedule.
        judge: asked after every epoch, on all processes: the error, by the lowest of which the best state is kept.
        flops_per_clip: of forward and backward, for the model FLOP utilisation.
        on_step: called after every step, on the main process.
        should_stop: asked after every step; True on any process makes all save and stop.

    Returns:
        Where the run is, and the average of the weights by name (empty without `settings.ema` or `average_last`).

    Raises:
        TrainingError: the loss or its gradient was not finite three steps in a row; names step and clips.
    """
    accelerator = accelerator or make_accelerator(settings.precision)
    loop = Loop(model, objective, run, settings, optim, accelerator, len(loader), lr_ratio)
    notes = _Notes(loop, flops_per_clip, on_step) if accelerator.is_main_process else None
    loop.called.train()
    stop = agreed(accelerator, should_stop())
    while loop.progress.step < loop.total and not stop:
        epoch, start = divmod(loop.progress.step, loop.per_epoch)
        batch: Clips | None = None
        for batch, asked, came in _timed(loader.epoch(epoch, start)):
            losses, norm = loop.step(batch, epoch)
            if notes:
                notes.step(len(batch.clip_ids), losses, norm, asked, came)
            ended = loop.progress.step % loop.per_epoch == 0
            if ended:
                error = judge() if judge else None
                loop.end_epoch(epoch, error)
                # weights in shards can't be asked outside of a training step
                if notes and not is_sharded(model):
                    judged = {} if error is None else {"validation_error": error}
                    notes.health(objective.health(batch, epoch) | judged)
            stop = agreed(accelerator, should_stop())
            if ended or stop or loop.progress.step % settings.save_every == 0:
                loop.save()
            if stop:
                break
    return loop.progress, loop.trained.average


class Loop:
    """What a step needs, and what it changes."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        run: Path,
        settings: Train,
        optim: Optim,
        accelerator: Accelerator,
        per_epoch: int,
        lr_ratio: Callable[[str], float],
    ) -> None:
        self.model, self.objective, self.run = model, objective, run
        self.settings, self.optim, self.accelerator = settings, optim, accelerator
        self.per_epoch, self.total = per_epoch, per_epoch * settings.epochs
        self.called = spread(model, accelerator, settings.parallel)
        optimizer = make_optimizer(model, optim, lr_ratio)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        weights = dict(model.named_parameters()) if settings.ema or settings.average_last else {}
        average = {name: weight.detach().clone() for name, weight in weights.items()}
        self.trained = Trained(model, optimizer, average)
        self.progress = load_state(run, self.trained)
        if accelerator.is_main_process:
            self.skipped = JsonLines(run / SKIPPED, self.progress.step - 1)  # they are counted from 0
        if accelerator.scaler is not None and self.progress.scaler:
            accelerator.scaler.load_state_dict(self.progress.scaler)

    def step(self, batch: Clips, epoch: int) -> tuple[dict[str, float], float]:
        """Losses and gradient norm of a batch; the weights have moved, unless one of them is not finite.

        What is decided, is decided by numbers that all processes share.
        """
        done, epochs = self.progress.step, self.settings.epochs
        lr = learning_rate(done, steps_per_epoch=self.per_epoch, epochs=epochs, settings=self.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_ratio"]
        seed = self.settings.seed * 1_000_003 + done
        # drop path, other clips on every process; all else has keys
        torch.manual_seed(seed * self.accelerator.num_processes + self.accelerator.process_index)
        micro_batch = self.settings.micro_batch or len(batch.clip_ids)
        losses = backward(self.called, self.objective, batch, epoch, self.accelerator, micro_batch=micro_batch)
        self.accelerator.unscale_gradients()
        norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.clip_norm))
        # in float64 the mean of equal float32 numbers is that number
        found = torch.stack([norm.double(), *(value.double() for value in losses.values())])
        means: Any = self.accelerator.reduce(found, "mean")
        numbers: dict[str, float] = dict(zip([_NORM, *losses], means.tolist(), strict=True))
        norm = numbers.pop(_NORM)
        finite = math.isfinite(norm) and math.isfinite(numbers["loss"])
        scaler = self.accelerator.scaler
        # fp16 begins with a scale that overflows
        searching = scaler is not None and math.isfinite(numbers["loss"]) and scaler.get_scale() > 1
        if not finite and scaler is not None:
            scaler.update(scaler.get_scale() * scaler.get_backoff_factor())
        if finite:
            self.optimizer.step()
            if self.settings.ema:
                follow(self.trained.average, self.model, share_of_step(self.settings.ema, self.progress.step))
            self.progress.bad = 0
        elif not searching:
            self._note_bad_step(batch.clip_ids, numbers, norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return numbers, norm

    def end_epoch(self, epoch: int, error: float | None) -> None:
        """Average, and remember the epoch if its error was the lowest so far."""
        progress = self.progress
        if self.settings.average_last:
            share = share_of_epoch(self.settings.average_last, epoch, self.settings.epochs)
            follow(self.trained.average, self.model, share)
        if error is not None and (progress.best_loss is None or error < progress.best_loss):
            progress.best_loss, progress.best_step = error, progress.step

    def save(self) -> None:
        """Put all of it on disk."""
        if self.accelerator.scaler is not None:
            self.progress.scaler = self.accelerator.scaler.state_dict()
        save_state(self.run, self.trained, self.progress, write=self.accelerator.is_main_process)
        self.accelerator.wait_for_everyone()

    def _note_bad_step(self, clips: list[str], losses: dict[str, float], norm: float) -> None:
        progress = self.progress
        progress.bad, progress.skipped = progress.bad + 1, progress.skipped + 1
        clips, found, file = gather_object(clips), losses | {_NORM: norm}, self.run / SKIPPED
        if self.accelerator.is_main_process:
            values = {name: repr(value) for name, value in found.items()}
            self.skipped.add({"step": progress.step, "clip_ids": clips, **values})
            log.warning("step %d skipped: loss or gradient not finite; its clips are in %s", progress.step, file)
        if progress.bad >= MAX_BAD_STEPS:
            raise TrainingError(
                f"step {progress.step}: loss or gradient not finite for {progress.bad} steps in a row ({found}); clips "
                f"{', '.join(clips[:8])}{' …' if len(clips) > 8 else ''}; lower optim.lr, or look at these clips "
                f"(all in {file})"
            )


def _timed(batches: Iterator[Clips]) -> Iterator[tuple[Clips, float, float]]:
    """Each batch, when it was asked for, and when it came."""
    asked = time.perf_counter()
    for batch in batches:
        yield batch, asked, time.perf_counter()
        asked = time.perf_counter()


class _Notes:
    """What the main process writes down and tells."""

    def __init__(self, loop: Loop, flops_per_clip: float | None, on_step: Callable[[Step], None] | None) -> None:
        self.loop, self.on_step = loop, on_step
        run, step = loop.run, loop.progress.step
        self.metrics, self.healths = JsonLines(run / "metrics.jsonl", step), JsonLines(run / "health.jsonl", step)
        self.waits: list[float] = []
        self.warned: set[str] = set()
        self.flops = flops_per_clip
        device, precision = loop.accelerator.device, loop.settings.precision
        self.ceiling = None if flops_per_clip is None else Ceiling(device, precision)

    def step(self, clips: int, losses: dict[str, float], norm: float, asked: float, came: float) -> None:
        """After every step."""
        loop, progress, seconds = self.loop, self.loop.progress, time.perf_counter() - asked
        self.waits.append((came - asked) / seconds)
        step = Step(
            step=progress.step,
            steps=loop.total,
            epoch=progress.step / loop.per_epoch,
            lr=loop.optimizer.param_groups[0]["lr"],
            gradient_norm=norm,
            clips_per_s=loop.settings.global_batch / seconds,
            data_wait=self.waits[-1],
            mfu=self.ceiling.share(self.flops * clips / seconds) if self.ceiling and self.flops else None,
            memory_gb=peak_gb(loop.accelerator.device),
            skipped=progress.skipped,
            losses=losses,
        )
        if progress.step % loop.settings.log_every == 0 or progress.step == loop.total:
            self.metrics.add(step.numbers())
            loop.accelerator.log(step.numbers(), step=progress.step)
        if self.on_step:
            self.on_step(step)

    def health(self, measures: dict[str, float]) -> None:
        """After every epoch: the measures, and the alarms they set off once the warm-up is over."""
        loop, step = self.loop, self.loop.progress.step
        measures = measures | {"data_wait": sum(self.waits) / len(self.waits)}
        self.waits.clear()
        alarms = ringing(measures) if step > loop.optim.warmup_epochs * loop.per_epoch else {}
        for measure, line in alarms.items():
            if measure not in self.warned:  # once is enough for people; health.jsonl has every epoch
                log.warning("alarm at step %d: %s", step, line)
        self.warned |= alarms.keys()
        self.healths.add({"step": step, **measures, "alarms": list(alarms.values())})
        loop.accelerator.log({f"health/{name}": value for name, value in measures.items()}, step=step)
