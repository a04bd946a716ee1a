"""The log-mel agrees with Kaldi's, and keeps its shape laws."""

import math

import kaldi_native_fbank as knf
import numpy as np
import pytest

from equiav.config import Features
from equiav.media.fbank import FLOOR, fit_frames, log_mel


def speech_like(seconds, seed=0):
    """Glottal pulses through formants, with pauses, over a noise floor: the dynamics of speech."""
    rng = np.random.default_rng(seed)
    rate, n = 16_000, int(seconds * 16_000)
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.8 * np.arange(n) / rate)
    pulses = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0)
    spectrum, frequency = np.fft.rfft(pulses), np.fft.rfftfreq(n, 1 / rate)
    gain = sum(1 / (1 + ((frequency - f) / w) ** 2) for f, w in ((500, 80), (1500, 120), (2500, 160), (3500, 250)))
    voice = np.fft.irfft(spectrum * gain, n) * (0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 1.3 * np.arange(n) / rate)))
    return (0.5 * voice / np.abs(voice).max() + rng.normal(0, 0.003, n)).astype(np.float32)


def kaldi(waveform, bins):
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = bins
    options.use_energy = False
    options.htk_compat = True
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16_000, (waveform - waveform.mean()).tolist())
    fbank.input_finished()
    return np.array([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


@pytest.mark.parametrize(("seconds", "bins"), [(10.0, 80), (1.935, 64), (0.5, 40), (0.025, 32)])
def test_log_mel_agrees_with_kaldi(seconds, bins):
    waveform = speech_like(seconds)
    ours, theirs = log_mel(waveform, Features(mel_bins=bins)), kaldi(waveform, bins)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2e-3


def naive(waveform, bins):
    """Kaldi's recipe, written out: `feature-window.cc` and `mel-computations.cc`, one number at a time."""

    def mel(hertz):
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    rows = []
    for start in range(0, len(waveform) - 400 + 1, 160):
        frame = [float(x) for x in waveform[start : start + 400] - waveform.mean()]
        mean = sum(frame) / 400
        frame = [x - mean for x in frame]
        for i in range(399, 0, -1):
            frame[i] -= 0.97 * frame[i - 1]
        frame[0] -= 0.97 * frame[0]
        frame = [x * (0.5 - 0.5 * math.cos(2 * math.pi * i / 399)) for i, x in enumerate(frame)]
        turns = np.exp(-2j * np.pi * np.outer(np.arange(256), np.arange(400)) / 512)
        power = np.abs(turns @ np.array(frame)) ** 2
        step = (mel(8000) - mel(20)) / (bins + 1)
        row = []
        for b in range(bins):
            left, centre, right = (mel(20) + (b + i) * step for i in range(3))
            energy = 0.0
            for k in range(256):
                m = mel(k * 16_000 / 512)
                if left < m < right:
                    energy += power[k] * ((m - left) / step if m <= centre else (right - m) / step)
            row.append(math.log(max(energy, FLOOR)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("bins", [128, 80])
def test_log_mel_agrees_with_kaldi_written_out(bins):
    """128 bins leave some low triangles empty: kaldi-native-fbank refuses that, the release has the floor there."""
    waveform = speech_like(0.08)
    ours = log_mel(waveform, Features(mel_bins=bins))
    assert np.abs(ours - naive(waveform, bins)).max() <= 2e-3
    assert (ours == np.float32(np.log(FLOOR))).all(axis=0).any() == (bins == 128)


def test_ten_seconds_give_998_frames():
    assert log_mel(np.zeros(160_000, np.float32), Features()).shape == (998, 128)


def test_a_frame_is_the_same_whatever_comes_with_it():
    # frames are computed some at a time: neither their number nor their place changes a bit
    features = Features(clip_s=3.0)
    samples = np.random.default_rng(0).normal(0, 0.1, 3 * features.sample_rate).astype(np.float32)
    samples -= samples.mean(dtype=np.float64).astype(np.float32)
    whole = log_mel(np.concatenate([samples, -samples]), features)  # the mean of all is 0, and of the parts that end so
    shift = features.sample_rate // 100
    for first, frames in ((0, 1), (0, 65), (63, 130), (128, 64)):
        part = samples[first * shift : (first + frames + 2) * shift]
        part = np.concatenate([part, -part])
        np.testing.assert_array_equal(log_mel(part, features)[:frames], whole[first : first + frames])


def test_digital_silence_is_the_floor():
    assert np.all(log_mel(np.zeros(4000, np.float32), Features()) == np.float32(np.log(FLOOR)))


def test_less_than_one_frame_of_sound_gives_no_row():
    assert log_mel(np.ones(399, np.float32), Features()).shape == (0, 128)
    assert log_mel(np.ones(400, np.float32), Features()).shape == (1, 128)


def test_twice_as_loud_is_log_4_higher_and_an_offset_is_ignored():
    waveform = speech_like(0.5)
    quiet, loud = log_mel(waveform, Features()), log_mel(2 * waveform + 0.1, Features())
    heard = quiet > np.float32(np.log(FLOOR))
    assert heard.mean() > 0.9
    assert np.allclose((loud - quiet)[heard], np.log(4), atol=1e-3)


def test_fit_frames_cuts_or_pads_with_zeros_at_the_end():
    mel = np.ones((5, 3), np.float32)
    assert np.array_equal(fit_frames(mel, 3), mel[:3])
    assert np.array_equal(fit_frames(mel, 7), np.vstack([mel, np.zeros((2, 3))]))
