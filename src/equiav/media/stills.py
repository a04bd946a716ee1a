"""Picture files:  path or bytes → RGB (H, W, 3), upright;  → JPEG as frames of videos have it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from equiav.errors import MediaError
from equiav.media.frames import read_frames
from equiav.media.ground import on_ground
from equiav.media.pixels import encoded
from equiav.media.probe import MAX_PIXELS, MediaInfo, describe, open_media, read_head

PICTURE_FORMATS = frozenset({"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"})


def probe_picture(path: Path) -> MediaInfo | None:
    """What a picture file holds, from its headers; None when it is none. Animations are read as videos.

    Raises:
        MediaError: unsupported (too many pixels), missing, unreadable, empty_file.
    """
    read_head(path)  # to open a pipe would be to wait for whoever writes into it
    try:
        with _opened(path, path.name, PICTURE_FORMATS - {"GIF"}) as picture:
            return MediaInfo(0.0, None, 0.0, None, None, picture.width, picture.height, None, picture=True)
    except MediaError as error:
        if error.reason == "unsupported":
            raise
        return None


def read_picture(path: Path, short_side: int, quality: int) -> bytes:
    """A picture file as JPEG of the size that frames of videos have.

    Raises:
        MediaError: not_media, corrupt, unsupported.
    """
    picture = Image.fromarray(load_image(path))
    scale = min(1.0, short_side / min(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return encoded(picture.resize((width, height), Image.Resampling.BOX), quality)


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
        frames, _ = read_frames(container, path, [(info.video_end_s or info.duration_s) / 2], 1024, 95, info)
    return _picture(io.BytesIO(frames[0]), path.name)


def _picture(file: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    with _opened(file, name, PICTURE_FORMATS) as picture:
        return upright_rgb(picture, name)


def upright_rgb(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    """What a Pillow picture shows, as RGB (H, W, 3).

    Raises:
        MediaError: more than 8 bits, which the conversion would clip to white.
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        raise MediaError("unsupported", f"{name} is a picture of mode {upright.mode}, expected 8 bits")
    return np.asarray(on_ground(upright))


@contextmanager
def _opened(file: Path | io.BytesIO, name: str, formats: frozenset[str]) -> Iterator[Image.Image]:
    """A picture within our limits, its headers read; whatever Pillow says against it becomes a MediaError."""
    try:
        with warnings.catch_warnings():
            # the limit is ours
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=sorted(formats)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise MediaError("unsupported", f"{name} has {picture.width}x{picture.height} pixels")
                yield picture
    except UnidentifiedImageError:
        raise MediaError("not_media", f"{name} is no picture in a known format") from None
    except Image.DecompressionBombError as error:
        raise MediaError("unsupported", f"{name}: {error}") from None
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:  # the last is AVIF's
        raise MediaError("corrupt", f"{name} cannot be decoded as a picture: {error}") from None
