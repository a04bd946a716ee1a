"""Videos into a library:  items → worker processes (probe, decode, log-mel, JPEG) → atomic appends.

Run again it adds only what is new or changed (size, modification time); killed at any moment it loses at most the
windows since the last commit, and the next run does those. What gives no clip is recorded with stage and reason.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

from equiav.config import Features
from equiav.errors import MediaError
from equiav.library.coverage import Coverage, cover, keep_record
from equiav.library.manifests import Item, Listing, read_source
from equiav.library.table import Clip, Library, Reject
from equiav.library.windows import Examined, Read, Stamp, Task, plan_windows, stamp_of, work
from equiav.media.sandbox import Sandbox

__all__ = ["IngestReport", "ingest", "plan_windows"]

COMMIT_CLIPS = 128
COMMIT_S = 15.0
TASK_WINDOWS = 8  # a long film is read in parts: they fit into memory, and all workers share them
TASK_LIMIT_S = 1800.0
# What may be different at the next try although the file is the same
TRANSIENT = frozenset({"missing", "unreadable", "crashed", "timeout"})


@dataclass
class IngestReport:
    """What an ingest did. `rejects` are the items of this source that gave no clip, now or in an earlier run."""

    files: int = 0
    ignored: int = 0  # files of the folder that no suffix tells to be media
    clips_added: int = 0
    clips_present: int = 0
    clips_relabelled: int = 0
    duplicates: int = 0  # clips whose content and window are in the library already, under another name
    rejects: list[Reject] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)  # of a list, per split


def ingest(
    source: Path | Listing,
    library_path: Path,
    features: Features,
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> IngestReport:
    """Ingest a folder, a file or a list into the library at `library_path`, which is made when missing.

    Args:
        source: a path, or what `equiav.library.manifests.read_source` made of one.
        library_path: folder of the library.
        features: feature settings; those of an existing library must be the same.
        workers: processes; default one per core.
        on_progress: called with (items done, items, note).

    Raises:
        ConfigError: nothing to ingest.
        LibraryError: a library with other features, or another ingest at work in it.
    """
    listing = source if isinstance(source, Listing) else read_source(source)
    library = Library.create(library_path, features)
    report = IngestReport(files=len({item.path for item in listing.items}), ignored=listing.ignored)
    with library.locked():
        run = _Run(library, report, len(listing.items), on_progress)
        todo = run.sort_out(listing.items, relabel=listing.labelled)
        try:
            run.read(todo, features, workers or _cores())
        finally:
            # also when interrupted: what is read is kept
            run.commit()
        library.tidy()
    report.rejects.sort(key=lambda reject: reject.path)
    report.coverage = cover(listing.items, report.rejects) if listing.labelled else []
    kept = asdict(report) | {"rejects": len(report.rejects)}  # they are in their own table
    keep_record(library_path, listing.source, kept)
    return report


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Open:
    """An item that is being read."""

    item: Item
    examined: Examined
    tasks: int = 0  # still to come back
    reject: Reject | None = None


class _Run:
    """One ingest: what the library knows, what is being read, what waits for the next commit."""

    def __init__(
        self, library: Library, report: IngestReport, total: int, on_progress: Callable[[int, int, str], None] | None
    ) -> None:
        self.library, self.report, self.total, self.on_progress = library, report, total, on_progress
        self.known = library.known_items()
        self.rejected = {reject.item: reject for reject in library.rejects()}
        self.owner = library.owners()  # clip_id → item
        self.clips_of: dict[str, list[str]] = defaultdict(list)
        for clip_id, item in self.owner.items():
            self.clips_of[item].append(clip_id)
        self.open: dict[str, _Open] = {}
        self.clips: list[Clip] = []
        self.stale: list[str] = []
        self.finished: list[tuple[str, Reject | None]] = []
        self.committed_at, self.done = time.monotonic(), 0

    def sort_out(self, items: list[Item], *, relabel: bool) -> list[Item]:
        """The items that are new, changed or unfinished; the rest goes into the report."""
        todo, labels = [], {}
        for item in items:
            stamp = stamp_of(*item.files)
            known, reject = self.known.get(item.key), self.rejected.get(item.key)
            refused = reject is not None and (reject.file_size, reject.file_mtime_ns) == stamp
            if known and known.stamp == stamp and (known.clips == known.windows or refused):
                self.report.clips_present += known.clips
                if relabel and (known.labels, known.split) != (item.labels, item.split):
                    labels[item.key] = item
                if reject and not refused:  # it was away for a while
                    self.finished.append((item.key, None))
            elif not refused or (reject and reject.reason in TRANSIENT):
                todo.append(item)
                continue
            if refused and reject:
                self.report.rejects.append(reject)
        self.done = len(items) - len(todo)
        new = {clip: (labels[key].labels, labels[key].split) for key in labels for clip in self.clips_of[key]}
        self.library.relabel(new)
        self.report.clips_relabelled = len(new)
        return todo

    def read(self, todo: list[Item], features: Features, workers: int) -> None:
        """Examine all items and read their windows, started ones first."""
        items, tasks = deque[Item](), deque[Task]()
        for item in todo:
            if item.fault:  # known since it was listed: no process is asked
                self._unusable(item, MediaError(*item.fault))
            else:
                items.append(item)
        with Sandbox(work, workers, TASK_LIMIT_S) as sandbox:
            while items or tasks or sandbox.busy:
                while (items or tasks) and sandbox.has_room():
                    sandbox.submit(tasks.popleft() if tasks else Task(items.popleft(), features))
                for task, result in sandbox.wait():
                    if isinstance(result, Examined):
                        tasks.extend(self._examined(task, result))
                    elif task.item.key not in self.open:
                        self._unusable(task.item, cast(MediaError, result))
                    else:
                        tasks.extend(self._windows_read(task, result))
                if len(self.clips) >= COMMIT_CLIPS or time.monotonic() - self.committed_at > COMMIT_S:
                    self.commit()

    def _examined(self, task: Task, found: Examined) -> list[Task]:
        """Tasks for the windows of an item that the library does not have."""
        item, wanted = task.item, []
        ids = {window.clip_id for window in found.windows}
        self._drop([clip for clip in self.clips_of[item.key] if clip not in ids])  # of the file before it changed
        for window in found.windows:
            owner = self.owner.setdefault(window.clip_id, item.key)
            if owner != item.key:
                self.report.duplicates += 1
            elif window.clip_id in self.clips_of[item.key]:
                self.report.clips_present += 1
            else:
                wanted.append(window)
        if not wanted:
            self._finish(item, None)
            return []
        parts = [tuple(wanted[i : i + TASK_WINDOWS]) for i in range(0, len(wanted), TASK_WINDOWS)]
        self.open[item.key] = _Open(item, found, len(parts))
        return [replace(task, examined=found, windows=part) for part in parts]

    def _windows_read(self, task: Task, result: Read | MediaError) -> list[Task]:
        """Take in the clips of a task; one that killed its process is tried window by window."""
        entry = self.open[task.item.key]
        if isinstance(result, MediaError) and len(task.windows) > 1:
            entry.tasks += len(task.windows) - 1
            return [replace(task, windows=(window,)) for window in task.windows]
        error, where = (result, "decode") if isinstance(result, MediaError) else (result.error, result.where)
        if error is not None and entry.reject is None:
            entry.reject = _reject(task.item, where, error, entry.examined.stamp)
        self.clips.extend(() if isinstance(result, MediaError) else result.clips)
        entry.tasks -= 1
        if not entry.tasks:
            del self.open[task.item.key]
            self._finish(task.item, entry.reject)
        return []

    def _unusable(self, item: Item, error: MediaError) -> None:
        """An item that gives nothing. Its old clips go if the file is another one now, not if it cannot be reached."""
        if error.reason not in TRANSIENT:
            self._drop(self.clips_of[item.key])
        self._finish(item, _reject(item, "probe", error, stamp_of(*item.files)))

    def _drop(self, clip_ids: list[str]) -> None:
        for clip_id in clip_ids:
            del self.owner[clip_id]
        self.stale.extend(clip_ids)

    def _finish(self, item: Item, reject: Reject | None) -> None:
        self.finished.append((item.key, reject))
        if reject:
            self.report.rejects.append(reject)
        self.done += 1
        if self.on_progress:
            rejects = len(self.report.rejects)
            self.on_progress(self.done, self.total, f"{rejects} rejects" if rejects else "")

    def commit(self) -> None:
        """One atomic append for the clips; what follows is idempotent, and an item without it is examined again."""
        stale, clips, finished = self.stale, self.clips, self.finished
        self.stale, self.clips, self.finished = [], [], []  # before, so that an interrupt cannot commit them twice
        self.library.remove(stale)
        self.library.append(clips)
        self.report.clips_added += len(clips)
        self.library.reject([reject for _, reject in finished if reject])
        self.library.forgive([key for key, reject in finished if reject is None and key in self.rejected])
        self.committed_at = time.monotonic()


def _reject(item: Item, stage: str, error: MediaError, stamp: Stamp) -> Reject:
    return Reject(item.key, item.source, stage, error.reason, error.detail, *stamp)
