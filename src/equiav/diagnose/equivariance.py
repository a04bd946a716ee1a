"""Does the predictor know what a transformation did?  One branch, n clips → figures per transform, and curves.

Three questions, each asked in the latent and in the intra-modal space:
- *alone*: the plain input against one transform, the others at rest. Training never shows that: there, a view has
  nearly all transforms on, so what is measured here is how far the predictor's knowledge carries.
- *in context*: a view as training draws it against the same view with one transform drawn anew (or switched, where it
  can only be on or off). The displacement is from view to view, the predicted one from prediction to prediction.
- *all together*: the plain input against views as training draws them.

Clips share their sets in groups, so that "what did these very parameters do to other clips" can be asked: one other
clip is a yardstick; the mean over the group's other clips a reference, which has measured what a predictor has to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.diagnose.branch import FULL, Branch, Effort, States, alone, along, join, repeat, rest, states, trained_on
from equiav.diagnose.figures import figure
from equiav.metrics import displacement as measures
from equiav.metrics.figures import Figure, beats_all
from equiav.metrics.sources import another, numbered

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

Question = Literal["alone", "in context", "all together"]
GROUP = 25  # clips that share their single-transform sets
ALL = "all together"

YARDSTICKS = {
    "identity": "predict no change",
    "mean": "predict what the transformation, however strong, does to clips of other sources on average",
    "shuffled": "predict with the parameters of another view",
    "another clip": "predict what these very parameters did to a clip of another source",
}
REFERENCE = "other clips"  # what these very parameters really did to the group's other clips, on average
MEASURES = {
    "cosine": "cosine of predicted and true displacement: 1 the right direction, 0 no better than a random one",
    "relative_error": "|predicted − true| / |true − plain|: 0 perfect, 1 as good as predicting no change",
    "step_ratio": "|predicted − plain| / |true − plain|: 1 the right size, 0 predicts no change",
    "similarity": "cosine of predicted and true embedding (the paper's measure); read it beside invariance",
    "invariance": "cosine of plain and true embedding: 1 the embedding does not change at all",
    "gain": "similarity − invariance: above 0, the prediction is better than predicting no change",
    "mrr": "mean 1/rank of the true view among the clip's M views",
    "h1": "share of predictions whose nearest view is the true one",
    "h5": "share of predictions whose five nearest views hold the true one",
}


@dataclass(frozen=True)
class Row:
    """What is known of one transform in one space."""

    transform: str
    predictor: dict[str, Figure | None]  # measure → figure; without predictor only those of the true views
    yardsticks: dict[str, dict[str, Figure | None]]
    margins: dict[str, Figure | None]  # cosine of the predictor minus that of a yardstick, clip by clip
    structure: dict[str, float]  # measures of the true views alone: gamma, rotation residual

    @property
    def beats_all(self) -> bool | None:
        """Whether the predictor's displacement cosine is above every yardstick's beyond the 95 % interval."""
        return beats_all(self.margins.values())


@dataclass(frozen=True)
class CurvePoint:
    """One value of one slot: sizes of true and predicted displacement, and their cosine."""

    value: float
    true_size: float
    predicted_size: float | None
    cosine: Figure | None


@dataclass(frozen=True)
class Table:
    """Rows of one question in one space."""

    question: Question
    space: Literal["latent", "intra"]
    rows: list[Row]


def gallery(
    space: AugmentationSpace, views: int, generator: torch.Generator, base: SpaceParams | None = None
) -> tuple[SpaceParams, list[str]]:
    """M sets that each draw one transform, and which; the others are as in `base`, or at rest.

    A transform that can only be on or off has one view, in which it is switched.
    """
    names = trained_on(space)
    amounts = [t.name for t in space.transforms if t.name in names and len(t.slots) > 1]
    order = [name for name in names if name not in amounts]
    order += [amounts[i % len(amounts)] for i in range(max(views - len(order), len(amounts)))] if amounts else []
    order.sort(key=names.index)
    base = base or rest(space)
    sets = []
    for name in dict.fromkeys(order):
        drawn = alone(space, name, order.count(name), generator, base)
        sets.append(drawn if name in amounts else drawn.replace(f"{name}.on", 1 - base.column(f"{name}.on")))
    return join(*sets), order


def displacement(branch: Branch, *, views: int = FULL.views, seed: int = 0) -> tuple[list[Table], dict[str, float]]:
    """Tables of all questions; and R² of each slot read off pairs of plain and transformed latents."""
    rows = torch.arange(len(branch.clips))
    generator = torch.Generator().manual_seed(seed)
    groups, sources = rows.split(GROUP), branch.sources(rows)
    if len(groups) > 1 and len(groups[-1]) < 2:  # a clip alone has no others to be compared with
        groups = (*groups[:-2], torch.cat(groups[-2:]))
    bases = [branch.space.sample(1, generator) for _ in groups]
    alone_sets = [gallery(branch.space, views, generator) for _ in groups]
    context_sets = [gallery(branch.space, views, generator, base) for base in bases]
    order = alone_sets[0][1]

    def spread(sets: list[SpaceParams]) -> SpaceParams:
        return join(*(repeat(own, len(group)) for own, group in zip(sets, groups, strict=True)))

    on_its_own = states(branch, rows, spread([sets for sets, _ in alone_sets]))
    in_context = states(branch, rows, spread([sets for sets, _ in context_sets]), spread(bases))
    params, together = _together(branch, views, generator)
    swap = _swap(order, generator)
    any_other = _derangement(views, generator)
    tables: list[Table] = []
    for space in ("latent", "intra"):
        latents = (on_its_own, in_context, together)
        own, context, whole = latents if space == "latent" else (seen.projected(branch) for seen in latents)
        tables += [
            Table("alone", space, _single_rows(own, sources, order, groups, swap, from_prediction=False)),
            Table("in context", space, _single_rows(context, sources, order, groups, swap, from_prediction=True)),
            Table("all together", space, [_whole_row(whole, sources, any_other)]),
        ]
    codes = branch.space.encode(params).unflatten(0, (len(rows), views))
    several = len(np.unique(sources)) > 1
    unknown = np.full(len(branch.space.names), np.nan)
    explained = measures.explained_parameters(together.p, together.q, codes, sources=sources) if several else unknown
    known = zip(branch.space.names, explained, strict=True)
    return tables, {name: float(value) for name, value in known if np.isfinite(value)}


def all_together(branch: Branch, *, views: int = FULL.views, seed: int = 0) -> Row:
    """The row of all transformations together alone, in the intra-modal space: a model's knowledge in one line."""
    generator = torch.Generator().manual_seed(seed)
    seen = _together(branch, views, generator)[1].projected(branch)
    return _whole_row(seen, branch.sources(torch.arange(len(branch.clips))), _derangement(views, generator))


def _together(branch: Branch, views: int, generator: torch.Generator) -> tuple[SpaceParams, States]:
    """The plain clips against views as training draws them."""
    params = branch.space.sample(len(branch.clips) * views, generator)
    return params, states(branch, torch.arange(len(branch.clips)), params)


def _single_rows(
    seen: States,
    sources: Int64[np.ndarray, " n"],
    names: list[str],
    groups: tuple[Tensor, ...],
    swap: list[int],
    *,
    from_prediction: bool,
) -> list[Row]:
    """A row per transform; `from_prediction`: the predicted displacement is that from prediction to prediction."""
    steps = seen.q - seen.p
    others, neighbour, typical = (torch.empty_like(steps) for _ in range(3))
    for group in groups:
        own = sources[group.numpy()]
        others[group] = _others_mean(steps[group], own)
        neighbour[group] = steps[group][another(own)]
    own_views = _by_name(names)
    for chosen in own_views.values():
        typical[:, chosen] = _others_mean(steps[:, chosen].mean(1, keepdim=True), sources)
    rivals = _rivals(seen, typical, neighbour, swap) | {REFERENCE: seen.p + others}
    ranks = {name: measures.ranks(seen.q, r) for name, r in rivals.items()}
    if from_prediction and seen.r_before is not None:
        for name in ("predictor", "shuffled"):
            rivals[name] = seen.p + rivals[name] - seen.r_before
    rows = []
    for name, chosen in own_views.items():
        structure = _structure([(seen.p[g, i], seen.q[g, i]) for g in groups for i in chosen])
        predictions = {key: r[:, chosen] for key, r in rivals.items()}
        places = {key: r[:, chosen] for key, r in ranks.items()}
        rows.append(_row(name, seen.views(chosen), sources, predictions, places, structure))
    return rows


def _others_mean(steps: Float[Tensor, "n M E"], sources: Int64[np.ndarray, " n"]) -> Float[Tensor, "n M E"]:
    """For each clip the mean over those of other sources; 0 where there are none."""
    number = torch.from_numpy(numbered(sources.tolist()))
    sums = torch.zeros(int(number.max()) + 1, *steps.shape[1:]).index_add(0, number, steps)
    others = (len(steps) - number.bincount()[number])[:, None, None]
    return torch.where(others > 0, (steps.sum(0) - sums[number]) / others.clamp(min=1), 0.0)


def _whole_row(seen: States, sources: Int64[np.ndarray, " n"], swap: list[int]) -> Row:
    step = seen.q - seen.p
    typical = _others_mean(step.mean(1, keepdim=True), sources).expand_as(step)
    rivals = _rivals(seen, typical, step[another(sources)], swap)
    return _row(ALL, seen, sources, rivals, {name: measures.ranks(seen.q, r) for name, r in rivals.items()}, {})


def _rivals(seen: States, typical: Tensor, neighbour: Tensor, swap: list[int]) -> dict[str, Tensor]:
    """Predicted embeddings: the predictor's own, where there is one, and those of the yardsticks."""
    rivals = {"identity": seen.p, "mean": seen.p + typical, "another clip": seen.p + neighbour}
    if seen.r is not None:
        rivals |= {"predictor": seen.r, "shuffled": seen.r[:, swap]}
    return rivals


def _row(
    name: str,
    seen: States,
    sources: Int64[np.ndarray, " n"],
    rivals: dict[str, Tensor],
    ranks: dict[str, Tensor],
    structure: dict[str, float],
) -> Row:
    per_clip = {rival: _measure(seen, r, ranks[rival]) for rival, r in rivals.items()}
    own = per_clip.pop("predictor", None)
    yardsticks = {rival: {key: figure(v, sources) for key, v in found.items()} for rival, found in per_clip.items()}
    invariance = measures.similarity(seen.q, seen.p)
    if own is None or seen.r is None:
        return Row(name, {"invariance": figure(invariance, sources)}, yardsticks, {}, structure)
    own |= {
        "similarity": measures.similarity(seen.q, seen.r),
        "invariance": invariance,
        "step_ratio": measures.step_ratio(seen.p, seen.q, rivals["predictor"]),
    }
    own["gain"] = own["similarity"] - own["invariance"]
    margins = {rival: figure(own["cosine"] - per_clip[rival]["cosine"], sources) for rival in YARDSTICKS}
    return Row(name, {key: figure(v, sources) for key, v in own.items()}, yardsticks, margins, structure)


def _measure(seen: States, r: Tensor, ranks: Float[Tensor, "n M"]) -> dict[str, Float[Tensor, " n"]]:
    return {
        "cosine": measures.displacement_cosine(seen.p, seen.q, r),
        "relative_error": measures.relative_error(seen.p, seen.q, r),
        "mrr": (1 / ranks).mean(1),
        "h1": (ranks <= 1).float().mean(1),
        "h5": (ranks <= 5).float().mean(1),
    }


def _structure(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """γ and rotation residual, means over (before, after) pairs of one parameter set each; without what is unknown."""
    found = {
        "gamma": [measures.relative_rotation(p, q) for p, q in pairs],
        "rotation_residual": [measures.rotation_residual(p, q) for p, q in pairs],
    }
    return {name: float(np.nanmean(values)) for name, values in found.items() if np.isfinite(values).any()}


def _by_name(names: list[str]) -> dict[str, list[int]]:
    """Where each name stands."""
    return {name: [i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}


def _swap(names: list[str], generator: torch.Generator) -> list[int]:
    """For each view another one: of the same transform if it has several."""
    swap = list(range(len(names)))
    for name, own in _by_name(names).items():
        others = [i for i, other in enumerate(names) if other != name]
        if len(own) > 1:
            for i, j in zip(own, _derangement(len(own), generator), strict=True):
                swap[i] = own[j]
        elif others:
            swap[own[0]] = others[int(torch.randint(len(others), (1,), generator=generator))]
    return swap


def _derangement(n: int, generator: torch.Generator) -> list[int]:
    """A permutation that leaves nothing in its place: one cycle through a random order."""
    order = torch.randperm(n, generator=generator)
    return torch.empty_like(order).scatter(0, order, order.roll(-1)).tolist()


def slot_curves(branch: Branch, effort: Effort = FULL) -> dict[str, list[CurvePoint]]:
    """For each slot of each trained transform: what the displacement does over the slot's range, intra-modal space.

    The transform's other slots hold a median draw, the other transforms rest. Slots that name an order are left out.
    """
    rows = torch.arange(min(effort.curve_clips, len(branch.clips)))
    found: dict[str, list[CurvePoint]] = {}
    for transform in branch.space.transforms:
        if transform.name not in trained_on(branch.space):
            continue
        for slot in transform.slots[1:]:
            if slot.name in ("first", "second", "third", "fourth", "order", "seed"):
                continue
            values = torch.linspace(slot.low, slot.high, effort.curve_points)
            sets = along(branch.space, rest(branch.space), transform, slot.name, values)
            seen = states(branch, rows, repeat(sets, len(rows))).projected(branch)
            name = f"{transform.name}.{slot.name}"
            points = enumerate(sets.column(name).tolist())  # what was really done
            found[name] = [_point(seen.views([i]), value, branch.sources(rows)) for i, value in points]
    return found


def _point(seen: States, value: float, sources: Int64[np.ndarray, " n"]) -> CurvePoint:
    true = float((seen.q - seen.p).norm(dim=-1).mean())
    if seen.r is None:
        return CurvePoint(value, true, None, None)
    predicted = float((seen.r - seen.p).norm(dim=-1).mean())
    return CurvePoint(value, true, predicted, figure(measures.displacement_cosine(seen.p, seen.q, seen.r), sources))
