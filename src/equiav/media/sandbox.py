"""Worker processes for code that may crash or hang:  tasks in, (task, result or MediaError) out, in any order.

Decoders meet every broken file of the world, and some kill their process. A worker's death or delay costs only the
task in hand. It comes back as a MediaError: "timeout", "memory", or "crashed" if a second try ends like the first or
the function fails with another error than a MediaError. What workers put into temporary files goes with the pool.
Workers that never begin are no fault of a task: that is an error.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Generic, TypeVar
from uuid import uuid4

from typing_extensions import Self

from equiav.errors import MediaError, WorkerError
from equiav.media.worker import Connection, Setup

QUEUE = 2  # tasks a worker holds: the one in hand, and the next, so that it never waits for us
TRIES = 2
CPU_SHARE = 0.5  # of a task's limit that it may spend computing
START_S = 300.0  # that a worker may take to load its modules, from a slow disk
# A worker is one core's worth: libraries that would start a thread per core read these once, when they are loaded
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# glibc's own limits after it has freed a large picture, from the start: decoders come and go with each file, and to
# give their memory back and take it again was a tenth of the processor time
KEPT_HEAP = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
SECRETS = ("AWS_", "AZURE_", "GOOGLE_", "EQUIAV_TOKEN")  # of no use to a process that decodes what strangers made
BEGIN = "import sys; sys.path[:] = {path}; from equiav.media.worker import serve; serve({handle})"

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Held(Generic[T]):
    task: T
    tries: int = 0


@dataclass
class _Process(Generic[T]):
    process: subprocess.Popen[bytes]
    pipe: Connection
    held: deque[_Held[T]] = field(default_factory=deque)
    ready: bool = False
    since: float = 0.0  # when it was started, then when the task in hand began


class Sandbox(Generic[T, R]):
    """A pool of processes that call `function(task)`; use it as a context manager, from one thread.

    Args:
        function: importable by name (processes are spawned); MediaErrors it raises come back as results.
        workers: how many processes at most; they start when there is work for them.
        limit_s: a task that takes longer than this, in seconds, is given up.
    """

    def __init__(self, function: Callable[[T], R], workers: int, limit_s: float) -> None:
        self._function, self._limit_s, self._size = function, limit_s, workers
        self._workers: list[_Process[T]] = []
        self._again: deque[_Held[T]] = deque()
        self._folder: str | None = None
        self._failed_starts = 0  # since the last that succeeded

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

    def run(self, tasks: Iterable[T]) -> Iterator[tuple[T, R | MediaError]]:
        """What becomes of each of these tasks, in any order.

        Raises:
            WorkerError: workers cannot be started.
        """
        for task in tasks:
            while not self.has_room():
                yield from self.wait()
            self.submit(task)
        while self.busy:
            yield from self.wait()

    @property
    def folder(self) -> Path:
        """Where workers put temporary files; it goes with the pool, also when that is killed."""
        if self._folder is None:
            raise RuntimeError("the pool is not open")
        return Path(self._folder)

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

    def wait(self, at_most_s: float = float("inf")) -> list[tuple[T, R | MediaError]]:
        """Block until at least one task is done, none is left, or the time is up.

        Raises:
            WorkerError: workers cannot be started.
        """
        done: list[tuple[T, R | MediaError]] = []
        until = time.monotonic() + at_most_s
        while self.busy and not done and time.monotonic() < until:
            while self._again and self._room():
                self._give(self._again.popleft())
            working = {worker.pipe: worker for worker in self._workers if worker.held}
            deadline = min(map(self._deadline, working.values()))
            ready = connection.wait(list(working), timeout=max(min(deadline, until) - time.monotonic(), 0.0))
            for pipe in ready:
                done.extend(self._receive(working[pipe]))  # type: ignore[index]
            late = [worker for worker in working.values() if time.monotonic() > self._deadline(worker)]
            for worker in late if not ready else []:
                if worker.ready:
                    error = MediaError("timeout", f"not done after {self._limit_s:.0f} s")
                    done.extend(self._give_up(worker, error))
                else:
                    self._not_begun(worker, f"one had not begun after {START_S:.0f} s")
        return done

    def _deadline(self, worker: _Process[T]) -> float:
        return worker.since + (self._limit_s if worker.ready else START_S)

    def _room(self) -> int:
        return QUEUE * self._size - sum(len(worker.held) for worker in self._workers)

    def _give(self, held: _Held[T]) -> None:
        worker = min(self._workers, key=lambda worker: len(worker.held), default=None)
        if worker is None or (worker.held and len(self._workers) < self._size):
            worker = self._start()
        if not worker.held and worker.ready:
            worker.since = time.monotonic()
        worker.held.append(held)
        held.tries += 1
        with suppress(ConnectionError):  # it is dead: `wait` sees that too, and takes care of the task
            worker.pipe.send(held.task)

    def _start(self) -> _Process[T]:
        ours, theirs = connection.Pipe()
        with theirs, _no_interrupts():
            worker: _Process[T] = _Process(_run(theirs.fileno()), ours, since=time.monotonic())
            self._workers.append(worker)
        with suppress(ConnectionError):
            ours.send(Setup(self._function, CPU_SHARE * self._limit_s, self._folder))
        return worker

    def _receive(self, worker: _Process[T]) -> list[tuple[T, R | MediaError]]:
        try:
            result = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.wait()
            if worker.ready:
                return self._give_up(worker, _cause(worker.process))
            self._not_begun(worker, f"one ended before it began ({_end_of(worker.process)})")
            return []
        worker.since = time.monotonic()
        if not worker.ready:
            if result is not None:
                raise WorkerError(f"worker processes cannot begin: {result}")
            worker.ready, self._failed_starts = True, 0
            return []
        return [(worker.held.popleft().task, result)]

    def _not_begun(self, worker: _Process[T], how: str) -> None:
        """A worker ended before it began any of its tasks.

        Raises:
            WorkerError: so did the one before it.
        """
        self._failed_starts += 1
        if self._failed_starts >= TRIES:
            raise WorkerError(f"worker processes cannot be started: {how}; standard error has what it wrote")
        self._remove(worker, list(worker.held))

    def _give_up(self, worker: _Process[T], error: MediaError) -> list[tuple[T, R | MediaError]]:
        """Give up a worker; the task it had in hand is suspect, the others have not begun."""
        suspect, *others = worker.held
        self._remove(worker, others)
        if suspect.tries < TRIES and error.reason == "crashed":
            self._again.append(suspect)
            return []
        return [(suspect.task, error)]

    def _remove(self, worker: _Process[T], not_begun: list[_Held[T]]) -> None:
        self._workers.remove(worker)
        _end(worker)
        for held in not_begun:
            held.tries -= 1
            self._again.append(held)


def _run(handle: int) -> subprocess.Popen[bytes]:
    """A worker process that serves the pipe of this handle.

    Raises:
        WorkerError: it cannot be started.
    """
    code = BEGIN.format(path=ascii([place for place in sys.path if isinstance(place, str)]), handle=handle)
    # names of files mean the same bytes there as here
    command = [_python(), "-X", f"utf8={sys.flags.utf8_mode}", "-c", code]
    try:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(SECRETS)}
        return _start_with(handle, command, KEPT_HEAP | mine | ONE_THREAD)
    except OSError as error:
        raise WorkerError(f"worker processes cannot be started: {command[0]}: {error.strerror}") from None


def _python() -> str:
    """The interpreter that workers run.

    Raises:
        WorkerError: there is none.
    """
    python = get_executable()
    if not python or (getattr(sys, "frozen", False) and os.fsdecode(python) == sys.executable):
        raise WorkerError(
            "worker processes cannot be started: this program is no Python interpreter but has one built in; name one "
            "that has equiav with multiprocessing.set_executable(PATH)"
        )
    return os.fsdecode(python)


def _start_with(handle: int, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that gets this handle of ours and no other; no shell has a part in it."""
    if sys.platform != "win32":
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[handle])  # noqa: S603
    os.set_handle_inheritable(handle, True)
    startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, startupinfo=startup)  # noqa: S603


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """What starts here gets no Ctrl-C and no SIGTERM, not even while it loads its modules; we get them afterwards."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(worker: _Process[T]) -> None:
    worker.process.kill()
    worker.process.wait()
    worker.pipe.close()


def _end_of(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _cause(process: subprocess.Popen[bytes]) -> MediaError:
    name = _end_of(process)
    if name == "SIGXCPU":
        return MediaError("timeout", "it took more processor time than the limit")
    return MediaError("crashed", f"the decoder's process died ({name})")
