"""A model that is not loaded has the fingerprint of the loaded one, always that of the weights that are there."""

import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import small_model

from equiav.errors import ModelError
from equiav.model.equiav import EquiAV
from equiav.model.light import LightModel


@pytest.mark.parametrize("settings", [{}, {"method": "plain"}, {"share": "none"}, {"inter": "predicted"}], ids=str)
def test_the_fingerprint_is_that_of_the_loaded_model(settings, tmp_path):
    small_model(**settings).save_pretrained(tmp_path / "run" / "model")
    light = LightModel(tmp_path / "run")
    assert light.fingerprint() == small_model(**settings).fingerprint()
    assert "loaded" not in vars(light)


def test_the_fingerprint_follows_weights_that_were_changed_in_place_with_the_old_size_and_time(tmp_path):
    small_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    before, stat = LightModel(tmp_path).fingerprint(), file.stat()
    with file.open("r+b") as weights:
        weights.seek(-4, os.SEEK_END)
        weights.write(np.float32(0.123).tobytes())
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert LightModel(tmp_path).fingerprint() == EquiAV.from_pretrained(tmp_path).fingerprint() != before


def test_weights_of_half_precision_or_with_notes_have_the_fingerprint_of_what_they_are_loaded_as(tmp_path):
    small_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    save_file(weights, file, metadata={"of": "somebody"})
    assert LightModel(tmp_path).fingerprint() == small_model().fingerprint()
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}, file)
    assert LightModel(tmp_path).fingerprint() == EquiAV.from_pretrained(tmp_path).fingerprint()


def test_weights_that_were_replaced_after_the_fingerprint_was_given_are_not_used(tmp_path):
    small_model().save_pretrained(tmp_path / "model")
    light = LightModel(tmp_path)
    light.fingerprint()
    shutil.rmtree(tmp_path / "model")
    EquiAV(small_model().config, seed=1).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="was replaced while it was in use"):
        light.encode(image=np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize("content", [b"", b"not weights", bytes(100), (2).to_bytes(8, "little") + b"[]"])
def test_weights_that_cannot_be_read_are_an_error(content, tmp_path):
    small_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        LightModel(tmp_path).fingerprint()


def test_weights_that_end_early_are_an_error(tmp_path):
    small_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="it ends before its weights do"):
        LightModel(tmp_path).fingerprint()


def test_what_is_no_model_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        LightModel(tmp_path)
