"""What a worker process of `media.sandbox` does:  tasks off a pipe → results, within limits, and gone with its parent.

It is started by the same Python and looks for modules where its parent does, but never runs the parent's main module:
that may be a script without a guard, a notebook, or standard input.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from equiav.errors import MediaError

if sys.platform == "win32":
    from multiprocessing.connection import PipeConnection as Connection
else:
    from multiprocessing.connection import Connection

MEMORY_BYTES = 4 * 2**30  # that a worker may take beyond what its modules took; 8K video needs less than one


@dataclass(frozen=True)
class Setup:
    """What a worker is for, the first thing that it is sent."""

    function: Callable[[Any], Any]
    cpu_s: float  # processor time that it may spend on one task
    folder: str | None  # where its temporary files go


def serve(handle: int) -> None:
    """Serve the parent at the other end of a pipe; its first message is None when ready, else why it cannot begin.

    To be interrupted is the parent's affair; that the parent is gone is seen at the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # while modules are loaded
    pipe = Connection(handle)
    try:
        setup: Setup = pipe.recv()
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - its modules cannot be loaded, for whatever reason: the parent says so
        pipe.send(f"{type(error).__name__}: {error}")
        return
    tempfile.tempdir = setup.folder
    _limit_memory()
    gc.enable()
    tasks: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, tasks, setup.folder), daemon=True).start()
    result, done = None, 0
    while True:
        try:
            pipe.send(result)
        except ConnectionError:  # the parent is gone: `_listen` sees that too
            return
        del result
        gc.collect()  # decoders lie in cycles, and the collector does not see how much FFmpeg holds in them
        if done <= 1:  # the modules, also the first task's: so a collection costs next to nothing
            gc.freeze()
        task = tasks.get()
        _limit_processor(setup.cpu_s)
        result, done = _done(setup.function, task), done + 1
        del task


def _done(function: Callable[[Any], Any], task: Any) -> Any:
    try:
        return function(task)
    except MemoryError:
        return MediaError("memory", f"decoding it takes more than {MEMORY_BYTES / 2**30:.0f} GiB of memory")
    except MediaError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whatever it is, the other tasks go on
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        return MediaError("crashed", f"{type(error).__name__}: {error} ({where})")


def _listen(pipe: Connection, tasks: SimpleQueue[Any], folder: str | None) -> None:
    """Take tasks off the pipe while the worker works: two that both send what no pipe holds would wait for ever.

    A parent that ends its workers kills them. One that is gone was killed itself: the result of the task in hand is
    not awaited, and its files are left to this process.
    """
    try:
        while True:
            tasks.put(pipe.recv())
    except (EOFError, OSError):
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)
    except Exception:  # noqa: BLE001 - a task that cannot be loaded: only this thread can end the process
        traceback.print_exc()
        os._exit(1)


def _limit_memory() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    import resource

    _limit(resource.RLIMIT_AS, int(statm.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_processor(seconds: float) -> None:
    """From now on; what was used before does not count."""
    if sys.platform != "win32":
        import resource

        _limit(resource.RLIMIT_CPU, int(time.process_time() + seconds) + 1)


def _limit(kind: int, most: int) -> None:
    """As far as whoever started us allows so much: a cluster's jobs have hard limits of their own."""
    import resource

    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
