"""What a search may find, and what it finds:  rows of the library, scores, thumbnails → hits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from equiav.library.table import Library

SHOWN = ["clip_id", "source", "start_s", "end_s", "labels", "split", "frame_times_s"]  # the library's columns in a hit


@dataclass(frozen=True)
class Hit:
    """One clip of a ranking: a window of a file.

    Attributes:
        clip_id: in the library.
        source: the file.
        start_s: where the window begins in it, in seconds.
        end_s: where it ends.
        frame_s: when the picture that the clip is embedded by is shown; None where it has none.
        labels: of the clip.
        split: of the clip.
        score: the cosine, or the mean of two.
        percentile: percent of the library's pairs of clips that score less (`search.percentiles`); None where it has
            no two to compare.
        thumbnail: that picture as a small JPEG, or empty.
    """

    clip_id: str
    source: str
    start_s: float
    end_s: float
    frame_s: float | None
    labels: list[str]
    split: str
    score: float
    percentile: float | None
    thumbnail: bytes

    def to_dict(self) -> dict[str, Any]:
        """Everything but the thumbnail, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "thumbnail"}


@dataclass(frozen=True)
class ClipFilter:
    """Which clips of the library may be found: those that match `where`, of which `keep` says yes.

    Args:
        where: a Lance expression over the columns of the library's clips, for example "split = 'test'".
        keep: of rows of the library, the columns `clip_id` and `columns`, which ones may be found: (n,) of bool.
        columns: what `keep` looks at.
    """

    where: str | None = None
    keep: Callable[[pa.Table], NDArray[np.bool_]] | None = None
    columns: tuple[str, ...] = ()

    def of(self, rows: pa.Table) -> pa.Table:
        """Of rows that match `where`, those that may be found."""
        return rows.filter(pa.array(self.keep(rows))) if self.keep else rows

    def ids(self, library: Library) -> pa.StringArray:
        """The clips of a library that may be found."""
        rows = self.of(library.select(["clip_id", *self.columns], self.where))
        return rows["clip_id"].combine_chunks()


def hits_of(rows: list[dict[str, Any]], scores: NDArray[np.float64], thumbnails: list[bytes]) -> list[Hit]:
    """Hits from rows of the library, the columns `SHOWN` among them; their percentiles are not measured yet."""
    hits: list[Hit] = []
    for row, score, picture in zip(rows, scores.tolist(), thumbnails, strict=True):
        shown = {name: row[name] for name in SHOWN}
        times = shown.pop("frame_times_s")
        frame_s = times[len(times) // 2] if times else None
        hits.append(Hit(**shown, frame_s=frame_s, score=score, percentile=None, thumbnail=picture))
    return hits
