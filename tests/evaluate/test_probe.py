"""Probes: labels that features tell are read off them, folds in turn, one label or several."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from equiav.config import load_recipe
from equiav.errors import ConfigError, LibraryError, ModelError
from equiav.evaluate.classifiers import fitted_scores, linear, vote
from equiav.evaluate.probe import _features, _stratified, probe, probe_result
from equiav.evaluate.results import compare_results
from equiav.metrics.classification import mean_average_precision
from equiav.model.equiav import EquiAV
from equiav.train.classification import label_matrix
from equiav.train.pretrain import model_config, resolve
from train.small_library import SMALL, make_library, written_backwards


@pytest.fixture
def library(tmp_path):
    return make_library(tmp_path, clips=9)


@pytest.fixture
def model(library):
    recipe = load_recipe("toy", [*SMALL, "data.split=a"])
    shelve(library, lambda i: [f"class{i % 3}"], lambda i: "ab"[i > 5])
    return EquiAV(model_config(resolve(recipe, library, 1))).eval()


def shelve(library, labels, split):
    """Give the library's clips labels and splits."""
    rows = enumerate(library.all_ids())
    library.update([{"clip_id": name, "labels": labels(i), "split": split(i)} for i, name in rows])


@pytest.mark.parametrize("modalities", ["audio", "visual", "both"])
@pytest.mark.parametrize("kind", ["linear", "sgd", "knn", "attentive"])
def test_every_kind_measures_the_clips_of_the_other_split(library, model, kind, modalities):
    found = probe(library, model, kind=kind, modalities=modalities, train="a", test="b")
    assert found.measure == "accuracy"
    assert (found.classes, found.clips) == (3, 3)
    assert set(found.right) == set(library.all_ids()[6:])
    assert found.value == pytest.approx(np.mean(list(found.right.values())))
    if kind != "attentive":  # which has a test of its own
        assert found == probe(library, model, kind=kind, modalities=modalities, train="a", test="b"), (
            "nothing is random"
        )


def test_pooled_features_are_the_mean_of_the_patch_tokens(library, model):
    tokens = _features(library, model, ["a"], "both", "tokens", None).parts
    pooled = _features(library, model, ["a"], "both", "pooled", None).parts
    for many, mean in zip(tokens, pooled, strict=True):
        assert torch.allclose(many.float().mean(1), mean, atol=2e-3), "tokens are kept in half precision"
    embedded = _features(library, model, ["a"], "visual", "embedding", None).parts[0]
    assert torch.allclose(embedded.norm(dim=1), torch.ones(len(embedded)), atol=1e-5)


def test_what_was_learned_from_is_not_measured_on(library, model):
    with pytest.raises(LibraryError, match="both 'a'"):
        probe(library, model, train="a", test="a")


def test_separate_classes_are_separated_by_a_plane_and_noise_is_not():
    rng = np.random.default_rng(0)
    label = np.arange(180) % 3
    targets = np.eye(3, dtype=bool)[label]
    apart = rng.normal(3 * targets, 0.5)
    noise = rng.normal(size=(180, 3))
    right = [(linear(x[:90], targets[:90], x[90:], True).argmax(1) == label[90:]).mean() for x in (apart, noise)]
    assert right[0] > 0.95
    assert right[1] < 0.6
    here, there = ([torch.from_numpy(part).float()] for part in (apart[:90], apart[90:]))
    scores = fitted_scores("sgd", here, torch.from_numpy(targets[:90]), there, heads=1, one_label=True)
    assert (scores.argmax(1).numpy() == label[90:]).mean() > 0.95
    lacking = linear(apart[:90], targets[:90] & (label[:90] != 2)[:, None], apart[90:], False)
    assert (lacking[:, 2] == -1e9).all(), "a class that was not there to learn"


@pytest.mark.parametrize("kind", ["sgd", "linear"])
def test_what_is_the_same_in_all_that_is_learned_from_decides_nothing(kind):
    rng = np.random.default_rng(0)
    label = np.arange(120) % 3
    targets = np.eye(3, dtype=bool)[label]
    told = np.concatenate([rng.normal(3 * targets, 0.5), np.ones((120, 4))], axis=1)
    told[60:, 3:] += rng.normal(size=(60, 4))  # a modality that is new in the test split
    if kind == "linear":
        scores = linear(told[:60], targets[:60], told[60:], True)
    else:
        here, there = ([torch.from_numpy(part).float()] for part in (told[:60], told[60:]))
        scores = fitted_scores("sgd", here, torch.from_numpy(targets[:60]), there, heads=1, one_label=True).numpy()
    assert (scores.argmax(1) == label[60:]).mean() > 0.95


def test_folds_are_measured_on_in_turn_and_never_learned_from(library, model):
    shelve(library, lambda i: [f"class{i // 3}"], lambda i: f"fold{i // 3}")
    found = probe(library, model, folds=True)
    assert list(found.folds) == ["fold0", "fold1", "fold2"]
    assert found.value == 0, "the classes of a fold occur in no other"
    assert set(found.right) == set(library.all_ids())
    shelve(library, lambda i: [f"class{i % 3}"], lambda i: "only")
    with pytest.raises(LibraryError, match="two splits"):
        probe(library, model, folds=True)


def test_several_labels_are_measured_by_mean_average_precision(library, model):
    shelve(library, lambda i: ["all", f"class{i % 3}"] if i else ["class0"], lambda i: "ab"[i > 5])
    for kind in ("linear", "sgd", "knn", "attentive"):
        found = probe(library, model, kind=kind, train="a", test="b")
        assert found.measure == "mAP"
        assert 0 < found.value <= 1
        assert found.right == {}
        assert found.low < found.high, "without a figure per clip the classes are ranked again"
        assert found.low <= found.value <= found.high
    first = probe_result(found, library, model)
    other = probe_result(
        probe(library, EquiAV(model.config, seed=5).eval(), kind=kind, train="a", test="b"), library, model
    )
    (difference,) = compare_results(first, other).differences
    assert difference.low < difference.second - difference.first < difference.high


def test_stratified_folds_have_every_label_evenly_and_sources_whole(library, model):
    shelve(library, lambda i: [f"class{i % 3}"], lambda i: "train")
    found = probe(library, model, stratified=3)
    assert list(found.folds) == ["fold 1", "fold 2", "fold 3"]
    assert (found.clips, set(found.right)) == (9, set(library.all_ids()))
    assert found == probe(library, model, stratified=3)
    result = probe_result(found, library, model)
    assert (result.about.split, result.about.protocol) == (
        "train",
        "linear probe on pooled features, 3 stratified folds",
    )
    goal = label_matrix([["common"] + ["rare"] * (i % 4 == 0) for i in range(16)], ["common", "rare"]).bool().numpy()
    folds = _stratified(goal, [f"source{i // 2}" for i in range(16)], 4, seed=1)
    assert [int(goal[rows, 1].sum()) for rows in folds.values()] == [1, 1, 1, 1], "by the rarest of a clip's labels"
    assert all(set(rows // 2 * 2) <= set(rows) for rows in folds.values()), "both windows of a source"
    assert sorted(np.concatenate(list(folds.values()))) == list(range(16))


@pytest.mark.parametrize("kind", ["linear", "sgd"])
@pytest.mark.parametrize("several_labels", [False, True])
def test_the_order_in_which_clips_were_written_changes_nothing(library, model, tmp_path, kind, several_labels):
    shelve(library, lambda i: [f"class{i % 3}", *["most"] * (several_labels and i != 4)], lambda i: "train")
    other = written_backwards(library, tmp_path / "other")
    assert other.all_ids() == library.all_ids()[::-1]
    assert probe(library, model, kind=kind, stratified=3) == probe(other, model, kind=kind, stratified=3)


def test_folds_that_cannot_be_are_named(library, model):
    shelve(library, lambda i: [f"class{i % 3}"], lambda i: "train")
    with pytest.raises(LibraryError, match="10 folds need as many sources of clips, found 9"):
        probe(library, model, stratified=10)
    with pytest.raises(ConfigError, match="not both"):
        probe(library, model, stratified=3, folds=True)
    with pytest.raises(ConfigError, match="at least 2, found 1"):
        probe(library, model, stratified=1)
    with pytest.raises(LibraryError, match="4 folds need a label with as many clips, the commonest has 3"):
        probe(library, model, stratified=4)


def test_clips_of_small_folds_weigh_as_much_as_their_fold(library, model):
    shelve(library, lambda i: [f"class{i % 3}"], lambda i: "ab"[i > 6])
    found = probe(library, model, folds=True)
    stored = probe_result(found, library, model)
    ((name, values),) = stored.per_item.items()
    assert np.mean(values) == pytest.approx(found.value) == pytest.approx(stored.figures[name].value)
    assert found.low <= found.value <= found.high


def test_without_labels_or_with_one_class_there_is_nothing_to_probe(library, model):
    shelve(library, lambda i: [] if i == 4 else [f"class{i % 3}"], lambda i: "ab"[i > 5])
    with pytest.raises(LibraryError, match="1 of 9 clips has no label"):
        probe(library, model, train="a", test="b")
    shelve(library, lambda i: ["same"], lambda i: "ab"[i > 5])
    with pytest.raises(LibraryError, match="two classes"):
        probe(library, model, train="a", test="b")
    with pytest.raises(LibraryError, match=r"'gone' has 0 clips .* it has the splits a, b"):
        probe(library, model, train="a", test="gone")


@pytest.mark.parametrize("kind", ["linear", "sgd", "knn"])
def test_where_one_class_alone_is_learned_every_clip_is_classified_as_it(library, model, kind):
    shelve(library, lambda i: ["rare" if i in (6, 7) else "common"], lambda i: "ab"[i > 5])
    right = probe(library, model, kind=kind, train="a", test="b").right
    assert [right[name] for name in library.all_ids()[6:]] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("kind", ["linear", "sgd", "knn", "attentive"])
def test_broken_weights_are_an_error_and_no_figure(library, model, kind):
    with torch.no_grad():
        next(model.visual_tower.encoder.parameters()).fill_(math.nan)
    with pytest.raises(ModelError, match="NaN or infinite features"):
        probe(library, model, kind=kind, train="a", test="b")


def test_a_result_of_a_probe_is_stored_with_every_clip(library, model, tmp_path):
    found = probe(library, model, train="a", test="b")
    stored = probe_result(found, library, model)
    (figure,) = stored.figures.values()
    assert figure.value == found.value
    assert len(stored.items) == 3
    stored.save(tmp_path / "probe.json")


def test_neighbours_vote_by_their_nearness():
    train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    targets = np.array([[True, False], [True, False], [False, True]])
    scores = vote(train, targets, np.array([[1.0, 0.05], [0.05, 1.0]]), 20)
    assert scores.sum(1) == pytest.approx([1, 1])
    assert scores[0, 0] > 0.9
    assert scores[1, 1] > 0.9


def test_an_attentive_probe_finds_the_informative_token():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(240, 6, 8, generator=generator)
    label = torch.randint(0, 3, (240,), generator=generator)
    where = torch.randint(0, 6, (240,), generator=generator)
    signal = torch.eye(8)[:3][label] * 4
    signal[:, 7] = 4.0  # what to look for
    tokens[torch.arange(240), where] = signal
    targets = torch.eye(3)[label].bool()
    scores = fitted_scores("attentive", [tokens[:160]], targets[:160], [tokens[160:]], heads=2, one_label=True)
    assert (scores.argmax(1) == label[160:]).float().mean() > 0.9
    again = fitted_scores("attentive", [tokens[:160]], targets[:160], [tokens[160:]], heads=2, one_label=True)
    assert torch.equal(scores, again), "the seed decides"


def test_mean_average_precision_leaves_out_classes_that_do_not_occur():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 4))
    targets = label_matrix([[f"c{i % 3}", "c0"] for i in range(20)], ["c0", "c1", "c2", "c3"]).bool().numpy()
    expected = np.mean([average_precision_score(targets[:, c], scores[:, c]) for c in range(3)])
    assert mean_average_precision(targets, scores) == pytest.approx(expected)


def test_the_verb_knn_is_the_probe_of_that_kind(equiav, library, model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    common = ["--library", library.path, "--run", tmp_path, "--train", "a", "--split", "b", "--json"]
    code, out, err = equiav("evaluate", "knn", "-k", 1, *common, "--out", tmp_path / "knn.json")
    assert code == 0, err
    found = json.loads(out)
    assert found["described"] == "knn (1 neighbour) probe on pooled features"
    assert found["right"] == probe(library, model, kind="knn", neighbours=1, train="a", test="b").right
    assert equiav("evaluate", "--compare", tmp_path / "knn.json", tmp_path / "knn.json")[0] == 0


def test_windows_of_its_own_source_do_not_vote_for_a_clip():
    train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    targets = np.array([[True, False], [True, False], [False, True]])
    there = np.array([[1.0, 0.05]])
    assert vote(train, targets, there, 1, (np.array([0, 0, 1]), np.array([0]))).argmax(1) == 1
    assert vote(train, targets, there, 1, (np.array([0, 2, 1]), np.array([0]))).argmax(1) == 0
    assert vote(train, targets, there, 1, (np.array([0, 0, 0]), np.array([0]))).tolist() == [[0, 0]]


def test_the_commonest_class_stands_beside_the_accuracy_and_shared_sources_are_counted(library, model):
    shelve(library, lambda i: ["rare" if i in (0, 6) else "common"], lambda i: "ab"[i > 5])
    found = probe(library, model, train="a", test="b")
    assert found.baseline == pytest.approx(2 / 3)
    assert (found.sources, found.shared) == (3, 0)
    library.update([{"clip_id": name, "source": "/v/one.mp4"} for name in library.all_ids()[5:8]])
    found = probe(library, model, train="a", test="b")
    assert (found.sources, found.shared) == (2, 2)
    assert any("2 of 3 clips measured on are of sources that were learned from too" in text for text in found.warnings)
