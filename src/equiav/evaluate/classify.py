"""How well a fine-tuned classifier knows the clips of a split:  a library, a classifier → figures with intervals.

Single-label: top-1 and top-5 accuracy, clip by clip. Multi-label: mAP and AUC, each the mean over classes, and d' of
that AUC. The intervals resample the clips' sources (`bootstrap.py`); nothing is chosen on the split measured on.

Beside each figure stands what needs no model: of accuracies the share of the commonest classes of these very clips,
which no answer that is always the same can beat; of mAP the mean share of the classes, which equal scores for all give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from equiav.config import check_features
from equiav.evaluate.gallery import rows_by_id, sources_of
from equiav.evaluate.leaks import seen_in_training
from equiav.evaluate.results import Result, about
from equiav.library.records import USABLE
from equiav.machine import pick_device, pick_precision
from equiav.metrics.bootstrap import interval, resampled_classes
from equiav.metrics.classification import class_mean, d_prime, ranked, top_hits
from equiav.metrics.figures import (
    Figure,
    counted_clips,
    figure_table,
    mean_figures,
    seen_warning,
    source_warning,
)
from equiav.train.processes import make_accelerator
from equiav.train.scoring import Scores, score_split
from equiav.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Int64
    from rich.table import Table

    from equiav.library.table import Library
    from equiav.model.classifier import Classifier
    from equiav.train.trained_on import TrainedOn

BASELINE = "without a model"
SHOWN = {"top1": "top-1 %", "top5": "top-5 %", "mAP": "mAP %", "AUC": "AUC %", "d_prime": "d'"}


@dataclass(frozen=True)
class Classified:
    """What a classifier reached on a split.

    Attributes:
        per_clip: figures that are means over the clips → their values.
        per_class: class → average precision; only of classes that occur.
        baselines: figure → what it is without a model.
        sources: a number for each clip, equal where two are of one source.
        trained_on: clips of sources that the classifier, or the model that it began from, was trained on; None where
            that is unknown.
    """

    split: str
    frames: int
    clip_ids: list[str]
    figures: dict[str, Figure]
    per_clip: dict[str, list[float]]
    per_class: dict[str, float]
    baselines: dict[str, float] = field(default_factory=dict)
    sources: list[int] = field(default_factory=list)
    trained_on: int | None = None

    @property
    def warnings(self) -> list[str]:
        """What makes the figures easier than they look, or their intervals less sure."""
        return source_warning(len(set(self.sources))) + seen_warning(self.trained_on, len(self.clip_ids))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = {name: asdict(value) for name, value in self.figures.items()}
        counts = {"clips": len(self.clip_ids), "sources": len(set(self.sources)), "frames": self.frames}
        caveats = {"trained_on": self.trained_on, "warnings": self.warnings}
        return {"split": self.split, **counts, "figures": figures, "baselines": self.baselines, **caveats}

    def to_table(self) -> Table:
        """For people."""
        clips = counted_clips(len(self.clip_ids), len(set(self.sources)) or None)
        classes = counted(len(self.per_class), "class", "classes")
        title = f"split {self.split!r}: {clips}, {classes} [95 % interval]"
        table = figure_table("", "", BASELINE, title=title, warnings=self.warnings, min_width=len(title))
        for name, found in self.figures.items():
            scale = 1 if name == "d_prime" else 100
            base = f"{scale * self.baselines[name]:.4g}" if name in self.baselines else ""
            table.add_row(SHOWN[name], found.text(scale, ".4g"), base)
        return table


def classify(
    library: Library,
    classifier: Classifier,
    *,
    split: str = "test",
    frames: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    learned: TrainedOn | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Classified:
    """Score every clip of a split and measure; with several processes all call this and get the same.

    Args:
        frames: stored frames whose probabilities are averaged; None takes as many as the library stores.
        device: where to score, as `equiav.machine.pick_device` names it; auto: of several processes, each has its own.
        precision: of its matrix products, as `equiav.machine.pick_precision` names it.
        learned: what the classifier's run was trained on: which of these clips it knows is counted.
        seed: of the resampling.

    Raises:
        LibraryError: features that the classifier does not know, an empty split, or labels that it does not know.
        ConfigError: there is no such device or precision.
    """
    check_features(library.features, classifier.config.features, library.path)
    accelerator = make_accelerator()
    own = device == "auto" and accelerator.num_processes > 1
    classifier.to(accelerator.device if own else pick_device(device))
    classifier.precision = pick_precision(precision, classifier.device)
    used = 1 if classifier.modalities == "audio" else frames or library.features.frames_per_clip
    rows = rows_by_id(library, split, USABLE[classifier.modalities])
    found = score_split(classifier, library, split, accelerator, frames=used, rows=rows, on_progress=on_progress)
    sources = sources_of(library, rows)
    measure, base = (_of_clips, _commonest) if classifier.labels == "single-label" else (_of_classes, _prevalence)
    figures, per_clip = measure(found, sources, seed)
    baselines = {name: value for name, value in base(found).items() if name in figures}
    average, _ = ranked(found.truth, found.probabilities)
    per_class = {
        name: float(value) for name, value in zip(classifier.classes, average[0], strict=True) if math.isfinite(value)
    }
    seen = seen_in_training(library, found.clip_ids, learned)
    return Classified(split, used, found.clip_ids, figures, per_clip, per_class, baselines, sources.tolist(), seen)


def classify_result(
    found: Classified, library: Library, classifier: Classifier, *, seed: int = 0, run: Path | None = None
) -> Result:
    """As a result that can be stored and compared."""
    protocol = f"fine-tuned {classifier.labels} classifier, {classifier.modalities}"
    if classifier.modalities != "audio":
        protocol += f", mean probability of {counted(found.frames, 'frame')}"
    return Result(
        evaluation="classify",
        about=about(classifier, library, found.split, protocol=protocol, seed=seed, run=run),
        figures=found.figures,
        items=found.clip_ids,
        sources=found.sources,
        per_item=found.per_clip,
        details={
            "classes": len(classifier.classes),
            "average_precision": found.per_class,
            "baselines": found.baselines,
            "trained_on": found.trained_on,
        },
    )


def _commonest(found: Scores) -> dict[str, float]:
    """The share of clips that the k commonest classes have, for each top-k."""
    shares = np.sort(found.truth.mean(0))[::-1]
    return {f"top{k}": float(shares[:k].sum()) for k in (1, 5)}


def _prevalence(found: Scores) -> dict[str, float]:
    """Figures of scores that are equal for all clips: the classes' shares, and what tells nothing apart."""
    return {"mAP": float(found.truth.mean(0)[found.truth.any(0)].mean()), "AUC": 0.5, "d_prime": 0.0}


def _of_clips(
    found: Scores, sources: Int64[np.ndarray, " n"], seed: int
) -> tuple[dict[str, Figure], dict[str, list[float]]]:
    hits = {f"top{k}": top_hits(found.truth, found.probabilities, k) for k in (1, 5) if k < found.truth.shape[1]}
    return mean_figures(hits, sources, seed=seed), {name: own.tolist() for name, own in hits.items()}


def _of_classes(
    found: Scores, sources: Int64[np.ndarray, " n"], seed: int
) -> tuple[dict[str, Figure], dict[str, list[float]]]:
    again = resampled_classes(found.truth, found.probabilities, seed=seed, sources=sources)
    values = [float(class_mean(column)[0]) for column in ranked(found.truth, found.probabilities)]
    rows = {
        name: [value, *interval(resampled)]
        for name, value, resampled in zip(("mAP", "AUC"), values, again, strict=True)
    }
    rows["d_prime"] = [d_prime(value) for value in rows["AUC"]]  # rises with the AUC, so its ends are theirs
    # the d' of an AUC of 1 is not finite; without an interval there is a value still
    known = {name: row for name, row in rows.items() if math.isfinite(row[0]) and not np.isinf(row).any()}
    counts = {"n": len(found.truth), "sources": len(np.unique(sources))}
    return {name: Figure(value, low, high, **counts) for name, (value, low, high) in known.items()}, {}
