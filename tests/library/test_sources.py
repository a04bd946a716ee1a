"""Lists of every known form give the clips they name: labels, splits, windows, and what is missing."""

import io
import json
import os
import re
import shutil
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from equiav.errors import ConfigError, LibraryError, MediaError
from equiav.library.coverage import read_records
from equiav.library.ingest import ingest
from equiav.library.items import Item
from equiav.library.manifests import read_source
from equiav.library.table import Library
from equiav.library.windows import ItemTask, examine, work
from samples import TINY, pictures, tone, write_media

ID = "-a_b-c_d-e_"  # YouTube ids may begin with a dash and hold underscores


def only_clips(item):
    """The clips of an item, read in this process."""
    examined = examine(item, TINY)
    read = work(ItemTask(item, TINY, examined))
    assert read.error is None
    return read.clips


def write_wav(path, seconds, hertz=440.0, rate=16_000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tone(seconds, hertz, rate) * 32767).astype("<i2").tobytes())
    return path


def jpeg(level, size=(48, 36), kind="JPEG"):
    out = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(out, kind)
    return out.getvalue()


def level(picture):
    return float(np.asarray(Image.open(io.BytesIO(picture)).convert("L")).mean())


@pytest.mark.parametrize(
    ("name", "window"),
    [
        (f"{ID}_000030.mp4", None),
        (f"{ID}_30.mp4", None),
        (f"{ID}-30.webm", None),
        (f"{ID}_30_40.mkv", None),
        (f"{ID}_30.0_40.0.mp4", None),
        (f"{ID}_30.000_40.000.mp4", None),
        (f"{ID}_30000.mp4", None),
        (f"{ID}_30000_40000.mp4", None),
        (f"{ID}_000030_000040.mp4", None),
        (f"Y{ID}_30_40.mp4", None),
        (f"sub/{ID}_000030.MP4", None),
        (f"{ID}.mp4", (30.0, 40.0)),
        (f"Y{ID}.mp4", (30.0, 40.0)),
    ],
)
def test_a_segment_is_found_under_the_names_that_downloaders_give(tmp_path, name, window):
    other = "Xa_b-c_d-e_"  # another id, and the right id at another time, are not it
    for path in (name, f"{other}_000030.mp4", f"{ID}_000031.mp4", f"{ID}_40.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "vgg.csv").write_text(f'{ID},30,"cat, purring",test\n')
    (item,) = read_source(tmp_path / "vgg.csv").items
    assert (item.path, item.labels, item.split) == (tmp_path / name, ("cat, purring",), "test")
    assert (item.start_s, item.end_s) == (window or (None, None))


@pytest.mark.parametrize("name", [f"{ID}_30.000_40.000.mp4", f"{ID}.MP4"])
def test_a_segments_video_comes_before_its_sound_however_they_are_called(tmp_path, name):
    for path in (name, f"{ID}_000030.wav", f"{ID}.m4a"):
        (tmp_path / path).touch()
    (tmp_path / "vgg.csv").write_text(f"{ID},30,dog,test\n")
    assert read_source(tmp_path / "vgg.csv").items[0].path == tmp_path / name
    (tmp_path / name).unlink()
    assert read_source(tmp_path / "vgg.csv").items[0].path == tmp_path / f"{ID}_000030.wav"


def test_a_file_named_by_its_id_alone_is_the_recording_or_the_window_cut_out_of_it(tmp_path):
    item = Item(tmp_path / "x.mp4", start_s=30.0, end_s=40.0, maybe_cut=True)
    assert (item.within(10.04).start_s, item.within(10.04).end_s) == (None, None)
    assert (item.within(243.0).start_s, item.within(243.0).end_s) == (30.0, 40.0)
    assert item.key == item.within(243.0).key


def test_audiosets_list_has_several_labels_by_name_and_its_split_is_what_we_say(tmp_path):
    (tmp_path / "eval.csv").write_text(
        "# Segments csv created\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
        f'{ID}, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
    )
    (tmp_path / f"{ID}_30.mp4").touch()
    (item,) = read_source(tmp_path / "eval.csv", split="test").items
    assert (item.labels, item.split) == (("/m/09x0r", "/t/dd00088"), "test")
    names = tmp_path / "class_labels_indices.csv"
    names.write_text('index,mid,display_name\n0,/m/09x0r,"Speech, male"\n1,/t/dd00088,Gush\n')
    assert read_source(tmp_path / "eval.csv").items[0].labels == ("Speech, male", "Gush")
    names.write_text("index,mid,display_name\n0,/m/09x0r,Speech\n")
    with pytest.raises(ConfigError, match="line 4: label '/t/dd00088' is not in the label map"):
        read_source(tmp_path / "eval.csv")
    names.write_text("mid,name\n/m/09x0r,Speech\n")
    with pytest.raises(ConfigError, match="expected index,mid,display_name"):
        read_source(tmp_path / "eval.csv")
    names.write_text(f"index,mid,display_name\n0,/m/09x0r,{'x' * 200_000}\n")
    with pytest.raises(ConfigError, match="line 1: field larger than field limit"):
        read_source(tmp_path / "eval.csv")


def test_vggsounds_labels_are_names_and_need_no_map_of_mids(tmp_path):
    (tmp_path / "vgg.csv").write_text(f'{ID},30,"race car, auto racing",test\n{ID},90,people marching,\n')
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/09x0r,Speech\n")
    items = read_source(tmp_path / "vgg.csv", split="dev").items
    assert [(item.labels, item.split) for item in items] == [
        (("race car, auto racing",), "test"),
        (("people marching",), "dev"),
    ]
    with pytest.raises(ConfigError, match="'race car, auto racing' is not in the label map"):
        read_source(tmp_path / "vgg.csv", label_map=tmp_path / "class_labels_indices.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{ID},30,dog,test\n{ID},x,dog,test\n", "line 2: 'x', 'dog' are no seconds"),
        (f"{ID},30,dog,test\nshort,30,dog,test\n", "line 2: found short,30,dog,test, expected id,start,label,split"),
        (f'# YTID\n{ID}, 30, 20, "/m/1"\n', "line 2: window 30.0–20.0 s is empty"),
        (f"{ID},30,dog,test\n{ID},30,dog,train\n", "in two splits"),
    ],
)
def test_a_wrong_line_of_a_dataset_is_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_source(tmp_path / "t.csv")


def test_coverage_counts_what_is_missing_and_what_cannot_be_read_and_what_comes_later_is_found(tmp_path, good_video):
    media, library = tmp_path / "media", tmp_path / "L"
    media.mkdir()
    ids = [f"{i}{ID[1:]}" for i in range(5)]
    shutil.copy(good_video, media / f"{ids[0]}_000001.mp4")
    (media / f"{ids[1]}_000001.mp4").write_bytes(good_video.read_bytes()[:900])
    (tmp_path / "vgg.csv").write_text(
        "".join(f"{name},1,dog,{'test' if i > 2 else 'train'}\n" for i, name in enumerate(ids))
    )
    listing = read_source(tmp_path / "vgg.csv", media=media)
    report = ingest(listing, library, TINY, workers=1)
    assert [vars(one) for one in report.coverage] == [
        {"split": "test", "listed": 2, "found": 0, "missing": 2, "unreadable": 0, "reasons": {"missing": 2}},
        {
            "split": "train",
            "listed": 3,
            "found": 2,
            "missing": 1,
            "unreadable": 1,
            "reasons": {"truncated": 1, "missing": 1},
        },
    ]
    (kept,) = (library / "sources").iterdir()
    assert json.loads(kept.read_text())["coverage"] == [vars(one) for one in report.coverage]
    recorded = Library(library).rejects()
    assert sorted(reject.reason for reject in recorded) == ["missing"] * 3 + ["truncated"]
    assert any(f"no file of {ids[4]} at 1 s in {media}" in reject.detail for reject in recorded)
    write_media(media / f"{ids[4]}_1_11.mp4", frames=pictures(7, seed=4), sound=tone(0.7, 900))
    again = ingest(read_source(tmp_path / "vgg.csv", media=media), library, TINY, workers=1)
    assert (again.clips_added, again.clips_present) == (1, 2)
    assert (again.coverage[0].found, again.coverage[0].missing) == (1, 1)
    assert len(Library(library).rejects()) == 3
    assert Library(library).clips("test")["labels"].to_pylist() == [["dog"]]


@pytest.fixture
def cav(tmp_path):
    """A sound of 0.655 s with three pictures, as CAV-MAE stores them, and a video."""
    for number in range(3):
        (tmp_path / f"frame_{number}").mkdir()
        (tmp_path / f"frame_{number}" / f"{ID}.jpg").write_bytes(jpeg(60 * number + 20, (48 + 16 * number, 36)))
    write_wav(tmp_path / f"{ID}.wav", 0.655, 700)
    write_media(tmp_path / "film.mp4", frames=pictures(7), sound=tone(0.7))
    entries = [
        {"video_id": ID, "wav": f"{tmp_path}/{ID}.wav", "video_path": str(tmp_path), "labels": "/m/1,/m/2"},
        {"video_id": "film", "wav": "", "video_path": f"{tmp_path}/film.mp4", "labels": "/m/1", "split": "test"},
    ]
    (tmp_path / "cav.json").write_text(json.dumps({"data": entries}))
    return tmp_path / "cav.json"


def test_ready_sound_and_frames_are_one_clip(cav):
    item, film = read_source(cav).items
    assert (item.labels, item.split, film.labels, film.split) == (("/m/1", "/m/2"), "train", ("/m/1",), "test")
    (clip,) = only_clips(item)
    assert np.allclose([level(frame) for frame in clip.frames], [20, 80, 140], atol=3)
    assert clip.frame_times_s == pytest.approx([0, 0.655 / 3, 2 * 0.655 / 3], abs=0.002)
    assert (clip.source, clip.file_size) == (f"{item.path}#frames", sum(path.stat().st_size for path in item.files))
    # the same sound in a video of its own gives the same spectrogram
    assert np.array_equal(clip.fbank, only_clips(replace_pictures(item))[0].fbank)
    (shown,) = only_clips(film)
    assert shown.source == str(film.path)


def replace_pictures(item):
    other = item.path.parent / "other.png"
    other.write_bytes(jpeg(99, kind="PNG"))
    return Item(item.path, pictures=(other,))


def test_other_rates_and_codecs_of_sound_can_be_joined_with_frames(cav):
    expected = only_clips(read_source(cav).items[0])[0]
    write_wav(cav.parent / f"{ID}.wav", 0.655, 700, rate=44_100)
    (clip,) = only_clips(read_source(cav).items[0])
    assert clip.fbank_frames == expected.fbank_frames
    assert clip.fbank[:, 4].mean() == pytest.approx(expected.fbank[:, 4].mean(), abs=0.5)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda folder: (folder / "frame_1" / f"{ID}.jpg").unlink(), "missing"),
        (lambda folder: (folder / "frame_1" / f"{ID}.jpg").write_bytes(b"no picture"), "not_media"),
        (lambda folder: (folder / "frame_1" / f"{ID}.jpg").write_bytes(jpeg(1, kind="PNG")), "unsupported"),
        (lambda folder: (folder / "frame_1" / f"{ID}.jpg").write_bytes(_huge_png()), "unsupported"),
        (lambda folder: (folder / "frame_1" / f"{ID}.jpg").write_bytes(jpeg(1, (640, 480))[:-200]), "corrupt"),
        (lambda folder: (folder / f"{ID}.wav").write_bytes((folder / f"{ID}.wav").read_bytes()[:9000]), "truncated"),
        (lambda folder: (folder / f"{ID}.wav").write_bytes(bytes(9000)), "not_media"),
        (lambda folder: (folder / f"{ID}.wav").unlink(), "missing"),
        (lambda folder: (folder / f"{ID}.wav").write_bytes(b""), "empty_file"),
    ],
)
def test_a_clip_with_a_bad_piece_is_a_reject(cav, fault, reason):
    fault(cav.parent)
    with pytest.raises(MediaError) as raised:
        examine(read_source(cav).items[0], TINY)
    assert raised.value.reason == reason


def _huge_png():
    """Says 60000x60000 pixels in its header."""
    data = bytearray(jpeg(1, kind="PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "expected JSON with a list `data`"),
        ("[1", "expected JSON"),
        ('{"data": {}}', "`data` is dict"),
        ('{"data": [{"video_id": "x", "labels": ""}]}', r"data\[0\]: no video_path; expected"),
        ('{"data": []}', "no lines"),
    ],
)
def test_a_wrong_json_is_named(tmp_path, text, message):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_source(tmp_path / "t.json")


def test_jsonl_has_labels_as_lists_and_folds_as_splits(tmp_path):
    rows = [
        {"path": "a.mp4", "labels": ["cat; tabby", "animal"], "fold": 0, "id": 7},
        {"path": "b.mp4", "label": "dog", "start_s": 1, "end_s": 2.5},
        {"path": "b.mp4", "label": 3, "start_s": 1, "end_s": 2.5},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = read_source(tmp_path / "t.jsonl", split="dev").items
    assert (first.labels, first.split, first.path) == (("cat; tabby", "animal"), "fold0", tmp_path / "a.mp4")
    assert (second.labels, second.split, second.start_s, second.end_s) == (("dog", "3"), "dev", 1.0, 2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]\n", "line 1: found list, expected an object"),
        ('{"path": "a.mp4"}\n{"path": \n', "line 2: no JSON"),
        ('{"file": "a.mp4"}\n', "line 1: keys are file; expected path"),
        ('{"path": "a.mp4", "labels": {"a": 1}}\n', "line 1: labels is {'a': 1}, expected text"),
        ('{"path": 3}\n', "line 1: the path is empty"),
        ('{"path": "a.mp4", "label": "\\ud800"}\n', "line 1: no JSON"),
        ('{"path": "a.mp4", "split": "test", "fold": 1}\n', "in one split: drop a column"),
        ('{"path": "a.mp4", "id": 1}\n{"path": "b.mp4", "id": 1}\n', "two lines have the same id"),
        ('{"path": "a.mp4", "start_s": [1]}\n', r"start_s: found \[1\], expected text or a number"),
    ],
)
def test_a_wrong_jsonl_names_its_line(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_source(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.csv", "file_name,text,label\na.mp4,a dog,dog\nb.mp4,a man, walking,man\n", "line 3: more fields"),
        ("t.csv", "path,label\na.mp4,dog,bark\n", "line 2: more fields than the header"),
        ("metadata.csv", "file_name,label,label\na.mp4,dog,bark\n", "two columns are called label"),
        ("t.csv", "path,label,label\na.mp4,dog,bark\n", "two columns are called label"),
    ],
)
def test_a_csv_with_an_ambiguous_column_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_source(tmp_path if name == "metadata.csv" else tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,text,text,label\na.mp4,a dog,it barks,dog\n")
    assert read_source(tmp_path).items[0].labels == ("dog",), "columns that are not read may be called anything"


def test_an_id_keeps_its_item_when_the_file_is_moved(tmp_path):
    keys = []
    for name in ("a.mp4", "moved.mp4"):
        (tmp_path / "t.csv").write_text(f"path,id\n{name},x1\n")
        keys.append(read_source(tmp_path / "t.csv").items[0].key)
    assert keys[0] == keys[1]


def test_a_hugging_face_folder_has_its_splits_in_columns_or_folders(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "metadata.csv").write_text("file_name,label,caption\nclips/a.mp4,dog,a dog; it barks\n")
    items = read_source(tmp_path).items
    assert [(item.path, item.labels, item.split) for item in items] == [
        (tmp_path / split / "clips/a.mp4", ("dog",), split) for split in ("test", "train")
    ]
    rows = [{"file_name": "validation/x.mp4", "labels": ["a", "b"]}, {"file_name": "y.mp4", "split": "test"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = read_source(tmp_path).items
    assert (first.labels, first.split, second.labels, second.split) == (("a", "b"), "validation", (), "test")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.mp4"}\n{"text": "no file"}\n')
    with pytest.raises(ConfigError, match="line 2: keys are text; expected file_name"):
        read_source(tmp_path)


def test_a_file_called_metadata_hides_no_videos(tmp_path, good_video):
    for place in ("a", "b", ".trash"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.mp4").write_bytes(good_video.read_bytes())
    (tmp_path / "b" / "metadata.csv").write_text("file_name,label\nx.mp4,dog\n")
    (tmp_path / ".trash" / "metadata.csv").write_text("file_name,label\nx.mp4,dog\n")
    (tmp_path / "metadata.csv").write_text("date,camera\n2024,one\n")
    listing = read_source(tmp_path)
    assert [item.path for item in listing.items] == [tmp_path / place / "x.mp4" for place in ("a", "b")]


def test_a_circle_of_links_and_links_that_lead_out_are_no_crash(tmp_path, good_video):
    inside, outside = tmp_path / "in", tmp_path / "out.tar"
    inside.mkdir()
    (inside / "circle.mp4").symlink_to(inside / "circle.mp4")
    with tarfile.open(outside, "w") as tar:
        tar.add(good_video, "a.mp4")
    (inside / "far.tar").symlink_to(outside)
    assert [item.path.name for item in read_source(inside).items] == ["circle.mp4"]
    report = ingest(inside, tmp_path / "L", TINY, workers=1)
    assert [reject.reason for reject in report.rejects] == ["missing"]


def test_a_pipe_is_no_source_and_a_source_has_one_name(tmp_path, good_video):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ConfigError, match="no regular one"):
        read_source(tmp_path / "pipe.mp4")
    folder = tmp_path / "v"
    folder.mkdir()
    shutil.copy(good_video, folder)
    assert read_source(folder / ".." / "v") == read_source(folder)


def test_a_source_reached_from_elsewhere_is_the_same_source(tmp_path, good_video, monkeypatch):
    media = tmp_path / "v"
    (media / "sub").mkdir(parents=True)
    shutil.copy(good_video, media / f"{ID}_000030.mp4")
    (tmp_path / "vgg.csv").write_text(f"{ID},30,dog,test\n")
    for source, files in ((media, None), (tmp_path / "vgg.csv", media)):
        library = tmp_path / f"L{source.name}"
        for place in (tmp_path, media, media / "sub"):
            monkeypatch.chdir(place)
            found = [None if path is None else Path(os.path.relpath(path)) for path in (source, files)]
            report = ingest(read_source(found[0], media=found[1]), library, TINY, workers=1)
            assert (report.clips_added + report.clips_present, report.duplicates) == (2, 0)
        assert len(read_records(library)) == 1


def test_a_split_that_is_no_text_is_refused(tmp_path, good_video):
    with pytest.raises(ConfigError, match="--split"):
        read_source(good_video, split=os.fsdecode(b"\xff"))
    (tmp_path / "l.jsonl").write_text('{"path": "a.mp4", "split": ["a"]}\n')
    with pytest.raises(ConfigError, match="split: found"):
        read_source(tmp_path / "l.jsonl")


def test_what_cannot_be_looked_at_is_one_missing_clip_of_a_cav_list(tmp_path):
    long = "x" * 300
    entries = [{"video_id": name, "video_path": name, "labels": "a"} for name in (long, "b")]
    (tmp_path / "l.json").write_text(json.dumps({"data": entries}))
    report = ingest(tmp_path / "l.json", tmp_path / "L", TINY, workers=1)
    assert sorted(reject.reason for reject in report.rejects) == ["missing", "unreadable"]


def test_names_that_are_no_utf8_are_rejects_like_others(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / os.fsdecode(b"\xfe.mp4")).write_bytes(b"no video")
    (tmp_path / "vgg.csv").write_text(f"{ID},30,dog,test\n")
    for source in (folder, read_source(tmp_path / "vgg.csv", media=folder)):
        report = ingest(source, tmp_path / "L", TINY, workers=1)
        assert report.rejects[0].path.startswith(f"{tmp_path}/\\xff/")
    assert [reject.reason for reject in Library(tmp_path / "L").rejects()] == ["not_media", "missing"]
    assert len(read_records(tmp_path / "L")) == 2


def test_options_that_a_source_has_no_use_for_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("path\na.mp4\n")
    with pytest.raises(ConfigError, match="--media and --labels go with"):
        read_source(tmp_path / "t.csv", media=tmp_path)
    with pytest.raises(ConfigError, match="no such folder; --media is"):
        read_source(tmp_path / "t.csv", media=Path("nowhere"))


def test_records_of_hidden_sources_count_and_a_damaged_one_is_named(tmp_path, good_video):
    shutil.copy(good_video, tmp_path / ".a.mp4")
    ingest(tmp_path / ".a.mp4", tmp_path / "L", TINY, workers=1)
    assert len(read_records(tmp_path / "L")) == 1
    (path,) = (tmp_path / "L" / "sources").iterdir()
    whole = json.loads(path.read_text())
    bad = ["{", "", "\0" * 9, "[]", "null", "{}", json.dumps(whole | {"duplicates": None})]
    for text in [*bad, json.dumps(whole | {"coverage": [{"found": 1}]})]:
        path.write_text(text)
        with pytest.raises(LibraryError, match="is damaged"):
            read_records(tmp_path / "L")


SYSTEM = ("@eaDir", "#recycle", "$Recycle.Bin", "LOST+FOUND", "__macosx", ".Trash-1000", "System Volume Information")
SYSTEM += (
    ".Trashes",
    "@Recycle",
    "@recently-snapshot",
    "#snapshot",
    ".snapshot",
    "RECYCLER",
    "~snapshot",
    ".AppleDouble",
)


@pytest.mark.parametrize("name", SYSTEM)
def test_what_a_system_keeps_for_itself_is_left_out_and_counted_unless_it_is_named(tmp_path, name):
    for path in ("a.mp4", f"{name}/b.mp4", f"sub/{name}/deep/c.mp4", f"sub/x{name}x/d.mp4", "sub/._a.mp4"):
        (tmp_path / "v" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / path).touch()
    found = read_source(tmp_path / "v")
    names = {item.path.name for item in found.items}
    assert names - {"d.mp4"} == {"a.mp4"}
    assert "d.mp4" in names or name[0] == "."
    assert found.system_folders == {name: 2}
    for source in (tmp_path / "v" / name, tmp_path / "v" / name / "b.mp4"):
        named = read_source(source)
        assert ([item.path.name for item in named.items], named.system_folders) == (["b.mp4"], {})
    (tmp_path / "l.csv").write_text(f"path\nv/{name}/b.mp4\n")
    assert read_source(tmp_path / "l.csv").items[0].path == tmp_path / "v" / name / "b.mp4"
    (tmp_path / "v" / "a.mp4").unlink()
    shutil.rmtree(tmp_path / "v" / "sub")
    with pytest.raises(ConfigError, match=re.escape(f"system's folders {name}: name one")):
        read_source(tmp_path / "v")


@pytest.mark.parametrize("name", ["found.mp4s", "recycle", "snapshot", "lost and found", "eaDir", "Recycled"])
def test_a_folder_that_may_be_somebodys_is_read(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.mp4").touch()
    found = read_source(tmp_path)
    assert (len(found.items), found.system_folders) == (1, {})


def test_a_deleted_segment_is_missing(tmp_path):
    (tmp_path / "media" / "#recycle").mkdir(parents=True)
    (tmp_path / "media" / "#recycle" / f"{ID}_30.mp4").touch()
    (tmp_path / "vgg.csv").write_text(f"{ID},30,dog,test\n")
    listing = read_source(tmp_path / "vgg.csv", media=tmp_path / "media")
    assert listing.items[0].fault[0] == "missing"
    assert listing.system_folders == {"#recycle": 1}
