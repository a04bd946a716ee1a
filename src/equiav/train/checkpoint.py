"""The state of a run on disk: exact, whole or absent.

    RUN/state/step-00000120/{model.safetensors, optimizer.safetensors, average.safetensors, state.json}

A checkpoint is written beside, flushed to disk and renamed; the last `KEEP` stay, and the one with the lowest error.
All randomness of training follows from (seed, epoch, clip), so weights, moments, the averaged weights and `Progress`
are everything that a resumed run needs, with whatever number of processes: what is on disk is whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equiav.errors import ModelError, TrainingError
from equiav.files import flush, make_folder
from equiav.model.folder import read_json
from equiav.model.hub import read_weights, write_weights
from equiav.train.processes import spread_like, whole

KEEP = 2


@dataclass
class Progress:
    """Where a run is: all that the loop changes besides tensors."""

    step: int = 0  # finished optimizer steps
    bad: int = 0  # steps in a row whose loss or gradient was not finite
    skipped: int = 0  # such steps so far
    best_loss: float | None = None  # lowest error on other clips after an epoch, where that is asked for
    best_step: int = 0  # the last step of that epoch
    scaler: dict[str, Any] = field(default_factory=dict[str, Any])  # of the gradients, in fp16


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds the tensors of."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]  # running mean of the weights; empty without one


def save_state(run: Path, trained: Trained, progress: Progress, *, write: bool = True) -> None:
    """Write the state after `progress.step` finished steps.

    Args:
        write: True on one process; the others must call too, to give their shards.

    Raises:
        TrainingError: it cannot be written, on a full disk for example. What was written before stays.
    """
    moments = {
        f"{name}.{key}": value
        for name, parameter in trained.model.named_parameters()
        for key, value in trained.optimizer.state.get(parameter, {}).items()
    }
    tensors = {
        "model": _gathered(trained.model.state_dict()),
        "optimizer": _gathered(moments),
        "average": _gathered(trained.average),
    }
    if not write:
        return
    folder = run / "state" / f"step-{progress.step:08d}"
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        _write(tensors, progress, beside)
    except (OSError, ModelError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise TrainingError(
            f"{error}; the states before it are whole: make room, then run the same command again"
        ) from None
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    flush(folder.parent)
    best = f"step-{progress.best_step:08d}"
    for old in _states(run)[:-KEEP]:
        if old.name != best:
            shutil.rmtree(old)


def _write(tensors: dict[str, dict[str, Tensor]], progress: Progress, folder: Path) -> None:
    make_folder(folder)
    for name, content in tensors.items():
        if content or name != "average":
            write_weights(content, folder / f"{name}.safetensors")
    (folder / "state.json").write_text(json.dumps({"version": 1, **asdict(progress)}), encoding="utf-8")
    for written in (*folder.iterdir(), folder):
        flush(written)


def has_state(run: Path) -> bool:
    """Whether there is one to go on from: all that the run started from is needless then."""
    return bool(_states(run))


def steps_done(run: Path) -> int:
    """Finished steps of the newest state of `run`; 0 where there is none."""
    return max((int(state.name.removeprefix("step-")) for state in _states(run)), default=0)


def load_state(run: Path, trained: Trained) -> Progress:
    """Restore the newest state of `run` in place; a fresh `Progress` when there is none.

    Raises:
        TrainingError: the state belongs to another model. ModelError: a file of it is damaged.
    """
    states = _states(run)
    if not states:
        return Progress()
    folder = states[-1]
    _restore(trained.model.state_dict(), read_weights(folder / "model.safetensors"), folder)
    stored = read_weights(folder / "optimizer.safetensors")
    for name, parameter in trained.model.named_parameters():
        if f"{name}.exp_avg" in stored:
            moments = {key: spread_like(stored[f"{name}.{key}"], parameter) for key in ("exp_avg", "exp_avg_sq")}
            step = stored[f"{name}.step"].to(parameter.device)
            trained.optimizer.state[parameter] = {"step": step, **moments}
    if trained.average:
        _restore(trained.average, read_weights(folder / "average.safetensors"), folder)
    found = read_json(folder / "state.json")
    # earlier states also hold the mean loss of the epoch so far, which nothing reads
    return Progress(**{one.name: found[one.name] for one in fields(Progress) if one.name in found})


def best_weights(run: Path, progress: Progress) -> dict[str, Tensor]:
    """The weights after the best epoch of `run`."""
    return read_weights(run / "state" / f"step-{progress.best_step:08d}" / "model.safetensors")


def _restore(into: dict[str, Tensor], stored: dict[str, Tensor], folder: Path) -> None:
    wanted, found = ({name: tuple(x.shape) for name, x in tensors.items()} for tensors in (into, stored))
    if differing := sorted(name for name in wanted | found if wanted.get(name) != found.get(name)):
        raise TrainingError(f"{folder}: these weights belong to another model: {', '.join(differing[:5])} differ")
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(spread_like(stored[name], tensor))


def _gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole, contiguous, on the CPU: what safetensors takes."""
    return {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}


def _states(run: Path) -> list[Path]:
    return sorted((run / "state").glob("step-*"))
