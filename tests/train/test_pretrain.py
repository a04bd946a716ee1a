"""Pretraining: every part of the model learns, the recipe is resolved on the library, a run belongs to its recipe."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from equiav.config import load_recipe
from equiav.errors import ConfigError, ModelError, TrainingError
from equiav.library.loader import ClipLoader
from equiav.model.equiav import EquiAV
from equiav.train import run_folder
from equiav.train.objective import Pretraining, clip_keys, roll_time
from equiav.train.pretrain import model_config, pretrain, resolve
from equiav.train.throughput import choose_precision
from samples import TINY
from train.small_library import make_library, small_recipe


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return make_library(tmp_path_factory.mktemp("pretrain"))


def small(library, *overrides):
    return resolve(small_recipe(*overrides), library)


def one_batch(library, recipe):
    return next(iter(ClipLoader(library, "train", recipe.train.global_batch).epoch(0)))


def losses(model, batch, recipe, epoch=0):
    objective = Pretraining(model, recipe)
    return objective.losses(model(*objective.inputs(batch, epoch)), batch)


def rows(batch, index):
    picked = {name: getattr(batch, name)[index] for name in ("audio", "frames", "sizes", "indices")}
    return type(batch)(**picked, clip_ids=[batch.clip_ids[i] for i in index], labels=[batch.labels[i] for i in index])


@pytest.mark.parametrize("method", ["equiav", "invariant", "plain"])
@pytest.mark.parametrize("share", ["modalities", "none"])
def test_every_parameter_gets_a_gradient(library, method, share):
    recipe = small(library, f"model.method={method}", f"model.share={share}")
    model = EquiAV(model_config(recipe))
    parts = losses(model, one_batch(library, recipe), recipe)
    parts["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    weighted = recipe.loss.inter * parts["loss_inter"]
    if method != "plain":
        weighted = weighted + recipe.loss.intra_audio * parts["loss_intra_audio"]
        weighted = weighted + recipe.loss.intra_visual * parts["loss_intra_visual"]
    assert parts["loss"].item() == pytest.approx(weighted.item(), rel=1e-5)


def test_a_clips_views_follow_from_seed_epoch_and_id_alone(library):
    recipe = small(library)
    model, batch = EquiAV(model_config(recipe)), one_batch(library, recipe)
    objective = Pretraining(model, recipe)
    whole, order = objective.inputs(batch, 3), [2, 0, 3]
    for found, expected in zip(objective.inputs(rows(batch, order), 3), whole, strict=True):
        # what is drawn is equal; a product of matrices may round otherwise in a batch of another size
        exact = found.ndim < 3 or found.shape[1] == recipe.model.centroid_samples
        torch.testing.assert_close(found, expected[order], rtol=0, atol=0 if exact else 1e-6)
    reseeded = Pretraining(model, small(library, "train.seed=1"))
    for other in (objective.inputs(batch, 4), reseeded.inputs(batch, 3)):
        changed = [not torch.equal(a, b) for a, b in zip(other, whole, strict=True)]
        assert changed == [True, False, *[True] * 6], "everything but the base picture is drawn"


def test_clip_keys_are_64_bits_of_the_id():
    keys = clip_keys(["0000000000000001aaaaaaaa", "ffffffffffffffff00000000", "7fffffffffffffff"])
    assert keys.tolist() == [1, -1, 2**63 - 1]


def test_rolling_keeps_every_frame_in_its_cyclic_order():
    audio = torch.arange(24.0).view(1, 6, 4).expand(12, -1, -1)
    for k, rolled in enumerate(roll_time(audio, torch.arange(12) / 12)):
        assert torch.equal(rolled, audio[0].roll(k // 2, 0))


def test_the_library_decides_features_normalisation_and_a_batch_that_fits(library):
    recipe = resolve(load_recipe("toy", ["train.global_batch=64"]), library)
    assert recipe.features == TINY
    assert recipe.train.global_batch == 5
    for processes in (1, 2, 3, 5):
        assert resolve(load_recipe("toy"), library, processes).train.global_batch == 5, "whatever shares it"
    assert recipe.train.precision in {"bf16", "fp32"}
    assert (recipe.data.audio_mean, recipe.data.audio_std) == pytest.approx(library.log_mel_stats("train"))
    fixed = resolve(load_recipe("toy", ["data.audio_mean=-4.3", "data.audio_std=4.3"]), library)
    assert (fixed.data.audio_mean, fixed.data.audio_std) == (-4.3, 4.3)


def test_a_split_with_nothing_to_compare_is_an_error(library):
    with pytest.raises(TrainingError, match=r"split 'test' has 0 clips .* needs at least 2"):
        resolve(load_recipe("toy", ["data.split=test"]), library)


def test_more_processes_than_clips_are_an_error(library):
    with pytest.raises(TrainingError, match="5 clips are too few for 8 processes"):
        resolve(load_recipe("toy"), library, processes=8)
    with pytest.raises(TrainingError, match="4 clips are too few for 5 processes"):
        resolve(load_recipe("toy", ["train.global_batch=4"]), library, processes=5)


def test_shares_that_make_unlike_numbers_of_micro_batches_are_an_error_that_says_which_would_do(library):
    recipe = load_recipe("toy", ["train.global_batch=5", "train.micro_batch=2"])
    with pytest.raises(TrainingError, match=r"by 3 and 2, .* of 2: take train\.micro_batch=3"):
        resolve(recipe, library, processes=2)
    assert resolve(load_recipe("toy", ["train.micro_batch=3"]), library, 2).train.micro_batch == 3


def test_the_precision_of_auto_is_decided_when_a_run_begins_and_kept(library, tmp_path, monkeypatch, caplog):
    def this_machine_takes(precision):
        monkeypatch.setattr(run_folder, "choose_precision", lambda wish: precision if wish == "auto" else wish)

    recipe = small_recipe("train.precision=auto")
    this_machine_takes("bf16")
    pretrain(recipe, library, tmp_path / "run", should_stop=lambda: True)
    this_machine_takes("fp32")
    assert resolve(recipe, library).train.precision == "fp32"
    assert resolve(recipe, library, run=tmp_path / "run").train.precision == "bf16"
    assert "begun in bf16, which this machine computes slowly" in caplog.text
    assert pretrain(recipe, library, tmp_path / "run").done
    assert load_recipe(tmp_path / "run" / "recipe.yaml").train.precision == "bf16"
    with pytest.raises(TrainingError, match=r"train\.precision was 'bf16', now 'fp32'"):
        pretrain(small_recipe("train.precision=fp32"), library, tmp_path / "run")


@pytest.mark.parametrize(("capability", "expected"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_a_gpu_that_emulates_bf16_is_not_given_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=capability))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert choose_precision("auto") == expected


def test_a_run_stopped_and_taken_up_ends_in_the_same_model(library, tmp_path):
    recipe, done = small_recipe("train.epochs=4"), []
    whole = pretrain(recipe, library, tmp_path / "whole")
    parts = pretrain(recipe, library, tmp_path / "parts", on_step=done.append, should_stop=lambda: len(done) >= 2)
    assert (whole.done, parts.done) == (True, False)
    parts = pretrain(recipe, library, tmp_path / "parts")
    assert parts.done
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_an_averaged_run_keeps_the_average_and_resumes_exactly(library, tmp_path):
    recipe, done = small_recipe("train.epochs=4", "train.ema=0.9"), []
    pretrain(recipe, library, tmp_path / "whole")
    pretrain(recipe, library, tmp_path / "parts", on_step=done.append, should_stop=lambda: len(done) >= 2)
    pretrain(recipe, library, tmp_path / "parts")
    whole, parts = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    last = load_file(tmp_path / "whole" / "state" / "step-00000004" / "model.safetensors")
    weights = [name for name in whole if name.endswith("weight")]
    assert weights
    assert not any(torch.equal(whole[name], last[name]) for name in weights)


def test_a_new_run_starts_from_the_weights_of_another(library, tmp_path):
    pretrain(small_recipe(), library, tmp_path / "old")
    source = tmp_path / "old" / "model"
    fresh = small_recipe(f"init.from={source}", "optim.lr=1e-12", "optim.lr_start=0", "optim.lr_end=0", "train.seed=5")
    pretrain(fresh, library, tmp_path / "new")
    old, new = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("old", "new"))
    assert all(torch.allclose(old[name], new[name], atol=1e-8) for name in old)
    assert load_recipe(tmp_path / "new" / "recipe.yaml").init.model == str(source)
    pretrain(fresh, library, tmp_path / "new")
    with pytest.raises(ModelError, match="do not fit this model"):
        pretrain(small_recipe(f"init.from={source}", "model.width=64"), library, tmp_path / "wider")
    with pytest.raises(ConfigError, match="from gives all weights"):
        small_recipe(f"init.from={source}", "init.audio=mae.pth")


def test_a_new_run_keeps_the_normalisation_of_the_weights_it_starts_from_or_says_that_it_does_not(
    library, tmp_path, caplog
):
    given = ["data.audio_mean=-4.25", "data.audio_std=4.5"]
    pretrain(small_recipe(*given), library, tmp_path / "old")
    begin = f"init.from={tmp_path / 'old' / 'model'}"
    pretrain(small_recipe(begin), library, tmp_path / "new")
    config = EquiAV.from_pretrained(tmp_path / "new" / "model").config
    assert (config.audio_mean, config.audio_std) == (-4.25, 4.5)
    assert "instead" not in caplog.text
    replaced = resolve(small_recipe(begin, "data.audio_mean=-4", "data.audio_std=4"), library)
    assert (replaced.data.audio_mean, replaced.data.audio_std) == (-4, 4)
    assert (
        "mean -4.25 and deviation 4.5; this run takes data.audio_mean=-4.0 and data.audio_std=4.0 instead"
        in caplog.text
    )
    shutil.rmtree(tmp_path / "old")
    again = resolve(small_recipe(begin), library, run=tmp_path / "new")
    assert (again.data.audio_mean, again.data.audio_std) == (-4.25, 4.5)


def test_weights_of_other_features_are_refused_before_anything_is_written(library, tmp_path):
    other = small(library)
    other = other.model_copy(update={"features": other.features.model_copy(update={"sample_rate": 8000})})
    EquiAV(model_config(other)).save_pretrained(tmp_path / "model")
    with pytest.raises(TrainingError, match=r"features that .*model does not know: .*sample_rate.*new library"):
        pretrain(small_recipe(f"init.from={tmp_path / 'model'}"), library, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_micro_batches_give_the_run_of_whole_batches(library, tmp_path):
    runs = {}
    for name, overrides in (("whole", []), ("parts", ["train.micro_batch=3"])):
        # beside other work `auto` may measure another precision the second time
        recipe = small_recipe("train.log_every=1", "train.precision=fp32", *overrides)
        pretrain(recipe, library, tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        runs[name] = [json.loads(line) for line in lines]
    for a, b in zip(runs["whole"], runs["parts"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-3)


def test_a_run_writes_its_health_and_its_tensorboard_events(library, tmp_path):
    pretrain(small_recipe(), library, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "health.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    wanted = {
        f"{modality}.{m}" for modality in ("audio", "visual") for m in ("deviation", "rank_share", "centroid_noise")
    }
    assert wanted <= lines[0].keys()
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


def test_a_recipe_made_to_collapse_sets_off_alarms_that_say_what_to_do(library, tmp_path, caplog):
    flat = small_recipe("loss.temperature=1e4", "optim.warmup_epochs=0", "optim.lr=1e-6")
    pretrain(flat, library, tmp_path / "run")
    assert "dead temperature" in caplog.text
    assert "lower loss.temperature" in caplog.text
    lines = (tmp_path / "run" / "health.jsonl").read_text().splitlines()
    assert any("dead temperature" in alarm for alarm in json.loads(lines[-1])["alarms"])


def test_a_tracker_that_is_not_installed_is_an_error_before_anything_is_written(library, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed: pip install wandb"):
        pretrain(small_recipe("train.trackers=[wandb]"), library, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_precision_without_a_gpu_is_refused(library, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        pretrain(small_recipe("train.precision=fp16"), library, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.gate
def test_the_base_recipe_is_a_vit_b_and_takes_a_step(library):
    recipe = resolve(load_recipe("base", ["train.global_batch=2"]), library)
    recipe = recipe.model_copy(update={"features": load_recipe("base").features})
    model = EquiAV(model_config(recipe))
    assert sum(p.numel() for p in model.audio_tower.encoder.parameters()) == pytest.approx(85.4e6, rel=0.02)
    batch = one_batch(library, recipe)
    batch = type(batch)(**{**vars(batch), "audio": torch.randn(len(batch.clip_ids), 1024, 128)})
    loss = losses(model, batch, recipe)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
