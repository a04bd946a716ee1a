"""A PNG without what is not its picture:  file → the same PNG, without texts, profiles and animation.

Pillow refuses a PNG with more than 1 MiB of one compressed text or profile, and one whose texts are cut or damaged,
whatever its pixels are like. Nothing of the file is held in memory.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

from equiav.media.heif import ColorSpace
from equiav.media.splice import Splice

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = b"\0\0\0\0IEND\xaeB`\x82"
MAX_KEPT = 2**20  # bytes of EXIF or of a text that may say an orientation; Pillow's own limit of a text
TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # those that may say an orientation


def picture_of(file: BinaryIO) -> tuple[BinaryIO, ColorSpace | None]:
    """The PNG reduced to its picture and its orientation; and its color space, if it says so."""
    size, at = file.seek(0, io.SEEK_END), len(SIGNATURE)
    parts, color_space, last = [(0, at)], None, END
    while True:
        file.seek(at)
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
        end, critical = at + 12 + length, kind[:1].isupper()
        if not kind.isalpha() or kind == b"IEND" or (end > size and not critical):
            break
        if kind == b"cICP" and length == 4:
            primaries, curve, *_ = file.read(4)
            color_space = curve, primaries
        if critical or kind == b"tRNS" or _may_turn(file, kind, length):
            # what belongs together, as the many pieces of large pixels, becomes one part
            start = parts.pop()[0] if parts[-1][1] == at else at
            parts.append((start, min(end, size)))
        if end > size:
            last = b""  # cut in its pixels
            break
        at = end
    return io.BufferedReader(Splice(file, [*parts, last])), color_space


def _may_turn(file: BinaryIO, kind: bytes, length: int) -> bool:
    """Whether this chunk, at whose content the file stands, may say an orientation, and is of a size for it."""
    if kind not in (b"eXIf", b"tEXt", b"zTXt", b"iTXt") or length > MAX_KEPT:
        return False
    content, crc = file.read(length), file.read(4)
    if zlib.crc32(kind + content).to_bytes(4, "big") != crc:
        return False
    if kind == b"eXIf":
        return True
    keyword, _, rest = content.partition(b"\0")
    if keyword + b"\0" not in TEXTS:
        return False
    if kind == b"iTXt":
        compressed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        return not compressed or _fits(rest)
    return kind == b"tEXt" or _fits(rest[1:])


def _fits(compressed: bytes) -> bool:
    try:
        return len(zlib.decompressobj().decompress(compressed, MAX_KEPT + 1)) <= MAX_KEPT
    except zlib.error:
        return False
