"""HEIC and AVIF pictures made of tiles, as telephones and cameras write them."""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import av
import numpy as np

ENCODERS = {
    "hvc1": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=1:info=0"}),
    "av01": ("libsvtav1", {"preset": "10", "crf": "5", "svtav1-params": "avif=0"}),
}
CONFIGURATIONS = {"hvc1": b"hvcC", "av01": b"av1C"}
BRANDS = {"hvc1": b"heic\0\0\0\0mif1heic", "av01": b"avif\0\0\0\0mif1miafavif"}


def tiled(
    picture: np.ndarray, kind: str = "hvc1", tile: int = 128, colour: tuple[int, int, int] | None = None
) -> bytes:
    """A picture (H, W, 3), of whole tiles, as a file of single pictures and a grid of them: ISO 23008-12, 6.6.2.3.

    Args:
        colour: primaries, transfer curve and matrix that the grid is said to be in.
    """
    rows, columns = picture.shape[0] // tile, picture.shape[1] // tile
    parts = [
        _coded(np.ascontiguousarray(picture[y * tile : (y + 1) * tile, x * tile : (x + 1) * tile]), kind)
        for y in range(rows)
        for x in range(columns)
    ]
    samples = [sample for _, sample in parts]
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, columns * tile, rows * tile)
    head = _box(b"ftyp", BRANDS[kind])
    meta = _meta(kind, parts[0][0], samples, grid, tile, (rows, columns), colour, 0)
    at = len(head) + len(meta) + 8
    meta = _meta(kind, parts[0][0], samples, grid, tile, (rows, columns), colour, at)
    return head + meta + _box(b"mdat", *samples, grid)


def _coded(picture: np.ndarray, kind: str) -> tuple[bytes, bytes]:
    """One picture: the codec's configuration, and its data."""
    file = io.BytesIO()
    codec, options = ENCODERS[kind]
    with _usual_priority(), av.open(file, "w", format="mp4") as out:
        stream = out.add_stream(codec, rate=1, options=options)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        if kind == "hvc1":
            stream.codec_tag = kind
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.size)
        return bytes(container.streams.video[0].codec_context.extradata), bytes(packet)


@contextmanager
def _usual_priority() -> Iterator[None]:
    """SVT-AV1 gives the thread that calls it real-time priority (FIFO, 99) where it may: nothing else would run."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _meta(kind, configuration, samples, grid, tile, shape, colour, at) -> bytes:
    """What there is, of which kind, where, and what belongs to it."""
    count, properties = len(samples), [(CONFIGURATIONS[kind], configuration), (b"pixi", b"\0\0\0\0\3\10\10\10")]
    properties += [
        (b"ispe", bytes(4) + struct.pack(">II", size * tile, size2 * tile)) for size, size2 in ((1, 1), shape[::-1])
    ]
    if colour:
        properties.append((b"colr", b"nclx" + struct.pack(">HHHB", *colour, 0)))
    entries = [_full(b"infe", 2, 1, struct.pack(">HH4s", i + 1, 0, kind.encode()), b"\0") for i in range(count)]
    entries.append(_full(b"infe", 2, 0, struct.pack(">HH4s", count + 1, 0, b"grid"), b"\0"))
    places = []
    for i, data in enumerate([*samples, grid]):
        places.append(struct.pack(">HHHII", i + 1, 0, 1, at, len(data)))
        at += len(data)
    belongs = [struct.pack(">HBBBB", i + 1, 3, 0x81, 2, 3) for i in range(count)]
    of_grid = [2, 4, *([5] if colour else [])]
    belongs.append(struct.pack(">HB", count + 1, len(of_grid)) + bytes(of_grid))
    return _full(
        b"meta",
        0,
        0,
        _full(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"pict"), b"\0"),
        _full(b"pitm", 0, 0, struct.pack(">H", count + 1)),
        _full(b"iloc", 0, 0, struct.pack(">BBH", 0x44, 0, count + 1), *places),
        _full(b"iinf", 0, 0, struct.pack(">H", count + 1), *entries),
        _full(b"iref", 0, 0, _box(b"dimg", struct.pack(f">HH{count}H", count + 1, count, *range(1, count + 1)))),
        _box(
            b"iprp",
            _box(b"ipco", *[_box(*each) for each in properties]),
            _full(b"ipma", 0, 0, struct.pack(">I", count + 1), *belongs),
        ),
    )


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)
