"""Write media:  frames and sound → a small .mp4;  sound → .wav;  always the same bytes for the same input."""

from __future__ import annotations

import struct
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from equiav.errors import ConfigError, MediaError
from equiav.files import whole_file

LARGEST = 2**32 - 1  # what the sizes in a WAV can say


def write_clip(
    path: Path,
    frames: NDArray[np.uint8],
    fps: int,
    sound: NDArray[np.float32],
    rate: int,
    *,
    crf: int = 24,
    bit_rate: int = 64_000,
) -> None:
    """Write an .mp4 file whole or not at all.

    Args:
        frames: (F, H, W, 3) RGB, even H and W.
        fps: frames per second.
        sound: mono (S,) in [-1, 1].
        rate: samples per second, one of AAC's.
        crf: x264's constant rate factor: the higher, the fewer bits the pictures take.
        bit_rate: of the sound, bits per second.

    Raises:
        MediaError: unreadable, it cannot be written.
    """
    refuse = partial(MediaError, "unreadable")
    options = {"preset": "ultrafast", "crf": str(crf), "threads": "1"}
    with (
        whole_file(path, refuse, av.error.FFmpegError, flushed=False) as beside,
        av.open(str(beside), "w", format="mp4", options={"fflags": "+bitexact"}) as container,
    ):
        video = container.add_stream("libx264", rate=fps, options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=rate, layout="mono")
        audio.bit_rate = bit_rate
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = rate, 0, Fraction(1, rate)
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))


def wav_file(samples: NDArray[Any], sample_rate: int | None) -> bytes:
    """A mono sound (S,) as a WAV of 32-bit floats: read again it is the same, bit for bit.

    Raises:
        ConfigError: no sample rate, or samples of another shape or kind.
    """
    if sample_rate is None:
        raise ConfigError("audio arrays need their sample_rate, in Hz")
    if samples.ndim != 1 or not len(samples) or not np.issubdtype(samples.dtype, np.floating):
        raise ConfigError(
            f"an audio array is mono, float, shape (S,), in [-1, 1]; found {samples.dtype} of shape {samples.shape} "
            "(16-bit samples: divide by 32768; several channels: take their mean)"
        )
    data = samples.astype("<f4", copy=False).tobytes()
    return wav_header(len(data), sample_rate) + data


def wav_header(size: int, sample_rate: int) -> bytes:
    """As FFmpeg writes it before `size` bytes of samples; the largest sizes mean "up to the end"."""
    # format 3 is IEEE float, 4 bytes a sample
    fmt = struct.pack("<HHIIHHH", 3, 1, sample_rate, 4 * sample_rate, 4, 32, 0)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"fact" + struct.pack("<II", 4, min(size // 4, LARGEST))
    chunks += b"data" + struct.pack("<I", min(size, LARGEST))
    return b"RIFF" + struct.pack("<I", min(4 + len(chunks) + size, LARGEST)) + b"WAVE" + chunks
