"""Picture files: tiles, orientation, transparency, high range, large and damaged metadata."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from equiav.errors import MediaError
from equiav.media.decode import load_image, upright_rgb
from equiav.media.probe import REASONS
from equiav.media.stills import probe_picture, read_picture
from stills import tiled
from tapes import record

COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (250, 250, 20), (20, 250, 250), (130, 130, 130)]


def of_six_colours(tile=128):
    """Two rows of three squares of a colour each."""
    return np.kron(np.array(COLOURS, np.uint8).reshape(2, 3, 3), np.ones((tile, tile, 1), np.uint8))


def saved(picture, kind, **options) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **options)
    return file.getvalue()


def reason_of(call, *arguments):
    with pytest.raises(MediaError) as error:
        call(*arguments)
    return error.value.reason


def apart(one, other):
    return np.abs(one.astype(int) - other).mean()


@pytest.fixture(scope="module")
def grids():
    """One picture of 2 x 3 tiles in each codec."""
    return {kind: tiled(of_six_colours(), kind) for kind in ("hvc1", "av01")}


@pytest.mark.parametrize("kind", ["hvc1", "av01"])
@pytest.mark.parametrize("name", ["x.heic", "x.avif", "x.hif", "x.jpg", "x.mp4", "x"])
def test_a_picture_made_of_tiles_is_read_whole_whatever_its_name(tmp_path, grids, kind, name):
    path = tmp_path / name
    path.write_bytes(grids[kind])
    info = probe_picture(path)
    assert (info.picture, info.width, info.height) == (True, 384, 256)
    assert apart(load_image(path), of_six_colours()) < 2
    assert np.array_equal(load_image(grids[kind]), load_image(path))
    assert Image.open(io.BytesIO(read_picture(path, 64, 90))).size == (96, 64)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_once_whoever_says_it(kind):
    """HEIC and AVIF say it in the container and in EXIF; other formats in EXIF alone."""
    stored = of_six_colours(32)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(saved(stored, "PNG", exif=exif)))))
        shown = load_image(saved(stored, kind, exif=exif.tobytes()))
        assert shown.shape == upright.shape
        assert apart(shown, upright) < 12


@pytest.mark.parametrize("kind", ["hvc1", "av01"])
def test_a_picture_in_tiles_that_is_cut_is_corrupt_and_never_a_video_of_a_tile(tmp_path, grids, kind):
    whole, path = grids[kind], tmp_path / "x.heic"
    for share in (0.02, 0.1, 0.3, 0.6, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert reason_of(probe_picture, path) == "corrupt"
        assert reason_of(load_image, path) == "corrupt"


@pytest.mark.parametrize("kind", ["hvc1", "av01"])
def test_what_telephones_put_behind_a_picture_does_not_matter(grids, kind):
    for behind in (b"\xff" * 100, b"\0" * 100, struct.pack(">I4s", 1 << 30, b"mpvd") + bytes(50)):
        assert apart(load_image(grids[kind] + behind), of_six_colours()) < 2


@pytest.mark.parametrize("kind", ["hvc1", "av01"])
@pytest.mark.parametrize("side", [20_000, 60_000])
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, grids, kind, side):
    path = tmp_path / "x.heic"
    path.write_bytes(grids[kind].replace(struct.pack(">II", 384, 256), struct.pack(">II", side, side)))
    assert reason_of(probe_picture, path) == "unsupported"
    assert reason_of(load_image, path) == "unsupported"


def test_a_sequence_of_pictures_without_one_of_its_own_is_refused_by_name(tmp_path):
    path = record(tmp_path / "x.mp4", audio=False)
    path.write_bytes(path.read_bytes().replace(b"ftypisom", b"ftypmsf1"))
    with pytest.raises(MediaError, match="sequence") as error:
        probe_picture(path)
    assert error.value.reason == "unsupported"


def test_damage_of_a_heic_or_avif_has_a_reason(tmp_path, grids):
    """Changed bytes in the headers and the data: a picture, or a MediaError."""
    rng, path, reasons = np.random.default_rng(0), tmp_path / "x.heic", set()
    for whole in grids.values():
        for number in range(30):
            data = bytearray(whole)
            for at in rng.integers(0, len(data) if number % 2 else 700, 6):
                data[at] = rng.integers(256)
            path.write_bytes(data)
            try:
                probe_picture(path)
                load_image(path)
            except MediaError as error:
                reasons.add(error.reason)
    assert reasons
    assert reasons <= set(REASONS)


@pytest.mark.parametrize("kind", ["hvc1", "av01"])
@pytest.mark.parametrize(("curve", "shown"), [(16, 226), (18, 226)])
def test_a_picture_of_high_range_shows_paper_nearly_white(kind, curve, shown):
    """Paper is 58 % of PQ and 75 % of HLG; the libraries give these codes as they are."""
    code = {16: 0.5807, 18: 0.75}[curve]
    paper = np.full((128, 256, 3), round(255 * code), np.uint8)
    assert load_image(tiled(paper, kind, colour=(9, curve, 9))).mean() == pytest.approx(shown, abs=4)
    assert load_image(tiled(paper, kind, colour=(1, 1, 1))).mean() == pytest.approx(round(255 * code), abs=3)


def test_a_ten_bit_heic_of_high_range_is_shown_as_well():
    import pillow_heif

    codes = np.full((64, 64, 3), round(65_535 * 0.5807), np.uint16)
    file, picture = io.BytesIO(), pillow_heif.from_bytes(mode="RGB;16", size=(64, 64), data=codes.tobytes())
    picture.save(file, color_primaries=9, transfer_characteristics=16, matrix_coefficients=9, full_range_flag=1)
    assert load_image(file.getvalue()).mean() == pytest.approx(226, abs=4)
    assert upright_rgb(Image.open(file), "x").mean() == pytest.approx(226, abs=4)


def with_chunk(png: bytes, kind: bytes, content: bytes, before: bytes) -> bytes:
    at = png.index(before) - 4
    return png[:at] + chunk(kind, content) + png[at:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
LARGE = {
    "zTXt": b"workflow\0\0" + zlib.compress(b"x" * 5_000_000),
    "tEXt": b"workflow\0" + b"x" * 80_000_000,
    "iTXt": b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 5_000_000),
    "iCCP": b"profile\0\0" + zlib.compress(bytes(5_000_000)),
    "eXIf": b"MM\0*\0\0\0\x08" + bytes(5_000_000),
}
LARGE["zTXt of XMP"] = b"XML:com.adobe.xmp\0\0" + zlib.compress(b"x" * 5_000_000)
LARGE["iTXt of XMP"] = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 5_000_000)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_a_png_with_large_metadata_is_read(tmp_path, name, before):
    path = tmp_path / "x.png"
    path.write_bytes(with_chunk(saved(NOISE, "PNG"), name[:4].encode(), LARGE[name], before))
    tracemalloc.start()
    assert np.array_equal(load_image(path), NOISE)
    assert probe_picture(path).width == 80
    assert tracemalloc.get_traced_memory()[1] < 4_000_000  # bytes, though the file has up to 80 MB
    tracemalloc.stop()


def test_a_png_whose_metadata_is_damaged_or_cut_behind_its_pixels_is_read():
    plain = saved(NOISE, "PNG")
    damaged = bytearray(with_chunk(plain, b"tEXt", b"comment\0hello", b"IDAT"))
    damaged[damaged.index(b"hello")] ^= 1
    not_zlib = with_chunk(plain, b"zTXt", b"comment\0\0no compressed text", b"IDAT")
    cut = with_chunk(plain, b"tEXt", b"comment\0" + b"x" * 1000, b"IEND")
    for data in (bytes(damaged), not_zlib, cut[: cut.index(b"x" * 1000) + 9], plain[:-12], plain + b"garbage" * 9):
        assert np.array_equal(load_image(data), NOISE)
    assert reason_of(load_image, plain[: len(plain) // 2]) == "corrupt"
    assert reason_of(load_image, plain[: len(plain) // 2] + plain[-12:]) == "corrupt"


def test_a_png_is_turned_by_exif_behind_its_pixels_and_by_what_older_programs_write():
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    hexadecimal = f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for kind, content in (
        (b"eXIf", raw.removeprefix(b"Exif\0\0")),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal)),
        (b"tEXt", b"Raw profile type exif\0" + hexadecimal),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ):
        for before in (b"IDAT", b"IEND"):
            turned = load_image(with_chunk(saved(NOISE, "PNG"), kind, content, before))
            assert np.array_equal(turned, np.rot90(NOISE, k=-1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_plain_png_is_what_pillow_gives(mode):
    png = saved(Image.fromarray(NOISE).convert(mode), "PNG", optimize=True)
    assert np.array_equal(load_image(png), np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))


def test_a_png_that_is_an_animation_gives_its_picture():
    frames = [Image.fromarray(np.roll(NOISE, 7 * i, axis=1)) for i in range(4)]
    assert np.array_equal(load_image(saved(frames[0], "PNG", save_all=True, append_images=frames[1:])), NOISE)


def test_a_png_in_high_range_is_brought_to_a_screen():
    paper = saved(np.full((8, 8, 3), round(255 * 0.5807), np.uint8), "PNG")
    assert load_image(with_chunk(paper, b"cICP", bytes([9, 16, 0, 1]), b"IDAT")).mean() == pytest.approx(226, abs=2)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_large_and_damaged_metadata_of_other_formats_costs_no_picture(kind):
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}, "TIFF": {}}[kind]
    plain = load_image(saved(NOISE, kind, **options))
    large = {"icc_profile": bytes(3_000_000)} | ({} if kind == "TIFF" else {"xmp": b"x" * 60_000})
    assert np.array_equal(load_image(saved(NOISE, kind, **options, **large)), plain)
    if kind != "TIFF":
        for exif in (b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\x12\0\3"):
            assert np.array_equal(load_image(saved(NOISE, kind, **options, exif=exif)), plain)


def cut_out(mode, ink):
    """A square of a grey on transparent ground, whose hidden pixels have the same grey."""
    picture = Image.new("RGBA", (40, 40), (ink, ink, ink, 0))
    picture.paste((ink, ink, ink, 255), (10, 10, 30, 30))
    if mode in ("RGBA", "LA"):
        return picture.convert(mode)
    if mode in ("RGBa", "La"):
        return picture.convert(mode[:-1] + "A").convert(mode)
    opaque = picture.convert("L")
    opaque.paste(77, mask=ImageOps.invert(picture.getchannel("A")))  # 77 is to be transparent
    opaque = opaque.convert(mode)
    opaque.info["transparency"] = (77, 77, 77) if mode == "RGB" else 77 if mode == "L" else opaque.getpixel((0, 0))
    return opaque


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "P", "L", "RGB"])
@pytest.mark.parametrize(("ink", "ground"), [(10, 255), (100, 255), (150, 0), (245, 0)])
def test_a_cut_out_can_be_seen_on_its_ground(mode, ink, ground):
    shown = upright_rgb(cut_out(mode, ink), "x")
    assert (shown[15:25, 15:25] == ink).all()
    assert (shown[:5] == ground).all()


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {}),
        ("PNG", "L", {}),
        ("PNG", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("GIF", "P", {}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "LA", {}),
        ("AVIF", "RGBA", {"quality": 95}),
        ("HEIF", "RGBA", {"quality": 95}),
    ],
)
@pytest.mark.parametrize(("ink", "ground"), [(10, 255), (245, 0)])
def test_a_cut_out_in_a_file_can_be_seen_on_its_ground(kind, mode, options, ink, ground):
    shown = load_image(saved(cut_out(mode, ink), kind, **options)).astype(int)
    assert np.abs(shown[15:25, 15:25] - ink).max() <= 6
    assert np.abs(shown[:5] - ground).max() <= 3


def test_the_ground_is_chosen_by_what_is_visible_and_partly_opaque_pixels_are_mixed_with_it():
    picture = np.full((20, 20, 4), (255, 255, 255, 0), np.uint8)  # much of it white, and hidden
    picture[:5] = (0, 0, 0, 128)
    shown = upright_rgb(Image.fromarray(picture), "x")
    assert (shown[10:] == 255).all()
    assert np.abs(shown[:5].astype(int) - 127).max() <= 1
    assert (upright_rgb(Image.new("RGBA", (4, 4)), "x") == 255).all()  # nothing is visible


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB", "1", "CMYK", "YCbCr"])
def test_an_opaque_picture_stays_as_it_is(mode):
    picture = Image.fromarray(NOISE).convert("RGBA" if mode == "RGBA" else mode.replace("PA", "P").replace("LA", "L"))
    picture = picture.convert(mode)
    assert np.array_equal(upright_rgb(picture, "x"), np.asarray(picture.convert("RGB")))
    if mode in ("L", "RGB", "P"):
        picture.info["transparency"] = {"L": 256, "RGB": (300, 300, 300), "P": b"\xff" * 256}[mode]
        assert np.array_equal(upright_rgb(picture, "x"), np.asarray(picture.convert("RGBA").convert("RGB")))


def test_a_text_of_an_image_generator_in_pillows_own_writing_is_no_hindrance():
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 2_000_000, zip=True)
    assert np.array_equal(load_image(saved(NOISE, "PNG", pnginfo=info)), NOISE)
