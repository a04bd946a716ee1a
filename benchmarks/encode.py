"""Is `encode` of many short files as fast as reading them on all cores lets it be?

Prints one JSON object: seconds of `encode` of one list of short videos, as sounds and as videos; beside it, in the same
run, a loop of one file at a time, reading without worker processes (`workers=0`), and reading alone in all workers, the
ceiling. Bar: 1.7 times the speed of an equiav without workers, commit 01ff227: with `--against` the `src` of a checkout
of it, the same files are encoded by both, by turns, each time in a new process; the best of each are compared.

    python benchmarks/encode.py --files 500
    python benchmarks/encode.py --files 500 --against ../old/src
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import equiav
from _common import environment
from equiav.config import ModelConfig, load_recipe
from equiav.media.mux import write_clip
from equiav.model.equiav import EquiAV

SECONDS, FPS, RATE = 4, 5, 16_000


def write_videos(folder: Path, count: int) -> list[Path]:
    """Short videos, each of one tone and one picture in which a lamp blinks."""
    rng = np.random.default_rng(0)
    time_s = np.arange(SECONDS * RATE) / RATE
    for i in range(count):
        sound = (0.3 * np.sin(2 * np.pi * (200 + i) * time_s)).astype(np.float32)
        picture = np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        frames = np.repeat(picture[None], SECONDS * FPS, axis=0)
        frames[::2, :16, :16] ^= 64
        write_clip(folder / f"{i}.mp4", frames, FPS, sound, RATE)
    return sorted(folder.glob("*.mp4"))


def seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measured(model: EquiAV, kind: str, files: list[Path], *, alone: bool) -> dict[str, float]:
    """Seconds of each way, and shares of them."""
    model.encode(**{kind: files[:20]})
    before = processor_s()
    whole = seconds(lambda: model.encode(**{kind: files}))
    if alone:
        return {"encode_s": whole, "processor_s": processor_s() - before}
    from equiav.media.inputs import Input, read_ahead

    def read(workers: int | None) -> None:
        def at(i: int) -> Input:
            return Input(i, kind, files[i], None, model.config.features)  # type: ignore[arg-type]

        with read_ahead(len(files), at, workers, 64) as found:
            for _ in found:
                pass

    looped = seconds(lambda: [model.encode(**{kind: [file]}) for file in files[: len(files) // 5]]) * 5
    here = seconds(lambda: model.encode(**{kind: files}, workers=0))
    reading = seconds(lambda: read(None))
    return {
        "encode_s": whole,
        "one_at_a_time_s": looped,
        "without_workers_s": here,
        "reading_alone_s": reading,
        "times_one_at_a_time": looped / whole,
        "times_without_workers": here / whole,
        "share_of_reading_alone": reading / whole,
    }


def processor_s() -> float:
    """Of this process and of those that it ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def compared(folder: Path, recipe: str, turns: int, sources: dict[str, str]) -> dict[str, Any]:
    """Seconds of each turn of each equiav, and by how much the best of `this` is faster than that of `other`."""
    found: dict[str, Any] = {kind: {name: [] for name in sources} for kind in ("audio", "video")}
    command = [sys.executable, __file__, "--alone", "--videos", str(folder), "--recipe", recipe]
    for _ in range(turns):
        for name, source in sources.items():
            told = subprocess.run(command, env=os.environ | {"PYTHONPATH": source}, stdout=subprocess.PIPE, check=True)
            for kind, figures in json.loads(told.stdout).items():
                found[kind][name].append(figures)
    for figures in found.values():
        best = {name: min(turn["encode_s"] for turn in figures[name]) for name in sources}
        figures["times_other"] = best["other"] / best["this"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--recipe", default="toy")
    parser.add_argument("--against", metavar="SRC", help="compare with the equiav of this src folder")
    parser.add_argument("--turns", type=int, default=3, help="of each, with --against")
    parser.add_argument("--videos", type=Path, help="encode the MP4 files of this folder instead of new ones")
    parser.add_argument("--alone", action="store_true", help="print seconds of encode and nothing else")
    given = parser.parse_args()
    about = {} if given.alone else environment()
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(given.videos.glob("*.mp4")) if given.videos else write_videos(Path(folder), given.files)
        if given.against:
            sources = {"this": str(Path(equiav.__file__).parents[1]), "other": str(Path(given.against).resolve())}
            found = compared(given.videos or Path(folder), given.recipe, given.turns, sources)
        else:
            found = ways(given.recipe, files, alone=given.alone)
    about |= {} if given.alone else {"files": len(files), "recipe": given.recipe}
    print(json.dumps({**about, **found}, indent=1))


def ways(name: str, files: list[Path], *, alone: bool) -> dict[str, Any]:
    """What `measured` says of a new model of a recipe, as sounds and as videos."""
    recipe = load_recipe(name)
    config = ModelConfig(architecture=recipe.model, features=recipe.features, audio_mean=-6.0, audio_std=4.0)
    model = EquiAV(config).eval()
    return {kind: measured(model, kind, files, alone=alone) for kind in ("audio", "video")}


if __name__ == "__main__":
    main()
