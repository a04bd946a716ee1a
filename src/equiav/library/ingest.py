"""Videos into a library:  items → worker processes (probe, decode, log-mel, JPEG) → atomic appends.

Run again it adds only what is new or changed: a file of another size or modification time is examined, and decoded
again if its content's hash is another. Killed at any moment it loses at most the windows since the last commit, and
the next run does those. What gives no clip is recorded with stage and reason. Items are taken in the order of the
source, whoever is done first: so the clip that copies share is the first one's. A row changes hands when its item does
not give it any more and another does; it goes when all have been looked at.
"""

from __future__ import annotations

import os
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from equiav.config import Features
from equiav.errors import ConfigError, MediaError
from equiav.library.coverage import IngestReport, cover, keep_record, tails_of
from equiav.library.items import as_text, files_of, is_absent, is_folder
from equiav.library.manifests import Item, Listing, read_source
from equiav.library.records import STATUSES, TRANSIENT, Clip, Reject
from equiav.library.table import Library
from equiav.library.takeover import take_over
from equiav.library.windows import NO_FILE, Examined, Read, Stamp, Task, stamp_of, work
from equiav.machine import usable_cores
from equiav.media.sandbox import Sandbox
from equiav.words import counted

if TYPE_CHECKING:
    from equiav.library.cluster import RayPool

    Pool = Sandbox[Task, Examined | Read] | RayPool[Task, Examined | Read]

__all__ = ["IngestReport", "ingest"]

COMMIT_CLIPS = 64  # as Arrow and as Lance they take twice their size once more
COMMIT_S = 15.0
TASK_WINDOWS = 8  # a long film is read in parts: they fit into memory, and all workers share them
TASK_LIMIT_S = 1800.0

Progress = Callable[[int, int, str], None]


def ingest(
    source: Path | Listing,
    library_path: Path,
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
    listing = source if isinstance(source, Listing) else read_source(source)
    library = Library.create(library_path, features)
    report = IngestReport(len({item.path for item in listing.items}), listing.ignored, dict(listing.system_folders))
    with library.locked():
        take_over(library, listing)
        run = _Run(library, report, listing, on_progress)
        gone = run.gone(listing) if prune else []
        todo = run.sort_out(listing.items)
        try:
            with _pool(workers, ray) as pool:
                run.read(todo, features, pool)
            if prune:
                run.drop(gone, on_prune)
            run.clear()
            run.relabel()
        finally:
            # also when interrupted: what is read is kept
            run.commit()
        library.forget_old_versions()
    report.clips_present = sum(len(run.clips_of[key] - run.added) for key in run.place if key not in run.away)
    report.rejects = sorted(run.bad.values(), key=lambda reject: (reject.path, reject.item))
    report.tails = tails_of((tail_s for key, tail_s in library.tails().items() if key in run.place), features)
    report.coverage = cover(listing.items, report.rejects) if listing.labelled else []
    keep_record(library_path, listing.source, asdict(report) | {"rejects": len(report.rejects)})  # those have a table
    return report


def _pool(workers: int | None, ray: str | None) -> Pool:
    if ray is None:
        return Sandbox(work, workers or usable_cores(), TASK_LIMIT_S)
    from equiav.library.cluster import RayPool

    return RayPool(work, workers, TASK_LIMIT_S, ray)


@dataclass
class _Open:
    """An item that is being read."""

    item: Item
    wanted: list[str]  # clips to come
    tasks: int  # still to come back
    reject: Reject | None = None
    again: bool = False  # what it was a copy of is gone meanwhile


class _Run:
    """One ingest: what the library knows, what is being read, what waits for the next commit."""

    def __init__(self, library: Library, report: IngestReport, listing: Listing, on_progress: Progress | None) -> None:
        self.library, self.report, self.on_progress = library, report, on_progress
        self.origin, self.labelled, self.total = as_text(listing.source), listing.labelled, len(listing.items)
        self.place = {item.key: place for place, item in enumerate(listing.items)}
        self.stamps: dict[str, Stamp] = {}  # of what is to be read, as it was before
        self.known, clips = library.known_items(), library.known_clips()
        self.rejected = {reject.item: reject for reject in library.rejects()}
        self.owner = {clip_id: item for clip_id, (item, _, _) in clips.items()}
        # labels and split of each row: a list may name single windows of a file
        self.said = {clip_id: (labels, split) for clip_id, (_, labels, split) in clips.items()}
        # clip_id → the first item of the list that names it, and its place
        self.voice: dict[str, tuple[int, Item]] = {}
        self.away: dict[str, Item] = {}  # they cannot be read now, and keep their clips
        self.clips_of: dict[str, set[str]] = defaultdict(set)
        for clip_id, item in self.owner.items():
            self.clips_of[item].add(clip_id)
        self.added, self.orphans = set[str](), set[str]()  # rows that are new; that nobody gives any more, so far
        self.open, self.clips = dict[str, _Open](), list[Clip]()
        self.renewed: dict[str, dict[str, Any]] = {}  # clip_id → its row for Library.update
        # clip_id → items that would give it too, by their keys: of one clip there may be very many
        self.copies: dict[str, dict[str, tuple[Item, Examined]]] = defaultdict(dict)
        self.todo: OrderedDict[str, Item] = OrderedDict()
        self.finished: dict[str, Reject | None] = {}  # since the last commit
        self.bad: dict[str, Reject] = {}
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
                f"{listing.source}: none of its {counted(len(items), 'file')} is there; is a drive missing? Not pruned"
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
        """Drop the clips of these items that no copy gives, and the rejects of this source that it does not list."""
        lost = [[clip_id for clip_id in self.clips_of[key] if not self.copies.get(clip_id)] for key in gone]
        clips = sum(map(len, lost))
        if clips and on_prune:
            on_prune(clips, sum(map(bool, lost)))
        for key in gone:
            self._drop(key, set(self.clips_of[key]))
        rejected = [key for key, reject in self.rejected.items() if reject.origin == self.origin]
        self.finished |= {key: None for key in rejected if key not in self.place}
        self.report.clips_dropped = clips

    def clear(self) -> None:
        """Remove the rows that nobody gives: all who might have been looked at."""
        self.commit()
        self.library.remove(sorted(self.orphans))
        for clip_id in self.orphans:
            del self.said[clip_id]

    def sort_out(self, items: list[Item]) -> list[Item]:
        """The items that are new, changed or unfinished; the rest goes into the report."""
        todo = []
        halves = Counter(known.stamp[0] for known in self.known.values() if known.clips != known.windows)
        for item in items:
            key = item.key
            # what could not even be listed is tried again, whatever its file looks like
            stamp = NO_FILE if item.fault else stamp_of(*item.files)
            known, reject = self.known.get(key), self.rejected.get(key)
            same = stamp != NO_FILE and (known is None or (known.stamp, known.source) == (stamp, item.source))
            if same and known and known.clips == known.windows:
                if reject:  # it was away for a while
                    self.finished[key] = None
            # one of the size of another half item may be its copy, whose clips are this one's too
            elif same and reject and reject.is_final(stamp, alone=halves[stamp[0]] == (known is not None)):
                self.bad[key] = reject
            else:
                todo.append(item)
                self.stamps[key] = stamp
                continue
            self._say(item, self.clips_of[key])
        self.done = len(items) - len(todo)
        return todo

    def _say(self, item: Item, clip_ids: Iterable[str]) -> None:
        """A list says what labels and split these clips have: the first of its items that names a clip does."""
        if self.labelled:
            voice = self.place[item.key], item
            for clip_id in clip_ids:
                if voice[0] < self.voice.get(clip_id, (self.total,))[0]:
                    self.voice[clip_id] = voice

    def _give(self, clip_id: str, item: Item, found: Examined, origin: str) -> None:
        """The row of a clip is this item's from now on: nothing is decoded anew."""
        self.clips_of[self.owner.get(clip_id, item.key)].discard(clip_id)
        self.orphans.discard(clip_id)
        self.owner[clip_id] = item.key
        self.clips_of[item.key].add(clip_id)
        row = {"clip_id": clip_id, "item": item.key, "source": item.source, "origin": origin}
        row |= {"item_windows": found.count, "item_tail_s": found.tail_s}
        self.renewed[clip_id] = row | dict(zip(("file_size", "file_mtime_ns"), found.stamp, strict=True))

    def _is_gone(self, owner: str) -> bool:
        """Whether this source does not list an item that gave clips, and its file is away."""
        known = self.known.get(owner)
        return known is not None and owner not in self.place and not any(files_of(known.source))

    def read(self, todo: list[Item], features: Features, pool: Pool) -> None:
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
        item, wanted = task.item, []
        key = item.key
        if isinstance(found, MediaError):
            self._unusable(item, found)
            return []
        if key in self.open:  # it was handed in twice
            self.open[key].again, self.done = True, self.done + 1
            return []
        ids = {window.clip_id for window in found.windows}
        self._drop(key, self.clips_of[key] - ids)  # of another content
        self._say(item, ids)
        known = self.known.get(key)
        moved = known is not None and (known.stamp, known.source) != (found.stamp, item.source)
        for window in found.windows:
            clip_id = window.clip_id
            owner = self.owner.setdefault(clip_id, key)
            if clip_id in self.orphans or (owner != key and self._is_gone(owner)):
                self._give(clip_id, item, found, self.origin)
            elif owner != key:
                self.report.duplicates += key not in self.copies[clip_id]
                self.copies[clip_id][key] = item, found
            elif clip_id not in self.clips_of[key]:
                wanted.append(window)
            elif known and moved:
                self._give(clip_id, item, found, known.origin)
        if not wanted:
            self._finish(item, None)
            return []
        parts = [tuple(wanted[i : i + TASK_WINDOWS]) for i in range(0, len(wanted), TASK_WINDOWS)]
        self.open[key] = _Open(item, [window.clip_id for window in wanted], len(parts))
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
        self.clips += clips
        ids = {clip.clip_id for clip in clips}
        self.clips_of[task.item.key] |= ids
        self.added |= ids
        self.said |= {clip.clip_id: (tuple(clip.labels), clip.split) for clip in clips}
        entry.tasks -= 1
        if not entry.tasks:
            self._all_read(self.open.pop(task.item.key))
        return []

    def _all_read(self, entry: _Open) -> None:
        self._finish(entry.item, entry.reject)
        # a copy of what could not be read is as bad, and is to be recorded too
        for clip_id in set(entry.wanted) - self.clips_of[entry.item.key]:
            del self.owner[clip_id]
            for key, (item, _) in self.copies.pop(clip_id, {}).items():
                self.report.duplicates -= 1
                if key in self.open:
                    self.open[key].again = True
                elif key not in self.todo:
                    self._read_again(item)
        if entry.again:
            self._read_again(entry.item)

    def _unusable(self, item: Item, error: MediaError) -> None:
        """An item that gives nothing. Its old clips go if the file is another one now, not if it cannot be reached."""
        if error.reason in TRANSIENT:
            self.away[item.key] = item
        else:
            self._drop(item.key, set(self.clips_of[item.key]))
        self._finish(item, self._reject(item, "probe", error, self.stamps[item.key]))

    def _reject(self, item: Item, stage: str, error: MediaError, stamp: Stamp) -> Reject:
        return Reject(item.key, item.source, stage, error.reason, error.detail, *stamp, origin=self.origin)

    def _drop(self, key: str, clip_ids: set[str]) -> None:
        """An item does not give these clips any more; a copy does, if there is one."""
        self.clips_of[key] -= clip_ids
        for clip_id in clip_ids:
            del self.owner[clip_id]
            copies = self.copies.get(clip_id)
            if not copies:
                self.orphans.add(clip_id)
                continue
            item, found = copies.pop(next(iter(copies)))
            self.report.duplicates -= 1
            self._give(clip_id, item, found, self.origin)

    def _read_again(self, item: Item) -> None:
        self.done -= 1
        self.todo[item.key] = item

    def _finish(self, item: Item, reject: Reject | None) -> None:
        self.finished[item.key] = reject
        self.bad.pop(item.key, None)
        if reject:
            self.bad[item.key] = reject
        self.done += 1
        if self.on_progress:
            self.on_progress(self.done, self.total, counted(len(self.bad), "reject") if self.bad else "")

    def commit(self) -> None:
        """One atomic append for the clips; what follows is idempotent, and an item without it is examined again."""
        clips, renewed, finished = self.clips, self.renewed, self.finished
        self.clips, self.renewed, self.finished = [], {}, {}  # before, so that an interrupt cannot commit them twice
        self.library.append(clips)
        self.library.update(list(renewed.values()))
        self.report.clips_added += len(clips)
        added = Counter(self.report.statuses) + Counter(clip.status for clip in clips)
        self.report.statuses = {status: added[status] for status in STATUSES if added[status]}
        rejects = {key: reject for key, reject in finished.items() if reject}
        forgiven = [key for key in finished if key not in rejects and key in self.rejected]
        self.library.reject(list(rejects.values()))
        self.library.forgive(forgiven)
        self.rejected |= rejects
        for key in forgiven:
            del self.rejected[key]
        self.library.tidy()
        self.committed_at = time.monotonic()

    def relabel(self) -> None:
        """Give all clips that a list names, also those of files that are away, its labels and splits.

        Only when all have been looked at: the first of its items that names a clip may come late.
        """
        for key, item in self.away.items():
            self._say(item, self.clips_of[key])
        new = []
        for clip_id, (_, item) in self.voice.items():
            if self.said.get(clip_id, (item.labels, item.split)) != (item.labels, item.split):
                new.append({"clip_id": clip_id, "labels": item.labels, "split": item.split})
                self.report.clips_relabelled += clip_id not in self.added
        self.library.update(new)
