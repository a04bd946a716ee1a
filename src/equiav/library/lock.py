"""One writer at a time:  a lock on a file, held by a process as long as it lives and no longer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equiav.errors import LibraryError


@contextmanager
def only_writer(path: Path, message: str) -> Iterator[None]:
    """Keep other writers out; the lock goes with the process, whatever ends it. Not on Windows.

    Args:
        path: the lock's file, made when missing; it stays.
        message: how the error begins when another one holds it.

    Raises:
        LibraryError: another process, or another part of this one, holds it; or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise LibraryError(f"{path.parent} cannot be written: {error}") from None
    with lock as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise LibraryError(f"{message}; wait for it to end, then run this again") from None
        yield
