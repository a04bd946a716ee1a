"""Kaldi's log-mel filter bank:  waveform (S,) → log-mel (T, M), natural logarithm, one row per 10 ms.

What the release computes with `torchaudio.compliance.kaldi.fbank(htk_compat=True, use_energy=False,
window_type="hanning", num_mel_bins=128, dither=0, frame_shift=10)` on samples in [-1, 1], after subtracting the
waveform's mean. Frames of 25 ms that fit wholly (`snip_edges`); per frame: mean removed, pre-emphasis 0.97, Hann
window, power spectrum of 512 points, triangles on the mel scale from 20 Hz to half the sample rate, log.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from equiav.config import Features

FRAME_S, SHIFT_S = 0.025, 0.010
PREEMPHASIS = 0.97
LOW_HZ = 20.0
AT_ONCE = 64  # frames that are computed together: their spectra stay in the processor's cache
ONE_THREAD = 65536 * 4  # multiplications of a product for which OpenBLAS takes one thread
FLOOR = float(np.finfo(np.float32).eps)  # Kaldi's floor below the logarithm


def log_mel(waveform: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """The log-mel spectrogram (T, M) of a mono waveform (S,); T = 0 when S is shorter than one frame of 25 ms."""
    length, shift = round(features.sample_rate * FRAME_S), round(features.sample_rate * SHIFT_S)
    if len(waveform) < length:
        return np.zeros((0, features.mel_bins), np.float32)
    samples = waveform.astype(np.float64) - np.mean(waveform, dtype=np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::shift]
    points = 1 << (length - 1).bit_length()
    bank, window = mel_bank(features.mel_bins, points, features.sample_rate), np.hanning(length)
    found = np.empty((len(frames), features.mel_bins), np.float32)
    for first in range(0, len(frames), AT_ONCE):
        power = _power(frames[first : first + AT_ONCE], window, points)
        found[first : first + AT_ONCE] = np.log(np.maximum(_product(power, bank), FLOOR))
    return found


def _power(frames: NDArray[np.float64], window: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """Power spectra (T, points/2) of frames (T, L): Kaldi leaves the bin at half the sample rate out."""
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = PREEMPHASIS * frames
    frames[:, 1:] -= before[:, :-1]
    frames[:, 0] -= before[:, 0]
    frames *= window
    spectrum = np.fft.rfft(frames, points)[:, :-1]
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    return power


def _product(rows: NDArray[np.float64], bank: NDArray[np.float64]) -> NDArray[np.float64]:
    """rows @ bank, in blocks that OpenBLAS computes in one thread.

    Its other threads go on spinning for a while after a product: half of the processor time of reading sound.
    """
    size = max(1, ONE_THREAD // bank.size)
    lacking = -len(rows) % size
    padded = np.concatenate([rows, np.zeros((lacking, len(bank)))]) if lacking else rows
    return (padded.reshape(-1, size, len(bank)) @ bank).reshape(-1, bank.shape[1])[: len(rows)]


def fit_frames(fbank: NDArray[np.float32], time_frames: int) -> NDArray[np.float32]:
    """Cut or pad at the end to `time_frames` rows; padded rows are 0 in the raw log-mel, as in the release."""
    missing = time_frames - len(fbank)
    return fbank[:time_frames] if missing <= 0 else np.pad(fbank, ((0, missing), (0, 0)))


@lru_cache(maxsize=8)
def mel_bank(bins: int, points: int, sample_rate: int) -> NDArray[np.float64]:
    """Triangular weights (points/2, bins), linear on the mel scale 1127·ln(1 + f/700)."""
    edges = np.linspace(_mel(LOW_HZ), _mel(sample_rate / 2), bins + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mel = _mel(np.arange(points // 2) * sample_rate / points)[:, None]
    return np.maximum(0.0, np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)))


def _mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)
