"""Results: stored whole, read back strictly, compared item by item where they hold the same items."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from equiav.errors import ConfigError
from equiav.evaluate.classify import Classified
from equiav.evaluate.localise import Localisation
from equiav.evaluate.probe import Probed
from equiav.evaluate.results import About, Comparison, Difference, Result, compare_results
from equiav.evaluate.retrieval import RetrievalReport
from equiav.metrics.bootstrap import mean_intervals
from equiav.metrics.figures import Figure
from equiav.metrics.retrieval import retrieval_metrics

ABOUT = {
    "model": "a1", "method": "equiav", "recipe": "r1", "library": "l1", "split": "test", "protocol": "p", "seed": 0,
    "dtype": "float32", "versions": {"equiav": "1"}, "hardware": {"device": "x"},
}  # fmt: skip


def result(values, *, ids=None, evaluation="retrieval", **about):
    values = np.asarray(values, dtype=float)
    low, high = mean_intervals(values[:, None], resamples=500, seed=0)
    return Result(
        evaluation=evaluation,
        about=About(**ABOUT | about),
        figures={"recall": Figure(value=values.mean(), low=low[0], high=high[0], n=len(values))},
        items=ids or [str(i) for i in range(len(values))],
        per_item={"recall": values.tolist()},
        details={},
    )


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    before = result([0, 1, 1])
    before.save(tmp_path / "new" / "r.json")
    assert Result.load(tmp_path / "new" / "r.json") == before
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["r.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"figures": 1}', "\xff"])
def test_what_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "r.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="no result"):
        Result.load(tmp_path / "r.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        Result.load(tmp_path / "gone.json")
    with pytest.raises(ConfigError, match="cannot be written"):
        result([1]).save(tmp_path / "r.json" / "below.json")


def test_a_folder_is_no_file_for_a_result_and_is_refused_before_anything_is_measured(tmp_path, equiav):
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        result([1]).save(tmp_path)
    assert not list(tmp_path.parent.glob(".*.part"))
    code, _, err = equiav("evaluate", "retrieval", "--library", "none", "--run", "none", "--out", tmp_path)
    assert (code, "is a directory" in err) == (2, True), err


def test_a_result_of_another_version_is_refused_by_its_version_field(tmp_path):
    file = tmp_path / "r.json"
    result([0, 1]).save(file)
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ConfigError, match=r"schema_version: Input should be 1.*measure again"):
        Result.load(file)


def test_a_small_gain_on_every_item_is_beyond_chance_pair_by_pair_and_not_otherwise():
    hard = np.random.default_rng(0).random(200) < 0.5
    better = hard | (np.arange(200) % 20 == 0)  # the same items, a few more right
    found = compare_results(result(hard), result(better, model="b2", seed=3))
    (difference,) = found.differences
    assert difference.paired
    assert difference.beyond_chance
    assert difference.low > 0
    assert found.settings == {"model": ("a1", "b2"), "seed": ("0", "3")}
    (other,) = compare_results(result(hard), result(better, ids=[f"x{i}" for i in range(200)])).differences
    assert not other.paired
    assert not other.beyond_chance, "two galleries of 200 cannot tell a few per cent"


def test_the_order_of_the_items_does_not_matter():
    values = np.arange(50) % 3 == 0
    shuffled = np.random.default_rng(1).permutation(50)
    one, two = result(values), result(values[shuffled], ids=[str(i) for i in shuffled])
    (difference,) = compare_results(one, two).differences
    assert (difference.low, difference.high) == (0, 0)
    assert not difference.beyond_chance


def test_swapping_the_results_turns_the_difference_round():
    a, b = result([0, 0, 1, 1] * 10), result([0, 1, 1, 1] * 10, ids=[f"y{i}" for i in range(40)])
    (there,), (back,) = compare_results(a, b).differences, compare_results(b, a).differences
    assert there.low == pytest.approx(-back.high)
    assert there.high == pytest.approx(-back.low)


def test_unlike_evaluations_are_not_compared():
    with pytest.raises(ConfigError, match="retrieval cannot be compared with one of probe"):
        compare_results(result([1]), result([1], evaluation="probe"))
    other = result([1]).model_copy(update={"figures": {}})
    with pytest.raises(ConfigError, match="no figure in common: the first has recall, the second none"):
        compare_results(result([1]), other)


def test_galleries_of_unlike_sizes_are_among_what_differs():
    settings = compare_results(result([0, 1, 1, 0]), result([1, 1])).settings
    assert settings == {"items": ("4", "2")}


def test_a_comparison_is_json_and_a_table():
    found = compare_results(result([0, 1]), result([1, 1], library="l2"))
    assert json.loads(json.dumps(found.to_dict()))["settings"] == {"library": ["l1", "l2"]}
    assert found.to_table().row_count == 1


def shown(table, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("split", ["[/test]", "[bold]"])
def test_a_split_may_be_called_as_it_likes(split):
    both = retrieval_metrics(np.eye(3), np.eye(3))
    retrieval = RetrievalReport(
        split=split, scoring="middle", clips=3, listed=None, found=None, rejected=0, trained_on=None,
        audio_to_visual=both, visual_to_audio=both, equal_sounds=0, equal_pictures=0, shared_sources=0, clip_ids=[],
    )  # fmt: skip
    probed = Probed(
        kind="linear", feature="pooled", modalities="both", described="linear probe", measured_on=split,
        measure="accuracy", classes=2, folds={split: 0.5}, low=0.4, high=0.6, right={}, clips=9,
    )  # fmt: skip
    tables = [
        retrieval.to_table(),
        probed.to_table(),
        Classified(split, 1, ["a"], {}, {}, {}).to_table(),
        Localisation(split, 1).to_table(),
        compare_results(result([0, 1]), result([1, 1], split=split)).to_table(),
    ]
    assert [split in shown(table) for table in tables] == [True] * 5


def test_what_was_measured_stands_in_one_line_above_a_narrow_table():
    classified = Classified("test", 1, ["a"], {}, {}, {"dog": 1.0})
    assert "split 'test': 1 clip, 1 class [95 % interval]" in shown(classified.to_table()).splitlines()[0]


def test_a_comparison_fits_80_columns():
    name = "audio_to_visual.class_level_others.mean_average_precision"
    figures = [
        Difference(name, 0.1929, 0.192376, -0.0806, 0.0765, paired=False),
        Difference(name, 0.1269, 0.127056, -0.016701, 0.014801, paired=True),
    ]
    lines = shown(Comparison({}, figures, 0).to_table()).splitlines()
    assert {line[-1] for line in lines} == set("┓┃┩│┘"), "the right border"


def test_the_command_line_says_what_differs_between_two_files(tmp_path, equiav):
    result([0, 0, 1, 0] * 50).save(tmp_path / "a.json")
    result([0, 1, 1, 0] * 50, model="b2").save(tmp_path / "b.json")
    code, out, _ = equiav("evaluate", "--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0
    assert "model: a1 → b2" in out
    assert "+0.25" in out
    assert "yes" in out
    code, out, _ = equiav("evaluate", "--compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert json.loads(out)["differences"][0]["beyond_chance"] is True
    code, _, err = equiav("evaluate", "--compare", tmp_path / "a.json", tmp_path / "gone.json")
    assert (code, "cannot be read" in err) == (1, True)


def test_pairs_are_resampled_source_by_source_and_older_results_are_named():
    sources = np.repeat(np.arange(9), 5)
    gain = np.repeat([1, 0, 0, 1, -1, 0, 1, 0, 1], 5)  # all windows of a source alike
    first, second = result(np.ones(45)), result(1 + gain)
    (plain,) = compare_results(first, second).differences
    known = [one.model_copy(update={"sources": sources.tolist()}) for one in (first, second)]
    found = compare_results(*known)
    (difference,) = found.differences
    low, high = mean_intervals(gain[:, None].astype(float), resamples=1000, seed=0, sources=sources)
    assert (difference.low, difference.high) == (low[0], high[0])
    assert (plain.beyond_chance, difference.beyond_chance) == (True, False)
    assert found.shared_sources == 9
    assert "9 sources" in found.notes[0]
    assert "stored without sources" in compare_results(first, second).notes[0]
