"""How near is a training step to the matrix products it is made of?

Prints one JSON object. The ceiling is the machine's own rate of 2048^3 products, measured between the steps of the
same run; the work is the model's counted matrix multiplications, forward and backward, of both views and the
predictor. `--size base` is ViT-B/16 with the paper's settings (bars: at least 0.75 of the fp32 rate, 0.66 of the bf16
rate; predictor and centroid at most 5 % of the step), `--size toy` the shipped toy recipe, beside the same encoders
made of torch's nn.TransformerEncoder. bf16 is measured only where the processor multiplies it at least as fast as fp32.

    python benchmarks/model.py --size base
    python benchmarks/model.py --size toy --repeats 10 --shared
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from _common import environment
from equiav.config import ModelConfig, load_recipe
from equiav.model.equiav import EquiAV
from equiav.model.predictor import ParameterEncoder, make_predictor
from equiav.train.loss import equiav_loss
from equiav.train.throughput import model_inputs, step_flops

SIDE = 2048
PAPER = load_recipe("base")
LOSS = PAPER.loss
SIZES = {"base": ("base", 4), "toy": ("toy", 64)}


CLOCK = time.perf_counter


def seconds(work: Callable[[], object]) -> float:
    start = CLOCK()
    work()
    return CLOCK() - start


class Ceiling:
    """The fastest product of two 2048 x 2048 matrices seen so far."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.matrix = torch.randn(SIDE, SIDE).to(dtype)
        self.best = min(seconds(self.product) for _ in range(3))

    def product(self) -> Tensor:
        return self.matrix @ self.matrix

    def measure(self, repeats: int = 4) -> None:
        self.best = min([self.best, *(seconds(self.product) for _ in range(repeats))])

    @property
    def flops_per_s(self) -> float:
        return 2 * SIDE**3 / self.best


def quick_rate(dtype: torch.dtype) -> float:
    """FLOP/s of one small product: some processors take bf16 and are a hundred times slower with it."""
    a = torch.ones(256, 256, dtype=dtype)
    return 2 * 256**3 / min(seconds(lambda: a @ a) for _ in range(6))


def training_step(model: EquiAV, given: list[Tensor], dtype: torch.dtype) -> None:
    """Forward, losses, backward."""
    with torch.autocast("cpu", dtype=dtype) if dtype != torch.float32 else nullcontext():
        loss = equiav_loss(model(*given), LOSS)["loss"]
    loss.backward()
    model.zero_grad()


def counted(work: Callable[[], object]) -> int:
    """FLOPs of the matrix products in `work`, run on the meta device."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def overhead_gmac(tokens: int, slots: int, samples: int) -> float:
    """Multiply-adds of the released predictor for one clip and `samples` queries, in 10^9."""
    with torch.device("meta"):
        encoder, predictor = ParameterEncoder(slots, 256), make_predictor(PAPER.model)
        h, params = torch.empty(1, tokens, 768), torch.empty(1, samples, slots)
    return counted(lambda: predictor(h, encoder(params))) / 2e9


def predictor_step(model: EquiAV, batch: int, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward of what the predictor adds to a step: one prediction and K for the centroid, twice."""
    settings = model.config.architecture
    parts = []
    for name in ("audio", "visual"):
        tower = getattr(model, f"{name}_tower")
        rows, columns = tower.encoder.grid
        tokens = torch.randn(batch, rows * columns, settings.width, requires_grad=True)
        params = torch.randn(batch, 1 + settings.centroid_samples, tower.centroid_set.shape[1])
        parts.append((tower, tokens, params, model.predictor(name)))

    def step() -> None:
        with torch.autocast("cpu", dtype=dtype) if dtype != torch.float32 else nullcontext():
            for tower, tokens, params, predictor in parts:
                moved = tower.predict(tokens, params, predictor)
                (moved[:, 0].float().sum() + moved[:, 1:].mean(dim=1).float().sum()).backward()

    return step


def torch_encoders(config: ModelConfig, batch: int) -> tuple[Callable[[], None], int]:
    """A step of the encoders alone, of both views, made of nn.TransformerEncoder; and its FLOPs."""
    settings, features = config.architecture, config.features
    lengths = (
        features.time_frames * features.mel_bins // settings.audio_patch**2,
        (settings.image_side // settings.visual_patch) ** 2,
    )

    def make(device: str) -> list[tuple[nn.Module, Tensor]]:
        made = []
        for length in lengths:
            layer = nn.TransformerEncoderLayer(
                settings.width,
                settings.heads,
                4 * settings.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
                device=device,
            )
            encoder = nn.TransformerEncoder(layer, settings.depth, enable_nested_tensor=False)
            made.append((encoder, torch.randn(2 * batch, length, settings.width, device=device, requires_grad=True)))
        return made

    def step(parts: list[tuple[nn.Module, Tensor]]) -> None:
        for encoder, tokens in parts:
            encoder(tokens).sum().backward()

    flops = counted(lambda: step(make("meta")))
    real = make("cpu")
    return lambda: step(real), flops


def alternate(work: Callable[[], object], ceiling: Ceiling, repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs, with the ceiling measured in between."""
    work()
    times = []
    for _ in range(repeats):
        ceiling.measure()
        times.append(seconds(work))
    ceiling.measure()
    return min(times)


def measure(config: ModelConfig, batch: int, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """One precision: step, ratio to the ceiling, and the predictor's share."""
    model, ceiling = EquiAV(config), Ceiling(dtype)
    given, flops = model_inputs(model, batch, "cpu"), step_flops(config, batch)
    step_s = alternate(lambda: training_step(model, given, dtype), ceiling, repeats)
    predictor_s = alternate(predictor_step(model, batch, dtype), ceiling, 2 * repeats)
    return {
        "step_s": round(step_s, 4),
        "step_gflop": round(flops / 1e9, 1),
        "step_gflop_per_s": round(flops / step_s / 1e9, 1),
        "product_gflop_per_s": round(ceiling.flops_per_s / 1e9, 1),
        "ratio": round(flops / step_s / ceiling.flops_per_s, 3),
        "predictor_s": round(predictor_s, 4),
        "predictor_share": round(predictor_s / step_s, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step against the matrix products it is made of")
    parser.add_argument("--size", choices=tuple(SIZES), default="base")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compile the blocks with torch.compile")
    parser.add_argument("--shared", action="store_true", help="one thread, in CPU seconds: on a machine others use too")
    given = parser.parse_args()
    if given.shared:
        global CLOCK
        CLOCK = time.process_time
        torch.set_num_threads(1)

    recipe, batch = SIZES[given.size]
    batch = given.batch or batch
    settings = load_recipe(recipe)
    architecture = settings.model.model_copy(update={"compile": given.compile})
    config = ModelConfig.model_validate({"architecture": architecture, "features": settings.features})
    found: dict[str, Any] = {"benchmark": "model", "size": given.size, "batch": batch, **environment()}
    found |= {"threads": torch.get_num_threads(), "clock": CLOCK.__name__, "torch": torch.__version__}
    found["capability"] = torch.backends.cpu.get_cpu_capability()
    if given.size == "toy":
        work, flops = torch_encoders(config, batch)
        ceiling = Ceiling(torch.float32)
        spent = alternate(work, ceiling, given.repeats)
        found["torch_transformer_encoder"] = {
            "step_s": round(spent, 4),
            "step_gflop_per_s": round(flops / spent / 1e9, 1),
            "ratio": round(flops / spent / ceiling.flops_per_s, 3),
        }
    found["fp32"] = measure(config, batch, torch.float32, given.repeats)
    rates = {name: quick_rate(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    if rates["bf16"] >= rates["fp32"]:
        found["bf16"] = measure(config, batch, torch.bfloat16, given.repeats)
    else:
        found["bf16"] = f"not measured: {rates['bf16'] / 1e9:.1f} GFLOP/s here, fp32 {rates['fp32'] / 1e9:.1f}"
    found["overhead_gmac"] = {
        f"K={k}": {"audio": round(overhead_gmac(512, 24, k), 2), "visual": round(overhead_gmac(196, 18, k), 2)}
        for k in (1, 4, 8, 16)
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
