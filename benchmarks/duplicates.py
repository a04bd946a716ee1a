"""How well are copies found?  python benchmarks/duplicates.py [--files 2000] [--run NAME=FOLDER ...] [--windows 100000]

A toy world of eight-second files of which one in twenty is a copy of another, of ten kinds in turn. Each run finds them
by its embeddings alone and with the second look; beside it perceptual hashes (ImageHash) with landmarks (Wang 2003). A
pair is right when it has the sound, the picture or both of one clip of the world, and is called so. Printed as JSON:
of each kind of copy the share that is found as what it is, with its original; of each kind that a method names the
share of right pairs; 95 % intervals by Wilson; how far offsets are off. And the time and memory that many windows take.

Without --run the three methods of benchmarks/toy.py are trained first, and kept. Goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import toy
from _common import environment
from _copies import KINDS, Pairs, Truth, baseline, make_library, ours, relation
from equiav.config import Modality, load_recipe
from equiav.demo import CLIPS
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.search.alike import alike
from equiav.search.copies import Limits, Windows, matches
from equiav.search.embed import embed_library
from equiav.search.index import SearchIndex

METHODS = {"equiav": "run", "plain": "run-plain", "invariant": "run-invariant"}
NAMED = ("same_recording", "part_of", "shared_part", "same_sound", "same_picture")


def wilson(hits: int, count: int) -> dict[str, Any]:
    """A share and its interval (Wilson 1927)."""
    if not count:
        return {"value": None, "of": 0}
    share, z = hits / count, 1.96
    middle, half = share + z * z / (2 * count), z * (share * (1 - share) / count + (z / (2 * count)) ** 2) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    return {"value": round(share, 4), "low": round(low, 4), "high": round(high, 4), "of": count}


def scored(pairs: Pairs, truths: dict[str, Truth], hop_s: float) -> dict[str, Any]:
    """Recall of each kind of copy, precision of each kind that was named, and offsets."""
    both = pairs | {(b, a): pair._replace(offset_s=-pair.offset_s) for (a, b), pair in pairs.items()}
    recall, found, errors = defaultdict[str, list[bool]](list), defaultdict[str, list[bool]](list), list[float]()
    for name, truth in truths.items():
        if truth.kind != "original":
            wanted, pair = relation(truths[truth.original], truth), both.get((truth.original, name))
            assert wanted
            found[truth.kind].append(pair is not None)
            recall[truth.kind].append(pair is not None and pair.kind == wanted.kind)
            if pair is not None and truth.kind in ("part", "shifted"):
                errors.append(abs(pair.offset_s - wanted.offset_s))
    right, related = defaultdict[str, list[bool]](list), list[bool]()
    for (a, b), pair in pairs.items():
        wanted = relation(truths[a], truths[b])
        related.append(wanted is not None)
        right[pair.kind].append(wanted is not None and wanted.kind == pair.kind)
    whole = [hit for kind in KINDS if kind not in ("part", "other_sound", "other_picture") for hit in recall[kind]]
    one = [hit for kind in ("other_sound", "other_picture") for hit in recall[kind]]
    return {
        "recall": {kind: wilson(sum(recall[kind]), len(recall[kind])) for kind in KINDS},
        "found_as_any_kind": {kind: wilson(sum(found[kind]), len(found[kind])) for kind in KINDS},
        "recall_whole": wilson(sum(whole), len(whole)),
        "recall_one_modality": wilson(sum(one), len(one)),
        "precision": {kind: wilson(sum(right[kind]), len(right[kind])) for kind in NAMED},
        "precision_any_kind": wilson(sum(related), len(related)),
        "offset_within_half_a_hop": wilson(sum(error <= hop_s / 2 for error in errors), len(errors)),
        "offset_error_median_s": round(float(np.median(errors)), 3) if errors else None,
        "pairs": len(pairs),
    }


def measure(library: Library, truths: dict[str, Truth], runs: dict[str, Path]) -> dict[str, Any]:
    """Every method on one library."""
    hop_s, report = library.features.hop_s, dict[str, Any]()
    for name, run in runs.items():
        model = EquiAV.from_pretrained(run / "model" if (run / "model").is_dir() else run).eval()
        embed_library(library, model)
        index = SearchIndex(library.path, model)
        for confirm, label in ((True, name), (False, f"{name}, embeddings alone")):
            start = time.monotonic()
            found = ours(index.duplicates(partial=True, confirm=confirm))
            report[label] = {"seconds": round(time.monotonic() - start, 1), **scored(found, truths, hop_s)}
            print(label, json.dumps(report[label]), file=sys.stderr, flush=True)
    start = time.monotonic()
    found = baseline(library, truths)
    report["hashes and landmarks"] = {"seconds": round(time.monotonic() - start, 1), **scored(found, truths, hop_s)}
    print("hashes and landmarks", json.dumps(report["hashes and landmarks"]), file=sys.stderr, flush=True)
    return report


def many(count: int, width: int) -> dict[str, Any]:
    """Time and memory of comparing and aligning `count` windows, eight a file; one file in twenty is a copy."""
    rng, per_file = np.random.default_rng(0), 8
    count -= count % per_file
    files, vectors = count // per_file, {}
    for modality in ("audio", "visual"):
        made = rng.standard_normal((count, width), np.float32)
        for copy in range(1, files, 20):
            at = copy * per_file
            made[at : at + per_file] = made[at - per_file : at] + 0.1 * rng.standard_normal(
                (per_file, width), np.float32
            )
        vectors[modality] = made / np.linalg.norm(made, axis=1, keepdims=True)
    file, there = np.repeat(np.arange(files), per_file), np.ones(count, bool)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, firsts, seconds, others = time.monotonic(), [], [], {}
    for modality, least in (("audio", 0.95), ("visual", 0.9)):
        found = alike(vectors[modality], file, least)
        firsts.append(found.first)
        seconds.append(found.second)
        others[modality] = found.files
    compared = time.monotonic() - start
    times = np.tile(np.arange(per_file) * 10.0, files)
    has: dict[Modality, np.ndarray] = {"audio": there, "visual": there}
    windows = Windows(file, np.arange(files + 1) * per_file, times, times + 10, 10.0, vectors, has, has, others)
    limits = Limits({"audio": 0.95, "visual": 0.9}, {"audio": 0.5, "visual": 0.5})
    numbers = np.unique(np.concatenate(firsts) * count + np.concatenate(seconds))
    found = list(matches(windows, *np.divmod(numbers, count), limits))
    total, ends = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "windows": count,
        "width": width,
        "seconds": round(total, 1),
        "of_these_comparing": round(compared, 1),
        "vectors_mib": round(before / 1024),
        "peak_mib": round(ends / 1024),
        "pairs": len(found),
        "a_million_windows_hours": round(compared * (1e6 / count) ** 2 / 3600, 2),
    }


def trained(folder: Path) -> dict[str, Path]:
    """Runs of the three methods on the toy world, made where they are missing."""
    for method, name in METHODS.items():
        if not (folder / "seed0" / name / "model").is_dir():
            print(json.dumps(toy.measure(folder / "seed0", 0, method, CLIPS, [])), file=sys.stderr, flush=True)
    return {method: folder / "seed0" / name for method, name in METHODS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=0.05, help="share of the files that are copies")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a file")
    parser.add_argument("--seed", type=int, default=1000, help="of the world; no run was trained on it")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER", help="given again, several")
    parser.add_argument("--windows", type=int, default=100_000, help="of the measurement of time and memory; 0: none")
    parser.add_argument("--width", type=int, default=512, help="of their vectors")
    parser.add_argument("--out", type=Path, default=Path("build/duplicates"))
    parser.add_argument("--only-many", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_many:
        print(json.dumps(many(given.windows, given.width)))
        return
    report: dict[str, Any] = {"benchmark": "duplicates", **environment(), "files": given.files, "rate": given.rate}
    if given.windows:  # in a process of its own, for its memory
        asked = [sys.executable, __file__, "--only-many", "--windows", str(given.windows), "--width", str(given.width)]
        report["many"] = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
        print(json.dumps(report["many"]), file=sys.stderr, flush=True)
    runs = {name: Path(folder) for name, _, folder in (text.partition("=") for text in given.run)}
    runs = runs or trained(Path("build/toy"))
    features = load_recipe("toy", ["features.hop_s=1.935"]).features
    truths = make_library(given.out, given.files, given.rate, given.seconds, given.seed, features)
    ingest(given.out / "videos", given.out / "library", features)
    report["methods"] = measure(Library(given.out / "library"), truths, runs)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
