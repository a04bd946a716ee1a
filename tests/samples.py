"""Small real media files, made in code."""

import io
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from equiav.config import Features

TINY = Features(
    clip_s=0.655, hop_s=0.655, min_tail_s=0.3, time_frames=64, mel_bins=32, frame_side=32, frames_per_clip=3
)
CODECS = {".webm": ("libvpx", "libopus"), ".avi": ("mpeg4", "pcm_s16le")}


def tone(seconds, hertz=440.0, rate=16_000):
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def pictures(count, size=(48, 64), seed=0):
    """A bright square that moves over noise."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 60, (count, *size, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[8:24, (3 * i) % 40 : (3 * i) % 40 + 12] = 220
    return frames


def write_media(path, *, frames=None, sound=None, fps=10, rate=16_000, audio_start_s=0.0, times_s=None, **options):
    """Any container that the suffix names, with an optional picture and an optional sound track."""
    video_codec, audio_codec = CODECS.get(path.suffix, ("libx264", "aac"))
    with av.open(str(path), "w", options=options) as out:
        video = audio = None
        if frames is not None:
            video = out.add_stream(video_codec, rate=fps, options={"g": "10"})
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "yuv420p"
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[np.atleast_2d(sound).shape[0]]
            audio = out.add_stream(audio_codec, rate=rate, layout=layout)
        if video is not None:
            for i, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if times_s is not None:
                    frame.pts, frame.time_base = round(times_s[i] * 1000), Fraction(1, 1000)
                    video.codec_context.time_base = Fraction(1, 1000)
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(np.atleast_2d(sound), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(audio_start_s * rate)
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path


# kind of broken file: the reason that it is rejected with
BAD = {
    "zero": "empty_file",
    "text": "not_media",
    "no_audio": "no_audio",
    "no_video": "no_video",
    "cut_index": "truncated",
    "cut_data": "truncated",
    "noise": "not_media",
    "cover": "no_video",
    "folder": "unreadable",
}


def write_bad(folder, good_video):
    """One file of each kind of BAD: kind → path."""
    paths = {kind: folder / f"{kind}.mp4" for kind in BAD}
    paths["zero"].touch()
    paths["text"].write_text("This is no video, whatever its name says.\n" * 50)
    write_media(paths["no_audio"], frames=pictures(14))
    write_media(paths["no_video"], sound=tone(1.4))
    whole = good_video.read_bytes()
    paths["cut_index"].write_bytes(whole[: len(whole) // 2])  # the index of a plain MP4 comes last
    long = folder / "long.mp4"
    noise = np.random.default_rng(0).normal(0, 0.1, 64_000).astype(np.float32)
    write_media(long, frames=pictures(40), sound=noise, movflags="+faststart")
    paths["cut_data"].write_bytes(long.read_bytes()[: long.stat().st_size * 6 // 10])
    long.unlink()
    paths["noise"].write_bytes(np.random.default_rng(0).bytes(20_000))
    song_with_cover(paths["cover"])
    paths["folder"].mkdir()
    return paths


def song_with_cover(path, sound=True):
    cover = io.BytesIO()
    Image.new("RGB", (32, 32), "red" if sound else "blue").save(cover, "JPEG")
    with av.open(str(path), "w", format="mp4") as out:
        audio = out.add_stream("aac", rate=16_000, layout="mono") if sound else None
        video = out.add_stream("mjpeg", rate=1)
        video.width = video.height = 32
        video.pix_fmt = "yuvj420p"
        video.disposition = Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = video, 0, 0, Fraction(1, 1)
        out.mux(packet)
        if audio is None:
            return
        frame = av.AudioFrame.from_ndarray(tone(1.4)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
