"""Is `encode` of many short files as fast as reading them on all cores lets it be?

Prints one JSON object: seconds of `encode` of one list of short videos, as sounds and as videos; beside it, in the same
run, a loop of one file at a time, reading without worker processes (`workers=0`), and reading alone in all workers, the
ceiling. Bar: 1.7 times the speed of an equiav without workers: commit 01ff227 with the same `--files`, which this
script measures too (`--old`, in a checkout of it).

    python benchmarks/encode.py --files 500
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

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


def measured(model: EquiAV, kind: str, files: list[Path], *, old: bool) -> dict[str, float]:
    """Seconds of each way, and shares of them."""
    model.encode(**{kind: files[:20]})
    whole = seconds(lambda: model.encode(**{kind: files}))
    if old:
        return {"encode_s": whole}
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--recipe", default="toy")
    parser.add_argument("--old", action="store_true", help="measure an equiav whose encode has no workers")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe)
    config = ModelConfig(architecture=recipe.model, features=recipe.features, audio_mean=-6.0, audio_std=4.0)
    model = EquiAV(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        files = write_videos(Path(folder), given.files)
        found = {kind: measured(model, kind, files, old=given.old) for kind in ("audio", "video")}
    print(json.dumps({**environment(), "files": given.files, "recipe": given.recipe, **found}, indent=1))


if __name__ == "__main__":
    main()
