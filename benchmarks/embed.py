"""Does embedding a library cost more than the model itself, and does memory stay flat?

Prints one JSON object: clips per second of `embed_library` (reading, JPEGs, thumbnails and commits with it) beside the
bare forward pass of the same model over as many clips in memory, in turn and at the same batch size, and beside the
rate of matrix products. Of each the best round counts. Bar: `embed` at least 0.85 of the bare pass's clips per second.
`--memory` embeds 10,000 little clips with a little model instead and looks at the process: bar: within 50 MB of what
it was after 1,000.

    python benchmarks/embed.py
    python benchmarks/embed.py --shared
    python benchmarks/embed.py --memory
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

import model as products
from _clips import make_library
from _common import environment
from equiav.config import Architecture, Features, ModelConfig, load_recipe
from equiav.library.table import Library
from equiav.machine import share_heaps
from equiav.model.equiav import EquiAV
from equiav.search.embed import embed_library

LITTLE = Features(sample_rate=8000, mel_bins=32, clip_s=0.4, hop_s=0.4, min_tail_s=0.2, time_frames=32, frame_side=40)
LITTLE_MODEL = Architecture(
    width=24, depth=1, heads=3, image_side=32, parameter_width=8, predictor_heads=2, predictor_head_width=8,
    head_hidden=16, embedding=512, centroid_samples=3,
)  # fmt: skip
SETTLED = 1000  # clips
LOOK_S = 0.02


def inputs(config: ModelConfig, batch: int) -> tuple[Tensor, Tensor]:
    """What the encoders take: a standardised spectrogram and a normalised picture of each clip."""
    side, features = config.architecture.image_side, config.features
    return torch.randn(batch, features.time_frames, features.mel_bins), torch.randn(batch, 3, side, side)


def forward(model: EquiAV, audio: Tensor, visual: Tensor) -> None:
    with torch.inference_mode():
        model.embed_audio(audio)
        model.embed_visual(visual)


def throughput(folder: Path, clips: int, batch: int, rounds: int) -> dict[str, Any]:
    recipe = load_recipe("base")
    config = ModelConfig(architecture=recipe.model, features=recipe.features)
    model, given = EquiAV(config, seed=0).eval(), inputs(config, batch)
    with torch.device("meta"):
        flops = products.counted(lambda: forward(EquiAV(config, seed=None), *inputs(config, 1)))
    library, ceiling = make_library(folder / "L", clips, recipe.features), products.Ceiling(torch.float32)
    forward(model, *given)
    bare, whole = list[float](), list[float]()
    for _ in range(rounds):
        ceiling.measure()
        bare.append(products.seconds(lambda: [forward(model, *given) for _ in range(clips // batch)]))
        shutil.rmtree(folder / "L" / "embeddings", ignore_errors=True)
        ceiling.measure()
        whole.append(products.seconds(lambda: embed_library(Library(library.path), model, batch_size=batch)))
    ceiling.measure()
    rate = flops * clips / min(bare)
    return {
        "clips": clips,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "clock": products.CLOCK.__name__,
        "rounds_s": {"forward": [round(spent, 2) for spent in bare], "embed": [round(spent, 2) for spent in whole]},
        "forward_clips_per_s": round(clips / min(bare), 3),
        "embed_clips_per_s": round(clips / min(whole), 3),
        "ratio": round(min(bare) / min(whole), 3),
        "gflop_per_clip": round(flops / 1e9, 1),
        "product_gflop_per_s": round(ceiling.flops_per_s / 1e9, 1),
        "forward_share_of_product_rate": round(rate / ceiling.flops_per_s, 3),
        "bars": {"ratio": 0.85},
    }


class Memory:
    """What is resident, and the most of it since one asked, in MB."""

    def __init__(self) -> None:
        self._process, self._most, self._over = psutil.Process(), 0.0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self._most = max(self._most, self._process.memory_info().rss / 1e6)

    def most(self) -> float:
        found, self._most = self._most, 0.0
        return found


def memory(folder: Path, clips: int, batch: int) -> dict[str, Any]:
    share_heaps()  # as the command line does
    model = EquiAV(ModelConfig(architecture=LITTLE_MODEL, features=LITTLE), seed=0).eval()
    library = make_library(folder / "L", clips, LITTLE)
    most, watch = dict[int, float](), Memory()

    def look(done: int, _total: int) -> None:
        if done // SETTLED > max(most, default=0) // SETTLED:
            most[done] = watch.most()

    start = time.perf_counter()
    embed_library(Library(library.path), model, batch_size=batch, on_progress=look)
    spent = time.perf_counter() - start
    first, *others = most.values()
    return {
        "clips": clips,
        "batch": batch,
        "clips_per_s": round(clips / spent, 1),
        "most_mb_in_each_thousand": [round(value) for value in most.values()],
        "growth_mb": round(max(others) - first, 1),
        "bars": {"growth_mb": 50},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Embedding a library against the model alone")
    parser.add_argument("--clips", type=int, default=None, help="default 24, with --memory 10,000")
    parser.add_argument("--batch", type=int, default=None, help="default 8, with --memory 32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="little clips and a little model; looks at memory")
    parser.add_argument("--shared", action="store_true", help="one thread, in CPU seconds: on a machine others use too")
    given = parser.parse_args()
    if given.shared:
        products.CLOCK = time.process_time
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if given.memory:
            found = memory(Path(folder), given.clips or 10_000, given.batch or 32)
        else:
            found = throughput(Path(folder), given.clips or 24, given.batch or 8, given.rounds)
    print(json.dumps({"benchmark": "embed", **environment(), **found}, indent=2))


if __name__ == "__main__":
    main()
