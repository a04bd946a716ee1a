"""The figures of cross-modal retrieval: embeddings of n pairs (n, E), (n, E) -> `RetrievalResult`.

Query i has one right answer, gallery item i. A figure means nothing without its gallery size, so the size is part of
the result, and every figure comes with what chance would give and a 95 % bootstrap interval over the queries' sources.

Intervals resample *sources*: the windows of one recording come together or not at all (`bootstrap.py`).

The rank of the own partner is 1 + the items strictly better + half of the items tied with it: the mean over all orders
of the tied items. Before and after all ties is reported beside it whenever that differs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from equiav.errors import ConfigError
from equiav.metrics.bootstrap import median_interval
from equiav.metrics.class_level import ClassScores, harmonic_number
from equiav.metrics.figures import RankingFigure, mean_figures
from equiav.metrics.ranking import merge_equal_rows, rank, unit_rows
from equiav.metrics.sources import numbered

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

RECALLS, MEAN_AP = (1, 5, 10), "mean_average_precision"


class FrozenResult(BaseModel):
    """A frozen record that writes itself as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ties(FrozenResult):
    """The same figures with the own partner before all tied items and after them."""

    queries: int = Field(description="Queries whose partner is tied with at least one other item.")
    optimistic: dict[str, float]
    pessimistic: dict[str, float]


class ClassLevel(FrozenResult):
    """Retrieval of the right class: relevant is every gallery item that shares a label with the query."""

    queries: int = Field(description="Queries with at least one relevant item.")
    sources: int = Field(description="Sources that they come from.")
    precision_at_1: RankingFigure
    precision_at_10: RankingFigure
    mean_average_precision: RankingFigure


class RetrievalResult(FrozenResult):
    """One direction. Ranks count from 1; recalls, MRR and nDCG lie in [0, 1].

    With one right answer per query the average precision is 1/rank, so `mean_reciprocal_rank` is also the mAP, and
    nDCG@10 is 1/log2(1 + rank) for ranks up to 10, else 0.
    """

    gallery_size: int = Field(description="Items ranked for every query; there are as many queries.")
    sources: int = Field(description="Sources that the items are windows of: what the intervals resample.")
    gallery_duplicates: int = Field(description="Gallery embeddings equal to an earlier one.")
    recall_at_1: RankingFigure
    recall_at_5: RankingFigure
    recall_at_10: RankingFigure
    median_rank: RankingFigure
    mean_rank: RankingFigure
    mean_reciprocal_rank: RankingFigure
    ndcg_at_10: RankingFigure
    ties: Ties | None = Field(None, description="None when no partner is tied.")
    class_level: ClassLevel | None = Field(
        None, description="With the own partner in the gallery, where it counts as relevant; None without labels."
    )
    class_level_others: ClassLevel | None = Field(
        None, description="Without the windows of the query's source: only other sources' clips of the class count."
    )
    ranks: list[float] = Field(description="Rank of the own partner of every query, in the order of the pairs.")

    def estimates(self) -> dict[str, RankingFigure]:
        """All figures by name, those of the class level behind a dot."""
        found = {name: value for name, value in self if isinstance(value, RankingFigure)}
        for level in ("class_level", "class_level_others"):
            known = getattr(self, level)
            found |= {f"{level}.{name}": value for name, value in known or () if isinstance(value, RankingFigure)}
        return found

    def asked(self, figure: str) -> tuple[int, int]:
        """How many queries a figure of `estimates` is the mean or median of, and of how many sources these are."""
        level = getattr(self, figure.split(".")[0])
        return (level.queries, level.sources) if isinstance(level, ClassLevel) else (self.gallery_size, self.sources)

    def per_query(self) -> dict[str, list[float]]:
        """What each query adds to the figures that are means over the queries."""
        return {name: column.tolist() for name, column in _per_query(np.array(self.ranks)).items()}


def _check_pairs(
    queries: tuple[int, ...],
    gallery: tuple[int, ...],
    labels: Sequence[Sequence[str]] | None,
    sources: Sequence[Hashable] | None,
    resamples: int,
) -> None:
    if queries != gallery:
        raise ConfigError(f"queries {queries} and gallery {gallery} must be the same n pairs of the same width")
    if labels is not None and len(labels) != queries[0]:
        raise ConfigError(f"{len(labels)} label lists for {queries[0]} pairs: expected one list per pair")
    if sources is not None and len(sources) != queries[0]:
        raise ConfigError(f"{len(sources)} sources for {queries[0]} pairs: expected one per pair")
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, found {resamples}")


def retrieval_metrics(
    queries: npt.ArrayLike,
    gallery: npt.ArrayLike,
    *,
    labels: Sequence[Sequence[str]] | None = None,
    sources: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> RetrievalResult:
    """Rank the gallery for every query by cosine; gallery item i is the right answer to query i.

    Args:
        queries: (n, E), scaled to unit length here.
        gallery: (n, E), likewise.
        labels: for each pair its labels; adds the class-level figures. A pair without labels is no class-level query.
        sources: for each pair what it is a window of; equal ones are drawn together, and are no others of the class.
            None: each pair has its own.
        resamples: bootstrap resamples of the sources.
        seed: of the bootstrap.

    Raises:
        ConfigError: shapes or lengths do not fit.
        ModelError: NaN, infinite or all-zero embeddings.
    """
    query_rows = unit_rows(queries, name="queries")
    gallery_rows = unit_rows(gallery, name="gallery")
    _check_pairs(query_rows.shape, gallery_rows.shape, labels, sources, resamples)
    merged = merge_equal_rows(gallery_rows)
    known = numbered(range(len(query_rows)) if sources is None else sources)
    ranks, levels = rank(query_rows, merged, labels, sources=known)
    tied = int(np.count_nonzero(ranks.pessimistic > ranks.optimistic))
    ties = None
    if tied:
        ties = Ties(
            queries=tied, optimistic=_point_values(ranks.optimistic), pessimistic=_point_values(ranks.pessimistic)
        )
    chance = _chance(len(query_rows))
    figures: Any = _with_chance(_per_query(ranks.mean), chance, known, resamples, seed)
    low, high = median_interval(ranks.mean, resamples=resamples, seed=seed, sources=known)
    median = RankingFigure(value=float(np.median(ranks.mean)), low=low, high=high, chance=chance["median_rank"])
    of_classes = [
        _class_level(scores, known[scores.queries], resamples=resamples, seed=seed) if scores else None
        for scores in levels
    ]
    return RetrievalResult(
        gallery_size=len(query_rows),
        sources=len(np.unique(known)),
        gallery_duplicates=merged.duplicates,
        ties=ties,
        median_rank=median,
        class_level=of_classes[0],
        class_level_others=of_classes[1],
        ranks=ranks.mean.tolist(),
        **figures,
    )


def _per_query(ranks: Float64[np.ndarray, " n"]) -> dict[str, Float64[np.ndarray, " n"]]:
    """What each query adds to the means."""
    table = {f"recall_at_{k}": (ranks <= k).astype(np.float64) for k in RECALLS}
    table["mean_rank"] = ranks.astype(np.float64)
    table["mean_reciprocal_rank"] = 1 / ranks
    table["ndcg_at_10"] = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)
    return table


def _point_values(ranks: npt.NDArray[np.int64]) -> dict[str, float]:
    values = {name: float(column.mean()) for name, column in _per_query(ranks.astype(np.float64)).items()}
    return {**values, "median_rank": float(np.median(ranks))}


def _chance(n: int) -> dict[str, float]:
    """Expected figures for a random order of n items with one right answer."""
    first = np.arange(1, min(n, 10) + 1)
    return {
        **{f"recall_at_{k}": min(1.0, k / n) for k in RECALLS},
        "median_rank": (n + 1) / 2,
        "mean_rank": (n + 1) / 2,
        "mean_reciprocal_rank": float(harmonic_number(n)) / n,
        "ndcg_at_10": float(np.sum(1 / np.log2(1 + first)) / n),
    }


def _class_level(scores: ClassScores, sources: Int64[np.ndarray, " q"], *, resamples: int, seed: int) -> ClassLevel:
    columns = {f"precision_at_{k}": values for k, values in scores.precision_at.items()}
    chance = {**dict.fromkeys(columns, scores.chance_precision), MEAN_AP: scores.chance_average_precision}
    figures: Any = _with_chance({**columns, MEAN_AP: scores.average_precision}, chance, sources, resamples, seed)
    return ClassLevel(queries=len(sources), sources=len(np.unique(sources)), **figures)


def _with_chance(
    columns: dict[str, Float64[np.ndarray, " q"]],
    chance: dict[str, float],
    sources: Int64[np.ndarray, " q"],
    resamples: int,
    seed: int,
) -> dict[str, RankingFigure]:
    """The means of what each query adds, beside what a random order gives."""
    found = mean_figures(columns, sources, resamples=resamples, seed=seed)
    return {name: RankingFigure(one.value, one.low, one.high, chance[name]) for name, one in found.items()}
