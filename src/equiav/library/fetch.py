"""Media on an object store, as files for as long as they are read:  items  →  the same items, each with a local copy.

Some are copied ahead while others are decoded. The copies lie in a temporary folder, a few files or `ROOM_BYTES` of
them at a time, and go as soon as their item is done. The processes that decode get a file and no credentials.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path

from typing_extensions import Self

from equiav.errors import LibraryError
from equiav.library.items import Item
from equiav.library.places import BucketPath, Stat

AHEAD = 8
ROOM_BYTES = 8 * 2**30


class Fetcher:
    """Local copies of items; use it as a context manager, from one thread."""

    def __init__(self) -> None:
        self._copies: dict[str, Future[Item]] = {}  # key → item with its copy
        self._sizes: dict[str, int] = {}
        self._number = 0

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="equiav-")))
        self._threads = ThreadPoolExecutor(AHEAD)
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._open.close()

    def take(self, item: Item, coming: Iterable[Item]) -> Item:
        """The item with a copy of its file, when that is there; those that come next are begun.

        Raises:
            LibraryError: no room in the temporary folder.
        """
        if not isinstance(item.path, BucketPath):
            return item
        self._begin(item)
        for following in islice(coming, AHEAD):
            if len(self._copies) <= AHEAD and sum(self._sizes.values()) < ROOM_BYTES:
                self._begin(following)
        return self._copies[item.key].result()

    def release(self, key: str) -> None:
        """The item is done: its copy goes."""
        self._sizes.pop(key, None)
        copy = self._copies.pop(key, None)
        if copy and (local := copy.result().local):
            local.unlink(missing_ok=True)

    def _begin(self, item: Item) -> None:
        if isinstance(item.path, BucketPath) and item.key not in self._copies:
            self._number += 1
            self._sizes[item.key] = item.path.listed.st_size if item.path.listed else 0
            target = self._folder / f"{self._number}{item.path.suffix.lower()}"
            self._copies[item.key] = self._threads.submit(_copied, item, item.path, target)


def _copied(item: Item, path: BucketPath, target: Path) -> Item:
    nothing = BucketPath(path.url, Stat(-1, -1))  # so that no process without keys asks the store
    try:
        found = path.download(target)
    except FileNotFoundError:
        return replace(item, path=nothing, fault=("missing", f"there is no object {path}"))
    except LibraryError as error:
        return replace(item, path=nothing, fault=("unreadable", str(error)))
    except OSError as error:
        raise LibraryError(f"{target.parent} has no room for a copy of {path}: {error}; TMPDIR names another") from None
    return replace(item, path=BucketPath(path.url, found), local=target)
