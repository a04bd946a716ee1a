"""What was measured of a run is shown as it was stored: with its intervals, and whether it may be believed."""

import json
import os

import pytest

from equiav.diagnose.branch import Effort
from equiav.diagnose.diagnosis import diagnose
from equiav.evaluate.retrieval import evaluate_retrieval, retrieval_result
from equiav.library.table import Library
from equiav.search.embed import embed_library
from equiav.serve.reports import EQUIVARIANCE, RETRIEVAL, Reports
from serve.served import problem_of
from tiny_library import FEATURES, make_clip, make_model

pytestmark = pytest.mark.xdist_group("serve")
LITTLE = Effort(
    views=2, curve_clips=2, curve_points=3, focus_clips=2, focus_sets=2, composed_clips=2, composed_draws=1,
    centroid_clips=4, counts=(1, 16, 32), draws=1, dense=64, real=2, real_clips=2, unseen_clips=2, pool=2, repeats=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A library of twelve clips."""
    made = Library.create(tmp_path_factory.mktemp("reports") / "library", FEATURES)
    made.append([make_clip(i, split="test") for i in range(12)])
    embed_library(made, make_model())
    return made


@pytest.fixture(scope="module")
def report(own):
    return evaluate_retrieval(own, make_model(), resamples=50)


@pytest.fixture(scope="module")
def measured(own):
    return diagnose(own, make_model(), split="test", clips=12, effort=LITTLE)


@pytest.fixture(scope="module")
def stored(own, report, measured):
    return retrieval_result(report, own, make_model()), json.dumps(measured.to_dict())


@pytest.fixture
def run(stored, tmp_path):
    """The folder of a run, with both files."""
    stored[0].save(tmp_path / RETRIEVAL)
    (tmp_path / EQUIVARIANCE).parent.mkdir()
    (tmp_path / EQUIVARIANCE).write_text(stored[1])
    return tmp_path


def test_retrieval_is_as_it_was_measured(run, report):
    found = Reports(run, make_model().fingerprint()).get().retrieval
    assert found is not None
    assert (found.state, found.split, found.clips) == ("current", "test", 12)
    assert found.warnings == report.warnings
    figures = {(figure.way, figure.name): figure for figure in found.figures}
    for way in ("audio_to_visual", "visual_to_audio"):
        estimates = getattr(report, way).estimates()
        assert "recall_at_1" in estimates
        assert {name for of, name in figures if of == way} == set(estimates)
        for name, one in estimates.items():
            shown = figures[way, name]
            assert (shown.value, shown.low, shown.high, shown.chance) == (one.value, one.low, one.high, one.chance)
            assert shown.n == getattr(report, way).asked(name)[0]


def test_equivariance_is_as_it_was_measured(run, measured):
    found = Reports(run, make_model().fingerprint()).get().equivariance
    assert found is not None
    assert (found.state, found.split, found.clips) == ("current", "test", 12)
    stored = measured.to_dict()
    assert found.alarms == stored["alarms"]
    assert {figure.name for figure in found.figures} == set(stored["figures"])
    for figure in found.figures:
        one = stored["figures"][figure.name]
        expected = (
            (one, None, None, None)
            if isinstance(one, (int, float))
            else tuple(one[k] for k in ("value", "low", "high", "n"))
        )
        assert (figure.value, figure.low, figure.high, figure.n) == expected
    shown = {(row.modality, row.question, row.transform): row for row in found.transforms}
    rows = [
        (name, table.question, row)
        for name, branch in measured.branches.items()
        for table in branch.tables
        if table.space == "intra"
        for row in table.rows
    ]
    assert len(shown) == len(rows) > 10
    for name, question, row in rows:
        one, cosine = shown[name, question, row.transform], row.predictor.get("cosine")
        assert one.beats_all == row.beats_all
        assert (one.cosine and one.cosine.value) == (cosine and cosine.value)


def test_what_was_measured_with_other_weights_is_stale(run):
    found = Reports(run, make_model(seed=1).fingerprint()).get()
    assert found.retrieval is not None
    assert found.equivariance is not None
    assert found.retrieval.state == found.equivariance.state == "stale"
    assert found.retrieval.figures


def test_what_was_not_measured_is_not_there(tmp_path):
    for folder in (None, tmp_path, tmp_path / "none"):
        found = Reports(folder, "x").get()
        assert (found.retrieval, found.equivariance) == (None, None)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b'{"details": {}}', b"null", b'{"about": {"model": 1}}', b"NaN"]
)
def test_what_is_no_report_is_damaged_and_the_other_is_shown(run, content):
    reports = Reports(run, make_model().fingerprint())
    for place in (RETRIEVAL, EQUIVARIANCE):
        kept = (run / place).read_bytes()
        (run / place).write_bytes(content)
        found = reports.get()
        states = [one and one.state for one in (found.retrieval, found.equivariance)]
        assert states == (["damaged", "current"] if place == RETRIEVAL else ["current", "damaged"])
        (run / place).write_bytes(kept)


def change(run, place, edit):
    stored = json.loads((run / place).read_text())
    edit(stored)
    (run / place).write_text(json.dumps(stored))


@pytest.mark.parametrize(
    "edit",
    [
        lambda stored: stored["details"].pop("audio_to_visual"),
        lambda stored: stored["details"].update(audio_to_visual=[]),
        lambda stored: stored["details"].update(clips="many"),
        lambda stored: stored.update(evaluation="probe"),
        lambda stored: stored.update(details={"audio_to_visual": 1}),
    ],
)
def test_a_result_of_another_kind_is_damaged(run, edit):
    change(run, RETRIEVAL, edit)
    found = Reports(run, make_model().fingerprint()).get().retrieval
    assert found is not None
    assert (found.state, found.figures) == ("damaged", [])


def test_a_file_that_is_written_again_is_read_again(run, own, report):
    reports = Reports(run, make_model().fingerprint())
    assert reports.get() is not None
    retrieval_result(report, own, make_model(seed=1)).save(run / RETRIEVAL)
    found = reports.get().retrieval
    assert found is not None
    assert found.state == "stale"
    (run / RETRIEVAL).unlink()
    assert reports.get().retrieval is None


def test_a_file_too_large_for_a_report_is_not_read(run):
    os.truncate(run / RETRIEVAL, 1 << 30)
    found = Reports(run, make_model().fingerprint()).get().retrieval
    assert found is not None
    assert found.state == "damaged"


def test_the_service_says_so_of_its_runs(serve_own, own, run, client):
    with serve_own(own.path, {"toy": make_model()}, folders={"toy": run}) as served:
        found = served.get("/v1/runs/toy/report")
        assert found.status_code == 200
        assert found.json() == Reports(run, make_model().fingerprint()).get().model_dump(mode="json")
        assert str(run.parent) not in found.text
    assert client.get("/v1/runs/first/report").json() == {"retrieval": None, "equivariance": None}
    for name in ("none", "..", "%00", "first%2f.."):
        problem_of(client.get(f"/v1/runs/{name}/report"), 404)
