"""The one place where fresh weights are made, and the one where stored ones are laid in.

| weights | set to |
|---|---|
| every linear layer, patch projection included | Xavier uniform, bias 0 (as MAE) |
| LayerNorm | weight 1, bias 0 |
| modality vector | normal, standard deviation 0.02, cut at two of them |

Each tensor is drawn from a generator of its own, seeded with (seed, name): models that differ in method or predictor
start from the same encoders, which makes their comparison a paired one.
"""

# torch leaves some of its types open
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from equiav.errors import ModelError
from equiav.model.vit import Encoder


def initialise(model: nn.Module, seed: int) -> None:
    """Set every parameter of `model`.

    Raises:
        ModelError: a parameter that the table above does not cover.
    """
    left = {name for name, _ in model.named_parameters()}
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            if _set(module, parameter, leaf, _generator(seed, name)):
                left.discard(name)
    if left:
        raise ModelError(f"no initialisation is defined for {', '.join(sorted(left))}: add it to initialise.py")


@torch.no_grad()
def _set(module: nn.Module, parameter: Tensor, leaf: str, generator: torch.Generator) -> bool:
    fresh = torch.zeros(parameter.shape, dtype=parameter.dtype)
    if isinstance(module, nn.Linear) and leaf == "weight":
        nn.init.xavier_uniform_(fresh, generator=generator)
    elif isinstance(module, nn.LayerNorm) and leaf == "weight":
        fresh.fill_(1.0)
    elif isinstance(module, Encoder) and leaf == "modality":
        nn.init.trunc_normal_(fresh, std=0.02, a=-0.04, b=0.04, generator=generator)
    elif not isinstance(module, nn.Linear | nn.LayerNorm):
        return False
    parameter.copy_(fresh)
    return True


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copy `tensors` into `model`: every name once, every size right.

    Raises:
        ModelError: names all that is missing, not expected, mis-sized or not finite.
    """
    wanted = model.state_dict()
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"{name} is not expected" for name in sorted(tensors.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & tensors.keys()):
        if tensors[name].shape != wanted[name].shape:
            problems.append(f"{name} is {tuple(tensors[name].shape)}, expected {tuple(wanted[name].shape)}")
        elif tensors[name].numel() and not torch.isfinite(torch.stack(tensors[name].aminmax())).all():
            problems.append(f"{name} holds values that are not finite")
    if problems:
        raise ModelError(f"{where}: {len(problems)} of the weights do not fit this model: {'; '.join(problems)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)
