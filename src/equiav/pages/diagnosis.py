"""The equivariance report as one self-contained HTML page:  Diagnosis → text that fetches nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from equiav.diagnose.centroid import SOBOL, WITHIN, CentroidReport
from equiav.diagnose.diagnosis import BranchReport, Diagnosis
from equiav.diagnose.equivariance import MEASURES, REFERENCE, YARDSTICKS, Row, Table
from equiav.diagnose.unseen import REACHES
from equiav.metrics.displacement import chance
from equiav.metrics.figures import Figure, seen_warning, source_warning
from equiav.metrics.health import ALARMS
from equiav.pages.pictures import mel_uri, picture_uri
from equiav.pages.plots import Panel, Series, bars, dots, panels
from equiav.pages.render import render

TITLES = {"audio": "Sound", "visual": "Picture"}
PICTURES = {"audio": mel_uri, "visual": picture_uri}


def write_report(found: Diagnosis, page: Path) -> None:
    """Write the page, and the same figures as JSON beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(json.dumps(found.to_dict(), indent=1, allow_nan=False), encoding="utf-8")
    page.write_text(diagnosis_page(found), encoding="utf-8")


def diagnosis_page(found: Diagnosis) -> str:
    """The page as HTML text."""
    return render(
        "diagnosis.html.jinja",
        {"figure": figure_text, "interval": interval_text, "best": best_yardstick},
        title="Equivariance report",
        found=found,
        about=found.about,
        verdicts=verdicts(found),
        sections=[_section(found, name) for name in found.branches],
        retrieval=_retrieval_chart(found.retrieval_by_count),
        spectra=_spectra(found),
        health=_health_rows(found),
        measures=MEASURES,
        yardsticks=YARDSTICKS,
        within=f"{WITHIN:.0%}".replace("%", " %"),
        beyond=_beyond(found),
        reach=REACHES[-1],
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


def _beyond(found: Diagnosis) -> str:
    """The words for a number of predictions that was not reached."""
    return f"more than {found.effort.counts[-1]}"


def verdicts(found: Diagnosis) -> list[str]:
    """The findings in sentences, the unwelcome ones too."""
    lines = []
    for name, branch in found.branches.items():
        for question in ("alone", "in context"):
            rows = [row for row in branch.table(question).rows if row.beats_all is not None]
            if not rows:
                continue
            good = [row.transform for row in rows if row.beats_all]
            bad = [row.transform for row in rows if not row.beats_all]
            text = f"{TITLES[name]}, {question}: the prediction beats every yardstick for {_list(good)}"
            lines.append(f"{text}; not for {_list(bad)}." if bad else f"{text}.")
        whole = branch.table("all together").rows[0]
        if whole.predictor.get("h1"):
            views = found.effort.views
            lines.append(
                f"{TITLES[name]}, all transformations together: displacement cosine "
                f"{figure_text(whole.predictor['cosine'])}; the right one of {views} views is found first in "
                f"{figure_text(whole.predictor['h1'])} of cases, by chance {chance(views)['h1']:.2f}."
            )
        if branch.centroid:
            lines.append(
                f"{TITLES[name]}: {branch.centroid.enough or _beyond(found)} independent predictions bring the "
                f"centroid within {WITHIN:.0%} of the clips' spread of its limit; {SOBOL} Sobol ones err "
                f"{branch.centroid.sobol_against_iid:.2f} times as much as {2 * SOBOL} independent ones."
            )
        else:
            modality = TITLES[name].lower()
            lines.append(f"This model has no predictor: of {modality} only what the encoder does is measured.")
    careful = source_warning(found.about["sources"])
    careful += seen_warning(found.about["trained_on"], found.about["clips"])
    return lines + [f"Take care: {text}." for text in careful]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def _section(found: Diagnosis, name: str) -> dict[str, Any]:
    """Everything of one branch, charts drawn."""
    branch = found.branches[name]
    return {
        "name": name,
        "title": TITLES[name],
        "report": branch,
        "alone": _dots(branch.table("alone")),
        "context": _dots(branch.table("in context"), branch.table("all together")),
        "curves": _slot_chart(branch),
        "explained": bars(branch.explained, "R² on clips not fitted on") if branch.explained else "",
        "centroid": _centroid_chart(branch.centroid, found.effort.dense) if branch.centroid else "",
        "maps": [(one.caption, PICTURES[name](one.view, one.weights)) for one in branch.maps],
        "unseen": _unseen_chart(branch, trained=False),
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
        predicted = {point.value: point.predicted_size for point in points if point.predicted_size is not None}
        series = [Series("true size", [point.value for point in points], [point.true_size for point in points])]
        if predicted:
            series.append(Series("predicted size", list(predicted), list(predicted.values())))
            series.append(Series.of("cosine", {point.value: point.cosine for point in points}))
        shown.append(Panel(name, "", "", series))
    return panels(shown)


def _centroid_chart(centroid: CentroidReport, dense: int) -> Markup:
    """Distance of the K-centroid to its two limits."""
    ways = [Series.of(method, curve.to_dense) for method, curve in centroid.curves.items()]
    shown = [Panel(f"to {dense:,} predictions", "K", "distance / spread", ways, log=True)]
    for real in centroid.real:
        series = [
            Series.of("iid", real.to_real),
            Series.flat("its limit", real.to_real, real.limit),
            Series.flat("plain embedding", real.to_real, real.plain),
        ]
        where = "latent" if real.space == "latent" else "intra-modal"
        shown.append(Panel(f"to {real.views} real views, {where}", "K", "distance / spread", series, log=True))
    return panels(shown)


def _retrieval_chart(by_count: dict[str, Figure]) -> Markup:
    known = {math.log2(int(k)): found for k, found in by_count.items() if k != "plain"}
    if not known:
        return Markup()
    series = [Series.of("K predictions", known)]
    if "plain" in by_count:
        series.append(Series.flat("no predictor", known, by_count["plain"].value))
    return panels([Panel("", "log2 K", "R@1", series)])


def _unseen_chart(branch: BranchReport, *, trained: bool) -> Markup:
    """Error and retrieval over strength: of transforms trained on, past their range, or of those never trained on."""
    shown = []
    for name, points in branch.unseen.items():
        if any(point.trained for point in points) == trained:
            ways = {f"cosine, given: {way}": {p.value: p.cosine.get(way) for p in points} for way in points[0].cosine}
            ways["R@1 of the partner"] = {p.value: p.recall_at_1 for p in points}
            edges = [max((p.value for p in points if p.trained), key=abs)] if trained else []
            series = [Series.of(way, found) for way, found in ways.items()]
            shown.append(Panel(name, "", "", series, marks=edges))
    return panels(shown)


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
        line = alarm.describe(name, value) if alarm is not None and alarm.rings(value) else ""
        rows.append({"name": name, "value": value, "bound": bound, "alarm": line})
    return rows


def best_yardstick(row: Row, measure: str) -> tuple[str, float] | None:
    """Name and value of the strongest yardstick."""
    known = {name: row.yardsticks[name][measure] for name in YARDSTICKS if name in row.yardsticks}
    values = {name: found.value for name, found in known.items() if found is not None}
    return max(values.items(), key=lambda pair: pair[1]) if values else None
