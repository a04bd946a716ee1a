"""What happens beyond the training's transformations?  One branch, clips → error and retrieval over strength.

Two kinds of unseen: amounts past the range that training draws (given to the predictor as they are, codes beyond ±1),
and transforms that training never had, given in one of two ways: as nothing done, or as the *nearest* known set, the
one of a pool whose view of the clip lies closest to the unseen view in the input's own units.

Retrieval asks with the transformed clip for its plain partner in the other branch: how gracefully search degrades.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from equiav.augment import audio, visual
from equiav.augment.audio import AudioSpace
from equiav.augment.room import RoomOptions, RoomSpace
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.transform import build_transforms
from equiav.augment.visual import VisualSpace
from equiav.diagnose.branch import FULL, Branch, Effort, batched, join, latents, repeat, rest, trained_on
from equiav.diagnose.equivariance import gallery
from equiav.diagnose.figures import figure
from equiav.metrics import displacement as measures
from equiav.metrics.figures import Figure

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
    cosine: dict[str, Figure | None]  # what the predictor was given → displacement cosine, intra-modal space
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
    rows, everyone = torch.arange(min(effort.unseen_clips, len(branch.clips))), torch.arange(len(branch.clips))
    resting = repeat(rest(branch.space), len(rows))
    pool = join(rest(branch.space), gallery(branch.space, effort.pool, torch.Generator().manual_seed(seed))[0])
    p = branch.project(latents(branch, rows, resting))[:, None]
    tokens = batched(branch.tokens, rows)
    found: dict[str, list[Point]] = {}
    for case in _cases(branch):
        given = {NOTHING: resting}
        if case.space is branch.space:
            given[ITSELF] = repeat(case.params, len(rows))
        elif branch.predicts:
            given[NEAREST] = pool[[_nearest(branch, row, case, pool) for row in rows]]
        views = batched(lambda part, case=case: case.views(branch, part), everyone)
        q = branch.project(batched(branch.latent, views)[rows])[:, None]
        cosine: dict[str, Figure | None] = {}
        error: dict[str, Figure | None] = {}
        for way, sets in given.items() if branch.predicts else ():
            r = branch.project(branch.predict(tokens, branch.space.encode(sets)[:, None]))
            cosine[way] = figure(measures.displacement_cosine(p, q, r), branch.sources(rows))
            error[way] = figure(measures.relative_error(p, q, r), branch.sources(rows))
        place = measures.ranks(partners[None], batched(branch.embed_inputs, views)[None])[0]
        mrr, recall = (figure(x, branch.sources(everyone)) for x in (1 / place.double(), (place <= 1).double()))
        size = float((q - p).norm(dim=-1).mean())
        point = Point(case.name, case.value, case.trained, size, cosine, error, mrr, recall)
        found.setdefault(case.name, []).append(point)
    return found


class _Case(NamedTuple):
    """One strength of one transformation: the space that applies it, one parameter set, and is it of training?"""

    name: str
    space: AugmentationSpace
    params: SpaceParams
    value: float
    trained: bool

    def views(self, branch: Branch, rows: Tensor) -> Tensor:
        return branch.transformed(rows, self.space, repeat(self.params, len(rows)))


def _cases(branch: Branch) -> Iterator[_Case]:
    """Strengths past the range of training; then transforms that training never had."""
    space = branch.space
    by_name = {slot.name: slot for slot in space.slots}
    for name in STRETCHED:
        transform = name.split(".")[0]
        if name in by_name and transform in trained_on(space):
            slot = by_name[name]
            for reach in REACHES:
                value = slot.neutral + reach * (slot.high - slot.neutral)
                params = rest(space).replace(f"{transform}.on", 1.0).replace(name, value)
                yield _Case(name, space, params, value, reach <= 1)
    for name, held in _EXTRA[branch.name].items():
        if name in [transform.name for transform in space.transforms] or (name == "room" and not branch.clips.sounds):
            continue
        other = _space_of(branch, name)
        slots = {slot.name: slot for slot in other.slots[1:]}
        main = slots.get(f"{name}.{MAIN[name]}") if name in MAIN else next(iter(slots.values()), None)
        for share in SHARES if main else (1.0,):
            params, value = other.identity(1).replace(f"{name}.on", 1.0), 1.0
            for slot, place in held.items():
                params = params.replace(f"{name}.{slot}", place)
            if main:
                end = main.low if main.neutral - main.low > main.high - main.neutral else main.high
                value = main.neutral + share * (end - main.neutral)
                params = params.replace(main.name, value)
            if name == "cutout":  # about the middle
                params = params.replace("cutout.top", (1 - value) / 2).replace("cutout.left", (1 - value) / 2)
            yield _Case(name, other, params, value, False)


# Transforms that training never had, with the slots that are held: one noise, one room, which acts on the waveform
_EXTRA: dict[str, dict[str, dict[str, float]]] = {
    "audio": {"mel_shift": {}, "stretch": {}, "noise": {"seed": 0.5}, "room": {"rt60_s": 0.5, "seed": 0.5}},
    "visual": {"vertical_flip": {}, "rotation": {}, "perspective": {}, "jpeg": {}, "cutout": {}},
}


def _space_of(branch: Branch, name: str) -> AugmentationSpace:
    """A space of one transform with its default options."""
    features, settings = branch.model.config.features, branch.model.config.architecture
    if name == "room":
        return RoomSpace(RoomOptions(sample_rate=features.sample_rate))
    if branch.name == "audio":
        transforms = build_transforms("audio", {name: {}}, audio.KNOWN, ())
        return AudioSpace(transforms, features.time_frames, features.mel_bins)
    return VisualSpace(build_transforms("visual", {name: {}}, visual.KNOWN, ()), settings.image_side)


def _nearest(branch: Branch, row: Tensor, case: _Case, pool: SpaceParams) -> int:
    """Which set of the pool gives a clip the view that is closest to the unseen one."""
    known = branch.view(row.expand(len(pool)), pool)
    return int((known - case.views(branch, row[None])).flatten(1).square().sum(1).argmin())
