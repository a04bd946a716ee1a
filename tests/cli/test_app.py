"""The command line: the whole way on small real videos, exit codes, and messages that say what to do."""

import csv
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cli.small_settings import SMALL, TINY
from equiav.cli import app as cli
from equiav.cli.terminal import print_json
from samples import BAD, pictures, tone, write_media


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i in range(6):
        write_media(folder / f"{i}.mp4", frames=pictures(7, seed=i), sound=tone(0.7, 200 + 150 * i))
    return folder


def test_the_whole_way_with_no_labels_and_no_file_but_the_videos(equiav, videos, tmp_path):
    library, run = tmp_path / "L", tmp_path / "R"
    assert equiav("ingest", videos, "--library", library, *TINY)[0] == 0
    code, out, _ = equiav("pretrain", "toy", "--library", library, "--run", run, *SMALL)
    assert code == 0
    assert "next: equiav embed" in out
    assert (run / "model" / "model.safetensors").exists()
    assert equiav("embed", "--library", library, "--run", run)[0] == 0
    code, out, _ = equiav(
        "search", "--library", library, "--run", run, "--audio", videos / "3.mp4", "-k", "4", "--json"
    )
    hits = json.loads(out)["hits"]
    assert (code, len(hits)) == (0, 4)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert hits[0].keys() >= {"source", "start_s", "end_s", "score", "clip_id"}
    Image.fromarray(pictures(1)[0]).save(tmp_path / "p.jpg")
    code, out, _ = equiav("search", "--library", library, "--run", run, "--image", tmp_path / "p.jpg")
    assert code == 0
    assert len(re.findall(r"0\.0–0\.[67] s", out)) == 5
    cells = [line.split("│") for line in out.splitlines() if line.count("│") >= 5]
    whole = "".join(cell[2].strip() for cell in cells)  # a long path is folded, never cut
    assert sum(str(videos / f"{i}.mp4") in whole for i in range(6)) == 5
    code, out, _ = equiav(
        "search", "--library", library, "--run", run, "--video", videos / "1.mp4", "-k", "100", "--json"
    )
    assert (code, len(json.loads(out)["hits"])) == (0, 6)
    code, out, _ = equiav("evaluate", "retrieval", "--library", library, "--run", run, "--split", "train", "--json")
    assert json.loads(out)["clips"] == 6
    code, out, _ = equiav("export", "--run", run, "--onnx", tmp_path / "onnx", "--json")
    assert code == 0
    assert all(file["max_abs_difference"] <= 1e-4 for file in json.loads(out)["files"])
    page = tmp_path / "gallery.html"
    code, out, _ = equiav("augment-gallery", hits[0]["clip_id"], page, "--library", library, "--json")
    assert (code, json.loads(out)) == (0, {"page": str(page)})
    assert "crop" in page.read_text()
    code, _, err = equiav("embed", "--library", library, "--run", tmp_path / "nowhere")
    assert code == 1
    assert "nowhere" in err
    again = equiav("pretrain", "toy", "--library", library, "--run", run, *SMALL)
    assert again[0] == 0


def test_some_failed_files_are_exit_code_3_and_named(equiav, tmp_path, good_video, bad_videos):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for kind in set(BAD) - {"folder"}:
        (folder / f"{kind}.mp4").write_bytes(bad_videos[kind].read_bytes())
    (folder / "good.mp4").write_bytes(good_video.read_bytes())
    code, out, _ = equiav("ingest", folder, "--library", tmp_path / "L", *TINY)
    assert code == 3
    bad = set(BAD) - {"folder", "no_audio", "no_video", "cover"}  # what has one modality is a clip
    for kind in bad:
        assert f"{kind}.mp4" in out
    code, out, _ = equiav("ingest", folder, "--library", tmp_path / "L", "--json")  # the features are the library's
    report = json.loads(out)
    assert (code, report["clips_added"], len(report["rejects"])) == (3, 0, len(bad))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "nowhere", "--library", "L"], "nowhere: no such folder or file"),
        (["pretrain", "toy", "--library", "L", "--run", "R"], "L holds no library; make one: equiav ingest"),
        (["pretrain", "toi", "--library", "L", "--run", "R"], "no recipe 'toi'"),
        (["pretrain", "toy", "--library", "L", "--run", "R", "optim.lrr=1"], "did you mean lr?"),
        (["pretrain", "toy", "--library", "L", "--run", "R", "features.clip_s=1"], "features are fixed"),
        (["embed", "--library", "L", "--run", "R"], "L holds no library"),
        (["toyworld", "W", "--clips", "4", "--test", "4"], "at least one training and one test clip"),
    ],
)
def test_an_error_is_one_line_that_says_what_is_wrong(equiav, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = equiav(*arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err


def test_what_the_system_refuses_is_one_line_too(equiav, videos, tmp_path):
    equiav("ingest", videos, "--library", tmp_path / "L", "--recipe", "toy")
    (tmp_path / "R").write_text("a file")
    code, _, err = equiav("pretrain", "toy", "--library", tmp_path / "L", "--run", tmp_path / "R")
    assert (code, "Traceback" in err) == (1, False)
    assert err.replace("\n", "").endswith("R: File exists")


def test_wrong_usage_is_exit_code_2(equiav):
    assert equiav("pretrain", "toy")[0] == 2
    assert equiav("toyworld", "W", "--clips", "one")[0] == 2
    assert equiav("fly")[0] == 2


def test_every_verb_has_help_with_an_example(equiav):
    from typer.main import get_command

    root = get_command(cli.app)
    verbs = [[name] for name in root.commands] + [["evaluate", name] for name in root.commands["evaluate"].commands]
    assert {"demo", "ingest", "doctor", "pretrain", "finetune", "search"} <= {verb[0] for verb in verbs}
    assert {"retrieval", "probe", "knn", "classify", "localise", "mteb"} <= {verb[-1] for verb in verbs}
    for verb in verbs:
        code, out, _ = equiav(*verb, "-h")
        assert code == 0
        assert equiav(*verb, "--help")[:2] == (0, out)
        assert "--json" in out, verb
        assert "Example" in out, verb
        assert "equiav" in out
        command = root.commands[verb[0]] if len(verb) == 1 else root.commands["evaluate"].commands[verb[1]]
        examples = command.help.split("Example")[1].splitlines()
        assert all(len(line.strip()) <= 78 for line in examples), "in 80 columns it is one line, and can be pasted"


def test_json_is_strict_what_is_no_number_is_null(capsys):
    print_json({"chance": float("nan"), "d": [float("inf"), 1.5], "path": Path("R")})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "chance": None,
        "d": [None, 1.5],
        "path": "R",
    }


def test_a_run_of_another_recipe_is_refused(equiav, videos, tmp_path):
    library, run = tmp_path / "L", tmp_path / "R"
    equiav("ingest", videos, "--library", library, *TINY)
    equiav("pretrain", "toy", "--library", library, "--run", run, *SMALL)
    code, _, err = equiav("pretrain", "toy", "--library", library, "--run", run, *SMALL, "optim.lr=0.1")
    assert code == 1
    assert "another recipe: optim.lr was 0.001, now 0.1" in err.replace("\n", " ")


@pytest.mark.parametrize(("sent", "stopped"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_a_signal_stops_prints_it_saves_and_keeps_the_next_command_from_running(
    videos, tmp_path, sent, stopped
):
    library, run = tmp_path / "L", tmp_path / "R"
    command = [sys.executable, "-m", "equiav"]
    subprocess.run([*command, "ingest", videos, "--library", library, *TINY], check=True, capture_output=True)
    train = [*command, "pretrain", "toy", "--library", library, "--run", run, *SMALL[:-1], "train.epochs=400", "--json"]
    child = subprocess.Popen(train, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list((run / "state").glob("step-*")) and child.poll() is None:
        time.sleep(0.2)
    child.send_signal(sent)
    out, err = child.communicate(timeout=60)
    assert child.returncode == stopped, err
    assert err.count("stopping after this step") == 1
    assert "run the same command" not in err, "it did not stop at once"
    found = json.loads(out)
    assert found["stopped"] is True
    newest = max((run / "state").glob("step-*"))
    assert newest.name == f"step-{found['step']:08d}"


@pytest.mark.parametrize(("sent", "stopped"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_ingest_prints_how_to_go_on_and_leaves_no_folder_behind(videos, tmp_path, sent, stopped):
    folder, temporary = tmp_path / "V", tmp_path / "tmp"
    folder.mkdir()
    temporary.mkdir()
    for i in range(60):  # enough to be in the middle of it
        free = struct.pack(">I4sQ", 16, b"free", i)  # a box that players skip: another content
        (folder / f"{i}.mp4").write_bytes((videos / f"{i % 6}.mp4").read_bytes() + free)
    command = [sys.executable, "-m", "equiav", "ingest", folder, "--library", tmp_path / "L", "--workers", "1", *TINY]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)})
    assert child.stderr.readline().startswith("ingesting: 1/60")
    child.send_signal(sent)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, "run the same command again" in err) == (stopped, True), err
    assert list(temporary.iterdir()) == []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "60 files: " in done.stdout


def test_the_authors_checkpoint_becomes_a_model_folder_and_says_what_to_do_next(equiav, tmp_path):
    golden, model = Path(__file__).parents[1] / "golden" / "official.pth", tmp_path / "model"
    code, out, _ = equiav("convert", golden, model, "--heads", "3")
    assert code == 0
    assert "parameters in" in out
    assert "mel_bins=128 time_frames=32" in out
    assert f"next: equiav ingest VIDEOS --library L --like {model}\n" in out
    assert f"equiav search --library L --run {model} --audio dog.wav" in out
    code, _, err = equiav("convert", golden, model, "--heads", "3")
    assert (code, "--overwrite" in err) == (1, True)
    code, out, _ = equiav("convert", golden, model, "--heads", "3", "--overwrite", "--json")
    found = json.loads(out)
    assert (code, found["parameters"], found["features"]["time_frames"]) == (0, 144704, 32)
    code, _, err = equiav("convert", golden, tmp_path / "other", "--heads", "5")
    assert code == 1
    assert "heads" in err


def test_a_toy_world_can_be_made_and_ingested(equiav, tmp_path):
    code, out, _ = equiav("toyworld", tmp_path / "W", "--clips", "4", "--test", "2", "--json")
    assert (code, json.loads(out)["videos"]) == (0, 4)
    code, out, _ = equiav("ingest", tmp_path / "W" / "labels.csv", "--library", tmp_path / "L", "--recipe", "toy")
    assert (code, "4 clips added" in out) == (0, True)
    with (tmp_path / "W" / "labels.csv").open() as file:
        assert [row["split"] for row in csv.DictReader(file)] == ["train", "train", "test", "test"]
