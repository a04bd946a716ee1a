"""Projection heads: latent (B, D) -> embedding (B, E).

Linear, LN, ReLU, Linear, LN, ReLU, Linear, LN (models/pt_EquiAV.py: pred_{a,v}_{intra,inter}); per modality one for
the intra-modal and one for the inter-modal space.
"""

# torch leaves some of its types open
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


class Head(nn.Sequential):
    """Three linear layers with LayerNorm after each and ReLU between them."""

    def __init__(self, width: int, hidden: int, embedding: int) -> None:
        super().__init__(
            nn.Linear(width, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, embedding),
            nn.LayerNorm(embedding),
        )

    def forward(self, input: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:  # noqa: A002  (the base class's name)
        """Project; not L2-normalised."""
        return super().forward(input)
