"""Lists of published datasets, with the files that one has of them:  AudioSet, VGGSound, CAV-MAE  →  items.

A segment is named by YouTube id and start second; its file by one of the names that the usual downloaders give. What
is listed and not there is an item with the fault `missing`: it is recorded as such, and found when it comes.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from equiav.errors import ConfigError
from equiav.library.items import MEDIA, PICTURES, SOUNDS, VIDEOS, Item, is_file, key_of, merge
from equiav.library.names import Finder, composed
from equiav.library.rows import parse_json, read_text, split_of

LABEL_MAP = "class_labels_indices.csv"
YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
SEGMENT_S = 10.0
FRAME_FOLDER = re.compile(r"frame_\d+")


def read_label_map(path: Path) -> dict[str, str]:
    """mid → display name, of a `class_labels_indices.csv` (index, mid, display_name).

    Raises:
        ConfigError: another header, or a line without one of them.
    """
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
    try:
        if not {"mid", "display_name"} <= set(rows.fieldnames or ()):
            raise ConfigError(f"{path}: header is {rows.fieldnames}; expected index,mid,display_name")
        names = {row["mid"]: composed(row["display_name"] or "") for row in rows}
    except csv.Error as error:
        raise ConfigError(f"{path}, line {rows.line_num}: {error}") from None
    if not names or not all(key and name for key, name in names.items()):
        raise ConfigError(f"{path}: a line without mid or display_name, or none at all")
    return names


def segment_list(source: Path) -> Literal["AudioSet", "VGGSound"] | None:
    """Whose list a CSV is: AudioSet's (comments, then id, start, end, labels), VGGSound's (id, start, label, split)."""
    try:
        with source.open(encoding="utf-8-sig", errors="replace") as file:
            lines = [file.readline(1000) for _ in range(3)]
    except OSError:
        return None
    if any(line.startswith("#") and "YTID" in line for line in lines):
        return "AudioSet"
    fields = next(csv.reader(lines[:1], skipinitialspace=True), [])
    return "VGGSound" if len(fields) == 4 and YOUTUBE_ID.fullmatch(fields[0]) and fields[1].isdigit() else None


def read_segments(source: Path, media: Path, found: Sequence[Path], names: Mapping[str, str], split: str) -> list[Item]:
    """Items of an AudioSet or VGGSound CSV, with their files among those `found` below `media`.

    Args:
        source: the CSV.
        media: folder with the files.
        found: the media files in it.
        names: mid → display name; empty leaves labels as they are.
        split: of AudioSet's segments; VGGSound's list says it.

    Raises:
        ConfigError: a wrong line, or a label that the map does not have.
    """
    videos: dict[str, Path] = {}
    sounds: dict[str, Path] = {}
    for path in found:
        if path.suffix.lower() not in PICTURES:
            (sounds if path.suffix.lower() in SOUNDS else videos).setdefault(path.stem, path)
    root = media.absolute()
    return merge(source, (_local(root, (videos, sounds), segment) for segment in _segments(source, names, split)))


@dataclass(frozen=True)
class _Segment:
    youtube_id: str
    start_s: float
    end_s: float
    labels: tuple[str, ...]
    split: str


def _segments(source: Path, names: Mapping[str, str], split: str) -> Iterator[_Segment]:
    text = read_text(source)
    audioset = any(line.startswith("#") and "YTID" in line for line in text.splitlines()[:3])
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        for row in rows:
            if not row or row[0].startswith("#"):
                continue
            where = f"{source}, line {rows.line_num}"
            if len(row) != 4 or not YOUTUBE_ID.fullmatch(row[0]):
                kind = "id,start,end,labels" if audioset else "id,start,label,split"
                raise ConfigError(f"{where}: found {','.join(row)}, expected {kind} with a YouTube id of 11 characters")
            try:
                start_s = float(row[1])
                end_s = float(row[2]) if audioset else start_s + SEGMENT_S
            except ValueError:
                raise ConfigError(f"{where}: {row[1]!r}, {row[2]!r} are no seconds") from None
            if not 0 <= start_s < end_s < float("inf"):
                raise ConfigError(f"{where}: window {start_s}–{end_s} s is empty or negative")
            labels, part = (row[3].split(","), split) if audioset else ([row[2]], composed(row[3].strip()) or split)
            yield _Segment(row[0], start_s, end_s, _named(labels, names, where), part)
    except csv.Error as error:
        raise ConfigError(f"{source}, line {rows.line_num}: {error}") from None


def _local(media: Path, kinds: Sequence[Mapping[str, Path]], segment: _Segment) -> Item:
    """The file of a segment: one cut out of the recording, by its name, or one named by the id alone.

    `kinds` are videos and sounds: a video comes before its sound alone, whatever each is called.
    """
    name, start_s, end_s = segment.youtube_id, segment.start_s, segment.end_s
    usual = f"{media}#{name}@{start_s:g}"
    listed = usual if end_s - start_s == SEGMENT_S else f"{usual}-{end_s:g}"
    former = {key_of(usual, start_s, end_s): None, key_of(usual): None}
    former.pop(key_of(listed), None)
    asked = Item(media, segment.labels, segment.split, name=listed, former_keys=tuple(former))
    spans = [f"{start_s:06.0f}", f"{start_s:g}", f"{1000 * start_s:.0f}"]
    spans += [f"{start_s:{how}}_{end_s:{how}}" for how in ("g", ".0f", ".1f", ".3f", "06.0f")]
    spans += [f"{1000 * start_s:.0f}_{1000 * end_s:.0f}"]
    # AudioSet's own packs put a Y before the id, so that no name begins with a dash
    stems = [f"{prefix}{name}{mark}{span}" for prefix in ("", "Y") for span in spans for mark in "_-"]
    for files in kinds:
        cut = next((files[stem] for stem in stems if stem in files), None)
        if cut:
            return replace(asked, path=cut)
        whole = files.get(name) or files.get(f"Y{name}")
        if whole:
            return replace(asked, path=whole, start_s=start_s, end_s=end_s, maybe_cut=True)
    fault = ("missing", f"no file of {name} at {start_s:g} s in {media} (such as {name}_{spans[0]}.mp4 or {name}.mp4)")
    return replace(asked, path=media / f"{name}_{spans[0]}", fault=fault)


def read_cav(source: Path, root: Path, names: Mapping[str, str], split: str) -> list[Item]:
    """Items of the JSON that CAV-MAE and EquiAV train on: `data[].{video_id, wav, video_path, labels}`.

    `video_path` is a video, or a folder with `ID.mp4`, or one with `frame_0/ID.jpg`, `frame_1/ID.jpg`, …; frames go
    with the sound in `wav`, a video has its own. Paths count from `root`. An entry may have a `split`.

    Raises:
        ConfigError: not such a JSON, or an entry without its fields.
    """
    try:
        entries = parse_json(read_text(source))["data"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ConfigError(f"{source}: expected JSON with a list `data` of clips: {error!r}") from None
    if not isinstance(entries, list):
        raise ConfigError(f"{source}: `data` is {type(entries).__name__}, expected a list of clips")
    folders, finder = dict[Path, list[str]](), Finder()
    items: list[Item] = []
    for number, entry in enumerate(entries):
        where = f"{source}, data[{number}]"
        missing = [name for name in ("video_id", "video_path", "labels") if not _has_text(entry, name)]
        if missing:
            raise ConfigError(f"{where}: no {', '.join(missing)}; expected video_id, wav, video_path, labels")
        labels = _named(entry["labels"].split(","), names, where)
        item = Item(root, labels, split_of(entry, split, where))
        items.append(_cav_item(root, entry, item, folders, lambda path, where=where: finder.find(path, where)[0]))
    return merge(source, items)


def _has_text(entry: Any, name: str) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get(name), str) and "\0" not in entry[name]


def _cav_item(
    root: Path, entry: dict[str, str], item: Item, folders: dict[Path, list[str]], find: Callable[[Path], Path]
) -> Item:
    """A video, or a sound and its frames; `folders` remembers which frame folders there are.

    It is named by what the entry says, whichever of its files there are.
    """
    listed, name = root / entry["video_path"], entry["video_id"]
    place = find(listed)
    if place.suffix.lower() in MEDIA:
        return replace(item, path=place, name="" if place == listed else os.fspath(listed.absolute()))
    if place not in folders:
        try:
            found = [path.name for path in place.iterdir()]
        except (OSError, ValueError):  # a video, nothing, or a folder that may not be read: ingest records which
            found = []
        folders[place] = sorted(filter(FRAME_FOLDER.fullmatch, found), key=lambda text: int(text[6:]))
    sound = entry["wav"] if _has_text(entry, "wav") else ""
    called = os.fspath((listed / f"{name}.mp4").absolute()) + (f"#{sound}" if sound else "")
    if folders[place] and _has_text(entry, "wav"):
        path, pictures = root / sound, tuple(find(place / folder / f"{name}.jpg") for folder in folders[place])
    else:
        videos = (find(place / f"{name}{suffix}") for suffix in sorted(VIDEOS))
        path, pictures = next(filter(is_file, videos), place / f"{name}.mp4"), ()
    former = {key_of(one.absolute()): None for one in (root / sound, path, place / f"{name}.mp4")}
    former.pop(key_of(called), None)
    return replace(item, path=find(path), pictures=pictures, name=called, former_keys=tuple(former))


def _named(labels: list[str], names: Mapping[str, str], where: str) -> tuple[str, ...]:
    """Labels by their display names."""
    found = tuple(composed(label.strip()) for label in labels if label.strip())
    unknown = [label for label in found if names and label not in names and label not in names.values()]
    if unknown:
        raise ConfigError(f"{where}: label {unknown[0]!r} is not in the label map")
    return tuple(dict.fromkeys(composed(names.get(label, label)) for label in found))
