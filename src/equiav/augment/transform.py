"""One transform: named slots, uniforms to parameters, parameters to an effect.

    uniforms (n, U) --draw--> parameters (n, p) in natural units --overwrite(x)--> x'

A transform is described by its slots. The first is always its flag `on`; where that is 0 the others hold their
neutral value and the effect is exactly none.

n parameter sets · p slots of one transform · U uniforms per set.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from equiav.config import nearest, parse_settings
from equiav.config.loading import Settings
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"a range is [low, high], found {list(bounds)}")
    return bounds


Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], AfterValidator(_ordered)]


class FlagOptions(Settings):
    """Options of a transform that is only on or off."""

    p: Probability = Field(default=0.5, description="Probability that it is on.")


@dataclass(frozen=True)
class Slot:
    """One number of a parameter vector.

    Attributes:
        name: in a transform `top`, in a space `crop.top`.
        unit: unit of `low`, `high` and `neutral`, in words.
        low: lowest value that is sampled.
        high: highest value that is sampled.
        neutral: value without effect.
        zero: value that is encoded as 0.
        one: distance from `zero` that is encoded as 1.
        off: code while the transform is off.
    """

    name: str
    unit: str
    low: float
    high: float
    neutral: float
    zero: float
    one: float
    off: float

    @classmethod
    def centred(cls, name: str, unit: str, low: float, high: float, neutral: float) -> Slot:
        """A slot of the `unit` variant: neutral is encoded as 0, the farther end of the range as ±1."""
        reach = max(high - neutral, neutral - low) or 1.0
        return cls(name, unit, low, high, neutral, zero=neutral, one=reach, off=0.0)

    def coded(self, *, zero: float = 0.0, one: float = 1.0, off: float = 0.0) -> Slot:
        """The same slot under another code (the `released` variant)."""
        return dataclasses.replace(self, zero=zero, one=one, off=off)


FLAG = Slot.centred("on", "0 off, 1 on", 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class SpaceParams:
    """Parameter sets of a whole space, or of one of its transforms, in natural units.

    Attributes:
        values: one row per set, one column per slot.
        names: the slots' names: `crop.top`, of one transform `top`.
    """

    values: Float[Tensor, "n P"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | Tensor | list[int]) -> SpaceParams:
        """Some of the sets, by slice, by integer tensor or by boolean mask."""
        return dataclasses.replace(self, values=self.values[index])

    def column(self, name: str) -> Float[Tensor, " n"]:
        """One slot of all sets."""
        if name not in self.names:
            raise ConfigError(f"no slot {name!r}{nearest(name, self.names)}")
        return self.values[:, self.names.index(name)]

    def replace(self, name: str, values: Tensor | float) -> SpaceParams:
        """A copy with one slot set to `values` in all sets; the transform's flag is not touched."""
        changed = dataclasses.replace(self, values=self.values.clone())
        changed.column(name).copy_(torch.as_tensor(values).expand(len(self)))
        return changed

    def to(self, device: torch.device | str) -> SpaceParams:
        """The same sets on another device."""
        return dataclasses.replace(self, values=moved(self.values, device))


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on `device`: an accelerator is not waited for, but what comes to the processor is there when read."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


class Transform(ABC):
    """A family of effects with named parameters. Subclasses say in their first sentence what they do.

    Args:
        options: the recipe's options, checked by `Options`; all have `p`, the probability of being on.
    """

    name: ClassVar[str]
    Options: ClassVar[type[FlagOptions]] = FlagOptions
    everywhere: ClassVar[bool] = False
    """At neutral parameters the effect is exactly none, and cheaper than picking the samples that are on."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.slots = (FLAG, *self.amount_slots())

    def amount_slots(self) -> Sequence[Slot]:
        """The slots after `on`."""
        return ()

    @property
    def uniforms(self) -> int:
        """U, the uniforms that one parameter set takes: one per slot unless a subclass says otherwise."""
        return len(self.slots)

    def draw(self, u: Float[Tensor, "n U"]) -> Float[Tensor, "n p"]:
        """Parameters from uniforms, the first of which tosses the coin.

        What stands in the slots of a set that is off does not matter: the callers make it neutral.
        """
        return torch.stack([(u[:, 0] < self.options.p).to(u.dtype), *self.amounts(u[:, 1:])], dim=1)

    def amounts(self, u: Float[Tensor, "n U-1"]) -> Sequence[Tensor]:
        """The slots after `on`: uniform between `low` and `high` unless a subclass says otherwise."""
        return [slot.low + u[:, i] * (slot.high - slot.low) for i, slot in enumerate(self.slots[1:])]

    @abstractmethod
    def effect(self, x: Tensor, params: SpaceParams) -> Tensor:
        """What the transform does to samples whose flag is on (and, if `everywhere`, to the neutral ones).

        Args:
            x: the transform's to overwrite.
            params: of each sample, on the processor, where they can be read without waiting for an accelerator.
        """

    def overwrite(self, x: Tensor, params: SpaceParams) -> Tensor:
        """The effect on an x that may be overwritten, with params on the processor; exactly x where `on` is 0.

        Samples that are off cost nothing: which ones those are is known there, and no accelerator is asked.
        """
        on = params.column("on") > 0.5
        rows = on.nonzero().view(-1)
        order = self.alike(params)
        if order is None and (len(rows) == len(x) or (self.everywhere and len(rows))):
            return self.effect(x, params)
        if order is not None:
            rows = order[on[order]]
        if not len(rows):
            return x
        chosen = moved(rows, x.device)
        return x.index_copy_(0, chosen, self.effect(x.index_select(0, chosen), params[rows]))

    def alike(self, params: SpaceParams) -> Tensor | None:
        """An order of the samples (n,) that `effect` wants them in, if any."""
        del params
        return None

    def settle(self, params: SpaceParams) -> SpaceParams:
        """Make decoded values a valid set (integers whole, permutations complete)."""
        return params


def build_transforms(
    modality: str,
    chosen: Mapping[str, Mapping[str, Any]],
    known: Mapping[str, type[Transform]],
    default: Sequence[str],
) -> list[Transform]:
    """Transforms from a recipe's `augment.audio` or `augment.visual`: name to options, in order of application.

    Raises:
        ConfigError: an unknown transform or option, or a value out of range; the nearest name is given.
    """
    transforms: list[Transform] = []
    for name, options in (chosen or {name: {} for name in default}).items():
        where = f"augment.{modality}.{name}"
        if name not in known:
            raise ConfigError(f"{where}: no such {modality} transform{nearest(name, known)}")
        kind = known[name]
        transforms.append(kind(parse_settings(kind.Options, dict(options or {}), where=where)))
    return transforms
