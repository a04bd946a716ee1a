"""The state of a run on disk: exact, whole or absent.

    RUN/state/step-00000120/{model.safetensors, optimizer.safetensors, state.json}

A checkpoint is written beside, flushed to disk and renamed; the last `KEEP` stay. All randomness of training is
derived from (seed, step), so weights, moments and the step count are everything that a resumed run needs.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from equiav.errors import TrainingError

KEEP = 2


def save_state(run: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Path:
    """Write the state after `step` finished steps; returns its folder."""
    folder = run / "state" / f"step-{step:08d}"
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file(_own_storage(model.state_dict()), beside / "model.safetensors")
    save_file(_own_storage(_moments(model, optimizer)), beside / "optimizer.safetensors")
    (beside / "state.json").write_text(json.dumps({"version": 1, "step": step}), encoding="utf-8")
    for file in beside.iterdir():
        _flush(file)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    _flush(folder.parent)
    for old in _states(run)[:-KEEP]:
        shutil.rmtree(old)
    return folder


def load_state(run: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest state of `run` in place; returns its step, 0 when there is none.

    Raises:
        TrainingError: the state belongs to another model.
    """
    states = _states(run)
    if not states:
        return 0
    try:
        model.load_state_dict(load_file(states[-1] / "model.safetensors"))
    except RuntimeError as error:
        raise TrainingError(f"{states[-1]}: these weights belong to another model: {error}") from None
    stored = load_file(states[-1] / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        keys = ("step", "exp_avg", "exp_avg_sq")
        if f"{name}.exp_avg" in stored:
            optimizer.state[parameter] = {key: stored[f"{name}.{key}"].to(parameter.device) for key in keys}
    return int(json.loads((states[-1] / "state.json").read_text(encoding="utf-8"))["step"])


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _own_storage(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU: what safetensors takes."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _states(run: Path) -> list[Path]:
    return sorted((run / "state").glob("step-*"))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
