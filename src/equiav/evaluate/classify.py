"""How well a fine-tuned classifier knows the clips of a split:  a library, a classifier → figures with intervals.

Single-label: top-1 and top-5 accuracy, clip by clip. Multi-label: mAP and AUC, each the mean over classes, and d' of
that AUC. The intervals resample the clips (percentile bootstrap); nothing is chosen on the split measured on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equiav.evaluate.bootstrap import RESAMPLES, interval, mean_intervals, ranked, resampled_classes
from equiav.evaluate.results import Measured, Result, about
from equiav.search.embed import check_features
from equiav.train.processes import make_accelerator
from equiav.train.scoring import Scores, d_prime, mean_auc, mean_average_precision, score_split, top_hits

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from equiav.library.table import Library
    from equiav.model.classifier import Classifier

SHOWN = {"top1": "top-1 %", "top5": "top-5 %", "mAP": "mAP %", "AUC": "AUC %", "d_prime": "d'"}


@dataclass(frozen=True)
class Classified:
    """What a classifier reached on a split.

    Attributes:
        per_clip: figures that are means over the clips → their values.
        per_class: class → average precision; only of classes that occur.
    """

    split: str
    frames: int
    clip_ids: list[str]
    figures: dict[str, Measured]
    per_clip: dict[str, list[float]]
    per_class: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = {name: value.model_dump() for name, value in self.figures.items()}
        return {"split": self.split, "clips": len(self.clip_ids), "frames": self.frames, "figures": figures}

    def to_table(self) -> Table:
        """For people."""
        from rich.markup import escape
        from rich.table import Table

        title = f"split {self.split!r}: {len(self.clip_ids)} clips, {len(self.per_class)} classes [95 % interval]"
        table = Table("", "", title=escape(title), title_justify="left", show_header=False, min_width=len(title))
        for name, found in self.figures.items():
            scale = 1 if name == "d_prime" else 100
            low, value, high = (f"{scale * x:.4g}" for x in (found.low, found.value, found.high))
            table.add_row(SHOWN[name], f"{value} [{low}, {high}]")
        return table


def classify(
    library: Library,
    classifier: Classifier,
    *,
    split: str = "test",
    frames: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Classified:
    """Score every clip of a split and measure; with several processes all call this and get the same.

    Args:
        frames: stored frames whose probabilities are averaged; None takes as many as the library stores.
        seed: of the resampling.

    Raises:
        LibraryError: features that the classifier does not know, an empty split, or labels that it does not know.
    """
    check_features(library, classifier)
    accelerator = make_accelerator()
    classifier.to(accelerator.device)
    used = 1 if classifier.senses == "audio" else frames or library.features.frames_per_clip
    found = score_split(classifier, library, split, accelerator, frames=used, on_progress=on_progress)
    figures, per_clip = (_of_clips if classifier.labels == "single-label" else _of_classes)(found, seed)
    precision, _ = ranked(found.truth, found.probabilities, np.ones((1, len(found.truth))))
    per_class = {
        name: float(value) for name, value in zip(classifier.classes, precision[0], strict=True) if math.isfinite(value)
    }
    return Classified(split, used, found.clip_ids, figures, per_clip, per_class)


def classify_result(
    found: Classified, library: Library, classifier: Classifier, *, seed: int = 0, run: Path | None = None
) -> Result:
    """As a result that can be stored and compared."""
    protocol = f"fine-tuned {classifier.labels} classifier, {classifier.senses}"
    if classifier.senses != "audio":
        protocol += f", mean probability of {found.frames} frames"
    return Result(
        evaluation="classify",
        about=about(classifier, library, found.split, protocol=protocol, seed=seed, run=run),
        figures=found.figures,
        items=found.clip_ids,
        per_item=found.per_clip,
        details={"classes": len(classifier.classes), "average_precision": found.per_class},
    )


def _of_clips(found: Scores, seed: int) -> tuple[dict[str, Measured], dict[str, list[float]]]:
    hits = {f"top{k}": top_hits(found.truth, found.probabilities, k) for k in (1, 5) if k < found.truth.shape[1]}
    columns = np.stack(list(hits.values()), axis=1)
    low, high = mean_intervals(columns, resamples=RESAMPLES, seed=seed)
    n = len(columns)
    figures = {
        name: Measured(value=float(own.mean()), low=float(low[i]), high=float(high[i]), n=n)
        for i, (name, own) in enumerate(hits.items())
    }
    return figures, {name: own.tolist() for name, own in hits.items()}


def _of_classes(found: Scores, seed: int) -> tuple[dict[str, Measured], dict[str, list[float]]]:
    again = resampled_classes(found.truth, found.probabilities, seed=seed)
    values = mean_average_precision(found.truth, found.probabilities), mean_auc(found.truth, found.probabilities)
    rows = {
        name: [value, *interval(resampled)]
        for name, value, resampled in zip(("mAP", "AUC"), values, again, strict=True)
    }
    rows["d_prime"] = [d_prime(value) for value in rows["AUC"]]  # rises with the AUC, so its ends are theirs
    known = {name: row for name, row in rows.items() if np.isfinite(row).all()}  # the d' of an AUC of 1 is not
    n = len(found.truth)
    return {name: Measured(value=v, low=low, high=high, n=n) for name, (v, low, high) in known.items()}, {}
