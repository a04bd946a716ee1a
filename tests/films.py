"""Videos whose pictures and tracks are told one by one, made in code; `tapes` are plain ones."""

from fractions import Fraction

import av
import numpy as np

from samples import tone

B_FRAMES = {
    "libx264": {"qp": "4", "bf": "3", "b_strategy": "0", "g": "25"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:keyint=25:qp=4:b-adapt=0"},
    "mpeg2video": {"bf": "2", "g": "25", "flags": "+qscale", "global_quality": "118"},  # open groups of pictures
    "mpeg1video": {"bf": "2", "g": "25", "flags": "+qscale", "global_quality": "118"},
    "mpeg4": {"bf": "2", "g": "25", "flags": "+qscale", "global_quality": "118"},
    "mjpeg": {"strict": "-1"},
}


def grey(number):
    return np.full((48, 64, 3), 20 + 2 * number, np.uint8)


def movie(path, codec, count=100, rate=25, container=None):
    """Picture k is of grey 20 + 2 k."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, options=B_FRAMES[codec])
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(grey(i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def slides(path, starts_s, end_s, codec="libx264", sound_s=None, dropped=(), **options):
    """Picture k is shown from `starts_s[k]` on, the last one until `end_s`; a packet that is `dropped` is empty."""
    with av.open(str(path), "w", options=options) as out:
        video = out.add_stream(codec, rate=20, options={"g": "30"} | ({"bf": "0"} if codec == "libx264" else {}))
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 20)
        packets = []
        for i, start_s in enumerate(starts_s):
            frame = av.VideoFrame.from_ndarray(grey(10 * i % 110), format="rgb24")
            frame.pts, frame.time_base = round(20 * start_s), Fraction(1, 20)
            packets += video.encode(frame)
        packets += video.encode(None)
        for i, (packet, until_s) in enumerate(zip(packets, [*starts_s[1:], end_s], strict=True)):
            packet.duration = round(20 * until_s) - packet.pts
            if i in dropped:
                packets[i] = empty = av.Packet()
                empty.stream, empty.time_base, empty.duration = video, packet.time_base, packet.duration
                empty.pts = empty.dts = packet.pts
        if sound_s:
            audio = out.add_stream("libopus" if path.suffix == ".webm" else "ac3", rate=48_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone(sound_s, rate=48_000)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
            for piece in av.AudioResampler(audio.format.name, "mono", 48_000, audio.frame_size).resample(frame):
                packets += audio.encode(piece)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def film(path, sounds=(), videos=(), fonts=0, marked=(), subtitles=0):
    """Tracks side by side: videos of these pictures (at 10 a second), sounds of these samples (of 16 kHz)."""
    with av.open(str(path), "w") as out:
        packets = []
        for images in videos:
            stream = out.add_stream("libx264", rate=10, options={"bf": "0"})
            stream.height, stream.width = images.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for image in images:
                packets += stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
            packets += stream.encode(None)
        for samples in sounds:
            stream = out.add_stream("pcm_s16le" if path.suffix == ".mov" else "aac", rate=16_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            for piece in av.AudioResampler(stream.format.name, "mono", 16_000).resample(frame):
                packets += stream.encode(piece)
            packets += stream.encode(None)
        for i in range(fonts):
            out.add_attachment(f"font{i}.ttf", "application/x-truetype-font", b"\0\1\0\0font" * 20)
        if subtitles:
            path.with_suffix(".srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n")
            with av.open(str(path.with_suffix(".srt"))) as source:
                for _ in range(subtitles):
                    out.add_stream_from_template(source.streams[0])
        for stream, disposition in zip(out.streams, marked, strict=False):
            stream.disposition = disposition
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def unknown(path, old, new, count=1):
    """The first tracks of a codec become such of one that nobody knows."""
    data = path.read_bytes()
    assert data.count(old) >= count
    path.write_bytes(data.replace(old, new, count))
