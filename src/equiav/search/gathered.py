"""A library's embedded windows, by file and in order of time, as copies are looked for in them:  Exact → Gathered.

A window says nothing of its sound where that is silent or does not change, nor of its picture where that is one colour.
A still picture does not make two files copies, but another one makes them differ.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from equiav.config import MODALITIES, Modality
from equiav.errors import LibraryError
from equiav.search.alike import unit_rows
from equiav.search.copies import Windows
from equiav.search.exact import Exact
from equiav.search.hits import ClipFilter

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64

UNVARIED = 0.05  # variance of the log-mel of a sound that does not change
FLAT = 4.0  # standard deviation, of 255 levels, of the brightness of a picture that is one colour
COLUMNS = ["clip_id", "source", "start_s", "end_s", "status", "fbank_mean", "fbank_square", "file_size"]
LATER = ["content", "item_tail_s"]  # which the library of an older equiav may lack
ORDER = [("source", "ascending"), ("start_s", "ascending"), ("clip_id", "ascending")]


class Gathered:
    """The embedded windows of one version of a library.

    Args:
        now: the library with its vectors.
        among: the clips to look at; None: all.

    Attributes:
        rows: of the library, the columns `COLUMNS` and `LATER`, n of them.
        file: number of each one's file, (n,), from 0.
        numbers: of the library's rows, for `take`, (n,).
        sources: of the files, sorted.
        vectors: of each modality (n, E), of length 1; zero where there is none.
        has: which windows have a vector of a modality, (n,).

    Raises:
        LibraryError: none is embedded, or none of those asked for.
    """

    def __init__(self, now: Exact, among: ClipFilter | None = None) -> None:
        self.table, library = now.table, now.library
        self.library = library
        known = np.flatnonzero(now.known)
        rows = library.select([*COLUMNS, *(name for name in LATER if name in library.columns)])
        rows = rows.take(pa.array(now.row[known]))
        if among:
            keep = pc.call_function("is_in", [rows["clip_id"]], pc.SetLookupOptions(among.ids(library)))
            rows, known = rows.filter(keep), known[keep.to_numpy()]
        if not len(rows):
            found = f"{library.path}: none of the clips asked for is embedded"
            raise LibraryError(found if now.known.any() else now.not_embedded())
        order = pc.call_function("sort_indices", [rows], pc.SortOptions(ORDER))
        self.rows, self.positions = rows.take(order), known[order.to_numpy()]
        self.numbers: Int64[np.ndarray, " n"] = now.row[self.positions]
        source = self.rows["source"].combine_chunks().dictionary_encode()
        self.sources: list[str] = source.dictionary.to_pylist()
        self.file: Int64[np.ndarray, " n"] = source.indices.to_numpy().astype(np.int64)
        self.vectors: dict[Modality, Float32[np.ndarray, "n E"]] = {}
        self.has: dict[Modality, Bool[np.ndarray, " n"]] = {}
        for modality in MODALITIES:
            self.vectors[modality], there = unit_rows(self.table.vectors(modality)[self.positions])
            self.has[modality] = there & now.has[modality][self.positions]

    @property
    def first(self) -> Int64[np.ndarray, " files+1"]:
        """Where each file begins, and n."""
        return np.searchsorted(self.file, np.arange(len(self.sources) + 1))

    def windows(
        self,
        hop_s: float,
        says: Mapping[Modality, Bool[np.ndarray, " n"]],
        others: Mapping[Modality, Int64[np.ndarray, " n"]],
    ) -> Windows:
        """The windows as they are compared; `hop_s`, `says` and `others` are those of `Windows`."""
        times = self.column("start_s"), self.column("end_s")
        tail_s = np.nan_to_num(self.column("item_tail_s").astype(float)) if LATER[1] in self.rows.column_names else None
        return Windows(self.file, self.first, *times, hop_s, self.vectors, self.has, says, others, tail_s)

    def with_file(self, other: Gathered, name: str) -> Gathered:
        """These windows and, as one file of this name behind them, those of another library."""
        together = copy(self)
        columns = [name for name in self.rows.column_names if name in other.rows.column_names]
        together.rows = pa.concat_tables([self.rows.select(columns), other.rows.select(columns)])
        together.sources = [*self.sources, name]
        together.file = np.append(self.file, np.full(len(other.file), len(self.sources)))
        together.vectors = {m: np.concatenate([self.vectors[m], other.vectors[m]]) for m in MODALITIES}
        together.has = {m: np.concatenate([self.has[m], other.has[m]]) for m in MODALITIES}
        return together

    def column(self, name: str) -> np.ndarray:
        """A column of the library, (n,); NaN where a number is missing."""
        return self.rows[name].to_numpy()

    def starts_from(self, modality: Modality) -> Bool[np.ndarray, " n"]:
        """The windows by which two files may be copies, as far as the library knows."""
        status = self.column("status")
        if modality == "visual":
            return self.has[modality] & (status != "still")
        variance = self.column("fbank_square") - self.column("fbank_mean") ** 2
        return self.has[modality] & (status != "silent") & ~(variance < UNVARIED)

    def frames(self, windows: list[int]) -> list[list[bytes]]:
        """The stored pictures of some windows."""
        ids = self.rows["clip_id"].take(windows).to_pylist()
        found = self.library.select(["clip_id", "frames"], ids=ids)
        by_id = dict(zip(found["clip_id"].to_pylist(), found["frames"].to_pylist(), strict=True))
        return [by_id[one] for one in ids]

    def is_flat(self, windows: Int64[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
        """Of some windows, which ones show one colour."""
        pictures = self.table.thumbnails(self.positions[windows].tolist())
        return np.array([bool(picture) and brightness_deviation(picture) < FLAT for picture in pictures], bool)


def brightness_deviation(jpeg: bytes) -> float:
    """Standard deviation of a picture's brightness, of 255 levels."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return float(np.asarray(picture.convert("L"), np.float32).std())
