"""Ingest never lies and never loses: every file gives clips or a reason, none twice, a kill loses nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from corpus import make_corpus
from equiav.errors import ConfigError, LibraryError, MediaError
from equiav.library import ingest as ingest_module
from equiav.library.ingest import ingest
from equiav.library.manifests import Item, read_source
from equiav.library.table import Library
from equiav.library.windows import plan_windows, work
from equiav.media.probe import REASONS, MediaInfo
from samples import BAD, TINY, pictures, tone, write_media


@pytest.fixture
def videos(tmp_path, good_video):
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.mp4", "sub/b.MP4", "ünï\ncode -rf.mp4")):
        frames, sound = pictures(14, seed=i), tone(1.4, 300 + 100 * i)
        write_media(folder / "clip.mp4", frames=frames, sound=sound).rename(folder / name)
    (folder / "notes.txt").write_text("not a video")
    return folder


def rows(library):
    table = Library(library).clips()
    fbanks = Library(library).fbanks(table)
    plain = table.drop(["fbank", "item", "file_mtime_ns"]).to_pylist()
    return sorted(
        ((row, fbank.tobytes()) for row, fbank in zip(plain, fbanks, strict=True)), key=lambda r: r[0]["clip_id"]
    )


def test_a_folder_becomes_clips_and_a_second_run_adds_nothing(tmp_path, videos):
    first = ingest(videos, tmp_path / "L", TINY, workers=1)
    assert (first.files, first.clips_added, first.rejects) == (3, 6, [])
    before = rows(tmp_path / "L")
    again = ingest(videos, tmp_path / "L", TINY, workers=1)
    assert (again.clips_added, again.clips_present) == (0, 6)
    assert rows(tmp_path / "L") == before


def test_key_frames_are_stored_once_and_one_alone_is_not_called_still(tmp_path):
    path = write_media(tmp_path / "a.mp4", frames=pictures(25), sound=tone(2.5))  # a key frame every second
    features = TINY.model_copy(update={"frame_pick": "key", "clip_s": 1.5, "hop_s": 1.5, "frames_per_clip": 4})
    ingest(path, tmp_path / "L", features, workers=1)
    first, second = sorted(Library(tmp_path / "L").clips().to_pylist(), key=lambda row: row["start_s"])
    assert (first["frame_times_s"], len(first["frames"])) == ([0.0, 1.0], 2)
    assert (second["frame_times_s"], len(second["frames"]), second["status"]) == ([2.0], 1, "ok")


def test_a_row_holds_what_its_window_holds(tmp_path, videos):
    ingest(videos / "a.mp4", tmp_path / "L", TINY, workers=1)
    library = Library(tmp_path / "L")
    first, second = sorted(library.clips().drop(["fbank"]).to_pylist(), key=lambda row: row["start_s"])
    assert (first["start_s"], first["end_s"]) == (0.0, pytest.approx(0.655))
    assert second["start_s"] == pytest.approx(0.655)
    assert len(first["frames"]) == TINY.frames_per_clip
    assert first["frame_times_s"] == pytest.approx([0.1, 0.3, 0.5], abs=0.06)
    fbank = library.clip(first["clip_id"])["fbank"]
    assert fbank.shape == (TINY.time_frames, TINY.mel_bins)
    assert fbank.mean(0).argmax() == pytest.approx(5, abs=2)  # 300 Hz of 32 mel bins up to 8 kHz
    mean, std = library.log_mel_stats("train")
    sounding = np.concatenate([library.clip(r["clip_id"])["fbank"][: r["fbank_frames"]] for r in (first, second)])
    assert (mean, std) == (pytest.approx(sounding.mean(), abs=0.01), pytest.approx(sounding.std(), abs=0.01))


def test_every_bad_file_is_a_reject_with_its_reason_and_good_ones_are_kept(tmp_path, bad_videos, good_video):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for kind in set(BAD) - {"folder"}:
        (folder / f"{kind}.mp4").write_bytes(bad_videos[kind].read_bytes())
    (folder / "good.mp4").write_bytes(good_video.read_bytes())
    for _ in range(2):  # the second time from the record
        report = ingest(folder, tmp_path / "L", TINY, workers=2)
        found = {Path(reject.path).name.removesuffix(".mp4"): reject.reason for reject in report.rejects}
        whole = ("folder", "no_audio", "no_video", "cover")  # of one modality: clips all the same
        expected = {kind: reason for kind, reason in BAD.items() if kind not in whole}
        # the first windows of a file that is cut later are good
        assert found == expected
    assert {r.reason for r in Library(tmp_path / "L").rejects()} <= set(REASONS)
    sources = Library(tmp_path / "L").clips()["source"].to_pylist()
    assert {Path(source).name for source in sources} == {"good.mp4", "cut_data.mp4"}


def test_a_mended_file_loses_its_reject(tmp_path, good_video):
    path = tmp_path / "v.mp4"
    path.write_bytes(good_video.read_bytes()[:1000])
    assert ingest(path, tmp_path / "L", TINY, workers=1).rejects[0].reason == "truncated"
    path.write_bytes(good_video.read_bytes())
    assert ingest(path, tmp_path / "L", TINY, workers=1).clips_added == 2
    assert Library(tmp_path / "L").rejects() == []


def test_a_changed_file_replaces_its_clips(tmp_path):
    path = tmp_path / "v.mp4"
    write_media(path, frames=pictures(14), sound=tone(1.4))
    ingest(path, tmp_path / "L", TINY, workers=1)
    old = Library(tmp_path / "L").clip_ids()
    write_media(path, frames=pictures(14, seed=5), sound=tone(1.4, 700))
    ingest(path, tmp_path / "L", TINY, workers=1)
    new = Library(tmp_path / "L").clip_ids()
    assert len(old) == len(new) == 2
    assert not old & new


def test_a_copy_under_another_name_is_counted_not_added(tmp_path, good_video):
    folder = tmp_path / "copies"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(good_video.read_bytes())
    report = ingest(folder, tmp_path / "L", TINY, workers=1)
    assert (report.clips_added, report.duplicates) == (2, 2)


def test_a_csv_gives_labels_splits_and_windows(tmp_path, videos):
    table = videos / "t.csv"
    table.write_text(
        "path,label,split,start_s,end_s\na.mp4,dog;bark,test,,\nsub/b.MP4,,,0.2,0.6\ngone.mp4,cat,train,,\n"
    )
    report = ingest(table, tmp_path / "L", TINY, workers=1)
    assert [reject.reason for reject in report.rejects] == ["missing"]
    library = Library(tmp_path / "L")
    assert library.clips("test")["labels"].to_pylist() == [["dog", "bark"]] * 2
    (window,) = library.clips("train").drop(["fbank"]).to_pylist()
    assert (window["start_s"], window["end_s"], window["labels"]) == (0.2, pytest.approx(0.6), [])
    assert window["fbank_frames"] == 38


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,x\n", "header is file,label"),
        ("path,lable\na.mp4,x\n", "header is path,lable"),
        ("", "header is missing"),
        ("path,label\n", "no lines"),
        ("path,label\n,x\n", "line 2: the path is empty"),
        ("path,label\na.mp4,x,y\n", "line 2: more fields"),
        ("path,label,start_s,end_s\na.mp4,x,ten,\n", "line 2: start_s is 'ten', expected seconds"),
        ("path,label,start_s,end_s\na.mp4,x,3,2\n", "line 2: window 3.0–2.0 s is empty"),
        ("path,label,start_s,end_s\na.mp4,x,nan,\n", "line 2: window nan"),
        ("path,label,start_s,end_s\na.mp4,x,-1,2\n", "line 2: window -1.0–2.0 s is empty or negative"),
    ],
)
def test_a_wrong_csv_names_its_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_source(tmp_path / "t.csv")


def test_nothing_to_ingest_is_an_error_that_says_where(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no media files in this folder"):
        ingest(tmp_path / "empty", tmp_path / "L", TINY)
    with pytest.raises(ConfigError, match="no such folder or file"):
        ingest(tmp_path / "missing", tmp_path / "L", TINY)
    assert not (tmp_path / "L").exists()


def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path, videos, good_video):
    (videos / "out.mp4").symlink_to(good_video)
    (videos / "in.mp4").symlink_to(videos / "a.mp4")
    names = {item.path.name for item in read_source(videos).items}
    assert "out.mp4" not in names
    assert "in.mp4" in names


def test_other_features_are_refused(tmp_path, videos):
    ingest(videos / "a.mp4", tmp_path / "L", TINY, workers=1)
    with pytest.raises(LibraryError, match="mel_bins is 32, requested 64"):
        ingest(videos, tmp_path / "L", TINY.model_copy(update={"mel_bins": 64}), workers=1)


def test_no_library_and_a_damaged_one_are_different_errors(tmp_path):
    with pytest.raises(LibraryError, match="holds no library; make one"):
        Library(tmp_path)
    (tmp_path / "clips.lance").mkdir()
    with pytest.raises(LibraryError, match="no readable table"):
        Library(tmp_path)


@pytest.mark.parametrize(
    ("length", "windows"),
    [
        (0.2, [(0.0, 0.2)]),
        (0.9, [(0.0, 0.655)]),
        (1.0, [(0.0, 0.655), (0.655, 1.0)]),
        (1.31, [(0.0, 0.655), (0.655, 1.31)]),
        (1.965, [(0.0, 0.655), (0.655, 1.31), (1.31, 1.965)]),
    ],
)
def test_a_file_is_cut_into_windows_and_a_short_tail_is_dropped(tmp_path, length, windows):
    info = MediaInfo(length, length, length, 16_000, 1, 64, 48, 10.0)
    planned = plan_windows(Item(tmp_path / "x"), info, TINY)
    assert np.allclose(planned, windows)


def test_the_worst_file_costs_itself_only(tmp_path, videos, monkeypatch):
    """A file on which the decoder's process dies is rejected, its neighbours are not."""
    monkeypatch.setattr(ingest_module, "work", _crash_on_b)
    report = ingest(videos, tmp_path / "L", TINY, workers=2)
    assert [(reject.reason, Path(reject.path).name) for reject in report.rejects] == [("crashed", "b.MP4")]
    assert report.clips_added == 4


def _crash_on_b(task):
    if task.item.path.name == "b.MP4":
        os.kill(os.getpid(), signal.SIGSEGV)
    return work(task)


def test_media_errors_cross_processes_whole():
    import pickle

    error = pickle.loads(pickle.dumps(MediaError("no_audio", "x.mp4 has no sound track")))
    assert (error.reason, str(error)) == ("no_audio", "no_audio: x.mp4 has no sound track")


@pytest.mark.slow
def test_killed_thirty_times_at_random_and_run_again_the_library_is_the_undisturbed_one(tmp_path):
    """Clips of every status, copies and rejects; two workers, a commit every two clips."""
    folder = tmp_path / "videos"
    folder.mkdir()
    make_corpus(folder)
    for i in range(80):
        write_media(folder / f"{i:02d}.mp4", frames=pictures(14, seed=i), sound=tone(1.4, 200 + 10 * i))
        (folder / f"copy of {i:02d}.mp4").write_bytes((folder / f"{i:02d}.mp4").read_bytes())
    ingest(folder, tmp_path / "whole", TINY, workers=2)
    script = tmp_path / "run.py"
    script.write_text(
        "from pathlib import Path; import sys; sys.path.insert(0, sys.argv[3]); from samples import TINY\n"
        "from equiav.library import ingest as i; i.COMMIT_CLIPS = 2\n"
        "def tell(*done): print(done, flush=True)\n"
        "if __name__ == '__main__': i.ingest(Path(sys.argv[1]), Path(sys.argv[2]), TINY, workers=2, on_progress=tell)\n"
    )
    command = [sys.executable, script, folder, tmp_path / "killed", Path(__file__).parent.parent]
    temporary = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody tidies up behind a SIGKILL
    rng, seen = np.random.default_rng(0), []
    for _ in range(30):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, env=temporary
        ) as child:
            assert child.stdout
            # some items into the work, whatever the speed of the machine, and then at any moment
            for _ in range(rng.integers(1, 10)):
                child.stdout.readline()
            time.sleep(rng.uniform(0, 0.1))
            with contextlib.suppress(ProcessLookupError):  # it was done
                os.killpg(child.pid, signal.SIGKILL)
        if (tmp_path / "killed" / "clips.lance").exists():
            seen.append(len(Library(tmp_path / "killed").all_ids()))
    assert len(set(seen)) > 10  # kills that hit the work
    subprocess.run(command, check=True)
    assert all_rows(tmp_path / "killed") == all_rows(tmp_path / "whole")
    assert sorted(map(str, Library(tmp_path / "killed").rejects())) == sorted(
        map(str, Library(tmp_path / "whole").rejects())
    )


def all_rows(library):
    return sorted(map(str, Library(library)._clips.to_table().to_pylist()))


def test_killed_at_any_moment_and_run_again_the_library_is_the_undisturbed_one(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(12):
        write_media(folder / f"{i:02d}.mp4", frames=pictures(8, seed=i), sound=tone(0.8, 200 + 50 * i))
    ingest(folder, tmp_path / "whole", TINY, workers=1)
    code = (
        "from pathlib import Path; import sys; sys.path.insert(0, sys.argv[3]); from samples import TINY\n"
        "from equiav.library import ingest as i; i.COMMIT_CLIPS = 2\n"
        "if __name__ == '__main__': i.ingest(Path(sys.argv[1]), Path(sys.argv[2]), TINY, workers=1)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(folder), str(tmp_path / "killed"), str(Path(__file__).parent.parent)]
    temporary = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody tidies up behind a SIGKILL
    for delay_s in (0.9, 1.3, 1.7, 2.1):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, env=temporary)
        time.sleep(delay_s)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    subprocess.run(command, check=True)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
