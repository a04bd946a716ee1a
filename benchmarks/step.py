"""What share of the processor's matrix-product rate does a whole training step reach?

A step is everything: batch from the loader, views, ψ(t), forward, losses, backward, clip, AdamW. Prints one JSON
object with the peak measured in the same run. `--straightforward` adds the same model written the usual way (both views
through the encoder one after the other, attention spelled out, eager; on a GPU with fp16 autocast), for a ratio.
Without `--library` the batches are made up, so that it runs where no video library is installed.

    python benchmarks/step.py --recipe base --batch 4 --library --straightforward
    python benchmarks/step.py --recipe base --batch 64 --compile --straightforward           # on a GPU
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _common import environment
from equiav.config import ModelConfig, Recipe, load_recipe
from equiav.model.equiav import EquiAV
from equiav.model.vit import Attention, Encoder
from equiav.train.gradient import backward
from equiav.train.memory import peak_gb
from equiav.train.objective import Pretraining
from equiav.train.optim import make_optimizer
from equiav.train.processes import make_accelerator
from equiav.train.throughput import choose_precision, matmul_rate, step_flops


@dataclass(frozen=True)
class Made:
    """A batch of noise, with what `equiav.library.loader.Batch` has."""

    audio: Tensor
    frames: Tensor
    sizes: Tensor
    clip_ids: list[str]

    def split(self, size: int) -> list[Made]:
        starts = range(0, len(self.clip_ids), size)
        return [Made(**{name: value[i : i + size] for name, value in vars(self).items()}) for i in starts]


def made_batches(recipe: Recipe, batch: int) -> Iterator[Made]:
    features = recipe.features
    height, width = features.frame_side, features.frame_side * 4 // 3
    audio = torch.randn(batch, features.time_frames, features.mel_bins)
    frames = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * batch)
    while True:
        yield Made(audio, frames, sizes, [f"{i:024x}" for i in range(batch)])


def library_batches(recipe: Recipe, batch: int, folder: Path, clips: int) -> Iterator[Any]:
    from _clips import make_library
    from equiav.library.loader import ClipLoader

    loader = ClipLoader(make_library(folder, clips, recipe.features), "train", batch)
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def spelled_out(self: Attention, tokens: Tensor) -> Tensor:
    query, key, value = (x.transpose(1, 2) for x in self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2))
    weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
    return self.out((weights @ value).transpose(1, 2).flatten(2))


def one_after_the_other(self: Encoder, base: Tensor, view: Tensor | None) -> tuple[Tensor, Tensor | None]:
    seen = None if view is None or self.view_norm is None else self.view_norm(self.features(self.embed(view)))
    return self.norm(self.features(self.embed(base))), seen


def straightforward(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Attention):
            module.forward = spelled_out.__get__(module)
        elif isinstance(module, Encoder):
            module.forward = one_after_the_other.__get__(module)


def measure(recipe: Recipe, batches: Iterator[Any], *, precision: str, steps: int, usual: bool) -> dict[str, Any]:
    """Median step of a few, and the share of it that waited for data."""
    config = ModelConfig(architecture=recipe.model, features=recipe.features, augment=recipe.augment)
    accelerator = make_accelerator(precision)
    model = EquiAV(config).to(accelerator.device).train()
    if usual:
        straightforward(model)
    objective, optimizer = Pretraining(model, recipe), make_optimizer(model, recipe.optim)
    took, waited = [], []
    clips = 0
    for number in range(steps + 2):
        start = time.perf_counter()
        batch = next(batches)
        came = time.perf_counter()
        clips = len(batch.clip_ids)
        losses = backward(model, objective, batch, number, accelerator, micro_batch=clips)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        float(losses["loss"])  # waits for the accelerator
        took.append(time.perf_counter() - start)
        waited.append(came - start)
    took, waited = took[2:], waited[2:]
    flops, seconds = step_flops(config) * clips, sorted(took)[len(took) // 2]
    peak = matmul_rate(accelerator.device, precision)
    return {
        "precision": precision,
        "step_s": round(seconds, 4),
        "clips_per_s": round(clips / seconds, 2),
        "tflop_per_step": round(flops / 1e12, 3),
        "gflop_per_s": round(flops / seconds / 1e9, 1),
        "peak_gflop_per_s": round(peak / 1e9, 1),
        "ratio": round(flops / seconds / peak, 3),
        "data_wait": round(sum(waited) / sum(took), 4),
        "memory_gb": round(peak_gb(accelerator.device), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="base")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--library", action="store_true", help="read batches from a library made for it")
    parser.add_argument("--straightforward", action="store_true", help="measure the usual way beside it")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe, [f"model.compile={str(given.compile).lower()}"])
    precision = choose_precision(given.precision)
    usual = recipe.model_copy(update={"model": recipe.model.model_copy(update={"compile": False})})
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "cpu"
    result: dict[str, Any] = {"benchmark": "step", **environment(), "device": device, "torch": torch.__version__}
    result |= {"recipe": given.recipe, "batch": given.batch, "compile": given.compile, "library": given.library}
    with tempfile.TemporaryDirectory() as folder:

        def batches() -> Iterator[Any]:
            if given.library:
                return library_batches(recipe, given.batch, Path(folder) / "L", 16 * given.batch)
            return made_batches(recipe, given.batch)

        works: dict[str, Callable[[], dict[str, Any]]] = {
            "equiav": lambda: measure(recipe, batches(), precision=precision, steps=given.steps, usual=False)
        }
        if given.straightforward:
            half = "fp16" if cuda else precision
            works["straightforward"] = lambda: measure(usual, batches(), precision=half, steps=given.steps, usual=True)
        for name, work in works.items():
            result[name] = work()
    if given.straightforward:
        result["speedup"] = round(result["equiav"]["clips_per_s"] / result["straightforward"]["clips_per_s"], 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
