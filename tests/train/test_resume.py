"""Killed at any moment, started again: the run ends bit for bit where an undisturbed one ends."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from equiav.errors import ModelError, TrainingError
from equiav.model.equiav import EquiAV
from equiav.model.hub import write_weights
from equiav.train.pretrain import pretrain
from equiav.train.run_folder import is_finished
from equiav.train.trained_on import load_trained_on
from power import Disk
from train.small_library import SMALL, make_library, small_recipe


def finished(run):
    """Everything of a finished run that must not depend on how it got there: weights, moments, losses."""
    newest = max((run / "state").glob("step-*"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"], line["gradient_norm"], line["lr"]) for line in lines]
    files = [run / "model" / "model.safetensors", *sorted(newest.glob("*.safetensors"))]
    return [file.read_bytes() for file in files], losses, newest.name


@pytest.mark.parametrize(("kills", "epochs"), [pytest.param(1, 200, marks=pytest.mark.gate), (20, 500)])
@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_an_undisturbed_one(tmp_path, kills, epochs):
    library = make_library(tmp_path)
    overrides = [*SMALL[:-1], f"train.epochs={epochs}", "train.log_every=7", "train.ema=0.99"]

    def command(run):
        return [
            *(sys.executable, "-m", "equiav", "pretrain", "toy"),
            *("--library", str(library.path), "--run", str(run), *overrides),
        ]

    def newest():
        return max((int(p.name[5:]) for p in (tmp_path / "killed" / "state").glob("step-*")), default=0)

    rng, reached = random.Random(0), [0]
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    for _ in range(kills):
        child = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while newest() == reached[-1] and child.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        child.kill()
        assert child.wait() == -signal.SIGKILL, "the run ended before it could be killed: train longer"
        reached.append(newest())
    assert len(set(reached)) == kills + 1
    subprocess.run(command(tmp_path / "killed"), check=True, capture_output=True)
    assert finished(tmp_path / "killed") == finished(tmp_path / "whole")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/fd names what is flushed")
def test_a_run_goes_on_after_a_power_cut_at_any_moment(tmp_path, monkeypatch):
    """From the last state that it reported, to the same weights; when it has ended, all of it is there."""
    library, cuts = make_library(tmp_path), []
    recipe = small_recipe("train.epochs=3", "train.save_every=1")
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk", monkeypatch)
    run = disk.root / "runs" / "R"

    def saved(step):
        cuts.extend((left / "runs" / "R", step.step - 1) for left in disk.cut())

    pretrain(recipe, library, run, on_step=saved)
    for left in disk.cut():
        assert is_finished(left / "runs" / "R")
        assert load_trained_on(left / "runs" / "R").clip_ids
        assert EquiAV.from_pretrained(left / "runs" / "R" / "model").fingerprint()
    for left, steps in cuts:
        newest = max((int(state.name[5:]) for state in (left / "state").glob("step-*")), default=0)
        assert newest >= steps
    left = cuts[-1][0]
    pretrain(recipe, library, left)
    assert (left / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.slow
@pytest.mark.gate
def test_two_processes_train_as_one_and_their_run_can_be_finished_by_one(tmp_path, parallel):
    library = make_library(tmp_path)
    # in fp32: of bf16 the rounding differs with the size of a share
    shared = ["-L", str(library.path), *SMALL[:-1], "train.log_every=1", f"train.parallel={parallel}"]
    shared.append("train.precision=fp32")
    one = [sys.executable, "-m", "equiav", "pretrain", "toy"]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    two = [sys.executable, *launcher, *one[1:]]
    subprocess.run([*one, *shared, "-R", str(tmp_path / "one"), "train.epochs=6"], check=True, capture_output=True)
    subprocess.run([*two, *shared, "-R", str(tmp_path / "two"), "train.epochs=6"], check=True, capture_output=True)
    lines = {
        name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    }
    for a, b in zip(lines["one"], lines["two"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-3)
    assert lines["two"][0]["loss"] == pytest.approx(lines["one"][0]["loss"], rel=1e-6)
    states = sorted((tmp_path / "two" / "state").glob("step-*"))
    for later in states[1:]:
        for file in later.iterdir():
            file.unlink()
        later.rmdir()
    subprocess.run([*one, *shared, "-R", str(tmp_path / "two"), "train.epochs=6"], check=True, capture_output=True)
    again = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in again] == [1, 2, 3, 4, 5, 6]
    assert again[-1]["loss"] == pytest.approx(lines["one"][-1]["loss"], rel=1e-4)


def test_a_full_disk_ends_a_run_with_a_word_and_it_can_go_on(tmp_path, monkeypatch):
    library, recipe = make_library(tmp_path), small_recipe("train.epochs=3", "train.save_every=1")
    resource, written = pytest.importorskip("resource"), []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write(tensors, path):
        written.append(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]) if len(written) == 4 else limits)
        try:
            write_weights(tensors, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    pretrain(recipe, library, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("equiav.train.checkpoint.write_weights", write)
        with pytest.raises(TrainingError, match=r"cannot be written: .*File too large.* make room"):
            pretrain(recipe, library, tmp_path / "full")
    assert {path.name for path in (tmp_path / "full" / "state").iterdir()} == {"start.json", "step-00000001"}
    pretrain(recipe, library, tmp_path / "full")
    assert finished(tmp_path / "full") == finished(tmp_path / "whole")


def test_a_damaged_state_is_an_error_that_names_its_file(tmp_path):
    library = make_library(tmp_path)
    pretrain(small_recipe("train.epochs=2"), library, tmp_path / "run")
    (max((tmp_path / "run" / "state").iterdir()) / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"optimizer\.safetensors: not a readable safetensors file"):
        pretrain(small_recipe("train.epochs=2"), library, tmp_path / "run")
