"""A file made of stretches of another one and of bytes, as a file to read; nothing of it is held in memory."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO


class Splice(io.RawIOBase):
    """Stretches [start, end) of a file, and bytes, one behind the other. Closing it closes the file."""

    def __init__(self, file: BinaryIO, parts: Sequence[tuple[int, int] | bytes]) -> None:
        super().__init__()
        self.name = str(getattr(file, "name", ""))
        self._file, self._parts, self._at = file, parts, 0
        sizes = (len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts)
        self._begins = [0, *accumulate(sizes)]

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset from the start, the present place or the end."""
        self._at = max(offset + (0, self._at, self._begins[-1])[whence], 0)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the end of a part."""
        if self._at >= self._begins[-1]:
            return 0
        number = bisect_right(self._begins, self._at) - 1
        part, inside = self._parts[number], self._at - self._begins[number]
        most = min(self._begins[number + 1] - self._at, len(buffer))
        if isinstance(part, bytes):
            data = part[inside : inside + most]
        else:
            self._file.seek(part[0] + inside)
            data = self._file.read(most)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        super().close()
