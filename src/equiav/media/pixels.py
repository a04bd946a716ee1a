"""What a decoded frame looks like:  frame → JPEG, upright, with square pixels;  JPEGs → do they show the same?

Of an interlaced frame its first field is taken: the other one is of another moment. Colours that are not BT.709's or
BT.601's become BT.709's (`hdr`), transparent pixels get a background.
"""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import av
import av.error
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorPrimaries, Colorspace, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from equiav.errors import MediaError
from equiav.media.hdr import CURVES, is_beyond_sdr, to_sdr

# Pictures without a colour matrix are in BT.709 from these sizes on, else in BT.601: mpv's and libplacebo's rule
HD_WIDTH, HD_HEIGHT = 1280, 577
UNSPECIFIED, RESERVED, LAST_MATRIX = 2, 3, 17  # FFmpeg's numbers of colour matrices
# Those that FFmpeg does not convert
UNKNOWN_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-R",
    17: "YCgCo-R",
}
WHOLE = frozenset({"png", "apng"})  # what these call interlaced is an order of storage, not two moments
MAX_SIDE_DATA = 64  # numbers of side data below this are tried
MAX_ASPECT = 4.0  # of a stored frame; the sides of a longer one are cut off
MATRIX = struct.Struct("=9i")  # as FFmpeg gives a display matrix
MIDDLE = 127.5  # grey level
STILL = 3  # grey levels of 255: the blocks of a still picture change by less, through compression alone


def frame_jpeg(
    scaler: VideoReformatter, frame: av.VideoFrame, short_side: int, quality: int, pixel_aspect: float, codec: str
) -> bytes:
    """One frame as JPEG; `pixel_aspect` is the width of a pixel over its height.

    Raises:
        MediaError: unsupported (colours that FFmpeg does not convert).
    """
    turn = _turn(frame)
    wide, high = frame.width * pixel_aspect, float(frame.height)
    scale = min(1.0, short_side / min(wide, high))
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    if frame.interlaced_frame:
        frame = _one_moment(frame, codec)
    _set_matrix(frame, codec)
    try:
        if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
            frame = _opaque(scaler, frame)
        pixels = _rgb(scaler, frame, size, "AREA" if scale < 1 else "BICUBIC")
    except av.error.FFmpegError as error:
        what = f"{frame.format.name}, colour matrix {frame.colorspace}, range {frame.color_range}"
        raise MediaError(
            "unsupported", f"{codec} pictures that FFmpeg does not convert to RGB ({what}: {error})"
        ) from None
    return encoded(Image.fromarray(_upright(turn, pixels)), quality)


def _rgb(
    scaler: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int], interpolation: str
) -> NDArray[np.uint8]:
    """(H, W, 3) of the asked (width, height), as a BT.709 screen shows it."""
    curve, primaries = _color_space(frame)
    wide = is_beyond_sdr(curve, primaries)
    kind = "rgb48le" if wide else "rgb24"
    pixels = scaler.reformat(frame, *size, kind, interpolation=interpolation, threads=1).to_ndarray()
    return to_sdr(np.asarray(pixels, np.uint16), curve, primaries) if wide else np.asarray(pixels, np.uint8)


def _color_space(frame: av.VideoFrame) -> tuple[int, int]:
    """Transfer curve and primaries; where a frame does not tell the latter but the matrix is BT.2020's, so are they."""
    primaries = frame.color_primaries
    if primaries == ColorPrimaries.UNSPECIFIED and frame.colorspace == Colorspace.BT2020:
        primaries = ColorPrimaries.BT2020
    return frame.color_trc, primaries


def _set_matrix(frame: av.VideoFrame, codec: str) -> None:
    """Where a frame has no colour matrix, set one: FFmpeg would take BT.601."""
    if frame.colorspace in UNKNOWN_MATRICES:
        raise MediaError("unsupported", f"{codec} pictures in the colour matrix {UNKNOWN_MATRICES[frame.colorspace]}")
    if frame.colorspace not in (UNSPECIFIED, RESERVED) and frame.colorspace <= LAST_MATRIX:
        return
    if frame.color_trc in CURVES or frame.color_primaries == ColorPrimaries.BT2020:
        frame.colorspace = Colorspace.BT2020
    elif frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT:
        frame.colorspace = Colorspace.ITU709
    else:
        frame.colorspace = UNSPECIFIED


def _one_moment(frame: av.VideoFrame, codec: str) -> av.VideoFrame:
    """The first field of an interlaced frame, with half its lines."""
    if codec in WHOLE:
        return _filtered(frame, ("setfield", {"mode": "prog"}))
    # fields are told apart in order of time only where there are as many lines of both
    return _filtered(frame, ("field", {"type": "top"}) if frame.height % 2 else ("separatefields", {}))


def _filtered(frame: av.VideoFrame, *filters: tuple[str, dict[str, str]]) -> av.VideoFrame:
    """What FFmpeg's filters make of one frame: the first that comes out."""
    graph = Graph()
    graph.threads = 1
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    for name, options in (*filters, ("buffersink", {})):
        following = graph.add(name, **options)
        last.link_to(following)
        last = following
    graph.configure()
    graph.vpush(frame)
    return graph.vpull()


def _opaque(scaler: VideoReformatter, frame: av.VideoFrame) -> av.VideoFrame:
    """A frame without transparent pixels, of BT.709's colours; one that has none is left as it is.

    It is converted before it is made smaller: hidden pixels have colours too, which must not run into the others.
    """
    curve, primaries = _color_space(frame)
    full = np.asarray(scaler.reformat(frame, format="rgba64le", threads=1).to_ndarray(), np.uint16)
    opacity = (full[..., 3] >> 8).astype(np.uint8)
    if opacity.min() == 255:
        return frame
    colours = full[..., :3]
    small = to_sdr(colours, curve, primaries) if is_beyond_sdr(curve, primaries) else (colours >> 8).astype(np.uint8)
    flat = on_background(Image.fromarray(np.dstack([small, opacity])))
    return av.VideoFrame.from_ndarray(np.asarray(flat), format="rgb24")


def on_background(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, transparent pixels on white or black, whichever is further from what is visible.

    Further from the mean grey level of its pixels, weighted by their opacity; white if both are as far, or if nothing
    is visible.
    """
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    colored = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    opacity = colored.getchannel("A")
    if opacity.getextrema() == (255, 255):
        return colored.convert("RGB")
    weights = np.asarray(opacity)
    visible = int(weights.sum(dtype=np.int64))
    grey = np.einsum("hw,hw->", np.asarray(colored.convert("L")), weights, dtype=np.int64)
    bright = visible > 0 and int(grey) > MIDDLE * visible
    background = Image.new("RGB", colored.size, "black" if bright else "white")
    background.paste(colored, mask=opacity)
    return background


def _turn(frame: av.VideoFrame) -> bytes | None:
    """The display matrix of a frame, if it has one."""
    try:
        side_data = frame.side_data
    except ValueError:
        # PyAV 18 fails on side data of a kind that it does not know, such as EXIF: without those it can be read
        strange = sorted(set(range(MAX_SIDE_DATA)) - {kind.value for kind in Type})
        delete = [("sidedata", {"mode": "delete", "type": str(kind)}) for kind in strange]
        side_data = _filtered(frame, *delete).side_data
    found = side_data.get("DISPLAYMATRIX")
    return None if found is None else bytes(found)


def _upright(turn: bytes | None, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) turned and mirrored as a display matrix says, by right angles; one of no use is none.

    The matrix of ISO 14496-12, 6.2.2: the pixel (x, y) is shown at (a x + c y, b x + d y).
    """
    if turn is None:
        return pixels
    a, b, _, c, d, *_ = MATRIX.unpack_from(turn)
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    right, down = (c, b) if turned else (a, d)
    if not right or not down:
        return pixels
    pixels = np.swapaxes(pixels, 0, 1) if turned else pixels
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def encoded(picture: Image.Image, quality: int) -> bytes:
    """A picture as JPEG, without the ends of a very long one, which would blow up its whole batch."""
    width, height = picture.size
    longest = int(MAX_ASPECT * min(width, height))
    left, top = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    out = io.BytesIO()
    picture.crop((left, top, width - left, height - top)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def is_still(jpegs: list[bytes]) -> bool:
    """True when several pictures show the same: no block of 8 x 8 pixels has another colour in one of them."""
    if len(jpegs) < 2:
        return False
    small = [_blocks(jpeg) for jpeg in jpegs]
    return all(
        other.shape == small[0].shape and np.abs(other.astype(np.int16) - small[0]).max() <= STILL for other in small
    )


def _blocks(jpeg: bytes) -> NDArray[np.uint8]:
    """A JPEG at an eighth of its size, which its blocks' means give without decoding the rest."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        picture.draft("RGB", (max(picture.width // 8, 1), max(picture.height // 8, 1)))
        return np.asarray(picture.convert("RGB"))
