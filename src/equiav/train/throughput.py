"""How much of the processor a training step makes use of: its matrix products counted, the peak measured."""

from __future__ import annotations

import time

import psutil
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from equiav.config import ModelConfig
from equiav.model.equiav import EquiAV

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def matmul_rate(device: torch.device, precision: str, side: int | None = None) -> float:
    """FLOP/s of square matrix products, the best of a few: what a training step could reach at most."""
    side = side or (8192 if device.type == "cuda" else 1024)
    a = torch.ones(side, side, device=device, dtype=DTYPES[precision])
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product = a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
        del product
    return 2 * side**3 / best


def choose_precision(wish: str) -> str:
    """`auto` → "bf16" where a bf16 matrix product outruns fp32, else "fp32".

    On a processor this is measured: some accept bf16 and compute it a hundred times slower. Of GPUs it is known: those
    before compute capability 8.0 accept it and emulate it.
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


def memory_gb(device: torch.device) -> float:
    """Memory in use, in 10^9 bytes: the GPU's peak, or this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9
