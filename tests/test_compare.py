"""Comparisons: every combination for every seed, equal budget, resumable, one table."""

import json
import shutil

import pytest

from equiav.compare import compare, load_table, to_tables, variants
from equiav.errors import ConfigError, TrainingError
from equiav.library.table import Library
from equiav.train import pretrain as pretraining
from train.small_library import SMALL, make_library, small_recipe


def test_variants_are_all_combinations_for_all_seeds(tmp_path):
    chosen = variants("toy", ["model.method=equiav,plain", "train.epochs=3", "loss.inter=1,2"], 2, tmp_path)
    assert len(chosen) == 2 * 2 * 2
    assert len({variant.run for variant in chosen}) == 8
    assert {variant.name for variant in chosen} == {
        f"model.method={method} loss.inter={weight}" for method in ("equiav", "plain") for weight in (1, 2)
    }
    assert {variant.recipe.train.seed for variant in chosen} == {0, 1}
    assert all(variant.recipe.train.epochs == 3 for variant in chosen)


def test_a_comma_in_brackets_belongs_to_its_value(tmp_path):
    first, second = variants("toy", ["augment={variant: unit},{variant: released, effects: released}"], 1, tmp_path)
    assert (first.recipe.augment.variant, second.recipe.augment.effects) == ("unit", "released")
    (alone,) = variants("toy", ["optim.betas=[0.9, 0.99]"], 1, tmp_path)
    assert alone.name == "recipe"
    assert alone.recipe.optim.betas == (0.9, 0.99)


def test_the_seed_belongs_to_the_comparison(tmp_path):
    with pytest.raises(ConfigError, match="leave it out"):
        variants("toy", ["train.seed=1,2"], 3, tmp_path)
    with pytest.raises(ConfigError, match="did you mean method"):
        variants("toy", ["model.metod=equiav,plain"], 3, tmp_path)


def test_rows_of_a_table_are_combined_with_the_settings_of_all(tmp_path):
    rows = load_table("paper")
    chosen = variants("toy", ["train.epochs=3", "loss.inter=1,2"], 2, tmp_path, rows)
    assert len(chosen) == len(rows) * 2 * 2
    assert len({variant.run for variant in chosen}) == len(chosen)
    assert {variant.recipe.train.epochs for variant in chosen} == {3}
    first = chosen[: len(chosen) // 2]
    assert {variant.seed for variant in first} == {0}, "a table is whole for one seed before the next begins"
    assert {variant.recipe.model.predictor for variant in chosen} == {"attention", "linear", "mlp", "hypernetwork"}
    assert {variant.recipe.model.centroid_samples for variant in chosen} == {1, 4, 8, 16}


@pytest.mark.parametrize("text", ["- a\n- b\n", "plain: model.method=plain\n", "a: [1, 2]\n", "a: [\n", "just text"])
def test_a_table_that_is_none_says_what_one_is(tmp_path, text):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError, match="table"):
        load_table(str(tmp_path / "t.yaml"))
    with pytest.raises(ConfigError, match="paper"):
        load_table("papre")


def test_a_comparison_trains_measures_resumes_and_tabulates(tmp_path):
    library = make_library(tmp_path)
    chosen = variants("toy", [*SMALL, "model.method=equiav,plain"], 2, tmp_path / "out")
    told = []

    def after(steps):
        return lambda: len(told) >= steps

    def tell(run, step):
        told.append((run, step.step))

    assert compare(library, chosen, tmp_path / "out", split="train", on_step=tell, should_stop=after(3)) is None
    results = compare(library, chosen, tmp_path / "out", split="train", on_step=tell)
    assert results is not None
    assert len(told) == 4 * 2, "no step is done twice"
    assert {run.split(" ", 1)[0] for run, _ in told} == {"1/4", "2/4", "3/4", "4/4"}
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["variant"] for row in rows] == ["model.method=equiav", "model.method=plain"]
    assert set(rows[0]["minus_first"]) == set()
    paired = rows[1]["minus_first"]["recall_at_10"]
    pairs = zip(rows[1]["seeds"], rows[0]["seeds"], strict=True)
    assert paired["mean"] == pytest.approx(sum(a["recall_at_10"] - b["recall_at_10"] for a, b in pairs) / 2)
    assert paired["low"] <= paired["mean"] <= paired["high"]
    assert {"audio_cosine", "visual_h1", "gflops_per_clip", "saved_mb"} < set(rows[0])
    assert "audio_cosine" not in rows[1], "plain predicts nothing"
    assert rows[0]["parameters"]["mean"] > rows[1]["parameters"]["mean"]
    for row in rows:
        values = [seed["recall_at_10"] for seed in row["seeds"]]
        assert row["recall_at_10"]["mean"] == pytest.approx(sum(values) / 2)
    assert [table.row_count for table in to_tables(results)] == [2, 2, 2, 2]
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000
    assert compare(library, chosen, tmp_path / "out", split="train", on_step=tell) == results
    assert len(told) == 8


@pytest.mark.parametrize(
    "names",
    [
        ("a b", "a_b"),
        ("a/b", "a:b"),
        ("plain", "Plain"),
        ("x" * 300, "x" * 299),
        ("a=1 b=2", "a=1_b=2"),
        ("a=1 b=2", "a=1+b=2"),
        ("..", "."),
        ("ä", "a"),
    ],
)
def test_no_two_variants_share_a_folder_nor_leave_that_of_the_comparison(tmp_path, names):
    rows = {names[0]: ["model.method=plain"], names[1]: ["model.method=invariant"]}
    folders = [variant.run.parent for variant in variants("toy", [], 1, tmp_path, rows)]
    assert len({str(folder).casefold() for folder in folders}) == 2
    for folder in folders:
        assert folder.resolve().parent == tmp_path.resolve()
        folder.mkdir()


def test_a_setting_that_would_be_overruled_in_silence_is_an_error(tmp_path):
    rows = {"one": ["model.method=plain"]}
    with pytest.raises(ConfigError, match=r"row 'one' .* give model\.method more than once"):
        variants("toy", ["model.method=equiav,invariant"], 1, tmp_path, rows)
    with pytest.raises(ConfigError, match=r"the settings give train\.epochs more than once"):
        variants("toy", ["train.epochs=1", "train.epochs=2"], 1, tmp_path)
    with pytest.raises(ConfigError, match=r"the settings give augment\.variant more than once"):
        variants("toy", ["augment.variant=unit", "augment={effects: ours}"], 1, tmp_path)
    with pytest.raises(ConfigError, match=r"1 variants stand there twice: 'model\.method=plain'"):
        variants("toy", ["model.method=plain,equiav,plain"], 1, tmp_path)
    with pytest.raises(ConfigError, match=r"stand there twice: 'recipe'"):
        variants("toy", [], 1, tmp_path, {"": [], "recipe": ["model.method=plain"]})


@pytest.mark.parametrize("text", ["a: []\na: [model.method=plain]\n", "1: []\n'1': [model.method=plain]\n", "{}"])
def test_rows_of_a_table_have_names_of_their_own(tmp_path, text):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"(a|1) twice|each with a name of its own"):
        load_table(str(tmp_path / "t.yaml"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A library, and a comparison of one variant that is done."""
    folder = tmp_path_factory.mktemp("compared")
    library = make_library(folder)
    _compare(library, folder / "out")
    return folder


@pytest.fixture
def place(compared, tmp_path):
    """A copy of it, to change."""
    for name in ("L", "out"):
        shutil.copytree(compared / name, tmp_path / name)
    return tmp_path


def _compare(library, out, *settings, split="train", table=None):
    """Results, and steps that were trained for them."""
    steps = []
    chosen = variants("toy", [*SMALL, *settings], 1, out, table)
    found = compare(library, chosen, out, split=split, on_step=lambda run, step: steps.append(step.step))
    return found, steps


def _result_of(out, name="recipe"):
    return json.loads((out / name / "seed-0" / "result.json").read_text())


def test_what_is_stored_counts_for_the_recipe_that_it_was_made_with(place):
    before = (place / "out" / "compare.json").read_bytes()
    library = Library(place / "L")
    for setting in ("optim.lr=2e-3", "data.audio_mean=-1", "loss.temperature=0.5"):
        with pytest.raises(TrainingError, match=rf"another recipe: {setting.split('=')[0]} was .*another --out folder"):
            _compare(library, place / "out", setting)
    assert (place / "out" / "compare.json").read_bytes() == before
    found, steps = _compare(library, place / "out")
    assert steps == []
    assert found[0].figures == _result_of(place / "out")["figures"]


def test_a_table_whose_row_was_edited_is_refused_before_anything_is_trained(place, monkeypatch):
    library, rows = Library(place / "L"), {"first": ["model.method=invariant"], "second": ["model.method=plain"]}
    _compare(library, place / "out", table=rows)
    rows = {"new": [], "second": ["model.method=equiav"], "first": ["model.method=invariant"]}
    with pytest.raises(TrainingError, match=r"second.* another recipe: model\.method was 'plain', now 'equiav'"):
        _compare(library, place / "out", table=rows)
    assert not (place / "out" / "new").exists()


def test_another_split_is_measured_anew_and_nothing_is_lost(place):
    library = Library(place / "L")
    first = _result_of(place / "out")
    ids = library.clips("train", ["clip_id"])["clip_id"].to_pylist()
    shutil.copytree(place / "L", place / "L2")
    other = Library(place / "L2")
    other.append([_copy_of(other, ids[i], f"{i:024x}") for i in range(3)])
    other = Library(place / "L2")
    found, steps = _compare(other, place / "out", split="test")
    assert steps == [], "it was trained on the same clips"
    assert _result_of(place / "out")["made_of"]["split"] == "test"
    assert found[0].figures["recall_at_10"] == 1.0
    assert _result_of(place / "out")["clips"] == 3
    kept = [json.loads(file.read_text()) for file in (place / "out" / "recipe" / "seed-0").glob("result-*.json")]
    assert kept == [first]
    (old,) = (place / "out").glob("compare-*.json")
    assert json.loads(old.read_text())[0]["split"] == "train"
    assert json.loads((place / "out" / "compare.json").read_text())[0]["split"] == "test"
    assert _compare(library, place / "out")[0][0].figures == first["figures"]


def _copy_of(library, clip_id, name):
    """The same clip under another id, in another split."""
    from equiav.library.records import Clip

    row = library.clip(clip_id)
    return Clip(**{**row, "clip_id": name, "split": "test"})


def test_a_relabelled_library_is_measured_anew(place):
    library = Library(place / "L")
    assert _result_of(place / "out")["figures"]["class_precision_at_1"] is None
    names = ["a", "b", "a", "b", "a"]
    library.update([{"clip_id": i, "labels": [n]} for i, n in zip(library.all_ids(), names, strict=True)])
    found, steps = _compare(Library(place / "L"), place / "out")
    assert steps == []
    assert found[0].figures["class_precision_at_1"] is not None


def test_variants_of_unlike_clips_are_not_compared(place):
    library = Library(place / "L")
    library.append([_copy_of(library, library.all_ids()[0], "f" * 24)])
    library.update([{"clip_id": "f" * 24, "split": "train"}])
    with pytest.raises(TrainingError, match=r"not all variants would have the same clips.*: .* of 5, a new run of 6"):
        _compare(Library(place / "L"), place / "out", table={"recipe": [], "more": ["model.method=plain"]})
    assert not (place / "out" / "more").exists()
    found, steps = _compare(Library(place / "L"), place / "out")
    assert (len(found), steps) == (1, []), "of a comparison that is done only the measuring depends on the new clip"


def test_a_run_that_is_half_trained_is_finished_first(place, compared):
    library, run = Library(place / "L"), place / "out" / "recipe" / "seed-0"
    whole = (run / "model" / "model.safetensors").read_bytes()
    result = (run / "result.json").read_bytes()
    shutil.rmtree(place / "out")
    recipe, done = small_recipe("train.seed=0"), []
    pretraining.pretrain(recipe, library, run, on_step=done.append, should_stop=lambda: len(done) >= 1)
    (run / "result.json").write_bytes(result)
    _, steps = _compare(library, place / "out")
    assert steps == [2]
    assert (run / "model" / "model.safetensors").read_bytes() == whole


def test_other_weights_in_a_run_are_not_what_was_measured(place):
    library, run = Library(place / "L"), place / "out" / "recipe" / "seed-0"
    whole = (run / "model" / "model.safetensors").read_bytes()
    (run / "model" / "model.safetensors").write_bytes(b"something else")
    assert _compare(library, place / "out")[1] == []
    assert (run / "model" / "model.safetensors").read_bytes() == whole


def test_other_code_measures_anew(place, monkeypatch):
    monkeypatch.setattr("equiav.compare._code", lambda: "another")
    before = _result_of(place / "out")
    _, steps = _compare(Library(place / "L"), place / "out")
    after = _result_of(place / "out")
    assert steps == []
    assert after["figures"] == before["figures"]
    assert (before["made_of"].pop("code"), after["made_of"].pop("code")) != ("another", "another")
    assert after["made_of"] == before["made_of"]


def test_weights_to_start_from_that_have_changed_are_an_error(place):
    library = Library(place / "L")
    source = place / "source"
    pretraining.pretrain(small_recipe(), library, source)
    setting = f"init.from={source / 'model'}"
    _compare(library, place / "two", setting)
    assert _compare(library, place / "two", setting)[1] == []
    shutil.rmtree(source)
    assert _compare(library, place / "two", setting)[1] == [], "weights that are gone say nothing"
    pretraining.pretrain(small_recipe("train.seed=7"), library, source)
    with pytest.raises(TrainingError, match=r"started from other weights: the file of init\.from has changed"):
        _compare(library, place / "two", setting)
