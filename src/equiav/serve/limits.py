"""What one client may cost the service."""

from __future__ import annotations

from dataclasses import dataclass

JSON_BYTES = 1 << 20  # a query without a file: a vector of 40,000 numbers


@dataclass(frozen=True)
class Limits:
    """Bounds of a request, and of all that are in hand together."""

    body_bytes: int = 64 << 20  # of a request with a file
    media_s: float = 300.0  # length of a file
    timeout_s: float = 60.0  # a request may take so long to arrive, and so long again to be answered
    queue: int = 64  # embeds and searches in hand, those that wait included
    workers: int = 2  # files decoded at the same time, each in a process of its own

    @property
    def decode_s(self) -> float:
        """That one file may take to decode: less than the answer, so that its client hears that it is the file."""
        return self.timeout_s / 2
