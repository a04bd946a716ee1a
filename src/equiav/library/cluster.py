"""The work of an ingest on a Ray cluster:  tasks in, (task, result or MediaError) out, as from `media.sandbox`.

One actor per core holds a sandbox of one process: a file that crashes or hangs a decoder costs what it costs on one
machine, and a machine that dies costs one more try of the tasks it had. Results come back to the one process that
writes the library, so the library is the same, row for row, and needs no agreement between writers (docs/scale.md).
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

from equiav.errors import ConfigError, MediaError, WorkerError
from equiav.media.sandbox import QUEUE, TRIES, Sandbox

CLOSING = "closing"  # the thread of an actor that is not the one at work
CLOSE_S = 5.0  # that actors may take to tidy up before they are killed
STORE_BYTES = 512 * 2**20  # object store of a local Ray: results wait there for the writer

T = TypeVar("T")
R = TypeVar("R")


class RayPool(Generic[T, R]):
    """A `Sandbox` whose workers are actors on a Ray cluster; use it as a context manager, from one thread.

    Args:
        function: importable by name on every machine of the cluster; MediaErrors it raises come back as results.
        workers: actors of one core each, at most as many as the cluster has cores; None takes every core.
        limit_s: a task that takes longer than this, in seconds, is given up.
        address: a cluster's, "auto" for the one this machine belongs to, "local" for one inside this process.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, function: Callable[[T], R], workers: int | None, limit_s: float, address: str) -> None:
        self._function, self._size, self._limit_s, self._address = function, workers, limit_s, address
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of ours reports to anybody
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError:
            raise ConfigError("--ray needs Ray, which is not installed: pip install 'equiav[cluster]'") from None
        self._actors: list[Any] = []
        self._load: Counter[Any] = Counter()  # tasks that an actor holds
        self._held: dict[Any, tuple[T, Any, int]] = {}  # reference → task, actor, tries
        self._begun = False  # once any actor has done a task

    def __enter__(self) -> Self:
        ray, local = self._ray, self._address == "local"
        self._ours = not ray.is_initialized()
        if self._ours:
            here = {"num_cpus": self._size, "object_store_memory": STORE_BYTES, "include_dashboard": False}
            try:
                with warnings.catch_warnings():
                    # Ray starts its own programs by fork and exec; none of them touches a table
                    warnings.filterwarnings("ignore", "lance is not fork-safe")
                    ray.init(self._address, log_to_driver=False, logging_level="ERROR", **(here if local else {}))
            except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
                raise ConfigError(f"no Ray cluster at {self._address!r}: {error}; {_about_tokens()}") from None
        # an actor that is busy can be asked to tidy up: the processes that it started are killed with it
        actor = ray.remote(num_cpus=1, max_restarts=-1, concurrency_groups={CLOSING: 1})(_Worker)
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        size = min(self._size or cores, cores)  # an actor without a core would never take up its tasks
        self._actors = [actor.remote(self._function, self._limit_s) for _ in range(size)]
        return self

    def __exit__(self, *_: object) -> None:
        closed = [actor.close.options(concurrency_group=CLOSING).remote() for actor in self._actors]
        if closed:
            self._ray.wait(closed, num_returns=len(closed), timeout=CLOSE_S)
        for actor in self._actors:
            self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()

    @property
    def busy(self) -> bool:
        """True while a result is to come."""
        return bool(self._held)

    def has_room(self) -> bool:
        """True when another task would start soon."""
        return len(self._held) < QUEUE * len(self._actors)

    def submit(self, task: T, tries: int = 1) -> None:
        """Hand in a task; ask `has_room` first."""
        actor = min(self._actors, key=lambda actor: self._load[actor])
        self._load[actor] += 1
        self._held[actor.perform.remote(task)] = task, actor, tries

    def wait(self) -> list[tuple[T, R | MediaError]]:
        """Block until at least one task is done, or none is left.

        Raises:
            WorkerError: actors, or the processes that they start, cannot begin.
        """
        done: list[tuple[T, R | MediaError]] = []
        while self._held and not done:
            ready, others = self._ray.wait(list(self._held), num_returns=1)
            ready += self._ray.wait(others, num_returns=len(others), timeout=0)[0] if others else []
            for reference in ready:
                done.extend(self._receive(reference))
        return done

    def _receive(self, reference: Any) -> list[tuple[T, R | MediaError]]:
        task, actor, tries = self._held.pop(reference)
        self._load[actor] -= 1
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # not of the file: that would be a MediaError
            raise WorkerError(f"on a machine of the cluster: {error.cause}") from None
        except self._ray.exceptions.RayError as error:
            # the machine or the actor is gone, or with it the result; Ray starts it again elsewhere
            if tries < TRIES:
                self.submit(task, tries + 1)
                return []
            if not self._begun:
                raise WorkerError(f"actors cannot begin on the cluster: {error}") from None
            return [(task, MediaError("crashed", f"the machine that read it failed {TRIES} times: {error}"))]
        self._begun = True
        return [(task, result)]


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

    def __init__(self, function: Callable[[T], R], limit_s: float) -> None:
        self._open = ExitStack()
        self._sandbox = self._open.enter_context(Sandbox(function, 1, limit_s))

    def perform(self, task: T) -> R | MediaError:
        """Do one task."""
        self._sandbox.submit(task)
        ((_, result),) = self._sandbox.wait()
        return result

    def close(self) -> None:
        """End the process, also in the middle of a task, and remove its files; the actor is killed next."""
        self._open.close()
