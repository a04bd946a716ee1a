"""The classifier: what it looks at, where it starts from, and how its parts are trained."""

from __future__ import annotations

import json

import pytest
import torch
from small_models import batch_for, small_config, small_model
from torch import nn

from equiav.errors import ModelError
from equiav.model.classifier import Classifier
from equiav.model.equiav import EquiAV

CLASSES = ["bark", "rain", "horn"]
MODALITIES = ("audio", "visual", "both")


def inputs(modalities):
    given = batch_for(small_model(), size=4)
    return {name: given[name] for name in ("audio", "visual") if modalities in (name, "both")}


@pytest.mark.parametrize("modalities", MODALITIES)
def test_logits_are_the_released_formula_on_the_pretrained_encoders(modalities):
    model = small_model().eval()
    classifier = Classifier.on_top_of(model, CLASSES, modalities).eval()
    given = inputs(modalities)
    parts = [classifier.projections[name](getattr(model, f"{name}_tokens")(x).mean(1)) for name, x in given.items()]
    assert classifier.head.in_features == 16 * len(given)
    torch.testing.assert_close(classifier(**given), classifier.head(torch.cat(parts, 1)))


@pytest.mark.parametrize("settings", [{}, {"method": "plain"}], ids=str)
def test_every_parameter_gets_a_gradient(settings):
    classifier = Classifier.on_top_of(small_model(**settings), CLASSES)
    classifier(**inputs("both")).square().sum().backward()
    for name, parameter in classifier.named_parameters():
        assert parameter.grad is not None, name


def test_overfits_a_few_clips():
    classifier = Classifier(small_config(), CLASSES)
    given, target = inputs("both"), torch.tensor([0, 1, 2, 1])
    optimizer = torch.optim.AdamW(classifier.parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(classifier(**given), target)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_what_no_pretrained_model_has_is_new():
    classifier = Classifier(small_config(), CLASSES)
    new = {name.split(".")[0] for name, _ in classifier.named_parameters() if classifier.is_new(name)}
    assert new == {"projections", "head"}


def test_probabilities_of_one_label_add_up_to_one_and_of_many_are_each_their_own():
    logits = torch.tensor([[0.0, 0.0, 1.0]])
    one, many = (Classifier(small_config(), CLASSES, labels=kind) for kind in ("single-label", "multi-label"))
    assert float(one.probabilities(logits).sum()) == pytest.approx(1)
    assert many.probabilities(logits)[0, :2].tolist() == [0.5, 0.5]


def test_a_fingerprint_changes_with_weights_classes_and_labels():
    made = [Classifier(small_config(), CLASSES, seed=seed) for seed in (0, 0, 1)]
    made += [Classifier(small_config(), ["a", "b", "c"]), Classifier(small_config(), CLASSES, labels="single-label")]
    prints = [classifier.fingerprint() for classifier in made]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_drop_path_grows_from_nothing_at_the_first_block():
    classifier = Classifier(small_config(depth=3), CLASSES, drop_path=0.4)
    for encoder in classifier.encoders.values():
        assert [block.drop_path for block in encoder.blocks] == pytest.approx([0, 0.2, 0.4])


def test_a_missing_modality_is_named():
    with pytest.raises(ModelError, match="looks at both: visual was not given"):
        Classifier(small_config(), CLASSES)(**inputs("audio"))


def test_unknown_modalities_and_no_classes_are_errors():
    with pytest.raises(ModelError, match="did you mean visual"):
        Classifier(small_config(), CLASSES, "visuals")
    with pytest.raises(ModelError, match="at least one class"):
        Classifier(small_config(), [])


@pytest.mark.parametrize("modalities", MODALITIES)
def test_a_saved_classifier_comes_back_the_same(modalities, tmp_path):
    classifier = Classifier(small_config(), CLASSES, modalities, "single-label", drop_path=0.1, seed=3)
    classifier.save_pretrained(tmp_path)
    loaded = Classifier.from_pretrained(tmp_path)
    assert (loaded.classes, loaded.modalities, loaded.labels) == (CLASSES, modalities, "single-label")
    assert "bark, rain, horn" in (tmp_path / "README.md").read_text()
    given = inputs(modalities)
    assert torch.equal(loaded(**given), classifier.eval()(**given))


def test_a_classifiers_folder_is_no_models(tmp_path):
    Classifier(small_config(), CLASSES).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a fine-tuned classifier's: give the run that it was fine-tuned from"):
        EquiAV.from_pretrained(tmp_path)


def test_a_models_folder_is_no_classifiers(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"not a classifier's config\.json but .* make a classifier of it"):
        Classifier.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"classes": []}))
    with pytest.raises(ModelError, match=r"not a classifier's config\.json"):
        Classifier.from_pretrained(tmp_path)


def test_a_folder_of_the_earlier_names_is_read(tmp_path):
    given = Classifier.on_top_of(small_model(), CLASSES, "both")
    given.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("modalities") == "both"
    (tmp_path / "config.json").write_text(json.dumps({**config, "senses": "audio-visual"}))
    found = Classifier.from_pretrained(tmp_path)
    assert (found.modalities, found.fingerprint()) == ("both", given.fingerprint())
