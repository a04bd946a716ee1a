"""Measures of displacement: known answers on vectors made by hand."""

import math

import pytest
import torch

from equiav.metrics import displacement as measures


def rows(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


P, Q = rows(0, 12, 5, 9), rows(1, 12, 5, 9)


def test_a_right_prediction_has_cosine_1_error_0_and_the_right_size():
    assert torch.allclose(measures.displacement_cosine(P, Q, Q), torch.ones(12))
    assert torch.allclose(measures.relative_error(P, Q, Q), torch.zeros(12))
    assert torch.allclose(measures.step_ratio(P, Q, Q), torch.ones(12))
    assert (measures.ranks(Q, Q) == 1).all()


def test_predicting_no_change_has_cosine_0_error_1_and_size_0():
    assert torch.allclose(measures.displacement_cosine(P, Q, P), torch.zeros(12))
    assert torch.allclose(measures.relative_error(P, Q, P), torch.ones(12))
    assert torch.allclose(measures.step_ratio(P, Q, P), torch.zeros(12))


def test_predicting_the_opposite_has_cosine_minus_1_and_error_2():
    opposite = P - (Q - P)
    assert torch.allclose(measures.displacement_cosine(P, Q, opposite), -torch.ones(12))
    assert torch.allclose(measures.relative_error(P, Q, opposite), torch.full((12,), 2.0))


def test_views_that_do_not_move_have_no_figures():
    still = P.clone()
    for measure in (measures.displacement_cosine, measures.relative_error, measures.step_ratio):
        assert measure(P, still, Q).isnan().all()
    mixed = torch.cat([Q[:, :2], P[:, 2:]], dim=1)
    told = measures.displacement_cosine(P, mixed, mixed)
    assert torch.allclose(told, torch.ones(12)), "only the views that move count"


def test_similarity_of_an_invariant_encoder_is_1():
    assert torch.allclose(measures.similarity(P, P), torch.ones(12))


def test_ranks_agree_with_a_plain_loop_and_share_ties():
    q, r = rows(2, 4, 6, 3), rows(3, 4, 6, 3)
    q[:, 3] = q[:, 2]  # two views alike
    found = measures.ranks(q, r)
    for i in range(4):
        for m in range(6):
            scores = [float(torch.cosine_similarity(r[i, m], q[i, j], dim=0)) for j in range(6)]
            better = sum(score > scores[m] + 1e-6 for score in scores)
            equal = sum(abs(score - scores[m]) <= 1e-6 for score in scores)
            assert found[i, m] == pytest.approx(1 + better + (equal - 1) / 2)


def test_chance_is_the_mean_over_all_ranks():
    known = measures.chance(16)
    assert known["mrr"] == pytest.approx(sum(1 / r for r in range(1, 17)) / 16)
    assert known["h1"] == 1 / 16
    assert known["h5"] == 5 / 16


def test_a_rotation_of_the_space_has_no_residual_and_gamma_0():
    rotation, _ = torch.linalg.qr(rows(4, 9, 9))
    if torch.linalg.det(rotation) < 0:
        rotation[:, 0] = -rotation[:, 0]
    p = P[:, 0]
    assert measures.relative_rotation(p, p @ rotation) == pytest.approx(0, abs=1e-8)
    assert measures.rotation_residual(p, p @ rotation) == pytest.approx(0, abs=1e-5)
    noisy = p @ rotation + rows(5, 12, 9)
    assert measures.relative_rotation(p, noisy) > 0.01
    assert 0.1 < measures.rotation_residual(p, noisy) < 1


def test_a_reflection_is_no_rotation():
    p = rows(6, 200, 4)
    mirrored = p * torch.tensor([-1.0, 1.0, 1.0, 1.0])
    assert measures.relative_rotation(p, mirrored) == pytest.approx(0, abs=1e-8), "distances stay"
    assert measures.rotation_residual(p, mirrored) > 0.3


def test_an_invariant_or_collapsed_encoder_has_no_rotation_to_tell():
    for p in (P[:, 0], torch.ones(12, 9)):
        assert math.isnan(measures.relative_rotation(p, p.clone()))
        assert math.isnan(measures.rotation_residual(p, p.clone()))


def test_parameters_that_move_embeddings_linearly_are_read_off_them():
    params = rows(7, 40, 6, 3)
    params[..., 2] = 1.0
    plain = rows(8, 40, 1, 9).expand(-1, 6, -1)
    moved = plain + params[..., :1] * rows(9, 9)
    found = measures.explained_parameters(plain, moved, params)
    assert found[0] > 0.99
    assert found[1] < 0.1, "left no trace"
    assert math.isnan(found[2]), "constant"
