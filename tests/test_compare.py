"""Comparisons: every combination for every seed, equal budget, resumable, one table."""

import json

import pytest

from equiav.compare import compare, load_table, to_tables, variants
from equiav.errors import ConfigError
from train.small_library import SMALL, make_library


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
