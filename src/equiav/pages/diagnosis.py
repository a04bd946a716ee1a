"""The equivariance report as one self-contained HTML page:  Diagnosis, attention maps → text that fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from markupsafe import Markup

from equiav.diagnose.attention import looks, maps
from equiav.diagnose.branch import FULL, MODALITIES, Branch, ClipTensors, Effort, read_clips
from equiav.diagnose.centroid import WITHIN, CentroidReport
from equiav.diagnose.diagnosis import CLIPS, BranchReport, Diagnosis, diagnose
from equiav.diagnose.equivariance import MEASURES, REFERENCE, YARDSTICKS, Row, Table
from equiav.diagnose.unseen import Point
from equiav.metrics.figures import Figure, seen_warning, source_warning
from equiav.metrics.health import ALARMS
from equiav.pages.pictures import mel_uri, picture_uri
from equiav.pages.plots import Panel, Series, bars, dots, panels
from equiav.pages.render import render

if TYPE_CHECKING:
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.train.trained_on import TrainedOn

TITLES = {"audio": "Sound", "visual": "Picture"}


@dataclass(frozen=True)
class ShownMap:
    """A picture of where the predictor looks."""

    caption: str
    picture: str


def write_report(
    library: Library,
    model: EquiAV,
    page: Path,
    *,
    split: str | None = "test",
    clips: int = CLIPS,
    seed: int = 0,
    effort: Effort = FULL,
    learned: TrainedOn | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Diagnosis:
    """Measure a model on clips of a library; write the page, and the same figures as JSON beside it.

    Raises:
        LibraryError: too few clips, or features other than the model's.
    """
    options = {"split": split, "clips": clips, "seed": seed, "effort": effort, "learned": learned}
    found = diagnose(library, model, **options, on_progress=on_progress)
    shown = attention_maps(model, read_clips(library, model, split, 1, seed))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(json.dumps(found.to_dict(), indent=1, allow_nan=False), encoding="utf-8")
    page.write_text(diagnosis_page(found, shown), encoding="utf-8")
    return found


def attention_maps(model: EquiAV, clips: ClipTensors, row: int = 0) -> dict[str, list[ShownMap]]:
    """Where the predictor looks on one clip, as pictures, by branch; nothing for a predictor that does not attend."""
    shown: dict[str, list[ShownMap]] = {}
    for name in MODALITIES:
        branch = Branch(model, name, clips)
        if looks(branch):
            plain = branch.plain(torch.tensor([row]))[0].cpu()
            picture = mel_uri if name == "audio" else picture_uri
            shown[name] = [ShownMap(one.caption, picture(plain, one.weights)) for one in maps(branch, row)]
    return shown


def diagnosis_page(found: Diagnosis, shown: dict[str, list[ShownMap]], title: str = "Equivariance report") -> str:
    """The page.

    Args:
        found: what was measured.
        shown: by branch, pictures of the predictor's attention.
        title: its heading.
    """
    return render(
        "diagnosis.html.jinja",
        {"figure": figure_text, "interval": interval_text, "best": best_yardstick},
        title=title,
        found=found,
        about=found.about,
        verdicts=verdicts(found),
        sections=[_section(name, branch, shown.get(name, [])) for name, branch in found.branches.items()],
        retrieval=_retrieval_chart(found),
        spectra=_spectra(found),
        health=_health_rows(found),
        measures=MEASURES,
        yardsticks=YARDSTICKS,
        within=WITHIN,
    )


def figure_text(found: Figure | float | None) -> str:
    """A value with its interval."""
    if found is None:
        return "–"
    if not isinstance(found, Figure):
        return f"{found:.3g}"
    return f"{found.value:.2f} ({interval})" if (interval := interval_text(found)) else f"{found.value:.2f}"


def interval_text(found: Figure | None) -> str:
    """The interval alone; nothing where there is none."""
    return "" if found is None or found.low is None else f"{found.low:.2f} – {found.high:.2f}"


def verdicts(found: Diagnosis) -> list[str]:
    """The findings in sentences, the unwelcome ones too."""
    said = []
    for name, branch in found.branches.items():
        modality_name = TITLES[name].lower()
        for question in ("alone", "in context"):
            rows = [row for row in branch.table(question).rows if row.beats_all is not None]
            if not rows:
                continue
            good = [row.transform for row in rows if row.beats_all]
            bad = [row.transform for row in rows if not row.beats_all]
            text = f"{TITLES[name]}, {question}: the prediction beats every yardstick for {_list(good)}"
            said.append(f"{text}; not for {_list(bad)}." if bad else f"{text}.")
        whole = branch.table("all together").rows[0]
        if whole.predictor.get("h1"):
            said.append(
                f"{TITLES[name]}, all transformations together: displacement cosine "
                f"{figure_text(whole.predictor['cosine'])}; the right one of 16 views is found first in "
                f"{figure_text(whole.predictor['h1'])} of cases, by chance 0.06."
            )
        if branch.centroid:
            enough = branch.centroid.enough
            said.append(
                f"{TITLES[name]}: {enough or 'more than 256'} independent predictions bring the centroid within "
                f"{WITHIN:.0%} of the clips' spread of its limit; 16 Sobol ones err "
                f"{branch.centroid.sobol_against_iid:.2f} times as much as 32 independent ones."
            )
        if not branch.centroid:
            said.append(f"This model has no predictor: of {modality_name} only what the encoder does is measured.")
    careful = source_warning(found.about["sources"])
    careful += seen_warning(found.about["trained_on"], found.about["clips"])
    return said + [f"Take care: {text}." for text in careful]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def _section(name: str, branch: BranchReport, shown: list[ShownMap]) -> dict[str, Any]:
    """Everything of one branch, charts drawn."""
    return {
        "name": name,
        "title": TITLES[name],
        "alone": _dots(branch.table("alone")),
        "context": _dots(branch.table("in context"), branch.table("all together")),
        "tables": [
            {"question": t.question, "space": t.space, "rows": t.rows} for t in branch.tables if t.space == "intra"
        ],
        "latent": [{"question": t.question, "rows": t.rows} for t in branch.tables if t.space == "latent"],
        "curves": _slot_chart(branch),
        "explained": bars(branch.explained, "R² on clips not fitted on") if branch.explained else "",
        "composition": branch.composition,
        "centroid": branch.centroid,
        "centroid_chart": _centroid_chart(branch.centroid) if branch.centroid else "",
        "focuses": branch.focuses,
        "maps": shown,
        "unseen_error": _unseen_chart(branch, trained=False),
        "stretched": _unseen_chart(branch, trained=True),
    }


def _dots(*tables: Table) -> Markup:
    """Displacement cosine of the predictor beside that of the yardsticks, a line per transform."""
    rows: dict[str, dict[str, Figure | None]] = {}
    for row in (row for table in tables for row in table.rows):
        own = {"predictor": row.predictor["cosine"]} if "cosine" in row.predictor else {}
        # the cosine of "identity" is 0: the line
        others = {name: known["cosine"] for name, known in row.yardsticks.items() if name != "identity"}
        rows[row.transform] = own | {name: others[name] for name in (*YARDSTICKS, REFERENCE) if name in others}
    return dots(rows, "displacement cosine (right direction 1, no prediction 0)")


def _slot_chart(branch: BranchReport) -> Markup:
    """Sizes of true and predicted displacement over every slot's range."""
    shown = []
    for name, points in branch.curves.items():
        x = [point.value for point in points]
        series = [Series("true size", x, [point.true_size for point in points])]
        if all(point.predicted_size is not None for point in points):
            series.append(Series("predicted size", x, [point.predicted_size or 0.0 for point in points]))
            known = [point for point in points if point.cosine is not None]
            cosines = [point.cosine for point in known if point.cosine is not None]
            series.append(
                Series(
                    "cosine",
                    [point.value for point in known],
                    [found.value for found in cosines],
                    [found.ends[0] for found in cosines],
                    [found.ends[1] for found in cosines],
                )
            )
        shown.append(Panel(name, "", "", series))
    return panels(shown) if shown else Markup()


def _centroid_chart(centroid: CentroidReport) -> Markup:
    """Distance of the K-centroid to its two limits."""
    ways = [Series.of(method, curve.to_dense) for method, curve in centroid.curves.items()]
    shown = [Panel("to 4,096 predictions", "K", "distance / spread", ways, log=True)]
    for real in centroid.real:
        ks = list(real.to_real)
        series = [
            Series.of("iid", real.to_real),
            Series("its limit", [ks[0], ks[-1]], [real.limit] * 2, dashed=True),
            Series("plain embedding", [ks[0], ks[-1]], [real.plain] * 2, dashed=True),
        ]
        where = "latent" if real.space == "latent" else "intra-modal"
        shown.append(Panel(f"to {real.views} real views, {where}", "K", "distance / spread", series, log=True))
    return panels(shown)


def _retrieval_chart(found: Diagnosis) -> Markup:
    by_count = dict(found.retrieval_by_count)
    if not by_count:
        return Markup()
    plain = by_count.pop("plain", None)
    series = [Series.of("K predictions", {int(k): v for k, v in by_count.items()})]
    if plain is not None:
        series.append(Series("no predictor", [1, 256], [plain.value] * 2, dashed=True))
    axis = Series(series[0].name, [float(i) for i in range(len(by_count))], series[0].y, series[0].low, series[0].high)
    if plain is not None:
        series[1] = Series("no predictor", [0.0, len(by_count) - 1.0], [plain.value] * 2, dashed=True)
    return panels([Panel("", "log2 K", "R@1", [axis, *series[1:]])])


def _unseen_chart(branch: BranchReport, *, trained: bool) -> Markup:
    """Error and retrieval over strength: of transforms trained on, past their range, or of those never trained on."""
    shown = []
    for name, points in branch.unseen.items():
        if any(point.trained for point in points) != trained:
            continue
        x = [point.value for point in points]
        series = [_of(points, x, way) for way in points[0].error]
        series.append(
            Series.of("R@1 of the partner", {v: p.recall_at_1 for v, p in zip(x, points, strict=True) if p.recall_at_1})
        )
        edges = [max((p.value for p in points if p.trained), key=abs)] if trained else []
        shown.append(Panel(name, "", "", series, marks=edges))
    return panels(shown) if shown else Markup()


def _of(points: list[Point], x: list[float], way: str) -> Series:
    known = {v: found for v, p in zip(x, points, strict=True) if (found := p.cosine.get(way)) is not None}
    return Series.of(f"cosine, given: {way}", known)


def _spectra(found: Diagnosis) -> Markup:
    series = [
        Series(TITLES[name].lower(), [float(i + 1) for i in range(len(values))], values)
        for name, values in found.spectra.items()
    ]
    return panels([Panel("", "singular value", "share of the sum", series)])


def _health_rows(found: Diagnosis) -> list[dict[str, Any]]:
    """Measure, value, the bound at which the training alarm rings, and what to do."""
    rows = []
    for name, value in found.health.items():
        alarm = next((a for a in ALARMS if a.measure == name.split(".")[-1]), None)
        bound = ""
        if alarm is not None:
            bound = f"at least {alarm.below}" if alarm.below is not None else f"at most {alarm.above}"
        said = alarm.describe(name, value) if alarm is not None and alarm.rings(value) else ""
        rows.append({"name": name, "value": value, "bound": bound, "alarm": said})
    return rows


def best_yardstick(row: Row, measure: str) -> tuple[str, float] | None:
    """Name and value of the strongest yardstick."""
    known = {name: row.yardsticks[name][measure] for name in YARDSTICKS if name in row.yardsticks}
    values = {name: found.value for name, found in known.items() if found is not None}
    return max(values.items(), key=lambda pair: pair[1]) if values else None
