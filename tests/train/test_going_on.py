"""A run goes on with what it began with: its own state, its own clips; where these are gone, it says which."""

import json
import shutil

import pytest
import torch

from equiav.config import load_recipe
from equiav.errors import TrainingError
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.train.finetune import finetune
from equiav.train.pretrain import pretrain
from equiav.train.trained_on import load_trained_on
from samples import TINY, pictures, tone, write_media
from train.labelled_library import LABELS, label, save_pretrained, tiny_recipe
from train.small_library import make_library, small_recipe


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return make_library(tmp_path_factory.mktemp("going-on"))


@pytest.fixture
def copy(library, tmp_path):
    """Of the library, to change."""
    shutil.copytree(library.path, tmp_path / "L")
    return Library(tmp_path / "L")


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


def begin(recipe, library, run, steps=1):
    """Train until so many steps are done."""
    done = []
    assert not pretrain(recipe, library, run, on_step=done.append, should_stop=lambda: len(done) >= steps).done


def grow(library, folder, clips=2):
    folder.mkdir()
    for i in range(clips):
        write_media(folder / f"new{i}.mp4", frames=pictures(7, seed=50 + i), sound=tone(0.7, 2000 + 300 * i))
    ingest(folder, library.path, TINY, workers=1)
    return Library(library.path)


def autoencoder(width, patch):
    """The encoder of a masked autoencoder of one block, under timm's names."""
    layers = {
        "attn.qkv": (3, 1),
        "attn.proj": (1, 1),
        "mlp.fc1": (4, 1),
        "mlp.fc2": (1, 4),
        "norm1": (1, 0),
        "norm2": (1, 0),
    }
    shapes = {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    for name, (out, into) in layers.items():
        shapes[f"blocks.0.{name}.weight"] = (out * width, into * width) if into else (width,)
        shapes[f"blocks.0.{name}.bias"] = (out * width,)
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_a_run_goes_on_without_the_model_that_it_started_from(library, tmp_path):
    pretrain(small_recipe(), library, tmp_path / "old")
    recipe = small_recipe(f"init.from={tmp_path / 'old' / 'model'}", "train.epochs=4")
    pretrain(recipe, library, tmp_path / "whole")
    begin(recipe, library, tmp_path / "parts")
    shutil.rmtree(tmp_path / "old")
    assert pretrain(recipe, library, tmp_path / "parts").done
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_run_goes_on_without_the_masked_autoencoder_that_it_started_from(library, tmp_path):
    torch.save(autoencoder(width=32, patch=16), tmp_path / "mae.pth")
    recipe = small_recipe(f"init.visual={tmp_path / 'mae.pth'}", "model.visual_patch=16", "train.epochs=3")
    pretrain(recipe, library, tmp_path / "whole")
    begin(recipe, library, tmp_path / "parts")
    (tmp_path / "mae.pth").unlink()
    assert pretrain(recipe, library, tmp_path / "parts").done
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_fine_tuning_goes_on_without_the_run_that_it_came_from(library_of, tmp_path):
    library = library_of()
    source = tmp_path / "old"
    save_pretrained(library, source / "model")
    finetune(tiny_recipe(source=source), library, tmp_path / "whole")
    done = []
    stop = {"on_step": done.append, "should_stop": lambda: len(done) >= 1}
    assert not finetune(tiny_recipe(source=source), library, tmp_path / "parts", **stop).done
    shutil.rmtree(source)
    assert finetune(tiny_recipe(source=source), library, tmp_path / "parts").done
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_library_in_another_place_is_the_same_library(copy, library, tmp_path):
    begin(small_recipe(), library, tmp_path / "run")
    assert pretrain(small_recipe(), copy, tmp_path / "run").done


def test_a_run_goes_on_with_its_own_clips_when_the_library_has_grown(copy, library, tmp_path, caplog):
    recipe = small_recipe("train.global_batch=64", "train.epochs=3")
    pretrain(recipe, library, tmp_path / "whole")
    begin(recipe, copy, tmp_path / "parts")
    grown = grow(copy, tmp_path / "more")
    assert grown.count("train") == 7
    outcome = pretrain(recipe, grown, tmp_path / "parts")
    assert (outcome.steps, outcome.clips, outcome.done) == (3, 5, True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert "2 added to split 'train'" in caplog.text
    assert "goes on with the 5 clips that it began with" in caplog.text


def test_a_library_that_lost_clips_is_refused_and_the_clips_are_named(copy, tmp_path):
    begin(small_recipe(), copy, tmp_path / "run")
    first, second, *_ = copy.clips("train", ["clip_id", "source"]).to_pylist()
    copy.remove([first["clip_id"]])
    copy.update([{"clip_id": second["clip_id"], "split": "test"}])
    with pytest.raises(TrainingError, match=r"of the 5 clips of its split 'train', 2 removed since then") as caught:
        pretrain(small_recipe(), Library(copy.path), tmp_path / "run")
    assert any(row["source"] in str(caught.value) for row in (first, second))
    assert "another --run folder" in str(caught.value)
    assert "audio_mean" not in str(caught.value)


def test_another_library_is_named_as_another(library, tmp_path):
    begin(small_recipe(), library, tmp_path / "run")
    other = grow(Library.create(tmp_path / "other", TINY), tmp_path / "more", clips=3)
    with pytest.raises(TrainingError, match=r"was begun on another library, .*: none of its 5 clips is in split"):
        pretrain(small_recipe(), other, tmp_path / "run")
    features = TINY.model_copy(update={"frame_side": TINY.frame_side + 8})
    ingest(tmp_path / "more", tmp_path / "wider", features, workers=1)
    with pytest.raises(TrainingError, match=r"another library, .*: features\.frame_side was"):
        pretrain(small_recipe(), Library(tmp_path / "wider"), tmp_path / "run")


def test_new_labels_matter_to_a_run_that_learns_them_alone(library_of, tmp_path):
    library = library_of()
    done = []
    stop = {"on_step": done.append, "should_stop": lambda: len(done) >= 1}
    recipe = tiny_recipe("data.validation=val", "train.average_last=null")
    finetune(recipe, library, tmp_path / "fine", **stop)
    begin(small_recipe(), library, tmp_path / "plain")
    changed = label(library, [["class2"], *LABELS[1:]])
    assert pretrain(small_recipe(), changed, tmp_path / "plain").done
    with pytest.raises(TrainingError, match=r"of the 6 clips of its split 'train', 1 relabelled since then"):
        finetune(recipe, changed, tmp_path / "fine")
    validation = LABELS.copy()
    validation[7] = ["class0"]
    with pytest.raises(TrainingError, match=r"of the 2 clips of its split 'val', 1 relabelled since then"):
        finetune(recipe, label(library, validation), tmp_path / "fine")
    assert finetune(recipe, label(library), tmp_path / "fine").done, "as they were"


def test_a_fine_tuning_goes_on_with_its_own_clips_classes_and_validation(library_of, tmp_path):
    recipe = tiny_recipe("data.validation=val", "train.average_last=null", "train.global_batch=64")
    finetune(recipe, library_of(), tmp_path / "whole")
    library, done = library_of(), []
    stop = {"on_step": done.append, "should_stop": lambda: len(done) >= 1}
    finetune(recipe, library, tmp_path / "parts", **stop)
    before = library.clip_ids()
    grown = grow(library, tmp_path / "more")
    new = sorted(grown.clip_ids() - before)
    grown.update([{"clip_id": new[0], "labels": ["another"], "split": "train"}])
    grown.update([{"clip_id": new[1], "labels": ["class1"], "split": "val"}])
    outcome = finetune(recipe, Library(grown.path), tmp_path / "parts")
    assert (outcome.clips, outcome.classes, outcome.done) == (6, 3, True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    lines = [(tmp_path / run / "health.jsonl").read_text().splitlines() for run in ("parts", "whole")]
    judged = [[json.loads(line)["validation_error"] for line in own] for own in lines]
    assert len(judged[0]) == 3
    assert judged[0] == judged[1], "the best epoch is chosen on the same clips"


def test_how_often_a_run_notes_and_saves_may_change(library, tmp_path):
    begin(small_recipe(), library, tmp_path / "run")
    assert pretrain(small_recipe("train.log_every=1", "train.save_every=2"), library, tmp_path / "run").done
    with pytest.raises(TrainingError, match=r"another recipe: train\.epochs was 2, now 3"):
        pretrain(small_recipe("train.epochs=3"), library, tmp_path / "run")


def test_the_source_of_weights_is_a_place_however_it_is_written(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pretrain(small_recipe(), library, tmp_path / "old")
    begin(small_recipe("init.from=old/model"), library, tmp_path / "run")
    assert pretrain(small_recipe(f"init.from={tmp_path}/x/../old/model"), library, tmp_path / "run").done
    with pytest.raises(TrainingError, match=r"another recipe: init\.from was .*old.*, now .*older"):
        pretrain(small_recipe("init.from=older/model"), library, tmp_path / "run")


def test_a_given_mean_is_kept_where_the_deviation_is_measured(library, tmp_path):
    begin(small_recipe("data.audio_mean=-3"), library, tmp_path / "run")
    mean, std = library.log_mel_stats("train")
    found = load_recipe(tmp_path / "run" / "recipe.yaml").data
    assert (found.audio_mean, found.audio_std) == (-3.0, pytest.approx(std))
    assert mean != pytest.approx(-3.0)


def test_a_run_without_a_list_of_its_clips_is_refused(library, tmp_path):
    begin(small_recipe(), library, tmp_path / "run")
    assert load_trained_on(tmp_path / "run") is not None
    (tmp_path / "run" / "trained_on.json").unlink()
    with pytest.raises(TrainingError, match=r"has no trained_on\.json, which lists the clips"):
        pretrain(small_recipe(), library, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text("[")
    with pytest.raises(TrainingError, match=r"recipe\.yaml is no recipe that equiav wrote"):
        pretrain(small_recipe(), library, tmp_path / "run")
