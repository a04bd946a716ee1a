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
