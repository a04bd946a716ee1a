"""A dry run does the run's own steps: what it says of memory is what a run takes, and it keeps nothing."""

import json
import subprocess
import sys

import pytest
import torch

from cli.small_settings import SMALL
from equiav.model.equiav import EquiAV
from equiav.train import dry_run as module
from equiav.train.dry_run import Growth, advise, dry_run, weights_gb
from equiav.train.pretrain import model_config, resolve
from samples import TINY
from train.small_library import make_library, small_recipe


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return make_library(tmp_path_factory.mktemp("dry"))


def test_a_dry_run_measures_and_writes_nothing(library, tmp_path):
    found = dry_run(small_recipe("train.micro_batch=2", "train.ema=0.9"), library, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    model = EquiAV(model_config(resolve(small_recipe(), library)))
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert (found.global_batch, found.micro_batch, found.negatives_inter, found.negatives_intra) == (4, 2, 3, 6)
    assert found.weights_gb == pytest.approx(20 * found.parameters / 1e9)
    assert found.shapes["audio"] == (4, TINY.time_frames, TINY.mel_bins)
    assert found.shapes["visual_centroid_params"] == (4, 4, model.visual_space.size)
    assert found.hours == pytest.approx(found.seconds_per_step * found.steps / 3600)
    assert found.seconds_per_step > 0
    assert found.whole_steps
    assert 0 < found.mfu <= 1
    assert found.memory_gb == pytest.approx(found.other_gb + found.weights_gb + found.activations_gb)
    assert found.advice == ""


def test_a_run_that_is_there_is_left_as_it_is(library, tmp_path):
    (tmp_path / "skipped.jsonl").write_text('{"step": 5}\n')
    dry_run(small_recipe(), library, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("skipped.jsonl", '{"step": 5}\n')]


@pytest.mark.parametrize(("setting", "copies"), [("ema=0.9", 5), ("average_last=2", 5), ("ema=null", 4)])
def test_averaged_weights_count(setting, copies):
    settings = small_recipe(f"train.{setting}").train
    assert weights_gb(1_000_000, settings) == pytest.approx(copies * 0.004)


def test_shards_share_the_weights():
    assert weights_gb(1_000_000, small_recipe("train.parallel=fsdp").train, 4) == pytest.approx(0.004)
    assert weights_gb(1_000_000, small_recipe().train, 4) == pytest.approx(0.016)


def test_every_step_is_reported_and_the_last_one_ends_it(library, tmp_path):
    told = []
    dry_run(small_recipe(), library, tmp_path, on_step=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == [*range(len(told) - 1), len(told) - 2]
    assert all(done <= of for done, of, _ in told)
    assert told[-1][0] == told[-1][1]
    assert all("GB at the peak" in note for _, _, note in told[1:-1])


def test_where_whole_steps_last_for_long_smaller_ones_are_enough(library, tmp_path, monkeypatch):
    whole = dry_run(small_recipe(), library, tmp_path)
    monkeypatch.setattr(module, "QUICK_S", 0.0)
    found = dry_run(small_recipe(), library, tmp_path)
    assert (whole.whole_steps, found.whole_steps) == (True, False)
    assert found.memory_gb == pytest.approx(whole.memory_gb, rel=0.3)


def test_what_cannot_fit_is_not_tried(library, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "available_gb", lambda *_: 0.001)
    found = dry_run(small_recipe(), library, tmp_path)
    assert (found.seconds_per_step, found.hours, found.mfu, found.activations_gb) == (None, None, None, None)
    assert found.memory_gb >= found.weights_gb
    assert "a process needs more than" in found.advice
    assert "model.checkpointing=true" in found.advice


def test_a_step_that_runs_out_of_memory_is_no_trace(library, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module.Loop, "step", fail)
    found = dry_run(small_recipe(), library, tmp_path)
    assert found.seconds_per_step is None
    assert f"a process needs more than {found.available_gb:.1f} GB" in found.advice


def test_advice_names_the_largest_micro_batch_that_fits():
    growth = Growth(clips=4, gb=5.0, per_clip=1.0)  # 1 GB and 1 GB per clip
    advice = advise(129.0, 20.0, growth, 128, ["less"])
    assert "a process needs 129.0 GB, and 20.0 GB are free" in advice
    assert "train.micro_batch=16 takes about 17.0 GB" in advice
    assert advise(17.0, 20.0, growth, 16, ["less"]) == ""


def test_where_no_micro_batch_fits_other_settings_are_named():
    growth = Growth(clips=4, gb=24.0, per_clip=1.0)
    assert "micro_batch" not in advise(148.0, 20.0, growth, 128, ["model.checkpointing=true"])
    assert "What takes less: model.checkpointing=true" in advise(148.0, 20.0, growth, 128, ["model.checkpointing=true"])


def test_the_command_line_shows_progress_and_warns(library, tmp_path, equiav, monkeypatch):
    monkeypatch.setattr(module, "available_gb", lambda *_: 0.001)
    words = ("pretrain", "toy", "--library", library.path, "--run", tmp_path / "R", "--dry-run", *SMALL)
    code, out, err = equiav(*words, "--json")
    assert code == 0
    assert json.loads(out)["seconds_per_step"] is None
    assert "warning: this does not fit" in err
    monkeypatch.undo()
    code, out, err = equiav(*words)
    assert code == 0
    assert "GB at its peak" in out
    assert "dry run: " in err
    assert "warning" not in err


def command_line(*words):
    return subprocess.run(
        [sys.executable, "-m", "equiav", *map(str, words)], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="another system tells the peak of a process otherwise")
@pytest.mark.parametrize(
    "settings",
    [
        ("train.global_batch=24",),
        ("train.global_batch=24", "train.micro_batch=4", "train.ema=0.9"),
        ("train.global_batch=4", "model.depth=1", "train.average_last=1"),
    ],
    ids=" ".join,
)
def test_the_memory_that_is_reported_is_what_a_run_takes(tmp_path, settings):
    """Of processes of their own; the run's peak is read from the system when it ends."""
    library = make_library(tmp_path, clips=24).path
    words = ("pretrain", "toy", "--library", library, "--run", tmp_path / "run")
    sizes = ("model.width=256", "model.image_side=128", "train.precision=fp32", "train.epochs=2", *settings)
    said = json.loads(command_line(*words, "--dry-run", "--json", *sizes))["memory_gb"]
    code = (
        "import atexit, sys; from pathlib import Path; from equiav.cli.app import main; "
        "atexit.register(lambda: print(Path('/proc/self/status').read_text())); main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, words), *sizes], check=True, capture_output=True, text=True
    )
    taken = int(ended.stdout.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    assert said == pytest.approx(taken, rel=0.2)
