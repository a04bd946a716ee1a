"""The demo's page: summary, losses, retrieval, queries with their hits -> one self-contained HTML text.

Nothing is fetched: pictures, spectrograms and sounds are inlined, the curves are SVG in the page's own colours, so
that the file can be mailed, archived, printed, and read in light and in dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from equiav.errors import ConfigError
from equiav.metrics.figures import RankingFigure
from equiav.pages.pictures import ClipShown, file_uri, sound_uri, spectrogram_uri
from equiav.pages.plots import Panel, Series, panels
from equiav.pages.render import render

if TYPE_CHECKING:
    from equiav.evaluate.retrieval import RetrievalReport

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


def _figures(report: RetrievalReport) -> list[tuple[str, str, list[RankingFigure]]]:
    """Rows of the retrieval table: name, meaning, and the figure in both directions."""
    directions = (report.audio_to_visual, report.visual_to_audio)
    figures = {
        "recall_at_1": ("R@1", "the right one comes first"),
        "recall_at_5": ("R@5", "it is among the first 5"),
        "recall_at_10": ("R@10", "it is among the first 10"),
        "median_rank": ("median rank", f"of {report.clips}; 1 is best"),
        "mean_reciprocal_rank": ("MRR", "mean of 1 / rank"),
        "ndcg_at_10": ("nDCG@10", "gain discounted by rank"),
    }
    class_figures = {
        "precision_at_1": ("class P@1", "the first clip of another source is of the same class"),
        "precision_at_10": ("class P@10", "share of the first 10 of other sources that are of it"),
        "mean_average_precision": ("class mAP", "same class ranked before the rest, own source left out"),
    }
    rows = [(*about, [getattr(one, key) for one in directions]) for key, about in figures.items()]
    levels = [level for one in directions if (level := one.class_level_others) is not None]
    if len(levels) == len(directions):
        rows += [(*about, [getattr(level, key) for level in levels]) for key, about in class_figures.items()]
    return rows
