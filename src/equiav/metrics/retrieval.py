"""The figures of cross-modal retrieval: embeddings of n pairs (n, E), (n, E) -> `RetrievalResult`.

Query i has one right answer, gallery item i. A figure means nothing without its gallery size, so the size is part of
the result, and every figure comes with what chance would give and a 95 % bootstrap interval over the queries' sources.

Intervals resample *sources*: the windows of one recording come together or not at all (`bootstrap.py`).

The rank of the own partner is 1 + the items strictly better + half of the items tied with it: the mean over all orders
of the tied items. Before and after all ties is reported beside it whenever that differs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from equiav.errors import ConfigError
from equiav.metrics.bootstrap import FEW, few_sources, mean_intervals, median_interval
from equiav.metrics.class_level import ClassScores, harmonic_number
from equiav.metrics.ranking import merge_equal_rows, rank, unit_rows
from equiav.metrics.sources import numbered
from equiav.words import counted

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

RECALLS = (1, 5, 10)


class FrozenResult(BaseModel):
    """A frozen record that writes itself as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# An end of an interval: None where there is none, since what was measured on is all of one source
Bound = Annotated[float | None, BeforeValidator(lambda x: None if x is None or math.isnan(x) else x)]


def ends(low: float | None, high: float | None, scale: float = 1, form: str = ".3g") -> str:
    """An interval as tables show it."""
    return "[no interval]" if low is None or high is None else f"[{scale * low:{form}}, {scale * high:{form}}]"


def counted_clips(clips: int, sources: int | None) -> str:
    """How many clips, and of how many sources where these are fewer."""
    few = f" of {counted(sources, 'source')}" if sources is not None and sources < clips else ""
    return counted(clips, "clip") + few


def seen_warning(seen: int | None, clips: int) -> list[str]:
    """What to say of clips of sources that the model was trained on."""
    if not seen:
        return []
    what = "are among those that the model was trained on, or windows of the same sources"
    return [f"{seen} of {counted(clips, 'clip')} {what}"]


class Estimate(FrozenResult):
    """One figure with its 95 % interval and what a random order would give."""

    value: float
    low: Bound = Field(description="Lower end of the 95 % bootstrap interval over the queries' sources.")
    high: Bound = Field(description="Upper end of it.")
    chance: float = Field(description="Expected value for a random order of the gallery.")


class Ties(FrozenResult):
    """The same figures with the own partner before all tied items and after them."""

    queries: int = Field(description="Queries whose partner is tied with at least one other item.")
    optimistic: dict[str, float]
    pessimistic: dict[str, float]


class ClassLevel(FrozenResult):
    """Retrieval of the right class: relevant is every gallery item that shares a label with the query."""

    queries: int = Field(description="Queries with at least one relevant item.")
    sources: int = Field(description="Sources that they come from.")
    precision_at_1: Estimate
    precision_at_10: Estimate
    mean_average_precision: Estimate


class RetrievalResult(FrozenResult):
    """One direction. Ranks count from 1; recalls, MRR and nDCG lie in [0, 1].

    With one right answer per query the average precision is 1/rank, so `mean_reciprocal_rank` is also the mAP, and
    nDCG@10 is 1/log2(1 + rank) for ranks up to 10, else 0.
    """

    gallery_size: int = Field(description="Items ranked for every query; there are as many queries.")
    sources: int = Field(description="Sources that the items are windows of: what the intervals resample.")
    gallery_duplicates: int = Field(description="Gallery embeddings equal to an earlier one.")
    recall_at_1: Estimate
    recall_at_5: Estimate
    recall_at_10: Estimate
    median_rank: Estimate
    mean_rank: Estimate
    mean_reciprocal_rank: Estimate
    ndcg_at_10: Estimate
    ties: Ties | None = Field(None, description="None when no partner is tied.")
    class_level: ClassLevel | None = Field(
        None, description="With the own partner in the gallery, where it counts as relevant; None without labels."
    )
    class_level_others: ClassLevel | None = Field(
        None, description="Without the windows of the query's source: only other sources' clips of the class count."
    )
    ranks: list[float] = Field(description="Rank of the own partner of every query, in the order of the pairs.")

    def estimates(self) -> dict[str, Estimate]:
        """All figures by name, those of the class level behind a dot."""
        found = {name: value for name, value in self if isinstance(value, Estimate)}
        for level in ("class_level", "class_level_others"):
            known = getattr(self, level)
            found |= {f"{level}.{name}": value for name, value in known or () if isinstance(value, Estimate)}
        return found

    def asked(self, figure: str) -> int:
        """How many queries a figure of `estimates` is the mean or median of."""
        level = getattr(self, figure.split(".")[0])
        return level.queries if isinstance(level, ClassLevel) else self.gallery_size

    def asked_sources(self, figure: str) -> int:
        """How many sources these queries come from."""
        level = getattr(self, figure.split(".")[0])
        return level.sources if isinstance(level, ClassLevel) else self.sources

    def per_query(self) -> dict[str, list[float]]:
        """What each query adds to the figures that are means over the queries."""
        return {name: column.tolist() for name, column in _per_query(np.array(self.ranks)).items()}


class RetrievalReport(FrozenResult):
    """Both directions over one split, and what could flatter them."""

    split: str
    scoring: Literal["middle", "diagonal"] = Field(description="How clips are scored: `evaluate.retrieval`.")
    clips: int = Field(description="Gallery size of both directions: the pairs that are ranked.")
    listed: int | None = Field(description="Ids of the list that chose the clips; None without one.")
    found: int | None = Field(description="Of them, ids with a clip.")
    elsewhere: list[str] = Field([], description="Where others of them are, in sentences.")
    rejected: int = Field(description="Items of the library, of any split, that gave no clip, or not all of theirs.")
    audio_to_visual: RetrievalResult
    visual_to_audio: RetrievalResult
    equal_sounds: int = Field(description="Clips whose log-mel equals an earlier clip's.")
    equal_pictures: int = Field(description="Clips whose frame equals an earlier clip's.")
    shared_sources: int = Field(description="Clips of a source that also gave clips to another split.")
    trained_on: int | None = Field(
        description="Clips of sources that the model was trained on; None where these are unknown."
    )
    clip_ids: list[str] = Field(description="The clips, in the order of `ranks`.")
    clip_sources: list[int] = Field([], description="A number for each, equal where two are of one source.")

    @property
    def warnings(self) -> list[str]:
        """One sentence for each thing that makes the figures easier or harder than they look."""
        found = [
            (self.equal_sounds, "clips have the same sound as an earlier one"),
            (self.equal_pictures, "clips have the same picture as an earlier one"),
            (self.audio_to_visual.gallery_duplicates, "picture embeddings equal an earlier one"),
            (self.visual_to_audio.gallery_duplicates, "sound embeddings equal an earlier one"),
            (self.shared_sources, "clips come from files that also gave clips to another split"),
        ]
        said = [f"{count} of {self.clips} {what}" for count, what in found if count]
        said += seen_warning(self.trained_on, self.clips)
        if self.listed is not None:
            said[:0] = [f"{self.found} of {self.listed} listed ids found", *self.elsewhere]
        if self.audio_to_visual.sources < FEW:
            said.insert(0, few_sources(self.audio_to_visual.sources))
        if self.rejected:
            said.append(f"{counted(self.rejected, 'item')} of the library gave no clip, or not all of theirs")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return self.model_dump(mode="json")

    def to_table(self) -> Any:
        """A rich table: a row per figure, a column per direction, the gallery size in its title."""
        from rich.markup import escape
        from rich.table import Table

        clips = counted_clips(self.clips, self.audio_to_visual.sources)
        title = f"retrieval ({self.scoring}) on split {self.split!r}: {clips}; value [95 % interval]"
        table = Table(
            "",
            f"sound → picture (of {self.audio_to_visual.gallery_size})",
            f"picture → sound (of {self.visual_to_audio.gallery_size})",
            "chance",
            title=escape(title),  # the split's name is the user's
            title_justify="left",
            caption=escape("; ".join(self.warnings)) or None,
            caption_justify="left",
        )
        for name, there, back in _table_rows(self.audio_to_visual, self.visual_to_audio):
            cells = [f"{found.value:.3g} {ends(found.low, found.high)}" for found in (there, back)]
            table.add_row(name, *cells, f"{there.chance:.3g}")
        return table


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
    if query_rows.shape != gallery_rows.shape:
        raise ConfigError(
            f"queries {query_rows.shape} and gallery {gallery_rows.shape} must be the same n pairs of the same width"
        )
    if labels is not None and len(labels) != len(query_rows):
        raise ConfigError(f"{len(labels)} label lists for {len(query_rows)} pairs: expected one list per pair")
    if sources is not None and len(sources) != len(query_rows):
        raise ConfigError(f"{len(sources)} sources for {len(query_rows)} pairs: expected one per pair")
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, found {resamples}")

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
    columns = {name: _Column(values, chance[name]) for name, values in _per_query(ranks.mean).items()}
    estimates: Any = _estimates(columns, known, resamples=resamples, seed=seed)
    low, high = median_interval(ranks.mean, resamples=resamples, seed=seed, sources=known)
    median = Estimate(value=float(np.median(ranks.mean)), low=low, high=high, chance=chance["median_rank"])
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
        **estimates,
    )


class _Column(NamedTuple):
    """What each query adds to a figure, and what a random order would give."""

    values: Float64[np.ndarray, " q"]
    chance: float


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
    columns = {
        "precision_at_1": _Column(scores.precision_at[1], scores.chance_precision),
        "precision_at_10": _Column(scores.precision_at[10], scores.chance_precision),
        "mean_average_precision": _Column(scores.average_precision, scores.chance_average_precision),
    }
    estimates = _estimates(columns, sources, resamples=resamples, seed=seed)
    return ClassLevel(queries=len(sources), sources=len(np.unique(sources)), **estimates)


def _estimates(
    columns: dict[str, _Column], sources: Int64[np.ndarray, " q"], *, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Means of the same queries with their intervals: all columns see the same resamples."""
    table = np.stack([column.values for column in columns.values()], axis=1)
    ends = zip(*mean_intervals(table, resamples=resamples, seed=seed, sources=sources), strict=True)
    return {
        name: Estimate(value=float(column.values.mean()), low=low, high=high, chance=column.chance)
        for (name, column), (low, high) in zip(columns.items(), ends, strict=True)
    }


_SHORT_NAMES = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "median_rank": "median rank",
    "mean_rank": "mean rank",
    "mean_reciprocal_rank": "MRR",
    "ndcg_at_10": "nDCG@10",
    "precision_at_1": "P@1",
    "precision_at_10": "P@10",
    "mean_average_precision": "mAP",
}


def _table_rows(there: RetrievalResult, back: RetrievalResult) -> Iterator[tuple[str, Estimate, Estimate]]:
    """Short name and figure of both directions; class level last, without and with the own partner."""
    levels = [("", there, back)]
    for prefix, key in (("others, class ", "class_level_others"), ("class ", "class_level")):
        levels.append((prefix, getattr(there, key), getattr(back, key)))
    for prefix, first, second in levels:
        if first is None or second is None:
            continue
        for name, short in _SHORT_NAMES.items():
            if hasattr(first, name):
                yield prefix + short, getattr(first, name), getattr(second, name)
