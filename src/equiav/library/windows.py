"""One item, in a worker process:  examine it (which windows, whose content), then read windows into clips."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from equiav.config import Features
from equiav.errors import MediaError
from equiav.library.items import Item
from equiav.library.pieces import as_one_file
from equiav.library.places import Place
from equiav.library.records import Clip
from equiav.media.fbank import fit_frames
from equiav.media.pixels import is_still
from equiav.media.probe import MediaInfo, open_media, probe
from equiav.media.stills import probe_picture, read_picture
from equiav.media.windows import (
    Pictures,
    Sound,
    Window,
    cut,
    dropped_tail_s,
    read_pictures,
    read_sound,
    span_of,
)

Stamp = tuple[int, int]
LATEST_NS = 2**63 - 1  # the latest time that a table holds, in the year 2262; file systems allow later ones
CONTENT_DIGITS = 32  # of a content's hash that are kept: 128 bits
NO_FILE: Stamp = (-1, -1)  # there is none, or it cannot be reached


class ClipWindow(NamedTuple):
    """A window of an item, and the id of the clip that it becomes."""

    window: Window
    clip_id: str


@dataclass(frozen=True)
class Examined:
    """What an item holds."""

    stamp: Stamp
    info: MediaInfo
    windows: tuple[ClipWindow, ...]  # all of them, or those that a task is to read
    count: int  # of all
    tail_s: float = 0.0  # the end that no window covers
    content: str | None = None  # hash of the whole files


@dataclass(frozen=True)
class ItemTask:
    """Examine an item, or, once it is examined, read some of its windows.

    It is copied for each part of a file, so of the windows it holds that part alone.
    """

    item: Item
    features: Features
    examined: Examined | None = None
    origin: str = ""


@dataclass(frozen=True)
class Read:
    """The clips of a task's good windows, and what was wrong with the first bad one."""

    clips: tuple[Clip, ...]
    error: MediaError | None
    where: str = ""


def work(task: ItemTask) -> Examined | Read:
    """Do a task.

    Raises:
        MediaError: the item as a whole cannot be used.
    """
    return examine(task.item, task.features) if task.examined is None else _read(task, task.examined)


def examine(item: Item, features: Features) -> Examined:
    """Probe an item, plan its windows and name them after its content.

    Raises:
        MediaError: there is nothing to read in it.
    """
    stamp = stamp_of(*item.files)
    with as_one_file(item) as (path, files):
        info = probe_picture(path) or probe(path)
        part = item.within(info.duration_s)
        span = span_of(info, features, item.path.name, part.start_s, part.end_s)
        planned = cut(span, info, features)
        tail_s = dropped_tail_s(span, planned, info, features)
        content = _content_hash(*files)
    windows = tuple(ClipWindow(window, _clip_id(content, *window)) for window in planned)
    return Examined(stamp, info, windows, len(windows), tail_s, content[:CONTENT_DIGITS])


def plan_windows(item: Item, info: MediaInfo, features: Features) -> list[Window]:
    """The windows of an item, within its own start and end and within all the tracks that it has.

    Raises:
        MediaError: too_short, too_long, unsupported (neither sound nor picture).
    """
    return cut(span_of(info, features, item.path.name, item.start_s, item.end_s), info, features)


def stamp_of(*files: Place) -> Stamp:
    """Total size and last modification: files count as unchanged while these are."""
    try:
        found = [path.stat() for path in files]
    except (OSError, ValueError):
        return NO_FILE
    changed = max(stat.st_mtime_ns for stat in found)
    return sum(stat.st_size for stat in found), max(min(changed, LATEST_NS), -LATEST_NS)


def _read(task: ItemTask, examined: Examined) -> Read:
    clips, error, where = [], None, ""
    with as_one_file(task.item) as (path, _):
        for wanted in examined.windows:
            try:
                clips.append(_read_clip(task, examined, wanted, path))
            except MediaError as fault:
                if error is None:
                    error, where = fault, f"decode {wanted.window.start_s:.2f}-{wanted.window.end_s:.2f} s"
    if stamp_of(*task.item.files) != examined.stamp:
        return Read(
            (), MediaError("changed", f"{task.item.path} was changed while it was read; ingest again"), "decode"
        )
    return Read(tuple(clips), error, where)


def _read_clip(task: ItemTask, examined: Examined, wanted: ClipWindow, path: Path) -> Clip:
    item, features, info, window = task.item, task.features, examined.info, wanted.window
    sound, pictures = None, Pictures([], [])
    if info.picture:
        pictures = Pictures([read_picture(path, features.frame_side, features.jpeg_quality)], [0.0])
    else:
        # opened anew for each window: a decoder may not recover from an error
        with open_media(path) as container:
            if info.audio_end_s is not None:
                sound = read_sound(container, path, window, features, info)
            if info.video_end_s is not None:
                pictures = read_pictures(container, path, window, features, info)
    return Clip(
        clip_id=wanted.clip_id,
        item=item.key,
        item_windows=examined.count,
        item_tail_s=examined.tail_s,
        source=item.source,
        start_s=window.start_s,
        end_s=window.end_s if sound is None else window.start_s + sound.seconds,
        labels=list(item.labels),
        split=item.split,
        status=_status(sound, pictures, item.one_picture),
        fbank=None if sound is None else fit_frames(sound.log_mel, features.time_frames).astype(np.float16),
        fbank_frames=0 if sound is None else len(sound.log_mel),
        fbank_mean=None if sound is None else float(sound.log_mel.mean(dtype=np.float64)),
        fbank_square=None if sound is None else float(np.square(sound.log_mel, dtype=np.float64).mean()),
        frames=pictures.jpegs,
        frame_times_s=pictures.times_s,
        file_size=examined.stamp[0],
        file_mtime_ns=examined.stamp[1],
        origin=task.origin,
        content=examined.content,
    )


def _status(sound: Sound | None, pictures: Pictures, one_picture: bool) -> str:
    """The first that holds, of what a clip lacks."""
    if sound is None:
        return "no_audio"
    if not pictures.jpegs:
        return "no_video"
    if sound.silent:
        return "silent"
    return "still" if not one_picture and is_still(pictures.jpegs) else "ok"


def _clip_id(content: str, start_s: float, end_s: float) -> str:
    """Stable name of a window of a content, whatever the file is called: 96 bits of a hash."""
    return hashlib.sha256(f"{content}|{start_s:.3f}|{end_s:.3f}".encode()).hexdigest()[:24]


def _content_hash(*files: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise MediaError("unreadable", f"{path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()
