"""One loop for every kind of training: (make batch → loss → backward → clip → step → log → save), resumable.

Everything random follows from (seed, epoch, clip), so a run's state is its weights, its moments and one number: the
step. The loop knows nothing of audio or pictures: an `Objective` makes the model's inputs and what is to be minimised.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from equiav.config import Optim, Train
from equiav.errors import TrainingError
from equiav.train.checkpoint import load_state, save_state
from equiav.train.optim import learning_rate, make_optimizer

MAX_BAD_STEPS = 3  # non-finite steps in a row before the run stops


class HasClips(Protocol):
    """What the loop needs to know of a batch: whose fault a bad step may be."""

    @property
    def clip_ids(self) -> list[str]:
        """Ids of its clips."""
        ...


class Loader(Protocol):
    """Batches of an epoch, from any batch on; the order depends on (its seed, epoch) alone."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]:
        """The batches of `epoch`, from `start_batch` on."""
        ...


class Objective(Protocol):
    """What is trained for."""

    def inputs(self, batch: Any, epoch: int) -> tuple[Tensor | None, ...]:
        """The model's arguments for a batch: the same for the same clips, epoch and seed."""
        ...

    def losses(self, output: Any) -> dict[str, Tensor]:
        """From the model's output: the scalar to minimise under "loss", and anything else worth a line in a log."""
        ...


@dataclass(frozen=True)
class Step:
    """What one finished step says of itself; a line of metrics.jsonl."""

    step: int  # finished optimizer steps
    steps: int  # of how many
    epoch: float
    lr: float
    gradient_norm: float
    clips_per_s: float
    data_wait: float  # share of the step's time spent waiting for the loader
    skipped: int  # steps skipped so far because of a non-finite loss or gradient
    losses: dict[str, float]  # "loss", its parts and accuracies

    def describe(self) -> str:
        """One line for a progress bar."""
        short = {name.removeprefix("loss_"): value for name, value in self.losses.items() if name.startswith("loss")}
        parts = " ".join(f"{name} {value:.2f}" for name, value in short.items())
        return f"{parts} · {self.clips_per_s:.0f} clips/s"


def choose_precision(wish: str, device: torch.device) -> str:
    """`auto` → "bf16" where a bf16 matrix product outruns fp32, else "fp32".

    Measured rather than looked up: some processors accept bf16 and compute it a hundred times slower.
    """
    if wish != "auto":
        return wish
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(256, 256, dtype=dtype)
        torch.mm(a, a)
        start = time.perf_counter()
        torch.mm(a, a)
        seconds[dtype] = time.perf_counter() - start
    return "bf16" if seconds[torch.bfloat16] < seconds[torch.float32] else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Matrix products in bf16 where `precision` says so; losses and norms stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def train(
    model: nn.Module,
    loader: Loader,
    objective: Objective,
    run: Path,
    *,
    settings: Train,
    optim: Optim,
    on_step: Callable[[Step], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train until `settings.epochs` are done or `should_stop()`; returns the number of finished steps.

    Raises:
        TrainingError: the loss or its gradient was not finite three steps in a row; names step and clips.
    """
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, optim)
    step = load_state(run, model, optimizer)
    per_epoch = len(loader)
    total = per_epoch * settings.epochs
    metrics = _open_metrics(run / "metrics.jsonl", step)
    bad = skipped = 0
    model.train()
    with metrics:
        while step < total and not should_stop():
            batches = loader.epoch(step // per_epoch, step % per_epoch)
            finished_at = time.perf_counter()
            for batch in batches:
                arrived_at = time.perf_counter()
                lr = learning_rate(step, steps_per_epoch=per_epoch, epochs=settings.epochs, settings=optim)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                inputs = objective.inputs(batch, step // per_epoch)
                with autocast(settings.precision, device):
                    output = model(*inputs)
                parts = objective.losses(output)
                parts["loss"].backward()
                norm = nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
                if bool(torch.isfinite(norm)) and bool(torch.isfinite(parts["loss"])):
                    optimizer.step()
                    bad = 0
                else:
                    bad, skipped = bad + 1, skipped + 1
                    _note_bad_step(run, step, batch.clip_ids, parts, float(norm), bad)
                optimizer.zero_grad(set_to_none=True)
                step += 1
                now = time.perf_counter()
                report = Step(
                    step=step,
                    steps=total,
                    epoch=step / per_epoch,
                    lr=lr,
                    gradient_norm=float(norm),
                    clips_per_s=len(batch.clip_ids) / (now - finished_at),
                    data_wait=(arrived_at - finished_at) / (now - finished_at),
                    skipped=skipped,
                    losses={name: float(value.detach()) for name, value in parts.items()},
                )
                if step % settings.log_every == 0 or step == total:
                    metrics.write(json.dumps(_line(report)) + "\n")
                    metrics.flush()
                if on_step:
                    on_step(report)
                if should_stop() or step == total:
                    break
                finished_at = now
            if step % per_epoch == 0 or should_stop():
                save_state(run, model, optimizer, step)
    return step


def _line(step: Step) -> dict[str, Any]:
    fields = {key: value for key, value in vars(step).items() if key != "losses"}
    return fields | step.losses


def _open_metrics(path: Path, step: int) -> Any:
    """Append to metrics.jsonl; lines after the restored step are dropped: they will be written again."""
    kept: list[str] = []
    if path.exists():
        whole = (text for text in path.read_text(encoding="utf-8").splitlines(keepends=True) if text.endswith("\n"))
        kept = [text for text in whole if json.loads(text)["step"] <= step]
    path.write_text("".join(kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _note_bad_step(run: Path, step: int, clips: list[str], parts: dict[str, Tensor], norm: float, bad: int) -> None:
    found = {name: float(value.detach()) for name, value in parts.items()} | {"gradient_norm": norm}
    with (run / "skipped.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "clip_ids": clips, **{k: repr(v) for k, v in found.items()}}) + "\n")
    if bad >= MAX_BAD_STEPS:
        raise TrainingError(
            f"step {step}: loss or gradient not finite for {bad} steps in a row ({found}); clips {', '.join(clips[:8])}"
            f"{' …' if len(clips) > 8 else ''}; lower optim.lr, or look at these clips (all in {run / 'skipped.jsonl'})"
        )
