"""How fast are the views of a batch, against the same transforms clip by clip?

Prints one JSON object: clips per second on one core for both views of a full-size clip (1024×128 spectrogram, 224²
picture from a 256² frame, default spaces, the same parameters on both sides), their ratio to per-sample code
(PIL for pictures, NumPy, PIL and scipy for spectrograms, effects only where they are on); parameter vectors drawn
and encoded for K=16 centroid sets of both senses; and the peak of extra memory as a multiple of the input batch.
Where a CUDA device is present, its clips per second as well.

    python benchmarks/augment.py --batch 32 --repeats 7
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from scipy import ndimage

from equiav.augment.audio import audio_space
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.visual import normalise, visual_space
from equiav.config import Augment

T, M, SIDE, FRAME = 1024, 128, 224, 256
BARS = {"clips_per_s": 60.0, "ratio": 3.0, "centroid_clips_per_s": 5000.0, "extra_memory": 6.0}
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def audio_clip(x: np.ndarray, t: dict[str, float]) -> np.ndarray:
    """One spectrogram (T, M) as a data-loader worker would do it."""
    x = x.copy()
    if t["time_mask.on"]:
        x[round(t["time_mask.start"] * T) : round(t["time_mask.end"] * T)] = 0
    if t["frequency_mask.on"]:
        x[:, round(t["frequency_mask.start"] * M) : round(t["frequency_mask.end"] * M)] = 0
    if t["shift.on"]:
        x = np.roll(x, round(t["shift.amount"] * T), axis=0)
    if t["crop.on"]:
        top, left = t["crop.top"] * T, t["crop.left"] * M
        box = (left, top, left + t["crop.width"] * M, top + t["crop.height"] * T)
        x = np.asarray(Image.fromarray(x).resize((M, T), Image.Resampling.BILINEAR, box=box))
    if t["gain.on"]:
        x = x + np.float32(t["gain.amount"])
    if t["contrast.on"]:
        mean = x.mean()
        x = mean + np.float32(t["contrast.factor"]) * (x - mean)
    if t["blur.on"]:
        x = ndimage.gaussian_filter(x, t["blur.sigma"], mode="nearest", truncate=3)
    if t["reverse.on"]:
        x = x[::-1]
    return np.ascontiguousarray(x)


def turn_hue(image: Image.Image, turns: float) -> Image.Image:
    """As torchvision does on a PIL picture."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(turns * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def visual_clip(frame: np.ndarray, t: dict[str, float]) -> np.ndarray:
    """One frame (H, W, 3) uint8 as a data-loader worker would do it."""
    side = min(frame.shape[:2])
    box: tuple[float, ...] = (0, 0, side, side)
    if t["crop.on"]:
        top, left = t["crop.top"] * side, t["crop.left"] * side
        box = (left, top, left + t["crop.width"] * side, top + t["crop.height"] * side)
    image = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    if t["jitter.on"]:
        effects: tuple[Callable[[Image.Image], Image.Image], ...] = (
            lambda im: ImageEnhance.Brightness(im).enhance(t["jitter.brightness"]),
            lambda im: ImageEnhance.Contrast(im).enhance(t["jitter.contrast"]),
            lambda im: ImageEnhance.Color(im).enhance(t["jitter.saturation"]),
            lambda im: turn_hue(im, t["jitter.hue"]),
        )
        for position in ("first", "second", "third", "fourth"):
            image = effects[int(t[f"jitter.{position}"])](image)
    if t["blur.on"]:
        image = image.filter(ImageFilter.GaussianBlur(t["blur.sigma"]))
    if t["flip.on"]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if t["grayscale.on"]:
        image = image.convert("L").convert("RGB")
    return ((np.asarray(image, dtype=np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)


def rows(params: SpaceParams) -> list[dict[str, float]]:
    return [dict(zip(params.names, row, strict=True)) for row in params.values.tolist()]


def seconds(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least processor time of each (other programs do not count), taken in turns, so that busy moments fall on all alike."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            start = time.thread_time()
            work()
            best[name] = min(best[name], time.thread_time() - start)
    return best


def extra_memory(work: Callable[[], object], batch: torch.Tensor) -> float:
    """Peak of resident memory above what is held before, as a multiple of the batch."""
    work()
    ctypes.CDLL(None).malloc_trim(0)  # memory that is kept for the next call would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the kernel starts the peak anew
    before = _status("VmRSS")
    result = work()
    peak = _status("VmHWM")
    del result
    return (peak - before) * 1024 / (batch.numel() * batch.element_size())


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1])


def hardware() -> dict[str, str | int]:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor(), "cores": len(names)}


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def agreement(space: AugmentationSpace, ours: torch.Tensor, theirs: list[np.ndarray]) -> float:
    """Mean absolute difference: both sides must do the same work."""
    difference = float((ours - torch.from_numpy(np.stack(theirs))).abs().mean())
    if difference > 0.05:
        raise SystemExit(f"the {space.modality} loop does something else: mean difference {difference:.3f}")
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description="Views of a batch against the same transforms clip by clip")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--centroid-samples", type=int, default=16)
    given = parser.parse_args()
    B, K = given.batch, given.centroid_samples

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    audio, visual = audio_space(Augment(), T, M), visual_space(Augment(), SIDE)
    sounds = torch.randn(B, T, M, generator=generator)
    coarse = torch.rand(B, 3, 16, 16, generator=generator)
    frames = torch.nn.functional.interpolate(coarse, size=(FRAME, FRAME), mode="bicubic").clamp(0, 1)
    frames_8bit = (frames * 255).round().to(torch.uint8)
    frames = frames_8bit.float() / 255
    arrays = [frame.permute(1, 2, 0).contiguous().numpy() for frame in frames_8bit]
    audio_params, visual_params = audio.sample(B, generator), visual.sample(B, generator)
    audio_rows, visual_rows = rows(audio_params), rows(visual_params)

    works: dict[str, Callable[[], object]] = {
        "audio": lambda: audio.apply(sounds, audio_params),
        "visual": lambda: normalise(visual.apply(frames, visual_params)),
        "audio_loop": lambda: np.stack([audio_clip(x.numpy(), t) for x, t in zip(sounds, audio_rows, strict=True)]),
        "visual_loop": lambda: np.stack([visual_clip(x, t) for x, t in zip(arrays, visual_rows, strict=True)]),
    }
    for method in ("iid", "antithetic", "sobol"):
        works[f"centroid_{method}"] = lambda method=method: [
            space.encode(space.sample(B * K, generator, method, group=K)) for space in (audio, visual)
        ]
    agreements = {
        "audio": agreement(audio, audio.apply(sounds, audio_params), [audio_clip(x.numpy(), t) for x, t in zip(sounds, audio_rows, strict=True)]),
        "visual": agreement(visual, normalise(visual.apply(frames, visual_params)), [visual_clip(x, t) for x, t in zip(arrays, visual_rows, strict=True)]),
    }
    took = seconds(works, given.repeats)
    batched, loop = took["audio"] + took["visual"], took["audio_loop"] + took["visual_loop"]
    result = {
        "benchmark": "augment",
        "hardware": hardware(),
        "torch": torch.__version__,
        "threads": 1,
        "commit": commit(),
        "batch": B,
        "centroid_samples": K,
        "clips_per_s": round(B / batched, 1),
        "loop_clips_per_s": round(B / loop, 1),
        "ratio": round(loop / batched, 2),
        "ms_per_clip": {name: round(took[name] / B * 1e3, 2) for name in ("audio", "visual", "audio_loop", "visual_loop")},
        "centroid_clips_per_s": {m: round(B / took[f"centroid_{m}"]) for m in ("iid", "antithetic", "sobol")},
        "mean_difference_to_loop": {name: round(value, 4) for name, value in agreements.items()},
        "extra_memory": {
            "audio": round(extra_memory(works["audio"], sounds), 2),
            "visual": round(extra_memory(works["visual"], frames), 2),
        },
        "bars": BARS,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
