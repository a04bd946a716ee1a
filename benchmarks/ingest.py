"""How fast does ingest read, where does its time go, does it keep memory and rate over many files?

Prints one JSON object of up to three parts, in processor time of all processes, from a warm file cache:

- speed: 10-s 720p30 H.264 + AAC clips with the `base` recipe's features, in several encodings: seconds of video per
  second of one core, of reading (the best of a video's copies) and of the writer; where that goes; and beside it, in
  the same run, the same with `frame_pick=key`, and with every picture decoded. Bar: 25 times real time.
- memory: resident size of the writer and of its workers after a fifth of the files and after all, for 10-s 360p clips
  with the same features. Bar: within 50 MB.
- rate: small files per second, the first quarter against the last. Bar: no slower than 0.9 of the first.

    python benchmarks/ingest.py [speed] [memory] [rate] [--clips 24] [--memory-files 1000] [--files 20000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import psutil
from numpy.typing import NDArray

from _common import environment
from _videos import ENCODINGS, copies, write_video
from equiav.config import Features, load_recipe
from equiav.library import windows
from equiav.library.ingest import ingest
from equiav.library.items import Item
from equiav.library.windows import Examined, ItemTask, Read, work
from equiav.machine import share_heaps
from equiav.media import frames
from equiav.media.tracks import Damage

PARTS = ("speed", "memory", "rate")
CLIP_S = 10.0
ORIGINALS = 3
SMALL = {"clip_s": 0.655, "hop_s": 0.655, "min_tail_s": 0.3, "time_frames": 64, "mel_bins": 32}
SMALL |= {"frame_side": 32, "frames_per_clip": 3}
# what is timed → the functions that do it; a function called within another counts for itself alone
STAGES = {
    "hash": [(windows, "_content_hash")],
    "open and probe": [(windows, "probe_picture"), (windows, "probe"), (av, "open")],
    "sound: decode, resample": [(windows, "read_audio")],
    "log-mel": [(windows, "log_mel")],
    "pictures: read packets": [(frames, "_hold")],
    "pictures: decode": [(frames, "_pick"), (frames, "_play")],
    "pictures: resize, JPEG": [(frames, "frame_jpeg")],
    "still or not": [(windows, "is_still")],
}


class Stages:
    """Processor time by stage while in the `with` block."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]  # of each call under way, what its callees took
        self._patches = ExitStack()

    def __enter__(self) -> Stages:
        for stage, functions in STAGES.items():
            for module, name in functions:
                self._patches.enter_context(patch.object(module, name, self._timed(stage, getattr(module, name))))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            start = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                took = time.process_time() - start
                self.seconds[stage] += took - self._inner.pop()
                self._inner[-1] += took

        return timed


def decode_all(container: Any, stream: av.VideoStream, times_s: list[float], _keys_s: object) -> Any:
    """In place of picking: every picture of the file, of which those at `times_s` are kept."""
    shown: list[tuple[float, av.VideoFrame]] = []
    current: tuple[float, av.VideoFrame] | None = None
    container.seek(0)
    for frame in container.decode(stream):
        while current and len(shown) < len(times_s) and frame.time > times_s[len(shown)] + frames.ROUNDING_S:
            shown.append(current)
        current = frame.time, frame
    assert current
    shown += [current] * (len(times_s) - len(shown))
    return frames._Played(shown, Damage(), ended=True)


def read_all(paths: list[Path], features: Features) -> tuple[list[float], list[Read]]:
    """A worker's part of the work, done here: processor time for each file, and what it read."""
    spent, done = [], []
    for path in paths:
        start, task = time.process_time(), ItemTask(Item(path), features)
        examined = work(task)
        assert isinstance(examined, Examined)
        read = work(ItemTask(task.item, features, examined))
        assert isinstance(read, Read)
        assert read.error is None, read.error
        spent.append(time.process_time() - start)
        done.append(read)
    return spent, done


def best(spent: list[float]) -> float:
    """Seconds per clip: of each original the cheapest of its copies, as a machine without other work has it."""
    return float(np.mean([min(spent[i::ORIGINALS]) for i in range(ORIGINALS)]))


def same_frames(one: list[Read], other: list[Read]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.frames == b.frames for left, right in pairs for a, b in zip(left.clips, right.clips, strict=True))


def ingest_cpu_s(folder: Path, library: Path, features: Features) -> NDArray[np.float64]:
    """Processor time of a whole ingest with one worker: of this process, and of the worker."""

    def used() -> NDArray[np.float64]:
        return np.array([sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)])

    before = used()
    report = ingest(folder, library, features, workers=1)
    assert not report.rejects, report.rejects
    return used() - before


def measure_speed(place: Path, originals: list[Path], clips: int) -> dict[str, Any]:
    features = load_recipe("base").features
    copies(originals, place / "one", 1)
    copies(originals, place / "all", clips)
    paths = sorted((place / "all").iterdir())
    read_all(paths[:ORIGINALS], features)  # warm
    plain, found = read_all(paths, features)
    with Stages() as stages:
        timed, _ = read_all(paths, features)
    keyed, found_keyed = read_all(paths, features.model_copy(update={"frame_pick": "key"}))
    few = paths[: max(clips // 4, ORIGINALS)]
    with patch.object(frames, "_pick", decode_all):
        full, found_full = read_all(few, features)
    start = ingest_cpu_s(place / "one", place / "L one", features)
    spent_all = ingest_cpu_s(place / "all", place / "L all", features)
    writer, worker = ((spent_all - start) / (clips - 1)).tolist()
    spent = {name: stages.seconds[name] / sum(timed) * best(plain) for name in STAGES}
    spent |= {"other work on a clip": best(plain) - sum(spent.values()), "writer: take in, table": writer}
    bits = sum(path.stat().st_size for path in originals) * 8 / CLIP_S / len(originals)
    return {
        "clips": clips,
        "mbit_per_s": round(bits / 1e6, 2),
        "times_real_time_per_core": round(CLIP_S / (best(plain) + writer), 1),
        "times_real_time_key_frames": round(CLIP_S / (best(keyed) + writer), 1),
        "key_frames_per_clip": round(
            float(np.mean([len(clip.frames) for read in found_keyed for clip in read.clips])), 1
        ),
        "times_real_time_full_decode": round(CLIP_S / (best(full) + writer), 1),
        "times_real_time_whole_ingest": round(CLIP_S / (writer + worker), 1),  # with this moment's load on the machine
        "reading_cheaper_than_full_decode": round(best(full) / best(plain), 2),
        "same_frames_as_full_decode": same_frames(found[: len(few)], found_full),
        "core_hours_per_1000_h": round(1000 * (best(plain) + writer) / CLIP_S, 1),
        "start_cpu_s": round(float(start.sum()) - writer - worker, 2),
        "ms_per_clip": {name: round(1000 * seconds, 1) for name, seconds in spent.items()},
        "library_kb_per_clip": round(_size(place / "L all" / "clips.lance") / clips / 1e3),
        "bar_times_real_time": 25,
    }


def measure_memory(place: Path, files: int) -> dict[str, Any]:
    """Resident size in MB, a sample after each file; workers are taken together."""
    write_video(place / "360p.mp4", 0, seconds=CLIP_S, size=(640, 360), fps=30)
    copies([place / "360p.mp4"], place / "many", files)
    writer, sizes = psutil.Process(), []

    def sample(done: int, _total: int, _note: str) -> None:
        workers = [child.memory_info().rss for child in writer.children() if child.is_running()]
        sizes.append((done, writer.memory_info().rss / 1e6, sum(workers) / 1e6))

    ingest(place / "many", place / "L many", load_recipe("base").features, workers=2, on_progress=sample)
    table, window = np.array(sizes), files // 10

    def around(done: int, column: int) -> int:
        return round(float(table[max(done - window, 0) : done, column].max()))

    marks = [files // 5, files // 2, files]
    told = {name: {mark: around(mark, i) for mark in marks} for i, name in ((1, "writer"), (2, "workers"))}
    return {"files": files, "most_mb_in_the_tenth_before": told, "bar_growth_mb": 50}


def measure_rate(place: Path, files: int) -> dict[str, Any]:
    write_video(place / "small.mp4", 0, seconds=0.7, size=(64, 48), fps=10)
    copies([place / "small.mp4"], place / "small", files)
    writer, spent = psutil.Process(), []

    def sample(done: int, _total: int, _note: str) -> None:
        if done % (files // 4) == 0 or done == 1:
            children = [child.cpu_times() for child in writer.children() if child.is_running()]
            workers = sum(times.user + times.system for times in children)
            spent.append((time.process_time(), workers, time.perf_counter()))

    ingest(place / "small", place / "L small", Features(**SMALL), workers=2, on_progress=sample)
    steps: NDArray[np.float64] = np.diff(np.array(spent, np.float64), axis=0)
    rates = (files // 4) / steps[:, :2].sum(1)
    return {
        "files": files,
        "files_per_core_s_by_quarter": [round(float(rate), 1) for rate in rates],
        "writer_ms_per_file_by_quarter": [round(ms, 2) for ms in (1000 * steps[:, 0] / (files // 4)).tolist()],
        "files_per_s_by_quarter": [round(float(files // 4 / s), 1) for s in steps[:, 2]],
        "ratio_last_to_first": round(float(rates[-1] / rates[0]), 3),
        "bar_ratio": 0.9,
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS), metavar="PART")
    parser.add_argument("--clips", type=int, default=24, help="of each encoding of the speed part")
    parser.add_argument("--memory-files", type=int, default=1000)
    parser.add_argument("--files", type=int, default=20_000, help="small ones, of the rate part")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    share_heaps()  # as the command line does
    result: dict[str, Any] = {"benchmark": "ingest", **environment()}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        if "speed" in given.parts:
            result["speed"] = {}
            for number, (name, options) in enumerate(ENCODINGS.items()):
                folder = place / str(number)
                folder.mkdir()
                originals = [folder / f"original {i}.mp4" for i in range(ORIGINALS)]
                for i, path in enumerate(originals):
                    write_video(path, i, seconds=CLIP_S, size=(1280, 720), fps=30, options=options)
                result["speed"][name] = measure_speed(folder, originals, given.clips)
        if "memory" in given.parts:
            result["memory"] = measure_memory(place, given.memory_files)
        if "rate" in given.parts:
            result["rate"] = measure_rate(place, given.files)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
