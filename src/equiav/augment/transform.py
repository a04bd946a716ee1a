"""One transform: named slots, uniforms to parameters, parameters to codes and back, parameters to an effect.

    uniforms (n, U) --draw--> Params: (n,) columns in natural units --apply(x)--> x'
    columns (n, p) --encode--> codes (n, p) --decode--> columns (n, p)

A transform is described by its slots. The first is always its flag `on`; where that is 0 the others hold their
neutral value and the effect is exactly none.

n parameter sets · p slots of one transform, P of a list of them · U uniforms per set.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from equiav.augment import uniforms
from equiav.config import nearest, parse_settings
from equiav.config.loading import Settings
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float
    from typing_extensions import Self


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

    def renamed(self, name: str) -> Slot:
        """The same slot under another name."""
        return dataclasses.replace(self, name=name)


FLAG = Slot.centred("on", "0 off, 1 on", 0.0, 1.0, 0.0)


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on `device`: an accelerator is not waited for, but what comes to the processor is there when read."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


@dataclass(frozen=True)
class Params:
    """Parameters of one transform: (n,) float32 tensors in natural units, in the order of its slots."""

    on: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.on)

    def columns(self) -> list[Tensor]:
        """The tensors in the order of the slots."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def rows(self, index: Tensor) -> Self:
        """Some of the sets."""
        return type(self)(*torch.stack(self.columns(), dim=1).index_select(0, index).unbind(1))

    def to(self, device: torch.device) -> Self:
        """The same sets on another device, in one copy."""
        if self.on.device == device:
            return self
        return type(self)(*moved(torch.stack(self.columns(), dim=1), device).unbind(1))


P = TypeVar("P", bound=Params)


class Transform(ABC, Generic[P]):
    """A family of effects with named parameters. Subclasses say in their first sentence what they do.

    Args:
        options: the recipe's options, checked by `Options`; all have `p`, the probability of being on.
    """

    name: ClassVar[str]
    kind: type[P]
    Options: ClassVar[type[FlagOptions]]
    slots: tuple[Slot, ...]
    everywhere: ClassVar[bool] = False
    """At neutral parameters the effect is exactly none, and cheaper than picking the samples that are on."""

    @property
    def uniforms(self) -> int:
        """U, the uniforms that one parameter set takes: one per slot unless a subclass says otherwise."""
        return len(self.slots)

    def __init__(self, options: Any) -> None:
        self.options = options

    def draw(self, u: Float[Tensor, "n U"]) -> P:
        """Parameters from uniforms, the first of which tosses the coin.

        What stands in the slots of a set that is off does not matter: the callers make it neutral.
        """
        return self.kind((u[:, 0] < self.options.p).to(u.dtype), *self.amounts(u[:, 1:]))

    def amounts(self, u: Float[Tensor, "n U-1"]) -> Sequence[Tensor]:
        """The slots after `on`: uniform between `low` and `high` unless a subclass says otherwise."""
        ranges = [(slot.low, slot.high - slot.low) for slot in self.slots[1:]]
        return [low + u[:, i] * extent for i, (low, extent) in enumerate(ranges)]

    @abstractmethod
    def effect(self, x: Tensor, params: P) -> Tensor:
        """What the transform does to samples whose flag is on (and, if `everywhere`, to the neutral ones).

        Args:
            x: the transform's to overwrite.
            params: of each sample, on the processor, where they can be read without waiting for an accelerator.
        """

    def apply(self, x: Tensor, params: P) -> Tensor:
        """The effect; pure, and exactly x where `params.on` is 0."""
        return self.overwrite(x.clone(), params.to(torch.device("cpu")))

    def overwrite(self, x: Tensor, params: P) -> Tensor:
        """`apply` to an x that nobody else needs, with params on the processor.

        Samples that are off cost nothing: which ones those are is known there, and no accelerator is asked.
        """
        rows = (params.on > 0.5).nonzero().view(-1)
        order = self.alike(params)
        if order is None and (len(rows) == len(x) or (self.everywhere and len(rows))):
            return self.effect(x, params)
        if order is not None:
            rows = order[params.on[order] > 0.5]
        if not len(rows):
            return x
        chosen = moved(rows, x.device)
        return x.index_copy_(0, chosen, self.effect(x.index_select(0, chosen), params.rows(rows)))

    def alike(self, params: P) -> Tensor | None:
        """An order of the samples (n,) that `effect` wants them in, if any."""
        del params
        return None

    def settle(self, params: P) -> P:
        """Make decoded values a valid set (integers whole, permutations complete)."""
        return params

    def sample(self, n: int, generator: torch.Generator) -> P:
        """Draw n parameter sets."""
        return self._unpack(draw_columns([self], uniforms.from_generator(n, self.uniforms, generator)))

    def identity(self, n: int, device: torch.device | str = "cpu") -> P:
        """Parameter sets without effect."""
        return self._unpack(slot_row(self.slots, "neutral", torch.device(device)).repeat(n, 1))

    def encode(self, params: P) -> Float[Tensor, "n p"]:
        """The transform's part of psi(t)."""
        return encode_columns([self], torch.stack(params.columns(), dim=1))

    def decode(self, vectors: Float[Tensor, "n p"]) -> P:
        """The inverse of `encode`; values out of range are brought to the nearest end of it."""
        return self._unpack(decode_columns([self], vectors))

    def _unpack(self, values: Tensor) -> P:
        return self.kind(*values.unbind(1))


def draw_columns(transforms: Sequence[Transform[Any]], u: Tensor) -> Float[Tensor, "n P"]:
    """Parameters of all transforms from rows of uniforms; neutral where a transform is off."""
    columns: list[Tensor] = []
    start = 0
    for transform in transforms:
        columns += transform.draw(u[:, start : start + transform.uniforms]).columns()
        start += transform.uniforms
    values = torch.stack(columns, dim=1)
    return torch.where(_on(transforms, values), values, slot_row(_all_slots(transforms), "neutral", values.device))


def encode_columns(transforms: Sequence[Transform[Any]], values: Tensor) -> Float[Tensor, "n P"]:
    """Natural units to codes."""
    slots = _all_slots(transforms)
    zero, one, off = (slot_row(slots, field, values.device) for field in ("zero", "one", "off"))
    return torch.where(_on(transforms, values), (values - zero) / one, off)


def decode_columns(transforms: Sequence[Transform[Any]], vectors: Tensor) -> Float[Tensor, "n P"]:
    """Codes to natural units, each clamped to its range; flags become 0 or 1."""
    slots = _all_slots(transforms)
    if vectors.ndim != 2 or vectors.shape[1] != len(slots):
        raise ConfigError(f"expected parameter vectors (n, {len(slots)}), found {tuple(vectors.shape)}")
    zero, one, low, high, neutral = (
        slot_row(slots, field, vectors.device) for field in ("zero", "one", "low", "high", "neutral")
    )
    # outside the sampled range lies the neutral value of a slot that is never sampled there (a crop of 1)
    values = (vectors * one + zero).clamp(torch.minimum(low, neutral), torch.maximum(high, neutral))
    values = torch.where(_on(transforms, values), values, neutral)
    settled: list[Tensor] = []
    start = 0
    for transform in transforms:
        stop = start + len(transform.slots)
        part = transform.kind(*values[:, start:stop].unbind(1))
        part = dataclasses.replace(part, on=(part.on > 0.5).to(values.dtype))
        settled += transform.settle(part).columns()
        start = stop
    return torch.stack(settled, dim=1)


def _all_slots(transforms: Sequence[Transform[Any]]) -> tuple[Slot, ...]:
    return tuple(slot for transform in transforms for slot in transform.slots)


def _on(transforms: Sequence[Transform[Any]], values: Tensor) -> Tensor:
    """For each column, whether its transform is on (n, P)."""
    flags = _flag_of_column(tuple(len(transform.slots) for transform in transforms), values.device)
    return values.index_select(1, flags) > 0.5


@lru_cache(maxsize=256)
def _flag_of_column(widths: tuple[int, ...], device: torch.device) -> Tensor:
    starts = [sum(widths[:i]) for i in range(len(widths))]
    return torch.tensor([s for s, w in zip(starts, widths, strict=True) for _ in range(w)], device=device)


@lru_cache(maxsize=1024)
def slot_row(slots: tuple[Slot, ...], field: str, device: torch.device) -> Tensor:
    """One field of all slots as a tensor (P,); kept, so that a step on the accelerator copies nothing."""
    return torch.tensor([getattr(slot, field) for slot in slots], dtype=torch.float32, device=device)


def build_transforms(
    modality: str,
    chosen: Mapping[str, Mapping[str, Any]],
    known: Mapping[str, type[Transform[Any]]],
    default: Sequence[str],
) -> list[Transform[Any]]:
    """Transforms from a recipe's `augment.audio` or `augment.visual`: name to options, in order of application.

    Raises:
        ConfigError: an unknown transform or option, or a value out of range; the nearest name is given.
    """
    transforms: list[Transform[Any]] = []
    for name, options in (chosen or {name: {} for name in default}).items():
        where = f"augment.{modality}.{name}"
        if name not in known:
            raise ConfigError(f"{where}: no such {modality} transform{nearest(name, known)}")
        kind = known[name]
        transforms.append(kind(parse_settings(kind.Options, dict(options or {}), where=where)))  # type: ignore[call-arg]
    return transforms
