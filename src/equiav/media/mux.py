"""Write media:  frames and sound → a small .mp4;  sound → .wav;  always the same bytes for the same input."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from equiav.errors import MediaError


def write_clip(path: Path, frames: NDArray[np.uint8], fps: int, sound: NDArray[np.float32], rate: int) -> None:
    """Write an .mp4 file whole or not at all.

    Args:
        frames: (F, H, W, 3) RGB, even H and W.
        fps: frames per second.
        sound: mono (S,) in [-1, 1].
        rate: samples per second, one of AAC's.

    Raises:
        MediaError: unreadable, it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with av.open(str(beside), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            video = container.add_stream(
                "libx264", rate=fps, options={"preset": "ultrafast", "crf": "24", "threads": "1"}
            )
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "yuv420p"
            audio = container.add_stream("aac", rate=rate, layout="mono")
            audio.bit_rate = 64_000
            for image in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(video.encode(None))
            samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = rate, 0, Fraction(1, rate)
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
        beside.replace(path)
    except (OSError, av.error.FFmpegError) as error:
        raise MediaError("unreadable", f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)


def wav_bytes(sound: NDArray[np.float32], rate: int) -> bytes:
    """A mono sound (S,) as a WAV of 32-bit floats: read again it is the same, bit for bit."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav", options={"fflags": "+bitexact"}) as container:
        track = container.add_stream("pcm_f32le", rate=rate, layout="mono")
        samples = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = rate, 0, Fraction(1, rate)
        container.mux(track.encode(samples))
        container.mux(track.encode(None))
    return buffer.getvalue()
