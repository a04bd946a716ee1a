"""What is reported as stored survives a power cut:  a Lance table  →  its files and folder entries, on the disk.

Lance (pylance 14) asks the system for nothing of the kind: what it wrote may lie in memory for half a minute. So every
commit goes through `Durable`, which Lance calls as its lock: before the manifest that makes a version count, all that
it refers to is flushed, and then the manifest itself. A power cut between the two may leave a manifest without its
end; `drop_torn` sets it aside, and the version before it, which was reported, is the newest again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from equiav.files import flush

log = logging.getLogger(__name__)

MANIFESTS = "_versions"
END = b"LANC"  # the last bytes of a whole manifest
SLACK_NS = 60 * 10**9  # that the clocks of two machines, or of one at two times, may differ


class Durable:
    """The commits to one table: what Lance takes for a `commit_lock`.

    What was flushed by earlier processes is told from the time of a file beside the table, so that not all files of a
    large table are flushed anew when it is opened.
    """

    def __init__(self, table: Path) -> None:
        self.table = table
        self._mark = _mark_of(table)
        self._known: set[str] | None = None  # that is flushed, files and folders

    def catch_up(self) -> None:
        """Flush what a process committed that was killed before it could: from now on it is reported as stored."""
        begun = time.time_ns()
        self._flush_all()
        self._note(begun, version=None)

    @contextmanager
    def __call__(self, version: int) -> Iterator[None]:
        """Around the moment at which `version` begins to count."""
        begun = time.time_ns()
        self._flush_new(str(self.table), MANIFESTS)
        yield
        self._flush_all()
        self._note(begun, version)

    def _flush_all(self) -> None:
        self._flush_new(str(self.table), "")
        if self._known is not None and str(self.table) not in self._known:
            flush(self.table.parent)
            self._known.add(str(self.table))

    def _flush_new(self, folder: str, but: str) -> None:
        if self._known is None:
            self._known = set(self._flushed_before(folder))
        with os.scandir(folder) as entries:
            inside = [entry for entry in entries if entry.name[0] != "." and entry.name != but]
        for entry in inside:
            if entry.is_dir():
                self._flush_new(entry.path, but)
            elif entry.path not in self._known:
                flush(entry.path)
        new = {entry.path for entry in inside} - self._known
        if new:
            flush(folder)
            self._known |= new

    def _flushed_before(self, folder: str) -> Iterator[str]:
        try:
            until = self._mark.stat().st_mtime_ns
        except OSError:  # none yet
            return
        for place, _, files in os.walk(folder):
            for path in (os.path.join(place, name) for name in files):  # noqa: PTH118  (many: a Path takes longer)
                if os.stat(path).st_mtime_ns < until:  # noqa: PTH116
                    yield path

    def _note(self, begun: int, version: int | None) -> None:
        if version is not None or not self._mark.exists():
            self._mark.write_text("" if version is None else str(version), encoding="ascii")
        os.utime(self._mark, ns=(begun - SLACK_NS, begun - SLACK_NS))


def drop_torn(table: Path) -> None:
    """Set aside a newest manifest without its end, unless it is one that was reported: then it is damaged."""
    manifests = {_version(path): path for path in (table / MANIFESTS).glob("*.manifest")}
    if not manifests:
        return
    newest = max(manifests)
    with manifests[newest].open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(END)))
        whole = file.read() == END
    if not whole and newest > _reported(table):
        aside = manifests[newest].with_suffix(".torn")
        log.warning("%s: the machine stopped in the middle of commit %d, which is dropped (%s)", table, newest, aside)
        manifests[newest].rename(aside)


def _version(manifest: Path) -> int:
    """The number of a version; names count down, so that the newest comes first."""
    number = int(manifest.stem)
    return 2**64 - 1 - number if number >= 2**63 else number


def _mark_of(table: Path) -> Path:
    return table.with_name(f".{table.name}.flushed")


def _reported(table: Path) -> int:
    """The last version that was flushed, as far as that is known: the note itself is not."""
    with suppress(OSError, ValueError):
        return int(_mark_of(table).read_text(encoding="ascii"))
    return -1
