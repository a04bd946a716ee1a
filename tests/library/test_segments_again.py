"""A listed segment is one item for good, whichever file there is of it: none, the recording, or the part cut out."""

import hashlib
import itertools
import json
from dataclasses import replace

import pytest
from test_sources import ID, jpeg, write_wav

from equiav.errors import MediaError
from equiav.library import ingest as ingest_module
from equiav.library.ingest import ingest
from equiav.library.manifests import read_source
from equiav.library.records import STATUSES
from equiav.library.table import Library
from equiav.library.windows import ItemTask, examine, work
from in_process import InProcess
from samples import TINY, pictures, tone, write_media

FILES = {"missing": None, "cut": f"{ID}_000001.mp4", "whole": f"{ID}.mp4", "sound": f"{ID}_1.m4a"}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """The file of each kind: a recording of 13 s, and the part of it from 1 s on."""
    folder = tmp_path_factory.mktemp("recordings")
    write_media(folder / FILES["whole"], frames=pictures(130), sound=tone(13.0))
    write_media(folder / FILES["cut"], frames=pictures(100, seed=1), sound=tone(10.0))
    write_media(folder / FILES["sound"], sound=tone(10.0, 900.0))
    return folder


@pytest.fixture
def world(tmp_path, monkeypatch, recordings):
    """A list of one segment, and a way to put its file there."""
    monkeypatch.setattr(ingest_module, "_pool", lambda *_: InProcess())
    media, source = tmp_path / "media", tmp_path / "vgg.csv"
    media.mkdir()
    source.write_text(f"{ID},1,dog,test\n")

    def take_in(kind, prune=False):
        for path in media.iterdir():
            path.unlink()
        if FILES[kind]:
            (media / FILES[kind]).write_bytes((recordings / FILES[kind]).read_bytes())
        return ingest(read_source(source, media=media), tmp_path / "L", TINY, workers=1, prune=prune)

    world = type("World", (), {"media": media, "source": source, "library": tmp_path / "L"})
    world.take_in = staticmethod(take_in)
    return world


def rows(library):
    table = Library(library).clips(columns=["clip_id", "item", "source", "start_s", "labels"], statuses=STATUSES)
    return sorted(table.to_pylist(), key=lambda row: row["clip_id"])


@pytest.mark.parametrize("kinds", list(itertools.permutations(FILES, 2)))
def test_whatever_file_a_segment_had_before_it_has_the_clips_of_the_one_it_has(world, tmp_path, kinds):
    before, after = kinds
    world.take_in(before)
    old = rows(world.library) if before != "missing" else []
    report = world.take_in(after)
    (key,) = {item.key for item in read_source(world.source, media=world.media).items}
    assert all(row["item"] == key for row in rows(world.library))
    reasons = [(reject.item, reject.reason) for reject in Library(world.library).rejects()]
    assert reasons == ([(key, "missing")] if after == "missing" else [])
    if after == "missing":
        assert rows(world.library) == old, "a file that is away keeps its clips"
        return
    assert (report.coverage[0].missing, report.rejects) == (0, [])
    fresh = ingest(read_source(world.source, media=world.media), tmp_path / "fresh", TINY, workers=1)
    assert rows(world.library) == rows(tmp_path / "fresh")
    assert len(rows(world.library)) == fresh.clips_added


def old_key(media, window, start_s=1):
    """As stored before one name was given to a segment."""
    return hashlib.sha256(f"{window}|{media.absolute()}#{ID}@{start_s:g}".encode()).hexdigest()[:24]


def test_clips_that_an_older_version_stored_are_taken_over_and_not_decoded(world, monkeypatch):
    world.take_in("whole")
    library, kept = Library(world.library), rows(world.library)
    library.update([{"clip_id": row["clip_id"], "item": old_key(world.media, "1.0|11.0")} for row in kept])
    monkeypatch.setattr(ingest_module, "_pool", lambda *_: InProcess(do=_nothing))
    report = ingest(read_source(world.source, media=world.media), world.library, TINY)
    assert (report.clips_added, report.clips_present, report.rejects) == (0, len(kept), [])
    assert rows(world.library) == kept


def test_a_segment_that_an_older_version_made_the_clips_of_both_its_files_has_those_of_the_one_it_has(world):
    world.take_in("whole")
    (item,) = read_source(world.source, media=world.media).items
    windows = [replace(examine(item, TINY), windows=(window,)) for window in examine(item, TINY).windows]
    tasks = [ItemTask(item, TINY, window, origin=str(world.source)) for window in windows]
    world.take_in("cut")
    before = rows(world.library)
    write_media(world.media / FILES["whole"], frames=pictures(130), sound=tone(13.0))
    stale = [replace(clip, item=old_key(world.media, "1.0|11.0")) for task in tasks for clip in work(task).clips]
    Library(world.library).append(stale)
    world.take_in("cut")
    assert rows(world.library) == before


def _nothing(task):
    raise MediaError("crashed", "nothing is to be read")


def test_segments_that_begin_together_and_end_apart_are_two_items(tmp_path):
    (tmp_path / f"{ID}.mp4").touch()
    (tmp_path / "a.csv").write_text(f"# YTID\n{ID}, 1, 11, a\n{ID}, 1, 4, b\n{ID}, 1, 11, c\n")
    first, second = read_source(tmp_path / "a.csv").items
    assert (first.end_s, first.labels, second.end_s, second.labels) == (11.0, ("a", "c"), 4.0, ("b",))
    (tmp_path / f"{ID}.mp4").unlink()
    assert [item.key for item in read_source(tmp_path / "a.csv").items] == [first.key, second.key]


def test_an_entry_of_a_cav_list_is_one_item_whichever_of_its_files_there_are(tmp_path, monkeypatch):
    entry = {"video_id": ID, "wav": f"wav/{ID}.wav", "video_path": "v", "labels": "a"}
    (tmp_path / "l.json").write_text(json.dumps({"data": [entry]}))
    keys = [read_source(tmp_path / "l.json").items[0].key]
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / f"{ID}.mkv").touch()
    found = read_source(tmp_path / "l.json").items[0]
    keys.append(found.key)
    (tmp_path / "v" / "frame_0").mkdir()
    (tmp_path / "v" / "frame_0" / f"{ID}.jpg").write_bytes(jpeg(90))
    (tmp_path / "wav").mkdir()
    write_wav(tmp_path / "wav" / f"{ID}.wav", 0.655)
    pieces = read_source(tmp_path / "l.json").items[0]
    keys.append(pieces.key)
    assert len(set(keys)) == 1
    assert (found.path.name, pieces.path.name, len(pieces.pictures)) == (f"{ID}.mkv", f"{ID}.wav", 1)
    # what was stored under the path of the sound goes on under the entry's name
    monkeypatch.setattr(ingest_module, "_pool", lambda *_: InProcess())
    ingest(tmp_path / "l.json", tmp_path / "L", TINY)
    stored = hashlib.sha256(f"None|None|{tmp_path}/wav/{ID}.wav".encode()).hexdigest()[:24]
    library = Library(tmp_path / "L")
    library.update([{"clip_id": row["clip_id"], "item": stored} for row in rows(tmp_path / "L")])
    monkeypatch.setattr(ingest_module, "_pool", lambda *_: InProcess(do=_nothing))
    report = ingest(tmp_path / "l.json", tmp_path / "L", TINY)
    assert (report.clips_present, report.rejects) == (1, [])
    assert [row["item"] for row in rows(tmp_path / "L")] == [pieces.key]


def test_rejects_that_an_older_version_stored_are_taken_over_once(world):
    world.take_in("whole")
    (world.media / FILES["whole"]).write_bytes(b"no video")
    ingest(read_source(world.source, media=world.media), world.library, TINY)
    library = Library(world.library)
    (reject,) = library.rejects()
    library.drop_rejects([reject.item])
    library.reject([type(reject)(**vars(reject) | {"item": old_key(world.media, "1.0|11.0")})])
    library.reject([type(reject)(**vars(reject) | {"item": "elsewhere", "origin": "another list"})])
    ingest(read_source(world.source, media=world.media), world.library, TINY)
    assert sorted(found.item for found in Library(world.library).rejects()) == sorted([reject.item, "elsewhere"])
