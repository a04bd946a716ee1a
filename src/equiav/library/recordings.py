"""Which clips are windows of one recording:  `source` of a clip  →  the recording's name;  names  →  numbers.

Windows of one recording are alike: they are no independent pieces of evidence, and what was learned from one of them
helps with the others. A recording is a file, or a sample of a tar; files whose names hold the same YouTube id, as the
usual downloaders cut segments out of one video, are one recording.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# An id is 64 bits in 11 characters: the last one has four bits of its own, which lets few other words through
SEGMENT = re.compile(r"Y?([A-Za-z0-9_-]{10}[AEIMQUYcgkosw048])([_-]\d+([._-][\d._-]*)?)?")


def named_file(source: str) -> PurePath:
    """What names a clip: its file, of a clip in pieces its sound, of a sample of a tar the sample."""
    place, _, part = source.rpartition("#")
    if part == "frames":
        return PurePath(place)
    return PurePath(part if place.lower().endswith(".tar") else source)


def recording(source: str) -> str:
    """The recording that a clip of this `source` is a window of."""
    segment = SEGMENT.fullmatch(named_file(source).stem)
    # nearly every id has letters of both cases, and a word in the name of a series has not
    if segment and segment[1] not in (segment[1].lower(), segment[1].upper()):
        return f"youtube:{segment[1]}"
    return source.removesuffix("#frames")


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
