"""AdamW, its schedule (linear warm-up, then a cosine per step, or halves per epoch), and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equiav.config import Optim


def make_optimizer(
    model: nn.Module, settings: Optim, lr_ratio: Callable[[str], float] = lambda _: 1.0
) -> torch.optim.AdamW:
    """AdamW in groups: matrices decay; norms, biases and tokens (at most one real dimension) do not.

    Args:
        lr_ratio: of a parameter, by its name: its learning rate over that of the schedule.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if sum(size > 1 for size in parameter.shape) > 1 else 0.0
            ratio = lr_ratio(name)
            group: dict[str, Any] = {"params": [], "weight_decay": decay, "lr_ratio": ratio, "lr": ratio * settings.lr}
            groups.setdefault((ratio, -decay), group)["params"].append(parameter)
    return torch.optim.AdamW([groups[key] for key in sorted(groups)], betas=settings.betas, fused=True)


def learning_rate(step: int, *, steps_per_epoch: int, epochs: int, settings: Optim) -> float:
    """The learning rate of optimizer step `step`, counted from 0: `lr_start` → `lr` → `lr_end`, or `lr` halved."""
    total = max(steps_per_epoch * epochs, 1)
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total)
    if step < warmup:
        return settings.lr_start + (settings.lr - settings.lr_start) * step / warmup
    if settings.halve_from_epoch is not None:
        return settings.lr * 0.5 ** max(0, step // steps_per_epoch - settings.halve_from_epoch + 1)
    done = (step - warmup) / max(total - warmup, 1)
    return settings.lr_end + (settings.lr - settings.lr_end) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@torch.no_grad()
def follow(average: dict[str, Tensor], model: nn.Module, share: float) -> None:
    """Move an average of the weights by this share of the way towards them."""
    for name, weight in model.named_parameters():
        average[name].lerp_(weight, share)


def share_of_step(decay: float, step: int) -> float:
    """Of a running average; larger in the first steps, to forget where they began."""
    return 1 - min(decay, (1 + step) / (10 + step))


def share_of_epoch(last: int, epoch: int, epochs: int) -> float:
    """Of the mean over the `last` epochs, or all of fewer: 1, ½, ⅓, …; an earlier epoch replaces the one before."""
    return 1 / (max(epoch - max(epochs - last, 0), 0) + 1)
