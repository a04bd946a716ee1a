"""The predictors: what a transformation does to a representation, from its parameters alone.

    latent (B, K, D) = predictor(tokens (B, N, D), query (B, K, A)),   query = ParameterEncoder(psi(t) (B, K, P))
    a query (1, K, A) serves all B

Attention (EquiAV, §3 of the paper; models/pt_EquiAV.py: aug_encoder_m, cross_attn_m): h = mean(tokens) +
MHA(LN(query), tokens, tokens), keys and values un-normalised, then h + MLP(LN(h)). One query gives the equivariant
("predicted") representation; the mean over K queries with fresh parameters is the centroid.

The alternatives of the paper's Table "Predictor architecture" stand behind the same call and are sized to the same
number of parameters: linear (of mean and query), MLP (of mean and query), hypernetwork (as in SIE, Garrido et al.
2023: a linear map of the mean whose matrix is made from the query).

B batch · N tokens · D width · K queries · P parameter slots · A width of the parameter encoder
"""

# torch leaves some of its types open
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equiav.model.vit import MLP

if TYPE_CHECKING:
    from jaxtyping import Float

    from equiav.config import Architecture


class ParameterEncoder(nn.Module):
    """psi(t) to a query: P -> A -> A -> A with QuickGELU, x·sigmoid(1.702 x), between."""

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(slots, width), nn.Linear(width, width), nn.Linear(width, width)])

    def forward(self, params: Float[Tensor, "*B P"]) -> Float[Tensor, "*B A"]:
        """Encode each parameter vector on its own."""
        first, second, third = self.layers
        return third(quick_gelu(second(quick_gelu(first(params)))))


def quick_gelu(x: Tensor) -> Tensor:
    """GELU's sigmoid approximation, as in the release."""
    return x * torch.sigmoid(1.702 * x)


class AttentionPredictor(nn.Module):
    """Ask the base view's tokens with the transformation as query."""

    def __init__(self, settings: Architecture) -> None:
        super().__init__()
        inner = settings.predictor_heads * settings.predictor_head_width
        self.heads = settings.predictor_heads
        self.norm_query = nn.LayerNorm(settings.parameter_width)
        self.query = nn.Linear(settings.parameter_width, inner)
        self.key_value = nn.Linear(settings.width, 2 * inner)
        self.out = nn.Linear(inner, settings.width, bias=False)
        self.norm = nn.LayerNorm(settings.width)
        self.mlp = MLP(settings.width)

    def forward(self, tokens: Float[Tensor, "B N D"], query: Float[Tensor, "B K A"]) -> Float[Tensor, "B K D"]:
        """The mean token, moved by each query."""
        found = F.scaled_dot_product_attention(*self._asked(tokens, query))
        latent = tokens.mean(dim=1, keepdim=True) + self.out(found.transpose(1, 2).flatten(2))
        return latent + self.mlp(self.norm(latent))

    def attention(self, tokens: Float[Tensor, "B N D"], query: Float[Tensor, "B K A"]) -> Float[Tensor, "B H K N"]:
        """How much of each token each of the H heads takes, per query; sums to 1 over the tokens."""
        asked, key, _ = self._asked(tokens, query)
        return (asked @ key.transpose(2, 3) / asked.shape[-1] ** 0.5).softmax(-1)

    def _asked(self, tokens: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, K, d), keys and values (B, H, N, d)."""
        asked = self.query(self.norm_query(query)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return asked, key, value


class ConcatenationPredictor(nn.Module):
    """Mean token and query side by side through two linear layers, with a GELU between (MLP) or without (linear).

    The linear map is a product of two matrices, so that its number of parameters can be chosen; with a hidden width
    of at least D the product is any linear map.
    """

    def __init__(self, settings: Architecture, hidden: int, *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm_query = nn.LayerNorm(settings.parameter_width)
        self.fc1 = nn.Linear(settings.width + settings.parameter_width, hidden)
        self.fc2 = nn.Linear(hidden, settings.width)

    def forward(self, tokens: Float[Tensor, "B N D"], query: Float[Tensor, "B K A"]) -> Float[Tensor, "B K D"]:
        """The mean token plus a (linear) function of itself and each query."""
        mean = tokens.mean(dim=1, keepdim=True)
        # fc1 of the two side by side, without copying the mean K times
        of_mean, of_query = self.fc1.weight.split((mean.shape[-1], query.shape[-1]), dim=1)
        hidden = F.linear(mean, of_mean, self.fc1.bias) + F.linear(self.norm_query(query), of_query)
        return mean + self.fc2(hidden if self.linear else F.gelu(hidden))


class HypernetworkPredictor(nn.Module):
    """A linear map of the mean token whose core matrix is a linear function of the query.

    A full D x D matrix from A numbers would take D²·A parameters (150 million at ViT-B), so the core is R x (R + s)
    between two fixed projections; `columns` = R or R + 1 makes the parameter count fine enough to match.
    """

    def __init__(self, settings: Architecture, rows: int, columns: int) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(settings.parameter_width)
        self.into = nn.Linear(settings.width, rows, bias=False)
        self.core = nn.Linear(settings.parameter_width, rows * columns)
        self.out = nn.Linear(columns, settings.width)

    def forward(self, tokens: Float[Tensor, "B N D"], query: Float[Tensor, "B K A"]) -> Float[Tensor, "B K D"]:
        """The mean token plus out(W(query) into(mean))."""
        mean = tokens.mean(dim=1, keepdim=True)
        inner = self.into(mean).unsqueeze(1)
        core = self.core(self.norm_query(query)).unflatten(-1, (inner.shape[-1], -1))
        return mean + self.out(inner.matmul(core).squeeze(2))


Predictor = AttentionPredictor | ConcatenationPredictor | HypernetworkPredictor


def make_predictor(settings: Architecture) -> Predictor:
    """The predictor named in the settings; the alternatives at the attention predictor's size within 2 %."""
    if settings.predictor == "attention":
        return AttentionPredictor(settings)
    if settings.predictor == "hypernetwork":
        return HypernetworkPredictor(settings, *_core_shape(settings))
    return ConcatenationPredictor(settings, _hidden_width(settings), linear=settings.predictor == "linear")


def predictor_parameters(settings: Architecture) -> int:
    """Parameters of one predictor as named in the settings, without its parameter encoder."""
    with torch.device("meta"):
        return sum(p.numel() for p in make_predictor(settings).parameters())


def _target(settings: Architecture) -> int:
    return predictor_parameters(settings.model_copy(update={"predictor": "attention"}))


def _hidden_width(settings: Architecture) -> int:
    """Hidden width at which the concatenation predictor is as large as the attention predictor."""
    per_unit = 2 * settings.width + settings.parameter_width + 1
    fixed = settings.width + 2 * settings.parameter_width
    return max(1, round((_target(settings) - fixed) / per_unit))


def _core_shape(settings: Architecture) -> tuple[int, int]:
    """Rows and columns at which the hypernetwork predictor is as large as the attention predictor."""
    width, query, target = settings.width, settings.parameter_width, _target(settings)

    def excess(shape: tuple[int, int]) -> int:
        rows, columns = shape
        size = 2 * query + width * (rows + columns + 1) + (query + 1) * rows * columns
        return abs(size - target)

    largest = 1 + int((target / query) ** 0.5)
    return min(((r, r + more) for r in range(1, largest + 1) for more in (0, 1)), key=excess)
