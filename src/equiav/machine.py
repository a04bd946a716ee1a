"""What this process may use of its machine: devices, precisions, cores, and memory that stays flat however long."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import psutil

from equiav.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as torch names them

_ARENA_MAX = -8  # malloc.h
_GROUPS = {  # of the two versions of control groups: the limit, what is used, and what of that is a cache of files
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def share_heaps(heaps: int = 2) -> bool:
    """Let all threads share a few heaps, for the rest of the process; False where the C library is not glibc.

    glibc gives each thread heaps of its own, and the memory that reader threads free there is not used by others:
    10,000 full-size clips, read ahead by two threads beside Lance's forty, left 400 MB more than they needed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_ARENA_MAX, heaps) == 1


def usable_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device(name: str = "auto") -> torch.device:
    """Where a model is to run.

    Args:
        name: cpu, cuda, cuda:N or mps; auto: a GPU where there is one (cuda, else Apple's mps), else the processor.

    Raises:
        ConfigError: this machine has no such device.
    """
    import torch  # here, because light code imports this module

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = [kind for kind, is_there in found.items() if is_there]
    if name == "auto":
        return torch.device(there[0])
    if found["cuda"]:
        there += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name not in there:
        cpu_build = name.startswith("cuda") and not (torch.version.cuda or torch.version.hip)
        raise ConfigError(
            f"no device {name!r} here: found {', '.join(there)}"
            + (f", and PyTorch {torch.__version__}, which was built without CUDA" if cpu_build else "")
            + "; take one of these, or auto for the best of them"
        )
    return torch.device(name)


def pick_precision(wish: str | torch.dtype = "auto", device: torch.device | str = "cpu") -> Precision:
    """The precision of a model's matrix products when it embeds on a device.

    Args:
        wish: fp32, bf16 or fp16, or torch's dtype of that name. auto: on a CUDA GPU bf16, or fp16 on one that was built
            without; elsewhere fp32. Not by a measurement, as training does: which precision a library was embedded in
            would then depend on how busy the machine was.
        device: where the model lies.

    Raises:
        ConfigError: there is no such precision, or not on this device.
    """
    import torch

    kind = torch.device(device).type
    if wish == "auto":
        if kind != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    precision = next((name for name in get_args(Precision) if wish in (name, getattr(torch, DTYPES[name]))), None)
    if precision is None:
        raise ConfigError(f"no precision {wish!r}: expected auto, {', '.join(get_args(Precision))}")
    if precision != "fp32" and not torch.amp.is_autocast_available(kind):
        raise ConfigError(f"this PyTorch computes on {kind} in fp32 alone, not in {precision}")
    return precision


def free_memory(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may still take: what the machine has, or less in a container or a job with a limit.

    Args:
        groups: where the control groups are mounted.
        own: tells those of this process.
    """
    rooms = [psutil.virtual_memory().available]
    for line in own.read_text(encoding="utf-8").splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            top = groups / controllers
            folder = top / path.lstrip("/")
            # a limit of any group above holds too; inside a container the path may be that outside of it
            places = [place for place in (folder, *folder.parents) if place.is_relative_to(top)]
            rooms += [_room(place, *_GROUPS[1 if controllers else 2]) for place in places]
    return max(0, int(min(rooms)))


def _room(group: Path, limit: str, usage: str, cache: str) -> float:
    try:
        most, used = (int((group / name).read_text(encoding="ascii")) for name in (limit, usage))
        stat = (group / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return float("inf")
    found = re.search(rf"^{cache} (\d+)$", stat, re.MULTILINE)
    return most - used + (int(found[1]) if found else 0)
