"""How far is retrieval scoring from the bare matrix product it needs?

Prints one JSON object: seconds and peak memory of `retrieval_metrics` on random pairs, with and without labels, the
seconds of one `queries @ gallery.T` in the same process, and their ratio. `--size` and `--width` change the problem.

    python benchmarks/retrieval.py --size 10000 --width 512
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

import numpy as np

from _common import environment
from equiav.metrics.retrieval import retrieval_metrics


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs: what the code needs when nothing else runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Retrieval scoring against its bare matrix product")
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()

    rng = np.random.default_rng(0)
    queries, gallery = rng.standard_normal((2, given.size, given.width), dtype=np.float32)
    labels = [[str(i % given.classes)] for i in range(given.size)]
    before = peak_mib()
    pairs = fastest(lambda: retrieval_metrics(queries, gallery), given.repeats)
    pairs_mib = peak_mib() - before
    classes = fastest(lambda: retrieval_metrics(queries, gallery, labels=labels), given.repeats)
    classes_mib = peak_mib() - before
    # last, because its result alone is size x size floats
    product = fastest(lambda: queries @ gallery.T, given.repeats)
    report = {
        "benchmark": "retrieval",
        **environment(),
        "numpy": np.__version__,
        "size": given.size,
        "width": given.width,
        "resamples": 1000,
        "matrix_product_s": round(product, 3),
        "pairs_s": round(pairs, 3),
        "pairs_over_product": round(pairs / product, 2),
        "pairs_extra_mib": round(pairs_mib),
        "with_labels_s": round(classes, 3),
        "with_labels_over_product": round(classes / product, 2),
        "with_labels_extra_mib": round(classes_mib),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
