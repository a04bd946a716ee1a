"""The predictors: their size, their cost, and what each can and cannot express."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import SMALL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from equiav.config import Architecture
from equiav.model.initialise import initialise
from equiav.model.predictor import (
    AttentionPredictor,
    ParameterEncoder,
    make_predictor,
    predictor_parameters,
    quick_gelu,
)

KINDS = ("attention", "linear", "mlp", "hypernetwork")
TOY = {"width": 128, "heads": 4, "parameter_width": 64, "predictor_heads": 4, "predictor_head_width": 32}


def predictor(kind="attention", seed=0):
    made = make_predictor(Architecture(**SMALL, predictor=kind))
    initialise(made, seed)
    return made


@pytest.mark.parametrize("sizes", [{}, TOY, SMALL], ids=["vit-b", "toy", "small"])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_alternatives_have_the_attention_predictors_number_of_parameters(kind, sizes):
    target = predictor_parameters(Architecture(**sizes))
    assert predictor_parameters(Architecture(**sizes, predictor=kind)) == pytest.approx(target, rel=0.02)


# The paper's overhead in GMAC for S samples, audio (N=512, 24 parameters) and visual (N=196, 18)
@pytest.mark.parametrize(
    ("samples", "audio", "visual"), [(1, 0.41, 0.16), (4, 0.43, 0.18), (8, 0.45, 0.20), (16, 0.50, 0.24)]
)
def test_counted_multiplications_equal_the_papers_overhead_table(samples, audio, visual):
    for tokens, slots, expected in ((512, 24, audio), (196, 18, visual)):
        with torch.device("meta"):
            encoder, made = ParameterEncoder(slots, 256), make_predictor(Architecture())
            h, params = torch.empty(1, tokens, 768), torch.empty(1, samples, slots)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            made(h, encoder(params))
        assert round(counter.get_total_flops() / 2e9, 2) == expected


def test_attention_equals_its_definition_written_out():
    made = predictor()
    tokens, query = torch.randn(2, 5, 24), torch.randn(2, 3, 8)
    found = made(tokens, query)
    heads, width = SMALL["predictor_heads"], SMALL["predictor_head_width"]
    key, value = made.key_value(tokens).chunk(2, dim=-1)
    asked = made.query(torch.nn.functional.layer_norm(query, (8,)))
    for b in range(2):
        for k in range(3):
            parts = []
            for head in range(heads):
                cut = slice(head * width, (head + 1) * width)
                weights = (key[b, :, cut] @ asked[b, k, cut] / math.sqrt(width)).softmax(0)
                parts.append(weights @ value[b, :, cut])
            latent = tokens[b].mean(0) + made.out(torch.cat(parts))
            expected = latent + made.mlp(torch.nn.functional.layer_norm(latent, (24,)))
            torch.testing.assert_close(found[b, k], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_each_query_is_answered_on_its_own(kind):
    made = predictor(kind)
    tokens, query = torch.randn(2, 5, 24), torch.randn(2, 3, 8)
    together = made(tokens, query)
    for k in range(3):
        torch.testing.assert_close(together[:, k : k + 1], made(tokens, query[:, k : k + 1]))


@pytest.mark.parametrize("kind", KINDS)
def test_one_set_of_queries_may_serve_the_whole_batch(kind):
    made = predictor(kind)
    tokens, query = torch.randn(4, 5, 24), torch.randn(1, 3, 8)
    torch.testing.assert_close(made(tokens, query), made(tokens, query.expand(4, -1, -1)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_prediction_depends_on_the_transformation(kind):
    made = predictor(kind)
    tokens = torch.randn(1, 5, 24)
    moved = made(tokens, torch.randn(1, 2, 8))
    assert (moved[:, 0] - moved[:, 1]).norm() > 1e-3 * moved.norm()


def curvature(kind, where):
    """How far f((x + y) / 2) is from the mean of f(x) and f(y), in tokens or in normalised queries."""
    made = predictor(kind)
    x, y = torch.randn(2, 1, 5, 24)
    p, q = torch.nn.functional.layer_norm(torch.randn(2, 1, 1, 8), (8,))
    if where == "tokens":
        ends, middle = (made(x, p) + made(y, p)) / 2, made((x + y) / 2, p)
    else:
        made.norm_query = torch.nn.Identity()
        ends, middle = (made(x, p) + made(x, q)) / 2, made(x, (p + q) / 2)
    return float((ends - middle).abs().max().detach())


def test_linear_is_linear_in_tokens_and_query_hypernetwork_in_each_alone_and_mlp_in_neither():
    for where in ("tokens", "query"):
        assert curvature("linear", where) < 1e-5
        assert curvature("hypernetwork", where) < 1e-5
        assert curvature("mlp", where) > 1e-3
    # but the hypernetwork multiplies the two
    made = predictor("hypernetwork")
    x, p = torch.randn(1, 5, 24), torch.randn(1, 1, 8)
    moved = made(x, p) - x.mean(1, keepdim=True)
    twice = made(2 * x, p) - 2 * x.mean(1, keepdim=True)
    torch.testing.assert_close(twice, 2 * moved, atol=1e-5, rtol=1e-4)


def test_quick_gelu_is_the_sigmoid_form():
    x = torch.linspace(-4, 4, 9)
    torch.testing.assert_close(quick_gelu(x), x / (1 + (-1.702 * x).exp()))


def test_attention_is_the_default():
    assert isinstance(make_predictor(Architecture()), AttentionPredictor)


def test_attention_maps_are_those_of_the_prediction():
    made = predictor()
    tokens, query = torch.randn(3, 7, SMALL["width"]), torch.randn(3, 5, SMALL["parameter_width"])
    weights = made.attention(tokens, query)
    assert weights.shape == (3, SMALL["predictor_heads"], 5, 7)
    assert torch.allclose(weights.sum(-1), torch.ones_like(weights[..., 0]), atol=1e-6)
    values = made.key_value(tokens).unflatten(-1, (2, SMALL["predictor_heads"], -1))[:, :, 1]
    found = torch.einsum("bhkn,bnhd->bkhd", weights, values).flatten(2)
    latent = tokens.mean(dim=1, keepdim=True) + made.out(found)
    assert torch.allclose(latent + made.mlp(made.norm(latent)), made(tokens, query), atol=1e-5)
