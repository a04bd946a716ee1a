"""How fast, how faithful and how large is search in a million clips?

Prints one JSON object. A library of `--rows` cheap clips with clustered unit vectors of width `--width` is made in
`--folder` (kept there, and taken again when it has as many), and its index as `equiav embed` builds it. Then, of
`SearchIndex.search` in a process that is kept open: recall@10 against comparing all vectors, and milliseconds; of a
fresh `equiav search` for a clip id and for a sound: seconds and peak memory; of exact search among 100,000 rows:
milliseconds. The ceilings of the same run are the same queries in faiss (IVF-PQ with refinement, HNSW) and usearch, as
far as these are installed, and a matrix product with all vectors, each within `--limit` seconds or with fewer rows.

    python benchmarks/search.py --rows 1000000 --folder /tmp/search
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from _common import environment
from equiav import EquiAV
from equiav.config import Architecture, Features, ModelConfig, load_recipe
from equiav.library.table import Library
from equiav.media.mux import wav_file
from equiav.search.exact import Exact
from equiav.search.index import SearchIndex
from equiav.search.indexing import EmbeddingIndex
from equiav.search.table import EmbeddedClips, EmbeddingsTable

PART = 16_384
K = 10


def clustered(rng: np.random.Generator, centres: np.ndarray, n: int) -> np.ndarray:
    """Unit vectors around random centres; the cosine of one with its centre is about 0.8."""
    width = centres.shape[1]
    noise = rng.standard_normal((n, width), dtype=np.float32) * np.float32(0.7 / width**0.5)
    vectors = centres[rng.integers(0, len(centres), n)] + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class World:
    """The vectors of a benchmark, the same at each call."""

    def __init__(self, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self._centres = clustered(np.random.default_rng(0), np.zeros((1, width), np.float32), max(8, rows // 250))

    def parts(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Ids and vectors."""
        rng = np.random.default_rng(1)
        for first in range(0, self.rows, PART):
            n = min(PART, self.rows - first)
            ids = [f"{bits:016x}" for bits in rng.integers(0, 2**62, n)]
            yield ids, clustered(rng, self._centres, n)

    def queries(self, n: int) -> np.ndarray:
        """Vectors of the same kind that are not in the table."""
        return clustered(np.random.default_rng(2), self._centres, n)


def tiny_model(width: int) -> EquiAV:
    """The toy recipe's model, of this width."""
    recipe = load_recipe("toy")
    sizes = recipe.model.model_copy(update={"embedding": width})
    sizes = Architecture(**{name: getattr(sizes, name) for name in Architecture.model_fields})
    return EquiAV(ModelConfig(architecture=sizes, features=recipe.features, audio_mean=-6.0, audio_std=4.0), seed=0)


def make_library(folder: Path, features: Features, world: World) -> None:
    """A library with rows that have ids, files and times, but neither sound nor frames."""
    path = folder / "clips.lance"
    Library.create(folder, features)
    schema = lance.dataset(path).schema
    plain = {"string": "", "int64": 1, "double": 0.0}

    def column(field: pa.Field, ids: list[str], first: int) -> pa.Array:
        numbers = range(first, first + len(ids))
        known: dict[str, list[Any]] = {
            "clip_id": ids,
            "source": [f"videos/{i // 10:07}.mp4" for i in numbers],
            "start_s": [float(i % 10) for i in numbers],
            "end_s": [float(i % 10 + 1) for i in numbers],
            "labels": [[f"class{i % 100}"] for i in numbers],
            "split": ["test" if i % 10 == 0 else "train" for i in numbers],
            "status": ["no_video"] * len(ids),
        }
        if field.name in known:
            return pa.array(known[field.name], field.type)
        empty = [] if pa.types.is_list(field.type) else plain.get(str(field.type))
        return pa.nulls(len(ids), field.type) if empty is None else pa.array([empty] * len(ids), field.type)

    def batches() -> Iterator[pa.RecordBatch]:
        first = 0
        for ids, _ in world.parts():
            yield pa.record_batch([column(field, ids, first) for field in schema], schema=schema)
            first += len(ids)

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    lance.write_dataset(reader, path, mode="append", max_rows_per_file=32_768)


def build(folder: Path, model: EquiAV, world: World) -> dict[str, Any]:
    """The library, its embeddings and their index, as embed makes them."""
    features = model.config.features
    start = time.monotonic()
    make_library(folder, features, world)
    thumbnail = bytes(3000)
    with EmbeddingsTable.for_writing(folder, model.fingerprint(), world.width, features) as table:
        for ids, vectors in world.parts():
            table.append(EmbeddedClips(ids, [thumbnail] * len(ids), vectors, None))
        table.tidy()
    made_s = time.monotonic() - start
    return {"table_s": round(made_s, 1)}


INDEX = """
import sys, time
from equiav.library.table import Library
from equiav.search.indexing import update_index
from equiav.search.table import EmbeddingsTable
folder, fingerprint, width = sys.argv[1], sys.argv[2], int(sys.argv[3])
features, start = Library(folder).features, time.monotonic()
Library(folder).index_ids()
with EmbeddingsTable.for_writing(folder, fingerprint, width, features) as table:
    update_index(table, Library(folder).opened)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.monotonic() - start, int(peak.split()[1]) / 1024)
"""


def index(folder: Path, model: EquiAV, world: World) -> dict[str, Any]:
    """Build the index in a process of its own, for its memory."""
    asked = [sys.executable, "-c", INDEX, str(folder), model.fingerprint(), str(world.width)]
    seconds, peak = map(float, subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split())
    table = EmbeddingsTable.open(folder, model.fingerprint())
    facts = EmbeddingIndex.of(table).facts.get("audio")
    size = {
        name: sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) / 2**20
        for name, place in (
            ("vectors_index_mib", Path(str(table.path)) / "_indices"),
            ("library_id_index_mib", folder / "clips.lance" / "_indices"),
            ("table_mib", Path(str(table.path)) / "data"),
        )
    }
    return {
        "build_s": round(seconds, 1),
        "build_peak_mib": round(peak),
        "stored_recall": facts.recall if facts else None,
        **{name: round(mib) for name, mib in size.items()},
    }


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    """Of times in milliseconds."""
    return {f"p{p}_ms": round(float(np.percentile(milliseconds, p)), 2) for p in (50, 95, 99)}


def timed(ask: Callable[[np.ndarray], Any], queries: np.ndarray) -> tuple[list[Any], dict[str, float]]:
    """Answers, and how long they took when a tenth of them was asked before."""
    for query in queries[: max(3, len(queries) // 10)]:
        ask(query)
    found, milliseconds = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(ask(query))
        milliseconds.append((time.perf_counter() - start) * 1000)
    return found, percentiles(milliseconds)


def recall(found: list[set[Any]], wanted: list[set[Any]]) -> float:
    """Share of the true nearest that were found."""
    return round(float(np.mean([len(a & b) / len(b) for a, b in zip(found, wanted, strict=True)])), 4)


def warm(folder: Path, model: EquiAV, queries: np.ndarray, wanted: list[set[str]]) -> dict[str, Any]:
    """`SearchIndex`, kept open."""
    search = SearchIndex(folder, model)
    found, times = timed(lambda query: search.search(vector=query, by="audio", k=K), queries)
    return {"recall_at_10": recall([{hit.clip_id for hit in hits} for hits in found], wanted), **times}


# in a small process, because Linux counts the memory of the one that starts another as the other's too
ALONE = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def fresh(folder: Path, run: Path, clip: str) -> dict[str, Any]:
    """`equiav search` in new processes: the median of three, after one."""
    sound = run / "sound.wav"
    sound.write_bytes(wav_file(np.random.default_rng(0).uniform(-0.1, 0.1, 48_000).astype(np.float32), 16_000))
    report: dict[str, Any] = {}
    for name, asked in (("clip_id", ["--clip", clip]), ("sound", ["--audio", str(sound), "--by", "audio"])):
        command = [sys.executable, "-m", "equiav", "search", "-L", str(folder), "-R", str(run), *asked, "--json"]
        found = []
        for _ in range(4):
            done = subprocess.run([sys.executable, "-c", ALONE, *command], capture_output=True, text=True, check=True)
            found.append(list(map(float, done.stdout.split())))
        seconds, peaks = zip(*found, strict=True)
        report[f"{name}_s"] = round(float(np.median(seconds[1:])), 2)
        report[f"{name}_peak_mib"] = round(max(peaks))
    return report


def exact(model: EquiAV, width: int, rows: int) -> dict[str, Any]:
    """Comparing all vectors of a small table."""
    world = World(rows, width)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), model, world)
        search = SearchIndex(folder, model)
        assert isinstance(search._now, Exact)
        queries = world.queries(50)
        _, times = timed(lambda query: search.search(vector=query, by="audio", k=K), queries)
        matrix = EmbeddingsTable.open(folder, model.fingerprint()).vectors("audio")
        _, product = timed(lambda query: matrix @ query, queries)
    return {"rows": rows, **times, "product_p50_ms": product["p50_ms"]}


def library(name: str) -> Any:
    """Another library, which need not be installed."""
    return import_module(name)


def ivf_pq(vectors: np.ndarray) -> Callable[[np.ndarray], Any]:
    """faiss: inverted lists of product codes, refined with the vectors."""
    faiss = library("faiss")

    lists = int(4 * len(vectors) ** 0.5)
    made = faiss.index_factory(vectors.shape[1], f"IVF{lists},PQ64,RFlat", faiss.METRIC_INNER_PRODUCT)
    made.train(vectors[:: max(1, len(vectors) // (40 * lists))])
    made.add(vectors)
    faiss.ParameterSpace().set_index_parameters(made, "k_factor_rf=10,nprobe=32")
    return lambda query: made.search(query[None], K)[1][0]


def hnsw(vectors: np.ndarray) -> Callable[[np.ndarray], Any]:
    """faiss: a graph."""
    faiss = library("faiss")

    made = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    made.hnsw.efConstruction, made.hnsw.efSearch = 64, 64
    made.add(vectors)
    return lambda query: made.search(query[None], K)[1][0]


def usearch(vectors: np.ndarray) -> Callable[[np.ndarray], Any]:
    """usearch: a graph."""
    made = library("usearch.index").Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    made.add(np.arange(len(vectors)), vectors)
    return lambda query: made.search(query, K).keys


def product(vectors: np.ndarray) -> Callable[[np.ndarray], Any]:
    """numpy: a product with all vectors."""
    return lambda query: np.argpartition(-(vectors @ query), K)[:K]


OTHERS: dict[str, tuple[str, Callable[[np.ndarray], Callable[[np.ndarray], Any]]]] = {
    "product": ("numpy", product),
    "faiss_ivf_pq_refined": ("faiss", ivf_pq),
    "faiss_hnsw": ("faiss", hnsw),
    "usearch": ("usearch", usearch),
}


def other(name: str, world: World, queries: np.ndarray) -> dict[str, Any]:
    """The same vectors in a library that holds them in memory."""
    wanted, vectors = nearest(world, queries), np.concatenate([part for _, part in world.parts()])
    start = time.monotonic()
    ask = OTHERS[name][1](vectors)
    seconds = time.monotonic() - start
    found, times = timed(ask, queries)
    hits = recall([set(map(int, hit)) for hit in found], wanted)
    return {"rows": world.rows, "build_s": round(seconds, 1), "recall_at_10": hits, **times}


def others(world: World, queries: int, limit_s: float) -> dict[str, Any]:
    """Each in a process of its own, with a limit; what does not end in time is asked with a tenth of the rows."""
    report: dict[str, Any] = {"hnswlib": "left out: it has no wheel"}
    for name, (package, _) in OTHERS.items():
        if not find_spec(package):
            report[name] = "not installed"
            continue
        for rows in (world.rows, world.rows // 10):
            asked = [sys.executable, __file__, "--other", name, "--rows", str(rows), "--width", str(world.width)]
            try:
                done = subprocess.run(
                    [*asked, "--queries", str(queries)], capture_output=True, text=True, check=True, timeout=limit_s
                )
            except subprocess.TimeoutExpired:
                report[f"{name}_{rows}"] = f"not done within {limit_s:g} s"
                continue
            report[name] = json.loads(done.stdout)
            break
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description="Search in many clips")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--folder", type=Path, default=None, help="where the library is made, and kept")
    parser.add_argument("--limit", type=float, default=120, help="seconds for each other library of indexes; 0: none")
    parser.add_argument("--other", choices=list(OTHERS), help="measure this one alone, here")
    given = parser.parse_args()
    world = World(given.rows, given.width)
    if given.other:
        print(json.dumps(other(given.other, world, world.queries(given.queries))))
        return
    model = tiny_model(given.width)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch) / "L"
        run = Path(scratch) / "run"
        model.save_pretrained(run / "model")
        report: dict[str, Any] = {"benchmark": "search", **environment(), "rows": given.rows, "width": given.width}
        if not (folder / "clips.lance").exists() or Library(folder).count(statuses=("no_video",)) != given.rows:
            report |= build(folder, model, world)
        report["index"] = index(folder, model, world)
        print(json.dumps(report), file=sys.stderr, flush=True)  # what there is, if it does not come to its end
        queries = world.queries(given.queries)
        best = nearest(world, queries)
        ids = [clip_id for part, _ in world.parts() for clip_id in part]
        report["warm"] = warm(folder, model, queries, [{ids[i] for i in row} for row in best])
        report["fresh"] = fresh(folder, run, ids[0])
        print(json.dumps(report), file=sys.stderr, flush=True)
        report["exact"] = exact(model, given.width, min(100_000, given.rows) - 1)
        if given.limit:
            report["others"] = others(world, given.queries, given.limit)
    report["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(report, indent=2))


def nearest(world: World, queries: np.ndarray) -> list[set[int]]:
    """Numbers of the true nearest rows."""
    scores = np.full((len(queries), K), -np.inf, np.float32)
    numbers = np.full((len(queries), K), -1)
    first = 0
    for _, vectors in world.parts():
        together = np.concatenate([scores, queries @ vectors.T], axis=1)
        order = np.argpartition(-together, K - 1, axis=1)[:, :K]
        new = np.concatenate(
            [numbers, np.broadcast_to(np.arange(first, first + len(vectors)), (len(queries), len(vectors)))], axis=1
        )
        scores, numbers = np.take_along_axis(together, order, 1), np.take_along_axis(new, order, 1)
        first += len(vectors)
    return [set(map(int, row)) for row in numbers]


if __name__ == "__main__":
    main()
