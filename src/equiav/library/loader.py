"""Batches for training and embedding:  library, split  →  log-mel (B, T, M) and one frame per clip, in order.

The order and the frames drawn depend on (seed, epoch) alone, so a run resumed in the middle of an epoch sees what an
uninterrupted one sees. The next batches are read and their JPEGs decoded while the current one trains.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from equiav.augment.view import stack_pictures
from equiav.config import Modalities, covers
from equiav.errors import LibraryError
from equiav.library.records import USABLE
from equiav.library.table import Library
from equiav.words import counted

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float, Int64, UInt8
    from numpy.typing import NDArray

NAMED: dict[Modalities, str] = {"audio": "sound", "visual": "a picture", "both": "sound and picture"}
AHEAD = 2  # batches read, each in its own thread, while the current one trains

P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Batch:
    """B clips. Frames of unlike sizes are padded with zeros at the right and the bottom; `sizes`: the true H, W."""

    audio: Float[Tensor, "B T M"]  # raw log-mel, float32
    frames: UInt8[Tensor, "B 3 H W"]  # a modality that the loader does not read has no T, or no H and W
    sizes: Int64[Tensor, "B 2"]
    clip_ids: list[str]
    labels: list[list[str]]
    indices: Int64[Tensor, " B"]  # row numbers in the clips table

    def split(self, size: int) -> list[Batch]:
        """Batches of `size` clips, the last of them maybe smaller."""
        starts = range(0, len(self.clip_ids), size)
        return [Batch(**{name: value[i : i + size] for name, value in vars(self).items()}) for i in starts]


class ClipLoader:
    """Batches of one split.

    Args:
        library: where from.
        split: which clips; None takes all.
        batch_size: B, over all processes.
        seed: of order and frames.
        frame: a random one of the clip's frames, or the middle one.
        shuffle: a new order each epoch, which depends on the clips' ids and not on the table's order; or the table's.
        drop_last: leave out a last batch smaller than B.
        modalities: which clips of the split, and what is read of them.
        rows: row numbers of the clips to take instead of a split's; they must have these modalities.
        shard: (number, of how many): this process gets its part of every batch, in order; parts differ by one clip at
            most, the first ones are the larger.

    Raises:
        LibraryError: the split is empty, or smaller than a batch with `drop_last`; B is less than the processes.
    """

    def __init__(
        self,
        library: Library,
        split: str | None,
        batch_size: int,
        seed: int = 0,
        *,
        frame: Literal["random", "middle"] = "random",
        shuffle: bool = True,
        drop_last: bool = True,
        modalities: Modalities = "both",
        rows: NDArray[np.int64] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.library, self.batch_size, self.seed = library, batch_size, seed
        self.frame, self.shuffle, self.drop_last = frame, shuffle, drop_last
        self.modalities: Modalities = modalities
        self.number, self.processes = shard
        if batch_size < self.processes:
            raise LibraryError(f"a batch of {counted(batch_size, 'clip')} is too small for {self.processes} processes")
        self.rows = library.positions(split, USABLE[modalities]) if rows is None else rows
        # ids are hashes of content: the same clips are shuffled alike, in whatever order workers wrote them
        self._rank = np.argsort(np.argsort(np.array(library.all_ids(), dtype=object), kind="stable"), kind="stable")
        if not len(self):
            raise LibraryError(
                f"{library.path}: split {split!r} has {counted(len(self.rows), 'clip')} with {NAMED[modalities]}, "
                f"not enough for a batch of {batch_size if drop_last else 1}; it has the splits "
                f"{', '.join(library.splits(USABLE[modalities])) or 'none'}"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.rows), self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """This process's share of the batches of `epoch`, from `start_batch` on."""
        rng = np.random.default_rng([self.seed, epoch])
        canonical = np.argsort(self._rank[self.rows])
        order = canonical[rng.permutation(len(self.rows))] if self.shuffle else np.arange(len(self.rows))
        draws = np.full(len(self.rows), 0.5)
        if self.frame == "random":
            draws[canonical] = rng.random(len(self.rows))
        batches = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start_batch, len(self))]
        parts = [np.array_split(batch, self.processes)[self.number] for batch in batches]
        yield from read_ahead(
            lambda part: read_rows(self.library, self.rows[part], self.modalities, draws[part]), parts
        )


def read_ahead(read: Callable[[P], R], parts: Iterable[P]) -> Iterator[R]:
    """What `read` gives of each part, in order; the next ones are read in threads of their own."""
    coming: deque[Future[R]] = deque()
    with ThreadPoolExecutor(AHEAD) as readers:
        for part in parts:
            coming.append(readers.submit(read, part))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def read_rows(library: Library, rows: NDArray[np.int64], modalities: Modalities, draws: NDArray[np.float64]) -> Batch:
    """Clips by their row numbers, and of each the frame that lies `draws` of the way from its first to its last."""
    audio, visual = covers(modalities, "audio"), covers(modalities, "visual")
    columns = ["clip_id", "labels", *["fbank"] * audio, *["frames"] * visual]
    table = library.take(rows.tolist(), columns)
    nothing = np.zeros((len(rows), 0, library.features.mel_bins), np.float32)
    pictures = pictures_of(table, draws) if visual else [np.zeros((0, 0, 3), np.uint8)] * len(rows)
    frames, sizes = stack_pictures(pictures)
    return Batch(
        audio=torch.from_numpy(library.fbanks(table) if audio else nothing),
        frames=frames,
        sizes=sizes,
        clip_ids=table["clip_id"].to_pylist(),
        labels=table["labels"].to_pylist(),
        indices=torch.from_numpy(rows.copy()),
    )


def pictures_of(table: pa.Table, draws: NDArray[np.float64]) -> list[NDArray[np.uint8]]:
    """One frame (H, W, 3) of each row, `draws` of the way from its first to its last."""
    pictures = []
    for frames, draw in zip(table["frames"], draws, strict=True):
        data = frames.values[int(draw * len(frames.values))].as_py()
        pictures.append(np.array(Image.open(io.BytesIO(data)).convert("RGB")))
    return pictures
