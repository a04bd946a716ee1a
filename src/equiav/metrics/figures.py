"""Figures with their 95 % intervals, and how tables and warnings show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from equiav.metrics.bootstrap import FEW, RESAMPLES, few_sources, mean_intervals
from equiav.words import counted

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64
    from rich.table import Column, Table

# An end of an interval: None where there is none, since what was measured on is all of one source
Bound = Annotated[float | None, BeforeValidator(lambda x: None if x is None or math.isnan(x) else x)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Interval:
    """A value with the ends of its 95 % bootstrap interval over sources; one source alone has none."""

    value: float
    low: Bound
    high: Bound

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends for plots: NaN where there is no interval."""
        return (math.nan, math.nan) if self.low is None or self.high is None else (self.low, self.high)

    def text(self, scale: float = 1, form: str = ".3g") -> str:
        """Value and interval as tables show them."""
        low, high = self.ends
        ends = "no interval" if math.isnan(low) else f"{scale * low:{form}}, {scale * high:{form}}"
        return f"{scale * self.value:{form}} [{ends}]"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Figure(Interval):
    """One figure over n items of so many sources.

    `sources` is None where independent draws are resampled, and in results stored before sources were counted.
    """

    n: int
    sources: int | None = None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RankingFigure(Interval):
    """One figure of a ranking, and its expected value for a random order of the gallery."""

    chance: float


def mean_figures(
    columns: Mapping[str, Float64[np.ndarray, " n"] | Sequence[float]],
    sources: Int64[np.ndarray, " n"] | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """The mean of each column over the same items: all columns see the same resamples.

    Args:
        sources: a number for each item, equal where two are of one source; None: independent draws.
    """
    table = np.stack([np.asarray(values, dtype=np.float64) for values in columns.values()], axis=1)
    low, high = mean_intervals(table, resamples=resamples, seed=seed, sources=sources)
    count = None if sources is None else len(np.unique(sources))
    return {
        name: Figure(float(table[:, i].mean()), float(low[i]), float(high[i]), len(table), count)
        for i, name in enumerate(columns)
    }


def counted_clips(clips: int, sources: int | None) -> str:
    """How many clips, and of how many sources where these are fewer."""
    few = f" of {counted(sources, 'source')}" if sources is not None and sources < clips else ""
    return counted(clips, "clip") + few


def source_warning(sources: int | None) -> list[str]:
    """What to say where the intervals are over few sources."""
    return [few_sources(sources)] if sources and sources < FEW else []


def beats_all(margins: Iterable[Figure | None]) -> bool | None:
    """Whether all margins that are known are above 0 beyond their intervals; None where none is known."""
    known = [margin for margin in margins if margin is not None]
    return all(margin.ends[0] > 0 for margin in known) if known else None


def seen_warning(seen: int | None, clips: int) -> list[str]:
    """What to say of clips of sources that the model was trained on."""
    if not seen:
        return []
    what = "are among those that the model was trained on, or windows of the same sources"
    return [f"{seen} of {counted(clips, 'clip')} {what}"]


def figure_table(*columns: Column | str, title: str, warnings: Sequence[str], min_width: int | None = None) -> Table:
    """A table for people, with the warnings below it; title and warnings may hold any characters."""
    from rich.markup import escape
    from rich.table import Table

    return Table(
        *columns,
        title=escape(title),
        title_justify="left",
        min_width=min_width,
        caption=escape("; ".join(warnings)) or None,
        caption_justify="left",
    )
