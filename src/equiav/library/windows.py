"""One item, in a worker process:  examine it (which windows, whose content), then read windows into clips."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from equiav.config import Features
from equiav.errors import MediaError
from equiav.library.items import Item
from equiav.library.pieces import as_one_file
from equiav.library.table import Clip
from equiav.media.decode import read_audio, read_frames
from equiav.media.fbank import fit_frames, log_mel
from equiav.media.probe import MediaInfo, open_media, probe

Stamp = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A window of an item: [start_s, end_s) on the clock of its file; `clip_id` is what it will be called."""

    start_s: float
    end_s: float
    clip_id: str


@dataclass(frozen=True)
class Examined:
    """What an item holds."""

    stamp: Stamp
    info: MediaInfo
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Task:
    """Examine an item, or, once it is examined, read some of its windows."""

    item: Item
    features: Features
    examined: Examined | None = None
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True)
class Read:
    """The clips of a task's good windows, and what was wrong with the first bad one."""

    clips: tuple[Clip, ...]
    error: MediaError | None
    where: str = ""


def work(task: Task) -> Examined | Read:
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
        info = probe(path)
        planned = plan_windows(item.within(info.duration_s), info, features)
        content = _content_hash(*files)
    return Examined(stamp, info, tuple(Window(*window, _clip_id(content, *window)) for window in planned))


def plan_windows(item: Item, info: MediaInfo, features: Features) -> list[tuple[float, float]]:
    """The windows [start_s, end_s) of an item.

    A file is cut every `hop_s` into windows of `clip_s`; a last, shorter one stays if it has `min_tail_s`, and a
    file too short for any gives one window, whose spectrogram is padded. The same holds within an item's own
    start and end; one with a start alone gives the one window there.

    Raises:
        MediaError: no_audio, no_video, too_short.
    """
    if info.audio_end_s is None:
        raise MediaError("no_audio", f"{item.path.name} has no sound track")
    if info.video_end_s is None:
        raise MediaError("no_video", f"{item.path.name} has no picture track")
    # a track whose length the headers do not give ends where the container does
    end_s = min(info.audio_end_s or info.duration_s, info.video_end_s or info.duration_s)
    start_s = item.start_s or 0.0
    if start_s >= end_s:
        raise MediaError("too_short", f"{item.path.name} ends at {end_s:.2f} s, the window starts at {start_s:.2f} s")
    if item.end_s is not None:
        end_s = min(end_s, item.end_s)
    elif item.start_s is not None:
        end_s = min(end_s, start_s + features.clip_s)
    tail_s = min(features.min_tail_s, features.clip_s)
    count = 1 + max(0, int(np.floor((end_s - start_s - tail_s) / features.hop_s + 1e-6)))
    starts = [start_s + i * features.hop_s for i in range(count)]
    return [(start, min(start + features.clip_s, end_s)) for start in starts]


def stamp_of(*files: Path) -> Stamp:
    """Size in all and last modification: the files are taken as unchanged while these are."""
    try:
        found = [path.stat() for path in files]
    except (OSError, ValueError):  # one is not there: a stamp that no file has
        return -1, -1
    return sum(stat.st_size for stat in found), max(stat.st_mtime_ns for stat in found)


def _read(task: Task, examined: Examined) -> Read:
    clips, error, where = [], None, ""
    with as_one_file(task.item) as (path, _):
        for window in task.windows:
            try:
                clips.append(_read_clip(task, examined, window, path))
            except MediaError as fault:
                if error is None:
                    error, where = fault, f"decode {window.start_s:.2f}-{window.end_s:.2f} s"
    if stamp_of(*task.item.files) != examined.stamp:
        return Read(
            (), MediaError("changed", f"{task.item.path} was changed while it was read; ingest again"), "decode"
        )
    return Read(tuple(clips), error, where)


def _read_clip(task: Task, examined: Examined, window: Window, path: Path) -> Clip:
    item, features, info = task.item, task.features, examined.info
    start_s, end_s = window.start_s, window.end_s
    # a decoder that stumbled over one window starts afresh for the next
    with open_media(path) as container:
        sound = read_audio(container, path, start_s, end_s, features.sample_rate, info)
        mel = log_mel(sound, features)[: features.time_frames]
        if not len(mel):
            raise MediaError("too_short", f"{path.name}: {1000 * len(sound) / features.sample_rate:.0f} ms of sound")
        n = features.frames_per_clip
        shown_s = min(end_s, info.video_end_s or end_s) - start_s
        times = [start_s + (i + 0.5) / n * shown_s for i in range(n)]
        frames, frame_times = read_frames(container, path, times, features.frame_side, features.jpeg_quality, info)
    return Clip(
        clip_id=window.clip_id,
        item=item.key,
        item_windows=len(examined.windows),
        source=item.source,
        start_s=start_s,
        end_s=start_s + len(sound) / features.sample_rate,
        labels=list(item.labels),
        split=item.split,
        status="ok",
        fbank=fit_frames(mel, features.time_frames).astype(np.float16),
        fbank_frames=len(mel),
        fbank_mean=float(mel.mean(dtype=np.float64)),
        fbank_square=float(np.square(mel, dtype=np.float64).mean()),
        frames=frames,
        frame_times_s=frame_times,
        file_size=examined.stamp[0],
        file_mtime_ns=examined.stamp[1],
    )


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
