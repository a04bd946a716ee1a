"""What happens beyond the training's transformations?  One branch, clips → error and retrieval over strength.

Two kinds of unseen: amounts past the range that training draws (told to the predictor as they are, codes beyond ±1),
and transforms that training never had, told in one of two ways: as nothing done, or as the *nearest* known set, the
one of a pool whose view of the clip lies closest to the unseen view in the input's own units.

Retrieval asks with the transformed clip for its plain partner in the other branch: how gracefully search degrades.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equiav.augment import audio, visual
from equiav.augment.audio import AudioSpace
from equiav.augment.room import RoomOptions, RoomSpace
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.transform import Slot, build_transforms
from equiav.augment.visual import VisualSpace
from equiav.diagnose.branch import BATCH, FULL, Branch, Effort, join, repeat, rest, trained_on
from equiav.diagnose.equivariance import gallery
from equiav.diagnose.figures import Figure, figure
from equiav.metrics import displacement as measures

if TYPE_CHECKING:
    from jaxtyping import Float

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the way from no effect to the farther end, of transforms never trained on
REACHES = (0.5, 1.0, 1.5, 2.0, 3.0)  # of the trained range, of transforms trained on
STRETCHED = ("gain.amount", "contrast.factor", "blur.sigma", "jitter.brightness", "jitter.saturation")
MAIN = {
    "noise": "snr_db",
    "room": "mix",
    "cutout": "side",
    "perspective": "across",
}  # else the first slot after the flag
NEAREST, NOTHING, ITSELF = "nearest known", "nothing done", "itself"


@dataclass(frozen=True)
class Point:
    """One strength of one transformation."""

    transform: str
    value: float
    trained: bool  # within what training draws
    true_size: float
    cosine: dict[str, Figure | None]  # how the predictor was told → displacement cosine, intra-modal space
    error: dict[str, Figure | None]  # likewise → relative error
    mrr: Figure | None  # of the plain partner in the other branch, asked by the transformed clip
    recall_at_1: Figure | None


def unseen(
    branch: Branch, partners: Float[Tensor, "n E"], effort: Effort = FULL, *, seed: int = 0
) -> dict[str, list[Point]]:
    """Curves of every unseen transformation, by `transform` or `transform.slot`.

    Args:
        partners: inter-modal embeddings of the other branch of all clips: the gallery.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(min(effort.unseen_clips, len(branch.clips)))
    pool = join(rest(branch.space), gallery(branch.space, effort.pool, generator)[0])
    found: dict[str, list[Point]] = {}
    for name, space, params, value, trained in _cases(branch):
        told = {NOTHING: repeat(rest(branch.space), len(rows))}
        if space is branch.space:
            told[ITSELF] = repeat(params, len(rows))
        elif branch.predicts:
            told[NEAREST] = _nearest(branch, rows, space, params, pool)
        points = found.setdefault(name, [])
        points.append(_point(branch, rows, space, params, told, partners, (name, value, trained)))
    return found


def _cases(branch: Branch) -> Iterator[tuple[str, AugmentationSpace, SpaceParams, float, bool]]:
    """Name, the space that applies it, one parameter set, its strength, and whether training draws it."""
    space = branch.space
    by_name = {slot.name: slot for slot in space.slots}
    for name in STRETCHED:
        transform = name.split(".")[0]
        if name in by_name and transform in trained_on(space):
            slot = by_name[name]
            for reach in REACHES:
                value = slot.neutral + reach * (slot.high - slot.neutral)
                params = rest(space).replace(f"{transform}.on", 1.0).replace(name, value)
                yield name, space, params, value, reach <= 1
    for name in _EXTRA[branch.name]:
        if name == "room" and branch.clips.sounds is None:
            continue
        if any(name == transform.name for transform in space.transforms):
            continue
        other = _space_of(branch, name)
        main = _main_slot(other, name)
        for share in SHARES if main else (1.0,):
            params = other.identity(1).replace(f"{name}.on", 1.0)
            value = 1.0
            if main:
                end = main.low if main.neutral - main.low > main.high - main.neutral else main.high
                value = main.neutral + share * (end - main.neutral)
                params = params.replace(main.name, value)
            for slot, place in _places(name, value).items():
                params = params.replace(f"{name}.{slot}", place)
            yield name, other, params, value, False


_EXTRA = {
    "audio": ("mel_shift", "stretch", "noise", "room"),  # the last on the waveform
    "visual": ("vertical_flip", "rotation", "perspective", "jpeg", "cutout"),
}


def _space_of(branch: Branch, name: str) -> AugmentationSpace:
    """A space of one transform with its default options."""
    if name == "room":
        return RoomSpace(RoomOptions(sample_rate=branch.model.config.features.sample_rate))
    features, settings = branch.model.config.features, branch.model.config.architecture
    if branch.name == "audio":
        transforms = build_transforms("audio", {name: {}}, audio.KNOWN, ())
        return AudioSpace(transforms, features.time_frames, features.mel_bins)
    return VisualSpace(build_transforms("visual", {name: {}}, visual.KNOWN, ()), settings.image_side)


def _main_slot(space: AugmentationSpace, name: str) -> Slot | None:
    slots = {slot.name: slot for slot in space.slots[1:]}
    return slots.get(f"{name}.{MAIN[name]}") if name in MAIN else next(iter(slots.values()), None)


def _places(name: str, value: float) -> dict[str, float]:
    """Slots besides the main one that need a place: a cutout about the middle, one noise, one room."""
    middle = (1 - value) / 2
    places = {"cutout": {"top": middle, "left": middle}, "noise": {"seed": 0.5}, "room": {"rt60_s": 0.5, "seed": 0.5}}
    return places.get(name, {})


def _nearest(
    branch: Branch, rows: Tensor, space: AugmentationSpace, params: SpaceParams, pool: SpaceParams
) -> SpaceParams:
    """For each clip the set of the pool whose view is closest to the unseen view."""
    chosen = []
    for row in rows:
        known = branch.view(row.expand(len(pool)), pool)
        goal = branch.transformed(row[None], space, params)
        chosen.append(int((known - goal).flatten(1).square().sum(1).argmin()))
    return pool[chosen]


def _point(
    branch: Branch,
    rows: Tensor,
    space: AugmentationSpace,
    params: SpaceParams,
    told: dict[str, SpaceParams],
    partners: Tensor,
    about: tuple[str, float, bool],
) -> Point:
    everyone = torch.arange(len(branch.clips))
    views = [branch.transformed(part, space, repeat(params, len(part))) for part in everyone.split(BATCH)]
    q = torch.cat([branch.project(branch.latent(view)) for view in views])[rows]
    p = branch.project(
        torch.cat([branch.latent(branch.view(r, repeat(rest(branch.space), len(r)))) for r in rows.split(BATCH)])
    )
    cosine: dict[str, Figure | None] = {}
    error: dict[str, Figure | None] = {}
    if branch.predicts:
        tokens = torch.cat([branch.tokens(part) for part in rows.split(BATCH)])
        for way, sets in told.items():
            r = branch.project(branch.predict(tokens, branch.space.encode(sets)[:, None])[:, 0])
            parts = p[:, None], q[:, None], r[:, None]
            cosine[way] = figure(measures.displacement_cosine(*parts), branch.sources(rows))
            error[way] = figure(measures.relative_error(*parts), branch.sources(rows))
    asked = torch.cat([branch.embed_inputs(view) for view in views])
    scores = asked @ partners.T
    own = scores.diagonal()[:, None]
    rank = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    size = float((q - p).norm(dim=1).mean())
    return Point(
        *about, size, cosine, error, *(figure(x, branch.sources(everyone)) for x in (1 / rank, (rank <= 1).double()))
    )
