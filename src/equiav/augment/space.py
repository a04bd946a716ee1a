"""A space of transformations: one object that samples them, applies them and tells the predictor what was done.

    uniforms (n, U) --draw--> SpaceParams: one column per named slot, natural units (n, P)
    SpaceParams --apply(x)--> x'                 the view
    SpaceParams --encode--> psi(t) (n, P)        what the predictor gets; --decode--> SpaceParams

x' = apply(x, t) and psi(t) come from the same numbers, so they cannot disagree.
Nothing is kept on the objects: the same parameters replay the same view.

n parameter sets · P slots · U uniforms per set.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from equiav.augment import uniforms
from equiav.augment.transform import Slot, SpaceParams, Transform
from equiav.augment.uniforms import Method
from equiav.config import nearest
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64
    from typing_extensions import Self


class AugmentationSpace:
    """An ordered list of transforms of one modality.

    Attributes:
        transforms: in order of application.
        slots: of all transforms, named `transform.slot`; their order is the order of psi(t).
        size: P, the number of slots.
        active: names of the transforms that `sample` may turn on.
    """

    def __init__(self, modality: Literal["audio", "visual"], transforms: Sequence[Transform]) -> None:
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
        parts = u.split([transform.uniforms for transform in self.transforms], dim=1)
        drawn = [transform.draw(part) for transform, part in zip(self.transforms, parts, strict=True)]
        values = torch.cat(drawn, dim=1)
        kept = self._on(values)
        if len(self.active) < len(self.transforms):
            kept = kept & torch.tensor([name.split(".")[0] in self.active for name in self.names], device=u.device)
        return SpaceParams(torch.where(kept, values, self._row("neutral", u.device)), self.names)

    def identity(self, n: int, device: torch.device | str = "cpu") -> SpaceParams:
        """Parameter sets that change nothing."""
        return SpaceParams(self._row("neutral", torch.device(device)).repeat(n, 1), self.names)

    def encode(self, params: SpaceParams) -> Float[Tensor, "n P"]:
        """psi(t); B·K sets become (B, K, P) by `.view(B, K, space.size)`."""
        zero, one, off = (self._row(field, params.values.device) for field in ("zero", "one", "off"))
        return torch.where(self._on(params.values), (params.values - zero) / one, off)

    def decode(self, vectors: Float[Tensor, "n P"]) -> SpaceParams:
        """The inverse of `encode`; values out of range are brought to the nearest end of it, flags to 0 or 1.

        Raises:
            ConfigError: the vectors have another number of slots.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise ConfigError(f"expected parameter vectors (n, {self.size}), found {tuple(vectors.shape)}")
        fields = ("zero", "one", "low", "high", "neutral")
        zero, one, low, high, neutral = (self._row(field, vectors.device) for field in fields)
        # outside the sampled range lies the neutral value of a slot that is never sampled there (a crop of 1)
        values = (vectors * one + zero).clamp(torch.minimum(low, neutral), torch.maximum(high, neutral))
        decoded = SpaceParams(torch.where(self._on(values), values, neutral), self.names)
        settled: list[Tensor] = []
        for transform in self.transforms:
            part = self.part(decoded, transform)
            settled.append(transform.settle(part.replace("on", (part.column("on") > 0.5).to(values.dtype))).values)
        return SpaceParams(torch.cat(settled, dim=1), self.names)

    def part(self, params: SpaceParams, transform: Transform) -> SpaceParams:
        """The parameters of one of the space's transforms."""
        before = self.transforms[: self.transforms.index(transform)]
        start = sum(len(other.slots) for other in before)
        names = tuple(slot.name for slot in transform.slots)
        return SpaceParams(params.values[:, start : start + len(names)], names)

    def _on(self, values: Float[Tensor, "n P"]) -> Bool[Tensor, "n P"]:
        """For each column, whether its transform is on."""
        flags = _flag_of_column(tuple(len(transform.slots) for transform in self.transforms), values.device)
        return values.index_select(1, flags) > 0.5

    def _row(self, field: str, device: torch.device) -> Float[Tensor, " P"]:
        return _slot_row(self.slots, field, device)

    def apply(self, x: Tensor, params: SpaceParams) -> Tensor:
        """All transforms in order; x is left as it is.

        The (n, P) table of parameters is read on the processor, once per call: draw it with a generator of the
        processor and an accelerator is never waited for.

        Raises:
            ConfigError: x and params have different lengths.
        """
        self._check_lengths(x, params)
        return self._overwrite(x.clone(), params, self.transforms)

    def _overwrite(self, x: Tensor, params: SpaceParams, transforms: Sequence[Transform]) -> Tensor:
        """Transforms in order, on an x that may be overwritten."""
        params = params.to("cpu")
        for transform in transforms:
            x = transform.overwrite(x, self.part(params, transform))
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
        on = {t.name for t in self.transforms if bool((params.column(f"{t.name}.on") > 0.5).any())}
        if on - set(names):
            others = ", ".join(sorted(on - set(names)))
            raise ConfigError(f"two sets compose to one only for {', '.join(names)}; also on: {others}")


@lru_cache(maxsize=256)
def _flag_of_column(widths: tuple[int, ...], device: torch.device) -> Int64[Tensor, " P"]:
    starts = [sum(widths[:i]) for i in range(len(widths))]
    return torch.tensor([s for s, w in zip(starts, widths, strict=True) for _ in range(w)], device=device)


@lru_cache(maxsize=1024)
def _slot_row(slots: tuple[Slot, ...], field: str, device: torch.device) -> Float[Tensor, " P"]:
    """One field of all slots; kept, so that a step on the accelerator copies nothing."""
    return torch.tensor([getattr(slot, field) for slot in slots], dtype=torch.float32, device=device)
