"""The encoder: a pre-norm vision transformer without class token, for spectrograms and images alike.

    image (B, C, H, W) -> patches -> + positions + modality vector -> blocks -> LayerNorm -> tokens (B, N, D)

Fixed 2-D sine-cosine positions and a learned modality vector on every token; the base view and the augmented view
pass the blocks as one batch and end in a LayerNorm of their own (models/pt_EquiAV.py: norm_a, norm_a_aug).
LayerNorm eps 1e-5 as in the release, GELU by the error function. The release's blocks also carry norm1_a, norm1_v,
norm2_a and norm2_v, which it never uses: left out here.

B batch · C channels · H, W image · N tokens, row by row · D width · G rows and columns of the patch grid
"""

# torch leaves some of its types open
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from equiav.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float

    from equiav.config import Architecture


class Attention(nn.Module):
    """Multi-head self-attention with one joint projection to queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Mix the tokens of each sequence."""
        # unbound before it is transposed: backward then gathers the three gradients in one pass
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return self.out(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Linear, GELU, Linear; hidden width 4 D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Transform each token on its own."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block; `drop_path` is the chance that a sequence skips a branch in training."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.drop_path = 0.0

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Add what attention and MLP make of the normalised tokens."""
        tokens = tokens + self._dropped(self.attention(self.norm1(tokens)))
        return tokens + self._dropped(self.mlp(self.norm2(tokens)))

    def _dropped(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * kept.to(branch.dtype) / (1 - self.drop_path)


class Encoder(nn.Module):
    """One modality's vision transformer.

    Args:
        grid: (rows, columns) of patches at the size of training.
        stretch: an input smaller than in training spreads the positions over its patches (images); otherwise it takes
            the first ones (sound). Larger inputs always spread them.
        view_norm: whether augmented views end in a LayerNorm of their own.
    """

    def __init__(
        self,
        settings: Architecture,
        *,
        channels: int,
        patch: int,
        grid: tuple[int, int],
        stretch: bool,
        view_norm: bool = True,
    ) -> None:
        super().__init__()
        self.patch, self.grid, self.stretch = patch, grid, stretch
        self.channels = channels
        self.checkpointing = settings.checkpointing
        self.patch_projection = nn.Linear(channels * patch * patch, settings.width)
        self.modality = nn.Parameter(torch.empty(settings.width))
        self.blocks = nn.ModuleList(Block(settings.width, settings.heads) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(settings.width)
        self.view_norm = nn.LayerNorm(settings.width) if view_norm else None
        if settings.compile:
            for block in self.blocks:
                block.compile()

    def forward(
        self, base: Float[Tensor, "B C H W"], view: Float[Tensor, "B C H W"] | None = None
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"] | None]:
        """Tokens of the base view and, where given, of the augmented view: one batch up to the final norms."""
        if view is None:
            return self.norm(self.features(self.embed(base))), None
        if self.view_norm is None:
            raise ModelError("an augmented view was given to an encoder without view LayerNorm: method plain has none")
        if view.shape != base.shape:
            raise ModelError(
                f"the augmented view is {tuple(view.shape)}, the base view {tuple(base.shape)}: expected the same"
            )
        tokens, view_tokens = self.features(self.embed(base, view)).chunk(2)
        return self.norm(tokens), self.view_norm(view_tokens)

    def embed(self, *images: Float[Tensor, "B C H W"]) -> Float[Tensor, "n*B N D"]:
        """Patches, projected; with positions and modality added. A last part smaller than a patch is left out."""
        shape, patch = tuple(images[0].shape), self.patch
        if len(shape) != 4 or shape[1] != self.channels or min(shape[2:]) < patch:
            raise ModelError(
                f"found an input of shape {shape}, expected (batch, {self.channels} channels, height, width), "
                f"at least {patch}x{patch}"
            )
        rows, columns = shape[2] // patch, shape[3] // patch
        # one copy from all images into one batch of patches
        grids = [as_grid(x[:, :, : rows * patch, : columns * patch], patch) for x in images]
        tokens = self.patch_projection(torch.cat(grids).flatten(3).flatten(1, 2))
        # float32 also under autocast: the residual stream stays exact
        return tokens + (self.positions(rows, columns) + self.modality)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "N D"]:
        """Positions of a grid, trimmed or interpolated from the grid of training."""
        table = _positions(rows, columns, *self.grid, self.stretch, len(self.modality), self.modality.device)
        return table.to(self.modality.dtype)

    def features(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The blocks, without the final norm."""
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens


def as_grid(image: Float[Tensor, "B C H W"], patch: int) -> Float[Tensor, "B rows columns C patch patch"]:
    """A view of the patches: rows of the grid first; inside a patch channel, row, column, as in a kernel."""
    return image.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(0, 2, 4, 1, 3, 5)


def sincos_positions(
    rows: Float[Tensor, " rows"], columns: Float[Tensor, " columns"], width: int
) -> Float[Tensor, "N D"]:
    """2-D sine-cosine positions as in MAE: D/2 slots for the column, then D/2 for the row; each sines, then cosines."""
    frequency = 10_000 ** -torch.linspace(0, 1, width // 4 + 1, dtype=torch.float64, device=rows.device)[:-1]

    def code(axis: Tensor) -> Tensor:
        angle = axis.double()[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    across = code(columns)[None].expand(len(rows), -1, -1)
    down = code(rows)[:, None].expand(-1, len(columns), -1)
    return torch.cat([across, down], dim=-1).flatten(0, 1).float()


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _positions(
    rows: int, columns: int, trained_rows: int, trained_columns: int, stretch: bool, width: int, device: torch.device
) -> Float[Tensor, "N D"]:
    down, across = _coordinates(rows, trained_rows, stretch), _coordinates(columns, trained_columns, stretch)
    return sincos_positions(down, across, width).to(device)


def _coordinates(size: int, trained: int, stretch: bool) -> Float[Tensor, " size"]:
    """0, 1, 2, … as trained, or patch centres spread over the trained range."""
    index = torch.arange(size, dtype=torch.float32, device="cpu")
    if size == trained or (size < trained and not stretch):
        return index
    return (index + 0.5) * (trained / size) - 0.5
