"""How fast do batches come, and does memory stay flat?

Prints one JSON object: clips per second of wall time and of processor time, for full-size clips (1024 x 128 float16 and
256-side JPEGs) from a warm file cache; beside it the ceiling of the same run, decoding the same JPEGs and widening the
same spectrograms in a plain loop. Bars: at least 400 clips/s per core, memory within 50 MB over 10,000 clips.

    python benchmarks/loader.py --clips 1000 --read 10000 --frames 1
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from _clips import make_library
from _common import environment
from equiav.config import load_recipe
from equiav.library.loader import ClipLoader
from equiav.library.table import Library
from equiav.machine import share_heaps


def ceiling(library: Library, clips: int) -> float:
    """Clips per second of one core that decodes one JPEG and widens one spectrogram per clip, held in memory."""
    table = library.take(list(range(clips)), ["fbank", "frames"])
    jpegs = [frames[0].as_py() for frames in table["frames"]]
    shape = (library.features.time_frames, library.features.mel_bins)
    spectrograms = [np.zeros(shape, np.float16) for _ in range(clips)]
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for jpeg, spectrogram in zip(jpegs, spectrograms, strict=True):
            np.array(Image.open(io.BytesIO(jpeg)).convert("RGB"))
            spectrogram.astype(np.float32)
        best = min(best, time.process_time() - start)
    return clips / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--read", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=1, help="pictures per clip in the library; one is used")
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    share_heaps()  # as the command line does
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        features = load_recipe("base").features.model_copy(update={"frames_per_clip": given.frames})
        library = make_library(Path(folder) / "L", given.clips, features)
        loader = ClipLoader(library, "train", given.batch)
        for _ in loader.epoch(0):
            pass
        read, memory = 0, []
        wall, cpu = time.perf_counter(), time.process_time()
        epoch = 0
        while read < given.read:
            epoch += 1
            for batch in loader.epoch(epoch):
                read += len(batch.clip_ids)
                memory.append(process.memory_info().rss / 1e6)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        limit = ceiling(library, min(256, given.clips))
    settled = memory[len(memory) // 10 :]
    result = {
        "benchmark": "loader",
        **environment(),
        "clips_read": read,
        "frames_per_clip": given.frames,
        "clips_per_s": round(read / wall, 1),
        "clips_per_core_s": round(read / cpu, 1),
        "ceiling_clips_per_core_s": round(limit, 1),
        "ratio": round(read / cpu / limit, 3),
        "memory_mb": {"first": round(settled[0]), "least": round(min(settled)), "most": round(max(settled))},
        "bars": {"clips_per_core_s": 400, "memory_spread_mb": 100},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
