"""Media on an object store become the clips that they are as files; what changed there is read again."""

import os
import shutil
import subprocess
import sys

import pytest

from equiav.errors import ConfigError
from equiav.library import fetch
from equiav.library import ingest as ingest_module
from equiav.library.export import export_clips
from equiav.library.ingest import ingest
from equiav.library.places import BucketPath
from equiav.library.records import STATUSES
from equiav.library.table import Library
from samples import TINY, pictures, tone, write_media


@pytest.fixture
def media(bucket, bad_videos, tmp_path):
    """The same files in a folder and below a URL: one good, one of pictures alone, one broken; others that are none."""
    folder = tmp_path / "videos"
    for inside in ("b", ".hidden", "@eaDir"):
        (folder / inside).mkdir(parents=True)
    write_media(folder / "a.mp4", frames=pictures(14), sound=tone(1.4))
    write_media(folder / "b" / "C.MKV", frames=pictures(8, seed=1))
    write_media(folder / ".hidden" / "d.mp4", frames=pictures(9, seed=2), sound=tone(0.9))
    write_media(folder / "@eaDir" / "e.mp4", frames=pictures(9, seed=3), sound=tone(0.8))
    shutil.copy(bad_videos["text"], folder / "bad.mp4")
    (folder / "notes.txt").write_text("no media")
    for path in filter(lambda path: path.is_file(), folder.rglob("*")):
        (BucketPath(bucket) / "videos" / path.relative_to(folder).as_posix()).write(path.read_bytes())
    return folder, BucketPath(bucket) / "videos"


def clips(library, *without):
    rows = Library(library).clips(statuses=STATUSES).sort_by([("clip_id", "ascending")])
    return rows.drop(["item", "source", "origin", "file_mtime_ns", *without]).to_pylist()


def test_media_in_a_bucket_give_the_clips_that_they_give_in_a_folder(media, bucket, tmp_path):
    folder, there = media
    here = ingest(folder, tmp_path / "L", TINY, workers=1)
    report = ingest(str(there), f"{bucket}/L", TINY, workers=1)
    assert clips(f"{bucket}/L") == clips(tmp_path / "L")
    assert (report.clips_added, report.statuses) == (here.clips_added, here.statuses)
    assert (report.files, report.ignored, report.system_folders) == (3, 1, {"@eaDir": 1})
    assert [(one.path, one.reason) for one in report.rejects] == [(f"{there}/bad.mp4", here.rejects[0].reason)]
    sources = set(Library(f"{bucket}/L").clips(statuses=STATUSES)["source"].to_pylist())
    assert sources == {f"{there}/a.mp4", f"{there}/b/C.MKV"}


def test_run_again_it_fetches_what_is_new_or_changed_alone(media, tmp_path, monkeypatch):
    folder, there = media
    ingest(there, tmp_path / "L", TINY, workers=1)
    before, fetched = clips(tmp_path / "L"), []
    download = BucketPath.download
    monkeypatch.setattr(BucketPath, "download", lambda self, to: fetched.append(self.name) or download(self, to))
    assert ingest(there, tmp_path / "L", TINY, workers=1).clips_added == 0
    assert (fetched, clips(tmp_path / "L")) == ([], before)
    write_media(folder / "b" / "C.MKV", frames=pictures(8, seed=5))
    (there / "b" / "C.MKV").write((folder / "b" / "C.MKV").read_bytes())
    (there / "f.mp4").write((folder / "a.mp4").read_bytes())  # a copy
    report = ingest(there, tmp_path / "L", TINY, workers=1)
    assert (sorted(fetched), report.clips_added, report.duplicates) == (["C.MKV", "f.mp4"], 1, 2)
    (there / "a.mp4").unlink()
    report = ingest(there, tmp_path / "L", TINY, workers=1, prune=True)
    assert report.clips_dropped == 0, "the copy gives its clips"
    assert f"{there}/f.mp4" in Library(tmp_path / "L").clips(statuses=STATUSES)["source"].to_pylist()
    (there / "f.mp4").unlink()
    assert ingest(there, tmp_path / "L", TINY, workers=1, prune=True).clips_dropped == 2


def test_a_list_may_name_objects(media, tmp_path):
    _, there = media
    listed = tmp_path / "list.csv"
    listed.write_text(
        f"path,labels,split,start_s,end_s\n{there}/a.mp4,dog;bark,test,0.5,1.1\n{there}/gone.mp4,cat,,,\n"
    )
    report = ingest(listed, tmp_path / "L", TINY, workers=1)
    assert [(one.path, one.reason) for one in report.rejects] == [(f"{there}/gone.mp4", "missing")]
    (row,) = Library(tmp_path / "L").clips().to_pylist()
    assert (row["source"], row["labels"], row["split"], row["start_s"]) == (
        f"{there}/a.mp4",
        ["dog", "bark"],
        "test",
        0.5,
    )
    assert ingest(listed, tmp_path / "L", TINY, workers=1).clips_present == 1
    out = tmp_path / "out.jsonl"
    assert export_clips(Library(tmp_path / "L"), out, "jsonl").clips == 1
    assert ingest(out, tmp_path / "L2", TINY, workers=1).clips_added == 1
    (left,) = export_clips(Library(tmp_path / "L"), tmp_path / "cav", "cav").left_out
    assert "exports read the media of this machine" in left.detail


def test_an_object_that_goes_while_it_is_fetched_is_a_reject_and_copies_do_not_stay(media, tmp_path, monkeypatch):
    _, there = media
    copied, download = [], BucketPath.download

    def gone(self, target):
        copied.append(target)
        if self.name == "a.mp4":
            raise FileNotFoundError
        return download(self, target)

    monkeypatch.setattr(BucketPath, "download", gone)
    monkeypatch.setattr(fetch, "AHEAD", 1)
    report = ingest(there, tmp_path / "L", TINY, workers=1)
    assert sorted(one.reason for one in report.rejects)[0] == "missing"
    assert len(copied) == 3
    assert not any(path.exists() or path.parent.exists() for path in copied)


def test_what_cannot_be_ingested_from_a_bucket_says_so(media, bucket, tmp_path):
    _, there = media
    with pytest.raises(ConfigError, match="with --ray mount the bucket"):
        ingest(there, tmp_path / "L", TINY, ray="local")
    with pytest.raises(ConfigError, match="lists and tars are read from a folder"):
        ingest(there / "list.csv", tmp_path / "L", TINY)
    with pytest.raises(ConfigError, match="no media files there, 0 other objects"):
        ingest(there / "none", tmp_path / "L", TINY)
    assert ingest(there / "a.mp4", tmp_path / "L", TINY, workers=1).clips_added == 2


def test_of_two_ingests_into_one_bucket_one_works(media, bucket, monkeypatch):
    """The second finds the first in the middle of its work."""
    _, there = media
    told = []

    def second(self, *given):
        command = [sys.executable, "-m", "equiav", "ingest", str(there), "--library", f"{bucket}/L"]
        told.append(subprocess.run(command, capture_output=True, text=True))
        return read(self, *given)

    read = ingest_module._Run.read
    monkeypatch.setattr(ingest_module._Run, "read", second)
    report = ingest(there, f"{bucket}/L", TINY, workers=1)
    assert (report.clips_added, told[0].returncode) == (3, 1)
    assert f"another process is writing to it (process {os.getpid()} on " in told[0].stderr
    assert ingest(there, f"{bucket}/L", TINY, workers=1).clips_present == 3
