"""The questions put to models made by hand: one that knows all, one that knows nothing, an invariant, a collapsed."""

import pytest
import torch

from diagnose.hand_made import BINS, FRAMES, HandMade
from equiav.augment.audio import audio_space
from equiav.augment.visual import visual_space
from equiav.config import Augment
from equiav.diagnose.branch import Effort, alone, rest, states
from equiav.diagnose.centroid import ToReal, centroid_report, retrieval_by_count
from equiav.diagnose.composition import composition
from equiav.diagnose.equivariance import ALL, YARDSTICKS, all_together, displacement, gallery, slot_curves
from equiav.diagnose.unseen import ITSELF, NEAREST, NOTHING, unseen
from equiav.errors import ConfigError
from equiav.metrics.figures import Figure


def rows_of(branch, **options):
    tables, explained = displacement(branch, views=12, **options)
    return {(t.question, t.space, row.transform): row for t in tables for row in t.rows}, explained


def test_a_model_that_knows_all_is_right_everywhere_and_beats_every_yardstick():
    rows, explained = rows_of(HandMade())
    for (question, space, transform), row in rows.items():
        assert row.predictor["cosine"].value == pytest.approx(1, abs=1e-3), (question, space, transform)
        assert row.predictor["relative_error"].value == pytest.approx(0, abs=1e-3)
        # a mask of no width and a shift by no frame are one view: they share their places
        assert row.predictor["h1"].value >= 0.8
        assert row.predictor["mrr"].value >= 0.9
        assert row.predictor["similarity"].value == pytest.approx(1, abs=1e-4)
        if (space, transform) == ("latent", "gain"):
            # a linear encoder moves every clip alike when a constant is added: another clip tells all
            assert row.yardsticks["another clip"]["cosine"].value == pytest.approx(1, abs=1e-3)
        else:
            assert row.beats_all, (question, space, transform, row.margins)
        assert row.yardsticks["identity"]["relative_error"].value == pytest.approx(1)
    assert {transform for *_, transform in rows} == {*[t.name for t in HandMade().space.transforms], ALL}
    assert explained["gain.amount"] > 0.5


def test_a_model_that_predicts_no_change_beats_no_yardstick():
    rows, _ = rows_of(HandMade(knows="nothing"))
    for row in rows.values():
        assert row.predictor["cosine"].value == 0, "rounding is no prediction"
        assert row.predictor["step_ratio"].value == pytest.approx(0, abs=1e-4)
        assert row.beats_all is False
    whole = rows["all together", "intra", ALL].predictor
    assert abs(whole["mrr"].value - rows["all together", "intra", ALL].yardsticks["identity"]["mrr"].value) < 1e-9


def test_an_invariant_encoder_has_nothing_to_predict():
    rows, _ = rows_of(HandMade(encoder="invariant", transforms=["gain"]))
    for row in rows.values():
        assert row.predictor["invariance"].value == pytest.approx(1, abs=1e-5)
        assert row.predictor["cosine"] is None
        assert row.predictor["relative_error"] is None
        assert row.beats_all is None
        assert row.structure == {}


def test_a_collapsed_encoder_gives_no_figures_and_no_crash():
    rows, _ = rows_of(HandMade(encoder="collapsed"))
    for row in rows.values():
        assert row.predictor["cosine"] is None
        assert row.beats_all is None


def test_without_predictor_there_are_only_the_true_views():
    branch = HandMade(knows=None)
    rows, explained = rows_of(branch)
    for row in rows.values():
        assert set(row.predictor) == {"invariance"}
        assert row.margins == {}
    assert explained["gain.amount"] > 0.5
    assert all(
        point.predicted_size is None
        for points in slot_curves(branch, Effort(curve_clips=4)).values()
        for point in points
    )


def test_the_same_seed_gives_the_same_figures():
    one, two, other = (all_together(HandMade(knows="all"), views=4, seed=seed) for seed in (0, 0, 1))
    assert one == two
    assert one.predictor["invariance"] != other.predictor["invariance"]


def test_yardsticks_are_those_that_the_page_explains():
    row = all_together(HandMade(n=8), views=4)
    assert set(row.margins) == set(YARDSTICKS)
    assert row.yardsticks["mean"]["cosine"].value > row.yardsticks["identity"]["cosine"].value


@pytest.mark.parametrize("variant", ["unit", "released"])
@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_a_gallery_draws_one_transform_at_a_time(modality, variant):
    settings = Augment(variant=variant)
    space = audio_space(settings, 192, 64) if modality == "audio" else visual_space(settings, 32)
    generator = torch.Generator().manual_seed(0)
    base = space.sample(1, generator)
    for start in (None, base):
        sets, names = gallery(space, 16, generator, start)
        assert len(sets) == len(names) == 16
        before = rest(space) if start is None else start
        for i, name in enumerate(names):
            own = [slot.split(".")[0] == name for slot in space.names]
            changed = sets.values[i] != before.values[0]
            assert not changed[~torch.tensor(own)].any(), "the others are as they were"
            transform = next(t for t in space.transforms if t.name == name)
            flag = float(sets[i : i + 1].column(f"{name}.on"))
            expected = 1 - float(before.column(f"{name}.on")) if len(transform.slots) == 1 else 1
            assert flag == expected
        flags_only = [t.name for t in space.transforms if len(t.slots) == 1]
        assert all(names.count(name) == 1 for name in flags_only)


def test_what_is_always_on_rests_switched_on_without_effect():
    space = visual_space(Augment(variant="released"), 32)
    assert float(rest(space).column("crop.on")) == 1
    frames = torch.randint(0, 256, (1, 3, 40, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.allclose(space.apply(frames, rest(space)), space.apply(frames, space.identity(1)), atol=0.02)
    assert not rest(visual_space(Augment(), 32)).values.equal(rest(space).values)


def test_a_transform_that_is_never_on_cannot_be_measured():
    space = audio_space(Augment(audio={"gain": {"p": 0}, "reverse": {}}), FRAMES, BINS)
    with pytest.raises(ConfigError, match="never on"):
        alone(space, "gain", 2, torch.Generator())
    _, names = gallery(space, 4, torch.Generator().manual_seed(0))
    assert set(names) == {"reverse"}


def test_curves_follow_the_slot_and_say_what_was_done():
    curves = slot_curves(HandMade(transforms=["gain", "shift"]), Effort(curve_clips=6, curve_points=5))
    assert set(curves) == {"gain.amount", "shift.amount"}
    gain = curves["gain.amount"]
    assert [point.value for point in gain] == pytest.approx([-0.4, -0.2, 0, 0.2, 0.4])
    assert gain[2].true_size == pytest.approx(0, abs=1e-6)
    assert gain[2].cosine is None, "nothing moves in the middle"
    assert gain[0].true_size > gain[1].true_size > 0
    for point in gain:
        assert point.predicted_size == pytest.approx(point.true_size, abs=1e-4)


def test_states_do_not_depend_on_the_other_clips():
    branch = HandMade(n=70)  # more than a batch
    sets = branch.space.sample(70 * 3, torch.Generator().manual_seed(0))
    whole = states(branch, torch.arange(70), sets)
    few = states(branch, torch.arange(60, 70), sets[180:])
    assert torch.allclose(whole.q[60:], few.q, atol=1e-6)
    assert torch.allclose(whole.p[60:], few.p, atol=1e-6)
    assert torch.allclose(whole.q, whole.r, atol=1e-3)


def test_a_model_that_knows_all_composes_and_rests():
    branch = HandMade(transforms=["shift", "gain", "contrast", "reverse"])
    found = composition(branch, Effort(composed_clips=8, composed_draws=4))
    assert found.rest_ratio.value == pytest.approx(0, abs=1e-4)
    assert found.cosine.value > 0.9, "only amounts past the trained range are clamped on decoding"
    assert found.margin.low > 0
    assert composition(HandMade(transforms=["time_mask"])).reason


def test_independent_predictions_come_closer_by_the_square_root_and_reach_the_real_mean():
    branch = HandMade(n=12, transforms=["gain", "contrast", "reverse"])
    found = centroid_report(branch, 4, Effort(real_clips=6, dense=2048, real=256))
    assert found.curves["iid"].rate == pytest.approx(-0.5, abs=0.15)
    assert found.curves["sobol"].rate < found.curves["iid"].rate
    assert found.sobol_against_iid < 1
    assert found.noise == pytest.approx(found.curves["iid"].to_dense[1].value ** 2 / 4)
    for real in found.real:
        assert real.limit < 0.2 * real.plain, "a right predictor is at the real mean"
        assert real.to_real[256].value < real.to_real[1].value


def test_enough_is_the_first_k_within_5_percent_of_the_limit():
    curve = {k: Figure(v, v, v, 8) for k, v in ((1, 0.9), (4, 0.55), (8, 0.52), (16, 0.51))}
    assert ToReal("intra", curve, limit=0.5, plain=1.0, views=8, clips=2).enough == 8
    assert ToReal("intra", curve, limit=0.4, plain=1.0, views=8, clips=2).enough is None
    small = {k: Figure(v, v, v, 8) for k, v in ((1, 0.2), (4, 0.04))}
    assert ToReal("intra", small, limit=0.001, plain=1.0, views=8, clips=2).enough == 4, "a right predictor"


def test_retrieval_by_count_compares_with_no_predictor():
    branches = {name: HandMade(n=10, transforms=["gain", "contrast"]) for name in ("audio", "visual")}
    for branch in branches.values():
        branch.embed = branch.project
    found = retrieval_by_count(branches)
    assert list(found) == ["plain", "1", "2", "4", "8", "16", "32", "64", "128", "256"]
    assert all(0 <= figure.value <= 1 for figure in found.values())
    assert found["256"].value == 1, "both sides are one model: at the same mean they find each other"


def test_beyond_the_range_the_true_amount_is_worth_more_than_none(monkeypatch):
    branch = HandMade(n=10, transforms=["gain", "reverse"])
    monkeypatch.setattr("equiav.diagnose.unseen._EXTRA", {"audio": {}, "visual": {}})
    found = unseen(branch, branch.embed_inputs(branch.clips.audio), Effort(unseen_clips=6))
    assert set(found) == {"gain.amount"}
    points = found["gain.amount"]
    assert [point.trained for point in points] == [True, True, False, False, False]
    assert points[0].cosine[ITSELF].value == pytest.approx(1, abs=1e-3)
    assert set(points[0].cosine) == {ITSELF, NOTHING}
    assert points[0].error[NOTHING].value == pytest.approx(1, abs=1e-4)
    assert points[-1].true_size > points[0].true_size
    assert NEAREST not in points[0].cosine
