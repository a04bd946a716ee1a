"""Videos into a library:  items → worker processes (probe, decode, log-mel, JPEG) → atomic appends.

Run again it adds only what is new or changed. Killed at any moment it loses at most the windows since the last commit,
and the next run reads those. What gives no clip is recorded with stage and reason. `library.state` has the laws.
"""

from __future__ import annotations

import os
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, cast

from equiav.config import Features
from equiav.errors import ConfigError, MediaError
from equiav.library.coverage import IngestReport, cover, keep_record, tails_of
from equiav.library.fetch import Fetcher
from equiav.library.items import as_text, is_absent, is_folder
from equiav.library.manifests import Item, Listing, read_source
from equiav.library.places import BucketPath, Place, place_of
from equiav.library.records import STATUSES, TRANSIENT, Reject
from equiav.library.state import NOT_LISTED, IngestState, ItemState, Reading, Uncommitted
from equiav.library.table import Library
from equiav.library.windows import NO_FILE, Examined, ItemTask, Read, Stamp, stamp_of, work
from equiav.machine import usable_cores
from equiav.media.sandbox import Sandbox
from equiav.words import counted

if TYPE_CHECKING:
    from equiav.library.cluster import RayPool

    Pool = Sandbox[ItemTask, Examined | Read] | RayPool[ItemTask, Examined | Read]

__all__ = ["IngestReport", "ingest"]

COMMIT_CLIPS = 64  # a commit needs two more copies of them, for Arrow and for Lance
COMMIT_S = 15.0
TASK_WINDOWS = 8  # a long film is read in parts: each fits into memory, and all workers share them
TASK_LIMIT_S = 1800.0

Progress = Callable[[int, int, str], None]


def ingest(
    source: str | Place | Listing,
    library_path: str | Place,
    features: Features,
    *,
    workers: int | None = None,
    ray: str | None = None,
    prune: bool = False,
    on_prune: Callable[[int, int], None] | None = None,
    on_progress: Progress | None = None,
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
    listing = source if isinstance(source, Listing) else read_source(place_of(source))
    if ray and any(isinstance(item.path, BucketPath) for item in listing.items):
        raise ConfigError(f"{listing.source}: with --ray mount the bucket on every machine, and give its folder")
    library = Library.create(library_path, features)
    report = IngestReport(len({item.path for item in listing.items}), listing.ignored, dict(listing.system_folders))
    with library.locked():
        _take_over(library, listing)
        run = _Run(library, report, listing, on_progress)
        gone = run.gone(listing) if prune else []
        todo = run.sort_out(listing.items)
        try:
            with _pool(workers, ray) as pool, run.fetcher:
                run.read(todo, features, pool)
            if prune:
                run.prune(gone, on_prune)
            run.commit()
            # only now, when all files have been examined, is it known which clips have no file and which labels hold
            library.remove(run.state.remove_unowned())
            library.update(run.state.relabelled())
            report.held_out = run.state.held_out() if listing.hold_out else 0
        finally:
            # also when interrupted: what is read is kept
            run.commit()
        library.forget_old_versions()
    listed = {key: item for key, item in run.state.items.items() if item.place != NOT_LISTED}
    reached = (item for item in listed.values() if not item.unreachable)
    report.clips_present = sum(not clip.added for item in reached for clip in item.clips.values())
    report.rejects = sorted((one.reject for one in listed.values() if one.reject), key=lambda it: (it.path, it.item))
    report.copies = run.state.copies()
    report.tails = tails_of((tail_s for key, tail_s in library.tails().items() if key in listed), features)
    report.coverage = cover(listing.items, report.rejects) if listing.labelled else []
    keep_record(library.path, listing.source, asdict(report) | {"rejects": len(report.rejects)})  # those have a table
    return report


def _pool(workers: int | None, ray: str | None) -> Pool:
    if ray is None:
        return Sandbox(work, workers or usable_cores(), TASK_LIMIT_S)
    from equiav.library.cluster import RayPool

    return RayPool(work, workers, TASK_LIMIT_S, ray)


def _take_over(library: Library, listing: Listing) -> None:
    """What an older equiav stored under former keys of this source's items gets their keys of today.

    Rows change in one commit. After a kill before it, or between it and the rejects, the next run does the rest.
    """
    former = {old: item.key for item in listing.items for old in item.former_keys}
    for item in listing.items if former else []:
        former.pop(item.key, None)  # a key that is listed itself is no former one
    if not former:
        return
    origin = as_text(listing.source)
    rows = library.clips(columns=["clip_id", "item", "origin"], statuses=STATUSES).to_pylist()
    renamed = [row for row in rows if row["origin"] == origin and row["item"] in former]
    library.update([{"clip_id": row["clip_id"], "item": former[row["item"]]} for row in renamed])
    rejects = {reject.item: reject for reject in library.rejects()}
    old = [reject for reject in rejects.values() if reject.origin == origin and reject.item in former]
    new = {former[reject.item]: replace(reject, item=former[reject.item]) for reject in old}
    library.reject([reject for key, reject in new.items() if key not in rejects])
    library.drop_rejects([reject.item for reject in old])


class _Run:
    """One ingest: what is to be read and what is being read, in the order of the source, and when it is written."""

    def __init__(self, library: Library, report: IngestReport, listing: Listing, on_progress: Progress | None) -> None:
        self.library, self.report, self.on_progress = library, report, on_progress
        self.state = IngestState(library, report, listing)
        # an item is in one of these, or its windows are being read, or it is done for now
        self.todo: OrderedDict[str, Item] = OrderedDict()
        self.examining: OrderedDict[str, tuple[ItemTask, Examined | MediaError] | None] = OrderedDict()
        self.total, self.done, self.bad = len(listing.items), 0, 0
        self.fetcher = Fetcher()
        self.committed_at = time.monotonic()

    def gone(self, listing: Listing) -> list[ItemState]:
        """The items that this source gave and that are not listed any more, or whose file is gone.

        Raises:
            ConfigError: not one file of the source is there.
        """
        items = listing.items
        there = {item.key for item in items if not any(is_absent(path) for path in item.files)}
        if not there:
            raise ConfigError(
                f"{listing.source}: none of its {counted(len(items), 'file')} is there; is a drive missing? Not pruned"
            )
        # a folder or a tar that cannot be read now may still hold them
        closed = tuple(f"{item.source}{os.sep}" for item in items if is_folder(item.path))
        closed += tuple(item.source for item in items if item.members and item.fault and item.fault[0] in TRANSIENT)
        return [
            item
            for key, item in self.state.items.items()
            if (known := item.before) and known.origin == self.state.origin
            if key not in there and not known.source.startswith(closed)
        ]

    def prune(self, gone: list[ItemState], on_prune: Callable[[int, int], None] | None) -> None:
        """Drop the clips of these items that no copy gives, and the rejects of this source that it does not list."""
        lost = [sum(not clip.copies for clip in item.clips.values()) for item in gone]
        self.report.clips_dropped = sum(lost)
        if self.report.clips_dropped and on_prune:
            on_prune(self.report.clips_dropped, sum(map(bool, lost)))
        for item in gone:
            self.state.release(item, list(item.clips))
        for key, item in self.state.items.items():
            if item.place == NOT_LISTED and item.recorded and item.recorded.origin == self.state.origin:
                self.state.uncommitted.items[key] = item

    def sort_out(self, items: list[Item]) -> list[Item]:
        """The items that are new, changed or unfinished; the rest goes into the report."""
        todo = []
        parts = (item.before for item in self.state.items.values())
        sizes = Counter(known.stamp[0] for known in parts if known and known.clips != known.windows)
        for item in items:
            key = item.key
            state = self.state.items[key]
            # what could not even be listed is tried again, whatever its file looks like
            state.stamp = NO_FILE if item.fault else stamp_of(*item.files)
            known, reject, size = state.before, state.recorded, state.stamp[0]
            # a file of the same size and modification time is not opened
            same = state.stamp != NO_FILE and (not known or (known.stamp, known.source) == (state.stamp, item.source))
            same = same and self.state.knows_contents(state)
            if same and known and known.clips == known.windows:  # an item is done when all its windows are there
                if reject:  # it could not be reached for a while
                    self.state.uncommitted.items[key] = state
            # an item of the size of another that was read in part may be its copy: then no reject of it is final
            elif same and reject and reject.is_final(state.stamp, alone=sizes[size] == (known is not None)):
                self._set_reject(state, reject)
            else:  # also a copy of a stored file: that it is one shows when it is hashed
                todo.append(item)
                continue
            self.state.name(item, state.clips)
        self.done = len(items) - len(todo)
        return todo

    def read(self, todo: list[Item], features: Features, pool: Pool) -> None:
        """Examine all items and read their windows; items that were begun come first."""
        tasks = deque[ItemTask]()
        for item in todo:
            if item.fault:  # known since it was listed: no process is asked
                self._unusable(item, MediaError(*item.fault))
            else:
                self.todo[item.key] = item
        while self.todo or tasks or pool.busy:
            while (self.todo or tasks) and pool.has_room():
                if tasks:
                    pool.submit(tasks.popleft())
                    continue
                key, item = self.todo.popitem(last=False)
                self.examining[key] = None
                item = self.fetcher.take(item, self.todo.values())
                pool.submit(ItemTask(item, features, origin=self.state.origin))
            for task, result in pool.wait():
                if task.examined is None:
                    self.examining[task.item.key] = task, cast("Examined | MediaError", result)
                else:
                    tasks.extend(self._windows_read(task, cast("Read | MediaError", result)))
            # in the order of the source, not in that of the results: of copies the first one owns the clip
            while self.examining and (first := next(iter(self.examining.values()))):
                self.examining.popitem(last=False)
                tasks.extend(self._examined(*first))
            waiting = len(self.state.uncommitted.clips)
            if waiting >= COMMIT_CLIPS or time.monotonic() - self.committed_at > COMMIT_S:
                self.commit()

    def _examined(self, task: ItemTask, found: Examined | MediaError) -> list[ItemTask]:
        """Tasks for the windows of an item that the library does not have."""
        item = task.item
        if isinstance(found, MediaError):
            self._unusable(item, found)
            return []
        wanted = self.state.examined(item, found)
        if not wanted:
            self._finish(item, None)
            return []
        parts = [tuple(wanted[i : i + TASK_WINDOWS]) for i in range(0, len(wanted), TASK_WINDOWS)]
        self.state.items[item.key].reading = Reading(item, [window.clip_id for window in wanted], len(parts))
        return [replace(task, examined=replace(found, windows=part)) for part in parts]

    def _windows_read(self, task: ItemTask, result: Read | MediaError) -> list[ItemTask]:
        """Keep the clips of a task; one whose process died is tried again window by window."""
        state, examined = self.state.items[task.item.key], cast("Examined", task.examined)
        reading = cast("Reading", state.reading)
        if isinstance(result, MediaError):
            if len(examined.windows) > 1:
                reading.tasks += len(examined.windows) - 1
                return [replace(task, examined=replace(examined, windows=(window,))) for window in examined.windows]
            result = Read((), result, "decode")
        if result.error is not None and reading.reject is None:
            reading.reject = self._reject(task.item, result.where, result.error, examined.stamp)
        for clip in result.clips:
            self.state.add(clip)
        reading.tasks -= 1
        if not reading.tasks:
            state.reading = None
            self._all_read(reading)
        return []

    def _all_read(self, reading: Reading) -> None:
        self._finish(reading.item, reading.reject)
        for item in self.state.not_read(reading):
            if (copy := self.state.items[item.key].reading) is not None:
                copy.again = True
            elif item.key not in self.todo and item.key not in self.examining:
                self._read_again(item)
        if reading.again:
            self._read_again(reading.item)

    def _read_again(self, item: Item) -> None:
        self.done -= 1
        self.todo[item.key] = item

    def _unusable(self, item: Item, error: MediaError) -> None:
        """An item that gives no clips. Its old ones go if its file has changed, and stay if it cannot be reached."""
        state = self.state.items[item.key]
        if error.reason in TRANSIENT:
            state.unreachable = item
        else:
            self.state.release(state, list(state.clips))
        self._finish(item, self._reject(item, "probe", error, state.stamp))

    def _reject(self, item: Item, stage: str, error: MediaError, stamp: Stamp) -> Reject:
        return Reject(item.key, item.source, stage, error.reason, error.detail, *stamp, origin=self.state.origin)

    def _set_reject(self, state: ItemState, reject: Reject | None) -> None:
        self.bad += (reject is not None) - (state.reject is not None)
        state.reject = reject

    def _finish(self, item: Item, reject: Reject | None) -> None:
        key = item.key
        self.fetcher.release(key)
        state = self.state.items[key]
        self.state.uncommitted.items[key] = state
        self._set_reject(state, reject)
        self.done += 1
        if self.on_progress:
            self.on_progress(self.done, self.total, counted(self.bad, "reject") if self.bad else "")

    def commit(self) -> None:
        """One atomic append for the clips; what follows is idempotent, and an item without it is examined again."""
        # taken out before, so that an interrupt cannot commit it twice
        now, self.state.uncommitted = self.state.uncommitted, Uncommitted()
        self.library.append(now.clips)
        self.library.update(list(now.rows.values()))
        self.report.clips_added += len(now.clips)
        added = Counter(self.report.statuses) + Counter(clip.status for clip in now.clips)
        self.report.statuses = {status: added[status] for status in STATUSES if added[status]}
        self.library.reject([item.reject for item in now.items.values() if item.reject])
        self.library.drop_rejects([key for key, item in now.items.items() if item.recorded and not item.reject])
        for item in now.items.values():
            item.recorded = item.reject
        self.library.tidy()
        self.committed_at = time.monotonic()
