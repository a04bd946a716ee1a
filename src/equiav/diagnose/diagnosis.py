"""The equivariance report:  library, trained model → `Diagnosis`: tables, curves, and named figures for gates.

Everything is measured on held-out clips with what the model itself keeps: its transformations, its encoders, its
predictor and heads. Same model, clips and seed: same figures.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiav._version import __version__
from equiav.diagnose.attention import Focus, Map, focuses, looks, maps
from equiav.diagnose.branch import FULL, MODALITIES, Branch, ClipTensors, Effort, read_clips
from equiav.diagnose.centroid import CentroidReport, centroid_report, retrieval_by_count
from equiav.diagnose.composition import Composition, composition
from equiav.diagnose.cost import Cost, costs
from equiav.diagnose.equivariance import ALL, CurvePoint, Table, displacement, slot_curves
from equiav.diagnose.unseen import Point, unseen
from equiav.errors import LibraryError
from equiav.evaluate.leaks import seen_in_training
from equiav.metrics import health
from equiav.metrics.figures import Figure
from equiav.words import counted, strict

if TYPE_CHECKING:
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.train.trained_on import TrainedOn

CLIPS = 200
FEWEST = 8
HEADLINES = ("cosine", "relative_error", "similarity", "gain", "mrr", "h1", "h5")


@dataclass(frozen=True)
class BranchReport:
    """All that was asked of one branch."""

    tables: list[Table]
    explained: dict[str, float]  # R² of each slot, read off pairs of latents
    curves: dict[str, list[CurvePoint]]
    unseen: dict[str, list[Point]]
    composition: Composition | None = None
    centroid: CentroidReport | None = None
    focuses: list[Focus] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list, compare=False, repr=False)  # of one clip, for the page alone

    def table(self, question: str, space: str = "intra") -> Table:
        """One of the tables."""
        return next(t for t in self.tables if (t.question, t.space) == (question, space))


@dataclass(frozen=True)
class Diagnosis:
    """The report's content.

    Attributes:
        about: model, library, clips, versions.
        effort: how much was measured.
        branches: `audio` and `visual`.
        retrieval_by_count: R@1 with K predictions per centroid, the same model; empty without predictor.
        health: measures of the embeddings, as the training alarms take them.
        spectra: singular values of the centred embeddings of each branch, as shares.
        batch: clips in the steps of `costs`.
        costs: without predictor, and with it if there is one.
    """

    about: dict[str, Any]
    effort: Effort
    branches: dict[str, BranchReport]
    retrieval_by_count: dict[str, Figure]
    health: dict[str, float]
    spectra: dict[str, list[float]]
    batch: int
    costs: list[Cost]

    def figures(self) -> dict[str, Figure | float]:
        """What a gate can ask for, by dotted name, e.g. `visual.context.flip.mrr`, `audio.centroid.k16`."""
        found: dict[str, Figure | float | None] = {}
        for name, branch in self.branches.items():
            for question, short in (("alone", "alone"), ("in context", "context"), ("all together", "")):
                for row in branch.table(question).rows:
                    own = "all" if row.transform == ALL else f"{short}.{row.transform}"
                    found |= {f"{name}.{own}.{key}": row.predictor.get(key) for key in HEADLINES}
            if branch.centroid:
                found |= {f"{name}.centroid.k{k}": v for k, v in branch.centroid.curves["iid"].to_dense.items()}
                found[f"{name}.centroid.sobol_against_iid"] = branch.centroid.sobol_against_iid
                found[f"{name}.centroid.enough"] = branch.centroid.enough
                found |= {f"{name}.centroid.{real.space}_limit": real.limit for real in branch.centroid.real}
            found |= {f"{name}.attention.{focus.transform}": focus.margin for focus in branch.focuses}
        found |= {f"health.{key}": value for key, value in self.health.items()}
        return {k: v for k, v in found.items() if isinstance(v, Figure) or (v is not None and math.isfinite(v))}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything, and the named figures."""
        named = {k: dataclasses.asdict(v) if isinstance(v, Figure) else v for k, v in self.figures().items()}
        stored = dataclasses.asdict(self)
        for branch in stored["branches"].values():
            del branch["maps"]
        return strict({"figures": named, **stored, "alarms": health.ringing(self.health)})


def diagnose(
    library: Library,
    model: EquiAV,
    *,
    split: str | None = "test",
    clips: int = CLIPS,
    seed: int = 0,
    effort: Effort = FULL,
    learned: TrainedOn | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Diagnosis:
    """Measure a model on clips of a library.

    Args:
        split: which clips; None takes all.
        clips: at most so many, a random choice by seed.
        effort: how much of each thing.
        learned: what the model's run was trained on: which of the clips it knows is counted.
        on_progress: called with (parts done, parts in all, the next one).

    Raises:
        LibraryError: fewer than 8 clips, or features other than the model's.
    """
    model = model.eval()
    chosen = read_clips(library, model, split, clips, seed)
    if len(chosen) < FEWEST:
        raise LibraryError(
            f"{library.path}: split {split!r} has {counted(len(chosen), 'clip')}, a report needs at least {FEWEST}"
        )
    branches = {name: Branch(model, name, chosen) for name in MODALITIES}
    plain = {name: branch.embeddings() for name, branch in branches.items()}
    partners = {"audio": plain["visual"], "visual": plain["audio"]}
    done, parts = itertools.count(), 6 * len(branches) + 2

    def tell(coming: str) -> None:
        if on_progress:
            on_progress(next(done), parts, coming)

    reports = {name: _branch_report(branch, partners[name], seed, effort, tell) for name, branch in branches.items()}
    predicts = all(branch.predicts for branch in branches.values())
    tell("retrieval by K")
    by_count = retrieval_by_count(branches, effort, seed=seed) if predicts else {}
    tell("cost")
    batch, known = costs(model, effort)
    tell("")
    return Diagnosis(
        about=_about(library, model, chosen, predicts=predicts)
        | {
            "split": split,
            "trained_on": seen_in_training(library, chosen.ids, learned),
            "seed": seed,
        },
        effort=effort,
        branches=reports,
        retrieval_by_count=by_count,
        health=_health(plain, reports),
        spectra={name: health.spectrum(x).tolist() for name, x in plain.items()},
        batch=batch,
        costs=known,
    )


def _about(library: Library, model: EquiAV, chosen: ClipTensors, *, predicts: bool) -> dict[str, Any]:
    architecture, sources = model.config.architecture, Branch(model, "audio", chosen).sources(torch.arange(len(chosen)))
    return {
        "equiav": __version__,
        "torch": torch.__version__,
        "model": model.fingerprint(),
        "device": model.device.type,
        "precision": model.precision,
        "method": architecture.method,
        "predictor": architecture.predictor if predicts else None,
        "centroid_samples": architecture.centroid_samples if predicts else None,
        "library": library.fingerprint(),
        "clips": len(chosen),
        "sources": len(set(sources.tolist())),
        "sources_readable": chosen.sounds is not None,  # without them no room can be put around a sound
    }


def _branch_report(
    branch: Branch, partners: torch.Tensor, seed: int, effort: Effort, tell: Callable[[str], None]
) -> BranchReport:
    tell(f"{branch.name}: displacement")
    tables, explained = displacement(branch, views=effort.views, seed=seed)
    tell(f"{branch.name}: slots")
    curves = slot_curves(branch, effort)
    tell(f"{branch.name}: unseen transformations")
    beyond = unseen(branch, partners, effort, seed=seed)
    tell(f"{branch.name}: composition")
    composed = composition(branch, effort, seed=seed) if branch.predicts else None
    tell(f"{branch.name}: centroid")
    own_count = branch.model.config.architecture.centroid_samples
    centroid = centroid_report(branch, own_count, effort, seed=seed) if branch.predicts else None
    tell(f"{branch.name}: attention")
    focused, drawn = (focuses(branch, effort, seed=seed), maps(branch, 0)) if looks(branch) else ([], [])
    return BranchReport(tables, explained, curves, beyond, composed, centroid, focused, drawn)


def _health(plain: dict[str, torch.Tensor], reports: dict[str, BranchReport]) -> dict[str, float]:
    """The training alarms' measures, on the model's own embeddings."""
    audio, visual = plain["audio"], plain["visual"]
    found = {
        "alignment": float(health.alignment(audio, visual)),
        "modality_gap": float(health.modality_gap(audio, visual)),
    }
    for name, x in plain.items():
        measures = (health.uniformity, health.deviation, health.effective_rank, health.rank_share)
        found |= {f"{name}.{measure.__name__}": float(measure(x)) for measure in measures}
        step = reports[name].table("all together").rows[0].predictor.get("step_ratio")
        if step is not None:
            found[f"{name}.displacement_ratio"] = step.value
        centroid = reports[name].centroid
        if centroid is not None:
            found[f"{name}.centroid_noise"] = centroid.noise
    return found
