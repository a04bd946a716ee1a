"""How fast are the views of a batch, against the same transforms clip by clip?

Prints one JSON object: clips per second on one core for both views of a full-size clip (1024×128 spectrogram, 224²
picture from a 256² frame, default spaces, the same parameters on both sides), their ratio to per-sample code
(PIL for pictures, NumPy, PIL and scipy for spectrograms, effects only where they are on); parameter vectors drawn
and encoded for K=16 centroid sets of both modalities; and the peak of extra memory as a multiple of the input batch.
Where a CUDA device is present, its clips per second as well.

    python benchmarks/augment.py --batch 32 --repeats 7
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from scipy import ndimage

from _common import environment
from equiav.augment.audio import AudioSpace, audio_space
from equiav.augment.space import SpaceParams
from equiav.augment.uniforms import Method
from equiav.augment.visual import VisualSpace, normalise, visual_space
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
    """Least processor time of each, in turns: other programs do not count, and busy moments fall on all alike."""
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


@dataclass(frozen=True)
class Views:
    """One batch, its parameters, and both ways to make its views."""

    audio: AudioSpace
    visual: VisualSpace
    sounds: torch.Tensor
    frames: torch.Tensor
    audio_params: SpaceParams
    visual_params: SpaceParams

    @classmethod
    def draw(cls, batch: int) -> Views:
        generator = torch.Generator().manual_seed(0)
        audio, visual = audio_space(Augment(), T, M), visual_space(Augment(), SIDE)
        coarse = torch.rand(batch, 3, 16, 16, generator=generator)
        frames = torch.nn.functional.interpolate(coarse, size=(FRAME, FRAME), mode="bicubic").clamp(0, 1)
        return cls(
            audio,
            visual,
            torch.randn(batch, T, M, generator=generator),
            (frames * 255).round() / 255,
            audio.sample(batch, generator),
            visual.sample(batch, generator),
        )

    def audio_batch(self) -> torch.Tensor:
        return self.audio.apply(self.sounds, self.audio_params)

    def visual_batch(self) -> torch.Tensor:
        return normalise(self.visual.apply(self.frames, self.visual_params))

    def audio_loop(self) -> np.ndarray:
        return np.stack([audio_clip(x.numpy(), t) for x, t in zip(self.sounds, rows(self.audio_params), strict=True)])

    def visual_loop(self, arrays: list[np.ndarray]) -> np.ndarray:
        return np.stack([visual_clip(x, t) for x, t in zip(arrays, rows(self.visual_params), strict=True)])

    def arrays(self) -> list[np.ndarray]:
        """The frames as a decoder gives them: (H, W, 3) uint8."""
        frames = (self.frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return list(frames.numpy())

    def centroid_vectors(self, method: Method, count: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        n = len(self.sounds) * count
        return [space.encode(space.sample(n, generator, method, group=count)) for space in (self.audio, self.visual)]


def differences(views: Views, arrays: list[np.ndarray]) -> dict[str, float]:
    """Mean absolute difference of the two ways: both must do the same work."""
    pairs = {
        "audio": (views.audio_batch().numpy(), views.audio_loop()),
        "visual": (views.visual_batch().numpy(), views.visual_loop(arrays)),
    }
    found = {name: float(abs(batch - loop).mean()) for name, (batch, loop) in pairs.items()}
    if max(found.values()) > 0.05:
        raise SystemExit(f"the loop does something else than the spaces: {found}")
    return {name: round(value, 4) for name, value in found.items()}


def on_cuda(views: Views, repeats: int) -> dict[str, float | str]:
    """Clips per second of both views on the accelerator, parameters drawn on the processor."""
    sounds, frames = views.sounds.cuda(), views.frames.cuda()
    best = float("inf")
    for _ in range(repeats + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        views.audio.apply(sounds, views.audio_params)
        normalise(views.visual.apply(frames, views.visual_params))
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return {"device": torch.cuda.get_device_name(), "clips_per_s": round(len(sounds) / best, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Views of a batch against the same transforms clip by clip")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--centroid-samples", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    views = Views.draw(given.batch)
    arrays = views.arrays()
    works: dict[str, Callable[[], object]] = {
        "audio": views.audio_batch,
        "visual": views.visual_batch,
        "audio_loop": views.audio_loop,
        "visual_loop": lambda: views.visual_loop(arrays),
        **{m: partial(views.centroid_vectors, m, given.centroid_samples) for m in get_args(Method)},
    }
    memory = {  # before anything else fills and cuts up the heap
        "audio": round(extra_memory(views.audio_batch, views.sounds), 2),
        "visual": round(extra_memory(views.visual_batch, views.frames), 2),
    }
    found = differences(views, arrays)
    took = seconds(works, given.repeats)
    batched, loop = took["audio"] + took["visual"], took["audio_loop"] + took["visual_loop"]
    result = {
        "benchmark": "augment",
        **environment(),
        "torch": torch.__version__,
        "threads": 1,
        "batch": given.batch,
        "centroid_samples": given.centroid_samples,
        "clips_per_s": round(given.batch / batched, 1),
        "loop_clips_per_s": round(given.batch / loop, 1),
        "ratio": round(loop / batched, 2),
        "ms_per_clip": {name: round(took[name] / given.batch * 1e3, 2) for name in list(works)[:4]},
        "centroid_clips_per_s": {m: round(given.batch / took[m]) for m in get_args(Method)},
        "mean_difference_to_loop": found,
        "extra_memory": memory,
        "cuda": on_cuda(views, given.repeats) if torch.cuda.is_available() else None,
        "bars": BARS,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
