"""One writer at a time on an object store:  an object that a writer makes, renews while it lives, and removes.

The store itself keeps two apart: it makes the object only where there is none, and replaces it only while it is what
was last seen (If-None-Match, If-Match). A writer that was killed stops renewing; `LEASE_S` later, by the store's clock,
another may take its place. A writer that finds its lease taken, or could not renew it in time, writes nothing more.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from equiav.errors import LibraryError
from equiav.library.places import BucketPath, Place, Tag

LEASE_S = 60.0
BEAT_S = 10.0

_HELD: list[_Lease] = []


@contextmanager
def leased(path: BucketPath, message: str) -> Iterator[None]:
    """Hold the lease `path` within the block.

    Raises:
        LibraryError: another process holds it, or the store cannot keep two apart.
    """
    lease = _Lease(path, message)
    _HELD.append(lease)
    try:
        yield
    finally:
        _HELD.remove(lease)
        lease.release()


def check_lease(path: Place) -> None:
    """Before something is written at `path`: the leases that this process holds above it must be its own still.

    Raises:
        LibraryError: one is not.
    """
    for lease in _HELD:
        if f"{path}/".startswith(f"{lease.path.parent}/"):
            lease.check()


class _Lease:
    def __init__(self, path: BucketPath, message: str) -> None:
        self.path, self._message, self._id = path, message, uuid.uuid4().hex
        self._begun, self._beats = datetime.now(timezone.utc), 0
        self._lost = ""
        self._at = _now()
        self._tag = self._take()
        self._prove()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._beating.start()

    def _content(self) -> bytes:
        self._beats += 1  # so that no two have the same ETag
        since = self._begun.isoformat(timespec="seconds")
        who = {"id": self._id, "host": socket.gethostname(), "process": os.getpid(), "since": since}
        return json.dumps(who | {"renewed": self._beats}).encode()

    def _take(self) -> Tag:
        tag = self.path.write(self._content(), over=None)
        if tag is not None:
            return tag
        try:
            content, old = self.path.read_with_tag()
            who = json.loads(content)
            if who["id"] == self._id:  # the first try arrived, though its answer did not
                return old
            age_s = self._age_s()
        except FileNotFoundError:
            raise LibraryError(f"{self._message}; it has just ended: run this again") from None
        except (ValueError, LookupError, TypeError):
            raise LibraryError(f"{self.path} is no lease that equiav wrote; remove it if nothing is writing") from None
        found = f"process {who['process']} on {who['host']}, since {who['since']}"
        if age_s <= LEASE_S:
            raise LibraryError(
                f"{self._message} ({found}); wait for it to end, then run this again. If it was killed, its lease "
                f"ends {LEASE_S:.0f} s after it was last renewed, {max(age_s, 0):.0f} s ago"
            )
        self._at = _now()
        tag = self.path.write(self._content(), over=old)
        if tag is None:
            raise LibraryError(f"{self._message}: it took over from {found} just now; wait for it to end")
        return tag

    def _age_s(self) -> float:
        """Since the lease was renewed, by the store's clock: of what is written now it tells the time."""
        now = self.path.with_name(f"{self.path.name}.{self._id}")
        now.write(b"")
        try:
            return (now.last_modified() - self.path.last_modified()).total_seconds()
        finally:
            now.unlink()

    def _prove(self) -> None:
        """The store must refuse what it is asked to refuse."""
        if self.path.write(self._content(), over=None) is not None:
            self.path.unlink()
            raise LibraryError(
                f"{self.path.parent}: this store does not keep two writers apart: it overwrote an object that was "
                "there, in spite of If-None-Match. Write the library to a folder and copy it to the store, or use one "
                "with conditional writes (Amazon S3, Google Cloud Storage, Azure, MinIO and R2 of today)"
            )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            begun = _now()
            try:
                tag = self.path.write(self._content(), over=self._tag)
                if tag is None:
                    content, tag = self.path.read_with_tag()
                    if json.loads(content)["id"] != self._id:
                        self._lost = "another process took it over"
                        return
                self._tag, self._at = tag, begun
            except FileNotFoundError:
                self._lost = "it was removed"
                return
            except (LibraryError, ValueError, LookupError):  # tried again; `check` sees how long that goes on
                continue

    def check(self) -> None:
        """Raise where it may be another's by now."""
        age_s = max(now - then for now, then in zip(_now(), self._at, strict=True))
        lost = self._lost or (f"it could not be renewed for {age_s:.0f} s" if age_s > LEASE_S - BEAT_S else "")
        if lost:
            raise LibraryError(f"{self.path.parent}: this process may not write any more, {lost}; run this again")

    def release(self) -> None:
        """Let the next one in."""
        self._ended.set()
        self._beating.join()
        try:
            self.check()
            self.path.unlink()
        except LibraryError:  # it is another's, or ends by itself
            pass


def _now() -> tuple[float, float]:
    """By two clocks: the one may be set, the other stands still while a machine sleeps."""
    return time.monotonic(), time.time()
