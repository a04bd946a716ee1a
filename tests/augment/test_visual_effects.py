"""Visual effects against PIL, the parity pictures of the authors' code, and laws of their own."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from safetensors.torch import load_file
from scipy import fft

from equiav.augment.space import SpaceParams
from equiav.augment.visual import normalise, visual_space
from equiav.config import Augment
from equiav.errors import ConfigError

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "visual_augment.safetensors")
S = 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(height: int = 90, width: int = 120, seed: int = 0) -> Image.Image:
    """Smooth colours with some detail, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def tensor(*pictures: Image.Image) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures])


def params_of(space, *rows: tuple[float, ...]) -> SpaceParams:
    return SpaceParams(torch.tensor(rows), space.names)


def space_of(name: str, **options):
    return visual_space(Augment(visual={name: options}), S)


def distance(found: torch.Tensor, expected: Image.Image) -> float:
    """Mean absolute difference in 8-bit steps."""
    return float((found * 255 - tensor(expected)[0]).abs().mean())


@pytest.mark.parametrize("index", range(6))
def test_released_vectors_make_the_authors_pictures(index):
    space = visual_space(Augment(variant="released"), 224)
    vector = GOLDEN[f"t_v.{index}"][None]
    params = space.decode(vector)
    assert (space.encode(params) - vector).abs().max() < 1e-6
    found = normalise(space.apply(GOLDEN["image"].permute(2, 0, 1)[None], params))
    difference = (found[0] - GOLDEN[f"image_aug.{index}"].float()).abs().mean()
    hue_or_blur = bool(vector[0, 13] != 0) or bool(vector[0, 14] != 0)
    # PIL cuts to 8 bits after each enhancement: half a step darker each time, 0.009 on this scale
    assert difference <= (0.06 if hue_or_blur else 0.03)
    if not vector[0, 5]:
        assert difference <= 0.006, "without jitter there is hardly any rounding to differ by"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(90, 120), (200, 70), (40, 40), (64, 64)])
def test_the_plain_view_equals_pils_resize_and_centre_crop(interpolation, size):
    space = space_of("crop", interpolation=interpolation)
    frame = picture(*size)
    short = min(frame.size)
    left, top = (frame.width - short) / 2, (frame.height - short) / 2
    filter_ = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    expected = frame.resize((S, S), filter_, box=(left, top, left + short, top + short))
    assert distance(space.plain(tensor(frame))[0], expected) < 0.6
    assert torch.equal(space.plain(tensor(frame)), space.apply(tensor(frame), space.identity(1)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_equals_pils_crop_and_resize(interpolation):
    space = space_of("crop", interpolation=interpolation, of="frame")
    frame = picture()
    filter_ = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    for left, top, width, height in ((12, 9, 100, 80), (60, 30, 24, 30), (0, 0, 120, 90)):
        expected = frame.crop((left, top, left + width, top + height)).resize((S, S), filter_)
        found = space.apply(tensor(frame), params_of(space, (1.0, top / 90, left / 120, height / 90, width / 120)))
        assert distance(found[0], expected) < 0.6


def test_a_share_of_the_square_is_a_crop_of_the_plain_view():
    space = space_of("crop")
    frame = picture(90, 120)
    found = space.apply(tensor(frame), params_of(space, (1.0, 0.2, 0.1, 0.5, 0.5)))
    expected = frame.crop((15 + 9, 18, 15 + 9 + 45, 18 + 45)).resize((S, S), Image.Resampling.BILINEAR)
    assert distance(found[0], expected) < 0.6


def test_padding_and_aspect_do_not_leak_into_a_view():
    space = visual_space(Augment(), S)
    frames = [picture(90, 120), picture(120, 72), picture(100, 100)]
    sizes = torch.tensor([[f.height, f.width] for f in frames])
    padded = torch.full((3, 3, 130, 130), 255, dtype=torch.uint8)
    for row, frame in enumerate(frames):
        padded[row, :, : frame.height, : frame.width] = tensor(frame)[0]
    params = space.sample(3, seeded())
    together = space.apply(padded, params, sizes)
    for row, frame in enumerate(frames):
        alone = space.apply(tensor(frame), params[row : row + 1])
        assert (together[row] - alone[0]).abs().max() < 1e-5
        assert (space.plain(padded, sizes)[row] - space.plain(tensor(frame))[0]).abs().max() < 1e-5


def test_bytes_and_floats_are_the_same_frame():
    space = visual_space(Augment(), S)
    frame = tensor(picture())
    params = space.sample(1, seeded())
    assert torch.equal(space.apply(frame, params), space.apply(frame.float() / 255, params))


JITTER = ("brightness", "contrast", "saturation", "hue")


def pil_effect(image: Image.Image, effect: int, amount: float) -> Image.Image:
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    if effect < 3:
        return enhance[effect](image).enhance(amount)
    hue, saturation, value = (np.array(band) for band in image.convert("HSV").split())
    turned = hue.astype(np.int64) + int(amount * 255)
    bands = [Image.fromarray(band.astype(np.uint8)) for band in (turned % 256, saturation, value)]
    return Image.merge("HSV", bands).convert("RGB")


@pytest.mark.parametrize(
    ("effect", "amount"), [(0, 0.6), (0, 1.4), (1, 0.6), (1, 1.4), (2, 0.6), (2, 1.4), (3, -0.1), (3, 0.1)]
)
def test_each_colour_effect_equals_pils(effect, amount):
    space = space_of("jitter")
    image = picture(S, S)
    amounts = [1.0, 1.0, 1.0, 0.0]
    amounts[effect] = amount
    found = space.apply(tensor(image), params_of(space, (1.0, 0.0, 1.0, 2.0, 3.0, *amounts)))
    # one rounding down to 8 bits, and for the hue a colour circle of 256 steps
    assert distance(found[0], pil_effect(image, effect, amount)) < (2.0 if effect == 3 else 0.7)


@pytest.mark.parametrize("seed", range(6))
def test_effects_come_in_the_order_of_the_set(seed):
    space = space_of("jitter", p=1.0)
    image = picture(S, S, seed)
    params = space.sample(1, seeded(seed))
    expected = image
    amounts = [float(params.column(f"jitter.{name}")) for name in JITTER]
    for position in ("first", "second", "third", "fourth"):
        effect = int(params.column(f"jitter.{position}"))
        expected = pil_effect(expected, effect, amounts[effect])
    assert distance(space.apply(tensor(image), params)[0], expected) < 3.0


def test_a_full_turn_of_the_hue_changes_nothing():
    space = space_of("jitter")
    image = tensor(picture(S, S)).float() / 255
    half = params_of(space, (1.0, 0.0, 1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 0.5))
    assert (space.apply(space.apply(image, half), half) - image).abs().max() < 1e-5


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_equals_pils_gaussian(sigma):
    space = space_of("blur")
    image = picture(S, S)
    found = space.apply(tensor(image), params_of(space, (1.0, sigma)))
    assert distance(found[0], image.filter(ImageFilter.GaussianBlur(sigma))) < 1.0


def test_flips_and_grayscale_equal_pils():
    image = picture(S, S)
    cases = {
        "flip": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "vertical_flip": image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        "grayscale": image.convert("L").convert("RGB"),
    }
    for name, expected in cases.items():
        space = space_of(name)
        assert distance(space.apply(tensor(image), params_of(space, (1.0,)))[0], expected) < 0.6, name


def test_rotation_turns_as_pils():
    space = space_of("rotation")
    image = picture(S, S)
    found = space.apply(tensor(image), params_of(space, (1.0, 25.0)))[0]
    expected = tensor(image.rotate(25.0, Image.Resampling.BILINEAR))[0]
    inside = (slice(None), slice(16, 48), slice(16, 48))
    assert (found[inside] * 255 - expected[inside]).abs().mean() < 0.7
    assert found[:, 0, 0].abs().max() == 0


def test_perspective_keeps_the_middle_and_shrinks_the_far_edge():
    space = space_of("perspective")
    across = torch.linspace(0, 1, S).expand(1, 3, S, S).contiguous()
    found = space.apply(across, params_of(space, (1.0, 0.25, 0.0)))
    centre = (torch.arange(S) * 2 + 1) / S - 1
    expected = centre / (1 + 0.25 * centre)
    expected_value = ((expected + 1) * S / 2 - 0.5) / (S - 1)
    # on the middle row, which the tilt does not move up or down
    shown = expected.abs() < 1 - 1.5 / S
    assert torch.allclose(found[0, 0, S // 2][shown], expected_value[shown], atol=1e-5)


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_jpeg_quantises_as_pils_encoder(quality):
    space = space_of("jpeg")
    noisy = np.array(picture(S, S)).astype(np.int64) + np.random.default_rng(0).integers(-20, 21, (S, S, 3))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    encoded = Image.open(buffer)
    found = space.apply(tensor(image), params_of(space, (1.0, float(quality))))[0]
    loss, expected_loss = distance(found, image), distance(tensor(encoded)[0] / 255, image)
    # PIL's colours are whole numbers before the DCT, which tips some coefficients into the next step
    assert loss == pytest.approx(expected_loss, rel=0.02)
    assert distance(found, encoded) < 0.5 * loss
    assert (found - naive_jpeg(image, encoded.quantization)).abs().max() < 1e-3  # type: ignore[attr-defined]


def naive_jpeg(image: Image.Image, tables: dict[int, list[int]]) -> torch.Tensor:
    """Block by block with scipy's DCT and the encoder's own tables."""
    rgb = np.array(image).astype(np.float64)
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = rgb @ to_ycc.T - [128, 0, 0]
    for channel in range(3):
        table = np.array(tables[min(channel, 1)]).reshape(8, 8)
        for top in range(0, S, 8):
            for left in range(0, S, 8):
                block = fft.dctn(ycc[top : top + 8, left : left + 8, channel], norm="ortho")
                ycc[top : top + 8, left : left + 8, channel] = fft.idctn((block / table).round() * table, norm="ortho")
    return torch.from_numpy(((ycc + np.array([128, 0, 0])) @ np.linalg.inv(to_ycc).T / 255).clip(0, 1)).permute(2, 0, 1)


def test_cutout_covers_its_square_only():
    space = space_of("cutout")
    image = torch.rand(1, 3, S, S, generator=seeded())
    found = space.apply(image, params_of(space, (1.0, 0.25, 0.5, 0.25)))
    assert (found[:, :, 16:32, 32:48] == 0.5).all()
    changed = (found != image).any(1)[0]
    assert int(changed.sum()) == 16 * 16


def test_two_views_compose_to_one():
    space = visual_space(Augment(visual={"crop": {"scale": [0.5, 1.0]}, "flip": {}, "grayscale": {}}), S)
    frame = tensor(picture(S, S)).repeat(12, 1, 1, 1).float() / 255
    first, then = space.sample(12, seeded(1)), space.sample(12, seeded(2))
    both = space.apply(frame, space.compose(first, then))
    # resampling once and twice differ by the blur of one resampling
    assert (both - space.apply(space.apply(frame, first), then)).abs().mean() < 0.01


def test_views_that_do_not_compose_are_an_error():
    space = visual_space(Augment(), S)
    with pytest.raises(ConfigError, match=r"also on: .*jitter"):
        space.compose(space.sample(8, seeded()), space.identity(8))
    of_frame = space_of("crop", of="frame")
    with pytest.raises(ConfigError, match="shares of the square"):
        of_frame.compose(of_frame.identity(1), of_frame.identity(1))
