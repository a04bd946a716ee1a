"""Does the right class come first: average precision and precision at k of every query, with ties, from its scores.

Relevant is every gallery item that shares a label with the query; each figure comes twice, with the query's own
partner among the items and with it taken out.

Ties count as one threshold, as scikit-learn's `average_precision_score` has it; precision at k is its mean over all
orders of the tied items, among the first n where k is larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int64


class ClassScores(NamedTuple):
    """Class-level scores of the queries that have at least one relevant item, and what a random order would give."""

    average_precision: Float64[np.ndarray, " q"]
    precision_at: dict[int, Float64[np.ndarray, " q"]]
    chance_average_precision: float
    chance_precision: float


class ClassLevels(NamedTuple):
    """With the query's partner in the gallery, where it is relevant, and with the partner taken out.

    None: no query has a relevant item.
    """

    with_own: ClassScores | None
    others: ClassScores | None


class Found(NamedTuple):
    """Per query: how many items are relevant, and its figures."""

    relevant: Int64[np.ndarray, " q"]
    average_precision: Float64[np.ndarray, " q"]
    precision_at: Float64[np.ndarray, "q k"]

    def of(self, queries: Bool[np.ndarray, " q"]) -> Found:
        """Of some of the queries."""
        return Found(*(column[queries] for column in self))


class FoundPart(NamedTuple):
    """The figures of some queries: with the own partner, and without it for those that have other relevant items."""

    with_own: Found
    others: Found | None


class ClassScorer:
    """Scores queries a part at a time, in any order and in several threads.

    Args:
        labels: of each of the n pairs; a pair without any is no query.
        ks: of the precisions.
    """

    def __init__(self, labels: Sequence[Sequence[str]], ks: tuple[int, ...]) -> None:
        self._labels, self._ks = labels, ks
        members: dict[str, list[int]] = {}
        for i, names in enumerate(labels):
            for name in set(names):
                members.setdefault(name, []).append(i)
        self._members = {name: np.array(items) for name, items in members.items()}

    def score(self, part: slice, scores: Float32[np.ndarray, "p n"]) -> FoundPart | None:
        """The queries `part` with their scores of all items; the rows of `scores` may be sorted in place."""
        queries = np.array([i for i in range(part.start, part.stop) if self._labels[i]], dtype=np.int64)
        if not len(queries):
            return None
        if len(queries) < len(scores):
            scores = scores[queries - part.start]
        ranked = _Ranked(scores, queries, [self._relevant(i) for i in queries])
        several = ranked.counts > 1
        others = ranked.found(self._ks, own=False).of(several) if several.any() else None
        return FoundPart(ranked.found(self._ks, own=True), others)

    def levels(self, parts: Sequence[FoundPart | None]) -> ClassLevels:
        """Of the scores of all queries."""
        found, n = [part for part in parts if part], len(self._labels)
        with_own, others = [part.with_own for part in found], [part.others for part in found if part.others]
        return ClassLevels(_collect(with_own, self._ks, n), _collect(others, self._ks, n - 1))

    def _relevant(self, query: int) -> Int64[np.ndarray, " r"]:
        first, *more = (self._members[name] for name in self._labels[query])
        if not more:
            return first
        shared = np.zeros(len(self._labels), dtype=bool)
        for items in (first, *more):
            shared[items] = True
        return np.flatnonzero(shared)


class _Ranked:
    """The scores of some queries in ascending order, and those of their r or fewer relevant items, -inf before them."""

    def __init__(
        self, scores: Float32[np.ndarray, "q n"], queries: Int64[np.ndarray, " q"], relevant: list[np.ndarray]
    ) -> None:
        rows = np.arange(len(queries))
        self.counts = np.array([len(items) for items in relevant])
        listed = np.arange(self.counts.max()) < self.counts[:, None]
        self.values = np.full(listed.shape, -np.inf, dtype=np.float32)
        self.values[listed] = scores[np.repeat(rows, self.counts), np.concatenate(relevant)]
        self.values.sort(axis=1)
        self.own = scores[rows, queries][:, None]
        scores.sort(axis=1)
        self.ascending = scores
        # how many of all items are at least as good as each relevant one, and how many of the relevant ones are
        self.place = np.empty(listed.shape, dtype=np.int64)
        for i, (row, values) in enumerate(zip(scores, self.values, strict=True)):
            self.place[i] = len(row) - row.searchsorted(values)
        order = np.arange(listed.shape[1])
        first = np.zeros_like(self.place)
        first[:, 1:] = np.where(self.values[:, 1:] > self.values[:, :-1], order[1:], 0)  # 0: equal to the one before
        self.reached = listed.shape[1] - np.maximum.accumulate(first, axis=1)
        self.own_place = order == np.argmax(self.values == self.own, axis=1)[:, None]  # of ties with the own the first

    def found(self, ks: tuple[int, ...], *, own: bool) -> Found:
        """The figures over all items; without `own`, over all but each query's own partner."""
        away = not own
        counts = self.counts - away
        counted = np.isfinite(self.values) & ~(self.own_place & away)
        ahead = (self.own >= self.values) & away
        shares = (self.reached - ahead) / np.maximum(self.place - ahead, 1)
        average_precision = np.where(counted, shares, 0).sum(axis=1) / np.maximum(counts, 1)
        return Found(counts, average_precision, np.stack([self._precision(k, counted, away) for k in ks], axis=1))

    def _precision(self, k: int, counted: Bool[np.ndarray, "q r"], away: bool) -> Float64[np.ndarray, " q"]:
        n = self.ascending.shape[1]
        size = min(k, n - away)
        place = np.full(self.own.shape, n - size)
        if away:  # one lower where the own partner is among the first `size`
            place -= self.ascending[:, [n - size - 1]] < self.own
        line = np.take_along_axis(self.ascending, place, axis=1)  # the lowest score among the first `size`
        below = place[:, 0]  # items; fewer where ties reach beyond the first `size`
        for row in np.flatnonzero((place > 0) & (np.take_along_axis(self.ascending, place - 1, axis=1) == line)):
            below[row] = self.ascending[row].searchsorted(line[row, 0])
        above = (self.ascending[:, n - size - away :] > line).sum(axis=1)
        tied = n - below - above - ((self.own == line) & away)[:, 0]
        above -= ((self.own > line) & away)[:, 0]
        relevant_above = ((self.values > line) & counted).sum(axis=1)
        relevant_tied = ((self.values == line) & counted).sum(axis=1)
        return (relevant_above + relevant_tied * (size - above) / tied) / size


def expected_average_precision(relevant: Int64[np.ndarray, "*shape"], candidates: int) -> Float64[np.ndarray, "*shape"]:
    """Average precision of a random order: E[AP] = (H_n + (R - 1)/(n - 1) · (n - H_n)) / n for R relevant of n."""
    harmonic = harmonic_number(candidates)
    share = (relevant - 1) / max(candidates - 1, 1)
    return (harmonic + share * (candidates - harmonic)) / candidates


def harmonic_number(n: int) -> float:
    """H_n = 1 + 1/2 + … + 1/n."""
    return float(np.sum(1 / np.arange(1, n + 1)))


def _collect(found: list[Found], ks: tuple[int, ...], candidates: int) -> ClassScores | None:
    if not found:
        return None
    relevant, average_precision, precisions = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return ClassScores(
        average_precision=average_precision,
        precision_at={k: precisions[:, i] for i, k in enumerate(ks)},
        chance_average_precision=float(np.mean(expected_average_precision(relevant, candidates))),
        chance_precision=float(np.mean(relevant / candidates)),
    )
