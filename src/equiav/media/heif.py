"""The containers of HEIC, HEIF and AVIF pictures:  is a file one, is all of it there, in which color space is it?

Boxes: ISO 14496-12 and 23008-12. Libraries that decode them fill up tiles that are missing, and FFmpeg takes a tile
for a video: so both are decided here, before.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from equiav.errors import MediaError
from equiav.media.probe import check_pixels
from equiav.media.sizes import boxes

# Major brands of files whose pictures are items, or sequences of such
BRANDS = frozenset(
    b"heic heix heim heis hevc hevx hevm hevs avif avis avio mif1 mif2 msf1 miaf avci avcs vvic jpeg jpgs j2ki".split()
)
MAX_META = 16 * 2**20  # bytes of the box that says what there is; thousands of tiles need one of them
ColorSpace = tuple[int, int]  # transfer curve and primaries, in the numbers of ITU-T H.273, which are FFmpeg's


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with these 12 bytes or more is such a container."""
    return head[4:8] == b"ftyp" and head[8:12] in BRANDS


def check(file: BinaryIO, name: str) -> ColorSpace | None:
    """The color space of the primary picture, if the file says so; the file is left at its start.

    Raises:
        MediaError: corrupt (a part is missing), unsupported (too many pixels; a sequence of pictures alone).
    """
    size, kinds, meta = file.seek(0, io.SEEK_END), set[bytes](), b""
    for kind, start, end in boxes(file, size):
        if kind == b"meta" and end - start <= MAX_META:
            file.seek(start)
            meta = file.read(end - start)
        if end > size:
            break  # cut, or what some telephones put behind the last box
        kinds.add(kind)
    file.seek(0)
    if b"moov" in kinds and b"meta" not in kinds:
        raise MediaError("unsupported", f"{name} is a HEIF sequence without a picture of its own; make it a video")
    parts = dict(_parts(meta[4:]))
    try:
        needed = _end_of_items(parts[b"iloc"])
    except (IndexError, KeyError):
        raise MediaError("corrupt", f"{name}: a HEIF picture whose index is cut or damaged") from None
    if needed > size:
        raise MediaError("corrupt", f"{name}: a HEIF picture that is cut, at {size} of {needed} bytes")
    try:
        properties = _primary_properties(parts)
        width, height = struct.unpack_from(">4xII", properties.get(b"ispe", bytes(12)))
        primaries, curve = struct.unpack_from(">4xHH", properties.get(b"nclx", bytes(8)))
    except (struct.error, IndexError, KeyError):
        return None  # what cannot be understood says nothing
    check_pixels(name, width, height)
    return (curve, primaries) if curve else None


def _parts(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each box in `data`."""
    return [(kind, data[start:end]) for kind, start, end in boxes(io.BytesIO(data), len(data))]


def _end_of_items(places: bytes) -> int:
    """How far the items reach that lie in the file itself: an `iloc` box."""
    version, sizes, at = places[0], int.from_bytes(places[4:6], "big"), 6
    size_of_offset, size_of_length, size_of_base = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    size_of_index = sizes & 15 if version else 0
    furthest = 0

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(places):
            raise IndexError
        return int.from_bytes(places[at - size : at], "big")

    for _ in range(number(4 if version == 2 else 2)):
        number(4 if version == 2 else 2)  # its id
        elsewhere = number(2) & 15 if version else 0
        elsewhere |= number(2)  # in another file
        base, extents = number(size_of_base), number(2)
        for _ in range(extents if size_of_offset or size_of_length else 0):
            number(size_of_index)
            end = base + number(size_of_offset) + number(size_of_length)
            furthest = furthest if elsewhere else max(furthest, end)
    return furthest


def _primary_properties(parts: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Size (`ispe`) and colour (`nclx`) of the primary item, as boxes."""
    primary = int.from_bytes(parts[b"pitm"][4:], "big")
    properties = dict(_parts(parts[b"iprp"]))
    every, found = _parts(properties[b"ipco"]), dict[bytes, bytes]()
    for number in filter(None, _properties_of(primary, properties[b"ipma"])):
        kind, content = every[number - 1]
        kind = content[:4] if kind == b"colr" else kind
        found.setdefault(kind, content)
    return found


def _properties_of(item: int, associations: bytes) -> list[int]:
    """The numbers, from one on, of an item's properties in the list of all."""
    wide_ids, wide_numbers = associations[0] > 0, associations[3] & 1
    (count,), at = struct.unpack_from(">I", associations, 4), 8
    for _ in range(count):
        of, n = struct.unpack_from(">IB" if wide_ids else ">HB", associations, at)
        at += 5 if wide_ids else 3
        numbers = struct.unpack_from(f">{n}{'H' if wide_numbers else 'B'}", associations, at)
        at += n * (2 if wide_numbers else 1)
        if of == item:
            return [number & (0x7FFF if wide_numbers else 0x7F) for number in numbers]  # the first bit: is essential
    return []
