"""Files that are whole or as they were before, also after a power cut: written beside, flushed to the disk, renamed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from equiav.errors import EquiAVError

NO_FLUSH = (errno.EINVAL, errno.ENOTSUP)  # some network file systems have none for folders


@contextmanager
def whole_file(
    path: Path,
    refuse: Callable[[str], EquiAVError],
    *faults: type[Exception],
    parents: bool = False,
    flushed: bool = True,
) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` once it is complete, with the permissions of any new file.

    Args:
        refuse: makes the error, of what it says.
        faults: errors besides OSError that tell that a file cannot be written.
        parents: make the folder, too.
        flushed: have it on the disk when the block ends; False for one of many files that can be made again.

    Raises:
        EquiAVError: `refuse`'s: it cannot be written, on a full disk for example.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if parents:
            make_folder(path.parent)
        beside.unlink(missing_ok=True)
        beside.touch()
        mode = beside.stat().st_mode & 0o777
        yield beside
        # safetensors leaves its files to their owner alone (0600), whatever the umask says;
        # a file system without permissions of its own refuses to change them
        if beside.stat().st_mode & 0o777 != mode:
            beside.chmod(mode)
        if flushed:
            flush(beside)
        beside.replace(path)
        if flushed:
            flush(path.parent)
    except (OSError, *faults) as error:
        raise refuse(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        with suppress(OSError):  # what should be its folder may be a file
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str, refuse: Callable[[str], EquiAVError]) -> None:
    """A text file, in a folder that is made if need be.

    Raises:
        EquiAVError: `refuse`'s: it cannot be written.
    """
    with whole_file(path, refuse, parents=True) as beside:
        beside.write_text(text, encoding="utf-8")


def flush(path: Path | str) -> None:
    """Have the content of a file, or the names in a folder, on the disk.

    Raises:
        OSError: the disk is full, or broken.
    """
    folder = Path(path).is_dir()
    if folder and sys.platform == "win32":  # which writes names down by itself
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in NO_FLUSH:
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """A folder with its parents, and their names in those above."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)
