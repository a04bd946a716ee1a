"""What every transform does to one clip: each slot at its low, neutral and high value, on one self-contained page.

    spectrogram (T, M), frame (3, H, W), the two spaces -> HTML text, pictures inlined

A transform stands alone: the others are at identity. Its own other slots are where a median draw puts them (every
uniform at one half), so that a crop is seen moving and a mask has a width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from equiav._version import __version__
from equiav.augment.audio import AudioSpace
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.transform import Slot, Transform
from equiav.augment.visual import VisualSpace
from equiav.errors import ConfigError
from equiav.pages.pictures import mel_uri, picture_uri
from equiav.pages.render import render

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class _Shown:
    """One picture and what was done: the slot's value in words and its code in psi(t)."""

    caption: str
    code: str
    picture: str


@dataclass(frozen=True)
class _SlotRow:
    slot: Slot
    code: str
    shown: list[_Shown]


@dataclass(frozen=True)
class _TransformCard:
    name: str
    effect: str
    probability: str
    rows: list[_SlotRow]


@dataclass(frozen=True)
class _Modality:
    title: str
    size: int
    plain: str
    cards: list[_TransformCard]


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
        _modality(
            "Sound", audio_space, lambda params: audio_space.apply(sound.expand(len(params), -1, -1), params), mel_uri
        ),
        _modality(
            "Picture",
            visual_space,
            lambda params: visual_space.apply(picture.expand(len(params), -1, -1, -1), params),
            picture_uri,
        ),
    ]
    return render("gallery.html.jinja", title=title, modalities=modalities, version=__version__)


def _modality(
    title: str, space: AugmentationSpace, apply: Callable[[SpaceParams], Tensor], picture: Callable[[Tensor], str]
) -> _Modality:
    plain = picture(apply(space.identity(1))[0])
    cards = [_card(space, transform, apply, picture, plain) for transform in space.transforms]
    return _Modality(title, space.size, plain, cards)


def _card(
    space: AugmentationSpace,
    transform: Transform,
    apply: Callable[[SpaceParams], Tensor],
    picture: Callable[[Tensor], str],
    plain: str,
) -> _TransformCard:
    """All slots of one transform; the first is its flag."""
    typical = space.only(transform.name).from_uniforms(torch.full((1, space.uniforms), 0.5))
    typical = typical.replace(f"{transform.name}.on", 1.0)
    typical = _with_middle(transform, typical)
    on = picture(apply(typical)[0])
    flag, *slots = transform.slots
    rows = [_SlotRow(flag, _code(flag), [_Shown("off", f"{flag.off:g}", plain), _Shown("on", "1", on)])]
    for slot in slots:
        values = {"low": slot.low, "neutral": slot.neutral, "high": slot.high}
        params = [typical.replace(f"{transform.name}.{slot.name}", value) for value in values.values()]
        batch = SpaceParams(torch.cat([one.values for one in params]), space.names)
        # a low end may not go with the other slots: a box must stay inside, an order complete
        batch = space.decode(space.encode(batch))
        codes = space.encode(batch)[:, space.names.index(f"{transform.name}.{slot.name}")].tolist()
        found = batch.column(f"{transform.name}.{slot.name}").tolist()
        views = apply(batch)
        rows.append(
            _SlotRow(
                slot,
                _code(slot),
                [
                    _Shown(f"{name} {value:.3g}", f"{code:.2f}", picture(view))
                    for name, value, code, view in zip(values, found, codes, views, strict=True)
                ],
            )
        )
    effect = (transform.__doc__ or "").strip().splitlines()[0]
    return _TransformCard(transform.name, effect, f"{transform.options.p:g}", rows)


def _with_middle(transform: Transform, typical: SpaceParams) -> SpaceParams:
    """A median draw of the transform's slots, also where the median coin leaves it off."""
    drawn = transform.draw(torch.full((1, transform.uniforms), 0.5))
    for slot, column in zip(transform.slots[1:], drawn[0, 1:], strict=True):
        typical = typical.replace(f"{transform.name}.{slot.name}", column)
    return typical


def _code(slot: Slot) -> str:
    """How a value becomes a code."""
    zero = f" − {slot.zero:.3g}" if slot.zero else ""
    return f"(value{zero}) / {slot.one:.3g}" if slot.one != 1 or zero else "value"
