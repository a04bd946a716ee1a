"""Videos into a library:  items → worker processes (probe, decode, log-mel, JPEG) → atomic appends.

Run again it adds only what is new or changed (size, modification time); killed at any moment it loses at most the
items since the last commit, and the next run does those. What gives no clip is recorded with stage and reason.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from equiav.config import Features
from equiav.errors import MediaError
from equiav.library.manifests import Item, read_source
from equiav.library.table import Clip, Library, Reject
from equiav.media.decode import InputContainer, read_audio, read_frames
from equiav.media.fbank import fit_frames, log_mel
from equiav.media.probe import MediaInfo, describe, open_media

COMMIT_ITEMS = 256
COMMIT_S = 15.0


@dataclass
class IngestReport:
    """What an ingest did. `rejects` are the items of this source that gave no clip, now or in an earlier run."""

    files: int = 0
    clips_added: int = 0
    clips_present: int = 0
    duplicates: int = 0  # clips whose content and window are in the library already, under another name
    rejects: list[Reject] = field(default_factory=list)


def ingest(
    source: Path,
    library_path: Path,
    features: Features,
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> IngestReport:
    """Ingest a folder, a file or a CSV into the library at `library_path`, which is made when missing.

    Args:
        source: see `equiav.library.manifests.read_source`.
        library_path: folder of the library.
        features: feature settings; those of an existing library must be the same.
        workers: processes; default one per core.
        on_progress: called with (items done, items, note).

    Raises:
        ConfigError: nothing to ingest. LibraryError: a library with other features.
    """
    items = list({item.key: item for item in read_source(source)}.values())
    library = Library.create(library_path, features)
    report = IngestReport(files=len(items))
    todo = _sort_out(items, library, report)
    present = library.clip_ids()
    batch: list[_Outcome] = []
    committed_at = time.monotonic()
    done = len(items) - len(todo)
    for outcome in _run(todo, features, workers or os.cpu_count() or 1):
        batch.append(outcome)
        done += 1
        if len(batch) >= COMMIT_ITEMS or time.monotonic() - committed_at > COMMIT_S:
            _commit(library, batch, present, report)
            batch, committed_at = [], time.monotonic()
        if on_progress:
            on_progress(done, len(items), f"{len(report.rejects)} rejects" if report.rejects else "")
    _commit(library, batch, present, report)
    library.tidy()
    return report


def _sort_out(items: list[Item], library: Library, report: IngestReport) -> list[Item]:
    """The items that are new or whose file changed; the rest goes into the report."""
    known = library.known_items()
    rejected = {reject.item: reject for reject in library.rejects()}
    todo = []
    for item in items:
        stamp = _stamp(item.path)
        old = rejected.get(item.key)
        refused = old is not None and (old.file_size, old.file_mtime_ns) == stamp
        present = item.key in known and known[item.key][1:] == stamp
        if present:
            report.clips_present += known[item.key][0]
        if refused and old:
            report.rejects.append(old)
        if not present and not refused:
            todo.append(item)
    return todo


@dataclass(frozen=True)
class _Outcome:
    item: Item
    stamp: tuple[int, int]
    clips: list[Clip]
    reject: Reject | None


def _commit(library: Library, batch: list[_Outcome], present: set[str], report: IngestReport) -> None:
    """One append for the clips of the batch; records of rejects follow, and are idempotent."""
    known = library.known_items() if batch else {}
    clips: list[Clip] = []
    for outcome in batch:
        if outcome.item.key in known:  # the file changed: its old clips go, whatever became of it
            library.remove_item(outcome.item.key)
            present = library.clip_ids() | {clip.clip_id for clip in clips}
        for clip in outcome.clips:
            if clip.clip_id in present:
                report.duplicates += 1
            else:
                present.add(clip.clip_id)
                clips.append(clip)
    library.append(clips)
    report.clips_added += len(clips)
    rejects = [outcome.reject for outcome in batch if outcome.reject]
    library.reject(rejects)
    report.rejects.extend(rejects)
    library.forgive(outcome.item.key for outcome in batch if not outcome.reject)


def _run(items: list[Item], features: Features, workers: int) -> Iterator[_Outcome]:
    """Outcomes as they come; an item on which a worker process dies is tried once more, alone, then rejected."""
    waiting = iter(items)
    while True:
        flying: dict[Future[_Outcome], Item] = {}
        suspects: list[Item] = []
        with ProcessPoolExecutor(min(workers, max(len(items), 1)), mp_context=get_context("spawn")) as pool:
            while True:
                for item in waiting:
                    flying[pool.submit(_process, item, features)] = item
                    if len(flying) >= 4 * workers:
                        break
                if not flying:
                    return
                try:
                    for future in wait(flying, return_when=FIRST_COMPLETED).done:
                        yield future.result()
                        del flying[future]
                except BrokenProcessPool:
                    suspects = list(flying.values())
                    break
        for item in suspects:
            yield _alone(item, features)


def _alone(item: Item, features: Features) -> _Outcome:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_process, item, features).result()
        except BrokenProcessPool:
            error, stamp = MediaError("crashed", f"the decoder died on {item.path.name}, twice"), _stamp(item.path)
            return _Outcome(item, stamp, [], _reject(item, "decode", error, stamp))


def _process(item: Item, features: Features) -> _Outcome:
    """Everything of one item; runs in a worker process. The good windows of a file with a bad one are kept."""
    stamp, clips, reject = _stamp(item.path), [], None
    try:
        with open_media(item.path) as container:
            info = describe(container, item.path)
            windows = plan_windows(item, info, features)
            content = _content_hash(item.path)
    except MediaError as error:
        return _Outcome(item, stamp, [], _reject(item, "probe", error, stamp))
    for start_s, end_s in windows:
        try:
            # a decoder that stumbled over one window starts afresh for the next
            with open_media(item.path) as container:
                clips.append(_read_clip(container, item, info, features, (start_s, end_s), content, stamp))
        except MediaError as error:
            reject = reject or _reject(item, f"decode {start_s:.2f}-{end_s:.2f} s", error, stamp)
    return _Outcome(item, stamp, clips, reject)


def _read_clip(
    container: InputContainer,
    item: Item,
    info: MediaInfo,
    features: Features,
    window: tuple[float, float],
    content: str,
    stamp: tuple[int, int],
) -> Clip:
    start_s, end_s = window
    sound = read_audio(container, item.path, start_s, end_s, features.sample_rate)
    mel = log_mel(sound, features)[: features.time_frames]
    if not len(mel):
        raise MediaError("too_short", f"{item.path.name}: {1000 * len(sound) / features.sample_rate:.0f} ms of sound")
    shown_s = min(end_s, info.video_end_s or end_s) - start_s
    n = features.frames_per_clip
    times = [start_s + (i + 0.5) / n * shown_s for i in range(n)]
    frames, frame_times = read_frames(container, item.path, times, features.frame_side, features.jpeg_quality)
    name = f"{content}|{start_s:.3f}|{end_s:.3f}|{features.model_dump_json()}"
    return Clip(
        clip_id=hashlib.sha256(name.encode()).hexdigest()[:24],
        item=item.key,
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
        file_size=stamp[0],
        file_mtime_ns=stamp[1],
    )


def plan_windows(item: Item, info: MediaInfo, features: Features) -> list[tuple[float, float]]:
    """The windows [start_s, end_s) of an item.

    A file is cut every `hop_s` into windows of `clip_s`; a last, shorter one stays if it has `min_tail_s`, and a
    file too short for any gives one window, whose spectrogram is padded. An item with a window of its own gives that.

    Raises:
        MediaError: no_audio, no_video, too_short.
    """
    if info.audio_end_s is None:
        raise MediaError("no_audio", f"{item.path.name} has no sound track")
    if info.video_end_s is None:
        raise MediaError("no_video", f"{item.path.name} has no picture track")
    # a track whose length the headers do not give ends where the container does
    end_s = min(info.audio_end_s or info.duration_s, info.video_end_s or info.duration_s)
    if item.start_s is not None:
        if item.start_s >= end_s:
            raise MediaError(
                "too_short", f"{item.path.name} ends at {end_s:.2f} s, window starts at {item.start_s:.2f} s"
            )
        return [(item.start_s, min(item.end_s or np.inf, item.start_s + features.clip_s))]
    count = 1 + max(0, int(np.floor((end_s - min(features.min_tail_s, features.clip_s)) / features.hop_s + 1e-6)))
    return [(i * features.hop_s, min(i * features.hop_s + features.clip_s, end_s)) for i in range(count)]


def _content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _reject(item: Item, stage: str, error: MediaError, stamp: tuple[int, int]) -> Reject:
    return Reject(item.key, item.source, stage, error.reason, error.detail, *stamp)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:  # it is not there: a stamp that no file has
        return -1, -1
    return found.st_size, found.st_mtime_ns
