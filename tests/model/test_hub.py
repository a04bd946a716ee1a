"""A model folder: written, read back, damaged, and looked for where it is not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from small_models import batch_for, small_config, small_model

from equiav.errors import ConfigError, ModelError
from equiav.model.classifier import Classifier
from equiav.model.convert import load_mae
from equiav.model.equiav import EquiAV
from equiav.model.folder import stored_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    small_model().save_pretrained(path)
    return path


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


@pytest.mark.parametrize("settings", [{}, {"method": "plain"}, {"share": "none"}], ids=str)
def test_a_saved_model_comes_back_the_same(settings, tmp_path):
    model = small_model(**settings)
    model.save_pretrained(tmp_path)
    loaded = EquiAV.from_pretrained(tmp_path)
    assert loaded.fingerprint() == model.fingerprint()
    assert loaded.config == model.config
    assert not loaded.training
    audio = batch_for(model)["audio"]
    with torch.no_grad():
        assert torch.equal(loaded.embed_audio(audio), model.eval().embed_audio(audio))


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], ids=oct)
def test_all_files_of_a_folder_have_the_permissions_of_new_files(umask, tmp_path):
    embeds = small_model()
    classifies = Classifier(embeds.config, ["rain", "wind"])
    before = os.umask(umask)
    try:
        for name, model in (("embeds", embeds), ("classifies", classifies)):
            for _ in range(2):  # anew, and over what stands there
                model.save_pretrained(tmp_path / name)
    finally:
        os.umask(before)
    for name in ("embeds", "classifies"):
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / name).iterdir()}
        assert modes == dict.fromkeys(("config.json", "model.safetensors", "README.md"), 0o666 & ~umask)


def test_weights_that_cannot_be_written_leave_those_before_and_nothing_beside(copied, monkeypatch):
    def fail(model, name):
        Path(name).write_bytes(b"half")
        raise OSError("No space left on device")

    before = (copied / "model.safetensors").read_bytes()
    monkeypatch.setattr("equiav.model.equiav.save_model", fail)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be written: No space left"):
        small_model().save_pretrained(copied)
    assert (copied / "model.safetensors").read_bytes() == before
    assert not list(copied.glob(".*"))


def test_the_folder_holds_no_pickle_and_the_settings_of_preprocessing(folder):
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    tree = json.loads((folder / "config.json").read_text())
    assert set(tree) == {"schema_version", "architecture", "features", "augment", "audio_mean", "audio_std"}
    assert tree["features"]["mel_bins"] == 32


def test_how_a_run_spends_memory_is_not_stored():
    assert stored_config(small_config(checkpointing=True, compile=True)) == stored_config(small_config())


def test_the_card_states_licence_data_metrics_and_limits(tmp_path):
    known = {"license": "cc-by-4.0", "data": "Four clips of rain.", "metrics": {"A->V R@1": 0.25}}
    small_model().save_pretrained(tmp_path, model_card_kwargs=known)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "equiav"
    for part in ("Four clips of rain.", "| A->V R@1 | 0.25 |", "no text tower", "## Limits", "2403.09502"):
        assert part in card.text


def test_pushing_uploads_the_folder(monkeypatch):
    seen = {}

    def upload(_, *, folder_path, repo_id, revision, **__):
        seen.update({path.name: path.stat().st_size for path in Path(folder_path).iterdir()})
        seen["to"] = (repo_id, revision)
        return "commit"

    class Repository:
        repo_id = "someone/rain"

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: Repository)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert small_model().push_to_hub("someone/rain", branch="v2") == "commit"
    assert seen.pop("to") == ("someone/rain", "v2")
    assert set(seen) == {"config.json", "model.safetensors", "README.md"}


def test_a_hub_id_is_fetched_at_its_revision_and_offline_when_set(folder, monkeypatch):
    asked = []

    def download(repo_id, file, *, revision, local_files_only):
        asked.append((repo_id, file, revision, local_files_only))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = EquiAV.from_pretrained("hf://someone/rain", revision="v2", local_files_only=True)
    assert model.fingerprint() == small_model().fingerprint()
    assert asked == [("someone/rain", file, "v2", True) for file in ("config.json", "model.safetensors")]


@pytest.fixture
def no_hub(monkeypatch):
    def asked(*arguments, **_):
        raise AssertionError(f"the Hub was asked for {arguments}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)


@pytest.mark.parametrize("load", [EquiAV.from_pretrained, Classifier.from_pretrained])
@pytest.mark.parametrize(
    "name", ["runs/tyo", "runs/tyo/model", "tyo", "./runs/tyo", "/nowhere/model", Path("runs/tyo")]
)
def test_a_mistyped_folder_is_an_error_and_never_reaches_the_hub(load, name, no_hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=rf"{name}: no such folder; expected a model folder or a run"):
        load(name)


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_mistyped_starting_weights_are_an_error_and_never_reach_the_hub(modality, no_hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("weights/mae", "weights/mae.pth"):
        with pytest.raises(ModelError, match=f"{name}: no such file"):
            load_mae(small_model(), modality, name)


def test_the_error_of_a_name_like_a_hub_id_says_how_to_use_the_hub(no_hub):
    with pytest.raises(ModelError, match=r"a model on the Hugging Face Hub is written hf://someone/rain"):
        EquiAV.from_pretrained("someone/rain")


def test_an_address_that_the_hub_does_not_have_is_an_error():
    with pytest.raises(ModelError, match="hf://rain/or/snow is no address"):
        EquiAV.from_pretrained("hf://rain/or/snow")


def test_a_run_stands_for_its_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run" / "model")
    assert EquiAV.from_pretrained(tmp_path / "run").fingerprint() == small_model().fingerprint()


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"not a model folder: it has no config\.json"):
        EquiAV.from_pretrained(tmp_path)


def test_offline_without_the_files_is_an_error_that_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="go online once, or give a folder"):
        EquiAV.from_pretrained("hf://someone/never-downloaded", local_files_only=True)

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ModelError, match="no connection"):
        EquiAV.from_pretrained("hf://someone/never-downloaded")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("audio_tower.encoder.norm.bias"), "audio_tower.encoder.norm.bias is missing"),
        (lambda d: d.update(extra=torch.ones(2)), "extra is not expected"),
        (lambda d: d.update({"audio_tower.centroid_set": torch.ones(2, 2)}), r"is \(2, 2\), expected"),
        (lambda d: d["audio_tower.inter_head.7.bias"].fill_(float("inf")), "not finite"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_an_error(copied, change, message):
    weights = load_file(copied / "model.safetensors")
    change(weights)
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        EquiAV.from_pretrained(copied)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 1'])
def test_a_config_that_is_no_models_is_an_error(copied, content):
    (copied / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        EquiAV.from_pretrained(copied)


def test_a_config_of_another_version_or_with_an_unknown_key_is_an_error(copied):
    path = copied / "config.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"schema_version": 2}))
    with pytest.raises(ConfigError, match="schema_version"):
        EquiAV.from_pretrained(copied)
    path.write_text(json.dumps(tree | {"audio_means": 0}))
    with pytest.raises(ConfigError, match="did you mean audio_mean"):
        EquiAV.from_pretrained(copied)


def test_damaged_weights_are_an_error(copied):
    (copied / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        EquiAV.from_pretrained(copied)


def test_weights_in_a_pickle_are_not_looked_at(copied):
    (copied / "model.safetensors").unlink()
    torch.save(small_model().state_dict(), copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"it has no model\.safetensors"):
        EquiAV.from_pretrained(copied)
