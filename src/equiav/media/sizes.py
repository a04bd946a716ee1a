"""What the headers of WAV, RF64, AIFF, AIFC, W64, CAF and AVI say of their size, against the bytes that are there.

A program that writes to a pipe cannot come back to say how much it wrote: it leaves a placeholder, and the file itself
says how long it is. What is declared is a placeholder if it is
- 0, or no more than an empty file needs,
- one of the values that programs are known to leave: 0x7f000000 and 0x7ffff000 (SoX, eSpeak), 0x7fffffff, 0x80000000,
  0xffffffff, whole millions of bytes from 10^9 on, all with up to 256 bytes for headers, and 2^62 or more,
- more than a hundred times what is there.
Any other size beyond the end of the file says that the file is cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from equiav.errors import MediaError
from equiav.media.splice import Splice

HEADERS = 256  # bytes by which programs shift a placeholder
KNOWN = (0x7F000000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FACTOR = 100  # a size that is so many times too large is no promise
MAX_CHUNKS = 1000
MAX_BOXES = 1_000_000  # one for a second of the longest file, and more
W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the names of a W64's chunks
RIFX_CODES = {(1, 8): b"raw ", (3, 32): b"fl32", (3, 64): b"fl64", (6, 8): b"alaw", (7, 8): b"ulaw"}


@dataclass(frozen=True)
class Sizes:
    """The samples of a sound file, or all of an AVI: bytes that are declared and that are there."""

    declared: int
    there: int
    start: int  # the offset of the first of them
    sound: bool = True  # of a file of sound alone
    patches: dict[int, bytes] = field(default_factory=dict)  # what FFmpeg needs to read a placeholder

    @property
    def is_open(self) -> bool:
        """Whether what is declared is a placeholder."""
        return is_placeholder(self.declared, self.there)

    @property
    def share(self) -> float:
        """How much of the file is there."""
        return 1.0 if self.is_open or self.declared <= self.there else self.there / self.declared


def is_placeholder(declared: int, there: int) -> bool:
    """Whether a size was left open by a writer that could not come back."""
    if declared <= 0 < there or declared >= 2**62 or declared > FACTOR * max(there, 1):
        return True
    million = declared >= 10**9 and declared % 10**6 <= HEADERS
    return declared > there and (million or any(abs(declared - known) <= HEADERS for known in KNOWN))


def sizes_of(path: Path) -> Sizes | None:
    """What is declared of a file, and what is there; None of other containers, or where it does not say."""
    with path.open("rb") as file:
        head = file.read(40)
        whole = path.stat().st_size
        form = head[:4] + head[8:12]
        if form == b"RIFFAVI ":
            declared = int.from_bytes(head[4:8], "little") + 8
            return Sizes(declared if declared > HEADERS else 0, whole, 0, sound=False)
        if form in (b"RIFFWAVE", b"RIFXWAVE"):
            return _wav(file, whole, "<" if head[:4] == b"RIFF" else ">")
        if form in (b"RF64WAVE", b"BW64WAVE"):
            return _rf64(file, whole)
        if form in (b"FORMAIFF", b"FORMAIFC"):
            return _aiff(file, whole)
        if head[:4] == b"riff" and head[28:40] == W64_TAIL:
            return _w64(file, whole)
        if head[:4] == b"caff":
            return _caf(file, whole)
    return None


def _chunks(file: BinaryIO, at: int, form: str, pad: int = 2, inside: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Name, payload's offset and declared bytes of the chunks from `at` on; `inside`: a size counts its header too."""
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(struct.calcsize(form))
        if len(head) < struct.calcsize(form):
            return
        name, size = struct.unpack(form, head)
        yield name, at + len(head), size - inside
        at += len(head) + max(size - inside, 0) + -max(size, 0) % pad


def _wav(file: BinaryIO, whole: int, order: str) -> Sizes | None:
    for name, start, size in _chunks(file, 12, f"{order}4sI"):
        if name == b"data":
            return Sizes(size, whole - start, start)
    return None


def _rf64(file: BinaryIO, whole: int) -> Sizes | None:
    long_size, long_at = 0, 0
    for name, start, size in _chunks(file, 12, "<4sI"):
        if name == b"ds64":
            file.seek(start + 8)
            long_size, long_at = int.from_bytes(file.read(8), "little"), start
        if name == b"data":
            declared = long_size if size == 2**32 - 1 and long_at else size
            # the sizes of the whole and of the samples, and their number, which may stay open
            patches = {long_at: struct.pack("<QQQ", whole - 8, whole - start, 0)} if long_at else {}
            return Sizes(declared, whole - start, start, patches=patches)
    return None


def _aiff(file: BinaryIO, whole: int) -> Sizes | None:
    frames_at = None
    for name, start, size in _chunks(file, 12, ">4sI"):
        if name == b"COMM":
            frames_at = start + 2
        if name == b"SSND" and frames_at is not None:
            there = whole - start
            patches = {4: struct.pack(">I", min(whole - 8, 2**31 - 1)), frames_at: bytes(4)}
            patches[start - 4] = struct.pack(">I", min(there, 2**31 - 1))
            return Sizes(max(size - 8, 0), there - 8, start + 8, patches=patches)
    return None


def _w64(file: BinaryIO, whole: int) -> Sizes | None:
    for name, start, size in _chunks(file, 40, "<16sQ", pad=8, inside=24):
        if name == b"data" + W64_TAIL:
            patches = {16: struct.pack("<Q", whole), start - 8: struct.pack("<Q", whole - start + 24)}
            return Sizes(size, whole - start, start, patches=patches)
    return None


def _caf(file: BinaryIO, whole: int) -> Sizes | None:
    for name, start, size in _chunks(file, 8, ">4sq", pad=1):
        if name == b"data":
            # four bytes count the edits
            patches = {start - 8: struct.pack(">q", whole - start)}
            return Sizes(max(size - 4, 0), whole - start - 4, start + 4, patches=patches)
    return None


def boxes(file: BinaryIO, whole: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, payload's offset and end of the boxes of ISO 14496-12 in so many bytes; the last may end behind them.

    What is no box comes as one without a kind that reaches to the end.
    """
    at = 0
    for _ in range(MAX_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        header = 16 if size == 1 else 8
        size = int.from_bytes(head[8:], "big") if size == 1 else size or whole - at
        if size < header:
            kind, size = b"", whole - at
        yield kind, at + header, at + size
        at += size


def ends_in_a_fragment(path: Path) -> bool:
    """Whether a fragmented MP4 ends inside one of its parts: no header says how long it is as a whole."""
    whole = path.stat().st_size
    with path.open("rb") as file:
        ends = [(kind, end) for kind, _, end in boxes(file, whole)]
    return any(kind == b"moof" for kind, _ in ends) and ends[-1][1] != whole


def view_of(path: Path, head: bytes) -> Splice | None:
    """The file as FFmpeg can read it, where it cannot read it as it lies there: placeholders, big-endian WAV.

    Raises:
        MediaError: unsupported, a big-endian WAV of another coding than PCM, floats, A-law and µ-law.
    """
    if head[:4] == b"RIFX" and head[8:12] == b"WAVE":
        return _rifx(path)
    sizes = sizes_of(path) if head[:4] in (b"FORM", b"riff", b"caff", b"RF64", b"BW64") else None
    return _patched(path, sizes.patches) if sizes is not None and sizes.is_open and sizes.patches else None


def _patched(path: Path, patches: dict[int, bytes]) -> Splice:
    parts, at = list[tuple[int, int] | bytes](), 0
    for start, patch in sorted(patches.items()):
        parts += [(at, max(start, at)), patch]
        at = start + len(patch)
    return Splice(path.open("rb"), [*parts, (at, path.stat().st_size)])


def _rifx(path: Path) -> Splice:
    """A big-endian WAV as an AIFC, whose samples are big-endian too; FFmpeg takes them for little-endian ones."""
    with path.open("rb") as file:
        fmt = b""
        for name, start, size in _chunks(file, 12, ">4sI"):
            if name == b"fmt ":
                file.seek(start)
                fmt = file.read(min(size, 64))
            if name == b"data" and len(fmt) >= 16:
                whole = path.stat().st_size
                header = _aifc_header(path, fmt, Sizes(size, whole - start, start))
                return Splice(path.open("rb"), [header, (start, whole)])
    raise MediaError("truncated", f"{path.name} is a big-endian WAV (RIFX) that ends before its samples")


def _aifc_header(path: Path, fmt: bytes, sizes: Sizes) -> bytes:
    code, channels, rate, _, block, bits = struct.unpack_from(">HHIIHH", fmt)
    if code == 0xFFFE and len(fmt) >= 28:  # the true code comes later
        code = struct.unpack_from(">I", fmt, 24)[0]
    kind = RIFX_CODES.get((code, bits), b"NONE" if code == 1 and bits in (16, 24, 32) else None)
    if kind is None or not channels or not rate or block != channels * bits // 8:
        raise MediaError("unsupported", f"{path.name} is a big-endian WAV (RIFX) of format {code}, {bits} bits")
    length = sizes.there if sizes.is_open else min(sizes.declared, sizes.there)
    length = min(length, 2**31 - 2**10)
    exponent = rate.bit_length() + 16382  # an 80-bit float
    comm = struct.pack(">HIH", channels, length // block, bits)
    comm += struct.pack(">HQ", exponent, rate << (64 - rate.bit_length())) + kind + b"\0\0"
    chunks = b"FVER" + struct.pack(">II", 4, 0xA2805140) + b"COMM" + struct.pack(">I", len(comm)) + comm
    chunks += b"SSND" + struct.pack(">III", length + 8, 0, 0)
    return b"FORM" + struct.pack(">I", 4 + len(chunks) + length) + b"AIFC" + chunks
