"""What this FFmpeg can read, and the proof:  a clip made on the spot, read back, its click and its flash compared."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
from PIL import Image

from equiav.errors import MediaError
from equiav.media.decode import decode_audio, open_media, read_frames
from equiav.media.mux import write_clip

VIDEO_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg")
AUDIO_CODECS = ("aac", "mp3", "opus", "vorbis", "flac", "ac3", "pcm_s16le")
CLICK_S, FRAME_RATE, RATE = 1.5, 10, 16_000


def ffmpeg_version() -> str:
    """PyAV's version and that of the FFmpeg codecs inside it."""
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def missing_decoders() -> list[str]:
    """Codecs of everyday videos that cannot be decoded here."""
    missing = []
    for name in VIDEO_CODECS + AUDIO_CODECS:
        try:
            av.Codec(name, "r")
        except ValueError:
            missing.append(name)
    return missing


def decode_a_made_clip(folder: Path) -> float:
    """Write two seconds of H.264 and AAC with a click and a flash at 1.5 s; how far apart they are read, in seconds.

    Raises:
        MediaError: the clip cannot be read, or what is read is not what was written.
    """
    path = folder / "click.mp4"
    frames = np.zeros((2 * FRAME_RATE, 64, 64, 3), np.uint8)
    frames[round(CLICK_S * FRAME_RATE) :] = 255
    sound = np.zeros(2 * RATE, np.float32)
    sound[round(CLICK_S * RATE)] = 1.0
    write_clip(path, frames, FRAME_RATE, sound, RATE)
    heard = decode_audio(path, 0.0, 2.0, RATE)
    times = [(i + 0.5) / FRAME_RATE for i in range(2 * FRAME_RATE)]
    with open_media(path) as container:
        jpegs, shown = read_frames(container, path, times, 64, 90)
    bright = [float(np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).mean()) > 128 for jpeg in jpegs]
    if not any(bright) or float(np.abs(heard).max()) < 0.05:
        raise MediaError("corrupt", "the click or the flash of a made clip is not there when it is read")
    return abs(shown[bright.index(True)] - float(np.abs(heard).argmax()) / RATE)
