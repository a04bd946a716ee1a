"""What a probe reached: for people, for JSON, and as a result that can be stored and compared."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from equiav.config import Modalities
from equiav.evaluate.results import Result, about
from equiav.metrics.figures import Figure, counted_clips, figure_table, seen_warning, source_warning
from equiav.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV

Kind = Literal["linear", "sgd", "knn", "attentive"]
Feature = Literal["pooled", "embedding"]
BASELINES = {"accuracy": "commonest class alone", "mAP": "equal scores for all"}


@dataclass(frozen=True)
class Probed:
    """What a probe reached.

    Attributes:
        described: the classifier, what it sees, and how it was folded.
        measured_on: names of splits.
        measure: `accuracy` where every clip has one label, else `mAP` over the classes.
        folds: split measured on → its figure.
        low: lower end of the 95 % interval of their mean, by resampling the sources of each; None of a single source.
        high: upper end.
        right: for accuracy, clip → 1 or 0, scaled so that clips of small folds weigh more and the mean is the value.
        baseline: the measure without features.
        sources: how many the clips come from.
        shared: of the clips measured on, those of a source that was learned from.
        trained_on: of them, those of a source that the model itself was trained on; None where that is unknown.
        groups: of each clip of `right` a number, equal where two are of one source.
    """

    kind: Kind
    feature: Feature
    modalities: Modalities
    described: str
    measured_on: str
    measure: Literal["accuracy", "mAP"]
    classes: int
    folds: dict[str, float]
    low: float | None
    high: float | None
    right: dict[str, float]
    clips: int
    baseline: float | None = None
    sources: int | None = None
    shared: int = 0
    trained_on: int | None = None
    groups: list[int] = field(default_factory=list)

    @property
    def value(self) -> float:
        """Mean over the folds."""
        return statistics.mean(self.folds.values())

    @property
    def std(self) -> float:
        """Standard deviation over the folds; 0 of one."""
        return statistics.stdev(self.folds.values()) if len(self.folds) > 1 else 0.0

    @property
    def warnings(self) -> list[str]:
        """What makes the figure easier than it looks, or its interval less sure."""
        said = source_warning(self.sources)
        if self.shared:
            own = ": windows of a clip's own source do not vote" if self.kind == "knn" else ""
            clips = counted(self.clips, "clip")
            said.append(f"{self.shared} of {clips} measured on are of sources that were learned from too{own}")
        return said + seen_warning(self.trained_on, self.clips)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "value": self.value, "std": self.std, "warnings": self.warnings}

    def to_table(self) -> Table:
        """For people."""
        from rich.markup import escape

        clips, classes = counted_clips(self.clips, self.sources), counted(self.classes, "class", "classes")
        title = f"{self.described}, {self.modalities}: {classes}, {clips}"
        columns = ("measured on", f"{self.measure} %")
        table = figure_table(*columns, title=title, warnings=self.warnings, min_width=len(title))
        for name, value in self.folds.items():
            table.add_row(escape(name), f"{100 * value:.1f}")
        if len(self.folds) > 1:
            table.add_row("mean ± std", f"{100 * self.value:.1f} ± {100 * self.std:.1f}")
        interval = "none" if self.low is None or self.high is None else f"{100 * self.low:.1f} to {100 * self.high:.1f}"
        table.add_row("95 % interval", interval)
        if self.baseline is not None:
            table.add_row(BASELINES[self.measure], f"{100 * self.baseline:.1f}")
        return table


def probe_result(found: Probed, library: Library, model: EquiAV, *, seed: int = 0, run: Path | None = None) -> Result:
    """The probe as a result that can be stored and compared."""
    name = f"{found.kind}.{found.modalities}.{found.measure}"
    return Result(
        evaluation="probe",
        about=about(model, library, found.measured_on, protocol=found.described, seed=seed, run=run),
        figures={name: Figure(value=found.value, low=found.low, high=found.high, n=found.clips, sources=found.sources)},
        items=list(found.right),
        sources=found.groups,
        per_item={name: list(found.right.values())} if found.right else {},
        details={
            "folds": found.folds,
            "std": found.std,
            "classes": found.classes,
            "baseline": found.baseline,
            "shared": found.shared,
            "trained_on": found.trained_on,
        },
    )
