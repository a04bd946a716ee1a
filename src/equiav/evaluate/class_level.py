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


class ClassTally:
    """Gathers the scores of all queries, a chunk at a time.

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
        self._with_own: list[_Found] = []
        self._others: list[_Found] = []

    def add(self, chunk: slice, scores: Float32[np.ndarray, "c n"]) -> None:
        """Take in the queries `chunk` with their scores of all items; the rows of `scores` may be sorted in place."""
        queries = np.array([i for i in range(chunk.start, chunk.stop) if self._labels[i]], dtype=np.int64)
        if not len(queries):
            return
        if len(queries) < len(scores):
            scores = scores[queries - chunk.start]
        ranked = _Ranked(scores, queries, [self._relevant(i) for i in queries])
        self._with_own.append(ranked.found(self._ks, own=True))
        several = ranked.counts > 1
        if several.any():
            self._others.append(ranked.found(self._ks, own=False).of(several))

    def levels(self) -> ClassLevels:
        """Of all queries that were added."""
        n = len(self._labels)
        return ClassLevels(_collect(self._with_own, self._ks, n), _collect(self._others, self._ks, n - 1))

    def _relevant(self, query: int) -> Int64[np.ndarray, " r"]:
        first, *more = (self._members[name] for name in self._labels[query])
        return np.unique(np.concatenate([first, *more])) if more else first


class _Found(NamedTuple):
    """Per query: how many items are relevant, and its figures."""

    relevant: Int64[np.ndarray, " q"]
    average_precision: Float64[np.ndarray, " q"]
    precision_at: Float64[np.ndarray, "q k"]

    def of(self, queries: Bool[np.ndarray, " q"]) -> _Found:
        return _Found(*(column[queries] for column in self))


class _Ranked:
    """The scores of some queries in ascending order, and those of their relevant items, one query after the other."""

    def __init__(
        self, scores: Float32[np.ndarray, "q n"], queries: Int64[np.ndarray, " q"], relevant: list[np.ndarray]
    ) -> None:
        self.counts = np.array([len(items) for items in relevant])
        self.starts = np.cumsum(self.counts) - self.counts
        self.query = np.repeat(np.arange(len(queries)), self.counts)  # of each value, its row
        self.values = scores[self.query, np.concatenate(relevant)]
        self.own = scores[np.arange(len(queries)), queries]
        scores.sort(axis=1)
        self.ascending = scores
        # how many of all items are at least as good as each relevant one, and how many of the relevant ones are
        self.place = np.empty(len(self.values), dtype=np.int64)
        self.reached = np.empty(len(self.values), dtype=np.int64)
        self.own_place = np.zeros(len(self.values), dtype=bool)  # the own partner; of several of its score any one
        for row, start, count, own in zip(scores, self.starts, self.counts, self.own, strict=True):
            part = slice(start, start + count)
            values = self.values[part]
            values.sort()
            self.place[part] = len(row) - row.searchsorted(values)
            self.reached[part] = count - values.searchsorted(values)
            self.own_place[start + values.searchsorted(own)] = True

    def found(self, ks: tuple[int, ...], *, own: bool) -> _Found:
        """The figures over all items; without `own`, over all but each query's own partner."""
        away = not own
        counts = self.counts - away
        ahead = (self.own[self.query] >= self.values) & away
        shares = (self.reached - ahead) / np.maximum(self.place - ahead, 1)
        shares[self.own_place & away] = 0
        average_precision = np.add.reduceat(shares, self.starts) / np.maximum(counts, 1)
        return _Found(counts, average_precision, np.stack([self._precision(k, away) for k in ks], axis=1))

    def _precision(self, k: int, away: bool) -> Float64[np.ndarray, " q"]:
        n, counted = self.ascending.shape[1], ~(self.own_place & away)
        size = min(k, n - away)
        line = self.ascending[:, n - size]  # the lowest score among the first `size`
        if away:  # one place lower where the own partner is one of them
            lower = self.ascending[:, n - size - 1]
            line = np.where(lower < self.own, lower, line)
        least = np.array([row.searchsorted(score) for row, score in zip(self.ascending, line, strict=True)])
        above = (self.ascending[:, n - size - away :] > line[:, None]).sum(axis=1)
        tied = n - least - above - (self.own == line) * away
        above = above - (self.own > line) * away
        limits = line[self.query]
        relevant_above = np.bincount(self.query[(self.values > limits) & counted], minlength=len(line))
        relevant_tied = np.bincount(self.query[(self.values == limits) & counted], minlength=len(line))
        return (relevant_above + relevant_tied * (size - above) / tied) / size


def expected_average_precision(relevant: Int64[np.ndarray, "*shape"], candidates: int) -> Float64[np.ndarray, "*shape"]:
    """Average precision of a random order: E[AP] = (H_n + (R - 1)/(n - 1) · (n - H_n)) / n for R relevant of n."""
    harmonic = harmonic_number(candidates)
    share = (relevant - 1) / max(candidates - 1, 1)
    return (harmonic + share * (candidates - harmonic)) / candidates


def harmonic_number(n: int) -> float:
    """H_n = 1 + 1/2 + … + 1/n."""
    return float(np.sum(1 / np.arange(1, n + 1)))


def _collect(found: list[_Found], ks: tuple[int, ...], candidates: int) -> ClassScores | None:
    if not found:
        return None
    relevant, average_precision, precisions = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return ClassScores(
        average_precision=average_precision,
        precision_at={k: precisions[:, i] for i, k in enumerate(ks)},
        chance_average_precision=float(np.mean(expected_average_precision(relevant, candidates))),
        chance_precision=float(np.mean(relevant / candidates)),
    )
