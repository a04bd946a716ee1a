"""What to ingest:  a folder, a file, a list of one of the known forms, or tars  →  items."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from equiav.errors import ConfigError
from equiav.library.datasets import LABEL_MAP, read_cav, read_label_map, read_segments, segment_list
from equiav.library.items import HELD_OUT, MEDIA, SYSTEM_FOLDERS, Item, Listing, is_absent, is_file, is_folder
from equiav.library.names import Finder, composed
from equiav.library.places import BucketPath, Place
from equiav.library.rows import check_text, metadata_files, read_hugging_face, read_rows
from equiav.library.shards import read_tars
from equiav.words import counted

__all__ = ["Item", "Listing", "read_source"]

LISTS = frozenset({".csv", ".json", ".jsonl", ".tar"})


def read_source(
    source: Place,
    *,
    media: Path | None = None,
    label_map: Path | None = None,
    split: str = "train",
    by_folder: bool = False,
    hold_out: float | None = None,
) -> Listing:
    """The items of a source.

    Args:
        source: a folder of media (recursive; links that lead out of it are not followed), of tars, or with Hugging
            Face metadata; a .csv, .jsonl, .json or .tar; or one media file; or media on an object store. docs/data.md
            shows each.
        media: folder of the files that an AudioSet, VGGSound or CAV-MAE list names; default the list's own folder.
        label_map: `class_labels_indices.csv` for those lists; default the one beside an AudioSet or CAV-MAE list.
        split: of what the source gives no split.
        by_folder: the label of a file is the folder below a folder of media that it lies in, at any depth; a file
            directly in that has none.
        hold_out: share of the contents, less than half, whose clips are the split `test` instead.

    Raises:
        ConfigError: no such thing, nothing to ingest in it, or a wrong line in a list; labels from folders of what is
            no folder of media, or a share that is held out of a list with splits of its own.
    """
    check_text("--split", split)
    listing = _read(source, media, label_map, composed(split))
    if by_folder:
        if listing.labelled or not (isinstance(listing.source, BucketPath) or is_folder(listing.source)):
            raise ConfigError(f"{source}: --labels-from-folders goes with a folder of media files, not with a list")
        listing = replace(listing, by_folder=True, items=[_labelled(item, listing.source) for item in listing.items])
    return listing if hold_out is None else _with_hold_out(listing, hold_out, composed(split))


def _labelled(item: Item, folder: Place) -> Item:
    below = _below(item.path, folder)
    label = os.fsencode(below[0]).decode("utf-8", "backslashreplace")
    return replace(item, labels=(composed(label),)) if len(below) > 1 else item


def _with_hold_out(listing: Listing, share: float, split: str) -> Listing:
    if not 0 < share < 0.5:
        raise ConfigError(f"--hold-out is a share of the files above 0 and below 50 %, as 10% or 0.1; found {share:g}")
    if named := sorted({item.split for item in listing.items} - {split}):
        raise ConfigError(
            f"{listing.source} says itself what is in the splits {', '.join(named)}: leave out --hold-out, or the "
            "column of splits"
        )
    if split == HELD_OUT:
        raise ConfigError(f"--hold-out takes clips out of --split into {HELD_OUT!r}: give another --split")
    return replace(listing, hold_out=share)


def _below(path: Place, folder: Place) -> tuple[str, ...]:
    if isinstance(path, BucketPath):
        return tuple(path.url.removeprefix(f"{folder}/").split("/"))
    return path.relative_to(str(folder)).parts


def _read(source: Place, media: Path | None, label_map: Path | None, split: str) -> Listing:
    if isinstance(source, BucketPath):
        return _bucket(source, split, plain=not (media or label_map))
    source, _ = Finder().find(_plain(source), "SOURCE")
    media = media and Finder().find(media, "--media")[0]
    if is_folder(source):
        return _folder(source, split)
    if not is_file(source):
        raise ConfigError(
            f"{source}: no such folder or file, or no regular one; give a folder of videos, one video, or a list"
        )
    if media and not media.is_dir():
        raise ConfigError(f"{media}: no such folder; --media is the folder of the files that the list names")
    kind, root = source.suffix.lower(), _plain(media) if media else source.parent
    segments = segment_list(source) if kind == ".csv" else None
    if segments or kind == ".json":
        beside = source.with_name(LABEL_MAP)
        if label_map is None and segments != "VGGSound" and beside.is_file():  # VGGSound's list has names, not mids
            label_map = beside
        names = read_label_map(label_map) if label_map else {}
        if segments:
            found, _, left_out = _media_files(root)
            items = read_segments(source, root, found, names, split)
            return Listing(source, items, labelled=True, system_folders=left_out)
        return Listing(source, read_cav(source, root, names, split), labelled=True)
    if media or label_map:
        raise ConfigError(f"{source}: --media and --labels go with AudioSet, VGGSound and CAV-MAE lists only")
    if kind in (".csv", ".jsonl"):
        return Listing(source, read_rows(source, split), labelled=True)
    if kind == ".tar":
        items, left_out = read_tars([source], split)
        return Listing(source, items, labelled=True, system_folders=left_out)
    return Listing(source, [Item(source, split=split)])


def _plain(source: Path) -> Path:
    """The path without `..`: the same source has one name, however it is reached, and from wherever."""
    if ".." not in source.parts:
        return source
    try:
        plain = Path(os.path.normpath(source.absolute()))
        return plain if plain.samefile(source) else source
    except (OSError, ValueError):
        return source


def _bucket(place: BucketPath, split: str, plain: bool) -> Listing:
    """The media below a place of an object store, or the one that it is; told by their names, as in a folder."""
    if place.suffix.lower() in LISTS or not plain:
        raise ConfigError(
            f"{place}: lists and tars are read from a folder of this machine, not from an object store, and --media "
            "and --labels go with lists; give a place with media files, or copy it here"
        )
    found, others, left_out = list[BucketPath](), 0, Counter[str]()
    for path in place.objects():
        *folders, name = path.url.removeprefix(f"{place.url}/").split("/")
        system = next((folder for folder in folders if SYSTEM_FOLDERS.fullmatch(folder)), None)
        if system:
            left_out[system] += 1
        elif path.suffix.lower() in MEDIA and not any(part.startswith(".") for part in (*folders, name)):
            found.append(path)
        else:
            others += not any(folder.startswith(".") or folder.endswith(".lance") for folder in folders)
    if not found and place.suffix.lower() in MEDIA and not is_absent(place):
        found.append(BucketPath(place.url, place.stat()))
    if not found:
        raise ConfigError(
            f"{place}: no media files there, {counted(others, 'other object')} (looked for {', '.join(sorted(MEDIA))})"
        )
    return Listing(place, [Item(path, split=split) for path in found], others, system_folders=left_out)


def _folder(folder: Path, split: str) -> Listing:
    if metadata_files(folder):
        return Listing(folder, read_hugging_face(folder, split), labelled=True)
    paths, others, left_out = _media_files(folder)
    whole = folder.resolve()
    entries = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".tar" and path.name[0] != ".")
    tars = [path for path in entries if is_file(path) and _inside(path, whole)]
    if tars and paths:
        raise ConfigError(
            f"{folder}: {len(paths)} media files and {len(tars)} tars; ingest the tars from their own folder"
        )
    if tars:
        items, inside = read_tars(tars, split)
        return Listing(folder, items, others - len(tars), labelled=True, system_folders=Counter(left_out) + inside)
    if not paths:
        raise ConfigError(
            f"{folder}: no media files in this folder, {counted(others, 'other file')} (looked for "
            f"{', '.join(sorted(MEDIA))}, recursively; not hidden ones, nor links that lead out"
            + (f", nor in the system's folders {', '.join(left_out)}: name one to read it" if left_out else "")
            + ")"
        )
    return Listing(folder, [Item(path, split=split) for path in paths], others, system_folders=left_out)


def _media_files(folder: Path) -> tuple[list[Path], int, Counter[str]]:
    """The media files below a folder, how many other files there are, and the system's folders left out, by name."""
    found, others, left_out = [], 0, Counter[str]()
    whole = folder.resolve()

    def unlisted(error: OSError) -> None:
        found.append(Path(error.filename))  # it will be rejected by name, not skipped

    for root, folders, names in os.walk(folder, onerror=unlisted):
        # a library's own tables and hidden folders (trash, thumbnails) hold no videos of the user's
        left_out.update(sorted(filter(SYSTEM_FOLDERS.fullmatch, folders)))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not name.endswith(".lance") and not SYSTEM_FOLDERS.fullmatch(name)
        )
        for name in sorted(names):
            path = Path(root, name)
            if path.suffix.lower() in MEDIA and not name.startswith(".") and _inside(path, whole):
                found.append(path)
            else:
                others += 1
    return found, others, left_out


def _inside(path: Path, folder: Path) -> bool:
    """Whether a path is no link that leads out of a folder; of one that leads nowhere the reader will say so."""
    try:
        return not path.is_symlink() or path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # a circle of links
        return True
