"""An item that is not simply a file, made one for as long as it is read:  item  →  path, and the files it came from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from equiav.errors import MediaError
from equiav.library.items import Item
from equiav.library.places import BucketPath
from equiav.media.join import join

BLOCK = 1 << 20


@contextmanager
def as_one_file(item: Item) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """The one media file to read for an item, and the files whose content it is.

    A plain file is itself. Members of a tar are copied out of it; a sound and its pictures are joined, without
    encoding them anew. Both go into a temporary folder, and with it.

    Raises:
        MediaError: a fault seen when it was listed; a piece is missing or no sound, no picture.
    """
    if item.fault:
        raise MediaError(*item.fault)
    if isinstance(item.path, BucketPath):
        if not item.local:
            raise MediaError("unreadable", f"{item.path} was not copied to this machine")
        yield item.local, (item.local,)
        return
    if not item.members and not item.pictures:
        yield item.path, (item.path,)
        return
    with tempfile.TemporaryDirectory(prefix="equiav-") as folder:
        files = _unpack(item, item.path, Path(folder)) if item.members else (item.path, *item.pictures)
        if len(files) == 1:
            yield files[0], files
            return
        whole = Path(folder, "clip.nut")
        join(files[0], files[1:], whole)
        yield whole, files


def _unpack(item: Item, source: Path, folder: Path) -> tuple[Path, ...]:
    """Members of a tar as files; of their names only the suffix is taken."""
    files = []
    try:
        with source.open("rb") as tar:
            for number, member in enumerate(item.members):
                path = folder / f"{number}{PurePosixPath(member.name).suffix.lower()}"
                tar.seek(member.offset)
                left = member.size
                with path.open("wb") as file:
                    while left and (block := tar.read(min(BLOCK, left))):
                        left -= file.write(block)
                files.append(path)
    except OSError as error:
        raise MediaError("unreadable", f"{item.source} cannot be copied out: {error.strerror or error}") from None
    return tuple(files)
