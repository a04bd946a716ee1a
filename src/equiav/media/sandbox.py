"""Worker processes for code that may crash or hang:  tasks in, (task, result or MediaError) out, in any order.

Decoders meet every broken file of the world, and some kill their process. A worker's death or delay costs only the
task in hand. It comes back as a MediaError: "timeout", "memory", or "crashed" if a second try ends like the first or
the function fails with another error than a MediaError. What workers put into temporary files goes with the pool.
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
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, TypeVar
from uuid import uuid4

from typing_extensions import Self

from equiav.errors import MediaError

QUEUE = 2  # tasks a worker holds: the one in hand, and the next, so that it never waits for us
TRIES = 2
CPU_SHARE = 0.5  # of a task's limit that it may spend computing
MEMORY_BYTES = 4 * 2**30  # that a worker may take beyond what its modules took; 8K video needs less than one
# A worker is one core's worth: libraries that would start a thread per core read these once, when they are loaded
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Held(Generic[T]):
    task: T
    tries: int = 0


@dataclass
class _Worker(Generic[T]):
    process: SpawnProcess
    pipe: Connection
    held: deque[_Held[T]] = field(default_factory=deque)
    since: float = 0.0  # when the task in hand began


class Sandbox(Generic[T, R]):
    """A pool of processes that call `function(task)`; use it as a context manager, from one thread.

    Args:
        function: importable by name (processes are spawned); MediaErrors it raises come back as results.
        workers: how many processes at most; they start when there is work for them.
        limit_s: a task that takes longer than this, in seconds, is given up.
    """

    def __init__(self, function: Callable[[T], R], workers: int, limit_s: float) -> None:
        self._function, self._limit_s, self._size = function, limit_s, workers
        self._workers: list[_Worker[T]] = []
        self._again: deque[_Held[T]] = deque()
        self._folder: str | None = None

    def __enter__(self) -> Self:
        folder = Path(tempfile.gettempdir(), f"equiav-{uuid4().hex}")
        # before it is made, so that an interrupt at any moment leaves nothing behind
        self._tidy = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        self._folder = str(folder)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            _end(worker)
        self._workers = []
        self._tidy()

    @property
    def busy(self) -> bool:
        """True while a result is to come."""
        return bool(self._again) or any(worker.held for worker in self._workers)

    def has_room(self) -> bool:
        """True when another task would start soon."""
        return self._room() > len(self._again)

    def submit(self, task: T) -> None:
        """Hand in a task; ask `has_room` first."""
        self._give(_Held(task))

    def wait(self) -> list[tuple[T, R | MediaError]]:
        """Block until at least one task is done, or none is left."""
        done: list[tuple[T, R | MediaError]] = []
        while self.busy and not done:
            while self._again and self._room():
                self._give(self._again.popleft())
            working = {worker.pipe: worker for worker in self._workers if worker.held}
            deadline = min(worker.since for worker in working.values()) + self._limit_s
            ready = connection.wait(list(working), timeout=max(deadline - time.monotonic(), 0.0))
            for pipe in ready:
                done.extend(self._receive(working[pipe]))  # type: ignore[index]
            late = [worker for worker in working.values() if time.monotonic() - worker.since > self._limit_s]
            for worker in late if not ready else []:
                error = MediaError("timeout", f"not done after {self._limit_s:.0f} s")
                done.extend(self._bury(worker, error))
        return done

    def _room(self) -> int:
        return QUEUE * self._size - sum(len(worker.held) for worker in self._workers)

    def _give(self, held: _Held[T]) -> None:
        worker = min(self._workers, key=lambda worker: len(worker.held), default=None)
        if worker is None or (worker.held and len(self._workers) < self._size):
            worker = self._start()
        if not worker.held:
            worker.since = time.monotonic()
        worker.held.append(held)
        held.tries += 1
        with suppress(BrokenPipeError):  # it is dead: `wait` sees that too, and takes care of the task
            worker.pipe.send(held.task)

    def _start(self) -> _Worker[T]:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        given = theirs, self._function, CPU_SHARE * self._limit_s, self._folder
        process = context.Process(target=_serve, args=given, daemon=True)
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
        try:
            with _deaf_to_interrupts():
                process.start()
        finally:
            for name, value in before.items():
                os.environ.update({name: value}) if value is not None else os.environ.pop(name)
        theirs.close()
        worker: _Worker[T] = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _receive(self, worker: _Worker[T]) -> list[tuple[T, R | MediaError]]:
        try:
            result = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            return self._bury(worker, _cause(worker.process))
        held = worker.held.popleft()
        worker.since = time.monotonic()
        return [(held.task, result)]

    def _bury(self, worker: _Worker[T], error: MediaError) -> list[tuple[T, R | MediaError]]:
        """Give up a worker; the task it had in hand is suspect, the others have not begun."""
        self._workers.remove(worker)
        _end(worker)
        suspect, *others = worker.held
        for held in others:
            held.tries -= 1
            self._again.append(held)
        if suspect.tries < TRIES and error.reason == "crashed":
            self._again.append(suspect)
            return []
        return [(suspect.task, error)]


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What starts here hears no Ctrl-C and no SIGTERM, not even while it loads its modules; we hear them afterwards."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and lifts the mask for that
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(worker: _Worker[T]) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _cause(process: SpawnProcess) -> MediaError:
    code = process.exitcode or 0
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if name == "SIGXCPU":
        return MediaError("timeout", "it took more processor time than the limit")
    return MediaError("crashed", f"the decoder's process died ({name})")


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


def _serve(pipe: Connection, function: Callable[[T], R], cpu_s: float, folder: str | None) -> None:
    """The worker's side. To be interrupted is the parent's affair; the parent's end is seen at the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tempfile.tempdir = folder
    _limit_memory()
    gc.freeze()  # the modules: a collection looks at what tasks left alone, and costs next to nothing
    tasks: SimpleQueue[tuple[T] | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, tasks), daemon=True).start()
    while coming := tasks.get():
        (task,) = coming
        result: R | MediaError
        _limit_processor(cpu_s)
        try:
            result = function(task)
        except MemoryError:
            result = MediaError("memory", f"decoding it takes more than {MEMORY_BYTES / 2**30:.0f} GiB of memory")
        except MediaError as error:
            result = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the other tasks go on
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            result = MediaError("crashed", f"{type(error).__name__}: {error} ({where})")
        try:
            pipe.send(result)
        except BrokenPipeError:
            return
        del task, coming, result
        gc.collect()  # decoders lie in cycles, and the collector does not see how much FFmpeg holds in them


def _listen(pipe: Connection, tasks: SimpleQueue[tuple[T] | None]) -> None:
    """Take tasks off the pipe while the worker works: two that both send what no pipe holds would wait for ever."""
    try:
        while True:
            tasks.put((pipe.recv(),))
    except EOFError:
        pass
    finally:
        tasks.put(None)
