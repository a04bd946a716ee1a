"""What the predictor and its K queries cost:  a model → parameters, FLOPs, step time and memory with and without.

"Without" is the same model as method `invariant`: both views pass the encoders, nothing is predicted. One training
step is forward and backward of a batch without the losses, whose cost does not depend on the predictor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equiav.diagnose.branch import FULL, Effort
from equiav.model.equiav import EquiAV
from equiav.train.throughput import model_inputs, step_flops

STEP_FLOPS = 2e11  # a step of about a second on a few cores
LARGEST_BATCH = 32


@dataclass(frozen=True)
class Cost:
    """One training step of a batch of B clips."""

    queries: int  # K, of the centroid; 0 without predictor
    parameters: int
    gflops_per_clip: float
    step_ms: float  # the best of a few
    saved_mb: float  # what forward keeps for backward


def costs(model: EquiAV, effort: Effort = FULL) -> tuple[int, list[Cost]]:
    """The batch size, and the cost without predictor and with the model's own K."""
    settings = model.config.architecture
    device = next(model.parameters()).device
    batch = max(1, min(LARGEST_BATCH, int(STEP_FLOPS / step_flops(model.config))))
    configs = [settings.model_copy(update={"method": "invariant"})]
    if settings.method == "equiav":
        configs.append(settings)
    models = [EquiAV(model.config.model_copy(update={"architecture": own})).to(device).train() for own in configs]
    steps = [_step(own, batch) for own in models]
    saved = [_saved_bytes(step) for step in steps]
    best = [float("inf")] * len(steps)
    for _ in range(effort.repeats):  # in turn, so that a slow moment of the machine meets both
        for i, step in enumerate(steps):
            best[i] = min(best[i], _seconds(step, device))
    return batch, [
        Cost(
            queries=own.config.architecture.centroid_samples if own.config.architecture.method == "equiav" else 0,
            parameters=sum(p.numel() for p in own.parameters()),
            gflops_per_clip=step_flops(own.config) / 1e9,
            step_ms=1000 * best[i],
            saved_mb=saved[i] / 1e6,
        )
        for i, own in enumerate(models)
    ]


def _step(model: EquiAV, batch: int) -> Callable[[], Tensor]:
    inputs = model_inputs(model, batch, next(model.parameters()).device)

    def forward() -> Tensor:
        return torch.stack([x.sum() for x in model(*inputs) if x is not None]).sum()

    return forward


def _saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that autograd keeps, each storage once."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = forward()
    result.backward()
    return sum(kept.values())


def _seconds(forward: Callable[[], Tensor], device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    forward().backward()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    """A GPU queues its work and does it later."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
