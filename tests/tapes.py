"""Small real media, made in code: a grey ramp with one white flash, silence or a tone with one click."""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

CODECS = {  # container suffix -> (video codec, audio codec)
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "pcm_s16le"),
    ".mkv": ("libx264", "aac"),
    ".webm": ("libvpx", "libopus"),
    ".avi": ("mpeg4", "libmp3lame"),
    ".ts": ("libx264", "aac"),
    ".mpg": ("mpeg2video", "mp2"),
    ".flv": ("flv", "libmp3lame"),
    ".wav": (None, "pcm_s16le"),
    ".mp3": (None, "libmp3lame"),
    ".m4a": (None, "aac"),
    ".flac": (None, "flac"),
}


@dataclass(frozen=True)
class Recording:
    """What a test asks to be on the tape; times in seconds."""

    seconds: float = 3.0
    fps: int = 20
    width: int = 96
    height: int = 64
    rate: int = 48_000
    layout: str = "stereo"
    video: bool = True
    audio: bool = True
    flash_s: float = 1.5
    click_s: float = 1.5
    tone_hz: float = 0.0
    gop: int = 8
    audio_seconds: float | None = None
    audio_starts_s: float = 0.0
    rotation: int = 0
    pixel_aspect: tuple[int, int] = (1, 1)
    video_times_s: list[float] | None = None
    mux: dict[str, str] | None = None
    seed: int = 0  # another seed, another picture: files of equal content are one clip


def pictures(tape: Recording) -> np.ndarray:
    """Frames (F, H, W, 3): brightness tells the time (64 + 32·t), a black left quarter tells which side is left."""
    times = np.arange(round(tape.seconds * tape.fps)) / tape.fps
    frames = np.empty((len(times), tape.height, tape.width, 3), np.uint8)
    frames[:] = (64 + 32 * times).astype(np.uint8)[:, None, None, None]
    frames[(times >= tape.flash_s - 1e-6) & (times < tape.flash_s + 0.1 - 1e-6)] = 255
    frames[:, :, : tape.width // 4] = 0
    frames[:, : tape.height // 4, -tape.width // 4 :] = np.random.default_rng(tape.seed).integers(256, size=3)
    return frames


def sounds(tape: Recording) -> np.ndarray:
    """Samples (C, S): a quiet tone, and a click of 2 ms; every channel the same."""
    seconds = tape.seconds if tape.audio_seconds is None else tape.audio_seconds
    time_s = np.arange(round(seconds * tape.rate)) / tape.rate
    wave = 0.1 * np.sin(2 * np.pi * tape.tone_hz * time_s) if tape.tone_hz else np.zeros(len(time_s))
    wave[(time_s >= tape.click_s) & (time_s < tape.click_s + 0.002)] = 0.9
    return np.repeat(wave[None].astype(np.float32), av.AudioLayout(tape.layout).nb_channels, axis=0)


def record(path: Path, **changes: object) -> Path:
    """Write the tape in the format of the suffix; formats differ in clocks, start offsets and headers."""
    tape = Recording(**changes)
    video_codec, audio_codec = CODECS[path.suffix]
    with av.open(str(path), "w", options=tape.mux or {}) as container:
        video = _video_stream(container, video_codec, tape) if tape.video and video_codec else None
        audio = container.add_stream(audio_codec, rate=tape.rate, layout=tape.layout) if tape.audio else None
        packets = []
        if video:
            for i, image in enumerate(pictures(tape)):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=video.pix_fmt)
                time_s = tape.video_times_s[i] if tape.video_times_s else i / tape.fps
                frame.pts, frame.time_base = round(time_s * tape.fps), Fraction(1, tape.fps)
                packets += video.encode(frame)
            packets += video.encode(None)
        if audio:
            packets += _audio_packets(audio, tape)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    return path


def _video_stream(container, codec, tape):
    stream = container.add_stream(codec, rate=tape.fps)
    stream.width, stream.height, stream.pix_fmt = tape.width, tape.height, "yuv420p"
    stream.codec_context.gop_size = tape.gop
    stream.sample_aspect_ratio = Fraction(*tape.pixel_aspect)
    stream.bit_rate = 2_000_000
    if codec == "libx264":
        stream.options = {"preset": "veryfast", "bf": "2", "threads": "1"}
    if tape.rotation:
        stream.set_display_rotation(tape.rotation)
    return stream


def _audio_packets(stream, tape):
    samples, packets = sounds(tape), []
    resampler = av.AudioResampler(stream.format.name, tape.layout, tape.rate)
    size = stream.codec_context.frame_size or 1024
    for first in range(0, samples.shape[1], size):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[:, first : first + size]), format="fltp", layout=tape.layout
        )
        frame.sample_rate, frame.time_base = tape.rate, Fraction(1, tape.rate)
        frame.pts = first + round(tape.audio_starts_s * tape.rate)
        for piece in resampler.resample(frame):
            packets += stream.encode(piece)
    return packets + stream.encode(None)


def click_at(waveform: np.ndarray, rate: int) -> float:
    """Time of the loudest sample."""
    return float(np.abs(waveform).argmax()) / rate


def brightness(jpeg: bytes) -> float:
    """Mean grey of the middle of a picture."""
    grey = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"), np.float64)
    height, width = grey.shape
    return float(grey[height // 3 : -height // 3, width // 3 : -width // 3].mean())
