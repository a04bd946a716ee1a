"""Work on a Ray cluster:  tasks in, (task, result) out.

`RayActors` are of any kind; those of an embed hold the model (`search.engines`). `RayPool` is an ingest's: one actor
per core holds a sandbox of one process, so a file that crashes or hangs a decoder costs what it costs on one machine,
and a machine that dies costs one more try of the tasks it had. Results come back to the one process that writes, so
what is written is the same, row for row, and needs no agreement between writers (docs/scale.md).
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from typing_extensions import Self

from equiav.errors import ConfigError, EquiAVError, MediaError, WorkerError
from equiav.media.sandbox import QUEUE, TRIES, Sandbox

CLOSING = "closing"  # the thread of an actor that is not the one at work
CLOSE_S = 5.0  # that actors may take to tidy up before they are killed
STORE_BYTES = 512 * 2**20  # object store of a local Ray: results wait there for the writer

T = TypeVar("T")
R = TypeVar("R")


class RayActors(Generic[T, R]):
    """Actors of one kind that do tasks; use it as a context manager, from one thread, and `start` them first.

    A task whose actor is lost (a machine that died, a process that was killed, a fault that is not of our making) is
    tried again by another one, and a new actor takes the place of the lost one wherever the cluster has room.

    Args:
        address: a cluster's, "auto" for the one this machine belongs to, "local" for one inside this process.
        workers: actors, at most as many as the cluster has room for; None: that many.
        group: cores of each actor, fewer where a machine or `workers` leave fewer.
        device: auto gives each actor a GPU where the cluster has some; cpu none; cuda must find some.
        cores: of a local Ray; None: all.
        store_bytes: of a local Ray's object store.
        tries: how often a task may lose its actor.

    Raises:
        ConfigError: Ray is not installed, no cluster answers at the address, or it has no GPU.
    """

    def __init__(
        self,
        address: str,
        workers: int | None,
        *,
        group: int = 1,
        device: str = "cpu",
        cores: int | None = None,
        store_bytes: int = STORE_BYTES,
        tries: int = TRIES,
    ) -> None:
        self._address, self._workers, self._group, self._device, self._tries = address, workers, group, device, tries
        self._here = {"num_cpus": cores, "object_store_memory": store_bytes, "include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of ours reports to anybody
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError:
            raise ConfigError("--ray needs Ray, which is not installed: pip install 'equiav[cluster]'") from None
        self._actors: list[Any] = []  # that take tasks
        self._starting: dict[Any, Any] = {}  # reference → one that takes the place of a lost one
        self._load: Counter[Any] = Counter()  # tasks that an actor holds
        self._held: dict[Any, tuple[T, Any, int]] = {}  # reference → task, actor, tries
        self._begun = False  # once any actor has done a task

    def __enter__(self) -> Self:
        ray = self._ray
        self._ours = not ray.is_initialized()
        if self._ours:
            here = self._here if self._address == "local" else {}
            try:
                with warnings.catch_warnings():
                    # Ray starts its own programs by fork and exec; none of them touches a table
                    warnings.filterwarnings("ignore", "lance is not fork-safe")
                    ray.init(self._address, log_to_driver=False, logging_level="ERROR", **here)
            except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
                raise ConfigError(f"no Ray cluster at {self._address!r}: {error}; {_about_tokens()}") from None
        return self

    def start(self, worker: type, *given: Any, threads: int = 1) -> None:
        """Start the actors.

        Args:
            worker: their class, importable by name on every machine: `perform` does a task, `ready` answers once it
                can, `close` tidies up, also in the middle of a task.
            given: for its constructor, after the device, "cuda" or "cpu".
            threads: tasks that an actor does at once.

        Raises:
            ConfigError: the cluster has no GPU, and one was asked for.
        """
        size, device, room = self._room()
        # an actor that is busy can be asked to tidy up: the processes that it started are killed with it
        options = {"max_concurrency": threads, "concurrency_groups": {CLOSING: 1}, **room}
        kind, stored = self._ray.remote(**options)(worker), [self._ray.put(value) for value in given]
        self._new = lambda: kind.remote(device, *stored)
        self._actors = [self._new() for _ in range(size)]

    def _room(self) -> tuple[int, str, dict[str, int]]:
        """How many actors, on what, with what: one without a core or a GPU would never take up its tasks."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = int(sum(machine.get("GPU", 0) for machine in machines))
        if gpus and self._device != "cpu":
            return min(self._workers or gpus, gpus), "cuda", {"num_cpus": 1, "num_gpus": 1}
        cores = [int(machine.get("CPU", 0)) for machine in machines]
        if self._device == "cuda":
            raise ConfigError(f"no GPU on the Ray cluster: found {sum(cores)} cores; take --device cpu, or auto")
        cores = [number for number in cores if number] or [1]
        each = min(self._group, *cores, max(1, sum(cores) // (self._workers or 1)))
        size = sum(number // each for number in cores)
        return min(self._workers or size, size), "cpu", {"num_cpus": each}

    def __exit__(self, *_: object) -> None:
        actors = [*self._actors, *self._starting.values()]
        closed = [actor.close.options(concurrency_group=CLOSING).remote() for actor in actors]
        if closed:
            self._ray.wait(closed, num_returns=len(closed), timeout=CLOSE_S)
        for actor in actors:
            self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()

    @property
    def size(self) -> int:
        """Actors that take tasks."""
        return len(self._actors)

    @property
    def busy(self) -> bool:
        """True while a result is to come."""
        return bool(self._held)

    def has_room(self) -> bool:
        """True when another task would start soon."""
        return len(self._held) < QUEUE * max(1, self.size)

    def submit(self, task: T, tries: int = 1) -> None:
        """Hand in a task; ask `has_room` first."""
        actor = min(self._actors or self._starting.values(), key=lambda actor: self._load[actor])
        self._load[actor] += 1
        self._held[actor.perform.remote(task)] = task, actor, tries

    def wait(self) -> list[tuple[T, R]]:
        """Block until at least one task is done, or none is left.

        Raises:
            WorkerError: actors cannot begin, say what is wrong with their work, or lose a task again and again.
        """
        done: list[tuple[T, R]] = []
        while self._held and not done:
            ready, others = self._ray.wait([*self._held, *self._starting], num_returns=1)
            ready += self._ray.wait(others, num_returns=len(others), timeout=0)[0] if others else []
            for reference in ready:
                if reference in self._starting:
                    self._begin(reference)
                else:
                    done.extend(self._receive(reference))
        return done

    def _receive(self, reference: Any) -> list[tuple[T, R]]:
        task, actor, tries = self._held.pop(reference)
        self._load[actor] -= 1
        try:
            result = self._get(reference)
        except self._ray.exceptions.RayError as error:
            self._replace(actor)
            if tries < self._tries:
                self.submit(task, tries + 1)
                return []
            if not self._begun:
                raise WorkerError(f"actors cannot begin on the cluster: {error}") from None
            return [(task, self._give_up(error))]
        self._begun = True
        return [(task, result)]

    def _get(self, reference: Any) -> Any:
        """A result, or the error that any machine would raise."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, EquiAVError):
                raise WorkerError(f"on a machine of the cluster: {error.cause}") from None
            raise

    def _replace(self, actor: Any) -> None:
        """Another actor instead of this one: it gets tasks when it runs, which may never be."""
        if actor in self._actors:  # the first of its tasks says so
            self._actors.remove(actor)
            self._ray.kill(actor)
            new = self._new()
            self._starting[new.ready.remote()] = new

    def _begin(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            self._get(reference)
        except self._ray.exceptions.RayError as error:
            if not self._actors and not self._starting:
                raise WorkerError(f"actors cannot begin on the cluster: {error}") from None
            return
        self._actors.append(actor)

    def _give_up(self, error: Exception) -> R:
        """What becomes of a task that lost its actor too often."""
        raise WorkerError(f"on a machine of the cluster: a task failed {self._tries} times, at last with: {error}")


class RayPool(RayActors[T, R | MediaError]):
    """A `Sandbox` whose workers are actors on a Ray cluster.

    Args:
        function: importable by name on every machine of the cluster; MediaErrors it raises come back as results.
        workers: actors of one core each, at most as many as the cluster has cores; None takes every core.
        limit_s: a task that takes longer than this, in seconds, is given up.
        address: as of `RayActors`.
    """

    def __init__(self, function: Callable[[T], R], workers: int | None, limit_s: float, address: str) -> None:
        super().__init__(address, workers, cores=workers)
        self._work = function, limit_s

    def __enter__(self) -> Self:
        super().__enter__()
        self.start(_Worker, *self._work)
        return self

    def _give_up(self, error: Exception) -> MediaError:
        return MediaError("crashed", f"the machine that read it failed {self._tries} times: {error}")


def _about_tokens() -> str:
    """What a cluster that asks for a token needs here: at an address that is named, Ray itself looks for none."""
    source = "`ray get-auth-token` on its head prints it"
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return (
            f"RAY_AUTH_MODE=token is set here: is the token that of the cluster ({source}; here it is RAY_AUTH_TOKEN, "
            "the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token)?"
        )
    return (
        "if the cluster needs a token, as with `ray start` where there is one, set RAY_AUTH_MODE=token here, and the "
        f"cluster's token ({source}) as RAY_AUTH_TOKEN, its file as RAY_AUTH_TOKEN_PATH, or put it into "
        "~/.ray/auth_token"
    )


class _Worker(Generic[T, R]):
    """An actor: a sandbox of one process, whose temporary files go with it."""

    def __init__(self, _device: str, function: Callable[[T], R], limit_s: float) -> None:
        self._open = ExitStack()
        self._sandbox = self._open.enter_context(Sandbox(function, 1, limit_s))

    def ready(self) -> None:
        """It is."""

    def perform(self, task: T) -> R | MediaError:
        """Do one task."""
        self._sandbox.submit(task)
        ((_, result),) = self._sandbox.wait()
        return result

    def close(self) -> None:
        """End the process, also in the middle of a task, and remove its files; the actor is killed next."""
        self._open.close()
