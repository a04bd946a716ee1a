"""What is exported reads back in: the same clips from lists, the same sound and labels from files of their own."""

import json
import shutil
import tarfile

import numpy as np
import pytest
from test_shards import pack
from test_sources import jpeg, only_clips, write_wav

from equiav.errors import ConfigError
from equiav.library.export import export_clips
from equiav.library.ingest import ingest
from equiav.library.manifests import read_source
from equiav.library.table import Library
from samples import TINY, pictures, tone, write_media

LABELS = {"a.mp4": ["cat, purring", "animal"], "b, ünï.mp4": []}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Two videos of two windows each, and a sample of a tar."""
    folder = tmp_path_factory.mktemp("export")
    for i, name in enumerate(LABELS):
        write_media(folder / "v.mp4", frames=pictures(14, seed=i), sound=tone(1.4, 300 + 200 * i)).rename(folder / name)
    rows = [{"path": name, "labels": labels, "split": "test"} for name, labels in LABELS.items()]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingest(folder / "t.jsonl", folder / "L", TINY, workers=1)
    wav = write_wav(folder / "s.wav", 0.655, 900).read_bytes()
    pack(folder / "s.tar", [("k.wav", wav), ("k.0.jpg", jpeg(40)), ("k.1.jpg", jpeg(160))])
    ingest(folder / "s.tar", folder / "L", TINY, workers=1)
    return Library(folder / "L")


def by_sound(clips):
    """Label, split, spectrogram and frames of each clip, ordered by the sound."""
    found = [(tuple(clip.labels), clip.split, clip.fbank, clip.frames) for clip in clips]
    return sorted(found, key=lambda clip: clip[2].tobytes())


def stored(library, split):
    table = library.clips(split)
    fbanks = library.fbanks(table).astype(np.float16)
    columns = (table["labels"].to_pylist(), table["split"].to_pylist(), fbanks, table["frames"].to_pylist())
    rows = [(tuple(labels), split, fbank, frames) for labels, split, fbank, frames in zip(*columns, strict=True)]
    return sorted(rows, key=lambda clip: clip[2].tobytes())


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_list_names_the_same_clips_and_reports_what_it_cannot_name(library, tmp_path, kind):
    out = tmp_path / f"clips.{kind}"
    report = export_clips(library, out, kind)
    assert (report.clips, [left.reason for left in report.left_out]) == (4, ["unsupported"])
    assert report.left_out[0].source.endswith("s.tar#k")
    items = read_source(out).items
    assert all(item.split == "test" for item in items)
    clips = [clip for item in items for clip in only_clips(item)]
    table = library.clips("test", ["clip_id", "labels"])
    expected = dict(zip(table["clip_id"].to_pylist(), table["labels"].to_pylist(), strict=True))
    assert {clip.clip_id: clip.labels for clip in clips} == expected


@pytest.mark.parametrize("kind", ["webdataset", "cav"])
@pytest.mark.parametrize("split", ["test", "train"])
def test_exported_clips_hold_the_same_sound_labels_and_frames(library, tmp_path, kind, split):
    report = export_clips(library, tmp_path / "out", kind, split=split)
    assert (report.clips, report.left_out) == ({"test": 4, "train": 1}[split], [])
    source = tmp_path / "out" / (f"{split}.json" if kind == "cav" else "clips-000000.tar")
    read = by_sound(clip for item in read_source(source).items for clip in only_clips(item))
    for found, expected in zip(read, stored(library, split), strict=True):
        assert found[:2] == expected[:2]
        assert np.array_equal(found[2], expected[2])  # bit for bit
        assert len(found[3]) == TINY.frames_per_clip
        # JPEG once more, of the very frame
        assert all(np.abs(grey(a) - grey(b)).mean() < 3 for a, b in zip(found[3], expected[3], strict=True))


def grey(picture):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"), np.float64)


def test_shards_are_filled_in_turn_and_the_same_again(library, tmp_path, monkeypatch):
    monkeypatch.setattr("equiav.library.export.SHARD_CLIPS", 2)
    for name in "ab":
        export_clips(library, tmp_path / name, "webdataset", workers=2 if name == "b" else 1)
    shards = [sorted((tmp_path / name).iterdir()) for name in "ab"]
    assert [path.name for path in shards[0]] == [f"clips-{i:06d}.tar" for i in range(3)]
    assert [a.read_bytes() == b.read_bytes() for a, b in zip(*shards, strict=True)] == [True] * 3
    with tarfile.open(shards[0][2]) as tar:
        assert len({member.name.split(".")[0] for member in tar}) == 1


def test_a_clip_whose_source_is_gone_or_another_is_left_out(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i, name in enumerate(("gone.mp4", "other.mp4", "kept.mp4")):
        write_media(folder / name, frames=pictures(7, seed=i), sound=tone(0.7, 300 + 100 * i))
    ingest(folder, tmp_path / "L", TINY, workers=1)
    (folder / "gone.mp4").unlink()
    shutil.copy(folder / "kept.mp4", folder / "other.mp4")
    report = export_clips(Library(tmp_path / "L"), tmp_path / "out", "webdataset")
    assert (report.clips, [left.reason for left in report.left_out]) == (1, ["missing", "changed"])
    assert len(read_source(tmp_path / "out" / "clips-000000.tar").items) == 1


def test_nothing_is_written_over_and_an_export_of_nothing_is_an_error(library, tmp_path):
    (tmp_path / "mine.csv").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        export_clips(library, tmp_path / "mine.csv", "csv")
    with pytest.raises(ConfigError, match="is there already"):
        export_clips(library, tmp_path, "cav")
    with pytest.raises(ConfigError, match="split 'dev' has no clips"):
        export_clips(library, tmp_path / "new", "cav", split="dev")


def test_a_label_that_a_csv_cannot_hold_is_left_out(tmp_path, good_video):
    (tmp_path / "t.jsonl").write_text(json.dumps({"path": str(good_video), "labels": ["a;b"]}))
    ingest(tmp_path / "t.jsonl", tmp_path / "L", TINY, workers=1)
    report = export_clips(Library(tmp_path / "L"), tmp_path / "c.csv", "csv")
    assert (report.clips, {left.reason for left in report.left_out}) == (0, {"unsupported"})
    assert export_clips(Library(tmp_path / "L"), tmp_path / "c.jsonl", "jsonl").clips == 2
    assert read_source(tmp_path / "c.jsonl").items[0].labels == ("a;b",)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_list_does_not_name_a_file_that_is_another_now(tmp_path, good_video, kind):
    path = tmp_path / "a.mp4"
    path.write_bytes(good_video.read_bytes())
    ingest(path, tmp_path / "L", TINY, workers=1)
    path.write_bytes(b"another")
    report = export_clips(Library(tmp_path / "L"), tmp_path / f"c.{kind}", kind)
    assert (report.clips, {left.reason for left in report.left_out}) == (0, {"changed"})


def test_splits_with_signs_have_a_file_each(tmp_path):
    rows = [{"path": f"{i}.mp4", "split": split} for i, split in enumerate(["a/b", "a_b", "a b", ".."])]
    for i, row in enumerate(rows):
        write_media(tmp_path / row["path"], frames=pictures(7, seed=i), sound=tone(0.7, 300 + 100 * i))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingest(tmp_path / "t.jsonl", tmp_path / "L", TINY, workers=1)
    export_clips(Library(tmp_path / "L"), tmp_path / "out", "cav")
    found = [json.loads(path.read_text())["data"] for path in (tmp_path / "out").glob("*.json")]
    assert sorted(entry["split"] for data in found for entry in data) == ["..", "a b", "a/b", "a_b"]


def test_a_sample_whose_key_holds_a_hash_is_found_again(tmp_path, good_video):
    pack(tmp_path / "s#1.tar", [("k#2.mp4", good_video.read_bytes())])
    ingest(tmp_path / "s#1.tar", tmp_path / "L", TINY, workers=1)
    report = export_clips(Library(tmp_path / "L"), tmp_path / "out", "webdataset")
    assert (report.clips, report.left_out) == (2, [])
