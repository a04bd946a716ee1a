"""Random histories of a folder and a list, ingested again and again, with failures, keep the laws of docs/data.md.

A history is a list of plain tuples: what fails is shrunk to a short one, which belongs into test_ingest_again.py.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import lance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equiav.errors import ConfigError, MediaError
from equiav.library import ingest as ingest_module
from equiav.library.ingest import ingest
from equiav.library.items import Item
from equiav.library.manifests import read_source
from equiav.library.table import Library
from equiav.library.windows import ItemTask, examine, stamp_of, work
from in_process import InProcess
from samples import TINY, pictures, tone, write_media

PATHS = ("a.mp4", "b.mp4", "sub/c.mp4")
CONTENTS = ("tone", "noise", "cut", "text")
PARTS = ("", "0,0.655", "0.655,1.31", "0.3,0.9")  # start_s,end_s: the whole, its windows, and one across
WRITES = ("append", "update", "reject", "drop_rejects", "remove")
FILE = ("file_size", "file_mtime_ns", "item_windows", "item_tail_s")
ROW = ("item", "source", "labels", "split", "status", "origin", *FILE)

path, content, part = st.sampled_from(PATHS), st.sampled_from(CONTENTS), st.sampled_from(PARTS)
line = st.tuples(
    path, part, st.sampled_from(("", "dog", "cat")), st.sampled_from(("train", "test")), st.sampled_from("  12")
)
failure = st.none() | st.tuples(st.integers(1, 12), st.booleans())  # at which write, and whether it was done
look = st.tuples(st.just("ingest"), st.sampled_from(("folder", "list")), st.booleans(), st.integers(0, 3), failure)
step = st.one_of(
    st.tuples(st.just("put"), path, content),
    st.tuples(st.just("copy"), path, path),
    st.tuples(st.just("move"), path, path),
    st.tuples(st.just("swap"), path, path),
    st.tuples(st.sampled_from(("touch", "delete", "shut")), path),
    st.tuples(st.just("list"), st.lists(line, min_size=1, max_size=4)),
    look,
    look,
)
start = st.tuples(
    st.tuples(st.just("put"), path, content), st.tuples(st.just("list"), st.lists(line, min_size=1, max_size=4))
)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Two good videos; one whose first windows are good and the last are not; and a text."""
    folder = tmp_path_factory.mktemp("contents")
    files = {name: folder / f"{name}.mp4" for name in CONTENTS}
    write_media(files["tone"], frames=pictures(14), sound=tone(1.4))
    hiss = np.random.default_rng(0).normal(0, 0.1, 41_600).astype(np.float32)
    write_media(files["noise"], frames=pictures(14, seed=1), sound=hiss[:22_400])
    write_media(files["cut"], frames=pictures(26, seed=2), sound=hiss, movflags="+faststart")
    files["cut"].write_bytes(files["cut"].read_bytes()[: files["cut"].stat().st_size * 3 // 4])
    files["text"].write_text("This is no video.")
    assert [given_by(files["cut"], "")[1], [good for _, good in given_by(files["cut"], "")[0]]] == [
        "truncated",
        [True, True, False, False],
    ]
    return files


@lru_cache
def given_by(file, span):
    """Of a part of a content: its clips, each with whether it can be read; and the reason of its reject."""
    start, end = map(float, span.split(",")) if span else (None, None)
    item = Item(file, start_s=start, end_s=end)
    try:
        found = examine(item, TINY)
    except MediaError as error:
        return [], error.reason
    read = work(ItemTask(item, TINY, found))
    good = {clip.clip_id for clip in read.clips}
    return [(window.clip_id, window.clip_id in good) for window in found.windows], read.error and read.error.reason


@lru_cache
def tail_of(file, start_s, end_s):
    return examine(Item(file, start_s=start_s, end_s=end_s), TINY).tail_s


class Pool(InProcess):
    """What was decoded once is known, and what is `shut` cannot be read."""

    def __init__(self, seed, world):
        super().__init__(seed, self.result)
        self.world = world

    def result(self, task):
        item, stamp, held = task.item, stamp_of(*task.item.files), self.world.content(task.item.path)
        if held is None:
            return work(task)
        if item.path in self.world.closed:
            raise MediaError("unreadable", "shut")
        known = replace(item, path=self.world.contents[held], labels=(), split="", name="")
        if not task.examined:
            return replace(done(ItemTask(known, TINY)), stamp=stamp)
        examined = replace(task.examined, stamp=stamp_of(known.path))
        read = done(ItemTask(known, TINY, examined))
        new = {"item": item.key, "source": item.source, "labels": list(item.labels), "split": item.split}
        new |= {"file_size": stamp[0], "file_mtime_ns": stamp[1], "origin": task.origin}
        return replace(read, clips=tuple(replace(clip, **new) for clip in read.clips))


done = lru_cache(maxsize=None)(work)


class World:
    """A folder, a list of it, and their library."""

    def __init__(self, root, contents, patch, workers):
        self.root, self.contents, self.patch, self.workers = root, contents, patch, workers
        self.folder, self.table, self.library = root / "v", root / "l.csv", root / "L"
        self.sources = {"folder": self.folder, "list": self.table}
        self.holds, self.closed, self.lines, self.clock = {}, set(), [], 0
        self.folder.mkdir()
        patch.setattr(ingest_module, "COMMIT_CLIPS", 1)
        patch.setattr(ingest_module, "TASK_WINDOWS", 1)

    def at(self, name):
        return self.folder / name

    def put(self, name, content):
        self.at(name).parent.mkdir(exist_ok=True)
        self.at(name).write_bytes(self.contents[content].read_bytes())
        self.holds[name] = content
        self.touch(name)

    def copy(self, name, other):
        if name in self.holds and name != other:
            self.put(other, self.holds[name])

    def move(self, name, other):
        if name in self.holds and name != other:
            self.at(other).parent.mkdir(exist_ok=True)
            self.at(name).replace(self.at(other))
            self.holds[other] = self.holds.pop(name)

    def swap(self, name, other):
        if {name, other} <= set(self.holds) and name != other:
            self.at(name).rename(self.root / "between")
            self.at(other).rename(self.at(name))
            (self.root / "between").rename(self.at(other))
            self.holds[name], self.holds[other] = self.holds[other], self.holds[name]

    def touch(self, name):
        if name in self.holds:
            self.clock += 1
            os.utime(self.at(name), ns=(self.clock, self.clock))

    def delete(self, name):
        if self.holds.pop(name, None):
            self.at(name).unlink()

    def shut(self, name):
        """Or open it again."""
        self.closed ^= {self.at(name)}

    def list(self, lines):
        self.lines = lines
        text = "".join(
            f"v/{name},{label},{split},{span or ','},{known.strip()}\n" for name, span, label, split, known in lines
        )
        self.table.write_text("path,label,split,start_s,end_s,id\n" + text)

    # -- looking --

    def rows(self, library=None):
        table = Library(library or self.library)._rows(["clip_id", *ROW])
        found = {row.pop("clip_id"): row for row in table.to_pylist()}
        assert len(found) == len(table), "no clip twice"
        return found

    def rejects(self):
        found = Library(self.library).rejects()
        assert len({reject.item for reject in found}) == len(found), "no reject twice"
        return {reject.item: reject.reason for reject in found}

    def content(self, path):
        """The content that lies at a path."""
        return self.holds.get(Path(path).relative_to(self.folder).as_posix())

    def clips(self, item):
        """What the file of an item gives now."""
        held = self.content(item.path)
        span = "" if item.start_s is None else f"{item.start_s:g},{item.end_s:g}"
        return given_by(self.contents[held], span) if held else ([], "missing")


def run(history, contents, workers=None):
    root = Path(tempfile.mkdtemp())
    try:
        with pytest.MonkeyPatch.context() as patch:
            world = World(root, contents, patch, workers)
            for name, *values in history:
                getattr(world, name)(*values) if name != "ingest" else looked_at(world, *values)
            sources = {step[1] for step in history if step[0] == "ingest"}
            for source in sorted(sources):
                done = looked_at(world, source, True, 0, None)
                if done and len(sources) == 1 and not world.closed:
                    check_fresh(world, source)
    finally:
        shutil.rmtree(root)


def check_fresh(world, source):
    """A new library of what is there now is the same."""
    kept, rejects = world.rows(), world.rejects()
    shutil.rmtree(world.library)
    take_in(world, read_source(world.sources[source]), False, 0)
    told = ("labels", "split", "status", "origin")
    assert {i: [row[x] for x in told] for i, row in world.rows().items()} == {
        i: [row[x] for x in told] for i, row in kept.items()
    }
    assert world.rejects() == rejects


def looked_at(world, source, prune, seed, fail):
    """One ingest, with a failure and once more if so, and the laws."""
    try:
        listing = read_source(world.sources[source])
    except ConfigError:  # nothing there yet
        return False
    Library.create(world.library, TINY)
    before = before_again = world.rows()
    if fail:
        failed(world, listing, prune, seed, *fail)
        before_again = world.rows()
        check_labels(world, listing, before, before_again, whole=False)
    try:
        report = take_in(world, listing, prune, seed)
    except ConfigError:  # not one file is there
        assert prune
        assert world.rows() == before_again
        return False
    after = world.rows()
    check_content(world, listing, after, prune)
    check_rejects(world, listing, report)
    check_labels(world, listing, before, after)
    check_numbers(world, listing, before_again, after, report, prune)
    check_again(world, listing, after, report, prune, seed)
    return True


def take_in(world, listing, prune, seed):
    if not world.workers:
        world.patch.setattr(ingest_module, "_pool", lambda *_: Pool(seed, world))
    return ingest(listing, world.library, TINY, workers=world.workers, prune=prune)


def failed(world, listing, prune, seed, number, done):
    """An ingest that is interrupted at its `number`-th write, before or after that is done."""
    left = [number]

    def fragile(write):
        def call(library, what):
            if what:
                left[0] -= 1
                if not left[0] and not done:
                    raise KeyboardInterrupt
            write(library, what)
            if what and not left[0]:
                raise KeyboardInterrupt

        return call

    with world.patch.context() as patch:
        for name in WRITES:
            patch.setattr(Library, name, fragile(getattr(Library, name)))
        with suppress(KeyboardInterrupt, ConfigError):
            take_in(world, listing, prune, seed)


def check_content(world, listing, after, prune):
    """Every row is a window of what is there, or of a file that is away; and nothing that is there lacks."""
    keys = {item.key: item for item in listing.items}
    mine = str(listing.source)
    for clip_id, row in after.items():
        item, held = keys.get(row["item"]), world.content(row["source"])
        assert Path(row["source"]) not in keys or item, "rows name their item"
        if item:
            assert row["source"] == str(item.path)
            closed = item.path in world.closed
            assert closed or held is None or (clip_id, True) in world.clips(item)[0], "a clip of another content"
            assert held is None or closed or row["file_mtime_ns"] == item.path.stat().st_mtime_ns
            span = item.start_s, item.end_s
            assert held is None or closed or row["item_tail_s"] == tail_of(world.contents[held], *span)
        if prune and row["origin"] == mine:
            assert item, "not pruned"
            assert held, "not pruned: the file is gone"
    for item in listing.items:
        if item.path not in world.closed:
            for clip_id, good in world.clips(item)[0]:
                assert not good or clip_id in after, f"{item.path} gives a clip that is not there"


def check_rejects(world, listing, report):
    """Rejects are those of the items that do not give all."""
    stored, keys = world.rejects(), {item.key for item in listing.items}
    wanted = {item.key: world.clips(item)[1] for item in listing.items}
    for item in listing.items:
        if item.path in world.closed and wanted[item.key] != "missing":
            # one that is not looked into again is what it was
            wanted[item.key] = stored.get(item.key)
            assert wanted[item.key] in (None, "unreadable", "truncated", "not_media")
    wanted = {key: reason for key, reason in wanted.items() if reason}
    assert {key: reason for key, reason in stored.items() if key in keys} == wanted
    assert sorted((reject.item, reject.reason) for reject in report.rejects) == sorted(wanted.items())


def check_labels(world, listing, before, after, whole=True):
    """A list says the labels and the split of what it names, the first of its lines; nothing else changes them."""
    said = {}
    if listing.labelled:
        for item in listing.items:
            ids = [clip_id for clip_id, _ in world.clips(item)[0]]
            ids += [clip_id for clip_id, row in after.items() if row["item"] == item.key]
            for clip_id in ids:
                said.setdefault(clip_id, (list(item.labels), item.split))
    for clip_id, row in after.items():
        old = before.get(clip_id)
        if clip_id in said and (whole or not old):
            possible = [said[clip_id]]
            if any(item.path in world.closed for item in listing.items) or not whole:
                possible += [(list(item.labels), item.split) for item in listing.items]
                possible += [(old["labels"], old["split"])] if old else []
            assert (row["labels"], row["split"]) in possible, f"{clip_id}: {row}, list: {possible}"
        elif clip_id not in said:
            assert (row["labels"], row["split"]) == ((old["labels"], old["split"]) if old else ([], "train"))


def check_numbers(world, listing, before, after, report, prune):
    """The report says what became of the table."""
    keys = {item.key for item in listing.items}
    tails = {row["item"]: row["item_tail_s"] for row in after.values() if row["item"] in keys}
    assert (report.tails.count, report.tails.unknown) == (sum(map(bool, tails.values())), 0)
    assert report.tails.seconds == pytest.approx(sum(tails.values()))
    assert report.clips_added == len(set(after) - set(before)) == sum(report.statuses.values())
    changed = [i for i in after if i in before and any(after[i][x] != before[i][x] for x in ("labels", "split"))]
    assert report.clips_relabelled == len(changed)
    assert report.clips_dropped <= (len(set(before) - set(after)) if prune else 0)
    if all(world.content(item.path) and item.path not in world.closed for item in listing.items):
        assert report.clips_present == sum(row["item"] in keys for i, row in after.items() if i in before)
    if listing.labelled:
        missing = sum(world.content(item.path) is None for item in listing.items)
        assert sum(one.missing for one in report.coverage) == missing


def check_again(world, listing, after, report, prune, seed):
    """Once more changes nothing."""
    version, rejects = lance.dataset(world.library / "clips.lance").version, world.rejects()
    again = take_in(world, listing, prune, seed + 1)
    assert (world.rows(), world.rejects()) == (after, rejects)
    assert lance.dataset(world.library / "clips.lance").version == version
    assert (again.clips_added, again.clips_relabelled, again.clips_dropped) == (0, 0, 0)
    assert [reject.item for reject in again.rejects] == [reject.item for reject in report.rejects]
    assert (again.coverage, again.tails) == (report.coverage, report.tails)


def histories(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, print_blob=False)


@histories(60)
@given(start, st.lists(step, max_size=8))
def test_any_history_ends_in_the_same_library(contents, first, history):
    run([*first, *history], contents)


@pytest.mark.slow
@histories(400)
@given(start, st.lists(step, max_size=12))
def test_any_longer_history_ends_in_the_same_library(contents, first, history):
    run([*first, *history], contents)


def test_a_history_with_worker_processes(contents):
    lines = [("a.mp4", "", "dog", "test", ""), ("b.mp4", "0,0.655", "cat", "train", "1")]
    took, again = ("ingest", "list", False, 0, None), ("ingest", "folder", True, 0, (2, False))
    changes = [("copy", "a.mp4", "b.mp4"), took, ("move", "a.mp4", "sub/c.mp4"), ("put", "a.mp4", "cut")]
    run([("put", "a.mp4", "tone"), ("list", lines), *changes, again], contents, workers=2)
