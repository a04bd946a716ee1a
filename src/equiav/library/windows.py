"""One item, in a worker process:  examine it (which windows, whose content), then read windows into clips."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from equiav.config import Features
from equiav.errors import MediaError
from equiav.library.items import Item
from equiav.library.pieces import as_one_file
from equiav.library.records import Clip
from equiav.media.channels import SILENCE
from equiav.media.decode import read_audio
from equiav.media.fbank import FRAME_S, fit_frames, log_mel
from equiav.media.frames import read_frames
from equiav.media.pixels import is_still
from equiav.media.probe import MAX_DURATION_S, InputContainer, MediaInfo, open_media, probe
from equiav.media.stills import probe_picture, read_picture

Stamp = tuple[int, int]
LATEST_NS = 2**63 - 1  # what a table holds: in the year 2262; file systems know later ones
NO_FILE: Stamp = (-1, -1)  # where there is none, or none that can be looked at


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
    windows: tuple[Window, ...]  # all of them, or those that a task is to read
    count: int  # of all
    tail_s: float = 0.0  # the end that no window covers


@dataclass(frozen=True)
class Task:
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
        info = probe_picture(path) or probe(path)
        within = item.within(info.duration_s)
        planned = plan_windows(within, info, features)
        tail_s = dropped_tail_s(within, info, features, planned)
        content = _content_hash(*files)
    windows = tuple(Window(*window, _clip_id(content, *window)) for window in planned)
    return Examined(stamp, info, windows, len(windows), tail_s)


def plan_windows(item: Item, info: MediaInfo, features: Features) -> list[tuple[float, float]]:
    """The windows [start_s, end_s) of an item, within all the tracks that it has.

    A file is cut every `hop_s` into windows of `clip_s`; a last, shorter one stays if it has `min_tail_s`, and a
    file too short for any gives one window, whose spectrogram is padded. The same holds within an item's own
    start and end; one with a start alone gives the one window there. A picture file is one window of no length.

    Raises:
        MediaError: too_short, too_long, unsupported (neither sound nor picture).
    """
    if info.picture:
        return [(0.0, 0.0)]
    start_s, end_s = _span(item, info, features)
    tail_s = shortest_tail_s(features)
    count = 1 + max(0, int(np.floor((end_s - start_s - tail_s) / features.hop_s + 1e-6)))
    starts = [start_s + i * features.hop_s for i in range(count)]
    return [(start, min(start + features.clip_s, end_s)) for start in starts]


def shortest_tail_s(features: Features) -> float:
    """How much a last window must have, in seconds."""
    return min(max(features.min_tail_s, FRAME_S), features.clip_s)


def dropped_tail_s(item: Item, info: MediaInfo, features: Features, windows: list[tuple[float, float]]) -> float:
    """The end of an item behind its last window, in seconds, which is too short for a window of its own.

    Less than a frame of a spectrogram is none: tracks end up to a packet later than what was recorded. What lies
    between windows (`hop_s` above `clip_s`) is none either.
    """
    if info.picture:
        return 0.0
    rest_s = _span(item, info, features)[1] - windows[-1][0] - max(features.clip_s, features.hop_s)
    return rest_s if rest_s >= FRAME_S else 0.0


def _span(item: Item, info: MediaInfo, features: Features) -> tuple[float, float]:
    """Where the windows of an item lie: within its own start and end, and within all the tracks that it has."""
    # a track whose length the headers do not give ends where the container does
    ends = [end or info.duration_s for end in (info.audio_end_s, info.video_end_s) if end is not None]
    if not ends:
        raise MediaError("unsupported", f"{item.path.name} has neither a sound nor a picture track")
    end_s, start_s = min(ends), item.start_s or 0.0
    if item.end_s is not None:
        end_s = min(end_s, item.end_s)
    elif item.start_s is not None:
        end_s = min(end_s, start_s + features.clip_s)
    if start_s >= end_s:
        raise MediaError("too_short", f"{item.path.name} ends at {end_s:.2f} s, the window starts at {start_s:.2f} s")
    if end_s - start_s > MAX_DURATION_S:
        raise MediaError(
            "too_long",
            f"{item.path.name} says {end_s - start_s:.0f} s, at most {MAX_DURATION_S:.0f} s at once; "
            "name the parts to take with start_s and end_s in a CSV",
        )
    return start_s, end_s


def stamp_of(*files: Path) -> Stamp:
    """Size in all and last modification: the files are taken as unchanged while these are."""
    try:
        found = [path.stat() for path in files]
    except (OSError, ValueError):
        return NO_FILE
    changed = max(stat.st_mtime_ns for stat in found)
    return sum(stat.st_size for stat in found), max(min(changed, LATEST_NS), -LATEST_NS)


def _read(task: Task, examined: Examined) -> Read:
    clips, error, where = [], None, ""
    with as_one_file(task.item) as (path, _):
        for window in examined.windows:
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
    sound, pictures = None, Pictures([], [])
    if info.picture:
        pictures = Pictures([read_picture(path, features.frame_side, features.jpeg_quality)], [0.0])
    else:
        # a decoder that stumbled over one window starts afresh for the next
        with open_media(path) as container:
            if info.audio_end_s is not None:
                sound = read_sound(container, path, window, features, info)
            if info.video_end_s is not None:
                pictures = read_pictures(container, path, window, features, info)
    return Clip(
        clip_id=window.clip_id,
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
    )


class Sound(NamedTuple):
    """The sound of a window."""

    log_mel: NDArray[np.float32]  # (T, M), not padded
    seconds: float
    silent: bool


class Pictures(NamedTuple):
    """The pictures of a window, and since when each is shown."""

    jpegs: list[bytes]
    times_s: list[float]


def read_sound(container: InputContainer, path: Path, window: Window, features: Features, info: MediaInfo) -> Sound:
    """The sound of a window of an open file.

    Raises:
        MediaError: there is less than one spectrogram frame of it, or what `read_audio` says.
    """
    wave = read_audio(container, path, window.start_s, window.end_s, features.sample_rate, info)
    mel, seconds = log_mel(wave, features)[: features.time_frames], len(wave) / features.sample_rate
    if not len(mel):
        raise MediaError("too_short", f"{path.name}: {1000 * seconds:.0f} ms of sound, at least {1000 * FRAME_S:.0f}")
    return Sound(mel, seconds, silent=bool(np.ptp(wave) < SILENCE))


def read_pictures(
    container: InputContainer, path: Path, window: Window, features: Features, info: MediaInfo
) -> Pictures:
    """The pictures shown at `frames_per_clip` times evenly inside a window of an open file, or near them.

    Raises:
        MediaError: what `read_frames` says.
    """
    times, span = _picture_times(window, features, info)
    side, quality = features.frame_side, features.jpeg_quality
    if features.frame_pick == "exact":
        return Pictures(*read_frames(container, path, times, side, quality, info))
    jpegs, times = read_frames(container, path, times, side, quality, info, keys_s=span)
    different = dict(zip(times, jpegs, strict=True))
    return Pictures(list(different.values()), list(different))


def middle_picture(container: InputContainer, path: Path, window: Window, features: Features, info: MediaInfo) -> bytes:
    """The middle one of `read_pictures`, as JPEG: what a clip is embedded by. With exact times no other is decoded.

    Raises:
        MediaError: what `read_frames` says.
    """
    if features.frame_pick == "key":
        jpegs = read_pictures(container, path, window, features, info).jpegs
        return jpegs[len(jpegs) // 2]
    times, _ = _picture_times(window, features, info)
    middle_s = [times[len(times) // 2]]
    return read_frames(container, path, middle_s, features.frame_side, features.jpeg_quality, info)[0][0]


def _picture_times(window: Window, features: Features, info: MediaInfo) -> tuple[list[float], tuple[float, float]]:
    """The times that pictures of a window are asked for, and the span of it that has pictures."""
    n, shown_s = features.frames_per_clip, min(window.end_s, info.video_end_s or window.end_s) - window.start_s
    times = [window.start_s + (i + 0.5) / n * shown_s for i in range(n)]
    return times, (window.start_s, window.start_s + shown_s)


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
