"""What a decoded frame looks like:  frame → JPEG, upright, with square pixels;  JPEGs → do they show the same?"""

from __future__ import annotations

import io
import struct

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

HD_LINES = 720  # pictures of this height and more are in BT.709 colours unless they say otherwise
UNSAID = 2  # FFmpeg's number of "no matrix was said"
MAX_ASPECT = 4.0  # of a stored frame; the sides of a longer one are cut off
MATRIX = struct.Struct("=9i")  # as FFmpeg gives a display matrix
STILL = 3  # grey levels of 255: the blocks of a still picture change by less, through compression alone


def frame_jpeg(
    scaler: VideoReformatter, frame: av.VideoFrame, short_side: int, quality: int, pixel_aspect: float
) -> bytes:
    """One frame as JPEG; `pixel_aspect` is the width of a pixel over its height."""
    wide, high = frame.width * pixel_aspect, float(frame.height)
    scale = min(1.0, short_side / min(wide, high))
    width, height = (max(1, round(side * scale)) for side in (wide, high))
    if frame.colorspace == UNSAID and frame.height >= HD_LINES:
        frame.colorspace = Colorspace.ITU709  # FFmpeg takes untagged pictures for SD ones
    interpolation = "AREA" if scale < 1 else "BICUBIC"
    small = scaler.reformat(frame, width, height, "rgb24", interpolation=interpolation, threads=1)
    return encoded(Image.fromarray(_upright(frame, np.asarray(small.to_ndarray(), np.uint8))), quality)


def _upright(frame: av.VideoFrame, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) turned and mirrored as the file's display matrix says, by right angles; one of no use is none.

    The matrix of ISO 14496-12, 6.2.2: the pixel (x, y) is shown at (a x + c y, b x + d y).
    """
    said = frame.side_data.get("DISPLAYMATRIX")
    if said is None:
        return pixels
    a, b, _, c, d, *_ = MATRIX.unpack_from(said)
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    right, down = (c, b) if turned else (a, d)
    if not right or not down:
        return pixels
    pixels = np.swapaxes(pixels, 0, 1) if turned else pixels
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def encoded(picture: Image.Image, quality: int) -> bytes:
    """A picture as JPEG, without the ends of a very long one."""
    out = io.BytesIO()
    picture.crop(_middle(picture.width, picture.height)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """The box without the ends of a very long picture: one such would blow up its whole batch."""
    longest = int(MAX_ASPECT * min(width, height))
    left, top = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    return left, top, width - left, height - top


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
