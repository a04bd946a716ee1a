"""Some contents are held out, by a hash, and folders may be labels: whatever the history of a folder is."""

import hashlib
import itertools
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import lance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equiav.errors import ConfigError
from equiav.library import ingest as ingest_module
from equiav.library.ingest import ingest
from equiav.library.items import is_held_out
from equiav.library.manifests import read_source
from equiav.library.table import Library
from equiav.library.windows import CONTENT_DIGITS, ClipWindow, Examined, Read, stamp_of
from equiav.media.probe import MediaInfo
from equiav.media.windows import Window
from in_process import InProcess
from samples import TINY, pictures, tone, write_media
from tiny_library import FEATURES, make_clip

PATHS = ("a.mp4", "b.mp4", "dog/a.mp4", "dog/big/b.mp4", "cat/a.mp4", "cat/b.mp4")
SHARES = (None, 0.1, 0.3, 0.49)
CLIP, CLOCK = make_clip(0), itertools.count(1)


def digest(content):
    return hashlib.sha256(content).hexdigest()


def held(content, share):
    """What `is_held_out` says, in other words."""
    return int(digest(content), 16) / 2**256 < share


class Pool(InProcess):
    """Every file has three windows; nothing is decoded."""

    def __init__(self):
        super().__init__(0, self.result)
        self.opened = []

    def result(self, task):
        item = task.item
        if task.examined:
            told = {"item": item.key, "source": item.source, "labels": list(item.labels), "split": item.split}
            told |= {"origin": task.origin, "item_windows": 3, "content": task.examined.content}
            told |= dict(zip(("file_size", "file_mtime_ns"), task.examined.stamp, strict=True))
            return Read(tuple(replace(CLIP, clip_id=name, **told) for _, name in task.examined.windows), None)
        self.opened.append(item.path)
        content = digest(item.path.read_bytes())
        windows = tuple(ClipWindow(Window(float(i), i + 1.0), f"{content[:20]}{i}") for i in range(3))
        info = MediaInfo(3.0, 3.0, None, 16_000, 1, None, None, None)
        return Examined(stamp_of(item.path), info, windows, 3, content=content[:CONTENT_DIGITS])


@pytest.fixture
def pool(monkeypatch):
    made = Pool()
    monkeypatch.setattr(ingest_module, "_pool", lambda *_: made)
    return made


def take_in(folder, library, share=None, by_folder=False, **options):
    return ingest(read_source(folder, by_folder=by_folder, hold_out=share), library, FEATURES, **options)


def rows(library):
    columns = ["clip_id", "source", "labels", "split", "content"]
    found = Library(library).clips(columns=columns, statuses=("ok",)).to_pylist()
    return {row.pop("clip_id"): row for row in found}


def splits(library):
    """Content → the splits of its clips."""
    found = {}
    for row in rows(library).values():
        found.setdefault(row["content"], set()).add(row["split"])
    return found


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    now = next(CLOCK)
    os.utime(path, ns=(now, now))


path = st.sampled_from(PATHS)
change = st.one_of(
    st.tuples(st.just("put"), path, st.integers(0, 9)),
    st.tuples(st.just("copy"), path, path),
    st.tuples(st.just("move"), path, path),
    st.tuples(st.just("delete"), path, path),
    st.tuples(st.just("ingest"), st.sampled_from(SHARES), st.booleans()),
)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(change, max_size=10), st.sampled_from(SHARES[1:]))
def test_after_any_history_a_content_is_in_one_split_and_has_the_label_of_its_folder(history, last):
    root = Path(tempfile.mkdtemp())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ingest_module, "_pool", lambda *_: Pool())
            folder, library = root / "VIDEOS", root / "L"
            write(folder / "cat" / "a.mp4", b"first")
            for name, *values in [*history, ("ingest", last, True)]:
                happen(folder, library, name, *values)
            check(folder, library, last)
            before = rows(library)
            take_in(folder, library, last, by_folder=True)
            assert rows(library) == before, "once more changes nothing"
    finally:
        shutil.rmtree(root)


def happen(folder, library, name, one, other):
    if name == "ingest":
        if any(folder.rglob("*.mp4")):
            take_in(folder, library, one, by_folder=other)
    elif name == "put":
        write(folder / one, f"content {other}".encode())
    elif (folder / one).exists() and (name == "delete" or one != other):
        content = (folder / one).read_bytes()
        if name != "copy" and sum(1 for _ in folder.rglob("*.mp4")) > 1:
            (folder / one).unlink()
        if name != "delete":
            write(folder / other, content)


def check(folder, library, share):
    found = rows(library)
    there = {}
    for file in sorted(folder.rglob("*.mp4"), key=lambda file: read_order(folder, file)):
        there.setdefault(digest(file.read_bytes())[:20], file)
    for clip_id, row in found.items():
        if file := there.get(clip_id[:20]):  # of a file that is gone the row stays as it was
            assert (row["split"] == "test") == held(file.read_bytes(), share)
            below = file.relative_to(folder).parts
            assert row["labels"] == list(below[:-1][:1])
    assert {clip_id[:20] for clip_id in found} >= there.keys()
    assert all(len(names) == 1 for names in splits(library).values())


def read_order(folder, file):
    listed = [item.path for item in read_source(folder).items]
    return listed.index(file)


def test_more_files_move_no_others_and_a_larger_share_holds_out_more(tmp_path, pool):
    folder, library, last = tmp_path / "V", tmp_path / "L", {}
    for i in range(60):
        write(folder / f"{i}.mp4", f"video {i}".encode())
        if i % 20 == 19:
            report = take_in(folder, library, 0.2)
            now = splits(library)
            assert last.items() <= now.items()
            assert report.held_out == sum(names == {"test"} for names in now.values())
            last = now
    assert report.held_out == sum(held(f"video {i}".encode(), 0.2) for i in range(60)) > 0
    opened = len(pool.opened)
    assert take_in(folder, library, 0.4).clips_relabelled > 0
    assert len(pool.opened) == opened, "what is known of the files is enough"
    more = splits(library)
    assert {content for content, names in last.items() if names == {"test"}} < {
        content for content, names in more.items() if names == {"test"}
    }
    take_in(folder, library)
    assert splits(library) == more, "without a share clips stay where they are"


def test_the_share_of_many_contents_is_what_was_asked_for():
    contents = [digest(f"{i}".encode()) for i in range(4000)]
    for share in (0.01, 0.1, 0.3, 0.49):
        expected, spread = 4000 * share, (4000 * share * (1 - share)) ** 0.5
        assert abs(sum(is_held_out(content, share) for content in contents) - expected) < 4 * spread
    assert all(is_held_out(digest(b"a video"), share) == held(b"a video", share) for share in SHARES[1:])
    assert not is_held_out("f" * CONTENT_DIGITS, 0.49)
    assert is_held_out("0" * CONTENT_DIGITS, 1e-9)


def test_a_library_of_an_older_equiav_is_held_out_once_its_files_were_hashed_again(tmp_path, pool):
    folder, library = tmp_path / "V", tmp_path / "L"
    for i in range(12):
        write(folder / f"{i}.mp4", f"video {i}".encode())
    take_in(folder, library)
    lance.dataset(library / "clips.lance").drop_columns(["content"])
    opened = len(pool.opened)
    take_in(folder, library)
    assert len(pool.opened) == opened
    report = take_in(folder, library, 0.3)
    assert len(pool.opened) == opened + 12
    assert report.clips_added == 0
    assert report.held_out == sum(held(f"video {i}".encode(), 0.3) for i in range(12)) > 0
    take_in(folder, library, 0.3)
    assert len(pool.opened) == opened + 12


def test_copies_of_what_another_folder_gave_an_older_equiav_are_held_out(tmp_path, pool):
    folder, other, library = tmp_path / "V", tmp_path / "W", tmp_path / "L"
    for i in range(12):
        write(folder / f"{i}.mp4", f"video {i}".encode())
        write(other / f"{i}.mp4", f"video {i}".encode())
    take_in(folder, library)
    lance.dataset(library / "clips.lance").drop_columns(["content"])
    take_in(other, library, 0.3)
    found = {Path(row["source"]): row["split"] for row in rows(library).values()}
    assert found == {file: "test" if held(file.read_bytes(), 0.3) else "train" for file in folder.iterdir()}


def test_windows_of_a_list_are_held_out_with_their_file_and_keep_their_labels(tmp_path):
    """Real ones: a list that names parts of two videos."""
    seeds = {}
    for seed in range(20):
        video = write_media(tmp_path / f"{seed}.mp4", frames=pictures(14, seed=seed), sound=tone(1.4))
        seeds.setdefault(held(video.read_bytes(), 0.4), seed)
    table = tmp_path / "t.csv"
    lines = [f"{seed}.mp4,x,0,0.7\n{seed}.mp4,y,0.7,1.4\n" for seed in seeds.values()]
    table.write_text("path,label,start_s,end_s\n" + "".join(lines))
    ingest(read_source(table, hold_out=0.4), tmp_path / "L", TINY, workers=1)
    found = Library(tmp_path / "L").clips(columns=["source", "labels", "split"]).to_pylist()
    told = sorted((Path(row["source"]).name, row["labels"], row["split"]) for row in found)
    wanted = [(f"{seed}.mp4", [x], "test" if out else "train") for out, seed in seeds.items() for x in "xy"]
    assert told == sorted(wanted)


def test_a_label_that_a_folder_gave_goes_when_the_file_leaves_it(tmp_path, pool):
    folder, library = tmp_path / "V", tmp_path / "L"
    write(folder / "dog" / "a.mp4", b"one")
    write(folder / "b.mp4", b"two")
    assert take_in(folder, library, by_folder=True).clips_added == 6
    assert sorted({(Path(row["source"]).name, *row["labels"]) for row in rows(library).values()}) == [
        ("a.mp4", "dog"),
        ("b.mp4",),
    ]
    (folder / "dog" / "a.mp4").rename(folder / "a.mp4")
    assert take_in(folder, library, by_folder=True).clips_relabelled == 3
    assert all(row["labels"] == [] for row in rows(library).values())
    (folder / "cat").mkdir()
    (folder / "b.mp4").rename(folder / "cat" / "b.mp4")
    take_in(folder, library)
    assert all(row["labels"] == [] for row in rows(library).values()), "not asked for"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hold_out": 0.5}, "below 50 %"),
        ({"hold_out": 0.0}, "above 0"),
        ({"hold_out": -0.1}, "above 0"),
        ({"hold_out": float("nan")}, "found nan"),
        ({"hold_out": 0.1, "split": "test"}, "another --split"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(tmp_path, options, text):
    write(tmp_path / "V" / "a.mp4", b"one")
    with pytest.raises(ConfigError, match=text):
        read_source(tmp_path / "V", **options)


def test_a_list_that_says_its_splits_or_labels_is_not_overruled(tmp_path):
    write(tmp_path / "a.mp4", b"one")
    (tmp_path / "t.csv").write_text("path,label,split\na.mp4,dog,validation\n")
    with pytest.raises(ConfigError, match="in the splits validation"):
        read_source(tmp_path / "t.csv", hold_out=0.1)
    with pytest.raises(ConfigError, match="goes with a folder"):
        read_source(tmp_path / "t.csv", by_folder=True)
    with pytest.raises(ConfigError, match="goes with a folder"):
        read_source(tmp_path / "a.mp4", by_folder=True)
