"""Who runs the model over a library's clips:  batches of row numbers → EmbeddedClips, batch by batch, in their order.

Three engines, and one piece of work: this process, the actors of a Ray cluster, or processes that torchrun started.
Whoever has a batch reads its rows from the version of the library that the batches were planned on, so who it is
changes no bit, where each has as many threads. A few batches are under way at a time, however many there are. One
process writes (`search.embed`).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist
from PIL import Image

from equiav.config import Modalities, covers
from equiav.errors import ConfigError, ModelError
from equiav.library.cluster import STORE_BYTES, RayActors
from equiav.library.loader import Batch, read_ahead, read_rows
from equiav.library.places import Place
from equiav.library.table import Library
from equiav.machine import pick_device, pick_precision
from equiav.media.sandbox import QUEUE
from equiav.model.encode import embed_log_mels, embed_pictures
from equiav.search.table import EmbeddedClips

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from torch import Tensor

    from equiav.model.equiav import EquiAV

THUMBNAIL_SIDE = 128
THUMBNAIL_QUALITY = 85
CORES = 4  # of an actor without a GPU
EARLY = 4  # batches for each actor that may be done before those in front of them
TRIES = 5  # times that a batch may lose its actor: machines that one rents cheaply go when others want them


@dataclass(frozen=True)
class Rows:
    """Clips of one batch."""

    modalities: Modalities  # which all of them have
    numbers: Int64[np.ndarray, " B"]  # of rows in the clips table


Engine = Callable[[Library, "EquiAV", Sequence[Rows]], Generator[EmbeddedClips]]


def in_process(library: Library, model: EquiAV, batches: Sequence[Rows]) -> Generator[EmbeddedClips]:
    """This process, on the device where the model lies; the next batches are read meanwhile."""
    for read in read_ahead(partial(_read, library), batches):
        yield _embed(model, read)


# -- Ray --


def on_ray(address: str, device: str = "auto", precision: str | None = None, workers: int | None = None) -> Engine:
    """Actors on a Ray cluster that hold the model, each on a GPU where the cluster has some, else on a few cores.

    The weights come from here; the library must lie at the same path on every machine.

    Args:
        address: a cluster's, "auto" for the one this machine belongs to, "local" for one inside this process.
        device: auto, cpu or cuda.
        precision: as of `machine.pick_precision`, on the actors' device; None: the model's.
        workers: actors; None: as many as the cluster has room for.

    Raises:
        ConfigError: no such device. When it is run: no Ray, no cluster, or no GPU there.
        WorkerError: actors cannot begin, or a batch loses its actor again and again.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"with --ray a device is auto, cpu or cuda, found {device!r}: Ray gives each actor its GPU")

    def engine(library: Library, model: EquiAV, batches: Sequence[Rows]) -> Generator[EmbeddedClips]:
        if not batches:
            return
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        actors = RayActors[tuple[int, Rows], EmbeddedClips](
            address, workers, group=CORES, device=device, store_bytes=STORE_BYTES + 2 * weights, tries=TRIES
        )
        with actors:
            weights_here, place = deepcopy(model).to("cpu"), library.path.absolute()
            actors.start(_Actor, weights_here, precision, place, library.version, threads=QUEUE)
            yield from _in_order(actors, batches)

    return engine


def _in_order(actors: RayActors[tuple[int, Rows], EmbeddedClips], batches: Sequence[Rows]) -> Generator[EmbeddedClips]:
    early: dict[int, EmbeddedClips] = {}
    sent = 0
    for number in range(len(batches)):
        while True:
            limit = min(len(batches), number + EARLY * max(1, actors.size))
            while sent < limit and actors.has_room():
                actors.submit((sent, batches[sent]))
                sent += 1
            if number in early:
                break
            early.update((place, clips) for (place, _), clips in actors.wait())
        yield early.pop(number)


class _Actor:
    """Holds the model and the library on one machine; the next batch is read while the model runs."""

    def __init__(self, device: str, model: EquiAV, precision: str | None, library: Place, version: int) -> None:
        self._given, self._lock = (device, model, precision, library, version), threading.Lock()
        self._made: tuple[Library, EquiAV] | None = None

    def ready(self) -> None:
        """Answer once it could work.

        Raises:
            ConfigError, LibraryError: this machine lacks the device or the library.
        """
        self._open()

    def perform(self, task: tuple[int, Rows]) -> EmbeddedClips:
        """Embed a batch."""
        library, model = self._open()
        read = _read(library, task[1])
        with self._lock:
            return _embed(model, read)

    def _open(self) -> tuple[Library, EquiAV]:
        with self._lock:
            if self._made is None:
                device, model, precision, library, version = self._given
                model.to(pick_device(device))
                model.precision = pick_precision(precision or model.precision, model.device)
                self._made = Library(library, version), model
            return self._made

    def close(self) -> None:
        """Nothing is to be tidied up."""


# -- several processes --


@contextmanager
def several_processes() -> Iterator[None]:
    """Around the work of processes that torchrun started: they meet, and part when the work is done."""
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()


def over_processes(library: Library, model: EquiAV, batches: Sequence[Rows]) -> Generator[EmbeddedClips]:
    """All processes that were started together, seen from the first one; the others `follow`. They keep in step."""
    world = dist.get_world_size()
    dist.broadcast_object_list([(library.version, model.fingerprint(), batches)])
    mine = in_process(library, model, batches[::world])
    for _ in range(0, len(batches), world):
        parts: list[Any] = [None] * world
        dist.gather_object(next(mine), parts)
        yield from (part for part in parts if part is not None)


def follow(library: Place, model: EquiAV) -> None:
    """Do this process's share for the first one.

    Raises:
        ModelError: another model than the first one's.
        LibraryError: the library cannot be read here.
    """
    rank, world, plan = dist.get_rank(), dist.get_world_size(), list[Any]([None])
    dist.broadcast_object_list(plan)
    version, fingerprint, batches = plan[0]
    if model.fingerprint() != fingerprint:
        raise ModelError(f"this process has the model {model.fingerprint()}, the first one {fingerprint}")
    mine = in_process(Library(library, version), model, batches[rank::world])
    for _ in range(0, len(batches), world):
        dist.gather_object(next(mine, None))


# -- the work --


def _read(library: Library, rows: Rows) -> tuple[Modalities, Batch, list[bytes]]:
    """Clips with their middle frames, and its thumbnails."""
    batch = read_rows(library, rows.numbers, rows.modalities, np.full(len(rows.numbers), 0.5))
    if not covers(rows.modalities, "visual"):
        return rows.modalities, batch, [b""] * len(batch.clip_ids)
    pictures = zip(batch.frames, batch.sizes.tolist(), strict=True)
    return rows.modalities, batch, [_thumbnail(frame[:, :high, :wide]) for frame, (high, wide) in pictures]


def _embed(model: EquiAV, read: tuple[Modalities, Batch, list[bytes]]) -> EmbeddedClips:
    """The columns of the embeddings table for some clips."""
    modalities, batch, thumbnails = read
    return EmbeddedClips(
        clip_id=batch.clip_ids,
        thumbnail=thumbnails,
        audio_embedding=embed_log_mels(model, batch.audio) if covers(modalities, "audio") else None,
        visual_embedding=embed_pictures(model, batch.frames, batch.sizes) if covers(modalities, "visual") else None,
        made_with=f"{model.precision} on {model.device.type}",
    )


def _thumbnail(frame: UInt8[Tensor, "3 h w"]) -> bytes:
    """A JPEG that fits into a square of `THUMBNAIL_SIDE` pixels."""
    image = Image.fromarray(frame.permute(1, 2, 0).numpy())
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()
