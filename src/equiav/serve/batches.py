"""Files embedded together:  what waits while the model is busy goes through it as one batch.

Nobody waits for a batch to fill: a request that finds the model idle is embedded at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from equiav.augment.view import stack_pictures
from equiav.errors import ModelError
from equiav.metrics.directions import mean_direction
from equiav.model.encode import embed_log_mels, embed_pictures
from equiav.serve.decoding import Decoded

if TYPE_CHECKING:
    from jaxtyping import Float32

    from equiav.model.equiav import EquiAV

WINDOWS = 32  # per pass through the model
FILES = 32  # per batch

W = TypeVar("W")


@dataclass(frozen=True)
class Embedded:
    """Unit vectors of a file: of its sound, its picture, or both."""

    audio: Float32[np.ndarray, " E"] | None
    visual: Float32[np.ndarray, " E"] | None


class Batcher:
    """Embeds with one model, from one event loop.

    Args:
        model: used by one thread at a time.
        thread: where it computes; several batchers may share it.
        on_batch: called with the number of files of each batch.
    """

    def __init__(self, model: EquiAV, thread: Executor, on_batch: Callable[[int], None]) -> None:
        self._model, self._thread, self._on_batch = model, thread, on_batch
        self._waiting: deque[tuple[Decoded, asyncio.Future[Embedded]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def embed(self, decoded: Decoded) -> Embedded:
        """The vectors of one file.

        Raises:
            ModelError: it has no direction, or the model is broken.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Embedded] = loop.create_future()
        self._waiting.append((decoded, future))
        if self._work is None or self._work.done():
            self._work = loop.create_task(self._embed_all())
        return await future

    async def _embed_all(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(FILES, len(self._waiting)))]
            batch = [(decoded, future) for decoded, future in taken if not future.done()]  # some do not wait any more
            if not batch:
                continue
            self._on_batch(len(batch))
            files = [decoded for decoded, _ in batch]
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._thread, embed, self._model, files)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
                found = [error] * len(batch)
            for (_, future), result in zip(batch, found, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)


def embed(model: EquiAV, files: list[Decoded]) -> list[Embedded | Exception]:
    """The vectors of each file, which are those that it has alone; or why one has none."""

    def heard(windows: list[np.ndarray]) -> np.ndarray:
        return embed_log_mels(model, torch.from_numpy(np.stack(windows)))

    def seen(windows: list[np.ndarray]) -> np.ndarray:
        return embed_pictures(model, *stack_pictures(windows))

    audio = _in_passes([file.sounds for file in files], heard)
    visual = _in_passes([file.pictures for file in files], seen)
    return [_embedded(*windows) for windows in zip(audio, visual, strict=True)]


def _in_passes(files: list[list[W]], passed: Callable[[list[W]], np.ndarray]) -> list[Float32[np.ndarray, "n E"]]:
    windows = [window for file in files for window in file]
    found = [passed(windows[first : first + WINDOWS]) for first in range(0, len(windows), WINDOWS)]
    vectors = np.concatenate(found) if found else np.zeros((0, 1), np.float32)
    return np.split(vectors, np.cumsum([len(file) for file in files])[:-1])


def _embedded(audio: Float32[np.ndarray, "n E"], visual: Float32[np.ndarray, "m E"]) -> Embedded | Exception:
    try:
        return Embedded(*(mean_direction(*vectors) if len(vectors) else None for vectors in (audio, visual)))
    except ModelError as error:
        return error
