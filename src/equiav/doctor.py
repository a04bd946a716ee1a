"""Is this installation, and this machine, fit to work?  →  checks, each with what was found and what to do about it."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import psutil
import torch
from PIL import Image

from equiav._version import __version__
from equiav.errors import EquiAVError, MediaError
from equiav.machine import free_memory, usable_cores
from equiav.media.decode import decode_audio, open_media, read_frames
from equiav.media.mux import write_clip
from equiav.train.throughput import matmul_rate
from equiav.words import counted

State = Literal["ok", "note", "broken"]

PACKAGES = ("torch", "numpy", "av", "pylance", "pyarrow", "pillow", "pydantic", "accelerate")
REINSTALL = "videos are not read as they should be: pip install --force-reinstall av"
LITTLE_DISK, TOO_LITTLE_DISK = 10e9, 0.5e9
LITTLE_MEMORY = 2e9
MATRIX_SIDE = 512  # bf16 that is not native takes seconds with more
APART_S = 0.02 + 0.1  # 20 ms and a frame
# Those of everyday videos
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg")  # video
CODECS += ("aac", "mp3", "opus", "vorbis", "flac", "ac3", "pcm_s16le")  # audio
CLICK_S, FRAME_RATE, RATE = 1.5, 10, 16_000


@dataclass(frozen=True)
class Check:
    """One thing looked at. `advice` says what is wrong in words and what to do; empty if nothing is."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(folder: Path) -> list[Check]:
    """Look at everything; `folder` is where libraries and runs shall go."""
    return [
        Check("equiav", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"),
        _packages(),
        *_extras(),
        _codecs(),
        _made_clip(),
        *_compute(),
        _memory(),
        *(_disk(name, place) for name, place in (("disk", folder), ("temporary files", Path(tempfile.gettempdir())))),
    ]


def _packages() -> Check:
    found = {name: _version(name) for name in PACKAGES}
    text = ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())
    missing = [name for name, version in found.items() if version is None]
    if missing:
        return Check("packages", "broken", text, f"not installed: {', '.join(missing)}. pip install equiav")
    return Check("packages", "ok", text)


def _extras() -> list[Check]:
    """What each extra adds, as the installed package says."""
    try:
        requires = importlib.metadata.requires("equiav") or []
    except importlib.metadata.PackageNotFoundError:
        return [Check("extras", "note", "equiav is not installed", "pip install -e . in its folder installs it")]
    wanted: dict[str, list[str]] = {}
    for line in requires:
        if extra := re.search(r"extra == ['\"](\w+)['\"]", line):
            wanted.setdefault(extra[1], []).append(re.split(r"[^\w.-]", line, maxsplit=1)[0])
    wanted.pop("dev", None)  # is for developers
    checks = []
    for extra, names in wanted.items():
        missing = [name for name in names if _version(name) is None]
        if missing:
            advice = f"not installed: {', '.join(missing)}. If you want it: pip install 'equiav[{extra}]'"
            checks.append(Check(f"extra {extra}", "note", "not all there", advice))
        else:
            checks.append(Check(f"extra {extra}", "ok", ", ".join(f"{name} {_version(name)}" for name in names)))
    return checks


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _codecs() -> Check:
    found, missing = f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}", []
    for name in CODECS:
        try:
            av.Codec(name, "r")
        except ValueError:
            missing.append(name)
    if missing:
        advice = f"files in {', '.join(missing)} will be rejected; the av wheel from PyPI reads them: pip install av"
        return Check("codecs", "note", found, advice)
    return Check("codecs", "ok", found)


def _made_clip() -> Check:
    try:
        with tempfile.TemporaryDirectory(prefix="equiav-") as folder:
            apart_s = _decode_a_made_clip(Path(folder))
    except (EquiAVError, OSError) as error:
        return Check(
            "a made clip", "broken", str(error), "videos cannot be read here: pip install --force-reinstall av"
        )
    found = f"click and flash are {1000 * apart_s:.0f} ms apart (a frame is 100 ms)"
    if apart_s > APART_S:
        return Check("a made clip", "broken", found, REINSTALL)
    return Check("a made clip", "ok", found)


def _decode_a_made_clip(folder: Path) -> float:
    """Write two seconds of H.264 and AAC with a click and a flash at 1.5 s; how far apart they are read, in seconds.

    Raises:
        MediaError: the clip cannot be read, or what is read is not what was written.
    """
    path = folder / "click.mp4"
    frames = np.zeros((2 * FRAME_RATE, 64, 64, 3), np.uint8)
    frames[round(CLICK_S * FRAME_RATE) :] = 255
    sound = np.zeros(2 * RATE, np.float32)
    sound[round(CLICK_S * RATE)] = 1.0
    write_clip(path, frames, FRAME_RATE, sound, RATE)
    sound_read = decode_audio(path, 0.0, 2.0, RATE)
    times = [(i + 0.5) / FRAME_RATE for i in range(2 * FRAME_RATE)]
    with open_media(path) as container:
        jpegs, shown = read_frames(container, path, times, 64, 90)
    bright = [float(np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).mean()) > 128 for jpeg in jpegs]
    if not any(bright) or float(np.abs(sound_read).max()) < 0.05:
        raise MediaError("corrupt", "the click or the flash of a made clip is not there when it is read")
    return abs(shown[bright.index(True)] - float(np.abs(sound_read).argmax()) / RATE)


def _compute() -> list[Check]:
    """Threads, and how fast matrices are multiplied on what training would take."""
    cores, threads = usable_cores(), torch.get_num_threads()
    wasted = threads < cores and not torch.cuda.is_available()
    advice = f"torch uses {threads} of {counted(cores, 'core')}; OMP_NUM_THREADS={cores} uses all" if wasted else ""
    found = f"{counted(cores, 'core')}, {counted(threads, 'torch thread')}"
    checks = [Check("cores", "note" if wasted else "ok", found, advice)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = None if device.type == "cuda" else MATRIX_SIDE
    rates = {kind: matmul_rate(device, kind, side) for kind in ("fp32", "bf16")}
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    found = f"{name}: " + ", ".join(f"{kind} {rate / 1e9:.0f} GFLOP/s" for kind, rate in rates.items())
    if rates["bf16"] < rates["fp32"]:
        advice = "bf16 is slower than fp32 here: train with train.precision=fp32 (auto chooses it)"
        return [*checks, Check("matrix products", "note", found, advice)]
    return [*checks, Check("matrix products", "ok", found)]


def _memory() -> Check:
    free = free_memory()
    text = f"{free / 1e9:.1f} of {psutil.virtual_memory().total / 1e9:.1f} GB free"
    if free < LITTLE_MEMORY:
        return Check("memory", "note", text, "little is free: ingest with --workers 1, train with train.micro_batch=8")
    return Check("memory", "ok", text)


def _disk(name: str, folder: Path) -> Check:
    """Whether files can be written below `folder`, or below the next folder above it that there is, and how much."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if place.is_file():
        return Check(name, "broken", f"{place} is a file", "choose a folder")
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".equiav-") as file:
            file.write(b"equiav")
            file.flush()
    except OSError as error:
        advice = "choose a folder that you may write to, or free some space"
        return Check(name, "broken", f"{place} cannot be written: {error.strerror or error}", advice)
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free in {place}"
    if free < TOO_LITTLE_DISK:
        return Check(name, "broken", text, "too little for a library or a run: free some space")
    if free < LITTLE_DISK:
        return Check(name, "note", text, "little: an hour of video takes about 0.2 GB in a library of the base recipe")
    return Check(name, "ok", text)
