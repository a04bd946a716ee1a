"""The demo's page: summary, losses, retrieval, queries with their hits -> one self-contained HTML text.

Nothing is fetched: pictures, spectrograms and sounds are inlined, the curves are SVG in the page's own colours, so
that the file can be mailed, archived, printed, and read in light and in dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from equiav._version import __version__
from equiav.errors import ConfigError
from equiav.metrics.figures import RankingFigure
from equiav.metrics.retrieval import RetrievalReport, RetrievalResult
from equiav.pages.pictures import ClipShown, file_uri, sound_uri, spectrogram_uri
from equiav.pages.plots import Panel, Series, panels
from equiav.pages.render import render

if TYPE_CHECKING:
    pass


LOSS_NAMES = {
    "loss": "total",
    "loss_inter": "sound and picture agree",
    "loss_intra_audio": "sound: transformation predicted",
    "loss_intra_visual": "picture: transformation predicted",
}


@dataclass(frozen=True)
class QueryShown:
    """What was asked and what was found, best hit first; `rank` is where the query's own partner came."""

    kind: Literal["sound", "picture"]
    clip: ClipShown
    hits: Sequence[ClipShown]
    rank: float | None = None


@dataclass(frozen=True)
class _Figure:
    """One figure of the retrieval table, in both directions."""

    name: str
    meaning: str
    cells: list[_Cell] = field(default_factory=list)


@dataclass(frozen=True)
class _Cell:
    value: str
    interval: str
    chance: str
    # places on a 0–100 bar, None for figures that are no share
    bar: tuple[float, float, float, float] | None


def demo_page(
    *,
    title: str,
    summary: Sequence[str],
    metrics: Sequence[Mapping[str, Any]],
    retrieval: RetrievalReport | None,
    queries: Sequence[QueryShown],
    commands: Sequence[str],
) -> str:
    """The page as HTML text.

    Args:
        title: heading.
        summary: paragraphs of plain text below it.
        metrics: rows of metrics.jsonl.
        retrieval: the measured retrieval; None leaves the section out.
        queries: searches to show.
        commands: shell lines that lead to this page.
    """
    return render(
        "demo.html.jinja",
        {"picture": file_uri, "spectrogram": spectrogram_uri, "sound": sound_uri},
        title=title,
        summary=summary,
        commands=commands,
        curves=loss_curves(metrics) if metrics else "",
        figures=_figures(retrieval) if retrieval else [],
        retrieval=retrieval,
        queries=queries,
        version=__version__,
    )


def loss_curves(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """An inline SVG of every loss over the epochs."""
    names = [name for name in rows[-1] if name.startswith("loss")]
    if not names:
        raise ConfigError(f"rows of metrics.jsonl hold no loss, only {', '.join(rows[-1])}")
    epochs = [row["epoch"] for row in rows]
    series = [
        Series(
            LOSS_NAMES.get(name, name.removeprefix("loss_").replace("_", " ")),
            epochs,
            [row.get(name, math.nan) for row in rows],
        )
        for name in names
    ]
    return panels([Panel("", "epoch", "loss", series)])


def _figures(report: RetrievalReport) -> list[_Figure]:
    """Rows of the retrieval table; shares are shown as per cent with a bar, ranks as numbers."""
    directions = (report.audio_to_visual, report.visual_to_audio)
    shares = {
        "recall_at_1": ("R@1", "the right one comes first"),
        "recall_at_5": ("R@5", "it is among the first 5"),
        "recall_at_10": ("R@10", "it is among the first 10"),
        "mean_reciprocal_rank": ("MRR", "mean of 1 / rank"),
        "ndcg_at_10": ("nDCG@10", "gain discounted by rank"),
    }
    figures = [
        _Figure(name, meaning, [_share(getattr(result, key)) for result in directions])
        for key, (name, meaning) in shares.items()
    ]
    ranks = [_rank(result.median_rank) for result in directions]
    figures.insert(3, _Figure("median rank", f"of {report.clips}; 1 is best", ranks))
    return figures + _class_figures(directions)


def _class_figures(directions: tuple[RetrievalResult, RetrievalResult]) -> list[_Figure]:
    levels = [result.class_level_others for result in directions]
    if not all(levels):
        return []
    names = {
        "precision_at_1": ("class P@1", "the first clip of another source is of the same class"),
        "precision_at_10": ("class P@10", "share of the first 10 of other sources that are of it"),
        "mean_average_precision": ("class mAP", "same class ranked before the rest, own source left out"),
    }
    return [
        _Figure(name, meaning, [_share(getattr(level, key)) for level in levels])
        for key, (name, meaning) in names.items()
    ]


def _share(figure: RankingFigure) -> _Cell:
    value, chance = 100 * figure.value, 100 * figure.chance
    if figure.low is None or figure.high is None:
        return _Cell(f"{value:.1f} %", "no interval", f"{chance:.1f} %", None)
    low, high = 100 * figure.low, 100 * figure.high
    return _Cell(f"{value:.1f} %", f"{low:.1f} – {high:.1f}", f"{chance:.1f} %", (value, low, high, chance))


def _rank(figure: RankingFigure) -> _Cell:
    known = figure.low is not None and figure.high is not None
    interval = f"{figure.low:g} – {figure.high:g}" if known else "no interval"
    return _Cell(f"{figure.value:g}", interval, f"{figure.chance:g}", None)
