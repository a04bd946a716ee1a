"""A space of transformations: one object that samples them, applies them and tells the predictor what was done.

    uniforms (n, U) --draw--> SpaceParams: one column per named slot, natural units (n, P)
    SpaceParams --apply(x)--> x'                 the view
    SpaceParams --encode--> psi(t) (n, P)        what the predictor is told; --decode--> SpaceParams

x' = apply(x, t) and psi(t) come from the same numbers, so they cannot disagree (DESIGN §4, "Transformation
parameters"). Nothing is kept on the objects: the same parameters replay the same view.

n parameter sets · P slots · U uniforms per set.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from equiav.augment import uniforms
from equiav.augment.transform import (
    P,
    Params,
    Transform,
    decode_columns,
    draw_columns,
    encode_columns,
    moved,
    slot_row,
)
from equiav.augment.uniforms import Method
from equiav.config import nearest
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from typing_extensions import Self


@dataclass(frozen=True)
class SpaceParams:
    """Parameter sets of a whole space, in natural units.

    Attributes:
        values: one row per set, one column per slot.
        names: the slots' names.
    """

    values: Float[Tensor, "n P"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | Tensor | list[int]) -> SpaceParams:
        """Some of the sets, by slice, by integer tensor or by boolean mask."""
        return dataclasses.replace(self, values=self.values[index])

    def column(self, name: str) -> Float[Tensor, " n"]:
        """One slot of all sets, e.g. `crop.top`."""
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


class AugmentationSpace:
    """An ordered list of transforms of one modality.

    Args:
        modality: which modality it is for.
        transforms: in order of application.

    Attributes:
        slots: of all transforms, named `transform.slot`; their order is the order of psi(t).
        size: P, the number of slots.
    """

    modality: Literal["audio", "visual"]

    def __init__(self, modality: Literal["audio", "visual"], transforms: Sequence[Transform[Any]]) -> None:
        self.modality = modality
        self.transforms = tuple(transforms)
        self.slots = tuple(
            dataclasses.replace(slot, name=f"{transform.name}.{slot.name}")
            for transform in self.transforms
            for slot in transform.slots
        )
        self.size = len(self.slots)
        self.active = tuple(transform.name for transform in self.transforms)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the slots, in the order of psi(t)."""
        return tuple(slot.name for slot in self.slots)

    @property
    def uniforms(self) -> int:
        """U, the uniforms that one parameter set takes."""
        return sum(transform.uniforms for transform in self.transforms)

    def sample(
        self, n: int, generator: torch.Generator, method: Method = "iid", group: int | None = None
    ) -> SpaceParams:
        """Draw n parameter sets, on the generator's device; the generator is the only source of randomness.

        Args:
            method: `iid`; `antithetic`: pairs u, 1 - u; `sobol`: scrambled Sobol points.
            group: antithetic pairs and Sobol strata hold inside each run of `group` consecutive sets
                (K, when B·K sets are drawn for the centroids of B clips); None means one run of n.

        Raises:
            ConfigError: unknown method, or n is not a multiple of `group`.
        """
        return self.from_uniforms(uniforms.from_generator(n, self.uniforms, generator, method, group))

    def sample_for(
        self,
        clip_keys: Int64[Tensor, " n"],
        *,
        seed: int,
        epoch: int,
        count: int = 1,
        stream: int = 0,
        method: Method = "iid",
    ) -> SpaceParams:
        """Draw `count` sets per clip that depend only on (key, seed, epoch, stream) and the modality.

        The same clip gets the same view in the same epoch, whatever batch, worker or process it falls to.
        Row i·count + k is set k of clip i. Use different streams for the view and for the centroid.
        """
        stream = 2 * stream + (self.modality == "visual")
        rows = uniforms.from_keys(
            clip_keys, self.uniforms, seed=seed, epoch=epoch, stream=stream, count=count, method=method
        )
        return self.from_uniforms(rows)

    def from_uniforms(self, u: Float[Tensor, "n U"]) -> SpaceParams:
        """Parameter sets from rows of uniforms in [0, 1): the map behind every way of sampling."""
        params = SpaceParams(draw_columns(self.transforms, u), self.names)
        if len(self.active) == len(self.transforms):
            return params
        chosen = torch.tensor([name.split(".")[0] in self.active for name in self.names], device=u.device)
        return dataclasses.replace(
            params, values=torch.where(chosen, params.values, slot_row(self.slots, "neutral", u.device))
        )

    def identity(self, n: int, device: torch.device | str = "cpu") -> SpaceParams:
        """Parameter sets that change nothing."""
        return SpaceParams(slot_row(self.slots, "neutral", torch.device(device)).repeat(n, 1), self.names)

    def encode(self, params: SpaceParams) -> Float[Tensor, "n P"]:
        """psi(t); B·K sets become (B, K, P) by `.view(B, K, space.size)`."""
        return encode_columns(self.transforms, params.values)

    def decode(self, vectors: Float[Tensor, "n P"]) -> SpaceParams:
        """The inverse of `encode`; values out of range are brought to the nearest end of it.

        Raises:
            ConfigError: the vectors have another number of slots.
        """
        return SpaceParams(decode_columns(self.transforms, vectors), self.names)

    def part(self, params: SpaceParams, name: str) -> Params:
        """The parameters of one transform, by name.

        Raises:
            ConfigError: no such transform.
        """
        for transform in self.transforms:
            if transform.name == name:
                return self.part_of(params, transform)
        raise ConfigError(f"no transform {name!r}{nearest(name, [t.name for t in self.transforms])}")

    def part_of(self, params: SpaceParams, transform: Transform[P]) -> P:
        """The parameters of one of the space's transforms, with their type."""
        before = self.transforms[: self.transforms.index(transform)]
        start = sum(len(other.slots) for other in before)
        return transform.kind(*params.values[:, start : start + len(transform.slots)].unbind(1))

    def apply(self, x: Tensor, params: SpaceParams) -> Tensor:
        """All transforms in order; x is left as it is.

        The (n, P) table of parameters is read on the processor, once per call: draw it with a generator of the
        processor and an accelerator is never waited for.

        Raises:
            ConfigError: x and params have different lengths.
        """
        self._check_lengths(x, params)
        return self._overwrite(x.clone(), params, self.transforms)

    def _overwrite(self, x: Tensor, params: SpaceParams, transforms: Sequence[Transform[Any]]) -> Tensor:
        """Transforms in order, on an x that nobody else needs."""
        params = params.to("cpu")
        for transform in transforms:
            x = transform.overwrite(x, self.part_of(params, transform))
        return x

    def only(self, *names: str) -> Self:
        """The same space, P and slot positions, whose samples leave the other transforms at identity.

        Paired with the full space: the same generator state gives the named transforms the same parameters.

        Raises:
            ConfigError: no such transform.
        """
        known = [transform.name for transform in self.transforms]
        for name in names:
            if name not in known:
                raise ConfigError(f"no {self.modality} transform {name!r}{nearest(name, known)}")
        part = copy.copy(self)
        part.active = tuple(name for name in known if name in names)
        return part

    def _check_lengths(self, x: Tensor, params: SpaceParams) -> None:
        if len(x) != len(params):
            raise ConfigError(f"{len(x)} inputs but {len(params)} parameter sets: they go one to one")
        if params.names != self.names:
            raise ConfigError(f"the parameters are of another space: {params.names}, expected {self.names}")

    def _check_composable(self, params: SpaceParams, names: tuple[str, ...]) -> None:
        on = {t.name for t in self.transforms if bool((self.part_of(params, t).on > 0.5).any())}
        if on - set(names):
            others = ", ".join(sorted(on - set(names)))
            raise ConfigError(f"two sets compose to one only for {', '.join(names)}; also on: {others}")
