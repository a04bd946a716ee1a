"""One writer at a time:  a lock on a file, held by a process as long as it lives; on an object store a lease."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from equiav.errors import LibraryError
from equiav.library.lease import leased
from equiav.library.places import BucketPath, Place


@contextmanager
def only_writer(path: Place, message: str) -> Iterator[None]:
    """Keep other writers out; the lock goes with the process, whatever ends it. Not on Windows.

    Args:
        path: the lock's file, made when missing; it stays.
        message: how the error begins when another one holds it.

    Raises:
        LibraryError: another process, or another part of this one, holds it; or its folder cannot be written.
    """
    if isinstance(path, BucketPath):
        with leased(path, message):
            yield
        return
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
