"""The gradient of a contrastive loss over a batch, in the memory of a part of it (gradient caching).

    all parts: embeddings, without graph → loss over all → gradient of each embedding → all parts again: backward

A contrastive loss looks at all clips at once, so parts can't be accumulated as they are. But its gradient reaches the
weights through the embeddings alone: ∂L/∂w = Σ_parts (∂e_part/∂w)ᵀ ∂L/∂e_part (Gao et al. 2021, arXiv 2101.06983). One
more forward pass buys a batch of any size.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import repeat
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

B = TypeVar("B", bound="Clips")


class Clips(Protocol):
    """A batch."""

    @property
    def clip_ids(self) -> list[str]:
        """Ids of its clips."""
        ...

    def split(self: B, size: int) -> Sequence[B]:
        """The batch in parts of `size` clips, the last of them maybe smaller."""
        ...


class Objective(Protocol):
    """What is trained for."""

    def inputs(self, batch: Any, epoch: int) -> tuple[Tensor | None, ...]:
        """The model's arguments for a batch: the same for the same clips, epoch and seed."""
        ...

    def losses(self, output: Any, batch: Any) -> dict[str, Tensor]:
        """Of the model's output for a batch: the scalar to minimise under "loss", and what else is worth a line."""
        ...

    def health(self, batch: Any, epoch: int) -> dict[str, float]:
        """Measures of `equiav.metrics.health` on a batch; it may have none."""
        ...


def backward(
    model: nn.Module, objective: Objective, batch: Clips, epoch: int, accelerator: Accelerator, *, micro_batch: int
) -> dict[str, Tensor]:
    """Add the gradient of the loss over the batch to the weights' `grad`; returns the losses, detached.

    Args:
        model: gives a tensor (n, …), or a named tuple of such tensors, or None in their place.
        batch: this process's share.
        accelerator: for autocast, gradient scaling, and to average over the processes once.
        micro_batch: clips whose activations are held at once.
    """

    def run(part: Clips) -> Any:
        inputs = objective.inputs(part, epoch)
        with accelerator.autocast():
            return model(*inputs)

    if len(batch.clip_ids) <= micro_batch:
        losses = objective.losses(run(batch), batch)
        accelerator.backward(losses["loss"])
        return _detached(losses)
    parts = batch.split(micro_batch)
    # what the first pass drops, the second has to drop too, on every device
    seed = int(torch.randint(2**62, ()))
    torch.manual_seed(seed)
    with torch.no_grad():
        outputs = [run(part) for part in parts]
    joined = [_joined(column) for column in zip(*map(_columns, outputs), strict=True)]
    single = isinstance(outputs[0], Tensor)
    losses = objective.losses(joined[0] if single else type(outputs[0])(*joined), batch)
    accelerator.backward(losses["loss"])
    torch.manual_seed(seed)
    gradients: list[Iterable[Tensor | None]] = [
        repeat(None) if x is None or x.grad is None else x.grad.split(micro_batch) for x in joined
    ]
    for number, (part, *wanted) in enumerate(zip(parts, *gradients, strict=False)):
        last = number == len(parts) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            pairs = [
                (x, g) for x, g in zip(_columns(run(part)), wanted, strict=True) if x is not None and g is not None
            ]
            torch.autograd.backward([x for x, _ in pairs], [g.to(x.dtype) for x, g in pairs])
    return _detached(losses)


def _detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in losses.items()}


def _columns(output: Any) -> tuple[Tensor | None, ...]:
    return (output,) if isinstance(output, Tensor) else output


def _joined(column: Sequence[Tensor | None]) -> Tensor | None:
    present = [x.float() for x in column if x is not None]
    return torch.cat(present).requires_grad_() if present else None
