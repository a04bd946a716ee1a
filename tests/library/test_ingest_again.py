"""Run again, after whatever happened in between, an ingest ends where an undisturbed one ends."""

import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pytest

from equiav.errors import ConfigError, LibraryError, MediaError
from equiav.library import ingest as ingest_module
from equiav.library.ingest import IngestReport, ingest
from equiav.library.loader import ClipLoader
from equiav.library.manifests import Item, Listing, read_source
from equiav.library.records import Reject
from equiav.library.table import FRAGMENTS, Library
from equiav.library.windows import ClipWindow, Examined, ItemTask, Read, examine, plan_windows, work
from equiav.media.probe import MediaInfo
from equiav.media.windows import Window
from in_process import InProcess
from samples import TINY, pictures, tone, write_media


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Ten windows of TINY."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_media(path, frames=pictures(66), sound=tone(6.6))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, film):
    """The film with its last quarter cut off: good windows, and bad ones."""
    folder = tmp_path_factory.mktemp("damaged")
    noise = np.random.default_rng(0).normal(0, 0.1, 6 * 16_000).astype(np.float32)
    path = write_media(folder / "cut.mp4", frames=pictures(60), sound=noise, movflags="+faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    return path


def rows(library):
    table = Library(library).clips()
    return sorted(table.to_pylist(), key=lambda row: row["clip_id"])


def interrupted(_library, rejects):
    if rejects:
        raise KeyboardInterrupt


def test_an_interrupted_ingest_keeps_what_it_read_and_goes_on(tmp_path, film, monkeypatch):
    ingest(film, tmp_path / "whole", TINY, workers=1)
    monkeypatch.setattr(ingest_module, "TASK_WINDOWS", 2)
    read = ingest_module._Run._windows_read
    parts = []

    def read_then_interrupt(run, task, result):
        tasks = read(run, task, result)
        parts.append(task)
        if len(parts) == 3:
            raise KeyboardInterrupt
        return tasks

    monkeypatch.setattr(ingest_module._Run, "_windows_read", read_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        ingest(film, tmp_path / "L", TINY, workers=1)
    assert Library(tmp_path / "L").count() == 6
    report = ingest(film, tmp_path / "L", TINY, workers=1)
    assert (report.clips_present, report.clips_added) == (6, 4)
    assert rows(tmp_path / "L") == rows(tmp_path / "whole")


def test_a_kill_between_the_clips_and_their_reject_loses_neither(tmp_path, damaged, monkeypatch):
    whole = ingest(damaged, tmp_path / "whole", TINY, workers=1)
    assert [reject.reason for reject in whole.rejects] == ["truncated"]
    with monkeypatch.context() as patch:
        patch.setattr(Library, "reject", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ingest(damaged, tmp_path / "L", TINY, workers=1)
    assert Library(tmp_path / "L").rejects() == []
    assert 0 < Library(tmp_path / "L").count() < 9
    again = ingest(damaged, tmp_path / "L", TINY, workers=1)
    assert again.clips_added == 0
    assert again.rejects == whole.rejects
    assert Library(tmp_path / "L").rejects() == whole.rejects
    assert rows(tmp_path / "L") == rows(tmp_path / "whole")


@pytest.mark.parametrize(("reason", "added"), [("timeout", 1), ("crashed", 1), ("gap", 0)])
def test_a_window_that_failed_for_a_reason_of_the_moment_is_tried_again(tmp_path, film, reason, added):
    ingest(film, tmp_path / "L", TINY, workers=1)
    library = Library(tmp_path / "L")
    row = library.clip(sorted(library.clip_ids())[0])
    library.remove([row["clip_id"]])
    reject = Reject(row["item"], row["source"], "decode", reason, "", row["file_size"], row["file_mtime_ns"])
    library.reject([reject])
    report = ingest(film, tmp_path / "L", TINY, workers=1)
    assert (report.clips_present, report.clips_added) == (9, added)
    assert report.rejects == Library(tmp_path / "L").rejects() == [reject] * (1 - added)


def test_a_file_that_is_missing_for_a_while_keeps_its_clips(tmp_path, good_video):
    """An unmounted drive must not empty the library."""
    video = tmp_path / "v.mp4"
    video.write_bytes(good_video.read_bytes())
    table = tmp_path / "t.csv"
    table.write_text("path,label\nv.mp4,dog\n")
    ingest(table, tmp_path / "L", TINY, workers=1)
    video.rename(tmp_path / "away")
    report = ingest(table, tmp_path / "L", TINY, workers=1)
    assert [reject.reason for reject in report.rejects] == ["missing"]
    assert Library(tmp_path / "L").count() == 2
    (tmp_path / "away").rename(video)
    report = ingest(table, tmp_path / "L", TINY, workers=1)
    assert (report.clips_present, report.rejects) == (2, [])
    assert Library(tmp_path / "L").rejects() == []


def test_a_file_that_became_bad_loses_its_clips(tmp_path, good_video):
    video = tmp_path / "v.mp4"
    video.write_bytes(good_video.read_bytes())
    ingest(video, tmp_path / "L", TINY, workers=1)
    video.write_text("no more")
    report = ingest(video, tmp_path / "L", TINY, workers=1)
    assert [reject.reason for reject in report.rejects] == ["not_media"]
    assert Library(tmp_path / "L").count() == 0


def test_corrected_labels_reach_the_library_without_decoding(tmp_path, good_video):
    (tmp_path / "v.mp4").write_bytes(good_video.read_bytes())
    table = tmp_path / "t.csv"
    table.write_text("path,label,split\nv.mp4,dgo,train\n")
    ingest(table, tmp_path / "L", TINY, workers=1)
    before = rows(tmp_path / "L")
    table.write_text("path,label,split\nv.mp4,dog;bark,test\n")
    report = ingest(table, tmp_path / "L", TINY, workers=1)
    assert (report.clips_relabelled, report.clips_added, report.clips_present) == (2, 0, 2)
    changed = [{**row, "labels": ["dog", "bark"], "split": "test"} for row in before]
    assert rows(tmp_path / "L") == changed
    # a folder says nothing about labels, so it takes none away
    assert ingest(tmp_path / "v.mp4", tmp_path / "L", TINY, workers=1).clips_relabelled == 0
    assert rows(tmp_path / "L") == changed


def test_a_file_of_another_time_and_the_same_content_is_not_decoded_again(tmp_path, good_video, monkeypatch):
    video = tmp_path / "v.mp4"
    video.write_bytes(good_video.read_bytes())
    ingest(video, tmp_path / "L", TINY, workers=1)
    before = rows(tmp_path / "L")
    os.utime(video, ns=(7, 7))
    seen = []
    examined = ingest_module._Run._examined
    monkeypatch.setattr(ingest_module._Run, "_examined", lambda *given: seen.append(examined(*given)) or seen[-1])
    for looked_at in (1, 1):  # once; then its new time is known
        report = ingest(video, tmp_path / "L", TINY, workers=1)
        assert (report.clips_present, report.clips_added, len(seen)) == (2, 0, looked_at)
    assert seen == [[]]
    assert rows(tmp_path / "L") == [{**row, "file_mtime_ns": 7} for row in before]


def test_pruning_drops_what_its_source_gave_and_has_no_more(tmp_path, good_video):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in (1, 2):
            # bytes behind the end change the content's hash alone
            (tmp_path / folder / f"{number}.mp4").write_bytes(good_video.read_bytes() + f"{folder}{number}".encode())
        (tmp_path / folder / "bad.mp4").write_text("bad")
        ingest(tmp_path / folder, tmp_path / "L", TINY, workers=1)
    for folder in ("a", "b"):
        (tmp_path / folder / "2.mp4").unlink()
        (tmp_path / folder / "bad.mp4").unlink()
    assert ingest(tmp_path / "a", tmp_path / "L", TINY, workers=1).clips_dropped == 0
    said = []
    again = {"workers": 1, "prune": True, "on_prune": lambda clips, files: said.append((clips, files))}
    report = ingest(tmp_path / "a", tmp_path / "L", TINY, **again)
    assert (said, report.clips_dropped, report.clips_present) == ([(2, 1)], 2, 2)
    names = {Path(row["source"]).relative_to(tmp_path).as_posix() for row in rows(tmp_path / "L")}
    assert names == {"a/1.mp4", "b/1.mp4", "b/2.mp4"}
    assert {Path(reject.path).parent.name for reject in Library(tmp_path / "L").rejects()} == {"b"}


def test_pruning_after_a_file_was_renamed_keeps_its_clips_and_their_labels(tmp_path, good_video):
    folder, table = tmp_path / "v", tmp_path / "l.csv"
    folder.mkdir()
    for name in ("a", "b"):  # bytes behind the end change the content's hash alone
        (folder / f"{name}.mp4").write_bytes(good_video.read_bytes() + name.encode())
    ingest(folder, tmp_path / "L", TINY, workers=1)
    table.write_text("path,label,split\nv/a.mp4,dog,test\nv/b.mp4,cat,test\n")
    ingest(table, tmp_path / "L", TINY, workers=1)
    before = rows(tmp_path / "L")
    (folder / "a.mp4").rename(folder / "c.mp4")
    said = []
    again = {"workers": 1, "prune": True, "on_prune": lambda clips, files: said.append((clips, files))}
    report = ingest(folder, tmp_path / "L", TINY, **again)
    assert (said, report.clips_dropped, report.clips_added, report.clips_present) == ([], 0, 0, 4)
    new = {str(folder / "a.mp4"): str(folder / "c.mp4")}
    kept = [{**row, "source": new.get(row["source"], row["source"]), "item": ""} for row in before]
    assert [{**row, "item": ""} for row in rows(tmp_path / "L")] == kept


def test_a_copy_gives_what_pruning_dropped(tmp_path, good_video):
    table = tmp_path / "l.csv"
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(good_video.read_bytes())
    for names, prune in (("ab", False), ("b", True)):
        table.write_text("path,label\n" + "".join(f"{name}.mp4,{name}\n" for name in names))
        report = ingest(table, tmp_path / "L", TINY, workers=1, prune=prune)
        assert (report.clips_added, report.clips_present) == ((0, 2) if prune else (2, 0))
        assert (report.duplicates, report.clips_dropped) == (0 if prune else 2, 0)
    assert [(Path(row["source"]).name, row["labels"]) for row in rows(tmp_path / "L")] == [("b.mp4", ["b"])] * 2


def test_nothing_is_pruned_when_the_source_itself_is_missing(tmp_path, good_video):
    (tmp_path / "drive").mkdir()
    (tmp_path / "drive" / "v.mp4").write_bytes(good_video.read_bytes())
    table = tmp_path / "t.csv"
    table.write_text("path\ndrive/v.mp4\n")
    for source in (table, tmp_path / "drive"):
        ingest(source, tmp_path / f"L{source.name}", TINY, workers=1)
    (tmp_path / "drive" / "v.mp4").unlink()  # an empty mount point
    with pytest.raises(ConfigError, match="none of its 1 file is there"):
        ingest(table, tmp_path / "Lt.csv", TINY, workers=1, prune=True)
    with pytest.raises(ConfigError, match="no media files"):
        ingest(tmp_path / "drive", tmp_path / "Ldrive", TINY, workers=1, prune=True)
    (tmp_path / "drive").rmdir()
    with pytest.raises(ConfigError, match="no such folder"):
        ingest(tmp_path / "drive", tmp_path / "Ldrive", TINY, workers=1, prune=True)
    assert Library(tmp_path / "Lt.csv").count() == Library(tmp_path / "Ldrive").count() == 2


def test_a_copy_gives_the_clips_when_the_first_file_changes(tmp_path, good_video):
    first, copy = tmp_path / "v" / "b.mp4", tmp_path / "v" / "a.mp4"
    first.parent.mkdir()
    first.write_bytes(good_video.read_bytes())
    ingest(first.parent, tmp_path / "L", TINY, workers=1)
    copy.write_bytes(first.read_bytes())
    first.write_text("no more")
    report = ingest(first.parent, tmp_path / "L", TINY, workers=1)
    assert (report.clips_added, report.clips_present, report.duplicates) == (0, 2, 0)
    assert {Path(row["source"]).name for row in rows(tmp_path / "L")} == {"a.mp4"}


def test_a_copy_that_is_being_read_gives_the_window_whose_first_owner_changes(tmp_path, good_video):
    """In one run: `y` is examined while `x` owns one of its windows, then `x` turns out to be another file."""
    x, y, table = tmp_path / "x.mp4", tmp_path / "y.mp4", tmp_path / "list.csv"
    for path in (x, y):
        path.write_bytes(good_video.read_bytes())
    table.write_text("path,start_s,end_s\nx.mp4,0,0.655\n")
    ingest(table, tmp_path / "L", TINY, workers=1)
    write_media(x, frames=pictures(14, seed=5), sound=tone(1.4, 880))
    table.write_text("path,start_s,end_s\ny.mp4,,\nx.mp4,0,0.655\n")
    report = ingest(table, tmp_path / "L", TINY, workers=1)
    assert (report.clips_added, report.clips_present, report.duplicates) == (2, 1, 0)
    found = sorted((Path(row["source"]).name, row["start_s"]) for row in rows(tmp_path / "L"))
    assert found == [("x.mp4", 0.0), ("y.mp4", 0.0), ("y.mp4", 0.655)]


def test_a_moved_folder_keeps_its_clips_under_the_new_name(tmp_path, good_video, monkeypatch):
    library, old = tmp_path / "L", tmp_path / "old"
    old.mkdir()
    (old / "a#1.mp4").write_bytes(good_video.read_bytes())
    ingest(old, library, TINY, workers=1)
    before = Library(library).clip_ids()
    old.rename(tmp_path / "new")
    monkeypatch.setattr(ingest_module, "COMMIT_CLIPS", 1)
    for _ in range(2):
        report = ingest(tmp_path / "new", library, TINY, workers=1)
        assert (report.clips_added, report.clips_present, report.duplicates) == (0, 2, 0)
        assert {row["source"] for row in rows(library)} == {str(tmp_path / "new" / "a#1.mp4")}
    assert Library(library).clip_ids() == before
    (tmp_path / "new" / "b.mp4").write_bytes(good_video.read_bytes() + b"more")
    (tmp_path / "new" / "a#1.mp4").unlink()
    assert ingest(tmp_path / "new", library, TINY, workers=1, prune=True).clips_dropped == 2, "it is of this source now"


def test_a_list_names_clips_that_a_folder_gave(tmp_path, good_video):
    library, folder, table = tmp_path / "L", tmp_path / "v", tmp_path / "l.csv"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(good_video.read_bytes())
    ingest(folder, library, TINY, workers=1)
    for label in ("dog", "cat"):
        table.write_text(f"path,label,split,id\nv/a.mp4,{label},test,one\n")
        report = ingest(table, library, TINY, workers=1)
        assert (report.clips_added, report.clips_relabelled) == (0, 2)
        assert [(row["labels"], row["split"]) for row in rows(library)] == [([label], "test")] * 2
    ingest(folder, library, TINY, workers=1)
    assert [row["labels"] for row in rows(library)] == [["cat"]] * 2, "a folder says nothing about labels"
    table.write_text("path,label,split,id\nv/a.mp4,dog,test,one\nv/a.mp4,cow,train,two\n")
    ingest(table, tmp_path / "L2", TINY, workers=1)
    assert {tuple(row["labels"]) for row in rows(tmp_path / "L2")} == {("dog",)}, "of two lines of a list the first"


def test_every_window_has_the_labels_and_the_split_that_the_list_gives_it(tmp_path, good_video):
    library, folder, table = tmp_path / "L", tmp_path / "v", tmp_path / "l.csv"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(good_video.read_bytes())
    ingest(folder, library, TINY, workers=1)
    for labels, splits in ((["cat", "dog"], ["test", "train"]), (["dog", "cat"], ["train", "test"])):
        lines = [f"v/a.mp4,{labels[i]},{splits[i]},{0.655 * i},{0.655 * (i + 1)}\n" for i in (0, 1)]
        table.write_text("path,label,split,start_s,end_s\n" + "".join(lines))
        for relabelled in (2, 0):
            assert ingest(table, library, TINY, workers=1).clips_relabelled == relabelled
        os.utime(folder / "a.mp4", ns=(7, 7))  # looked at again by the folder, which says nothing about labels
        ingest(folder, library, TINY, workers=1)
        found = sorted((row["start_s"], row["labels"], row["split"]) for row in rows(library))
        assert found == [(0.0, labels[:1], splits[0]), (0.655, labels[1:], splits[1])]


def test_a_changed_window_of_a_named_item_is_read(tmp_path, good_video):
    table = tmp_path / "l.csv"
    (tmp_path / "a.mp4").write_bytes(good_video.read_bytes())
    for prune, start in ((False, 0.0), (True, 0.3)):
        table.write_text(f"path,label,start_s,end_s,id\na.mp4,x,{start},{start + 0.5},one\n")
        report = ingest(table, tmp_path / "L", TINY, workers=1, prune=prune)
        assert report.clips_added == 1
    assert [row["start_s"] for row in rows(tmp_path / "L")] == [0.3]


def test_a_named_item_that_was_moved_has_its_new_path(tmp_path, good_video):
    table = tmp_path / "l.csv"
    (tmp_path / "a.mp4").write_bytes(good_video.read_bytes())
    table.write_text("path,label,id\na.mp4,x,one\n")
    ingest(table, tmp_path / "L", TINY, workers=1)
    (tmp_path / "a.mp4").rename(tmp_path / "b.mp4")
    table.write_text("path,label,id\nb.mp4,x,one\n")
    assert ingest(table, tmp_path / "L", TINY, workers=1).clips_present == 2
    assert {Path(row["source"]).name for row in rows(tmp_path / "L")} == {"b.mp4"}


def test_a_file_from_the_far_future_is_ingested(tmp_path, good_video):
    path = tmp_path / "a.mp4"
    path.write_bytes(good_video.read_bytes())
    os.utime(path, (13_000_000_000, 13_000_000_000))
    for added in (2, 0):
        assert ingest(path, tmp_path / "L", TINY, workers=1).clips_added == added


def test_a_copy_of_a_damaged_file_is_recorded_at_once(tmp_path, damaged):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.mp4").write_bytes(damaged.read_bytes())
    first = ingest(folder, tmp_path / "L", TINY, workers=1)
    assert [reject.reason for reject in first.rejects] == ["truncated", "truncated"]
    before = rows(tmp_path / "L")
    assert ingest(folder, tmp_path / "L", TINY, workers=1).rejects == first.rejects
    assert rows(tmp_path / "L") == before


def test_many_copies_of_a_file_are_not_held_against_each_other(tmp_path, monkeypatch):
    windows = (ClipWindow(Window(0.0, 0.655), "0" * 24),)
    found = Examined((1, 1), MediaInfo(1.0, 1.0, None, 16_000, 1, None, None, None), windows, 1)
    items = [Item(tmp_path / f"{i}.wav") for i in range(300)]
    run = ingest_module._Run(Library.create(tmp_path / "L", TINY), IngestReport(), Listing(tmp_path, items), None)
    compared, equal = [], Item.__eq__
    monkeypatch.setattr(Item, "__eq__", lambda item, other: compared.append(item) or equal(item, other))
    tasks = [task for item in items for task in run._examined(ItemTask(item, TINY), found)]
    assert (len(tasks), run.report.duplicates) == (1, 299)
    run._windows_read(tasks[0], Read((), MediaError("gap", "no sound in it"), "decode"))
    assert (len(run.todo), run.report.duplicates) == (299, 0), "each is to be recorded"
    assert len(compared) < len(items)


def test_a_task_is_small_however_many_windows_its_file_has(tmp_path):
    """There is one for every few windows: with all windows in each, a day-long film would be gigabytes of tasks."""
    windows = tuple(ClipWindow(Window(float(i), i + 1.0), f"{i:024x}") for i in range(10_000))
    found = Examined((1, 1), MediaInfo(10_000.0, 10_000.0, None, 16_000, 1, None, None, None), windows, len(windows))
    run = ingest_module._Run(Library.create(tmp_path / "L", TINY), IngestReport(), Listing(tmp_path, []), None)
    tasks = run._examined(ItemTask(Item(tmp_path / "long.wav"), TINY), found)
    assert sum(len(task.examined.windows) for task in tasks) == len(windows)
    assert max(len(pickle.dumps(task)) for task in tasks) < 8192


def test_tables_of_many_small_commits_are_joined(tmp_path):
    library = Library.create(tmp_path / "L", TINY)
    for i in range(FRAGMENTS + 1):
        library.reject([Reject(f"{i}", f"{i}.mp4", "probe", "corrupt", "", 1, 1)])
    before = library.rejects()
    library.tidy()
    assert len(lance.dataset(library.path / "rejects.lance").get_fragments()) == 1
    assert library.rejects() == before


def test_who_opened_an_old_library_reads_on_while_an_ingest_changes_all_of_it(tmp_path, good_video, monkeypatch):
    """A training, say: it must not end because somebody corrects the labels of what was ingested last week."""
    listed = tmp_path / "t.csv"
    listed.write_text(f"path,label\n{good_video},dog\n")
    ingest(listed, tmp_path / "L", TINY, workers=1)
    monkeypatch.setattr("equiav.library.versions.READABLE", timedelta(seconds=0.5))
    time.sleep(0.6)
    reader = Library(tmp_path / "L")
    listed.write_text(f"path,label\n{good_video},cat\n")
    ingest(listed, tmp_path / "L", TINY, workers=1)
    assert reader.take([0, 1])["labels"].to_pylist() == [["dog"], ["dog"]]
    time.sleep(0.6)
    Library(tmp_path / "L").forget_old_versions()
    assert len(lance.dataset(tmp_path / "L" / "clips.lance").versions()) == 1
    assert Library(tmp_path / "L").take([0])["labels"].to_pylist() == [["cat"]]


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path, film):
    """A limit on the size of files stands for the disk: the append fails, the next run goes on."""
    code = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from samples import TINY; from equiav.errors import LibraryError; from equiav.library.ingest import ingest\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "    try: ingest(Path(sys.argv[1]), Path(sys.argv[2]), TINY, workers=1)\n"
        "    except LibraryError as error: sys.exit(str(error))\n"
    )
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, tmp_path / "run.py", film, tmp_path / "L", Path(__file__).parent.parent]
    full = subprocess.run(command, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert Library(tmp_path / "L").count() == 0
    ingest(film, tmp_path / "L", TINY, workers=1)
    ingest(film, tmp_path / "whole", TINY, workers=1)
    assert rows(tmp_path / "L") == rows(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["gone", "empty", "zeros", "cut"])
def test_a_damaged_library_is_an_error_that_says_so(tmp_path, good_video, damage):
    ingest(good_video, tmp_path / "L", TINY, workers=1)
    (data,) = (tmp_path / "L" / "clips.lance" / "data").iterdir()
    whole = data.read_bytes()
    data.write_bytes({"gone": b"", "empty": b"", "zeros": bytes(len(whole)), "cut": whole[:200]}[damage])
    if damage == "gone":
        data.unlink()
    library = Library(tmp_path / "L")
    looks = (library.clips, library.all_ids, library.known_items, library.positions, lambda: library.take([0]))
    for look in (*looks, library.count, lambda: ingest(good_video, tmp_path / "L", TINY, workers=1)):
        with pytest.raises(LibraryError, match=r"clips\.lance is no readable table"):
            look()
    with pytest.raises(LibraryError, match="cannot be written"):
        library.remove(["x"])


def test_one_writer_at_a_time(tmp_path, good_video):
    library = Library.create(tmp_path / "L", TINY)
    with library.locked(), pytest.raises(LibraryError, match="another process is writing"):
        ingest(good_video, tmp_path / "L", TINY, workers=1)
    assert ingest(good_video, tmp_path / "L", TINY, workers=1).clips_added == 2


def test_lines_about_one_window_are_one_clip_with_all_labels(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("path,label,start_s,end_s\na.mp4,dog,0,1\na.mp4,bark;dog,0,1\na.mp4,cat,1,2\n")
    assert [item.labels for item in read_source(table).items] == [("dog", "bark"), ("cat",)]
    table.write_text("path,label,split\na.mp4,dog,train\na.mp4,dog,test\n")
    with pytest.raises(ConfigError, match=r"a\.mp4 is in two splits, 'train' and 'test'"):
        read_source(table)


def test_a_segment_longer_than_a_window_is_cut_like_a_file():
    info = MediaInfo(10.0, 10.0, 10.0, 16_000, 1, 64, 48, 10.0)
    features = TINY.model_copy(update={"clip_s": 2.0, "hop_s": 2.0, "min_tail_s": 1.0})

    def planned(start_s, end_s):
        return plan_windows(Item(Path("x"), start_s=start_s, end_s=end_s), info, features)

    assert planned(1.0, 2.5) == [(1.0, 2.5)]
    assert planned(1.0, 6.5) == [(1.0, 3.0), (3.0, 5.0), (5.0, 6.5)]
    assert planned(1.0, 5.5) == [(1.0, 3.0), (3.0, 5.0)]
    assert planned(9.0, 20.0) == [(9.0, 10.0)]
    assert planned(3.0, None) == [(3.0, 5.0)]


def test_a_file_that_changes_under_the_reader_is_not_mixed(tmp_path, good_video):
    video = tmp_path / "v.mp4"
    video.write_bytes(good_video.read_bytes())
    task = ItemTask(Item(video), TINY)
    found = examine(task.item, TINY)
    os.utime(video, ns=(1, 1))
    result = work(replace(task, examined=found))
    assert result.clips == ()
    assert result.error.reason == "changed"


def test_a_name_that_is_no_text_is_kept_readable(tmp_path, good_video):
    video = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    video.write_bytes(good_video.read_bytes())
    for added in (2, 0):
        assert ingest(video, tmp_path / "L", TINY, workers=1).clips_added == added
    assert {Path(row["source"]).name for row in rows(tmp_path / "L")} == {"caf\\xe9.mp4"}


def test_batches_do_not_depend_on_the_order_in_which_workers_finished(tmp_path, film):
    library = ingest(film, tmp_path / "a", TINY, workers=1) and Library(tmp_path / "a")
    other = Library.create(tmp_path / "b", TINY)
    table = library._clips.to_table()
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    import lance

    lance.write_dataset(shuffled, tmp_path / "b" / "clips.lance", mode="overwrite")
    other = Library(tmp_path / "b")
    assert other.fingerprint() == library.fingerprint()
    assert other.log_mel_stats() == library.log_mel_stats(), "to the last bit: they are part of a run's recipe"
    for left, right in zip(
        ClipLoader(library, "train", 4, 7).epoch(3), ClipLoader(other, "train", 4, 7).epoch(3), strict=True
    ):
        assert left.clip_ids == right.clip_ids
        assert left.audio.equal(right.audio)
        assert left.frames.equal(right.frames)
        assert not left.indices.equal(right.indices)


def test_statistics_count_every_sounding_frame_once(tmp_path):
    for seconds in (0.9, 0.4):
        write_media(tmp_path / f"{seconds}.mp4", frames=pictures(9), sound=tone(seconds))
    ingest(tmp_path, tmp_path / "L", TINY, workers=1)
    library = Library(tmp_path / "L")
    fbanks, counts = library.fbanks(library.clips()), library.clips(columns=["fbank_frames"])["fbank_frames"]
    sounding = np.concatenate([fbank[:n] for fbank, n in zip(fbanks, counts.to_pylist(), strict=True)])
    assert len(sounding) < fbanks.shape[0] * fbanks.shape[1]
    mean, std = library.log_mel_stats()
    assert mean == pytest.approx(sounding.mean(), abs=2e-3)
    assert std == pytest.approx(sounding.std(), abs=2e-3)


def test_silence_has_no_statistics(tmp_path):
    write_media(tmp_path / "silent.mp4", frames=pictures(7), sound=np.zeros(11_000, np.float32))
    assert ingest(tmp_path, tmp_path / "L", TINY, workers=1).clips_added == 1
    with pytest.raises(LibraryError, match="no clips to measure"):
        Library(tmp_path / "L").log_mel_stats()


def test_a_library_that_cannot_be_written_is_an_error(tmp_path, good_video):
    (tmp_path / "L").write_text("a file, not a folder")
    with pytest.raises(LibraryError, match="cannot be written"):
        ingest(good_video, tmp_path / "L", TINY, workers=1)


def test_a_library_half_made_by_a_killed_process_is_made_anew(tmp_path, good_video):
    (tmp_path / "L" / ".clips.lance.1.part").mkdir(parents=True)
    Library.create(tmp_path / "L", TINY)
    assert Library(tmp_path / "L").count() == 0


def test_names_in_a_csv_may_hold_anything(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text('path,label\n"a\nb,c "" .mp4",x\nline\u2028sep.mp4,y\n\n', encoding="utf-8-sig")
    assert [item.path.name for item in read_source(table).items] == ['a\nb,c " .mp4', "line\u2028sep.mp4"]
    table.write_text("path,start_s\n\n\na.mp4,soon\n")
    with pytest.raises(ConfigError, match=r"line 4: start_s is 'soon'"):
        read_source(table)


@pytest.fixture
def here(monkeypatch):
    """No processes are started: reading is done here, by `here.do`."""
    pool = InProcess()
    monkeypatch.setattr(ingest_module, "_pool", lambda *_: pool)
    return pool


def look(source, prune=False):
    """Ingest a folder or list beside the library."""
    return ingest(source, source.parent / "L", TINY, prune=prune)


def clips(source):
    """File, start, labels and split of each row."""
    found = rows(source.parent / "L")
    return sorted((Path(r["source"]).name, round(r["start_s"], 3), ";".join(r["labels"]), r["split"]) for r in found)


def interrupt(patch, number, done=False):
    """An interrupt at the `number`-th write of an ingest, before or after that is done."""
    left = [number]

    def fragile(write):
        def call(library, what):
            left[0] -= bool(what)
            if what and not left[0] and not done:
                raise KeyboardInterrupt
            write(library, what)
            if what and not left[0]:
                raise KeyboardInterrupt

        return call

    for name in ("append", "update", "reject", "drop_rejects", "remove"):
        patch.setattr(Library, name, fragile(getattr(Library, name)))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("a.mp4,cat,test,0,0.655\na.mp4,dog,train,,\n", [("cat", "test"), ("dog", "train")]),
        ("b.mp4,cat,test,,\nc.mp4,dog,train,,\n", [("cat", "test")] * 2),
        ("c.mp4,cat,test,,\na.mp4,dog,train,,\n", [("cat", "test")] * 2),
    ],
)
def test_the_first_line_that_names_a_clip_says_its_labels_whoever_gave_it(tmp_path, good_video, here, lines, said):
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(good_video.read_bytes())
    look(tmp_path / "a.mp4")
    table = tmp_path / "l.csv"
    table.write_text("path,label,split,start_s,end_s\n" + lines)
    for relabelled in (2, 0):
        assert look(table).clips_relabelled == relabelled
        assert [row[2:] for row in clips(table)] == said


@pytest.mark.parametrize("done", [False, True])
def test_a_file_renamed_under_a_new_one_keeps_its_labels_and_split(tmp_path, good_video, here, monkeypatch, done):
    """Else what was set aside for testing would be trained on."""
    folder, table = tmp_path / "v", tmp_path / "l.csv"
    folder.mkdir()
    table.write_text("path,label,split\nv/a.mp4,dog,test\n")
    monkeypatch.setattr(ingest_module, "COMMIT_CLIPS", 1)
    for number in range(1, 6):  # interrupted at each of its writes, and in the end at none
        shutil.rmtree(tmp_path / "L", ignore_errors=True)
        (folder / "c.mp4").unlink(missing_ok=True)
        (folder / "a.mp4").write_bytes(good_video.read_bytes())
        look(table)
        before = rows(tmp_path / "L")
        (folder / "a.mp4").rename(folder / "c.mp4")
        write_media(folder / "a.mp4", frames=pictures(14, seed=5), sound=tone(1.4, 880))
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            interrupt(patch, number, done)
            look(folder)
        report = look(folder)
        assert clips(folder)[2:] == [("c.mp4", 0.0, "dog", "test"), ("c.mp4", 0.655, "dog", "test")]
        assert [row[2:] for row in clips(folder)[:2]] == [("", "train")] * 2
        assert {row["clip_id"] for row in before} < {row["clip_id"] for row in rows(tmp_path / "L")}
        assert (report.clips_present + report.clips_added, report.rejects) == (4, [])


@pytest.mark.parametrize("what", ["deleted", "changed"])
def test_a_copy_of_a_damaged_file_gives_its_good_clips_when_the_first_goes(tmp_path, damaged, here, what):
    folder = tmp_path / "v"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.mp4").write_bytes(damaged.read_bytes())
    look(folder)
    before = {row["clip_id"] for row in rows(tmp_path / "L")}
    (folder / "a.mp4").unlink() if what == "deleted" else (folder / "a.mp4").write_text("no more")
    report = look(folder, prune=True)
    assert {row["clip_id"] for row in rows(tmp_path / "L")} == before
    assert {name for name, *_ in clips(folder)} == {"b.mp4"}
    assert ("b.mp4", "truncated") in [(Path(reject.path).name, reject.reason) for reject in report.rejects]


def test_a_damaged_copy_is_recorded_once_however_often_it_is_read(tmp_path, damaged, here):
    folder = tmp_path / "v"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.mp4").write_bytes(damaged.read_bytes())
    for time_ns in (1, 2):
        for name in "ab":
            os.utime(folder / f"{name}.mp4", ns=(time_ns, time_ns))
        report = look(folder)
        assert [Path(reject.path).name for reject in report.rejects] == ["a.mp4", "b.mp4"]
        assert {reject.item for reject in Library(tmp_path / "L").rejects()} == {r.item for r in report.rejects}


def test_a_labelled_copy_of_a_damaged_file_is_relabelled(tmp_path, damaged, here):
    (tmp_path / "v").mkdir()
    table = tmp_path / "l.csv"
    for name in "ab":
        (tmp_path / "v" / f"{name}.mp4").write_bytes(damaged.read_bytes())
    look(tmp_path / "v")
    for label in ("dog", "cat"):
        table.write_text(f"path,label\nv/b.mp4,{label}\n")
        look(table)
        assert {row[2] for row in clips(table)} == {label}


def test_a_reject_does_not_outlive_its_reason_when_the_run_is_killed(tmp_path, good_video, here, monkeypatch):
    video = tmp_path / "a.mp4"
    video.write_bytes(good_video.read_bytes())
    Library.create(tmp_path / "L", TINY).reject(
        [Reject(Item(video).key, str(video), "probe", "unreadable", "", *ingest_module.stamp_of(video))]
    )
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            look(video)
    assert look(video).rejects == Library(tmp_path / "L").rejects() == []


def test_a_name_given_to_another_file_of_the_same_size_and_time_gives_that_files_clips(tmp_path, good_video, here):
    table = tmp_path / "l.csv"
    (tmp_path / "a.mp4").write_bytes(good_video.read_bytes() + b"a")
    (tmp_path / "b.mp4").write_bytes(good_video.read_bytes() + b"b")
    seen = []
    for name in "ab":
        os.utime(tmp_path / f"{name}.mp4", ns=(7, 7))
        table.write_text(f"path,id\n{name}.mp4,one\n")
        assert look(table).clips_added == 2
        seen.append({row["clip_id"] for row in rows(tmp_path / "L")})
    assert not seen[0] & seen[1]


def test_a_drive_that_drops_out_while_a_file_is_read_does_not_reject_it_for_good(tmp_path, good_video, here):
    video = tmp_path / "a.mp4"
    video.write_bytes(good_video.read_bytes())
    here.do = lambda task: (
        Read((), MediaError("changed", "it was changed while it was read"), "decode") if task.examined else work(task)
    )
    assert [reject.reason for reject in look(video).rejects] == ["changed"]
    here.do = work
    report = look(video)
    assert (report.clips_added, report.rejects) == (2, [])


def test_a_file_that_is_still_being_written_is_looked_at_again(tmp_path, good_video, here):
    """It was bad when it was examined, and whole when that was recorded."""
    video = tmp_path / "a.mp4"
    video.write_bytes(good_video.read_bytes()[:2000])

    def slow(task):
        try:
            return work(task)
        finally:
            video.write_bytes(good_video.read_bytes())

    here.do = slow
    assert len(look(video).rejects) == 1
    here.do = work
    report = look(video)
    assert (report.clips_added, report.rejects) == (2, [])


def test_a_copy_that_changes_while_its_original_is_read_is_not_mixed_with_it(tmp_path, good_video, here):
    folder = tmp_path / "v"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.mp4").write_bytes(good_video.read_bytes())

    def changes(task):
        if task.examined:
            write_media(folder / "b.mp4", frames=pictures(14, seed=5), sound=tone(1.4, 880))
        return work(task)

    here.do = changes
    look(folder)
    here.do = work
    look(folder)
    assert [name for name, *_ in clips(folder)] == ["a.mp4"] * 2 + ["b.mp4"] * 2


def test_a_tar_that_grew_is_known_by_its_new_size(tmp_path, good_video, here):
    tar, seen = tmp_path / "t.tar", []
    here.do = lambda task: seen.append(task) or work(task)
    for names, looked_at in (("a", 2), ("ab", 3), ("ab", 0)):
        if looked_at:
            with tarfile.open(tar, "w") as file:
                for name in names:
                    (tmp_path / f"{name}.mp4").write_bytes(good_video.read_bytes() + name.encode())
                    file.add(tmp_path / f"{name}.mp4", f"{name}.mp4")
        look(tar)
        assert len(seen) == looked_at
        seen.clear()
    assert {row["file_size"] for row in rows(tmp_path / "L")} == {tar.stat().st_size}


def test_a_missing_file_gets_its_new_labels(tmp_path, good_video, here):
    table = tmp_path / "l.csv"
    (tmp_path / "a.mp4").write_bytes(good_video.read_bytes())
    for label in ("dog", "cat"):
        table.write_text(f"path,label\na.mp4,{label}\n")
        assert len(look(table).rejects) == (label == "cat")
        assert {row[2] for row in clips(table)} == {label}
        (tmp_path / "a.mp4").rename(tmp_path / "away") if label == "dog" else None


def test_what_may_not_be_looked_at_is_not_pruned(tmp_path, good_video, here, monkeypatch):
    table = tmp_path / "l.csv"
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "v.mp4").write_bytes(good_video.read_bytes() + name.encode())
    table.write_text("path\na/v.mp4\nb/v.mp4\n")
    look(table)
    stat = Path.stat

    def denied(path, **options):
        if path.parent == tmp_path / "b":
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", denied)
        report = look(table, prune=True)
    assert (report.clips_dropped, Library(tmp_path / "L").count()) == (0, 4)
