"""What this process may use of its machine: its devices, cores, and memory that stays flat however long it runs."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

from equiav.errors import ConfigError

if TYPE_CHECKING:
    import torch

_ARENA_MAX = -8  # malloc.h


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
