"""High dynamic range → what a BT.709 screen shows:  PQ, HLG or BT.2020 pixels (H, W, 3) 16 bits → RGB 8 bits.

PQ and HLG: ITU-R BT.2100. Reference white, the level of paper and of captions: 203 cd/m², ITU-R BT.2408. The curve is
the Möbius one of FFmpeg's `tonemap` and of mpv: up to `KNEE` of reference white light stays what it is, from there it
bends towards full white, which `PEAK_NITS` has. It is taken of the largest of the three colours and all are scaled by
the same factor, so hue stays.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

REFERENCE_NITS = 203.0
PEAK_NITS = 10_000.0  # what PQ can say
HLG_NITS = 1000.0  # what full HLG is on its nominal screen, whose gamma is 1.2
KNEE = 0.5
BLOCK = 2**20  # pixels
GAMMA = 2.4  # of a BT.709 screen: ITU-R BT.1886
CURVES = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
# x, y of red, green, blue; all have the white point D65
CHROMATICITIES = {
    ColorPrimaries.BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
D65 = (0.3127, 0.3290)


def is_beyond_sdr(curve: int, primaries: int) -> bool:
    """Whether pixels of this transfer curve and these primaries (FFmpeg's numbers) are other than a BT.709 screen's."""
    return curve in CURVES or primaries == ColorPrimaries.BT2020


def to_sdr(pixels: NDArray[np.uint16], curve: int, primaries: int) -> NDArray[np.uint8]:
    """RGB (H, W, 3) of 16 bits on a BT.709 screen, 8 bits; a curve that is neither PQ nor HLG is a screen's."""
    rows = max(BLOCK // pixels.shape[1], 1)  # a part at a time: floats take much memory
    return np.concatenate([_to_sdr(pixels[at : at + rows], curve, primaries) for at in range(0, len(pixels), rows)])


def _to_sdr(pixels: NDArray[np.uint16], curve: int, primaries: int) -> NDArray[np.uint8]:
    if primaries not in CHROMATICITIES:  # DCI's differ from Display P3 in the white point alone; unspecified: BT.2100's
        primaries = ColorPrimaries.SMPTE432 if primaries == ColorPrimaries.SMPTE431 else ColorPrimaries.BT2020
    light = _light(curve)[pixels]
    if curve == ColorTrc.ARIB_STD_B67:
        light *= (light @ _luminance(primaries))[..., None] ** np.float32(0.2) * np.float32(HLG_NITS / REFERENCE_NITS)
    light = light @ _to_bt709(primaries)
    # a colour that no BT.709 screen has becomes paler until it has it
    grey, least = light @ _luminance(ColorPrimaries.BT709), light.min(axis=-1)
    paler = np.where(least < 0, grey / np.maximum(grey - least, 1e-12), 1)
    light = grey[..., None] + paler[..., None] * (light - grey[..., None])
    if curve in CURVES:
        most = light.max(axis=-1)
        light *= (_bend(most) / np.maximum(most, 1e-12))[..., None]
    return np.rint(255 * np.clip(light, 0, 1) ** np.float32(1 / GAMMA)).astype(np.uint8)


@cache
def _light(curve: int) -> NDArray[np.float32]:
    """Of each 16-bit code the light: of PQ in parts of reference white, of HLG before the screen's gamma, in [0, 1]."""
    code = np.arange(2**16) / (2**16 - 1)
    if curve == ColorTrc.SMPTE2084:
        root = code ** (32 / 2523)
        nits = PEAK_NITS * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)
        return (nits / REFERENCE_NITS).astype(np.float32)
    if curve == ColorTrc.ARIB_STD_B67:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)
    return (code**GAMMA).astype(np.float32)


def _bend(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light in parts of reference white → in parts of a screen's white."""
    peak = PEAK_NITS / REFERENCE_NITS
    a = -(KNEE**2) * (peak - 1) / (KNEE**2 - 2 * KNEE + peak)
    b = (KNEE**2 - 2 * KNEE * peak + peak) / (peak - 1)
    scale = (b**2 + 2 * b * KNEE + KNEE**2) / (b - a)
    return np.where(light > KNEE, scale * (light + a) / (light + b), light).astype(np.float32)


@cache
def _to_xyz(primaries: int) -> NDArray[np.float64]:
    """RGB as a row → CIE XYZ, white having Y = 1."""
    corners = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*CHROMATICITIES[ColorPrimaries(primaries)], D65)])
    return np.linalg.solve(corners[:3].T, corners[3])[:, None] * corners[:3]


@cache
def _to_bt709(primaries: int) -> NDArray[np.float32]:
    return (_to_xyz(primaries) @ np.linalg.inv(_to_xyz(ColorPrimaries.BT709))).astype(np.float32)


def _luminance(primaries: int) -> NDArray[np.float32]:
    return _to_xyz(primaries)[:, 1].astype(np.float32)
