"""PQ, HLG and BT.2020 on a BT.709 screen."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from equiav.media.decode import read_frames
from equiav.media.hdr import to_sdr
from equiav.media.probe import open_media

PQ, HLG, SDR, BT709, BT2020, P3 = 16, 18, 1, 1, 9, 12
# ITU-R BT.2087, table 1 (rounded): linear BT.709 → BT.2020
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
OF_BT2020 = np.array([0.2627, 0.6780, 0.0593])


def pq(nits):
    """ITU-R BT.2100, table 4: light (cd/m²) → signal in [0, 1]."""
    power = (np.asarray(nits) / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(nits):
    """Light (..., 3) of a screen with full white of 1000 cd/m² → signal, ITU-R BT.2100, table 5."""
    light = np.asarray(nits) / 1000
    scene = light * np.maximum(light @ OF_BT2020, 1e-9)[..., None] ** (1 / 1.2 - 1)
    log = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), log)


def shown(signal, curve, primaries=BT2020):
    """Signals (N, 3) in [0, 1] → RGB (N, 3) in [0, 255]."""
    codes = np.rint(65_535 * np.asarray(signal)).astype(np.uint16)
    return to_sdr(codes[None], curve, primaries)[0].astype(int)


def greys(nits):
    return np.repeat(np.asarray(nits, float)[:, None], 3, axis=1)


@pytest.mark.parametrize(("curve", "signal"), [(PQ, pq), (HLG, hlg)])
def test_greys_below_half_of_reference_white_come_out_as_a_screens(curve, signal):
    """A screen shows code v as v^2.4 of its white; reference white is 203 cd/m²."""
    codes = np.arange(0, 191, 5)
    seen = shown(signal(greys(203 * (codes / 255) ** 2.4)), curve)
    assert np.abs(seen - codes[:, None]).max() <= 1


@pytest.mark.parametrize(("curve", "signal", "most"), [(PQ, pq, 10_000), (HLG, hlg, 1000)])
def test_highlights_are_pressed_together_but_not_cut_off(curve, signal, most):
    """White of paper is 75 % of HLG and 58 % of PQ, and nearly white; what is brighter is brighter still."""
    nits = np.geomspace(100, most, 24)
    seen = shown(signal(greys(nits)), curve)
    assert (np.ptp(seen, axis=1) <= 1).all()
    assert (np.diff(seen[:, 0]) >= 0).all()
    assert (np.diff(seen[nits < 900, 0]) > 0).all()
    paper = shown(signal(greys([203])), curve)[0, 0]
    assert 215 <= paper <= 235
    assert seen[-1, 0] >= 248


def test_pq_and_hlg_of_the_same_light_look_the_same():
    light = np.random.default_rng(0).uniform(1, 330, (300, 3))
    assert np.abs(shown(pq(light), PQ) - shown(hlg(light), HLG)).max() <= 1


def test_a_colour_of_bt709_inside_bt2020_keeps_its_code_and_a_bright_one_its_hue():
    codes = np.random.default_rng(1).integers(0, 180, (200, 3))
    light = (codes / 255) ** 2.4
    assert np.abs(shown(pq(203 * light @ TO_BT2020.T), PQ) - codes).max() <= 3
    orange = (np.array([[200, 120, 40]]) / 255) ** 2.4
    for times in (2, 10, 40):
        seen = (shown(pq(203 * times * orange @ TO_BT2020.T), PQ)[0] / 255) ** 2.4
        assert seen / seen[0] == pytest.approx(orange[0] / orange[0, 0], abs=0.02)


def test_a_colour_that_no_bt709_screen_has_becomes_paler_and_stays_what_it_was():
    red, green, blue = shown(pq(50 * np.eye(3)), PQ)
    assert red.argmax() == 0
    assert green.argmax() == 1
    assert blue.argmax() == 2
    assert min(red[0], green[1], blue[2]) > 90
    for seen in (red, green, blue):
        assert (np.sort(seen)[:2] < 0.7 * seen.max()).all()


def test_wide_gamut_without_high_range_is_changed_in_gamut_alone():
    codes = np.random.default_rng(2).integers(0, 256, (200, 3))
    wide = ((codes / 255) ** 2.4 @ TO_BT2020.T) ** (1 / 2.4)
    assert np.abs(shown(wide, SDR) - codes).max() <= 6  # the published matrix has four digits, dark codes are steep
    assert np.abs(shown(wide, SDR) - codes).mean() < 0.6
    assert (shown(greys([1.0]), SDR) == 255).all()


def test_the_primaries_in_the_header_count():
    """The same signal is a purer colour in BT.2020 than in Display P3, and purer there than in BT.709."""
    signal = pq(np.array([[60.0, 20.0, 20.0]]))
    purity = [np.ptp(shown(signal, PQ, primaries)[0]) for primaries in (BT709, P3, BT2020)]
    assert purity == sorted(purity)
    assert purity[0] < purity[1] < purity[2]
    assert (shown(signal, PQ, 2) == shown(signal, PQ, BT2020)).all()  # not said


def write_hevc(path, signal, curve, primaries, matrix):
    """A grey ramp (W,) in [0, 1] as 10-bit HEVC of limited range; names are x265's."""
    luma = np.tile(np.rint((16 + 219 * signal) * 4).astype("<u2"), (64, 1))
    tags = f"log-level=none:colorprim={primaries}:transfer={curve}:colormatrix={matrix}"
    options = {"crf": "6", "preset": "ultrafast", "x265-params": tags}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = len(signal), 64, "yuv420p10le"
        for _ in range(3):
            frame = av.VideoFrame(len(signal), 64, "yuv420p10le")
            for plane, values in zip(
                frame.planes, (luma, *[np.full((32, len(signal) // 2), 512, "<u2")] * 2), strict=True
            ):
                rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
                rows[:, : values.shape[1]] = values
                plane.update(rows.tobytes())
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with open_media(path) as container:
        jpeg = read_frames(container, path, [0.1], 64, 95)[0][0]
    return np.asarray(Image.open(io.BytesIO(jpeg)))[32, :, 1].astype(int)


def test_a_ramp_in_a_video_looks_as_the_one_without_high_range_does(tmp_path):
    ramp = np.linspace(0, 1, 256)
    nits = 203 * ramp**2.4
    plain = write_hevc(tmp_path / "sdr.mp4", ramp, "bt709", "bt709", "bt709")
    for name, signal in (("smpte2084", pq(nits)), ("arib-std-b67", hlg(greys(nits))[:, 0])):
        high = write_hevc(tmp_path / f"{name}.mp4", signal, name, "bt2020", "bt2020nc")
        assert np.abs(high - plain)[:190].max() <= 4
        assert 215 <= high[-1] <= 235
    assert np.abs(write_hevc(tmp_path / "wide.mp4", ramp, "bt2020-10", "bt2020", "bt2020nc") - plain).max() <= 3
