"""Items that belong together:  names  →  a number for each, equal where two are of one source."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def another(sources: NDArray[np.int64], ring: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """For each item another one: the next before it in a ring of all that is of another source, if there is any.

    Args:
        sources: a number for each item, equal where two are of one source.
        ring: every item once; None: their own order.
    """
    ring = np.arange(len(sources)) if ring is None else ring
    found = np.empty_like(ring)
    found[ring] = np.roll(ring, 1)
    for step in range(2, len(ring)):
        same = sources[found] == sources
        if not same.any() or (sources == sources[0]).all():
            break
        further = np.empty_like(ring)
        further[ring] = np.roll(ring, step)
        found = np.where(same, further, found)
    return found


def numbered(names: Iterable[Hashable]) -> NDArray[np.int64]:
    """A number for each name, equal for equal names, from 0 in the order in which they first come."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
