"""What a training takes of the memory, at its peak, and what there is: of the GPU, or of the machine.

On a GPU it is what tensors took of it; elsewhere all that this process had in memory: interpreter, libraries, tensors.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import psutil
import torch

from equiav.machine import free_memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_gb(device: torch.device) -> float:
    """The peak so far, or since `reset_peak`, in 10^9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    # the kernel hands ru_maxrss on to a new program, with the peak of the one that started it; VmHWM begins anew
    if STATUS.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)):
        return 1024 * int(found[1]) / 1e9
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else 1024 * peak) / 1e9


def reset_peak(device: torch.device) -> None:
    """Begin anew from what is in use; where the system cannot, the peak stays that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # no such file, or a sandbox that forbids it
            CLEAR.write_text("5", encoding="ascii")


def used_gb(device: torch.device) -> float:
    """In use now, in 10^9 bytes."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9


def available_gb(device: torch.device, processes: int) -> float:
    """What this process may take in all, with what it has taken already, in 10^9 bytes.

    Args:
        processes: of this training on this machine; each of them has a GPU of its own, but they share the machine.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return (free + torch.cuda.memory_reserved(device)) / 1e9
    return free_memory() / processes / 1e9 + used_gb(device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Did an allocation fail? On a processor torch has no error of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
