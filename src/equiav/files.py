"""Files that are whole or as they were before: written beside, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from equiav.errors import EquiAVError


@contextmanager
def whole_file(
    path: Path, refuse: Callable[[str], EquiAVError], *faults: type[Exception], parents: bool = False
) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` once it is complete, with the permissions of any new file.

    Args:
        refuse: makes the error, of what it says.
        faults: errors besides OSError that tell that a file cannot be written.
        parents: make the folder, too.

    Raises:
        EquiAVError: `refuse`'s: it cannot be written, on a full disk for example.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        beside.touch()
        mode = beside.stat().st_mode & 0o777
        yield beside
        # safetensors leaves its files to their owner alone (0600), whatever the umask says;
        # a file system without permissions of its own refuses to change them
        if beside.stat().st_mode & 0o777 != mode:
            beside.chmod(mode)
        beside.replace(path)
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
