"""What a library reported is there after a power cut, at whatever moment that comes."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import lance
import pytest

from equiav.errors import LibraryError
from equiav.library import durable
from equiav.library.records import STATUSES, Reject
from equiav.library.table import Library
from equiav.library.versions import is_table
from power import Disk, cut_at_every_flush
from tiny_library import FEATURES, make_clip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/fd names what is flushed")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    return Disk(tmp_path / "disk", monkeypatch)


def held(library):
    """All that a library holds, read from its files; None where there is none."""
    if not is_table(library / "clips.lance"):
        return None
    opened = Library(library)
    rows = opened.clips(statuses=STATUSES).sort_by("clip_id").to_pylist()
    return rows, sorted(opened.rejects(), key=lambda reject: reject.item)


def reject(item):
    return Reject(item, f"{item}.mp4", "probe", "corrupt", "cut short", 1, 1)


STEPS = {
    "append": lambda library: library.append([make_clip(0), make_clip(1, labels=["dog"])]),
    "append again": lambda library: library.append([make_clip(2)]),
    "update": lambda library: library.update([{"clip_id": "clip1", "labels": ["cat"], "split": "test"}]),
    "remove": lambda library: library.remove(["clip0"]),
    "reject": lambda library: library.reject([reject("a"), reject("b")]),
    "drop_rejects": lambda library: library.drop_rejects(["a"]),
    "tidy": lambda library: library.tidy(),
    "forget_old_versions": lambda library: library.forget_old_versions(),
}


def test_what_a_library_reported_survives_a_power_cut_at_any_moment(disk, monkeypatch):
    """After a step there is what it stored, within it that or what was there before; never half of it, nor damage."""
    monkeypatch.setattr("equiav.library.table.FRAGMENTS", 1)  # so that tidy joins some
    place = disk.root / "parent" / "L"
    with cut_at_every_flush(disk) as cuts:
        library = Library.create(place, FEATURES)
    empty = ([], [])
    assert [held(left / "parent" / "L") for left in disk.cut()] == [empty, empty]
    assert all(held(left / "parent" / "L") in (None, empty) for left in cuts)
    before = empty
    with library.locked():
        for name, step in STEPS.items():
            with cut_at_every_flush(disk) as cuts:
                step(library)
            now = held(place)
            assert (now == before) == (name in ("tidy", "forget_old_versions"))
            for left in cuts:
                assert held(left / "parent" / "L") in (before, now), f"cut within {name}"
            for left in disk.cut():
                assert held(left / "parent" / "L") == now, f"cut after {name}"
            before = now


def test_what_a_killed_process_committed_is_flushed_before_it_counts(disk):
    """Its clips are `already there` for the next ingest, which reports them as stored."""
    library = Library.create(disk.root / "L", FEATURES)
    rows = library.clips()
    with library.locked():
        library.append([make_clip(0)])
    one = library.clips(statuses=STATUSES)
    lance.write_dataset(one, library.path / "clips.lance", mode="append")  # as a process that was killed at once
    assert [len(held(left / "L")[0]) for left in disk.cut()] == [len(rows) + 1] * 2
    with Library(library.path).locked():
        assert [len(held(left / "L")[0]) for left in disk.cut()] == [2, 2]


def test_lance_alone_would_lose_it(disk, monkeypatch):
    """The disk of these tests loses what is not flushed; and when Lance flushes by itself, ours can go."""

    @contextmanager
    def nothing(self, version):
        yield

    monkeypatch.setattr(durable.Durable, "__call__", nothing)
    Library.create(disk.root / "L", FEATURES).append([make_clip(0)])
    nameless, empty = disk.cut()
    assert held(nameless / "L") is None
    with pytest.raises(LibraryError):
        Library(empty / "L")


def test_a_manifest_that_was_reported_is_never_set_aside(tmp_path):
    """One that is damaged later is an error: the clips of the version before it are not all that was stored."""
    library = Library.create(tmp_path, FEATURES)
    library.append([make_clip(0)])
    newest = min((tmp_path / "clips.lance" / "_versions").glob("*.manifest"))
    newest.write_bytes(newest.read_bytes()[:-8])
    with pytest.raises(LibraryError, match="no readable table"):
        Library(tmp_path)
    assert newest.exists()


def test_what_is_flushed_is_not_flushed_again(tmp_path, monkeypatch):
    library = Library.create(tmp_path, FEATURES)
    for i in range(5):
        library.append([make_clip(i)])
    library.reject([reject("a")])
    for path in filter(Path.is_file, tmp_path.rglob("*.lance/**/*")):
        os.utime(path, ns=(0, path.stat().st_mtime_ns - 2 * durable.SLACK_NS))
    flushed = []
    monkeypatch.setattr(durable, "flush", flushed.append)
    with Library(tmp_path).locked():
        assert not [path for path in flushed if Path(path).is_file()]
    Library(tmp_path).append([make_clip(6)])
    assert sorted(Path(path).suffix for path in flushed if Path(path).is_file()) == [".lance", ".manifest", ".txn"]


@pytest.fixture
def ext4(tmp_path):
    """A file system in a file, which writes by itself every five minutes only; and what a power cut leaves of it."""
    image, mounted, after = tmp_path / "disk.img", tmp_path / "mounted", tmp_path / "after"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    for folder in (mounted, after):
        folder.mkdir()
    try:
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
        run("mount", "-o", "loop,commit=300", image, mounted)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}; the tests above flush to a made-up disk")

    @contextmanager
    def cut():
        run("cp", "--sparse=always", image, tmp_path / "left.img")  # what ext4 has handed to its disk by now
        run("mount", "-o", "loop", tmp_path / "left.img", after)
        try:
            yield after
        finally:
            run("umount", after)

    yield mounted, cut
    run("umount", mounted)


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


def test_on_a_real_file_system_what_was_reported_is_there_after_a_power_cut(ext4):
    mounted, cut = ext4
    library = Library.create(mounted / "L", FEATURES)
    with library.locked():
        for step in (STEPS["append"], STEPS["append again"], STEPS["update"], STEPS["remove"], STEPS["reject"]):
            step(library)
            with cut() as left:
                assert held(left / "L") == held(mounted / "L")
