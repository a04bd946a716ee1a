"""The media file of a clip, by byte range:  a row of the library, a Range header → part of a file.

The row says which file; nothing of it comes from the client. It is served as long as it is what was ingested: reached
without symbolic links below the folder that was ingested, and of the same size and time.
"""

from __future__ import annotations

import mimetypes
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from equiav.serve.problems import Refusal

BLOCK = 1 << 18
# flags that not every system has
NO_LINK, NO_WAIT, BINARY = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)
COLUMNS = ["source", "origin", "file_size", "file_mtime_ns"]


# The folders of a path or an address, up to its last part
FOLDERS = re.compile(r"(?:\b\w+:/|(?<![\w./\\])(?:[A-Za-z]:)?)[/\\](?:[^/\\'\":;,()<>|]*[^/\\'\":;,()<>|\s][/\\])+")


def without_folders(text: str) -> str:
    """A sentence that names files, but not where they lie."""
    return FOLDERS.sub("", text)


def shown(source: str, origin: str) -> str:
    """What clients are told of where a file lies: its path from the folder on that was ingested, else its last two."""
    for mark in ("/", os.sep):
        if source.startswith(origin.rstrip(mark) + mark):
            return source[len(origin.rstrip(mark).rpartition(mark)[0]) :].lstrip(mark)
    return "/".join(PurePath(source).parts[-2:])


def open_source(row: dict[str, Any]) -> BinaryIO:
    """Open the file that a row was made from.

    Raises:
        Refusal: it is no file of this machine, or not any more the one that was ingested.
    """
    path = Path(row["source"])
    try:
        # a fifo is not waited for; the last part of the path may be no link
        handle = os.open(path, os.O_RDONLY | NO_LINK | NO_WAIT | BINARY)
    except (OSError, ValueError):
        raise Refusal(404, "this clip has no media file that can be served: it lies elsewhere, or is gone") from None
    found = os.fstat(handle)
    same = (found.st_size, found.st_mtime_ns) == (row["file_size"], row["file_mtime_ns"])
    if not stat.S_ISREG(found.st_mode) or not same or not _lies_where_it_says(path, Path(row["origin"]), found):
        os.close(handle)
        raise Refusal(409, "the media file is not any more the one that was ingested: ingest again")
    return os.fdopen(handle, "rb")


def _lies_where_it_says(path: Path, origin: Path, found: os.stat_result) -> bool:
    """Whether no symbolic link lies between the folder that was ingested, or the file's own, and the open file."""
    base = origin if origin in path.parents else path.parent
    with suppress(OSError):
        straight = Path(os.path.realpath(base)) / path.relative_to(base)
        return Path(os.path.realpath(straight)) == straight and os.path.samestat(straight.lstat(), found)
    return False


class FileRange(StreamingResponse):
    """A file, or the part that a Range header asks for; the file is closed whatever happens."""

    def __init__(self, file: BinaryIO, name: str, asked: Headers) -> None:
        self._file = file
        found = os.fstat(file.fileno())
        tag = f'"{found.st_size:x}-{found.st_mtime_ns:x}"'
        headers = {"Accept-Ranges": "bytes", "ETag": tag, "Cache-Control": "private, no-cache"}
        wanted = asked.get("range", "") if asked.get("if-range", tag) == tag else ""
        try:
            span = _span(wanted, found.st_size)
        except Refusal:
            file.close()
            raise
        first, last = span or (0, found.st_size - 1)
        if span:
            headers["Content-Range"] = f"bytes {first}-{last}/{found.st_size}"
        headers["Content-Length"] = str(last - first + 1)
        super().__init__(_blocks(file, first, last + 1), 206 if span else 200, headers, _media_type(name))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._file:
            await super().__call__(scope, receive, send)


def _span(asked: str, size: int) -> tuple[int, int] | None:
    """First and last byte; None, for the whole, of what is not one valid range of bytes, as HTTP allows.

    Raises:
        Refusal: the file has no such bytes.
    """
    match = ONE_RANGE.fullmatch(asked)
    if not match or match.groups() == ("", ""):
        return None
    if not match[1]:
        first, last = max(size - int(match[2]), 0), size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
        if match[2] and int(match[2]) < first:
            return None
    if first > last:
        raise Refusal(416, f"the file has {size} bytes", {"Content-Range": f"bytes */{size}"})
    return first, last


def _blocks(file: BinaryIO, first: int, end: int) -> Iterator[bytes]:
    file.seek(first)
    while first < end and (block := file.read(min(BLOCK, end - first))):
        first += len(block)
        yield block


def _media_type(name: str) -> str:
    """Of sounds, pictures and videos; nothing that a browser would run."""
    kind = mimetypes.guess_type(name)[0] or ""
    harmless = kind.startswith(("audio/", "image/", "video/")) and "svg" not in kind
    return kind if harmless else "application/octet-stream"
