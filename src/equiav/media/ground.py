"""Transparency:  a picture with holes → an opaque one, on white or black, whichever is further from what is visible.

Further from the mean grey level of its pixels, weighted by their opacity; white if both are as far, or if nothing is
visible. An opaque picture stays as it is.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

MIDDLE = 127.5


def on_ground(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    seen = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    opacity = seen.getchannel("A")
    if opacity.getextrema() == (255, 255):
        return seen.convert("RGB")
    weights = np.asarray(opacity)
    visible = int(weights.sum(dtype=np.int64))
    grey = np.einsum("hw,hw->", np.asarray(seen.convert("L")), weights, dtype=np.int64)
    bright = visible > 0 and int(grey) > MIDDLE * visible
    ground = Image.new("RGB", seen.size, "black" if bright else "white")
    ground.paste(seen, mask=opacity)
    return ground
