"""Where the randomness of a view comes from: rows of uniforms in [0, 1), one row per parameter set.

Every transform turns a row of uniforms into parameters by inverse distribution functions, so the same code
serves independent, antithetic and low-discrepancy draws, and draws that depend only on (seed, epoch, clip).

    generator or clip keys -> 32 random bits -> iid | antithetic | sobol -> (G·K, U) float32 multiples of 2^-24

G groups · K sets per group · U uniforms per set. Antithetic pairs (u, 1 - u) and Sobol strata hold inside a
group: the K parameter sets of one clip's centroid. All arithmetic is on int64 tensors, on the device.

Sources: SplitMix64 (Steele, Lea, Flood 2014) for keyed bits; Sobol' points with hash-based Owen scrambling
(Laine and Karras 2011; hash of Vegdahl 2021) drawn anew for each group and dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from equiav.config import nearest
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

Method = Literal["iid", "antithetic", "sobol"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1
_SOBOL_DIMENSIONS = torch.quasirandom.SobolEngine.MAXDIM


def from_generator(
    n: int, width: int, generator: torch.Generator, method: Method = "iid", group: int | None = None
) -> Float[Tensor, "n U"]:
    """Draw n rows from `generator`, on its device.

    Args:
        group: rows per group (K); None makes one group of all n rows.

    Raises:
        ConfigError: unknown method, or n is not a multiple of `group`.
    """
    group = _checked_group(n, group, method)
    groups = n // group

    def bits(rows: int) -> Tensor:
        shape = (groups, rows, width)
        return torch.randint(0, 1 << 32, shape, generator=generator, device=generator.device)

    return _arrange(bits, group, width, method)


def from_keys(
    keys: Int64[Tensor, " n"],
    width: int,
    *,
    seed: int,
    epoch: int,
    stream: int,
    count: int = 1,
    method: Method = "iid",
) -> Float[Tensor, "rows U"]:
    """Draw `count` rows per key that depend on nothing but (key, seed, epoch, stream): rows of a key are adjacent.

    The batch a clip arrives in, the number of workers and the number of processes do not matter.
    """
    group = _checked_group(len(keys) * count, count, method)
    salt = 0
    for number in (seed, epoch, stream):
        salt = _mix_int((salt + number + 1) * _GOLDEN & _MASK64)
    start = _mix(keys.to(torch.int64) + _signed(salt))

    def bits(rows: int) -> Tensor:
        counter = torch.arange(1, rows * width + 1, device=keys.device) * _signed(_GOLDEN)
        return _shift(_mix(start[:, None] + counter), 32).view(len(keys), rows, width)

    return _arrange(bits, group, width, method)


def _checked_group(n: int, group: int | None, method: str) -> int:
    if method not in get_args(Method):
        raise ConfigError(f"no sampling method {method!r}{nearest(method, get_args(Method))}")
    group = group or max(n, 1)
    if n % group:
        raise ConfigError(f"{n} samples are not whole groups of {group}: the number must be a multiple of {group}")
    return group


def _arrange(bits: Callable[[int], Tensor], group: int, width: int, method: str) -> Tensor:
    """Turn 32-bit words (G, rows, U) into uniforms (G·K, U) by the chosen method."""
    if method == "sobol":
        words = _owen(_reversed_sobol(group, width, bits(1).device), bits(1))
    elif method == "antithetic":
        half = bits((group + 1) // 2)
        words = torch.cat([half, _MASK32 - half[:, : group // 2]], dim=1)
    else:
        words = bits(group)
    # 24 bits fill a float32 exactly, so 1 - u of an antithetic pair stays below 1
    return (words >> 8).to(torch.float32).mul_(2.0**-24).view(-1, width)


def _signed(word: int) -> int:
    word &= _MASK64
    return word - (1 << 64) if word >> 63 else word


def _shift(words: Tensor, by: int) -> Tensor:
    """Logical right shift: torch's >> on int64 keeps the sign."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def _mix(words: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors; products wrap modulo 2^64."""
    words = (words ^ _shift(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _shift(words, 27)) * _signed(0x94D049BB133111EB)
    return words ^ _shift(words, 31)


def _mix_int(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _MASK64
    return word ^ (word >> 31)


@lru_cache(maxsize=64)
def _reversed_sobol(count: int, width: int, device: torch.device) -> Tensor:
    """The first `count` Sobol' points as bit-reversed 32-bit words (count, U)."""
    if width > _SOBOL_DIMENSIONS:
        raise ConfigError(f"a Sobol sequence has at most {_SOBOL_DIMENSIONS} dimensions, {width} were requested")
    points = torch.quasirandom.SobolEngine(width).draw(count, dtype=torch.float64)
    return _reverse((points * 2.0**32).to(torch.int64)).to(device)


def _owen(reversed_points: Tensor, seeds: Tensor) -> Tensor:
    """Scramble (K, U) bit-reversed points with seeds (G, 1, U): each bit flips by a hash of the bits above it."""
    words = reversed_points ^ (reversed_points * 0x3D20ADEA & _MASK32)
    words = (words + seeds) & _MASK32
    words = words * ((seeds >> 16) | 1) & _MASK32
    words = words ^ (words * 0x05526C56 & _MASK32)
    words = words ^ (words * 0x53A22864 & _MASK32)
    return _reverse(words)


def _reverse(words: Tensor) -> Tensor:
    """Reverse the 32 bits of each word."""
    for step, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)):
        words = ((words >> step) & mask) | ((words & mask) << step)
    return words


def noise(seed: Float[Tensor, " n"], width: int) -> Float[Tensor, "n width"]:
    """Uniforms in [0, 1) that follow from a seed in [0, 1): the noise that a parameter set stands for."""
    start = _mix((seed * 2**24).to(torch.int64) + 1)
    counter = torch.arange(1, width + 1, device=seed.device) * _signed(_GOLDEN)
    return _shift(_mix(start[:, None] + counter), 40).to(torch.float32).mul_(2.0**-24)
