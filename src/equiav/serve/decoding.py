"""Files of clients, decoded in processes with limits:  an open file → log-mels and pictures, or a MediaError.

The file is copied to where the process may read it, under a name of ours, for as long as it takes; if all ends at
once, the process removes it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, Literal

from typing_extensions import Self

from equiav.config import Features, Modalities
from equiav.errors import MediaError, WorkerError
from equiav.media.inputs import Input, windows_of
from equiav.media.probe import MediaInfo, probe
from equiav.media.sandbox import Sandbox
from equiav.media.stills import probe_picture
from equiav.media.windows import Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UseAs = Literal["auto", "audio", "image", "video"]


@dataclass(frozen=True)
class Task:
    """A file to decode, as a sound, a picture, a video, or as what it is."""

    path: Path
    use_as: UseAs
    features: Features
    most_s: float


@dataclass(frozen=True)
class Decoded:
    """What an encoder takes of each window of a file."""

    kind: Modalities
    sounds: list[NDArray[np.float32]]  # (T, M) each
    pictures: list[NDArray[np.uint8]]  # (h, w, 3) each


def decode(task: Task) -> Decoded:
    """Read a file, as `EquiAV.encode` does; in a worker process.

    Raises:
        MediaError: it cannot be used, or is longer than `most_s`.
    """
    path, features = task.path, task.features
    info = probe_picture(path) or probe(path)
    use_as = _kind_of(info) if task.use_as == "auto" else task.use_as

    def check(windows: list[Window]) -> None:
        if windows[-1].end_s > task.most_s:
            raise MediaError("too_long", f"the file is {windows[-1].end_s:.0f} s long, at most {task.most_s:.0f} s")

    if use_as == "image":
        check([Window(0.0, info.duration_s)])
    found = list(windows_of(Input(0, use_as, path, None, features), check))
    if use_as == "video":
        sounds, pictures = zip(*found, strict=True)
        return Decoded("both", list(sounds), list(pictures))
    return Decoded("audio", found, []) if use_as == "audio" else Decoded("visual", [], found)


def _kind_of(info: MediaInfo) -> Literal["audio", "image", "video"]:
    if info.audio_end_s is None:
        return "image"
    return "audio" if info.video_end_s is None else "video"


class Decoders:
    """Some processes that decode; use it as a context manager.

    Args:
        workers: how many.
        limit_s: what takes longer is given up.
        function: as `decode`; importable by name.
    """

    def __init__(self, workers: int, limit_s: float, function: Callable[[Task], Decoded] = decode) -> None:
        self._workers, self._limit_s, self._function = workers, limit_s, function
        self._threads = ThreadPoolExecutor(workers, "decode")
        self._idle: SimpleQueue[Sandbox[Task, Decoded]] = SimpleQueue()

    def __enter__(self) -> Self:
        self._open = ExitStack()
        for _ in range(self._workers):
            self._idle.put(self._new())
        return self

    def __exit__(self, *_: object) -> None:
        """End when what is in hand is done, or given up."""
        self._threads.shutdown(cancel_futures=True)
        self._open.close()

    async def decode(self, file: BinaryIO, use_as: UseAs, features: Features, most_s: float) -> Decoded:
        """What an open file holds.

        Raises:
            MediaError: it cannot be used. WorkerError: no process can be started.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._decode, file, use_as, features, most_s)

    def _decode(self, file: BinaryIO, use_as: UseAs, features: Features, most_s: float) -> Decoded:
        sandbox = self._idle.get()
        path = sandbox.folder / "upload"  # one task at a time
        try:
            with path.open("wb") as copy:
                shutil.copyfileobj(file, copy)
            [(_, found)] = sandbox.run([Task(path, use_as, features, most_s)])
        except WorkerError:
            sandbox = self._new()  # of the other one it is not known what it still holds
            raise
        finally:
            _empty(path.parent)
            self._idle.put(sandbox)
        if isinstance(found, MediaError):
            raise found
        return found

    def _new(self) -> Sandbox[Task, Decoded]:
        return self._open.enter_context(Sandbox(self._function, workers=1, limit_s=self._limit_s))


def _empty(folder: Path) -> None:
    """Remove the file, and what a process that was given up left beside it."""
    for left in folder.iterdir():
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
