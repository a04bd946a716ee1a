"""A second look at two windows, without the model:  their stored sounds and pictures → how far they are the same.

An embedding says what is heard and seen, and two recordings of one kind may be as near to each other as two copies of
one. Here the log-mels are laid over each other at every lag, and each picture is looked for inside the other, also
mirrored: the highest normalised cross-correlation (Lewis 1995), without what is coarse in time, frequency or space, so
that gain, equaliser and light do not matter. Black bars are cut off before.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter1d

from equiav.media.fbank import SHIFT_S

if TYPE_CHECKING:
    from jaxtyping import Float32

BANDS = 64  # of a spectrogram at most
LOCAL_S, LOCAL_SHARE = 0.3, 1 / 7  # around each cell of it, the mean of so many seconds and bands is subtracted
SIDE = 24  # pixels that a picture is compared with
SIDES = (24, 23, 22, 20, 19, 18, 17)  # of the one inside the other: a crop keeps half of a picture or more
COARSE = 3.0  # standard deviation, in pixels, of the Gaussian that is subtracted
BAR = 24  # levels: rows and columns at the edge that are nowhere brighter are bars
SURE = 0.95  # then no other place is looked at


class Lagged(NamedTuple):
    """How far two sounds are the same, and how much later it is in the first, in seconds."""

    similarity: float
    lag_s: float


def bands_of(log_mel: Float32[np.ndarray, "T M"], frames: int) -> Float32[np.ndarray, "t B"]:
    """What is compared of a sound: its frames without padding, in bands, less their surroundings."""
    edges = np.linspace(0, log_mel.shape[1], min(BANDS, log_mel.shape[1]), endpoint=False).astype(int)
    bands = np.add.reduceat(log_mel[:frames].astype(np.float32), edges, axis=1)
    bands /= np.diff(edges, append=log_mel.shape[1])
    around = uniform_filter1d(bands, round(LOCAL_S / SHIFT_S) + 1, axis=0) if len(bands) else bands
    return bands - uniform_filter1d(around, max(3, round(LOCAL_SHARE * len(edges))), axis=1)


def compare_sounds(a: Float32[np.ndarray, "t B"], b: Float32[np.ndarray, "u B"], most_s: float) -> Lagged:
    """At the lag, of at most `most_s` seconds and half of the shorter one, at which they agree best."""
    shorter = min(len(a), len(b))
    most = min(round(most_s / SHIFT_S), shorter // 2)
    if not shorter:
        return Lagged(0.0, 0.0)
    size = len(a) + len(b)
    spectra = np.fft.rfft(a, size, axis=0) * np.fft.rfft(b, size, axis=0).conj()
    lags = np.arange(-most, most + 1)
    products = np.fft.irfft(spectra.sum(axis=1), size)[lags]  # of a[t + lag] and b[t]
    start, stop = np.maximum(lags, 0), np.minimum(len(a), len(b) + lags)
    energy_a, energy_b = (np.append(0.0, np.cumsum(np.square(one, dtype=np.float64).sum(axis=1))) for one in (a, b))
    energies = (energy_a[stop] - energy_a[start]) * (energy_b[stop - lags] - energy_b[start - lags])
    similarity = products / np.sqrt(np.maximum(energies, 1e-12))
    # of nearly equal ones the smallest lag: a sound that repeats is not moved
    best = min(np.flatnonzero(similarity >= similarity.max() - 1e-3), key=lambda i: abs(lags[i]))
    return Lagged(float(np.clip(similarity[best], -1, 1)), float(lags[best] * SHIFT_S))


class Looks(NamedTuple):
    """What is compared of a picture: itself at `SIDES`, and mirrored."""

    plain: list[Float32[np.ndarray, "s s"]]
    mirrored: list[Float32[np.ndarray, "s s"]]


def looks_of(jpeg: bytes) -> Looks:
    """Of a stored frame."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        picture.draft("L", (3 * SIDE, 3 * SIDE))
        pixels = np.asarray(picture.convert("L"))
    rows, columns = (np.flatnonzero(pixels.max(axis=axis) > BAR) for axis in (1, 0))
    if len(rows) and len(columns):
        pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image = Image.fromarray(pixels)
    plain = [_detail(np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32)) for side in SIDES]
    return Looks(plain, [one[:, ::-1] for one in plain])


def compare_pictures(a: Looks, b: Looks) -> float:
    """At the best place of the one inside the other."""
    best = -1.0
    for number in range(len(SIDES)):
        for looks in (b.plain, b.mirrored):
            best = max(best, _inside(looks[number], a.plain[0]), _inside(a.plain[number], looks[0]))
            if best >= SURE:
                return best
    return best


def _detail(pixels: Float32[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s"]:
    return pixels - gaussian_filter(pixels, COARSE)


def _inside(part: Float32[np.ndarray, "s s"], whole: Float32[np.ndarray, "S S"]) -> float:
    """Highest correlation of a part with the places of a whole."""
    places = _normalised(sliding_window_view(whole, part.shape).reshape(-1, part.size))
    return float((places @ _normalised(part.reshape(1, -1))[0]).max())


def _normalised(rows: Float32[np.ndarray, "p n"]) -> Float32[np.ndarray, "p n"]:
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-3)
