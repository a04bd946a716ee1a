"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 clip`, `2 clips`; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def are(count: int) -> str:
    """`is` or `are`, as `count` things do."""
    return "is" if count == 1 else "are"


def have(count: int) -> str:
    """`has` or `have`, as `count` things do."""
    return "has" if count == 1 else "have"
