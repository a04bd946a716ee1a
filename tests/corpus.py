"""Broken and odd media of every kind that we know of, made in code: file name → stated status, and how to make it.

`python tests/corpus.py` makes and ingests them all and prints what each became: the table of docs/media.md.
"""

import io
import os
import struct
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from equiav.library.ingest import ingest
from equiav.library.table import Library
from films import film, movie, slides, unknown
from hand_written import RIFX, gsm, piped, wav
from samples import TINY, pictures, song_with_cover, tone, write_media
from stills import tiled
from tapes import record


def tape(**changes) -> Callable[[Path], object]:
    """A video of 2 s with a picture and a tone of its own."""
    return lambda path: record(path, **({"seconds": 2.0, "tone_hz": 300.0, "seed": seed_of(path)} | changes))


def seed_of(path):
    return int.from_bytes(path.name.encode()[:6], "big")


def written(data: bytes | Callable[[Path], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data if isinstance(data, bytes) else data(path))


def video_of(path, suffix=".mp4", **changes) -> bytes:
    """The bytes of a tape in another format than the name says."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"x{suffix}"
        tape(**({"seed": seed_of(path)} | changes))(made)
        return made.read_bytes()


def patched(suffix: str, old: bytes, new: bytes, **changes) -> Callable[[Path], object]:
    """A tape with other bytes in its headers, everywhere."""

    def make(path):
        data = video_of(path, suffix, **changes)
        assert old in data
        path.write_bytes(data.replace(old, new))

    return make


def picture(mode="RGB", size=(40, 30), **options) -> Callable[[Path], object]:
    def make(path):
        shape = (size[1], size[0], 3)
        image = Image.fromarray(np.random.default_rng(seed_of(path)).integers(256, size=shape, dtype=np.uint8))
        (image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)).save(path, **options)

    return make


def sound_file(codec, fmt, dtype, values, layout="mono", rate=16_000) -> Callable[[Path], object]:
    """A sound file of this codec; `values(time_s)` gives samples (S,) or (S, C)."""

    def make(path):
        samples = np.asarray(values(np.arange(2 * rate) / rate))
        with av.open(str(path), "w") as out:
            stream = out.add_stream(codec, rate=rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(samples.astype(dtype).reshape(1, -1), format=fmt, layout=layout)
            frame.sample_rate = rate
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))

    return make


def coded(codec, pix_fmt, size=(64, 48), **options) -> Callable[[Path], object]:
    """A video of another codec, pixel format or size, with a tone."""

    def make(path):
        with av.open(str(path), "w") as out:
            video, audio = out.add_stream(codec, rate=10, options=options), out.add_stream("aac", rate=16_000)
            video.width, video.height, video.pix_fmt = *size, pix_fmt
            audio.layout = "mono"
            for image in pictures(20, size[::-1], seed=seed_of(path)):
                out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)))
            out.mux(video.encode(None))
            frame = av.AudioFrame.from_ndarray(tone(2.0)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))

    return make


def cut(suffix, share, **changes) -> Callable[[Path], object]:
    def make(path):
        data = video_of(path, suffix, **changes)
        path.write_bytes(data[: int(len(data) * share)])

    return make


def damaged(path):
    """Half a second of packets is overwritten."""
    data = bytearray(video_of(path, gop=10))
    path.write_bytes(data)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, float((p.pts or 0) * p.time_base)) for p in container.demux() if p.size]
    for at, size, time_s in packets:
        if 1.0 <= time_s < 1.9:
            data[at : at + size] = b"\xff" * size
    path.write_bytes(data)


def long_header(path):
    """A Matroska that says it lasts 1000 hours."""
    data = bytearray(video_of(path, ".mkv"))
    at = data.index(b"\x44\x89\x88") + 3  # Duration: eight bytes of a float, in milliseconds
    data[at : at + 8] = struct.pack(">d", 3.6e9)
    path.write_bytes(data)


def many_tracks(path):
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(65)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.ones((1, 8000), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            out.mux(stream.encode(frame))


def many_channels(path):
    data = np.zeros((8000, 100), "<i2").tobytes()
    fmt = struct.pack("<HHIIHH", 1, 100, 8000, 8000 * 200, 200, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def unmoving(path):
    frames = np.repeat(pictures(1, seed=seed_of(path)), 20, axis=0)
    write_media(path, frames=frames, sound=tone(2.0))


def black(path):
    write_media(path, frames=np.zeros((20, 48, 64, 3), np.uint8), sound=tone(2.0))


def silent(path):
    write_media(path, frames=pictures(20, seed=seed_of(path)), sound=np.zeros(32_000, np.float32))


def silent_and_still(path):
    write_media(path, frames=np.full((20, 48, 64, 3), 90, np.uint8), sound=np.zeros(32_000, np.float32))


def cancelling(path):
    """Stereo with one side turned over: the mean of both is silence."""
    wave = tone(2.0)
    write_media(path, frames=pictures(20, seed=seed_of(path)), sound=np.stack([wave, -wave]))


def to_a_pipe(path):
    """An AVI in which the sizes and the number of pictures were never filled in."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "x.avi"
        tape(seed=seed_of(path))(plain)
        piped(plain, path, "avi")


def big_endian(bits, code) -> Callable[[Path], object]:
    data = RIFX[bits, code][0].tobytes()
    return written(wav(len(data), data=data, code=code, bits=bits, form=b"RIFX"))


def uneven(path):
    times = [0.0, 0.05, 0.25, 0.45, 0.7, 1.1, 1.15, 1.2, 1.7, 1.9]
    write_media(path, frames=pictures(10, seed=seed_of(path)), sound=tone(2.0), fps=100, times_s=times)


def before_zero(path, suffix=".mp4"):
    """Time stamps from -0.5 s on; from a Matroska, whose first packets have no decoding times, without those."""
    with tempfile.TemporaryDirectory() as folder:
        plain = write_media(Path(folder) / f"x{suffix}", frames=pictures(25, seed=seed_of(path)), sound=tone(2.5))
        with av.open(str(plain)) as source, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
            tracks = {stream: out.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    shift = round(0.5 / packet.time_base)
                    packet.pts, packet.dts, packet.stream = (
                        packet.pts - shift,
                        packet.dts - shift,
                        tracks[packet.stream],
                    )
                    out.mux(packet)


def animation(path, count=5):
    first, *others = [Image.fromarray(image) for image in pictures(count, seed=seed_of(path))]
    first.save(path, save_all=True, append_images=others, duration=200)


def with_holes(path):
    picture = Image.new("RGBA", (44, 31))
    picture.paste((9, 9, 9, 255), (10, 10, 30, 20))
    picture.save(path)


def long_text(path):
    info = PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    picture(size=(45, 31), pnginfo=info)(path)


def in_tiles(codec) -> Callable[[Path], object]:
    """Two tiles, each of a colour of its own."""

    def make(path):
        colours = np.random.default_rng(seed_of(path) + len(path.name)).integers(256, size=(1, 2, 3), dtype=np.uint8)
        path.write_bytes(tiled(np.kron(colours, np.ones((128, 128, 1), np.uint8)), codec))

    return make


def camera_pictures(path):
    """Motion JPEG whose pictures hold EXIF, as those of a camera's time lapse do."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i, image in enumerate(pictures(20, seed=seed_of(path))):
            jpeg = io.BytesIO()
            Image.fromarray(image).save(jpeg, "JPEG", exif=exif)
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 10), i, i
            packet.duration, packet.is_keyframe = 1, True
            out.mux(packet)


def unknown_first(path):
    """Two sounds, of which the first is in a codec that nobody knows."""
    film(path, [tone(2.0, 200.0), tone(2.0)], [pictures(20, seed=seed_of(path))])
    unknown(path, b"A_AAC", b"A_ZZZ")


def sine(time_s):
    return 0.3 * np.sin(2 * np.pi * 440 * time_s)


def eight_channels(time_s):
    return 9000 * np.sin(2 * np.pi * time_s[:, None] * np.linspace(300, 1000, 8))


def not_a_number(time_s):
    wave = sine(time_s)
    wave[8000] = np.nan
    return wave


BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0) + b"\0" * 64
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://localhost/a.ts\n#EXT-X-ENDLIST\n"
SUBTITLES = b"1\n00:00:01,000 --> 00:00:02,000\nhello\n"
ONE = 1 << 16  # of a display matrix
PQ = "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
LONG_NAME = "ü" * 125 + ".mp4"  # 254 bytes; file systems take 255

# name → (what becomes of it: status of its clips [+ reject], how to make it)
CORPUS: dict[str, tuple[str, Callable[[Path], object]]] = {
    # whole and plain, in the containers and codecs that people have
    "plain.mp4": ("ok", tape()),
    "quicktime with PCM.mov": ("ok", tape()),
    "matroska.mkv": ("ok", tape()),
    "vp8 and opus.webm": ("ok", tape()),
    "divx and mp3.avi": ("ok", tape()),
    "transport stream.ts": ("ok", tape()),
    "program stream.mpg": ("ok", tape()),
    "flash.flv": ("ok", tape()),
    "hevc.mp4": ("ok", coded("libx265", "yuv420p", preset="ultrafast", **{"x265-params": "log-level=none"})),
    "vp9.webm": (
        "ok",
        lambda path: write_media(path, frames=pictures(20, seed=9), sound=tone(2.0, rate=48_000), rate=48_000),
    ),
    # odd, and good
    "10 bit.mp4": ("ok", coded("libx264", "yuv420p10le")),
    "4:4:4.mp4": ("ok", coded("libx264", "yuv444p")),
    "interlaced.mp4": ("ok", coded("libx264", "yuv420p", flags="+ildct+ilme")),
    "high dynamic range.mp4": ("ok", coded("libx265", "yuv420p10le", preset="ultrafast", **{"x265-params": PQ})),
    "odd sizes.mkv": ("ok", coded("ffv1", "yuv420p", size=(71, 53))),
    "grey.mkv": ("ok", coded("ffv1", "gray", size=(66, 50))),
    "with transparency.mov": ("ok", coded("png", "rgba", size=(62, 46))),
    "a long strip.mp4": ("ok", coded("libx264", "yuv420p", size=(160, 32))),
    "5.1.mp4": ("ok", tape(layout="5.1")),
    "channels that cancel.mp4": ("ok", cancelling),
    "8 kHz.mkv": ("ok", tape(rate=8000)),
    "rotated.mp4": ("ok", tape(rotation=90)),
    "mirrored.mp4": ("ok", patched(".mp4", struct.pack(">4i", ONE, 0, 0, 0), struct.pack(">4i", -ONE, 0, 0, 0))),
    "wide pixels.mp4": ("ok", tape(pixel_aspect=(4, 3))),
    "variable frame rate.mkv": ("ok", uneven),
    "late sound.mkv": ("ok", tape(audio_starts_s=0.3, audio_seconds=1.7)),
    "late sound in an edit list.mp4": ("ok", tape(audio_starts_s=0.3, audio_seconds=1.7)),
    "sound ends early.mp4": ("ok", tape(audio_seconds=0.7)),
    "first key frame missing.ts": ("ok + gap", lambda path: before_zero(path, ".mkv")),
    "negative time stamps.mp4": ("ok", before_zero),
    "fragmented.mp4": ("ok", tape(mux={"movflags": "frag_keyframe+empty_moov"})),
    "written to a pipe.avi": ("ok", to_a_pipe),
    "no duration in the header.webm": ("ok", tape(mux={"live": "1"})),
    "B frames.wmv": ("ok", coded("libx264", "yuv420p", bf="2")),
    "70 fonts.mkv": ("ok", lambda path: film(path, [tone(2.0)], [pictures(20, seed=seed_of(path))], fonts=70)),
    "unknown sound before a known one.mkv": ("ok", unknown_first),
    "0.2 s.mp4": ("ok", tape(seconds=0.2, audio_seconds=0.2, flash_s=0.1)),
    "wrong extension.avi": ("ok", written(video_of)),
    "a stream that was cut.ts": ("ok", cut(".ts", 0.7)),
    "line\nbreak.mp4": ("ok", tape()),
    "-rf.mp4": ("ok", tape()),
    LONG_NAME: ("ok", tape()),
    # both modalities, of which one says nothing
    "silent.mp4": ("silent", silent),
    "silent and still.mp4": ("silent", silent_and_still),
    "a still picture.mp4": ("still", unmoving),
    "black.mp4": ("still", black),
    "slides, the last of which stays.mp4": (
        "ok and still",
        lambda path: slides(path, [0.0, 0.3, 0.5], 4.0, sound_s=4.0),
    ),
    # one modality
    "no sound.mp4": ("no_audio", tape(audio=False)),
    "pictures of a camera.mov": ("no_audio", camera_pictures),
    "bare stream.h264": ("no_audio", lambda path: movie(path, "libx264", count=50)),
    "animation.gif": ("no_audio", animation),
    "one picture.gif": ("no_audio", lambda path: animation(path, 1)),
    "picture.jpg": ("no_audio", picture()),
    "picture.png": ("no_audio", picture(size=(41, 31))),
    "picture.webp": ("no_audio", picture(size=(42, 31))),
    "picture with holes.png": ("no_audio", with_holes),
    "picture with a long text.png": ("no_audio", long_text),
    "picture in tiles.heic": ("no_audio", in_tiles("hvc1")),
    "picture in tiles.avif": ("no_audio", in_tiles("av01")),
    "picture in tiles called a video.mp4": ("no_audio", in_tiles("hvc1")),
    "picture called a video.mp4": ("no_audio", picture(size=(43, 31), format="PNG")),
    "four inks.jpg": ("no_audio", picture("CMYK")),
    "one pixel.png": ("no_audio", picture(size=(1, 1))),
    "sound.wav": ("no_video", tape()),
    "sound.mp3": ("no_video", tape()),
    "sound.m4a": ("no_video", tape()),
    "sound.flac": ("no_video", tape()),
    "64-bit floats.wav": ("no_video", sound_file("pcm_f64le", "dbl", "f8", sine)),
    "8-bit.wav": ("no_video", sound_file("pcm_u8", "u8", "u1", lambda t: 128 + 90 * sine(t))),
    "big-endian, 8 bits.wav": ("no_video", big_endian(8, 1)),
    "big-endian, 16 bits.wav": ("no_video", big_endian(16, 1)),
    "big-endian, 24 bits.wav": ("no_video", big_endian(24, 1)),
    "big-endian, 32 bits.wav": ("no_video", big_endian(32, 1)),
    "big-endian, floats.wav": ("no_video", big_endian(32, 3)),
    "written to a pipe.wav": ("no_video", written(wav(2**32 - 1))),
    "GSM.aifc": ("no_video", written(gsm(24_000))),
    "7.1.wav": ("no_video", sound_file("pcm_s16le", "s16", "i2", eight_channels, "7.1")),
    "192 kHz.wav": ("no_video", sound_file("pcm_s16le", "s16", "i2", lambda t: 9000 * sine(t), rate=192_000)),
    "attached picture.m4a": ("no_video", song_with_cover),
    "one picture, not marked as a cover.mp4": (
        "no_video",
        lambda path: film(path, [tone(1.7)], [pictures(1)]),
    ),
    "no picture, called a video.mp4": ("no_video", tape(video=False)),
    # damaged: what is good of it is kept
    "index missing.mp4": ("truncated", cut(".mp4", 0.5)),
    "cut at 60 %.mp4": ("ok + truncated", cut(".mp4", 0.6, mux={"movflags": "+faststart"})),
    "cut at 60 %.avi": ("ok + truncated", cut(".avi", 0.6)),
    "cut.wav": ("no_video + truncated", cut(".wav", 0.5)),
    "damaged inside.mp4": ("ok + corrupt", damaged),
    "two recordings in one file.ts": ("corrupt", written(lambda path: 2 * video_of(path, ".ts"))),
    "two recordings in one file.mkv": ("corrupt", written(lambda path: 2 * video_of(path, ".mkv"))),
    "cut picture.jpg": ("corrupt", lambda path: (picture()(path), path.write_bytes(path.read_bytes()[:-700]))),
    "cut picture in tiles.heic": (
        "corrupt",
        lambda path: (in_tiles("hvc1")(path), path.write_bytes(path.read_bytes()[:-100])),
    ),
    "not a number.wav": ("no_video + corrupt", sound_file("pcm_f32le", "flt", "f4", not_a_number)),
    "sound only at the end.mkv": ("ok + gap", tape(audio_starts_s=1.5, audio_seconds=0.5)),
    # refused
    "zero bytes.mp4": ("empty_file", written(b"")),
    "text.mp4": ("not_media", written(b"This is no video, whatever its name says.\n" * 50)),
    "random bytes.mp4": ("not_media", written(np.random.default_rng(0).bytes(20_000))),
    "zeros.mp4": ("not_media", written(b"\0" * 4096)),
    "playlist.ts": ("not_media", written(PLAYLIST)),
    "list of files.mp4": ("not_media", written(b"ffconcat version 1.0\nfile 'plain.mp4'\n")),
    "subtitles.mkv": ("not_media", written(SUBTITLES)),
    "10 ms.mp4": ("too_short", tape(seconds=0.05, audio_seconds=0.01)),
    "says 1000 hours.mkv": ("too_long", long_header),
    "picture of 3.6 gigapixels.png": ("unsupported", written(BOMB)),
    "picture of 16 bits.png": ("unsupported", picture("I;16")),
    "65 tracks.mka": ("unsupported", many_tracks),
    "100 channels.wav": ("unsupported", many_channels),
    "unknown codec.mov": ("unsupported", patched(".mov", b"avc1", b"zzzz")),
    "cover and nothing else.m4a": ("unsupported", lambda path: song_with_cover(path, sound=False)),
    "a pipe.mp4": ("missing", os.mkfifo),
    "link to nothing.mp4": ("missing", lambda path: path.symlink_to(path.parent / "nothing")),
    "link to itself.mp4": ("missing", lambda path: path.symlink_to(path)),
}


def make_corpus(folder: Path) -> None:
    for name, (_, make) in CORPUS.items():
        make(folder / name)


def found_in(folder: Path, library: Path) -> tuple[dict[str, str], list[dict]]:
    """What an ingest makes of the folder: file name → status of its clips [+ reject]; and all rows."""
    ingest(folder, library, TINY, workers=2)
    rows = Library(library)._clips.to_table().to_pylist()
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(Path(row["source"]).name, []).append(row["status"])
    kinds = {name: [" and ".join(sorted(set(statuses)))] for name, statuses in found.items()}
    for reject in Library(library).rejects():
        kinds.setdefault(Path(reject.path).name, []).append(reject.reason)
    return {name: " + ".join(parts) for name, parts in kinds.items()}, rows


def as_table(became: dict[str, str]) -> str:
    """Markdown: file → what it becomes."""
    shown = {name: name.replace("\n", "⏎") if len(name) < 60 else "a name of 254 bytes" for name in CORPUS}
    return "| file | becomes |\n|---|---|\n" + "".join(f"| {shown[name]} | {became[name]} |\n" for name in CORPUS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "corpus").mkdir()
        make_corpus(Path(place) / "corpus")
        became, _ = found_in(Path(place) / "corpus", Path(place) / "L")
    sys.stdout.write(as_table(became))
