"""Measures of a classifier are scikit-learn's; every clip counts once; frames are averaged; results can be compared."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, top_k_accuracy_score

from equiav.augment.view import stack_pictures
from equiav.augment.visual import normalise, visual_space
from equiav.errors import LibraryError
from equiav.evaluate.classify import classify, classify_result
from equiav.evaluate.results import Result, compare_results
from equiav.media.decode import load_image
from equiav.metrics.classification import class_mean, d_prime, mean_average_precision, ranked, top_hits
from equiav.model.classifier import Classifier
from equiav.train.finetune import resolve
from equiav.train.processes import make_accelerator
from equiav.train.scoring import score_split
from train.labelled_library import LABELS, tiny_recipe
from train.small_library import written_backwards

CLASSES = ["class0", "class1", "class2"]


@pytest.fixture(scope="module")
def library(library_of):
    return library_of()


def classifier(library, modalities="both", labels="single-label", classes=CLASSES, seed=0):
    return Classifier(resolve(tiny_recipe(), library)[1], classes, modalities, labels, seed=seed).eval()


def made(seed, n=40, classes=5, levels=None):
    rng = np.random.default_rng(seed)
    scores = rng.random((n, classes)) if levels is None else rng.integers(0, levels, (n, classes)) / levels
    return rng.random((n, classes)) < 0.3, scores, rng


@pytest.mark.parametrize("levels", [None, 3], ids=["no ties", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_ranked_is_what_scikit_learn_says_of_weighted_clips(seed, levels):
    truth, scores, rng = made(seed, levels=levels)
    counts = rng.multinomial(len(truth), [1 / len(truth)] * len(truth), size=3).astype(float)
    precision, area = ranked(truth, scores, counts)
    for r, c in np.ndindex(precision.shape):
        own = (truth[:, c], scores[:, c])
        assert precision[r, c] == pytest.approx(average_precision_score(*own, sample_weight=counts[r]))
        assert area[r, c] == pytest.approx(roc_auc_score(*own, sample_weight=counts[r]))
    _, area = ranked(truth, scores)
    assert mean_average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))
    assert class_mean(area)[0] == pytest.approx(roc_auc_score(truth, scores))


def test_a_class_without_clips_has_no_figure():
    truth, scores, _ = made(0)
    truth[:, 1], truth[:, 2] = False, True
    precision, area = ranked(truth, scores)
    assert np.isnan(precision[0]).tolist() == [False, True, False, False, False]
    assert np.isnan(area[0]).tolist() == [False, True, True, False, False]
    occurs, mixed = [0, 2, 3, 4], [0, 3, 4]
    expected = average_precision_score(truth[:, occurs], scores[:, occurs])
    assert mean_average_precision(truth, scores) == pytest.approx(expected)
    assert class_mean(area)[0] == pytest.approx(roc_auc_score(truth[:, mixed], scores[:, mixed]))
    assert np.isnan(class_mean(area[:, 1:3])[0])


@pytest.mark.parametrize("k", [1, 3])
def test_top_hits_are_those_of_scikit_learn(k):
    _, scores, rng = made(1)
    classes = rng.integers(0, 5, len(scores))
    hits = top_hits(np.eye(5, dtype=bool)[classes], scores, k)
    assert hits.mean() == pytest.approx(top_k_accuracy_score(classes, scores, k=k, labels=range(5)))


def test_d_prime_of_chance_is_0_and_grows_with_the_auc():
    assert d_prime(0.5) == 0
    assert d_prime(0.9) == pytest.approx(1.8124, abs=1e-4)


def test_scores_are_the_mean_probability_over_the_stored_frames(library):
    model = classifier(library)
    found = score_split(model, library, "test", make_accelerator(), frames=3)
    assert found.clip_ids == library.all_ids()[8:]
    plain = visual_space(model.config.augment, model.config.architecture.image_side).plain
    table = library.clips("test")
    audio = model.standardise(torch.from_numpy(library.fbanks(table)))
    total = torch.zeros(3, 3)
    for frame in range(3):
        pictures, sizes = stack_pictures([load_image(own[frame]) for own in table["frames"].to_pylist()])
        with torch.no_grad():
            total += model(audio, normalise(plain(pictures, sizes))).softmax(1)
    np.testing.assert_allclose(found.probabilities, (total / 3).numpy(), rtol=1e-5)
    middle = score_split(model, library, "test", make_accelerator())
    assert not np.allclose(middle.probabilities, found.probabilities)


def test_scoring_leaves_the_classifier_in_training(library):
    model = classifier(library).train()
    score_split(model, library, "test", make_accelerator())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("modalities", ["audio", "visual", "both"])
def test_a_stored_result_has_every_clip_once_and_can_be_compared(library, tmp_path, modalities):
    stored = []
    for seed in (0, 1):
        model = classifier(library, modalities, seed=seed)
        found = classify(library, model)
        assert found.frames == (1 if modalities == "audio" else 3)
        classify_result(found, library, model).save(tmp_path / "r.json")
        stored.append(Result.load(tmp_path / "r.json"))
        assert stored[-1].items == sorted(library.all_ids()[8:])
        assert stored[-1].figures["top1"].value == np.mean(stored[-1].per_item["top1"])
    compared = compare_results(*stored)
    assert compared.shared_items == 3
    assert "model" in compared.settings
    assert compared.differences[0].paired


def test_several_labels_are_measured_by_class(library, library_of):
    labelled = library_of([[*own, "all"] if i % 2 else own for i, own in enumerate(LABELS)])
    model = classifier(library, labels="multi-label", classes=[*CLASSES, "all"])
    found = classify(labelled, model, split="train")
    assert found.figures["mAP"].low <= found.figures["mAP"].value <= found.figures["mAP"].high
    scores = score_split(model, labelled, "train", make_accelerator(), frames=3)
    assert found.figures["mAP"].value == mean_average_precision(scores.truth, scores.probabilities)
    assert set(found.per_class) == {*CLASSES, "all"}
    assert math.isfinite(found.figures["AUC"].value)


@pytest.mark.parametrize("labels", ["single-label", "multi-label"])
def test_the_order_in_which_clips_were_written_changes_nothing(library, tmp_path, labels):
    model = classifier(library, labels=labels)
    other = written_backwards(library, tmp_path / "other")
    assert classify(other, model, split="train") == classify(library, model, split="train")


def test_clips_that_cannot_be_measured_on_are_named(library, library_of):
    with pytest.raises(LibraryError, match="no clips to measure on; it has the splits test, train, val"):
        classify(library, classifier(library), split="none")
    with pytest.raises(LibraryError, match="1 label is no class of this classifier, which knows 2: class2"):
        classify(library, classifier(library, classes=CLASSES[:2]))
    labelled = library_of([[]] * len(LABELS))
    with pytest.raises(LibraryError, match="3 of 3 clips have no label"):
        classify(labelled, classifier(library))
