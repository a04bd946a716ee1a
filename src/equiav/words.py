"""Numbers in sentences, and in JSON."""

from __future__ import annotations

import math
from typing import Any


def strict(value: Any) -> Any:
    """The same without NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 clip`, `2 clips`; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def are(count: int) -> str:
    """`is` or `are`, as `count` things do."""
    return "is" if count == 1 else "are"


def have(count: int) -> str:
    """`has` or `have`, as `count` things do."""
    return "has" if count == 1 else "have"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 days`: as exactly as one plans."""
    for length, unit, places in ((86_400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= (1.5 if unit != "days" else 2) * length:
            return f"{seconds / length:.{places}f} {unit}"
    return f"{seconds:.0f} s"
