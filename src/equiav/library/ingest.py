"""Videos into a library:  items → worker processes (probe, decode, log-mel, JPEG) → atomic appends.

Run again it adds only what is new or changed: a file of another size or modification time is examined, and decoded
again if its content's hash is another. Killed at any moment it loses at most the windows since the last commit, and
the next run does those. What gives no clip is recorded with stage and reason. Items are taken in the order of the
source, whoever is done first: so the clip that copies share is always the first one's.
"""

from __future__ import annotations

import os
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from equiav.config import Features
from equiav.errors import ConfigError, MediaError
from equiav.library.coverage import Coverage, cover, keep_record
from equiav.library.items import as_text, files_of, is_absent, is_folder
from equiav.library.manifests import Item, Listing, read_source
from equiav.library.records import STATUSES, Clip, KnownItem, Reject
from equiav.library.table import Library
from equiav.library.windows import Examined, Read, Stamp, Task, plan_windows, stamp_of, work
from equiav.machine import usable_cores
from equiav.media.sandbox import Sandbox

if TYPE_CHECKING:
    from equiav.library.cluster import RayPool

__all__ = ["IngestReport", "ingest", "plan_windows"]

COMMIT_CLIPS = 64  # as Arrow and as Lance they take twice their size once more
COMMIT_S = 15.0
TASK_WINDOWS = 8  # a long film is read in parts: they fit into memory, and all workers share them
TASK_LIMIT_S = 1800.0
# What may be different at the next try although the file is the same
TRANSIENT = frozenset({"missing", "unreadable", "changed", "crashed", "timeout"})


@dataclass
class IngestReport:
    """What an ingest did. `rejects` are the items of this source that gave no clip, now or in an earlier run."""

    files: int = 0
    ignored: int = 0  # files of the folder that no suffix tells to be media
    clips_added: int = 0
    clips_present: int = 0
    clips_relabelled: int = 0
    clips_dropped: int = 0  # of files that are gone, by `prune`
    statuses: dict[str, int] = field(default_factory=dict)  # status → clips added
    duplicates: int = 0  # clips whose content and window are in the library already, under another name
    rejects: list[Reject] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)  # of a list, per split


def ingest(
    source: Path | Listing,
    library_path: Path,
    features: Features,
    *,
    workers: int | None = None,
    ray: str | None = None,
    prune: bool = False,
    on_prune: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> IngestReport:
    """Ingest a folder, a file or a list into the library at `library_path`, which is made when missing.

    Args:
        source: a path, or what `equiav.library.manifests.read_source` made of one.
        library_path: folder of the library.
        features: feature settings; those of an existing library must be the same.
        workers: processes; default one per core.
        ray: address of a Ray cluster to read on, or "local" (see `library.cluster`); default processes of this machine.
        prune: drop what an earlier ingest of this source added and the source does not give any more.
        on_prune: called with (clips, items) before they are dropped.
        on_progress: called with (items done, items, note).

    Raises:
        ConfigError: nothing to ingest, or to prune although not one file of the source is there.
        LibraryError: a library with other features, or another ingest at work in it.
    """
    listing = source if isinstance(source, Listing) else read_source(source)
    library = Library.create(library_path, features)
    report = IngestReport(files=len({item.path for item in listing.items}), ignored=listing.ignored)
    with library.locked():
        run = _Run(library, report, listing, on_progress)
        gone = run.gone(listing) if prune else []
        todo = run.sort_out(listing.items)
        try:
            with _pool(workers, ray) as pool:
                run.read(todo, features, pool)
                if prune:  # only now: a renamed file has taken its clips over; a copy may have to give what was dropped
                    run.drop(gone, on_prune)
                    run.read([], features, pool)
        finally:
            # also when interrupted: what is read is kept
            run.commit()
        library.forget_old_versions()
    report.rejects.sort(key=lambda reject: reject.path)
    report.coverage = cover(listing.items, report.rejects) if listing.labelled else []
    kept = asdict(report) | {"rejects": len(report.rejects)}  # they are in their own table
    keep_record(library_path, listing.source, kept)
    return report


def _pool(workers: int | None, ray: str | None) -> Sandbox[Task, Examined | Read] | RayPool[Task, Examined | Read]:
    if ray is None:
        return Sandbox(work, workers or usable_cores(), TASK_LIMIT_S)
    from equiav.library.cluster import RayPool

    return RayPool(work, workers, TASK_LIMIT_S, ray)


@dataclass
class _Open:
    """An item that is being read."""

    item: Item
    examined: Examined
    wanted: list[str]  # clips to come
    tasks: int  # still to come back
    reject: Reject | None = None
    again: bool = False  # what it was a copy of is gone meanwhile


class _Run:
    """One ingest: what the library knows, what is being read, what waits for the next commit."""

    def __init__(
        self,
        library: Library,
        report: IngestReport,
        listing: Listing,
        on_progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.library, self.report, self.on_progress = library, report, on_progress
        self.origin, self.relabel, self.total = as_text(listing.source), listing.labelled, len(listing.items)
        self.listed = {item.key for item in listing.items}
        self.stamps: dict[str, Stamp] = {}  # of what is to be read, as it was before
        self.known, clips = library.known_items(), library.known_clips()
        self.rejected = {reject.item: reject for reject in library.rejects()}
        self.owner = {clip_id: item for clip_id, (item, _, _) in clips.items()}
        # labels and split, of each clip: a list may name single windows of a file
        self.said = {clip_id: (labels, split) for clip_id, (_, labels, split) in clips.items()}
        self.clips_of: dict[str, list[str]] = defaultdict(list)
        for clip_id, item in self.owner.items():
            self.clips_of[item].append(clip_id)
        self.open: dict[str, _Open] = {}
        self.clips: list[Clip] = []
        self.stale: list[str] = []
        self.renewed: dict[str, dict[str, Any]] = {}  # clip_id → its row for Library.update
        # clip_id → items that would have given it too, by their keys: of one clip there may be very many
        self.copies: dict[str, dict[str, Item]] = defaultdict(dict)
        self.todo: OrderedDict[str, Item] = OrderedDict()
        self.finished: list[tuple[str, Reject | None]] = []
        self.committed_at, self.done = time.monotonic(), 0

    def gone(self, listing: Listing) -> list[str]:
        """The items that this source gave and that are not listed any more, or whose file is gone.

        Raises:
            ConfigError: not one file of the source is there.
        """
        items = listing.items
        there = {item.key for item in items if not any(is_absent(path) for path in item.files)}
        if not there:
            raise ConfigError(
                f"{listing.source}: not one of its {len(items)} files can be found; is a drive missing? Not pruned"
            )
        # what cannot be looked into now, a folder or a tar, may hold them still
        shut = tuple(f"{item.source}{os.sep}" for item in items if is_folder(item.path))
        shut += tuple(item.source for item in items if item.members and item.fault and item.fault[0] in TRANSIENT)
        return [
            key
            for key, known in self.known.items()
            if known.origin == self.origin and key not in there and not known.source.startswith(shut)
        ]

    def drop(self, gone: list[str], on_prune: Callable[[int, int], None] | None) -> None:
        """Drop the clips of these items, and the rejects of this source that it does not list."""
        gone = [key for key in gone if self.clips_of[key]]
        clips = sum(len(self.clips_of[key]) for key in gone)
        if clips and on_prune:
            on_prune(clips, len(gone))
        rejected = [key for key, reject in self.rejected.items() if reject.origin == self.origin]
        unlisted = [key for key in rejected if key not in self.listed]
        for key in gone:
            self._drop(key, self.clips_of[key])
            del self.known[key]
        self.commit()
        self.library.forgive(unlisted)
        self.report.clips_dropped = clips

    def sort_out(self, items: list[Item]) -> list[Item]:
        """The items that are new, changed or unfinished; the rest goes into the report."""
        todo = []
        for item in items:
            stamp = stamp_of(*item.files)
            known, reject = self.known.get(item.key), self.rejected.get(item.key)
            refused = reject is not None and (reject.file_size, reject.file_mtime_ns) == stamp
            final = refused and reject is not None and reject.reason not in TRANSIENT
            if (
                known
                and (known.stamp, known.source) == (stamp, item.source)
                and (known.clips == known.windows or final)
            ):
                self.report.clips_present += known.clips
                self._renew(item, known, self.clips_of[item.key])
                if reject and not refused:  # it was away for a while
                    self.finished.append((item.key, None))
            elif not final:
                todo.append(item)
                self.stamps[item.key] = stamp
                continue
            if refused and reject:
                self.report.rejects.append(reject)
        self.done = len(items) - len(todo)
        return todo

    def _renew(self, item: Item, known: KnownItem, clip_ids: list[str]) -> None:
        """What is new about clips that need no decoding: labels, split, their file and its time."""
        _, changed = stamp_of(*item.files)
        row = {"source": item.source, "file_mtime_ns": changed}
        row |= {"item": item.key, "item_windows": known.windows, "origin": known.origin}
        for clip_id in clip_ids:
            self._update(clip_id, item, known, row)

    def _update(self, clip_id: str, item: Item, known: KnownItem, row: dict[str, Any]) -> None:
        before = self.said.get(clip_id)
        if before is None:  # it was read in this run
            return
        said = (item.labels, item.split) if self.relabel else before
        stays = (row["source"], row["file_mtime_ns"], row["origin"]) == (known.source, known.stamp[1], known.origin)
        if said == before and stays:
            return
        self.renewed[clip_id] = {"clip_id": clip_id, "labels": said[0], "split": said[1], **row}
        self.said[clip_id] = said
        self.report.clips_relabelled += said != before

    def _share(self, item: Item, clip_id: str, owner: str, windows: int) -> bool:
        """A clip of a content that another item gave: whether it is this item's now, the other's file being gone.

        If not, a list still says its labels and split, unless it names the other item too.
        """
        known = self.known.get(owner)
        if known is None or owner in self.listed:
            return False
        gone = not any(files_of(known.source))
        row = {"source": known.source, "file_mtime_ns": known.stamp[1]}
        row |= {"item": owner, "item_windows": known.windows, "origin": known.origin}
        if gone:
            row |= {"source": item.source, "file_mtime_ns": stamp_of(*item.files)[1]}
            row |= {"item": item.key, "item_windows": windows, "origin": self.origin}
            self.clips_of[owner].remove(clip_id)
            self.clips_of[item.key].append(clip_id)
            self.owner[clip_id] = item.key
        self._update(clip_id, item, known, row)
        return gone

    def read(
        self,
        todo: list[Item],
        features: Features,
        pool: Sandbox[Task, Examined | Read] | RayPool[Task, Examined | Read],
    ) -> None:
        """Examine all items and read their windows, started ones first."""
        tasks = deque[Task]()
        for item in todo:
            if item.fault:  # known since it was listed: no process is asked
                self._unusable(item, MediaError(*item.fault))
            else:
                self.todo[item.key] = item
        order, early = deque[str](), dict[str, tuple[Task, Examined | MediaError]]()
        while self.todo or tasks or pool.busy:
            while (self.todo or tasks) and pool.has_room():
                if tasks:
                    pool.submit(tasks.popleft())
                    continue
                key, item = self.todo.popitem(last=False)
                order.append(key)
                pool.submit(Task(item, features, origin=self.origin))
            for task, result in pool.wait():
                if task.examined is None:
                    early[task.item.key] = task, cast("Examined | MediaError", result)
                else:
                    tasks.extend(self._windows_read(task, cast("Read | MediaError", result)))
            while order and order[0] in early:
                tasks.extend(self._examined(*early.pop(order.popleft())))
            if len(self.clips) >= COMMIT_CLIPS or time.monotonic() - self.committed_at > COMMIT_S:
                self.commit()

    def _examined(self, task: Task, found: Examined | MediaError) -> list[Task]:
        """Tasks for the windows of an item that the library does not have."""
        item, wanted, present = task.item, [], []
        if isinstance(found, MediaError):
            self._unusable(item, found)
            return []
        if item.key in self.open:  # it was handed in twice
            self.open[item.key].again, self.done = True, self.done + 1
            return []
        ids = {window.clip_id for window in found.windows}
        self._drop(item.key, [clip for clip in self.clips_of[item.key] if clip not in ids])  # of another content
        for window in found.windows:
            owner = self.owner.setdefault(window.clip_id, item.key)
            if owner != item.key and self._share(item, window.clip_id, owner, found.count):
                self.report.clips_present += 1
            elif owner != item.key:
                copies = self.copies[window.clip_id]
                self.report.duplicates += item.key not in copies
                copies[item.key] = item
            elif window.clip_id in self.clips_of[item.key]:
                self.report.clips_present += 1
                present.append(window.clip_id)
            else:
                wanted.append(window)
        if item.key in self.known:
            self._renew(item, self.known[item.key], present)
        if not wanted:
            self._finish(item, None)
            return []
        parts = [tuple(wanted[i : i + TASK_WINDOWS]) for i in range(0, len(wanted), TASK_WINDOWS)]
        self.open[item.key] = _Open(item, found, [window.clip_id for window in wanted], len(parts))
        return [replace(task, examined=replace(found, windows=part)) for part in parts]

    def _windows_read(self, task: Task, result: Read | MediaError) -> list[Task]:
        """Take in the clips of a task; one that killed its process is tried window by window."""
        entry, examined = self.open[task.item.key], cast("Examined", task.examined)
        if isinstance(result, MediaError) and len(examined.windows) > 1:
            entry.tasks += len(examined.windows) - 1
            return [replace(task, examined=replace(examined, windows=(window,))) for window in examined.windows]
        error, where = (result, "decode") if isinstance(result, MediaError) else (result.error, result.where)
        if error is not None and entry.reject is None:
            entry.reject = self._reject(task.item, where, error, examined.stamp)
        clips = () if isinstance(result, MediaError) else result.clips
        self.clips.extend(clips)
        self.clips_of[task.item.key].extend(clip.clip_id for clip in clips)
        entry.tasks -= 1
        if not entry.tasks:
            self._all_read(self.open.pop(task.item.key))
        return []

    def _all_read(self, entry: _Open) -> None:
        item, got = entry.item, set(self.clips_of[entry.item.key])
        self._finish(item, entry.reject)
        # a copy of what could not be read is as bad, and is to be recorded too
        self._release([clip_id for clip_id in entry.wanted if clip_id not in got])
        if entry.again:
            self._read_again(item)

    def _unusable(self, item: Item, error: MediaError) -> None:
        """An item that gives nothing. Its old clips go if the file is another one now, not if it cannot be reached."""
        if error.reason not in TRANSIENT:
            self._drop(item.key, self.clips_of[item.key])
        self._finish(item, self._reject(item, "probe", error, self.stamps[item.key]))

    def _reject(self, item: Item, stage: str, error: MediaError, stamp: Stamp) -> Reject:
        return Reject(item.key, item.source, stage, error.reason, error.detail, *stamp, origin=self.origin)

    def _drop(self, key: str, clip_ids: list[str]) -> None:
        gone = set(clip_ids)
        self.clips_of[key] = [clip_id for clip_id in self.clips_of[key] if clip_id not in gone]
        self.stale.extend(clip_ids)
        for clip_id in clip_ids:
            self.said.pop(clip_id, None)
        self._release(clip_ids)

    def _release(self, clip_ids: list[str]) -> None:
        """These clips are nobody's: a copy, taken for a duplicate before, now gives them."""
        for clip_id in clip_ids:
            del self.owner[clip_id]
            for key, item in self.copies.pop(clip_id, {}).items():
                self.report.duplicates -= 1
                if key in self.open:
                    self.open[key].again = True
                elif key not in self.todo:
                    self._read_again(item)

    def _read_again(self, item: Item) -> None:
        self.done -= 1
        self.todo[item.key] = item

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
        renewed, self.renewed = self.renewed, {}
        self.stale, self.clips, self.finished = [], [], []  # before, so that an interrupt cannot commit them twice
        self.library.remove(stale)
        self.library.append(clips)
        self.library.update(list(renewed.values()))
        self.report.clips_added += len(clips)
        added = Counter(self.report.statuses) + Counter(clip.status for clip in clips)
        self.report.statuses = {status: added[status] for status in STATUSES if added[status]}
        self.library.reject([reject for _, reject in finished if reject])
        self.library.forgive([key for key, reject in finished if reject is None and key in self.rejected])
        self.library.tidy()
        self.committed_at = time.monotonic()
