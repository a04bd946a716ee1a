"""A sound file and picture files into one NUT file, packet by packet: nothing is decoded, nothing encoded."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image

from equiav.errors import MediaError
from equiav.media.probe import check_pixels, describe, open_media
from equiav.media.stills import pillow_errors
from equiav.media.tracks import audio_stream, packets, seek, start_of

CODECS = {"JPEG": ("mjpeg", "yuvj420p"), "PNG": ("png", "rgb24")}
MAX_PICTURE_BYTES = 1 << 28
CLOCK = Fraction(1, 90_000)


def join(sound: Path, pictures: Sequence[Path], out: Path) -> None:
    """Write `out`: the sound, and each picture shown for an equal part of it, in their order.

    Raises:
        MediaError: no sound in `sound`, or not all of it; a picture that is missing, damaged, too large or no JPEG or
            PNG like the first; `out` cannot be written.
    """
    with open_media(sound) as source:
        info, track = describe(source, sound), audio_stream(source)
        if track is None or not info.audio_end_s:
            raise MediaError("no_audio", f"{sound.name} has no sound track")
        if info.cut:
            raise MediaError("truncated", f"{sound.name} ends before its headers say")
        kind, width, height = _picture_kind(pictures[0])
        part_s = info.audio_end_s / len(pictures)
        try:
            with av.open(str(out), "w", format="nut") as container:
                audio = container.add_stream_from_template(track)
                visual = container.add_stream(CODECS[kind][0], rate=Fraction(1 / part_s).limit_denominator(1_000_000))
                visual.width, visual.height, visual.pix_fmt, visual.time_base = width, height, CODECS[kind][1], CLOCK
                timed = (_picture_packets(pictures, kind, part_s, visual), _sound_packets(source, track, audio))
                for _, packet in heapq.merge(*timed, key=lambda entry: entry[0]):
                    container.mux(packet)
        except av.error.FFmpegError as error:
            raise MediaError("unreadable", f"{out} cannot be written: {error.strerror or error}") from None
        except ValueError as error:
            raise MediaError("unsupported", f"{sound.name} cannot be joined with pictures: {error}") from None


def _picture_kind(path: Path) -> tuple[str, int, int]:
    """Format and size of a picture that is whole."""
    if not path.is_file():
        raise MediaError("missing", f"there is no picture {path}")
    with pillow_errors(path.name, "JPEG or PNG picture"), Image.open(path, formats=tuple(CODECS)) as picture:
        kind, (width, height) = str(picture.format), picture.size
        check_pixels(path.name, width, height)
        if path.stat().st_size > MAX_PICTURE_BYTES:
            raise MediaError("unsupported", f"{path.name} is larger than {MAX_PICTURE_BYTES >> 20} MiB")
        picture.load()  # FFmpeg would fill up a picture that is cut
    return ("JPEG" if kind == "MPO" else kind), width, height


def _picture_packets(
    pictures: Sequence[Path], kind: str, part_s: float, stream: VideoStream
) -> Iterator[tuple[float, av.Packet]]:
    for number, path in enumerate(pictures):
        if (found := _picture_kind(path)[0]) != kind:
            raise MediaError("unsupported", f"{path.name} is {found}, the clip's first picture is {kind}")
        packet = av.Packet(path.read_bytes())
        packet.stream, packet.time_base, packet.is_keyframe = stream, CLOCK, True
        packet.pts = packet.dts = round(number * part_s / CLOCK)
        packet.duration = round(part_s / CLOCK)
        yield number * part_s, packet


def _sound_packets(
    source: InputContainer, track: av.AudioStream, stream: av.AudioStream
) -> Iterator[tuple[float, av.Packet]]:
    seek(source, start_of(source), track)  # `describe` may have left it at its end
    coming = packets(source, track)
    while True:
        try:
            packet = next(coming, None)
        except av.error.FFmpegError as error:
            raise MediaError("corrupt", f"the sound cannot be read to its end: {error.strerror or error}") from None
        if packet is None:
            return
        if packet.pts is not None and packet.time_base:
            time_s = float(packet.pts * packet.time_base) - start_of(source)
            packet.stream = stream
            yield time_s, packet
