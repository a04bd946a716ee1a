"""Few clips raise the epochs by rule, the same in a run that goes on; how long a run takes is said."""

from dataclasses import replace

import pytest

from equiav.config import load_recipe
from equiav.config.loading import RECIPES
from equiav.config.training import SHIPPED
from equiav.errors import TrainingError
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.train.loop import Step
from equiav.train.optim import learning_rate
from equiav.train.pretrain import make_plan, pretrain, resolve
from equiav.train.schedule import Pace, with_enough_steps
from equiav.words import duration
from samples import TINY, pictures, tone, write_media
from train.small_library import SMALL, make_library, small_recipe

FEW = [setting for setting in SMALL if not setting.startswith("train.epochs")]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return make_library(tmp_path_factory.mktemp("schedule"))


@pytest.mark.parametrize(
    ("clips", "epochs", "steps", "wanted"),
    [
        (6400, 16, 300, 16),
        (640, 16, 300, 30),
        (700, 16, 300, 30),
        (64, 16, 300, 300),
        (64, 16, 0, 16),
        (127, 3, 10, 10),
    ],
)
def test_epochs_are_those_of_the_recipe_or_the_least_that_make_enough_steps(clips, epochs, steps, wanted):
    recipe = load_recipe("toy", ["train.global_batch=64", f"train.epochs={epochs}", f"train.min_steps={steps}"])
    found = with_enough_steps(recipe, clips)
    per_epoch = clips // 64
    assert found.train.epochs == wanted
    assert (
        found.train.epochs == epochs or found.train.epochs * per_epoch >= steps > (found.train.epochs - 1) * per_epoch
    )
    assert with_enough_steps(found, clips) == found, "the resolved recipe is its own"
    assert found.train.min_steps == steps


def test_the_warm_up_stays_the_same_share_of_the_run():
    recipe = load_recipe("toy")
    found = with_enough_steps(recipe, 640)

    def rates(one, per_epoch):
        steps = per_epoch * one.train.epochs
        schedule = {"steps_per_epoch": per_epoch, "epochs": one.train.epochs, "settings": one.optim}
        return [learning_rate(round(share * steps), **schedule) for share in (0.0, 0.0625, 0.125, 0.5, 0.9)]

    assert rates(found, 10) == pytest.approx(rates(recipe, 1600), rel=0.02)


def test_whoever_gives_the_epochs_has_them():
    assert load_recipe("toy").train.min_steps > 0
    assert load_recipe("toy", ["train.epochs=2"]).train.min_steps == 0
    assert load_recipe("toy", ["train.epochs=2", "train.min_steps=9"]).train.min_steps == 9


def test_a_run_of_few_clips_records_its_epochs_and_goes_on_with_them_when_the_library_has_grown(tmp_path):
    library = make_library(tmp_path)
    recipe, seen = small_recipe("train.epochs=2", "train.min_steps=6"), []
    done = pretrain(recipe, library, tmp_path / "R", on_plan=seen.append, should_stop=lambda: bool(seen))
    assert (done.steps, done.done) == (6, False)
    stored = load_recipe(tmp_path / "R" / "recipe.yaml")
    assert (stored.train.epochs, stored.train.min_steps) == (6, 6)
    raised = "6 epochs instead of 2, for at least 6 steps (train.min_steps): 6 steps"
    assert str(seen[0]).splitlines()[0] == f"plan: 5 clips, 1 step of 4 in an epoch, {raised}"
    again = pretrain(recipe, library, tmp_path / "R", should_stop=iter([False, True, True, True]).__next__)
    assert again.step == 1
    for i in range(5, 9):
        write_media(tmp_path / f"{i}.mp4", frames=pictures(7, seed=i), sound=tone(0.7, 200 + 150 * i))
    ingest(tmp_path, library.path, TINY, workers=1)
    library = Library(library.path)
    assert resolve(recipe, library).train.epochs == 3, "of a new run"
    with pytest.raises(TrainingError, match=r"train\.epochs was 6, now 9"):
        pretrain(small_recipe("train.min_steps=9"), library, tmp_path / "R")
    given = small_recipe("train.epochs=6", "optim.warmup_epochs=6", "train.min_steps=0")
    assert pretrain(given, library, tmp_path / "R", should_stop=lambda: True).step == 1, "the same epochs, asked for"
    done = pretrain(recipe, library, tmp_path / "R", on_plan=seen.append)
    assert (done.step, done.done) == (6, True)
    assert (seen[1].done, str(seen[1]).splitlines()[0].endswith("6 steps; goes on at step 1")) == (1, True)
    assert resolve(stored, library, run=tmp_path / "R").train == stored.train


def test_a_dry_run_counts_the_raised_epochs(library, tmp_path):
    plan = make_plan(load_recipe("toy", [*FEW, "train.min_steps=40"]), library, tmp_path / "R")
    assert plan.recipe.train.epochs * len(plan.loader) == 40


def test_what_is_left_is_measured_over_three_steps_and_said_once():
    said, clock = [], iter([0.0, 6.0]).__next__
    blank = Step(0, 40, 0.0, 0.0, 0.0, 0.0, 0.0, None, 0.0, 0, {})
    pace = Pace(said.append, clock)
    for step in range(1, 10):
        pace(replace(blank, step=step, epoch=step / 10))
    assert said == ["about 80 s for 4 epochs: measured over 3 steps"]
    said, clock = [], iter([0.0, 900.0]).__next__
    pace = Pace(said.append, clock)
    for step in range(21, 30):
        pace(replace(blank, step=step, epoch=step / 10))
    assert said == ["about 80 min more for the rest of 4 epochs: measured over 3 steps"]


def test_times_are_as_exact_as_one_plans():
    found = [duration(seconds) for seconds in (0.4, 40, 89, 90, 720, 5399, 5400, 36_000, 172_799, 172_800, 1e6)]
    assert found == [
        "0 s",
        "40 s",
        "89 s",
        "2 min",
        "12 min",
        "90 min",
        "1.5 h",
        "10.0 h",
        "48.0 h",
        "2.0 days",
        "11.6 days",
    ]


def test_the_recipes_of_pretraining_are_all_named():
    assert sorted(SHIPPED) == sorted(path.stem for path in RECIPES.glob("*.yaml") if "finetune" not in path.stem)
