"""Lists with named columns:  CSV, JSONL, and the `metadata.*` of Hugging Face folders  →  items."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equiav.errors import ConfigError
from equiav.library.items import Item, is_file, key_of, merge
from equiav.library.names import Finder, composed
from equiav.library.places import place_of

COLUMNS = ("path", "label", "labels", "split", "fold", "start_s", "end_s", "id")
EXPECTED = "expected path[,label,split,start_s,end_s,id,fold]"
SPLITS = frozenset({"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"})
METADATA = ("metadata.jsonl", "metadata.csv")

Row = dict[str, Any]


def read_rows(source: Path, split: str) -> list[Item]:
    """Items of a CSV with a header, or of a JSONL; relative paths count from its folder.

    Columns: path; label or labels, several split at `;` or as a JSON list; split, or fold; start_s, end_s; id, a name
    under which a renamed or moved file stays the same item.

    Raises:
        ConfigError: a wrong header or line.
    """
    finder = Finder()
    return merge(source, (_item(source, number, row, split, finder) for number, row in _rows(source, strict=True)))


def read_hugging_face(folder: Path, split: str) -> list[Item]:
    """Items of a Hugging Face folder: `metadata.jsonl` or `metadata.csv`, at its top or one in each split's folder.

    Column `file_name`, counted from the metadata's folder, label or labels, and split; other columns mean nothing
    here. Without one the split is the name of a folder on the way.

    Raises:
        ConfigError: a wrong header or line.
    """
    items, finder = [], Finder()
    for source in metadata_files(folder):
        for number, row in _rows(source, strict=False):
            place = source.parent.relative_to(folder) / str(row.get("file_name") or "")
            named = next((part for part in place.parts[:-1] if part.lower() in SPLITS), split)
            row = {key: row[key] for key in ("label", "labels", "split") if key in row} | {"path": row["file_name"]}
            items.append(_item(source, number, row, named, finder))
    return merge(folder, items)


def metadata_files(folder: Path) -> list[Path]:
    """The metadata files of a folder, at its top or in the folders of its splits; none where it is no such folder.

    Other files may be called so: only those count that name files, and further down only those of known splits.
    """
    places = sorted(place for place in folder.glob("*/") if place.name.lower() in SPLITS)
    for folders in ([folder], places):
        found = [place / name for place in folders for name in METADATA if _names_files(place / name)]
        if found:
            return found
    return []


def _names_files(metadata: Path) -> bool:
    if not is_file(metadata):
        return False
    with metadata.open("rb") as file:
        return b"file_name" in file.readline(1 << 16)


def check_text(where: str, *texts: str) -> None:
    """Texts that are stored must be such.

    Raises:
        ConfigError: bytes that are no UTF-8, or a zero.
    """
    for text in texts:
        if "\0" in text or (not text.isascii() and text.encode("utf-8", "replace").decode() != text):
            raise ConfigError(f"{where}: {text!r} is no text in UTF-8")


def labels_of(row: Row, where: str) -> tuple[str, ...]:
    """The labels of a row, by `label` or `labels`: one, several split at `;`, or a list."""
    labels: list[str] = []
    for name in ("label", "labels"):
        value = row.get(name)
        if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
            labels += [str(one) for one in value]
        elif isinstance(value, str | int):
            labels += str(value).split(";")
        elif value is not None:
            raise ConfigError(f"{where}: {name} is {value!r}, expected text or a list of texts")
    return tuple(dict.fromkeys(composed(label.strip()) for label in labels if label.strip()))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or holds half a surrogate pair, which no path and no table can hold.
    """
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def read_text(source: Path) -> str:
    """The whole of a text file in UTF-8.

    Raises:
        ConfigError: it cannot be read, or is no such text.
    """
    try:
        return source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not a UTF-8 text file: {error}") from None
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror or error}") from None


def _rows(source: Path, *, strict: bool) -> Iterator[tuple[int, Row]]:
    """Line number and columns of each row; `strict` about unknown columns."""
    text = read_text(source)
    path = "path" if strict else "file_name"
    if source.suffix.lower() == ".csv":
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            header = tuple(rows.fieldnames or ())
            _check_columns(f"{source}: header is {','.join(header) or 'missing'}", header, path, strict)
            twice = [name for name in header if header.count(name) > 1 and name in (path, *COLUMNS)]
            if twice:
                raise ConfigError(f"{source}: two columns are called {twice[0]}; keep one")
            for row in rows:
                if None in row:  # also where other columns mean nothing: the known ones may have moved
                    raise ConfigError(f"{source}, line {rows.line_num}: more fields than the header")
                yield rows.line_num, row
        except csv.Error as error:
            raise ConfigError(f"{source}, line {rows.line_num}: {error}") from None
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{source}, line {number}: no JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{source}, line {number}: found {type(row).__name__}, expected an object")
        _check_columns(f"{source}, line {number}: keys are {','.join(row)}", tuple(row), path, strict)
        yield number, row


def _check_columns(found: str, columns: tuple[str, ...], path: str, strict: bool) -> None:
    if path not in columns or (strict and not set(columns) <= set(COLUMNS)):
        raise ConfigError(f"{found}; {EXPECTED if strict else 'expected file_name'}")


def _item(source: Path, number: int, row: Row, split: str, finder: Finder) -> Item:
    where = f"{source}, line {number}"
    if not isinstance(row["path"], str) or not row["path"] or "\0" in row["path"]:
        raise ConfigError(f"{where}: the path is empty")
    start_s, end_s = (_seconds(where, row, name) for name in ("start_s", "end_s"))
    if end_s is not None and start_s is None:
        start_s = 0.0
    if not all(t is None or (math.isfinite(t) and t >= 0) for t in (start_s, end_s)) or (
        start_s is not None and end_s is not None and end_s <= start_s
    ):
        raise ConfigError(f"{where}: window {start_s}–{end_s} s is empty or negative")
    named_split, fold, name = (_text(row.get(column), f"{where}: {column}") for column in ("split", "fold", "id"))
    if named_split and fold:
        raise ConfigError(
            f"{where}: split is {named_split!r} and fold is {fold!r}; a clip is in one split: drop a column"
        )
    text = row["path"]
    path, listed = (place_of(text), "") if "://" in text else finder.find(source.parent / text, where)
    as_written, named = (f"{source.absolute()}#{form}" for form in (name, composed(name)))
    return Item(
        path,
        labels_of(row, where),
        composed(named_split or (f"fold{fold}" if fold else split)),
        start_s,
        end_s,
        name=named if name else listed,
        former_keys=(key_of(as_written, start_s, end_s),) if as_written != named else (),
    )


def _seconds(where: str, row: Row, name: str) -> float | None:
    text = _text(row.get(name), f"{where}: {name}")
    try:
        return float(text) if text else None
    except ValueError:
        raise ConfigError(f"{where}: {name} is {text!r}, expected seconds") from None


def _text(value: Any, where: str) -> str:
    if value is not None and not isinstance(value, str | int | float):
        raise ConfigError(f"{where}: found {value!r}, expected text or a number")
    text = "" if value is None else str(value).strip()
    check_text(where, text)
    return text


def split_of(row: Row, split: str, where: str) -> str:
    """The split that a row says, else `split`.

    Raises:
        ConfigError: it is no text.
    """
    return composed(_text(row.get("split"), f"{where}: split") or split)
