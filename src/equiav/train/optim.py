"""AdamW, its schedule (linear warm-up, then a cosine, per step: the release's values are the defaults), averaging."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equiav.config import Optim


def make_optimizer(model: nn.Module, settings: Optim) -> torch.optim.AdamW:
    """AdamW in two groups: matrices decay; norms, biases and tokens (at most one real dimension) do not."""
    decay, plain = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decay if sum(size > 1 for size in parameter.shape) > 1 else plain).append(parameter)
    groups = [
        {"params": decay, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)


def learning_rate(step: int, *, steps_per_epoch: int, epochs: int, settings: Optim) -> float:
    """The learning rate of optimizer step `step`, counted from 0: `lr_start` → `lr` → `lr_end`."""
    total = max(steps_per_epoch * epochs, 1)
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total)
    if step < warmup:
        return settings.lr_start + (settings.lr - settings.lr_start) * step / warmup
    done = (step - warmup) / max(total - warmup, 1)
    return settings.lr_end + (settings.lr - settings.lr_end) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@torch.no_grad()
def follow(average: dict[str, Tensor], model: nn.Module, decay: float | None, step: int) -> None:
    """Move a running average of the weights towards them; in the first steps faster, to forget where they began."""
    if decay is None:
        return
    keep = min(decay, (1 + step) / (10 + step))
    for name, weight in model.named_parameters():
        average[name].lerp_(weight, 1 - keep)
