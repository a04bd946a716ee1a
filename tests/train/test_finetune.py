"""Fine-tuning: exact to resume, the head at its own rate, nothing learned from clips that are only measured on."""

import json
import math
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from equiav.config import Features
from equiav.errors import LibraryError, ModelError, TrainingError
from equiav.library.table import Library
from equiav.model.classifier import Classifier
from equiav.model.equiav import EquiAV
from equiav.train import finetune as finetune_module
from equiav.train.classification import Classification, label_matrix
from equiav.train.finetune import finetune, resolve
from equiav.train.mixing import MixingLoader, Mixture
from train.labelled_library import LABELS, SPLITS, label, save_pretrained, tiny_recipe


@pytest.fixture(scope="module")
def library(library_of):
    return library_of()


@pytest.fixture(scope="module")
def source(library, tmp_path_factory):
    return save_pretrained(library, tmp_path_factory.mktemp("source") / "model")


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


def objective(library, *overrides):
    recipe, config = resolve(tiny_recipe(*overrides), library)
    model = Classifier(config, recipe.task.classes, recipe.task.modalities, recipe.task.labels)
    return Classification(model, recipe), next(iter(MixingLoader(library, recipe).epoch(0)))


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_run_stopped_and_taken_up_ends_in_the_same_weights(library, source, tmp_path, stop_after):
    recipe, done = tiny_recipe("train.global_batch=2", "train.average_last=2", source=source), []
    finetune(recipe, library, tmp_path / "whole")
    stop = {"on_step": done.append, "should_stop": lambda: len(done) >= stop_after}
    parts = finetune(recipe, library, tmp_path / "parts", **stop)
    assert (parts.step, parts.steps, parts.done) == (stop_after, 9, False)
    assert finetune(recipe, library, tmp_path / "parts").done
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines()[-1] for run in ("parts", "whole")]
    assert json.loads(lines[0])["loss"] == json.loads(lines[1])["loss"]


def test_the_head_learns_fifty_times_as_fast(library, source, tmp_path):
    settings = ["optim.lr=1e-4", "optim.head_lr_ratio=50", "optim.weight_decay=0", "optim.clip_norm=.inf"]
    recipe = tiny_recipe("train.epochs=1", *settings, source=source)
    finetune(recipe, library, tmp_path / "run")
    resolved, config = resolve(recipe, library)
    first = Classifier(config, resolved.task.classes, labels="single-label")
    first.start_from(EquiAV.from_pretrained(source))
    after = load_file(tmp_path / "run" / "state" / "step-00000001" / "model.safetensors")
    # the first step of Adam moves every weight by its learning rate
    moved = {name: float((after[name] - before).abs().max()) for name, before in first.state_dict().items()}
    assert moved["head.weight"] == pytest.approx(5e-3, rel=1e-3)
    assert moved["projections.audio.weight"] == pytest.approx(5e-3, rel=1e-3)
    assert moved["encoders.audio.blocks.0.mlp.fc1.weight"] == pytest.approx(1e-4, rel=1e-3)
    assert moved["encoders.visual.norm.bias"] == pytest.approx(1e-4, rel=1e-3)


def test_clips_that_are_only_measured_on_never_influence_the_weights(library_of, source, tmp_path):
    labelled = library_of()
    finetune(tiny_recipe(source=source), labelled, tmp_path / "before")
    others = [
        own if split == "train" else ["x"] * (own == LABELS[0]) for own, split in zip(LABELS, SPLITS, strict=True)
    ]
    finetune(tiny_recipe(source=source), label(labelled, others), tmp_path / "after")
    assert weights(tmp_path / "before") == weights(tmp_path / "after")


def test_the_kept_weights_are_the_mean_over_the_last_epochs(library, source, tmp_path):
    recipe = tiny_recipe("train.average_last=2", source=source)
    finetune(recipe, library, tmp_path / "run")
    last = [load_file(tmp_path / "run" / "state" / f"step-{i:08d}" / "model.safetensors") for i in (2, 3)]
    kept = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for name, weight in kept.items():
        torch.testing.assert_close(weight, (last[0][name] + last[1][name]) / 2)


def test_a_mean_over_more_epochs_than_there_are_is_the_mean_over_all_and_not_over_the_first_weights(
    library, source, tmp_path
):
    for last in (2, 8):
        recipe = tiny_recipe("train.epochs=2", f"train.average_last={last}", source=source)
        finetune(recipe, library, tmp_path / str(last))
    assert weights(tmp_path / "8") == weights(tmp_path / "2")


def test_a_validation_split_chooses_the_epoch(library, source, tmp_path, monkeypatch):
    errors = iter([0.5, 0.25, 0.75])
    monkeypatch.setattr(finetune_module, "error", lambda *_: next(errors))
    recipe = tiny_recipe("data.validation=val", "train.average_last=null", source=source)
    finetune(recipe, library, tmp_path / "run")
    best = load_file(tmp_path / "run" / "state" / "step-00000002" / "model.safetensors")
    kept = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(kept[name], best[name]) for name in best)
    lines = (tmp_path / "run" / "health.jsonl").read_text().splitlines()
    assert [json.loads(line)["validation_error"] for line in lines] == [0.5, 0.25, 0.75]


def test_a_run_that_was_begun_under_the_earlier_names_goes_on(library, source, tmp_path):
    recipe, steps = tiny_recipe("train.epochs=2", source=source), []
    finetune(recipe, library, tmp_path, on_step=steps.append, should_stop=lambda: bool(steps))
    about = json.loads((tmp_path / "trained_on.json").read_text())
    stored = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    for tree in (about, stored["task"]):
        assert tree.pop("modalities") == "both"
        tree["senses"] = "audio-visual"
    (tmp_path / "trained_on.json").write_text(json.dumps(about))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(stored))
    assert finetune(recipe, library, tmp_path).done


def test_a_run_overfits_its_clips(library, tmp_path):
    plain = ["augment={mix: 0, audio: {}}", "task.drop_path=0", "train.roll=false"]
    longer = ["train.epochs=15", "optim.lr=3e-3", "train.global_batch=6", "train.log_every=1"]
    finetune(tiny_recipe(*plain, *longer), library, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]


@pytest.mark.parametrize(
    "name", [pytest.param("finetune-audioset20k", marks=pytest.mark.slow), "finetune-audioset2m", "finetune-vggsound"]
)
def test_a_shipped_recipe_runs_unchanged_on_another_model_and_library(equiav, library, source, tmp_path, name):
    run = tmp_path / "run"
    code, out, _ = equiav("finetune", name, "--library", library.path, "--run", run, "--from", source, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["step"] == found["steps"] > 0
    wanted = {"mAP", "AUC", "d_prime"} if "audioset" in name else {"top1"}
    assert set(found["test"]["figures"]) <= wanted
    assert found["test"]["clips"] == 3
    assert Classifier.from_pretrained(run / "model").classes == ["class0", "class1", "class2"]
    assert {"recipe.yaml", "metrics.jsonl", "state", "model", "result.json"} <= {path.name for path in run.iterdir()}
    code, out, err = equiav("evaluate", "classify", "--library", library.path, "--run", run, "--json")
    assert (code, json.loads(out)) == (0, found["test"]), err


def test_mixed_targets_follow_the_shares_and_smoothing_spreads_them(library):
    goal, batch = objective(library, "task.label_smoothing=0.1")
    logits = torch.randn(4, 3)
    own, other = (label_matrix(clips.labels, goal.model.classes) for clips in (batch.clips, batch.others))
    share = batch.shares[:, None]
    wanted = 0.9 * (share * own + (1 - share) * other) + 0.1 / 3
    loss = -(wanted * logits.log_softmax(1)).sum(1).mean()
    assert float(goal.losses(logits, batch)["loss"]) == pytest.approx(float(loss), rel=1e-5)
    goal.model.labels = "multi-label"
    loss = -(wanted * torch.nn.functional.logsigmoid(logits) + (1 - wanted) * torch.nn.functional.logsigmoid(-logits))
    assert float(goal.losses(logits, batch)["loss"]) == pytest.approx(float(loss.mean()), rel=1e-5)


def test_pictures_are_mixed_as_the_sounds_are(library):
    plain = ["augment.audio={}", "train.roll=false"]
    (mixing, batch), (alone, _) = objective(library, *plain), objective(library, "augment.mix=0", *plain)
    parts = [Mixture(clips, None, torch.ones(4), batch.draws) for clips in (batch.clips, batch.others)]
    first, second = (alone.inputs(part, 0)[1] for part in parts)
    share = batch.shares[:, None, None, None]
    expected = share * first + (1 - share) * second
    torch.testing.assert_close(mixing.inputs(batch, 0)[1], expected, atol=1e-5, rtol=1e-5)


def test_what_is_drawn_for_a_clip_does_not_depend_on_the_clips_beside_it(library):
    goal, batch = objective(library, "augment.visual={crop: {}, flip: {}}")
    whole = goal.inputs(batch, 3)
    parts = [torch.cat(column) for column in zip(*(goal.inputs(part, 3) for part in batch.split(1)), strict=True)]
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(goal.inputs(batch, 4)[0], whole[0])


@pytest.mark.parametrize("modalities", ["audio", "visual", "both"])
def test_a_classifier_is_given_what_it_looks_at(library, modalities):
    goal, batch = objective(library, f"task.modalities={modalities}")
    audio, visual = goal.inputs(batch, 0)
    assert [audio is not None, visual is not None] == [modalities != "visual", modalities != "audio"]
    assert goal.model(audio, visual).shape == (4, 3)


def test_unlabelled_clips_unknown_classes_and_several_labels_are_named(library_of):
    labelled = library_of()
    none = label(labelled, [[] if i == 2 else own for i, own in enumerate(LABELS)])
    with pytest.raises(LibraryError, match="split 'train': 1 of 6 clips has no label"):
        resolve(tiny_recipe(), none)
    several = label(labelled, [[*own, "too"] for own in LABELS])
    with pytest.raises(LibraryError, match=r"6 of 6 clips have more than one label; take task.labels=multi-label"):
        resolve(tiny_recipe(), several)
    label(labelled)
    with pytest.raises(LibraryError, match="1 label is no class of this classifier, which knows 2: class2"):
        resolve(tiny_recipe("task.classes=[class0, class1]"), Library(labelled.path))
    with pytest.raises(TrainingError, match=r"split 'gone' has 0 clips .* it has the splits test, train, val"):
        resolve(tiny_recipe("data.split=gone"), Library(labelled.path))
    rare = label(labelled, [["rare"] if split == "test" else own for own, split in zip(LABELS, SPLITS, strict=True)])
    assert resolve(tiny_recipe(), rare)[0].task.classes == ("class0", "class1", "class2")
    with pytest.raises(LibraryError, match=r"split 'test': 1 label is no class .* 3: rare"):
        resolve(tiny_recipe(), rare, test="test")
    same = label(labelled, [["same"]] * len(LABELS))
    with pytest.raises(TrainingError, match="needs two classes"):
        resolve(tiny_recipe(), same)


def test_the_pretrained_model_decides_sizes_and_normalisation(library, source):
    recipe, config = resolve(tiny_recipe("model.checkpointing=true", source=source), library)
    pretrained = EquiAV.from_pretrained(source).config
    assert recipe.model == pretrained.architecture.model_copy(update={"checkpointing": True}) == config.architecture
    assert (recipe.data.audio_mean, recipe.data.audio_std) == (pretrained.audio_mean, pretrained.audio_std)
    fresh, _ = resolve(tiny_recipe(), library)
    assert (fresh.data.audio_mean, fresh.data.audio_std) == pytest.approx(library.log_mel_stats("train"))


def test_features_that_the_pretrained_model_does_not_know_are_refused(library, tmp_path):
    other = EquiAV.from_pretrained(save_pretrained(library, tmp_path / "m"))
    other.config = other.config.model_copy(update={"features": Features(time_frames=64, mel_bins=64)})
    EquiAV(other.config).save_pretrained(tmp_path / "wider")
    with pytest.raises(TrainingError, match="mel_bins is 32, the model's 64"):
        resolve(tiny_recipe(source=tmp_path / "wider"), library)
    with pytest.raises(ModelError, match="no such folder"):
        resolve(tiny_recipe(source="no such/model/at all"), library)


def test_what_cannot_be_meant_is_a_message_on_the_command_line(equiav, library, source, tmp_path):
    line = ["finetune", "finetune-toy", "--library", library.path, "--run", tmp_path / "R", "--from", source]
    for more, message in (
        (["model.width=64"], "the pretrained model decides"),
        (["features.mel_bins=64"], "fixed when a library is made"),
        (["--test", "train"], "split 'train' is trained or chosen on"),
    ):
        code, _, err = equiav(*line, *more)
        assert (code, message in err) == (1, True), err
    assert not (tmp_path / "R").exists()
    small = ["train.global_batch=4", "train.epochs=1", "train.trackers=[]"]
    code, _, err = equiav(*line, *small, "task.classes=[class0, class1, class2, class0]")
    assert (code, "class0 stand there twice" in err) == (1, True), err
    code, out, err = equiav(*line, *small, "--test", "none")
    assert (code, "nothing was measured" in err) == (0, True)
    assert "of 3 classes" in out


@pytest.mark.slow
def test_two_processes_learn_and_measure_as_one(library, source, tmp_path):
    settings = ["train.global_batch=4", "train.epochs=3", "task.drop_path=0"]
    shared = ["finetune", "finetune-toy", "-L", str(library.path), "--from", str(source), *settings]
    shared += ["data.validation=val", "train.average_last=null"]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for name, command in (("one", []), ("two", launcher)):
        whole = [sys.executable, *command, "-m", "equiav", *shared, "-R", str(tmp_path / name)]
        subprocess.run(whole, check=True, capture_output=True)
    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "two"))
    for weight, other in zip(one.values(), two.values(), strict=True):
        torch.testing.assert_close(weight, other, atol=1e-4, rtol=1e-3)
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in ("one", "two")]
    assert results[0]["items"] == results[1]["items"] == library.all_ids()[8:]
    assert results[0]["per_item"] == results[1]["per_item"]
    errors = [
        [json.loads(line)["validation_error"] for line in (tmp_path / run / "health.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    assert errors[0] == errors[1]
    assert all(math.isfinite(value) for value in errors[0])
