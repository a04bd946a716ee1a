"""Are vectors of all devices and precisions comparable, and how near to its peak does a GPU embed?

Prints one JSON object: for each device × precision the smallest and the mean cosine to fp32 on the CPU, whether two
passes are equal bit for bit, and the cosine between passes of one and of many; and where there is a GPU, for ViT-B
towers (inputs already in its memory) the FLOP/s that they reach at `--batch`, as a share of the best 8192^3 product of
the same precision in the same run, and how many times the CPU's clips/s that is. "not measured" is what is not here.
Bars: cosine 0.9999 in fp32, 0.999 in half precision; bf16 at batch 256 half of the peak, 20 times the CPU.

It needs neither pylance nor PyAV, and less than five minutes.

    python benchmarks/precision.py
    python benchmarks/precision.py --model R/model      # of a trained model
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from _common import environment
from equiav.config import ModelConfig, load_recipe
from equiav.errors import ConfigError
from equiav.machine import pick_device, pick_precision
from equiav.model.equiav import EquiAV
from equiav.train.throughput import matmul_rate, now

PRECISIONS = ("fp32", "bf16", "fp16")
NOT_MEASURED = "not measured"
CLIPS, CPU_CLIPS = 8, 4  # of the cosines; in a timed pass of the CPU
PASSES_S = 10.0


def made(recipe: str) -> EquiAV:
    """A fresh model of a recipe's sizes."""
    found = load_recipe(recipe)
    return EquiAV(ModelConfig(architecture=found.model, features=found.features, audio_mean=-6.0, audio_std=4.0)).eval()


def inputs(model: EquiAV, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Smooth random spectrograms and pictures, on the encoder's scale."""
    features, side = model.config.features, model.config.architecture.image_side
    generator = torch.Generator().manual_seed(0)
    mels = torch.randn(count, 1, features.time_frames // 8, features.mel_bins // 8, generator=generator)
    pictures = torch.randn(count, 3, side // 8, side // 8, generator=generator)
    mels = F.interpolate(mels, (features.time_frames, features.mel_bins), mode="bilinear")[:, 0]
    return mels.to(device), F.interpolate(pictures, (side, side), mode="bilinear").to(device)


@torch.inference_mode()
def embed(model: EquiAV, given: tuple[Tensor, Tensor], precision: str) -> Tensor:
    """Vectors (2, n, E)."""
    with model.computing(precision):
        return torch.stack([model.embed_audio(given[0]), model.embed_visual(given[1])])


def cosines(model: EquiAV, device: torch.device, expected: Tensor) -> dict[str, Any]:
    """Of each precision on a device."""
    model.to(device)
    given = inputs(model, CLIPS, device)
    table: dict[str, Any] = {}
    for precision in PRECISIONS:
        try:
            vectors = embed(model, given, precision)
        except (ConfigError, RuntimeError) as error:
            table[precision] = f"{NOT_MEASURED}: {error}"
            continue
        alone = torch.cat(
            [embed(model, (given[0][i : i + 1], given[1][i : i + 1]), precision) for i in range(CLIPS)], 1
        )
        same = (vectors.cpu() * expected).sum(-1)
        table[precision] = {
            "least_cosine_to_fp32_on_cpu": same.min().item(),
            "mean_cosine": same.mean().item(),
            "equal_when_repeated": torch.equal(vectors, embed(model, given, precision)),
            "least_cosine_between_batch_sizes": (vectors * alone).sum(-1).min().item(),
        }
    return table


def clips_per_s(model: EquiAV, batch: int, precision: str) -> float:
    """Clips whose sound and picture the towers embed in a second, the best of passes for some seconds."""
    device = model.device
    given = inputs(model, batch, device)
    embed(model, given, precision)
    best, spent = float("inf"), 0.0
    while spent < PASSES_S:
        start = now(device)
        embed(model, given, precision)
        took = now(device) - start
        best, spent = min(best, took), spent + took
    return batch / best


def clip_flops(model: EquiAV) -> int:
    """Of the matrix products that embed one clip."""
    with torch.device("meta"):
        empty = EquiAV(model.config, seed=None)
    given = inputs(model, 1, torch.device("meta"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        empty.embed_audio(given[0])
        empty.embed_visual(given[1])
    return counter.get_total_flops()


def gpu_rates(model: EquiAV, device: torch.device, batch: int, cpu: float) -> dict[str, Any]:
    """Share of the peak of each precision that the GPU has, and what compiled blocks make of the chosen one."""
    flops, found = clip_flops(model), dict[str, Any]()
    model.to(device)
    chosen = pick_precision("auto", device)
    for name, precision in {"fp32": "fp32", chosen: chosen, f"{chosen}, compiled": chosen}.items():
        if "compiled" in name:
            for block in (*model.audio_tower.encoder.blocks, *model.visual_tower.encoder.blocks):
                block.compile()
        rate = clips_per_s(model, batch, precision)
        peak = matmul_rate(device, precision)
        found[name] = {
            "clips_per_s": rate,
            "tflops": rate * flops / 1e12,
            "peak_tflops": peak / 1e12,
            "share_of_peak": rate * flops / peak,
            "times_the_cpu": rate / cpu,
        }
    return {"batch": batch, "gpu": torch.cuda.get_device_name(device), "auto": chosen, **found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model's folder, for the cosines; default fresh weights of the recipe")
    parser.add_argument("--recipe", default="toy", help="of those weights: a CPU may take a minute for a large half")
    parser.add_argument("--towers", default="base", help="recipe of the towers whose speed is measured")
    parser.add_argument("--batch", type=int, default=256)
    given = parser.parse_args()
    model = EquiAV.from_pretrained(given.model) if given.model else made(given.recipe)
    cpu = torch.device("cpu")
    expected = embed(model, inputs(model, CLIPS, cpu), "fp32")
    table: dict[str, Any] = {}
    for kind in ("cpu", "cuda", "mps"):
        try:
            table[kind] = cosines(model, pick_device(kind), expected)
        except ConfigError:
            table[kind] = NOT_MEASURED
    towers = made(given.towers)
    rate = clips_per_s(towers, CPU_CLIPS, "fp32")
    on_cpu = {"clips_per_s": rate, "share_of_peak": rate * clip_flops(towers) / matmul_rate(cpu, "fp32")}
    has_gpu = torch.cuda.is_available()
    on_gpu = gpu_rates(towers, torch.device("cuda"), given.batch, rate) if has_gpu else NOT_MEASURED
    report = {
        **environment(),
        "torch": torch.__version__,
        "cosines": table,
        "towers_on_cpu": on_cpu,
        "towers_on_gpu": on_gpu,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
