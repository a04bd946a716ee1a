"""The page of transformations: complete, self-contained, and each picture shows what its caption says."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from equiav.augment import audio, visual
from equiav.augment.audio import audio_space
from equiav.augment.visual import visual_space
from equiav.config import Augment
from equiav.errors import ConfigError
from equiav.pages.transformations import augment_gallery

T, M, S = 64, 32, 32


class Images(HTMLParser):
    """Collects alt texts and sources."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "img":
            self.found[values["alt"]] = values["src"]

    def array(self, alt: str) -> np.ndarray:
        data = base64.b64decode(self.found[alt].partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def clip() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    frame = torch.nn.functional.interpolate(coarse, size=(48, 64), mode="bilinear")[0]
    return torch.randn(T, M, generator=generator), (frame * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def spaces():
    settings = Augment(audio={name: {} for name in audio.KNOWN}, visual={name: {} for name in visual.KNOWN})
    return audio_space(settings, T, M), visual_space(settings, S)


@pytest.fixture(scope="module")
def page(spaces):
    return augment_gallery(*clip(), *spaces, title="A <b>clip</b>")


def test_every_slot_is_shown_low_neutral_and_high(page, spaces):
    alts = list(Images(page).found)
    for space in spaces:
        for slot in space.names:
            transform, _, name = slot.partition(".")
            modality = "Sound" if space.modality == "audio" else "Picture"
            shown = [alt for alt in alts if re.match(rf"{modality}, {transform}: {name} ", alt)]
            words = ("off", "on") if name == "on" else ("low", "neutral", "high")
            assert all(any(word in alt for alt in shown) for word in words), slot


def test_the_page_is_self_contained_and_escapes(page):
    assert page.startswith("<!doctype html>")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "A &lt;b&gt;clip&lt;/b&gt;" in page
    assert "<script" not in page


def test_pictures_show_what_the_caption_says(page):
    images = Images(page)
    untouched = images.array("Picture, untouched")
    flipped = images.array("Picture, flip: on on")
    # both went through JPEG
    assert abs(flipped - untouched[:, ::-1]).mean() < 3
    assert abs(flipped - untouched).mean() > 10
    grey = images.array("Picture, grayscale: on on")
    assert abs(grey - grey.mean(2, keepdims=True)).max() <= 2
    reversed_sound = images.array("Sound, reverse: on on")
    assert abs(reversed_sound - images.array("Sound, untouched")[:, ::-1]).mean() < 3


def test_numpy_goes_in_and_wrong_inputs_are_an_error(spaces):
    sound, frame = clip()
    small = (audio_space(Augment(audio={"gain": {}}), T, M), visual_space(Augment(visual={"flip": {}}), S))
    assert augment_gallery(sound.numpy(), frame.numpy(), *small) == augment_gallery(sound, frame, *small)
    with pytest.raises(ConfigError, match="bytes"):
        augment_gallery(sound, frame.float(), *small)
    with pytest.raises(ConfigError, match="expected log-mel"):
        augment_gallery(sound.T, frame, *small)


def test_the_released_spaces_can_be_shown():
    settings = Augment(variant="released")
    page = augment_gallery(*clip(), audio_space(settings, T, M), visual_space(settings, S))
    assert "24 slots in all" in page
    assert "18 slots in all" in page
