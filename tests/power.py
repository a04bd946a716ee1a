"""A disk that loses power:  of each file what it held when it was last flushed, under the names its folder had then.

Nothing is assumed of what the system writes by itself: of what nobody flushed nothing is left, or names of empty files.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Disk:
    """Watches what is flushed below `root`, which is there already; `cut` makes what a power cut leaves of it."""

    def __init__(self, root: Path, monkeypatch) -> None:
        self.root, self.copies = root, root.with_name(f"{root.name}-after-cuts")
        self._held: dict[int, int] = {}  # inode → a descriptor, so that no other file gets its number
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {root.stat().st_ino: {}}
        self._folders = {root.stat().st_ino}
        self.on_flush: Callable[[], None] = lambda: None  # just before it, and just after
        flush = os.fsync

        def watched(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not path.is_relative_to(root):
                return flush(descriptor)
            self.on_flush()
            flush(descriptor)
            self._flushed(path)
            return self.on_flush()

        monkeypatch.setattr(os, "fsync", watched)

    def _flushed(self, path: Path) -> None:
        status = path.stat()
        self._held.setdefault(status.st_ino, os.open(path, os.O_RDONLY))
        if stat.S_ISDIR(status.st_mode):
            self._names[status.st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}
            self._folders |= {entry.inode() for entry in os.scandir(path) if entry.is_dir()}
        else:
            self._content[status.st_ino] = path.read_bytes()

    def cut(self) -> Iterator[Path]:
        """Copies of `root` after a power cut now: without the names that were not flushed, and with all of them."""
        for names in ("flushed", "all"):
            self.copies.mkdir(exist_ok=True)
            copy = self.copies / f"{sum(1 for _ in self.copies.iterdir())}"
            self._restore(self.root.stat().st_ino, self.root if names == "all" else None, copy)
            yield copy

    def _restore(self, inode: int, folder: Path | None, copy: Path) -> None:
        copy.mkdir()
        if folder is None:
            inside = {name: (number, None) for name, number in self._names.get(inode, {}).items()}
        else:
            inside = {entry.name: (entry.inode(), folder / entry.name) for entry in os.scandir(folder)}
        for name, (number, path) in inside.items():
            if number in self._folders or (path and path.is_dir()):
                self._restore(number, path, copy / name)
            else:
                (copy / name).write_bytes(self._content.get(number, b""))


@contextmanager
def cut_at_every_flush(disk: Disk) -> Iterator[list[Path]]:
    """What is left when the power goes before or after any flush within the block."""
    found: list[Path] = []
    disk.on_flush = lambda: found.extend(disk.cut())
    try:
        yield found
    finally:
        disk.on_flush = lambda: None
