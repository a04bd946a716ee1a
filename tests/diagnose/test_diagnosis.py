"""The report on models as they are trained: every method, a page that fetches nothing, JSON that is JSON."""

import dataclasses
import inspect
import json
import re
import typing
from pathlib import Path

import pytest
import torch

from equiav.augment.room import RoomOptions, RoomSpace
from equiav.cli import evaluation
from equiav.cli.app import main
from equiav.config import load_recipe
from equiav.diagnose.branch import Branch, Effort, read_clips
from equiav.diagnose.diagnosis import CLIPS, FEWEST, diagnose
from equiav.diagnose.unseen import unseen
from equiav.errors import LibraryError
from equiav.model.equiav import EquiAV
from equiav.pages.diagnosis import diagnosis_page, write_report
from equiav.train.pretrain import model_config, resolve
from train.small_library import SMALL, make_library

LITTLE = Effort(
    curve_clips=4, curve_points=3, focus_sets=4, composed_draws=2, counts=(1, 2, 16, 32, 64), draws=2, dense=64,
    real=16, real_clips=2, unseen_clips=3, pool=20, repeats=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return make_library(tmp_path_factory.mktemp("clips"), clips=9)


def model_for(library, *settings):
    """An untrained model of the recipe, with the library's features."""
    recipe = load_recipe("toy", [*SMALL, *settings])
    return EquiAV(model_config(resolve(recipe, library, 1))).eval()


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("model.predictor=hypernetwork", "model.share=none"),
        ("model.method=invariant",),
        ("model.method=plain",),
        ("augment={variant: released}",),
        ("augment={audio: {gain: {}}, visual: {flip: {}}}",),
    ],
)
def test_a_report_of_every_kind_of_model_is_one_page_and_strict_json(library, tmp_path, settings):
    page = tmp_path / "new" / "report.html"
    told = []
    model = model_for(library, *settings)
    found = diagnose(library, model, split=None, clips=9, effort=LITTLE, on_progress=lambda *x: told.append(x))
    write_report(found, page)
    text, figures = page.read_text(encoding="utf-8"), page.with_suffix(".json").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", text), "nothing is fetched"
    assert "NaN" not in figures
    stored = json.loads(figures)
    assert stored["about"]["clips"] == 9
    assert set(stored["figures"]) == set(found.figures())
    predicts = "method" not in "".join(settings)
    assert ("audio.centroid.k16" in stored["figures"]) is predicts
    assert (text.count("data:image") > 5) is (predicts and "hypernetwork" not in "".join(settings))
    assert bool(stored["retrieval_by_count"]) is predicts
    assert [done for done, _, _ in told] == list(range(15))
    assert all(total == 14 for _, total, _ in told)


def test_the_same_seed_gives_the_same_report(library):
    model = model_for(library)
    one, two = (diagnose(library, model, split=None, clips=9, effort=LITTLE) for _ in range(2))
    assert one.figures() == two.figures()
    assert one.branches == two.branches


def test_too_few_clips_are_an_error(library):
    with pytest.raises(LibraryError, match="at least 8"):
        diagnose(library, model_for(library), split=None, clips=7)
    with pytest.raises(LibraryError, match="test"):
        diagnose(library, model_for(library), split="test")


def test_what_a_report_says_of_how_much_was_measured_is_what_was(library):
    some = dataclasses.replace(LITTLE, views=11, dense=48, pool=21)
    found = diagnose(library, model_for(library), split=None, clips=9, effort=some)
    page = diagnosis_page(found)
    assert "the right one of 11 views is found first" in page
    assert "by chance 0.09" in page
    assert "to 48 predictions" in page
    assert "the one of 21 whose view" in page
    assert "more than 64" in page
    assert found.to_dict()["effort"]["views"] == 11


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["equiav", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_gate_decides_the_exit_code(library, tmp_path, monkeypatch, capsys):
    model_for(library).save_pretrained(tmp_path / "run" / "model")
    reports = []

    def once(*arguments, **options):
        """The report as the command asks for it, measured the first time only."""
        reports.append(reports[0] if reports else diagnose(*arguments, **options, effort=LITTLE))
        return reports[0]

    monkeypatch.setattr("equiav.diagnose.diagnosis.diagnose", once)
    common = ("diagnose", "-L", library.path, "-R", tmp_path / "run", "--split", "train", "--clips", 9)
    assert run(monkeypatch, *common, "--gate", "audio.all.h1<2") == 0
    assert (tmp_path / "run" / "report" / "equivariance.html").exists()
    assert "beats every yardstick" in capsys.readouterr().out
    assert run(monkeypatch, *common, "--json", "--gate", "all.h1>2") == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["about"]["split"] == "train"
    assert "NOT MET: all.h1 > 2" in output.err
    assert run(monkeypatch, *common, "--gate", "flip") == 1
    assert "no condition" in capsys.readouterr().err
    assert len(reports) == 2, "a bad gate is said before anything is measured"
    assert run(monkeypatch, *common, "--gate", "all.h2>0") == 1
    output = capsys.readouterr()
    assert "no figure is called 'all.h2'" in output.err
    assert "equivariance.html" in output.out, "what was measured is shown all the same"


def test_the_command_asks_for_as_many_clips_as_the_report():
    options = typing.get_type_hints(evaluation.diagnose, vars(evaluation) | {"Path": Path}, include_extras=True)
    assert options["clips"].__metadata__[0].min == FEWEST
    assert inspect.signature(evaluation.diagnose).parameters["clips"].default == CLIPS


def test_a_report_needs_no_gradient_and_leaves_the_model_as_it_was(library):
    model = model_for(library)
    before = model.fingerprint()
    diagnose(library, model, split=None, clips=9, effort=LITTLE)
    assert model.fingerprint() == before
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


def test_sounds_are_read_again_as_they_were_ingested_and_a_room_is_left_out_without_them(library):
    model = model_for(library)
    clips = read_clips(library, model, None, 9)
    branch = Branch(model, "audio", clips)
    space = RoomSpace(RoomOptions())
    rows = torch.arange(9)
    plain = branch.transformed(rows, space, space.identity(9))
    rounding = (plain - clips.audio).abs()
    assert rounding.max() < 0.01, "the table holds them as float16"
    wet = branch.transformed(rows, space, space.sample(9, torch.Generator().manual_seed(1)).replace("room.on", 1.0))
    assert (wet - plain).abs().mean() > 20 * rounding.mean(), "it depends on which clips meet which rooms"
    partners = branch.embeddings()
    assert "room" in unseen(branch, partners, LITTLE)
    gone = dataclasses.replace(clips, sounds=None)
    assert "room" not in unseen(Branch(model, "audio", gone), partners, LITTLE)
