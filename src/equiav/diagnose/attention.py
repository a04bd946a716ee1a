"""Where does the predictor look when it gets what was done?  One branch, clips, parameter sets → attention maps.

    attention (b, H, K, N) over the grid of tokens;  share of it inside the region that a transformation speaks of

A crop keeps a box and a mask hides an interval. A predictor that has learnt what their numbers mean looks there (or
away from there) more than a uniform look would, whose share is the region's share of the area.

b clips · K parameter sets · H heads · N tokens = rows × columns · P slots
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equiav.augment.space import SpaceParams
from equiav.diagnose.branch import FULL, Branch, Effort, alone, join, rest, trained_on
from equiav.diagnose.figures import figure
from equiav.metrics.figures import Figure
from equiav.model.predictor import AttentionPredictor

if TYPE_CHECKING:
    from jaxtyping import Float

HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0), (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 0.5))  # top, left, h, w


@dataclass(frozen=True)
class Focus:
    """Attention inside the region that a transform's parameters name, mean over heads and draws."""

    transform: str
    region: str
    inside: Figure
    uniform: float  # share of the area: what a look that knows nothing gives
    margin: Figure  # inside − uniform, clip by clip
    by_head: list[float]


@dataclass(frozen=True)
class Map:
    """A clip as the model sees it, and the share of attention of each token when asked about one transformation."""

    caption: str
    view: Float[Tensor, "T M"] | Float[Tensor, "3 S S"]
    weights: Float[Tensor, "rows columns"]


def looks(branch: Branch) -> bool:
    """Whether the predictor is one that attends."""
    return isinstance(branch.predictor, AttentionPredictor)


@torch.no_grad()
def attention(branch: Branch, rows: Tensor, params: SpaceParams) -> Float[Tensor, "b H K rows columns"]:
    """Attention of each clip's tokens under each of K sets."""
    predictor = branch.predictor
    if not isinstance(predictor, AttentionPredictor):
        raise TypeError("only an attention predictor has attention to show")
    tokens = branch.tokens(rows)
    codes = branch.space.encode(params).to(branch.device)
    weights = predictor.attention(tokens, branch.tower.parameters_encoder(codes)[None].expand(len(rows), -1, -1))
    return weights.cpu().unflatten(-1, branch.tower.encoder.grid)


def focuses(branch: Branch, effort: Effort = FULL, *, seed: int = 0) -> list[Focus]:
    """For each trained transform that names a region: how much of the attention lies in it."""
    rows = torch.arange(min(effort.focus_clips, len(branch.clips)))
    generator = torch.Generator().manual_seed(seed)
    grid = branch.tower.encoder.grid
    found = []
    square = bool((branch.clips.sizes[:, 0] == branch.clips.sizes[:, 1]).all())
    options = {transform.name: transform.options for transform in branch.space.transforms}
    for name in trained_on(branch.space):
        if f"{name}.top" not in branch.space.names and f"{name}.start" not in branch.space.names:
            continue
        params = alone(branch.space, name, effort.focus_sets, generator)
        if getattr(options[name], "of", None) == "frame" and not square:
            continue  # the box is a share of the frame, the tokens lie on its centre square
        cover = region(branch, name, params, grid)
        weights = attention(branch, rows, params)
        inside = (weights * cover).sum((-1, -2))  # (b, H, K)
        uniform = cover.mean((-1, -2))
        share, margin = (figure(x.mean((1, 2)), branch.sources(rows)) for x in (inside, inside - uniform))
        if share is not None and margin is not None:
            kind = "the box that it keeps" if f"{name}.top" in branch.space.names else "the interval that it hides"
            found.append(Focus(name, kind, share, float(uniform.mean()), margin, inside.mean((0, 2)).tolist()))
    return found


def region(branch: Branch, name: str, params: SpaceParams, grid: tuple[int, int]) -> Float[Tensor, "K rows columns"]:
    """Share of each token that lies in the region that K sets of a transform name."""
    if f"{name}.top" in branch.space.names:
        first, second, height, width = (params.column(f"{name}.{slot}") for slot in ("top", "left", "height", "width"))
        spans = [(first, first + height), (second, second + width)]
    else:
        span = (params.column(f"{name}.start"), params.column(f"{name}.end"))
        whole = (torch.zeros_like(span[0]), torch.ones_like(span[0]))
        spans = [span, whole] if name == "time_mask" else [whole, span]
    if branch.name == "audio":  # parameters say time first, tokens lie mel first
        spans.reverse()
    down, across = (_overlap(*span, cells) for span, cells in zip(spans, grid, strict=True))
    return down[:, :, None] * across[:, None, :]


def _overlap(start: Tensor, end: Tensor, cells: int) -> Float[Tensor, "K cells"]:
    """Share of each of `cells` equal cells of [0, 1] that lies in [start, end)."""
    edges = torch.arange(cells + 1) / cells
    inside = torch.minimum(end[:, None], edges[1:]) - torch.maximum(start[:, None], edges[:-1])
    return inside.clamp(min=0) * cells


def chosen_sets(branch: Branch) -> tuple[SpaceParams, list[str]]:
    """Sets that a reader knows at sight: at rest; boxes at the four sides; flags; and one draw of each other."""
    space = branch.space
    sides = ("start", "end", "low", "high") if branch.name == "audio" else ("top", "bottom", "left", "right")
    sets, captions = [rest(space)], ["nothing done"]
    generator = torch.Generator().manual_seed(0)
    for name in trained_on(space):
        if f"{name}.top" not in space.names:
            sets.append(alone(space, name, 1, generator))
            captions.append(name)
            continue
        for side, box in zip(sides, HALVES, strict=True):
            cropped = rest(space).replace(f"{name}.on", 1.0)
            for slot, value in zip(("top", "left", "height", "width"), box, strict=True):
                cropped = cropped.replace(f"{name}.{slot}", value)
            sets.append(cropped)
            captions.append(f"{name} to the {side} half")
    return join(*sets), captions


def maps(branch: Branch, row: int) -> list[Map]:
    """Attention of one clip under the chosen sets, mean over heads; then of each head under the first crop."""
    params, captions = chosen_sets(branch)
    weights = attention(branch, torch.tensor([row]), params)[0]  # (H, K, rows, columns)
    view = branch.plain(torch.tensor([row]))[0].cpu()
    found = [Map(caption, view, weights[:, i].mean(0)) for i, caption in enumerate(captions)]
    shown = next((i for i, caption in enumerate(captions) if " half" in caption), len(captions) - 1)
    return found + [Map(f"{captions[shown]}, head {h + 1}", view, weights[h, shown]) for h in range(len(weights))]
