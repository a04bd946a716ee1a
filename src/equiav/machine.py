"""What this process may use of its machine: cores, and memory that stays flat however long it runs."""

from __future__ import annotations

import ctypes
import os
import sys

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
