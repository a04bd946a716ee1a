"""Charts for pages: numbers → inline SVG in the page's own colours, so that it reads in light, in dark and on paper.

matplotlib draws with stand-in colours that nothing else uses; they become the CSS variables --muted, --line and
--series-0 … --series-4 of the page.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from equiav.metrics.figures import Figure

SERIES = 5
INK, LINE = "#010200", "#010201"
COLOURS = tuple(f"#0102{i:02x}" for i in range(2, 2 + SERIES))
MARKS = ("o", "s", "^", "D", "v")
WIDTH = 10.5  # inches at the page's full width


@dataclass(frozen=True)
class Series:
    """A curve: y over x; with low and high a band of its 95 % interval."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False

    @classmethod
    def of(cls, name: str, points: Mapping[Any, Figure | None]) -> Series:
        """Figures over numbers; what is not known is left out."""
        known = {float(x): found for x, found in points.items() if found is not None}
        values, ends = [found.value for found in known.values()], [found.ends for found in known.values()]
        return cls(name, list(known), values, [low for low, _ in ends], [high for _, high in ends])

    @classmethod
    def flat(cls, name: str, x: Collection[float], y: float) -> Series:
        """A dashed line at one height, over the range of x."""
        return cls(name, [min(x), max(x)], [y, y], dashed=True)


@dataclass(frozen=True)
class Panel:
    """One small chart of several curves; `marks` are values of x to be marked by a line."""

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    log: bool = False
    marks: Sequence[float] = ()


def drawing(draw: Callable[[Any], None], width: float, height: float) -> Markup:
    """An inline SVG of what `draw` puts on a matplotlib figure of so many inches, in the page's colours."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "equiav",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.edgecolor": LINE,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.facecolor": "none",
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "text.color": INK,
    }
    with mpl.rc_context(style):
        figure = Canvas(figsize=(width, height), layout="constrained")
        draw(figure)
        for axes in figure.axes:
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(length=0, which="both")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "var(--muted)").replace(LINE, "var(--line)")
    for i, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--series-{i})")
    return Markup(svg)  # noqa: S704 our own SVG: names of transforms are escaped by matplotlib


def panels(chosen: Sequence[Panel], columns: int = 3) -> Markup:
    """Small charts in a grid; one legend for all, of the names that occur. Nothing where there are none."""
    if not chosen:
        return Markup()
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    names = list(dict.fromkeys(series.name for panel in chosen for series in panel.series))

    def draw(figure: Any) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(chosen) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, chosen, strict=False):
            _curves(axes, panel, names)
        handles = {h.get_label(): h for axes in figure.axes for h in axes.get_lines() if h.get_label() in names}
        if len(names) > 1:
            order = [handles[name] for name in names if name in handles]
            figure.legend(handles=order, loc="outside upper left", ncols=len(order))

    return drawing(draw, WIDTH, 0.45 + rows * (2.1 if columns > 2 else 2.6))


def _curves(axes: Any, panel: Panel, names: list[str]) -> None:
    for series in panel.series:
        colour = COLOURS[names.index(series.name) % SERIES]
        style = {"color": colour, "linewidth": 1.6, "linestyle": "--" if series.dashed else "-"}
        if len(series.x) == 1:
            style["marker"] = "o"
        axes.plot(series.x, series.y, label=series.name, **style)
        if series.low is not None and series.high is not None:
            axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)
    if panel.log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.locator_params(nbins=5)  # fewer labels to lay out: most of the time of a page goes there
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0), max(high, 0))
    axes.minorticks_off()
    for mark in panel.marks:
        axes.axvline(mark, color=LINE, linewidth=1, zorder=0)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)


def dots(rows: Mapping[str, Mapping[str, Figure | None]], xlabel: str) -> Markup:
    """One line per row, a mark with its interval for each name; the first name is the filled one."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=LINE, linewidth=1.2, zorder=0)
        for i, name in enumerate(names):
            known = [(y, found) for y, row in enumerate(rows.values()) if (found := row.get(name)) is not None]
            places = [y + (i - (len(names) - 1) / 2) * 0.14 for y, _ in known]
            values = [found.value for _, found in known]
            spans = [[f.value - f.ends[0] for _, f in known], [f.ends[1] - f.value for _, f in known]]
            colour = COLOURS[i % SERIES]
            axes.errorbar(
                values,
                places,
                xerr=spans,
                fmt=MARKS[i % SERIES],
                color=colour,
                markersize=7 if i == 0 else 4.5,
                markerfacecolor=colour if i == 0 else "none",
                linewidth=1.3,
                label=name,
            )
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlabel(xlabel)
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        figure.legend(loc="outside upper left", ncols=len(names))

    return drawing(draw, WIDTH, 1.1 + 0.42 * len(rows))


def bars(values: Mapping[str, float], xlabel: str) -> Markup:
    """Horizontal bars, largest first."""
    order = sorted(values, key=lambda name: -values[name])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.barh(order, [values[name] for name in order], color=COLOURS[0], height=0.6)
        axes.axvline(0, color=LINE, linewidth=1.2)
        axes.invert_yaxis()
        axes.set_xlabel(xlabel)
        axes.grid(axis="x", color=LINE, linewidth=0.6)

    return drawing(draw, WIDTH, 0.8 + 0.24 * len(order))
