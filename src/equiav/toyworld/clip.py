"""The shared factors of a clip: all that its picture and its sound have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = ("bell", "string", "drum", "siren", "engine", "drip", "bird", "cricket", "wind", "ball", "rattle", "flute")


@dataclass(frozen=True)
class Factors:
    """What is shared by the picture and the sound of one clip."""

    index: int
    kind: str
    size: float  # 0 small .. 1 large
    hardness: float  # 0 soft, red .. 1 hard, blue
    count: int  # 1..4
    duration_s: float


def draw_factors(seed: int, index: int) -> Factors:
    """The shared factors of clip `index`; kinds take turns so that every split holds them evenly."""
    rng = np.random.default_rng([seed, index, 0])
    return Factors(
        index=index,
        kind=KINDS[(index * 5 + index // len(KINDS)) % len(KINDS)],
        size=float(rng.random()),
        hardness=float(rng.random()),
        count=int(rng.integers(1, 5)),
        duration_s=float(rng.uniform(2.2, 3.8)),
    )
