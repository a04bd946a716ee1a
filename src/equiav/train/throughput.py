"""How much of the processor a training step makes use of: its matrix products counted, the peak measured."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from equiav.config import ModelConfig
from equiav.machine import DTYPES
from equiav.model.equiav import EquiAV

SIDES = {"cuda": (8192,), "cpu": (1024, 2048)}  # the larger product is up to twice as fast, and larger ones no faster
PATIENCE_S = 0.3  # for products of one side
AGAIN_S = 60.0


def matmul_rate(device: torch.device, precision: str, side: int | None = None) -> float:
    """FLOP/s of square matrix products, the best of a few: what a training step could reach at most."""
    sides = (side,) if side else SIDES[device.type]
    best = 0.0
    for side in sides:
        seconds = _product_seconds(device, getattr(torch, DTYPES[precision]), side)
        best = max(best, 2 * side**3 / seconds)
        if seconds > PATIENCE_S:  # bf16 that is emulated
            break
    return best


def _product_seconds(device: torch.device, dtype: torch.dtype, side: int) -> float:
    a = torch.ones(side, side, device=device, dtype=dtype)
    best, spent = float("inf"), 0.0
    for _ in range(5):
        start = now(device)
        product = a @ a
        best = min(best, now(device) - start)
        spent += best
        if spent > PATIENCE_S:
            break
        del product
    return best


def now(device: torch.device) -> float:
    """Seconds on a clock, read when all that the device was told to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Ceiling:
    """FLOP/s that a training step could reach at most: the best that this device has shown in the run.

    A device that others use, or that is hot, shows less at one time than at another: it is asked again every minute,
    and when a step was faster than anything it has shown. A step that is faster still is the best that it has shown.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        self.rate = 0.0
        self._measure()

    def share(self, rate: float) -> float:
        """Of the ceiling that a step of `rate` FLOP/s reached, at most 1: the model FLOP utilisation."""
        if rate > self.rate or time.monotonic() - self._measured > AGAIN_S:
            self._measure()
        self.rate = max(self.rate, rate)
        return rate / self.rate

    def _measure(self) -> None:
        self.rate = max(self.rate, matmul_rate(self.device, self.precision))
        self._measured = time.monotonic()


def choose_precision(wish: str) -> str:
    """Of training: `auto` → "bf16" where a bf16 matrix product outruns fp32, else "fp32".

    On a processor this is measured: some accept bf16 and compute it a hundred times slower. Of GPUs it is known: those
    before compute capability 8.0 accept it and emulate it. Of embedding `machine.pick_precision` decides.
    """
    if wish != "auto":
        return wish
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    rates = {precision: matmul_rate(torch.device("cpu"), precision, side=256) for precision in ("fp32", "bf16")}
    return max(rates, key=lambda precision: rates[precision])


def model_inputs(model: EquiAV, clips: int, device: torch.device | str) -> list[Tensor]:
    """All arguments of `EquiAV.forward`, random."""
    settings, features = model.config.architecture, model.config.features
    side, k = settings.image_side, settings.centroid_samples
    views = [(features.time_frames, features.mel_bins), (3, side, side)] * 2
    spaces = (model.audio_space.size, model.visual_space.size)
    shapes = [*views, *((p,) for p in spaces), *((k, p) for p in spaces)]
    return [torch.randn(clips, *shape, device=device) for shape in shapes]


def step_flops(config: ModelConfig, clips: int = 1) -> int:
    """Matrix-product FLOPs of forward and backward of both views, counted on the meta device; losses not counted."""
    with torch.device("meta"):
        model = EquiAV(config, seed=None)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = model(*model_inputs(model, clips, "meta"))
        torch.stack([x.sum() for x in outputs if x is not None]).sum().backward()
    return counter.get_total_flops()
