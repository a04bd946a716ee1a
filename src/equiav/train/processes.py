"""One process or many: who we are, what all agree on, and how a model is spread over them.

`torchrun --nproc-per-node N -m equiav pretrain …` and `accelerate launch …` set the environment that Accelerate reads:
gloo between processors, NCCL between GPUs. Without it there is one process, and everything here is a no-op.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from equiav.errors import TrainingError
from equiav.model.vit import Block

T = TypeVar("T")


def make_accelerator(precision: str = "fp32", trackers: tuple[str, ...] = (), run: Path | None = None) -> Accelerator:
    """Join the processes that were started together.

    Args:
        trackers: where measurements go besides metrics.jsonl.
        run: folder for the trackers' files.

    Raises:
        TrainingError: fp16 without a GPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "fp16" and device == "cpu":
        raise TrainingError("train.precision=fp16 needs a GPU; take auto, bf16 or fp32")
    # accelerate keeps one precision per process; each run of ours brings its own
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]  (there is no public way)
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        cpu=device == "cpu",
        log_with=list(trackers) or None,
        project_dir=str(run / "tensorboard") if run else None,
    )


def leave() -> None:
    """End what joined the processes; the last thing that each of them does."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def spread(model: nn.Module, accelerator: Accelerator, parallel: str) -> nn.Module:
    """What to call in training: the model itself, its DDP wrapper, or the model with its weights sharded (FSDP).

    The modules keep their names either way, so that a state saved by any number of processes fits any other.
    """
    if accelerator.num_processes == 1 or parallel == "ddp":
        return accelerator.prepare_model(model)
    model.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Does each process hold only a part of the weights?"""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, example: Tensor) -> Tensor:
    """A whole tensor, placed and sharded as `example` is."""
    if isinstance(example, DTensor):
        return distribute_tensor(tensor, example.device_mesh, example.placements)
    return tensor.to(example.device)


def from_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What `work` gives on the main process, on all of them."""
    found = [work() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


def agreed(accelerator: Accelerator, flag: bool) -> bool:
    """True on all processes where it is true on any."""
    if accelerator.num_processes == 1:
        return flag
    votes = torch.tensor(float(flag), device=accelerator.device)
    dist.all_reduce(votes)
    return bool(votes > 0)
