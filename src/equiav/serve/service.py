"""A library and the models that it was embedded with, kept open:  files, vectors, clips → vectors, rankings, rows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import anyio
import numpy as np
from typing_extensions import Self

from equiav.config import Modalities
from equiav.errors import EquiAVError, MediaError
from equiav.media.mux import wav_file
from equiav.metrics.directions import mean_direction
from equiav.search.index import Hit, SearchIndex
from equiav.serve.batches import Batcher, Embedded
from equiav.serve.decoding import Decoded, Decoders, Task, UseAs, decode
from equiav.serve.limits import Limits
from equiav.serve.maps import Maps, plane
from equiav.serve.measures import Measures
from equiav.serve.problems import Refusal, refuse_for_now
from equiav.serve.reports import Reports
from equiav.serve.sources import COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

    from equiav.library.places import Place
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV

CLIP = ["clip_id", "start_s", "end_s", "labels", "split", "status", "frame_times_s", *COLUMNS]
SEARCHES = 2  # at the same time: each uses all cores for most of its time
BUSY = "as many requests are in hand as this service takes at once"
READS = 2  # of rows and files, beside them
OTHER: dict[Modalities, Modalities] = {"audio": "visual", "visual": "audio", "both": "both"}

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A run that is served."""

    name: str
    fingerprint: str
    model: EquiAV
    index: SearchIndex
    batcher: Batcher
    maps: Maps
    reports: Reports


class Service:
    """All that the endpoints do; use it as a context manager.

    Args:
        library: its folder, or place.
        runs: models by name, the default one first.
        limits: of what is in hand.
        function: what decodes a file; importable by name.
        folders: of runs, by name: what was measured of them lies there.

    Raises:
        LibraryError: no library, or one that was not embedded with these models.
    """

    def __init__(
        self,
        library: str | Place,
        runs: Mapping[str, EquiAV],
        limits: Limits,
        function: Callable[[Task], Decoded] = decode,
        folders: Mapping[str, Path] | None = None,
    ) -> None:
        self.limits, self.measures, self.is_warm = limits, Measures(), False
        self.place, self._inside, self._reading = str(library), 0, 0
        self._decoders = Decoders(limits.workers, limits.decode_s, function)
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._search_threads = ThreadPoolExecutor(SEARCHES, "search")
        self._read_threads = ThreadPoolExecutor(READS, "read")
        self.runs: dict[str, Served] = {}
        for name, model in runs.items():
            batcher = Batcher(model, self._model_thread, self.measures.batch.observe)
            index = SearchIndex(library, model)
            known = model.fingerprint()
            reports = Reports((folders or {}).get(name), known)
            self.runs[name] = Served(name, known, model, index, batcher, Maps(index), reports)
        self._default = next(iter(self.runs.values()))

    def __enter__(self) -> Self:
        self._open = ExitStack()
        for thread in (self._model_thread, self._search_threads, self._read_threads):
            self._open.callback(thread.shutdown, cancel_futures=True)
        self._open.enter_context(self._decoders)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def library(self) -> Library:
        """The library as it is now; to be asked for in a thread."""
        return self._default.index.library

    def run(self, name: str | None) -> Served:
        """The run of this name.

        Raises:
            Refusal: there is none.
        """
        found = self._default if name is None else self.runs.get(name)
        if found is None:
            raise Refusal(404, f"no run of that name is served; there are {', '.join(self.runs)}")
        return found

    @contextmanager
    def in_hand(self) -> Iterator[None]:
        """Take on an embed or a search.

        Raises:
            Refusal: there are as many as may be.
        """
        if self._inside >= self.limits.queue:
            raise refuse_for_now(429, BUSY)
        self._inside += 1
        self.measures.in_hand.set(self._inside)
        try:
            yield
        finally:
            self._inside -= 1
            self.measures.in_hand.set(self._inside)

    async def embed(self, run: Served, file: BinaryIO, use_as: UseAs) -> tuple[Decoded, Embedded]:
        """Decode and embed a file.

        Raises:
            MediaError: it cannot be used. ModelError: it has no direction.
        """
        try:
            decoded = await self._decoders.decode(file, use_as, run.model.config.features, self.limits.media_s)
        except MediaError as error:
            self.measures.refused_files.labels(error.reason).inc()
            raise
        return decoded, await run.batcher.embed(decoded)

    async def search_file(
        self, run: Served, file: BinaryIO, use_as: UseAs, by: Modalities | None, **filters: Any
    ) -> tuple[Modalities, list[Hit]]:
        """What a file was taken as, and the ranking by it.

        Raises:
            EquiAVError: as `embed` and `SearchIndex.search` do.
        """
        decoded, found = await self.embed(run, file, use_as)
        vector = mean_direction(*(part for part in (found.audio, found.visual) if part is not None))
        return decoded.kind, await self.search(run, by, vector=vector, vector_of=decoded.kind, **filters)

    async def search(self, run: Served, by: Modalities | None, **query: Any) -> list[Hit]:
        """As `SearchIndex.search`."""
        return await self._in(self._search_threads, lambda: run.index.search(by=by, **query))

    async def read(self, function: Callable[[], T]) -> T:
        """Call what reads rows or files, away from the event loop.

        Raises:
            Refusal: as many reads are in hand as may be, or it takes too long.
        """
        if self._reading >= self.limits.queue:
            raise refuse_for_now(429, BUSY)
        self._reading += 1
        try:
            with self.in_time():
                return await self._in(self._read_threads, function)
        finally:
            self._reading -= 1

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """As long as an answer may take.

        Raises:
            Refusal: it takes longer.
        """
        try:
            with anyio.fail_after(self.limits.timeout_s):
                yield
        except TimeoutError:
            raise refuse_for_now(503, "this took longer than a request may take") from None

    async def clip(self, clip_id: str) -> dict[str, Any]:
        """A row of the library, the columns `CLIP`.

        Raises:
            Refusal: there is none.
        """
        rows = await self.read(lambda: self.library.select(CLIP, ids=[clip_id]).to_pylist())
        if not rows:
            raise Refusal(404, "the library holds no such clip")
        return rows[0]

    async def origins(self, clip_ids: list[str]) -> dict[str, tuple[str, str]]:
        """What was ingested that each of these clips is from, and its status."""
        if not clip_ids:
            return {}
        columns = ["clip_id", "origin", "status"]
        rows = await self.read(lambda: self.library.select(columns, ids=clip_ids).to_pylist())
        return {row["clip_id"]: (row["origin"], row["status"]) for row in rows}

    async def thumbnail(self, clip_id: str) -> bytes:
        """A clip's picture, as JPEG.

        Raises:
            Refusal: there is none.
        """
        await self.clip(clip_id)
        for run in self.runs.values():
            if found := await self.read(lambda run=run: run.index.thumbnail(clip_id)):
                return found
        raise Refusal(404, "this clip has no picture, or is not embedded yet")

    async def warm_up(self) -> None:
        """Start the processes and run the models once, so that the first client does not wait for it."""
        sounds = [(0.1 * np.sin(np.arange(16_000) / 5)).astype(np.float32)] * self.limits.workers
        try:
            for run in self.runs.values():
                files = [BytesIO(wav_file(sound, 16_000)) for sound in sounds]
                await asyncio.gather(*(self.embed(run, file, "audio") for file in files))
            self.is_warm = True
            # loads scikit-learn: a second
            await self._in(self._read_threads, lambda: plane(np.eye(3, dtype=np.float32)))
        except EquiAVError:
            log.exception("the service is not ready: it cannot embed a second of sound")

    async def is_ready(self) -> bool:
        """Whether it can answer: it could embed once, and its library is there."""
        try:
            await self._in(self._read_threads, lambda: [run.index.missing for run in self.runs.values()])
        except EquiAVError:
            log.exception("the service is not ready: its library cannot be read")
            return False
        return self.is_warm

    @staticmethod
    async def _in(threads: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, function)
