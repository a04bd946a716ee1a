"""The index of a large table's vectors:  built, extended and measured by `embed`; read by search.

Lance's IVF_RQ: of those that hold a million vectors after a few minutes the most faithful (docs/log.md). What is known
of it, its recall too, stands in the table's metadata with the ids of the index segments that it was measured on: after
a kill between the two nothing is known, and the next embed measures again.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equiav.config import MODALITIES, Modality
from equiav.library.versions import index_ids, writing
from equiav.search.table import EmbeddingsTable, matrix_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64

EXACT_ROWS = 100_000  # as many vectors are compared one by one in the time that a reader does not notice
TAIL_ROWS = 10_000  # as many new ones are compared one by one beside the index
RETRAIN = 4  # times the vectors that it was trained on: its partitions are too few
CANDIDATES = 5  # for each hit
# candidates lie all over the table, and each fragment that is touched costs as much as many rows: of a million clips,
# 50 are read in 2 ms from 3 fragments, in 5 ms from 62
FRAGMENT_ROWS, FRAGMENTS = 262_144, 8
KEY = b"equiav.index"
SAMPLE, RECALL_AT = 64, 10
# So many of the index's partitions are looked into for `RECALL_AT` hits: as few as find enough. Lance would choose for
# each query, which takes two and a half times as long where vectors lie in clusters, and finds less where they do not
PROBES, ENOUGH = (20, 40, 80, 160, 320, 640), 0.995


@dataclass(frozen=True)
class IndexFacts:
    """What was measured of one modality's index."""

    segments: list[str]
    vectors: int
    trained: int  # vectors that its partitions were made for
    zeros: int  # vectors without a direction: it does not hold them
    alone: int  # clips that have this modality alone
    probes: int  # partitions that are looked into for `RECALL_AT` hits
    recall: float  # share of the nearest `RECALL_AT` that it finds then
    seconds: float  # of the last build


@dataclass(frozen=True)
class EmbeddingIndex:
    """The index of one version of a table: of each modality that has one, the fragments in it and what is known."""

    covered: dict[Modality, frozenset[int]]
    facts: dict[Modality, IndexFacts]
    embedded: str | None  # the version of the library whose clips are all in the table, and no others

    @classmethod
    def of(cls, table: EmbeddingsTable) -> EmbeddingIndex:
        """The index of a table, as far as there is one."""
        said: dict[str, Any] = json.loads(table.said(KEY) or "{}")
        covered: dict[Modality, frozenset[int]] = {}
        facts: dict[Modality, IndexFacts] = {}
        for modality in MODALITIES:
            if segments := _segments(table, modality):
                covered[modality] = frozenset[int]().union(*segments.values())
                known = said.get(modality, {})
                # what another version of equiav measured is measured again
                if known.keys() == IndexFacts.__annotations__.keys() and known["segments"] == sorted(segments):
                    facts[modality] = IndexFacts(**known)
        return cls(covered, facts, said.get("library"))


def is_large(rows: int) -> bool:
    """Whether so many are not compared one by one."""
    return rows >= EXACT_ROWS


def update_index(table: EmbeddingsTable, library: str | None) -> EmbeddingIndex:
    """Build, or extend, the index of a table that holds all clips of the library's version `library`, and no others.

    A small table gets none, nor one whose width Lance's index does not take.
    """
    known, facts = EmbeddingIndex.of(table).facts, dict[Modality, IndexFacts]()
    if is_large(table.count()):
        table.join(FRAGMENT_ROWS, FRAGMENTS)
    now = EmbeddingIndex.of(table)  # of fragments that were joined another one
    has = dict(zip(MODALITIES, table.modalities(), strict=True))
    for modality in MODALITIES:
        vectors = int(has[modality].sum())
        if modality not in now.covered and (not is_large(vectors) or table.width % 8):
            continue
        before, start = known.get(modality), time.monotonic()
        if modality not in now.covered or (before and vectors > RETRAIN * before.trained):
            with writing(table.path):
                table.dataset.create_index(
                    f"{modality}_embedding", "IVF_RQ", name=modality, metric="cosine", replace=True
                )
            trained, seconds = vectors, time.monotonic() - start
        elif _outside(table, now.covered[modality]) > TAIL_ROWS or modality not in now.facts:
            with writing(table.path):  # in one part: search asks each of them
                table.dataset.optimize.optimize_indices(index_names=[modality], num_indices_to_merge=1)
            trained, seconds = (before.trained, before.seconds) if before else (vectors, 0.0)
        else:
            facts[modality] = now.facts[modality]
            continue
        table.reopen()
        facts[modality] = _measured(table, modality, has, trained, seconds)
    if facts:
        index_ids(table.dataset, table.path)
        table.reopen()
        text = json.dumps({name: asdict(known) for name, known in facts.items()} | {"library": library})
        if table.said(KEY) != text:
            table.say(KEY, text)
    return EmbeddingIndex.of(table)


def near(
    table: EmbeddingsTable, modality: Modality, query: Float32[np.ndarray, " E"], n: int, probes: int | None
) -> Int64[np.ndarray, " m"]:
    """Ids of the n rows that the index names for a query, or fewer; rows outside of the index are not among them.

    Args:
        probes: partitions that are looked into for `RECALL_AT` hits, and more of them for more; None: Lance chooses.
    """
    nearest: dict[str, Any] = {"column": f"{modality}_embedding", "q": query, "k": n, "metric": "cosine"}
    if probes:
        nearest["nprobes"] = probes * -(-n // (CANDIDATES * RECALL_AT))
    # without a column it would read the vectors; the distances are not those of the vectors
    found = table.dataset.to_table(columns=["_distance"], nearest=nearest, fast_search=True, with_row_id=True)
    return found["_rowid"].to_numpy().astype(np.int64)


def _segments(table: EmbeddingsTable, modality: Modality) -> dict[str, set[int]]:
    """The parts of a modality's index: id, and which fragments it is of."""
    found = [index.segments for index in table.dataset.describe_indices() if index.name == modality]
    return {str(segment.uuid): set(segment.fragment_ids) for segments in found for segment in segments}


def _outside(table: EmbeddingsTable, covered: frozenset[int]) -> int:
    fragments = table.dataset.get_fragments()
    return sum(fragment.count_rows() for fragment in fragments if fragment.fragment_id not in covered)


def _measured(
    table: EmbeddingsTable,
    modality: Modality,
    has: dict[Modality, Bool[np.ndarray, " n"]],
    trained: int,
    seconds: float,
) -> IndexFacts:
    """Compare what the index finds with what there is, for queries of both modalities."""
    columns = [f"{name}_embedding" for name in MODALITIES]
    sample = np.random.default_rng(0).permutation(np.flatnonzero(has[modality]))[:SAMPLE]
    rows = table.take(np.sort(sample).tolist(), columns)
    queries = np.concatenate([matrix_of(rows[name]) for name in columns])
    queries = queries[np.isfinite(queries).all(axis=1) & queries.any(axis=1)]
    best, zeros = np.full((len(queries), RECALL_AT), -np.inf, np.float32), 0
    for batch in table.batches(modality):
        vectors = batch[np.isfinite(batch).all(axis=1)]
        zeros += int((~vectors.any(axis=1)).sum())
        together = np.concatenate([best, queries @ vectors.T], axis=1)
        best = np.partition(together, together.shape[1] - RECALL_AT, axis=1)[:, -RECALL_AT:]
    there = np.isfinite(best)
    # as many of the nearest as it finds, whichever of equally near ones
    lowest = np.where(there, best, np.inf).min(axis=1, initial=np.inf) - 1e-5
    probes, recall = PROBES[0], 1.0
    for probes in PROBES if there.any() else ():
        hits = 0
        for query, low in zip(queries, lowest, strict=True):
            hits += min(int((_cosines(table, modality, query, probes) >= low).sum()), RECALL_AT)
        recall = hits / int(there.sum())
        if recall >= ENOUGH:
            break
    other = has["visual" if modality == "audio" else "audio"]
    return IndexFacts(
        segments=sorted(_segments(table, modality)),
        vectors=int(has[modality].sum()),
        trained=trained,
        zeros=zeros,
        alone=int((has[modality] & ~other).sum()),
        probes=probes,
        recall=round(recall, 4),
        seconds=round(seconds, 1),
    )


def _cosines(
    table: EmbeddingsTable, modality: Modality, query: Float32[np.ndarray, " E"], probes: int
) -> Float32[np.ndarray, " m"]:
    """Cosines of the candidates that the index names for `RECALL_AT` hits."""
    named = near(table, modality, query, CANDIDATES * RECALL_AT, probes)
    return matrix_of(table.rows(named, [f"{modality}_embedding"])[f"{modality}_embedding"]) @ query
