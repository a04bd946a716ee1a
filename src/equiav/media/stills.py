"""Picture files:  path or bytes → RGB (H, W, 3), upright;  → JPEG as frames of videos have it."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose
from pillow_heif import register_heif_opener

from equiav.errors import MediaError
from equiav.media import heif, png
from equiav.media.frames import read_frames
from equiav.media.hdr import is_beyond_sdr, to_sdr
from equiav.media.pixels import encoded, on_background
from equiav.media.probe import MediaInfo, check_pixels, describe, open_media, read_head

PICTURE_FORMATS = frozenset({"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "HEIF"})
ORIENTATION = 0x0112  # in EXIF; what is to be done with each of its values:
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

register_heif_opener()


def probe_picture(path: Path) -> MediaInfo | None:
    """What a picture file holds, from its headers; None when it is none. Animations are read as videos.

    Raises:
        MediaError: unsupported (too many pixels), corrupt (a HEIC or AVIF), missing, unreadable, empty_file.
    """
    head = read_head(path)  # opening a pipe would wait for its writer
    try:
        with _opened(path, path.name, PICTURE_FORMATS - {"GIF"}) as (picture, _):
            return MediaInfo(0.0, None, 0.0, None, None, picture.width, picture.height, None, picture=True)
    except MediaError as error:
        # FFmpeg would take what is left of a HEIC, or a tile of it, for a video
        if error.reason == "unsupported" or heif.is_heif(head):
            raise
        return None


def read_picture(path: Path, short_side: int, quality: int) -> bytes:
    """A picture file as JPEG of the size that frames of videos have.

    Raises:
        MediaError: not_media, corrupt, unsupported.
    """
    return encoded(shrunk(Image.fromarray(load_image(path)), short_side), quality)


def shrunk(picture: Image.Image, short_side: int) -> Image.Image:
    """A picture whose short side is no longer than `short_side`; a pixel is the mean of those that it stands for."""
    scale = short_side / min(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX)


def load_image(source: Path | str | bytes) -> NDArray[np.uint8]:
    """A picture as RGB (H, W, 3), upright; a video file gives its middle frame.

    Raises:
        MediaError: neither a picture nor a video.
    """
    if isinstance(source, bytes):
        return _picture(io.BytesIO(source), "these bytes")
    path = Path(source)
    if not path.is_file():
        raise MediaError("missing", f"{path} is not a regular file")
    try:
        return _picture(path, path.name)
    except MediaError as error:
        if error.reason != "not_media":
            raise
    with open_media(path) as container:
        info = describe(container, path)
        # the cover of a song, a single picture that is soon over, does not count as a track of pictures
        middle_s = 0.0 if info.video_end_s is None else (info.video_end_s or info.duration_s) / 2
        frames, _ = read_frames(container, path, [middle_s], 1024, 95, info)
    return _picture(io.BytesIO(frames[0]), path.name)


def _picture(file: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    with _opened(file, name, PICTURE_FORMATS) as (picture, color_space):
        return _rgb(picture, name, color_space)


def upright_rgb(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    """What a Pillow picture shows, as RGB (H, W, 3).

    Raises:
        MediaError: more than 8 bits, which the conversion would clip to white.
    """
    nclx = picture.info.get("nclx_profile")  # of a HEIC
    return _rgb(picture, name, (nclx["transfer_characteristics"], nclx["color_primaries"]) if nclx else None)


def _rgb(picture: Image.Image, name: str, color_space: heif.ColorSpace | None) -> NDArray[np.uint8]:
    picture.load()
    turn = TURNS.get(_orientation(picture))
    upright = picture if turn is None else picture.transpose(turn)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        raise MediaError("unsupported", f"{name} is a picture of mode {upright.mode}, expected 8 bits")
    if color_space and is_beyond_sdr(*color_space):
        colours = np.asarray(upright.convert("RGB"), np.uint16) * np.uint16(257)
        shown = Image.fromarray(to_sdr(colours, *color_space))
        if upright.has_transparency_data:
            shown.putalpha(upright.convert("RGBA").getchannel("A"))
        upright = shown
    return np.asarray(on_background(upright))


def _orientation(picture: Image.Image) -> int:
    """As EXIF or XMP has it; 1, upright, where that is not there or damaged: the picture is sound all the same."""
    try:
        return picture.getexif().get(ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1


@contextmanager
def pillow_errors(name: str, expected: str = "picture in a known format") -> Iterator[None]:
    """Whatever Pillow says against a picture becomes a MediaError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limits are ours, and damage to what is not the picture is none
            yield
    except UnidentifiedImageError:
        raise MediaError("not_media", f"{name} is no {expected}") from None
    except Image.DecompressionBombError as error:
        raise MediaError("unsupported", f"{name}: {error}") from None
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError) as error:  # the last are AVIF's and HEIC's
        raise MediaError("corrupt", f"{name} cannot be decoded as a picture: {error}") from None


@contextmanager
def _opened(
    file: Path | io.BytesIO, name: str, formats: frozenset[str]
) -> Iterator[tuple[Image.Image, heif.ColorSpace | None]]:
    """A picture within our limits, its headers read, and its color space if it says so."""
    color_space, is_heif = None, False
    try:
        with pillow_errors(name), file.open("rb") if isinstance(file, Path) else file as stream:
            head = stream.read(16)
            stream.seek(0)
            if is_heif := heif.is_heif(head):
                color_space = heif.check(stream, name)
            elif head.startswith(png.SIGNATURE):
                stream, color_space = png.picture_of(stream)
            with Image.open(stream, formats=sorted(formats)) as picture:
                check_pixels(name, *picture.size)
                yield picture, color_space
    except MediaError as error:
        if is_heif and error.reason == "not_media":
            raise MediaError("corrupt", f"{name} is a HEIF picture, but damaged or not in HEVC or AV1") from None
        raise
