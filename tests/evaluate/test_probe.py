"""Linear probe: what lies on two sides of a plane is told apart, what does not is not."""

import numpy as np
import pytest

from equiav.config import load_recipe
from equiav.evaluate.probe import linear_probe, probe_library
from equiav.model.equiav import EquiAV
from equiav.train.pretrain import model_config, resolve
from train.small_library import SMALL, make_library


def test_classes_apart_are_told_apart_and_noise_is_not():
    rng = np.random.default_rng(0)
    labels = ["a", "b", "c"] * 60
    apart = np.stack([rng.normal(3 * (label == np.array(["a", "b", "c"])), 0.5) for label in labels])
    assert linear_probe(apart[:90], labels[:90], apart[90:], labels[90:]) > 0.95
    noise = rng.normal(size=(180, 3))
    assert linear_probe(noise[:90], labels[:90], noise[90:], labels[90:]) < 0.6


def test_clips_without_one_label_each_are_not_probed(tmp_path):
    library = make_library(tmp_path)
    model = EquiAV(model_config(resolve(load_recipe("toy", SMALL), library, 1))).eval()
    assert probe_library(library, model, test="train") is None
    ids = library.all_ids()
    library.relabel({name: (["x" if i % 2 else "y"], "train") for i, name in enumerate(ids)})
    accuracy = probe_library(library, model, test="train")
    assert accuracy == pytest.approx(1.0), "five clips in many dimensions can be told apart"
