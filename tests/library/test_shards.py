"""Tars of samples: read in place, each sample a clip; what is hostile or damaged is a reject, and writes nothing."""

import io
import json
import tarfile

import numpy as np
import pytest
from test_sources import jpeg, level, only_clips, write_wav

from equiav.errors import ConfigError
from equiav.library.ingest import ingest
from equiav.library.manifests import read_source
from equiav.library.table import Library
from samples import TINY


def pack(path, members):
    """A tar of (name or TarInfo, bytes)."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def wav(tmp_path):
    return write_wav(tmp_path / "sound.wav", 0.655).read_bytes()


def test_samples_are_videos_or_sounds_with_pictures(tmp_path, good_video, wav):
    video = good_video.read_bytes()
    members = [
        ("a/one.mp4", video),
        ("a/one.json", json.dumps({"labels": ["dog", "bark"], "split": "test", "start_s": 3}).encode()),
        *((f"two.{number}.jpg", jpeg(60 * number + 20)) for number in range(3)),
        ("two.wav", wav),
        ("three.txt", b"only a caption"),
    ]
    first, second, third = read_source(pack(tmp_path / "s.tar", members), split="dev").items
    assert (first.labels, first.split, first.source) == (("dog", "bark"), "test", f"{tmp_path}/s.tar#a/one")
    assert [clip.clip_id for clip in only_clips(first)] == [
        clip.clip_id for clip in only_clips(read_source(good_video).items[0])
    ]
    (clip,) = only_clips(second)
    assert np.allclose([level(frame) for frame in clip.frames], [20, 80, 140], atol=3)
    assert (clip.labels, clip.split) == ([], "dev")
    assert third.fault[0] == "not_media"


def test_a_folder_of_tars_is_ingested_and_a_second_run_adds_nothing(tmp_path, good_video, wav):
    shards = tmp_path / "shards"
    shards.mkdir()
    pack(shards / "0.tar", [("a.mp4", good_video.read_bytes()), ("b.json", b"{"), ("b.wav", wav)])
    pack(shards / "1.tar", [("a.wav", wav), ("a.jpg", jpeg(50))])
    for added in (3, 0):
        report = ingest(shards, tmp_path / "L", TINY, workers=1)
        assert report.clips_added == added
        assert [(reject.path, reject.reason) for reject in report.rejects] == [(f"{shards}/0.tar#b", "corrupt")]
    assert report.coverage[0].listed == 3
    (shards / "loose.mp4").touch()
    with pytest.raises(ConfigError, match="1 media files and 2 tars"):
        read_source(shards)
    assert set(Library(tmp_path / "L").clips()["source"].to_pylist()) == {f"{shards}/0.tar#a", f"{shards}/1.tar#a"}


def odd(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_hostile_members_are_rejects_and_nothing_is_written(tmp_path, good_video):
    video, folder = good_video.read_bytes(), tmp_path / "in"
    folder.mkdir()
    members = [
        ("good.mp4", video),
        ("../../up.mp4", video),
        ("/abs.mp4", video),
        (odd("link.mp4", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (odd("hard.mp4", tarfile.LNKTYPE, "good.mp4"), b""),
        (odd("null.mp4", tarfile.CHRTYPE), b""),
        (odd("pipe.mp4", tarfile.FIFOTYPE), b""),
        ("big.json", b" " * (2 << 20)),
        ("deep.json", b"[" * 100_000),
        ("deep.mp4", video),
        ("many.mp4", video),
        ("many.webm", video),
        ("empty.mp4", b""),
    ]
    pack(folder / "s.tar", members)
    before = sorted(tmp_path.rglob("*"))
    report = ingest(folder, tmp_path / "L", TINY, workers=1)
    found = {reject.path.partition("#")[2]: reject.reason for reject in report.rejects}
    unsupported = ("../../up", "/abs", "link", "hard", "null", "pipe", "many")
    assert found == dict.fromkeys(unsupported, "unsupported") | {
        "big": "not_media",
        "deep": "corrupt",
        "empty": "empty_file",
    }
    assert report.clips_added == 2
    assert [path for path in sorted(tmp_path.rglob("*")) if not path.is_relative_to(tmp_path / "L")] == before


@pytest.mark.parametrize("cut", [0.5, 0.99])
def test_of_a_cut_tar_what_is_whole_is_kept(tmp_path, good_video, cut):
    video = good_video.read_bytes()
    tar = pack(tmp_path / "s.tar", [(f"{i}.mp4", video) for i in range(4)])
    whole = (len(video) // 512 + 2) * 512 * 4
    tar.write_bytes(tar.read_bytes()[: int(whole * cut)])
    items = read_source(tar).items
    good = [item for item in items if not item.fault]
    assert len(good) == int(4 * cut)
    assert all(only_clips(item) for item in good)
    assert {item.fault[0] for item in items if item.fault} <= {"truncated", "corrupt"}
    assert len(items) > len(good)


@pytest.mark.parametrize("size", [b"\xff" * 11 + b"\x00", b"\x80" + b"\x7f" * 11])
def test_a_member_that_lies_about_its_size_ends_the_tar(tmp_path, good_video, size):
    """A size below zero would lead back to the start, for ever; a huge one beyond the end."""
    tar = pack(tmp_path / "s.tar", [("a.mp4", good_video.read_bytes()), ("b.mp4", b"x")])
    data = bytearray(tar.read_bytes())
    at = 512 * (1 + -(-good_video.stat().st_size // 512))
    data[at + 124 : at + 136] = size
    header = data[at : at + 512]
    header[148:156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    tar.write_bytes(data)
    items = read_source(tar).items
    assert [item.fault is None for item in items][:1] == [True]
    assert all(item.fault for item in items[1:])
    assert len(items) > 1


def test_tars_written_one_behind_the_other_are_not_taken_for_the_first_alone(tmp_path, good_video):
    one, two = (pack(tmp_path / f"{i}.tar", [(f"{i}.mp4", good_video.read_bytes())]) for i in range(2))
    (tmp_path / "both.tar").write_bytes(one.read_bytes() + two.read_bytes())
    good, fault = read_source(tmp_path / "both.tar").items
    assert (good.fault, fault.fault[0]) == (None, "corrupt")
    assert "several tars" in fault.fault[1]


def test_what_macs_pack_beside_every_file_is_no_sample_and_a_suffix_may_be_in_capitals(tmp_path, good_video):
    shards = tmp_path / "shards"
    shards.mkdir()
    pack(shards / "A.TAR", [("v/._a.mp4", b"Mac OS X"), ("v/a.mp4", good_video.read_bytes()), ("._v", b"Mac OS X")])
    (item,) = read_source(shards).items
    assert (item.source, item.fault) == (f"{shards}/A.TAR#v/a", None)


def test_what_a_system_keeps_for_itself_is_no_sample_and_is_counted(tmp_path, good_video, wav):
    shards, video = tmp_path / "shards", good_video.read_bytes()
    (shards / "#recycle").mkdir(parents=True)
    members = [("v/a.mp4", video), ("v/@eaDir/a.mp4/S.jpg", jpeg(9)), ("v/@eaDir/b.mp4/S.jpg", jpeg(9))]
    pack(shards / "a.tar", [*members, ("__MACOSX/v/b.wav", wav)])
    pack(shards / "b.tar", [("@eaDir/a.wav", wav)])
    found = read_source(shards)
    assert [item.source for item in found.items] == [f"{shards}/a.tar#v/a"]
    assert found.system_folders == {"#recycle": 1, "@eaDir": 2, "__MACOSX": 1}
    assert read_source(shards / "a.tar").system_folders == {"@eaDir": 1, "__MACOSX": 1}


def test_what_is_no_tar_is_a_reject_that_says_so(tmp_path):
    (tmp_path / "s.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    (item,) = read_source(tmp_path / "s.tar").items
    assert item.fault[0] == "corrupt"
    assert "no uncompressed tar" in item.fault[1]
    with tarfile.open(tmp_path / "e.tar", "w"):
        pass
    with pytest.raises(ConfigError, match="no samples"):
        read_source(tmp_path / "e.tar")


def test_a_tar_of_headers_without_end_is_damaged_and_no_crash(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "deep.tar").write_bytes((header.tobuf() + b"a\0".ljust(512, b"\0")) * 5000)
    report = ingest(tmp_path / "deep.tar", tmp_path / "L", TINY, workers=1)
    assert [reject.reason for reject in report.rejects] == ["corrupt"]


def test_pruning_keeps_the_clips_of_a_tar_that_cannot_be_read_now(tmp_path, good_video, monkeypatch):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in (0, 1):  # bytes behind the end change the content's hash alone
        pack(shards / f"{number}.tar", [("a.mp4", good_video.read_bytes() + bytes([number]))])
    ingest(shards, tmp_path / "L", TINY, workers=1)
    whole = tarfile.open

    def locked(path, *given):
        if path.name == "0.tar":
            raise PermissionError(13, "Permission denied")
        return whole(path, *given)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", locked)
        report = ingest(shards, tmp_path / "L", TINY, workers=1, prune=True)
    assert ([reject.reason for reject in report.rejects], report.clips_dropped) == (["unreadable"], 0)
    assert Library(tmp_path / "L").count() == 4
    (shards / "0.tar").unlink()
    assert ingest(shards, tmp_path / "L", TINY, workers=1, prune=True).clips_dropped == 2
