"""What to ingest:  a folder, one file, or a CSV `path,label[,split,start_s,end_s]`  →  items."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from equiav.errors import ConfigError

MEDIA_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpe"}
    | {".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv"}
    | {
        ".aac",
        ".ac3",
        ".aif",
        ".aiff",
        ".amr",
        ".ape",
        ".caf",
        ".flac",
        ".m4a",
        ".mka",
        ".mp3",
        ".oga",
        ".ogg",
        ".opus",
    }
    | {".tta", ".wav", ".wma", ".wv", ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
COLUMNS = ("path", "label", "split", "start_s", "end_s")


@dataclass(frozen=True)
class Item:
    """One thing to ingest: a whole file, or one window of it."""

    path: Path
    labels: tuple[str, ...] = ()
    split: str = "train"
    start_s: float | None = None
    end_s: float | None = None

    @property
    def key(self) -> str:
        """Stable name of this item: hash of the absolute path and the window."""
        text = f"{self.start_s}|{self.end_s}|".encode() + os.fsencode(self.path.absolute())
        return hashlib.sha256(text).hexdigest()[:24]

    @property
    def source(self) -> str:
        """The absolute path as text."""
        return as_text(self.path)


def as_text(path: Path) -> str:
    """The absolute path as text; bytes that are no UTF-8 are shown escaped."""
    return os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Listing:
    """What a source asks for."""

    items: list[Item]
    ignored: int = 0  # files of a folder that no suffix tells to be media
    labelled: bool = False  # labels and splits are said, not left open


def read_source(source: Path) -> Listing:
    """The items of a folder (recursive; links that lead out of it are not followed), a CSV, or one file.

    Raises:
        ConfigError: no such thing, nothing to ingest in it, or a wrong line in the CSV.
    """
    if source.is_dir():
        paths, others = _media_files(source)
        if not paths:
            raise ConfigError(
                f"{source}: no media files in this folder, {others} other files (looked for "
                f"{', '.join(sorted(MEDIA_SUFFIXES))}, recursively; not hidden ones, nor links that lead out)"
            )
        return Listing([Item(path) for path in paths], others)
    if not source.exists():
        raise ConfigError(f"{source}: no such folder or file; give a folder of videos, one video, or a CSV")
    if source.suffix.lower() == ".csv":
        return Listing(read_csv(source), labelled=True)
    return Listing([Item(source)])


def _media_files(folder: Path) -> tuple[list[Path], int]:
    found, others = [], 0
    whole = folder.resolve()

    def unlisted(error: OSError) -> None:
        found.append(Path(error.filename))  # it will be rejected by name, not skipped

    for root, folders, names in os.walk(folder, onerror=unlisted):
        # a library's own tables and hidden folders (trash, thumbnails) are nobody's videos
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".lance"))
        for name in sorted(names):
            path = Path(root, name)
            wanted = path.suffix.lower() in MEDIA_SUFFIXES and not name.startswith(".")
            if wanted and (not path.is_symlink() or path.resolve().is_relative_to(whole)):
                found.append(path)
            else:
                others += 1
    return found, others


def read_csv(source: Path) -> list[Item]:
    """Items of a CSV with a header; relative paths count from the CSV's folder; several labels are split at `;`."""
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not a UTF-8 text file: {error}") from None
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror or error}") from None
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = tuple(rows.fieldnames or ())
        unknown = [name for name in header if name not in COLUMNS]
        if "path" not in header or unknown:
            raise ConfigError(
                f"{source}: header is {','.join(header) or 'missing'}; expected path,label[,split,start_s,end_s]"
            )
        items = [_row_item(source, rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise ConfigError(f"{source}, line {rows.line_num}: {error}") from None
    if not items:
        raise ConfigError(f"{source}: no lines below the header")
    return _merge(source, items)


def _merge(source: Path, items: list[Item]) -> list[Item]:
    """One item for all lines about the same window, with all their labels."""
    merged: dict[str, Item] = {}
    for item in items:
        first = merged.setdefault(item.key, item)
        if first.split != item.split:
            raise ConfigError(f"{source}: {item.path} is in two splits, {first.split!r} and {item.split!r}")
        labels = tuple(dict.fromkeys(first.labels + item.labels))
        merged[item.key] = replace(first, labels=labels)
    return list(merged.values())


def _row_item(source: Path, number: int, row: dict[str, str | None]) -> Item:
    where = f"{source}, line {number}"
    if None in row or not row["path"]:
        raise ConfigError(f"{where}: {'more fields than the header' if None in row else 'the path is empty'}")
    times: dict[str, float | None] = {}
    for name in ("start_s", "end_s"):
        text = (row.get(name) or "").strip()
        try:
            times[name] = float(text) if text else None
        except ValueError:
            raise ConfigError(f"{where}: {name} is {text!r}, expected seconds") from None
    start_s, end_s = times["start_s"], times["end_s"]
    if end_s is not None and start_s is None:
        start_s = 0.0
    if not all(t is None or (math.isfinite(t) and t >= 0) for t in (start_s, end_s)) or (
        start_s is not None and end_s is not None and end_s <= start_s
    ):
        raise ConfigError(f"{where}: window {start_s}–{end_s} s is empty or negative")
    labels = tuple(label.strip() for label in (row.get("label") or "").split(";") if label.strip())
    split = (row.get("split") or "").strip() or "train"
    return Item(source.parent / row["path"], labels, split, start_s, end_s)
