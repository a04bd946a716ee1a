"""Which clips are ranked:  a split, and of it a list of ids  →  row numbers; and what could flatter the ranking.

The field's retrieval tables use lists of a few clips per class. Such a list names YouTube ids, with a start second or
without; a clip answers to the name of its file, and to the id and second that downloaders put into that name.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from equiav.errors import ConfigError, LibraryError
from equiav.library.names import composed
from equiav.library.recordings import named_file, recording
from equiav.library.records import WHOLE
from equiav.library.rows import parse_json, read_text
from equiav.metrics.sources import numbered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from equiav.library.table import Library

SEGMENT = re.compile(r"Y?([A-Za-z0-9_-]{11})[_-](\d+)([._-][\d._-]*)?")
ID_COLUMNS = ("id", "video_id", "youtube_id", "ytid", "clip_id")


@dataclass(frozen=True)
class Gallery:
    """The clips to rank, as rows sorted by id; of a list, its ids, how many have a clip, and where others are."""

    rows: NDArray[np.int64]
    listed: int | None = None
    found: int | None = None
    elsewhere: list[str] = field(default_factory=list)


def choose(library: Library, split: str, subset: Path | None = None) -> Gallery:
    """The clips of a split, or those of it that a list names.

    Raises:
        LibraryError: there are none.
        ConfigError: the list cannot be read, or names nothing.
    """
    rows = rows_by_id(library, split)
    if not len(rows):
        there = ", ".join(library.splits()) or "none"
        raise LibraryError(f"{library.path}: split {split!r} has no clips with sound and picture (splits: {there})")
    if subset is None:
        return Gallery(rows)
    wanted = set(map(composed, read_ids(subset)))
    table = library.take(rows.tolist(), ["clip_id", "source", "start_s"])
    columns = (table[name].to_pylist() for name in ("clip_id", "source", "start_s"))
    asked = [{clip_id, *names_of(source, start_s)} & wanted for clip_id, source, start_s in zip(*columns, strict=True)]
    found: set[str] = set().union(*asked)
    elsewhere = _elsewhere(library, split, wanted - found) if wanted - found else []
    if not found:
        source, first = table["source"][0].as_py(), sorted(wanted)[0]
        raise LibraryError(
            f"none of the {len(wanted)} ids of {subset} is in split {split!r} of {library.path}: "
            + ("; ".join(elsewhere) or f"it names {first!r}, the library holds files such as {PurePath(source).name!r}")
        )
    return Gallery(rows[[bool(ids) for ids in asked]], len(wanted), len(found), elsewhere)


def _elsewhere(library: Library, split: str, missing: set[str]) -> list[str]:
    """Where those ids of a list are that have no clip to rank, in sentences: in other splits, or of no use."""
    table = library.take(range(len(library.all_ids())), ["clip_id", "source", "start_s", "split", "status"])
    splits: dict[str, set[str]] = {}
    useless: dict[str, str] = {}
    for clip_id, source, start_s, name, status in zip(*(column.to_pylist() for column in table.columns), strict=True):
        ids = {clip_id, *names_of(source, start_s)} & missing
        if status in WHOLE:
            splits.setdefault(name, set()).update(ids)
        elif name == split:
            useless |= dict.fromkeys(ids, status)
    found = [
        f"{len(ids)} of these ids {'is' if len(ids) == 1 else 'are'} in split {name}, not {split}"
        for name, ids in sorted(splits.items())
        if ids
    ]
    if useless:
        counts = ", ".join(f"{status} {count}" for status, count in sorted(Counter(useless.values()).items()))
        found.append(f"{len(useless)} of these ids cannot be ranked: they lack sound or moving pictures ({counts})")
    return found


def read_ids(path: Path) -> list[str]:
    """Ids of a CSV (a column called id or video_id, or the first one) or of CAV-MAE's JSON (`data[].video_id`).

    Where the second column is a number of seconds, as in AudioSet's and VGGSound's own lists, it is part of the id.

    Raises:
        ConfigError: no ids in it.
    """
    text = read_text(path)
    if path.suffix.lower() == ".json":
        try:
            return [str(entry["video_id"]) for entry in parse_json(text)["data"]]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: expected JSON with a list `data` of clips with `video_id`: {error!r}") from None
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True))
    except csv.Error as error:
        raise ConfigError(f"{path}: no CSV: {error}") from None
    rows = [[field.strip() for field in row] for row in lines if row and row[0].strip() and row[0][0] != "#"]
    names = [field.lower() for field in rows[0]] if rows else []
    column = next((names.index(name) for name in ID_COLUMNS if name in names), None)
    if column is None:
        ids = [f"{row[0]}_{float(row[1]):06.0f}" if _has_second(row) else row[0] for row in rows]
    else:
        ids = [row[column] for row in rows[1:] if len(row) > column and row[column]]
    if not ids:
        raise ConfigError(f"{path}: no ids; expected one per line, or a column called {', '.join(ID_COLUMNS)}")
    return ids


def names_of(source: str, start_s: float) -> set[str]:
    """What a list may call the clip of a file from `start_s` on."""
    name, stem = named_file(composed(source)).name, named_file(composed(source)).stem
    names = {name, stem, f"{stem}_{start_s:06.0f}"}
    segment = SEGMENT.fullmatch(stem)
    if segment:
        names |= {segment[1], f"{segment[1]}_{int(segment[2]):06d}"}
    return names


def rows_by_id(library: Library, split: str, statuses: Collection[str] = WHOLE) -> NDArray[np.int64]:
    """Row numbers of the clips of a split, sorted by id.

    A parallel ingest writes clips in no certain order, and folds, other sounds and the draws of intervals go by place.
    """
    rows = library.positions(split, statuses)
    return rows[np.argsort(np.array(library.all_ids(), dtype=object)[rows], kind="stable")]


def sources_of(library: Library, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each clip, equal where two are windows of one recording."""
    return numbered(_recordings(library, rows))


def _recordings(library: Library, rows: NDArray[np.int64]) -> list[str]:
    return [recording(source) for source in library.take(rows.tolist(), ["source"])["source"].to_pylist()]


def shared_sources(library: Library, rows: NDArray[np.int64], split: str) -> int:
    """Clips of a gallery that were cut from a recording which also gave clips to another split."""
    table = library.clips(columns=["source", "split"])
    pairs = zip(table["source"].to_pylist(), table["split"].to_pylist(), strict=True)
    elsewhere = {recording(source) for source, name in pairs if name != split}
    return sum(name in elsewhere for name in _recordings(library, rows))


def _has_second(row: list[str]) -> bool:
    return len(row) > 1 and re.fullmatch(r"\d+(\.\d+)?", row[1]) is not None
