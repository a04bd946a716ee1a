"""Maps laid over frames, on one self-contained page:  Localisation → HTML text that fetches nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from equiav.evaluate.localise import KINDS, MEASURES
from equiav.pages.pictures import image_uri
from equiav.pages.render import render

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

    from equiav.evaluate.boxes import Box
    from equiav.evaluate.localise import Localisation

HEIGHT = 132  # pixels of a picture on the page
OPACITY = 0.6  # of the map over the frame
DRAWN = ("own_sound", "other_sound", "picture")


def localise_page(found: Localisation, title: str = "Where is the sound?") -> str:
    """The page of `equiav evaluate localise`: the figures, and per clip the frame and what each map makes of it."""
    return render(
        "localise.html.jinja",
        title=title,
        found=found,
        measures=list(MEASURES.values()),
        drawn={kind: KINDS[kind] for kind in DRAWN},
        overlay=overlay_uri,
    )


def overlay_uri(
    frame: UInt8[np.ndarray, "H W 3"], values: Float32[np.ndarray, "H W"] | None = None, boxes: list[Box] | None = None
) -> str:
    """A frame as data URI, a map over it from its lowest value (dark) to its highest (bright), boxes as outlines."""
    from matplotlib import colormaps

    pixels = frame.astype(np.float64)
    if values is not None:
        low, high = np.nanmin(values), np.nanmax(values)
        seen = np.isfinite(values)
        colour = 255 * colormaps["inferno"]((values[seen] - low) / max(high - low, 1e-12))[:, :3]
        pixels[seen] += OPACITY * (colour - pixels[seen])
    width = round(HEIGHT * frame.shape[1] / frame.shape[0])
    image = Image.fromarray(pixels.round().astype(np.uint8)).resize((width, HEIGHT), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in boxes or []:
        outline = (x0 * (width - 1), y0 * (HEIGHT - 1), x1 * (width - 1), y1 * (HEIGHT - 1))
        draw.rectangle(outline, outline="black", width=3)
        draw.rectangle(outline, outline="white", width=1)
    return image_uri(image, "JPEG")
