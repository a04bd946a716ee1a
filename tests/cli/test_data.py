"""The verbs about a library and the machine: what they print, write, and exit with."""

import io
import json

import pytest
from rich.console import Console

from cli.small_settings import TINY
from equiav import doctor
from equiav.cli import data
from equiav.library.table import Library
from equiav.media import sandbox
from samples import pictures, tone, write_media

ID = "-a_b-c_d-e_"


def test_from_a_datasets_list_with_gaps_to_coverage_stats_and_exports(equiav, tmp_path):
    media, library = tmp_path / "media", tmp_path / "L"
    media.mkdir()
    write_media(media / f"{ID}_000030.mp4", frames=pictures(7), sound=tone(0.7))
    listed = tmp_path / "vgg.csv"
    listed.write_text(f'{ID},30,"cat, purring",test\nX{ID[1:]},1,dog,train\n')
    code, out, _ = equiav("ingest", listed, "--library", library, "--media", media, *TINY)
    assert code == 3
    assert "coverage" in out
    code, out, _ = equiav("ingest", listed, "--library", library, "--media", media, *TINY, "--json")
    (test, train) = json.loads(out)["coverage"]
    assert (test["found"], test["missing"], train["found"], train["missing"]) == (1, 0, 0, 1)
    code, out, _ = equiav("stats", "--library", library, "--json", "--out", tmp_path / "page.html")
    assert (code, json.loads(out)["labels"]) == (0, {"cat, purring": 1})
    assert "data:image" in (tmp_path / "page.html").read_text()
    code, out, _ = equiav("stats", "--library", library)
    assert (code, "0 of 1 found" in out) == (0, True)
    code, out, _ = equiav("export-clips", tmp_path / "c.csv", "--library", library, "--json")
    assert (code, json.loads(out)["clips"]) == (0, 1)
    code, out, _ = equiav("ingest", tmp_path / "c.csv", "--library", tmp_path / "L2", *TINY)
    assert (code, "1 clip added" in out) == (0, True)
    (media / f"{ID}_000030.mp4").unlink()
    code, out, _ = equiav("export-clips", tmp_path / "shards", "--library", library, "--as", "webdataset")
    assert (code, "missing" in out) == (3, True)
    code, _, err = equiav("export-clips", tmp_path / "c.csv", "--library", library)
    assert (code, "is there already" in err.replace("\n", " ")) == (1, True)
    code, _, err = equiav("stats", "--library", library, "--out", tmp_path / "no" / "page.html")
    assert (code, "cannot be written" in err.replace("\n", " ")) == (1, True)


def test_ingest_prints_what_it_relabelled_and_what_it_ignored(equiav, tmp_path):
    media, library = tmp_path / "media", tmp_path / "L"
    media.mkdir()
    write_media(media / "v.mp4", frames=pictures(7), sound=tone(0.7))
    (media / "notes.txt").write_text("not media")
    code, out, _ = equiav("ingest", media, "--library", library, *TINY)
    first, tails = out.splitlines()
    assert (code, first) == (0, "1 file: 1 clip added (1 ok), 0 already there, 1 other file ignored")
    assert tails == "1 tail shorter than 0.655 s was dropped (0.045 s in all)"
    _, out, _ = equiav("stats", "--library", library, "--json")
    counts = json.loads(out)["tails"]
    assert (counts["count"], counts["seconds"], counts["unknown"]) == (1, pytest.approx(0.045, abs=1e-6), 0)
    assert tails in equiav("stats", "--library", library)[1]
    listed = tmp_path / "labels.csv"
    listed.write_text("path,label\nmedia/v.mp4,dog\n")
    code, out, _ = equiav("ingest", listed, "--library", library, *TINY)
    expected = "1 file: 0 clips added, 1 already there, 1 with other labels or split than before"
    assert (code, out.splitlines()[0]) == (0, expected)
    code, out, _ = equiav("ingest", listed, "--library", library, *TINY)
    assert (code, out.splitlines()[0]) == (0, "1 file: 0 clips added, 1 already there")


def test_ingest_prints_which_folders_of_systems_it_left_out(equiav, tmp_path):
    for name in ("a.mp4", "#recycle/b.mp4", "sub/@eaDir/c.mp4", "@eaDir/d.mp4"):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        write_media(tmp_path / "v" / name, frames=pictures(7), sound=tone(0.7))
    code, out, _ = equiav("ingest", tmp_path / "v", "-L", tmp_path / "L", *TINY)
    line = "left out, with all that is in them, as the system's own folders: #recycle 1, @eaDir 2"
    assert (code, out.splitlines()[1]) == (0, line)
    report = json.loads(equiav("ingest", tmp_path / "v", "-L", tmp_path / "L", "--json")[1])
    assert (report["files"], report["system_folders"]) == (1, {"#recycle": 1, "@eaDir": 2})


def test_nothing_of_a_long_path_is_cut(monkeypatch):
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(data, "out", console)
    data._print_failures("1 file", [("/a/b.mp4", "missing", "there is no file /" + "x" * 100)])
    assert console.file.getvalue().count("x") == 100


def test_an_ingest_whose_workers_cannot_start_is_an_error_and_calls_no_file_bad(
    equiav, tmp_path, good_video, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "get_executable", lambda: b"/no/python")
        code, _, err = equiav("ingest", good_video, "-L", tmp_path / "L", *TINY)
    assert (code, "error: worker processes cannot be started: /no/python" in err) == (1, True)
    assert Library(tmp_path / "L").rejects() == []
    assert equiav("ingest", good_video, "-L", tmp_path / "L")[0] == 0
    assert Library(tmp_path / "L").count() == 2


def test_the_doctor_exits_1_when_something_is_broken(equiav, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "matmul_rate", lambda *_: 1e9)
    code, out, _ = equiav("doctor", "--for", tmp_path)
    assert (code, "torch" in out) == (0, True)
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    code, out, _ = equiav("doctor", "--for", tmp_path, "--json")
    broken = [check for check in json.loads(out)["checks"] if check["state"] == "broken"]
    assert (code, [check["name"] for check in broken]) == (1, ["packages"])
    assert "not installed: no-such-package" in broken[0]["advice"]
