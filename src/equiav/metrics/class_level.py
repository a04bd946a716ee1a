"""Does the right class come first: average precision and precision at k of every query, with ties, from its scores.

Relevant is every gallery item that shares a label with the query; each figure comes twice, with the query's own
partner among the items and without the windows of its own source, which are alike whatever the class is: the partner
alone where every clip is of a source of its own.

Ties count as one threshold, as scikit-learn's `average_precision_score` has it; precision at k is its mean over all
orders of the tied items, among the first n where k is larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64


class ClassScores(NamedTuple):
    """Class-level scores of the queries that have at least one relevant item, and what a random order would give."""

    queries: Int64[np.ndarray, " q"]
    average_precision: Float64[np.ndarray, " q"]
    precision_at: dict[int, Float64[np.ndarray, " q"]]
    chance_average_precision: float
    chance_precision: float


class ClassLevels(NamedTuple):
    """With the query's partner in the gallery, where it is relevant, and without the windows of the query's source.

    None: no query has a relevant item.
    """

    with_own: ClassScores | None
    others: ClassScores | None


class Found(NamedTuple):
    """Per query: which it is, how many items there are and how many of them are relevant, and its figures."""

    queries: Int64[np.ndarray, " q"]
    candidates: Int64[np.ndarray, " q"]
    relevant: Int64[np.ndarray, " q"]
    average_precision: Float64[np.ndarray, " q"]
    precision_at: Float64[np.ndarray, "q k"]


class FoundPart(NamedTuple):
    """The figures of some queries: with the own partner, and without its source where other items are relevant."""

    with_own: Found
    others: Found | None


class ClassScorer:
    """Scores queries a part at a time, in any order and in several threads.

    Args:
        labels: of each of the n pairs; a pair without any is no query.
        ks: of the precisions.
        sources: a number for each pair, equal where two are of one source; None: each has its own.
    """

    def __init__(
        self, labels: Sequence[Sequence[str]], ks: tuple[int, ...], sources: Int64[np.ndarray, " n"] | None = None
    ) -> None:
        self._labels, self._ks = labels, ks
        members: dict[str, list[int]] = {}
        for i, names in enumerate(labels):
            for name in set(names):
                members.setdefault(name, []).append(i)
        self._members = {name: np.array(items) for name, items in members.items()}
        self._sources = np.arange(len(labels)) if sources is None else sources
        order = np.argsort(self._sources, kind="stable")
        _, starts = np.unique(self._sources[order], return_index=True)
        self._windows = {int(self._sources[items[0]]): items for items in np.split(order, starts[1:])}

    def score(self, part: slice, scores: Float32[np.ndarray, "p n"]) -> FoundPart | None:
        """The queries `part` with their scores of all items; the rows of `scores` may be sorted in place."""
        queries = np.array([i for i in range(part.start, part.stop) if self._labels[i]], dtype=np.int64)
        if not len(queries):
            return None
        if len(queries) < len(scores):
            scores = scores[queries - part.start]
        relevant = _Listed.of(scores, [self._relevant(i) for i in queries])
        own = _Listed.of(scores, [self._windows[number] for number in self._sources[queries].tolist()])
        others = relevant.where(self._sources[relevant.items] != self._sources[queries][relevant.rows])
        scores.sort(axis=1)
        sizes = np.full(len(queries), scores.shape[1])
        with_own = _found(queries, scores, sizes, relevant, self._ks)
        several = np.flatnonzero(others.counts)
        if not len(several):
            return FoundPart(with_own, None)
        if len(several) < len(queries):
            scores, sizes = scores[several], sizes[several]
            others, own, queries = others.of_queries(several), own.of_queries(several), queries[several]
        _take_out(scores, own)
        return FoundPart(with_own, _found(queries, scores, sizes - own.counts, others, self._ks))

    def levels(self, parts: Sequence[FoundPart | None]) -> ClassLevels:
        """Of the scores of all queries."""
        found = [part for part in parts if part]
        with_own, others = [part.with_own for part in found], [part.others for part in found if part.others]
        return ClassLevels(_collect(with_own, self._ks), _collect(others, self._ks))

    def _relevant(self, query: int) -> Int64[np.ndarray, " r"]:
        first, *more = (self._members[name] for name in self._labels[query])
        if not more:
            return first
        shared = np.zeros(len(self._labels), dtype=bool)
        for items in (first, *more):
            shared[items] = True
        return np.flatnonzero(shared)


class _Listed(NamedTuple):
    """Some of the items of each query with their scores, one query behind the other."""

    rows: Int64[np.ndarray, " m"]
    items: Int64[np.ndarray, " m"]
    scores: Float32[np.ndarray, " m"]
    counts: Int64[np.ndarray, " q"]

    @classmethod
    def of(cls, scores: Float32[np.ndarray, "q n"], lists: list[np.ndarray]) -> _Listed:
        counts = np.array([len(items) for items in lists])
        rows, items = np.repeat(np.arange(len(lists)), counts), np.concatenate(lists)
        return cls(rows, items, scores[rows, items], counts)

    def where(self, kept: np.ndarray) -> _Listed:
        rows = self.rows[kept]
        return _Listed(rows, self.items[kept], self.scores[kept], np.bincount(rows, minlength=len(self.counts)))

    def of_queries(self, chosen: Int64[np.ndarray, " c"]) -> _Listed:
        number = np.full(len(self.counts), -1)
        number[chosen] = np.arange(len(chosen))
        kept = number[self.rows] >= 0
        return _Listed(number[self.rows[kept]], self.items[kept], self.scores[kept], self.counts[chosen])

    def ascending(self) -> Float32[np.ndarray, "q r"]:
        """A row per query, -inf before its scores."""
        listed = np.arange(self.counts.max()) < self.counts[:, None]
        values = np.full(listed.shape, -np.inf, dtype=np.float32)
        values[listed] = self.scores
        values.sort(axis=1)
        return values


def _take_out(ascending: Float32[np.ndarray, "q n"], listed: _Listed) -> None:
    """Take listed scores out of sorted rows; what is left goes to the end, -inf before it."""
    away = np.split(listed.scores[np.lexsort((listed.scores, listed.rows))], np.cumsum(listed.counts)[:-1])
    for row, values in zip(ascending, away, strict=True):
        # equal ones stand one behind the other
        places = row.searchsorted(values) + np.arange(len(values)) - values.searchsorted(values)
        row[len(values) :] = np.delete(row, places)
        row[: len(values)] = -np.inf


def _found(
    queries: Int64[np.ndarray, " q"],
    ascending: Float32[np.ndarray, "q n"],
    sizes: Int64[np.ndarray, " q"],
    relevant: _Listed,
    ks: tuple[int, ...],
) -> Found:
    """The figures of sorted rows, of which the last `sizes` are items."""
    values = relevant.ascending()
    counted = np.isfinite(values)
    # how many of all items are at least as good as each relevant one, and how many of the relevant ones are
    place = np.empty(values.shape, dtype=np.int64)
    for i, (row, own) in enumerate(zip(ascending, values, strict=True)):
        place[i] = len(row) - row.searchsorted(own)
    order = np.arange(values.shape[1])
    first = np.zeros_like(place)
    first[:, 1:] = np.where(values[:, 1:] > values[:, :-1], order[1:], 0)  # 0: equal to the one before
    reached = values.shape[1] - np.maximum.accumulate(first, axis=1)
    average_precision = np.where(counted, reached / place, 0).sum(axis=1) / relevant.counts
    precisions = np.stack([_precision(k, ascending, sizes, values) for k in ks], axis=1)
    return Found(queries, sizes, relevant.counts, average_precision, precisions)


def _precision(
    k: int,
    ascending: Float32[np.ndarray, "q n"],
    sizes: Int64[np.ndarray, " q"],
    values: Float32[np.ndarray, "q r"],
) -> Float64[np.ndarray, " q"]:
    n = ascending.shape[1]
    size = np.minimum(k, sizes)
    place = (n - size)[:, None]
    line = np.take_along_axis(ascending, place, axis=1)  # the lowest score among the first `size`
    below = place[:, 0].copy()  # items; fewer where ties reach beyond the first `size`
    before = np.take_along_axis(ascending, np.maximum(place - 1, 0), axis=1)
    for row in np.flatnonzero((place > 0) & (before == line)):
        below[row] = ascending[row].searchsorted(line[row, 0])
    above = (ascending[:, -min(k, n) :] > line).sum(axis=1)
    tied = n - below - above
    relevant_above, relevant_tied = (found.sum(axis=1) for found in (values > line, values == line))
    return (relevant_above + relevant_tied * (size - above) / tied) / size


def expected_average_precision(
    relevant: Int64[np.ndarray, "*shape"], candidates: int | Int64[np.ndarray, "*shape"]
) -> Float64[np.ndarray, "*shape"]:
    """Average precision of a random order: E[AP] = (H_n + (R - 1)/(n - 1) · (n - H_n)) / n for R relevant of n."""
    sizes, place = np.unique(candidates, return_inverse=True)
    harmonic = np.array([harmonic_number(int(size)) for size in sizes])[place].reshape(np.shape(candidates))
    share = (relevant - 1) / np.maximum(np.asarray(candidates) - 1, 1)
    return (harmonic + share * (candidates - harmonic)) / candidates


def harmonic_number(n: int) -> float:
    """H_n = 1 + 1/2 + … + 1/n."""
    return float(np.sum(1 / np.arange(1, n + 1)))


def _collect(found: list[Found], ks: tuple[int, ...]) -> ClassScores | None:
    if not found:
        return None
    columns = (np.concatenate(column) for column in zip(*found, strict=True))
    queries, candidates, relevant, average_precision, precisions = columns
    return ClassScores(
        queries=queries,
        average_precision=average_precision,
        precision_at={k: precisions[:, i] for i, k in enumerate(ks)},
        chance_average_precision=float(np.mean(expected_average_precision(relevant, candidates))),
        chance_precision=float(np.mean(relevant / candidates)),
    )
