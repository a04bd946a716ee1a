"""How high a score is in this library:  the scores of pairs of different clips, compared as the query is → percentile.

Cosines of one model gather near 0.9, those of another near 0.1: a score by itself says little. Its percentile says how
many of the library's pairs score less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from equiav.config import Modalities
from equiav.search.table import EmbeddingsTable

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

SAMPLE = 512  # clips, evenly spaced in the table: a quarter of a million pairs
ROUNDING = 1e-6  # of a score


class PairScores:
    """Scores of pairs of clips of one version of a table, measured when they are first asked for."""

    def __init__(self, table: EmbeddingsTable) -> None:
        self._table = table
        self._vectors: tuple[Float32[np.ndarray, "n E"], Float32[np.ndarray, "n E"]] | None = None
        self._scores: dict[tuple[Modalities, Modalities], Float32[np.ndarray, " p"]] = {}

    def percentiles(
        self, scores: Float64[np.ndarray, " n"], query: Modalities, by: Modalities
    ) -> list[float] | list[None]:
        """Percent of the pairs that score less than each score; None where the library has no two clips to compare.

        Args:
            scores: of hits.
            query: what the query was made from; `both` is the unit mean of a clip's sound and picture.
            by: what it was compared with.
        """
        pairs = self._scores.get((query, by))
        if pairs is None:
            pairs = self._scores[query, by] = np.sort(self._measure(query, by))
        if not len(pairs):
            return [None] * len(scores)
        return (np.searchsorted(pairs, (scores - ROUNDING).astype(pairs.dtype)) / len(pairs) * 100).tolist()

    def _measure(self, query: Modalities, by: Modalities) -> Float32[np.ndarray, " p"]:
        if self._vectors is None:
            self._vectors = self._table.sample(SAMPLE)
        audio, visual = self._vectors
        queries = {"audio": audio, "visual": visual, "both": _unit(_mean([audio, visual]))}[query]
        compared = {"audio": [audio], "visual": [visual], "both": [audio, visual]}[by]
        scores = _mean([queries @ vectors.T for vectors in compared])
        np.fill_diagonal(scores, np.nan)  # a clip and itself
        return scores[np.isfinite(scores)]


def _mean(parts: list[Float32[np.ndarray, "n m"]]) -> Float32[np.ndarray, "n m"]:
    """The mean of those parts that are no NaN; NaN where none is."""
    there = np.sum([np.isfinite(part) for part in parts], axis=0)
    total = np.sum([np.nan_to_num(part) for part in parts], axis=0)
    return np.where(there > 0, total / np.maximum(there, 1), np.nan).astype(np.float32)


def _unit(vectors: Float32[np.ndarray, "n E"]) -> Float64[np.ndarray, "n E"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
