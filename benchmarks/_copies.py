"""A library with copies of ten kinds whose truth is known, and what others make of it: perceptual hashes, landmarks."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import imagehash
import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter

from equiav.config import Features
from equiav.library.table import Library
from equiav.media.alter import KINDS, alter, read_video
from equiav.media.mux import write_clip
from equiav.toyworld import RATE, draw_factors, render_frames, render_sound
from equiav.toyworld.picture import FPS, SIDE

WHOLE = 0.8  # of both files, from which on one is a copy of the other and not a part


@dataclass(frozen=True)
class Truth:
    """Where sound and picture of a file are from: clips of the world, from a second of them on."""

    kind: str  # of `alter.KINDS`, or "original"
    original: str  # the file that it was made from
    sound: str
    picture: str
    start_s: float
    length_s: float


class Pair(NamedTuple):
    """What is said of two files; what is at t in `b` is at t + offset_s in `a`."""

    kind: str
    offset_s: float


Pairs = dict[tuple[str, str], Pair]


def relation(a: Truth, b: Truth) -> Pair | None:
    """What two files have in common; None: nothing. Shorter overlaps than half a second are not counted."""
    sound, picture = a.sound == b.sound, a.picture == b.picture
    start, stop = max(a.start_s, b.start_s), min(a.start_s + a.length_s, b.start_s + b.length_s)
    if not (sound or picture) or stop - start < 0.5:
        return None
    offset_s = b.start_s - a.start_s
    if sound != picture:
        return Pair("same_sound" if sound else "same_picture", offset_s)
    shares = (stop - start) / a.length_s, (stop - start) / b.length_s
    # a file of few windows may miss its last one
    kind = "same_recording" if min(shares) >= WHOLE else "part_of" if max(shares) >= WHOLE else "shared_part"
    return Pair(kind, offset_s)


def make_library(
    folder: Path, files: int, rate: float, seconds: float, seed: int, features: Features
) -> dict[str, Truth]:
    """Files in `folder`/videos; what is there is kept. Returns the truth of each, by its name."""
    copies = round(files * rate)
    originals = files - copies
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    # Lance has threads, which a fork does not survive
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        truths = dict(pool.map(partial(_render, folder / "videos", seconds, seed), range(originals), chunksize=8))
        chosen = np.random.default_rng(seed).permutation(originals)[: 2 * copies].tolist()
        tasks = [(i, KINDS[i % len(KINDS)], chosen[i], chosen[copies + i]) for i in range(copies)]
        truths |= dict(pool.map(partial(_copy, folder / "videos", seconds, seed, features), tasks))
    (folder / "truth.json").write_text(json.dumps({name: asdict(truth) for name, truth in truths.items()}, indent=1))
    return truths


def _render(folder: Path, seconds: float, seed: int, index: int) -> tuple[str, Truth]:
    clip = replace(draw_factors(seed, index), duration_s=seconds)
    path = folder / f"{clip.kind}-{index:06d}.mp4"
    if not path.exists():
        frames, _ = render_frames(clip, seed)
        write_clip(path, frames, FPS, render_sound(clip, seed), RATE)
    return path.name, Truth("original", path.name, path.name, path.name, 0.0, seconds)


def _copy(
    folder: Path, seconds: float, seed: int, features: Features, task: tuple[int, str, int, int]
) -> tuple[str, Truth]:
    number, kind, index, second = task
    path = folder / f"copy-{number:04d}-{kind}.mp4"
    names = [f"{draw_factors(seed, i).kind}-{i:06d}.mp4" for i in (index, second)]
    original, other = (read_video(folder / name, SIDE) for name in names)
    found = alter(kind, original, other, np.random.default_rng([seed, number]), features)
    assert found, f"{seconds} s are too short for {kind}"
    copy, start_s = found
    if not path.exists():
        copy.write(path)
    sound, picture = (names[kind == f"other_{what}"] for what in ("sound", "picture"))
    return path.name, Truth(kind, names[0], sound, picture, start_s, copy.seconds)


def ours(report: Any) -> Pairs:
    """What `SearchIndex.duplicates` says."""
    return {(Path(p.a).name, Path(p.b).name): Pair(p.kind, p.offset_s) for p in report.pairs}


# ---- what others do: a hash of each picture, landmarks of the sound --------------------------------------------------

BITS = 10  # of 64 that two hashes of one picture may differ in: ImageHash's usual limit
VOTES = 8  # landmarks at one offset, below which two sounds are never the same
LANDMARK_S = 0.01


def hashes(library: Library) -> dict[str, list[tuple[float, int]]]:
    """ImageHash's pHash of the middle frame of each window, and when it is shown."""
    found: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in library.clips(columns=["source", "start_s", "frames"]).to_pylist():
        picture = Image.open(io.BytesIO(row["frames"][len(row["frames"]) // 2]))
        bits = int(str(imagehash.phash(picture)), 16)
        found[Path(row["source"]).name].append((row["start_s"], bits))
    return dict(found)


def landmarks(library: Library) -> dict[str, list[tuple[float, int]]]:
    """Pairs of peaks of each window's spectrogram (Wang 2003), as numbers, and when they are heard."""
    found: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    rows = library.clips(columns=["source", "start_s", "fbank", "fbank_frames"])
    for row, mel in zip(rows.drop(["fbank"]).to_pylist(), library.fbanks(rows), strict=True):
        mel = mel[: row["fbank_frames"]]
        peaks = np.argwhere((maximum_filter(mel, (9, 5)) == mel) & (mel > np.median(mel) + 1))
        for t, band in peaks.tolist():
            near = peaks[(peaks[:, 0] > t) & (peaks[:, 0] <= t + 40)][:5].tolist()
            place = row["start_s"] + t * LANDMARK_S
            found[Path(row["source"]).name] += [(place, (band << 16) | (other << 8) | (u - t)) for u, other in near]
    return dict(found)


def hash_pairs(found: dict[str, list[tuple[float, int]]], hop_s: float) -> dict[tuple[str, str], tuple[float, float]]:
    """Of two files the offset at which most hashes agree, and the share of the shorter one's windows that do."""
    names = [name for name, windows in found.items() for _ in windows]
    times = np.array([time for windows in found.values() for time, _ in windows])
    bits = np.array([value for windows in found.values() for _, value in windows], np.uint64)
    votes: defaultdict[tuple[str, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    for i in range(len(bits)):
        for j in np.flatnonzero(np.bitwise_count(bits[i + 1 :] ^ bits[i]) <= BITS) + i + 1:
            if names[i] != names[j]:
                a, b = (i, j) if names[i] < names[j] else (j, i)
                votes[names[a], names[b]][round((times[a] - times[b]) / hop_s)] += 1
    best = {pair: max(counts.items(), key=lambda item: item[1]) for pair, counts in votes.items()}
    return {
        (a, b): (offset * hop_s, count / min(len(found[a]), len(found[b]))) for (a, b), (offset, count) in best.items()
    }


def landmark_pairs(found: dict[str, list[tuple[float, int]]]) -> dict[tuple[str, str], tuple[float, float]]:
    """Of two files the offset at which most landmarks agree, and how many do."""
    places: defaultdict[int, list[tuple[str, float]]] = defaultdict(list)
    for name, marks in found.items():
        for time, mark in marks:
            places[mark].append((name, time))
    votes: defaultdict[tuple[str, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    rare = max(50, len(found) // 20)  # a landmark of more files says nothing
    for heard in places.values():
        if len(heard) <= rare:
            for number, (a, first_s) in enumerate(heard):
                for b, second_s in heard[number + 1 :]:
                    if a != b:
                        offset = round((first_s - second_s) / 0.05)
                        votes[min(a, b), max(a, b)][offset if a < b else -offset] += 1
    best = {pair: max(counts.items(), key=lambda item: item[1]) for pair, counts in votes.items()}
    return {pair: (0.05 * offset, count) for pair, (offset, count) in best.items() if count >= VOTES}


def baseline(library: Library, truths: dict[str, Truth]) -> Pairs:
    """Hashes and landmarks together: both say copy, one alone says that the other one differs; length tells parts."""
    seen = {pair: at for pair, at in hash_pairs(hashes(library), library.features.hop_s).items() if at[1] >= 0.5}
    heard = landmark_pairs(landmarks(library))
    # how many landmarks make two sounds the same is chosen on the truth, for the landmarks' good
    right = {pair for pair in heard if truths[pair[0]].sound == truths[pair[1]].sound}
    least = max((2**power for power in range(3, 12)), key=lambda votes: _f1(heard, right, votes))
    heard = {pair: at for pair, at in heard.items() if at[1] >= least}
    pairs: Pairs = {}
    for pair in {*seen, *heard}:
        lengths = [truths[name].length_s for name in pair]
        kind = "same_recording" if min(lengths) >= WHOLE * max(lengths) else "part_of"
        if (pair in seen) != (pair in heard):
            kind = "same_sound" if pair in heard else "same_picture"
        pairs[pair] = Pair(kind, (heard if pair in heard else seen)[pair][0])
    return pairs


def _f1(heard: dict[tuple[str, str], tuple[float, float]], right: set[tuple[str, str]], votes: int) -> float:
    named = {pair for pair, (_, count) in heard.items() if count >= votes}
    return 2 * len(named & right) / max(1, len(named) + len(right))
