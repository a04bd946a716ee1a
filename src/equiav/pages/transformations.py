"""What every transform does to one clip: each slot at its low, neutral and high value, on one self-contained page.

    spectrogram (T, M), frame (3, H, W), the two spaces -> HTML text, pictures inlined

A transform stands alone: the others are at identity. Its own other slots are where a median draw puts them (every
uniform at one half), so that a crop is seen moving and a mask has a width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from equiav.augment.audio import AudioSpace
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.transform import Slot
from equiav.augment.visual import VisualSpace
from equiav.diagnose.branch import along, median
from equiav.errors import ConfigError
from equiav.pages.pictures import mel_uri, picture_uri
from equiav.pages.render import render

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

ENDS = ("low", "neutral", "high")


def augment_gallery(
    audio: Float[Tensor, "T M"] | Float[np.ndarray, "T M"],
    frame: UInt8[Tensor, "3 H W"] | UInt8[np.ndarray, "3 H W"],
    audio_space: AudioSpace,
    visual_space: VisualSpace,
    title: str = "What the transformations do",
) -> str:
    """The page of `equiav augment-gallery`.

    Args:
        audio: standardised log-mel of the clip.
        frame: one of its frames.
        audio_space: transforms of sound to show.
        visual_space: transforms of pictures to show.
        title: heading of the page.

    Returns:
        A complete HTML document that fetches nothing.

    Raises:
        ConfigError: the spectrogram is not of the space's size, or the frame is no (3, H, W) bytes.
    """
    sound, picture = torch.as_tensor(audio).float(), torch.as_tensor(frame)
    if picture.ndim != 3 or picture.dtype != torch.uint8:
        raise ConfigError(f"expected a frame (3, H, W) of bytes, found {picture.dtype} {tuple(picture.shape)}")
    modalities = [
        _modality("Sound", audio_space, sound, mel_uri),
        _modality("Picture", visual_space, picture, picture_uri),
    ]
    return render("gallery.html.jinja", {"rule": _rule}, title=title, modalities=modalities)


def _modality(title: str, space: AugmentationSpace, plain: Tensor, uri: Callable[[Tensor], str]) -> dict[str, Any]:
    """What the page shows of one modality; a card per transform, whose rows are (slot, pictures)."""

    def pictures(params: SpaceParams) -> list[str]:
        return [uri(view) for view in space.apply(plain.expand(len(params), *plain.shape), params)]

    untouched = pictures(space.identity(1))[0]
    cards = []
    for transform in space.transforms:
        flag, *slots = transform.slots
        (on,) = pictures(median(space.identity(1), transform))
        rows = [(flag, [("off", f"{flag.off:g}", untouched), ("on", "1", on)])]
        for slot in slots:
            name, values = f"{transform.name}.{slot.name}", torch.tensor([slot.low, slot.neutral, slot.high])
            params = along(space, space.identity(1), transform, slot.name, values)
            captions = [f"{at} {x:.3g}" for at, x in zip(ENDS, params.column(name).tolist(), strict=True)]
            codes = [f"{code:.2f}" for code in space.encode(params)[:, space.names.index(name)].tolist()]
            rows.append((slot, list(zip(captions, codes, pictures(params), strict=True))))
        effect = (transform.__doc__ or "").strip().splitlines()[0]
        cards.append({"name": transform.name, "effect": effect, "probability": transform.options.p, "rows": rows})
    return {"title": title, "size": space.size, "plain": untouched, "cards": cards}


def _rule(slot: Slot) -> str:
    """How a value becomes a code."""
    zero = f" − {slot.zero:.3g}" if slot.zero else ""
    return f"(value{zero}) / {slot.one:.3g}" if slot.one != 1 or zero else "value"
