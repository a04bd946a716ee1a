"""The tracks of an open container: which are read, and their packets and frames from any time on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition, Stream

# Checks of the sums that some codecs carry; without them FFmpeg plays what is damaged
CHECKED = {"flac": "crccheck+explode", "ac3": "crccheck", "eac3": "crccheck"}
FRAME_RATE = 25  # of a track that does not say it
# Decoders need packets before the asked time, and some demuxers land late: each try starts earlier than the last
MARGINS_S = (1.0, 5.0, 30.0, float("inf"))
RAW = frozenset({"h264", "hevc", "m4v", "mjpeg", "mpegvideo"})  # demuxers of bare streams, which have no times at all
FOR_FEW = Disposition.hearing_impaired | Disposition.visual_impaired  # tracks that tell what is seen, or heard


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    """The sound track that players take: one that can be decoded, marked as default, not for the hard of hearing."""
    # a transport stream may hold several programmes: a radio's sound belongs to no picture
    related = container.streams.best("audio", video_stream(container)) if container.format.name == "mpegts" else None
    if isinstance(related, av.AudioStream) and _is_readable(related):
        return related
    return min(container.streams.audio, key=_rank, default=None)


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The moving-picture track that players take, one that can be decoded; a cover picture of a song is none."""
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return min(moving, key=_rank, default=None)


def _rank(stream: av.AudioStream | av.VideoStream) -> tuple[bool, bool, bool, bool]:
    one_picture = isinstance(stream, av.VideoStream) and stream.frames == 1  # a cover that is not marked as one
    marked = bool(stream.disposition & Disposition.default)
    return not _is_readable(stream), one_picture, bool(stream.disposition & FOR_FEW), not marked


def _is_readable(stream: av.AudioStream | av.VideoStream) -> bool:
    """Whether there is a decoder for it, and its headers say what it decodes to."""
    if stream.codec_context is None:
        return False
    return bool(stream.channels if isinstance(stream, av.AudioStream) else stream.width)


def tracks_of(container: InputContainer) -> list[av.AudioStream | av.VideoStream]:
    """The tracks that are read."""
    return [stream for stream in (audio_stream(container), video_stream(container)) if stream is not None]


def start_of(container: InputContainer) -> float:
    """The container's start in its own time stamps, in seconds: zero of every time we give."""
    return (container.start_time or 0) / av.time_base


def in_seconds(ticks: int, tick: Fraction) -> float:
    """A time stamp in seconds: the same as `float(ticks * tick)`, which takes ten times as long."""
    return ticks * tick.numerator / tick.denominator


def seek(container: InputContainer, time_s: float, track: av.AudioStream | None = None) -> None:
    """Go to the last entry point at or before `time_s` of the container's own time, of `track` or of the whole.

    Some demuxers refuse times before their first key frame, some land late: callers look at what comes.
    """
    if container.format.name in RAW:
        container.seek(0, unsupported_byte_offset=True)  # times are counted from the first picture on
        return
    start = container.start_time or 0
    target = start if _misleads(container) else max(int(time_s * av.time_base), start)
    if track is not None and track.time_base:
        with suppress(av.error.FFmpegError):
            container.seek(int(target / av.time_base / track.time_base), stream=track)
            return
    # an MPEG stream has no index: asked for its very start, FFmpeg lands behind the first packets; in an ASF it does so
    # asked for any time but zero, where its own index names the packet behind that of the first picture
    before = 0 if container.format.name == "asf" else start - av.time_base
    first = target if target > start else before
    for offset, backward in ((first, True), (start, True), (start, False)):
        with suppress(av.error.FFmpegError):
            container.seek(offset, backward=backward)
            return


def _misleads(container: InputContainer) -> bool:
    """Whether a WAV says another byte rate than its packets have, as FFmpeg writes ADPCM: it would seek by that."""
    sound = container.streams.audio[0] if container.format.name == "wav" else None
    if sound is None or sound.codec_context is None or sound.codec_context.name.startswith("pcm_"):
        return False
    with suppress(av.error.FFmpegError):
        container.seek(container.start_time or 0)
        first = next(packets(container, sound), None)
        if first is not None and first.size and first.duration:
            expected = (sound.codec_context.bit_rate or 0) * float(first.duration * first.time_base)
            return abs(8 * first.size - expected) > 0.01 * 8 * first.size
    return False


def packets(container: InputContainer, *tracks: Stream) -> Iterator[av.Packet]:
    """The packets of these tracks from where the container stands; those of a bare stream are given their times."""
    demuxed, at, without_times = container.demux(*tracks), 0, container.format.name in RAW
    while True:
        try:
            packet = next(demuxed, None)
        except IndexError:
            # another track begins in the middle of the file, which PyAV does not expect: go on behind its packet
            demuxed = container.demux(*tracks)
            continue
        if packet is None:
            return
        if without_times and packet.size and packet.time_base:
            packet.pts, packet.dts = None, at
            at += packet.duration or round(1 / (tracks[0].average_rate or FRAME_RATE) / packet.time_base)
        yield packet


@dataclass
class Damage:
    """What a decoder could not make modality of, or only by guessing; times in seconds from the container's start."""

    packets: int = 0
    at_s: list[float] = field(default_factory=list)  # of damaged packets and frames
    keys_s: list[float] = field(default_factory=list)  # of whole key frames, behind which damage is over
    blank_s: list[float] = field(default_factory=list)  # of packets of sound that gave none, without an error
    inside_s: list[float] = field(default_factory=list)  # of damage between sound that can be decoded

    def note(self, packet: av.Packet, frames: list[Any], at_s: float, zero: float | None) -> None:
        """Look at what a packet of `at_s` decoded to; `zero`, if the frames' own times can be trusted."""
        guessed = [frame.time for frame in frames if frame.is_corrupt]
        if guessed or packet.is_corrupt:
            self.packets += 1
            times = [time - zero for time in guessed if time is not None] if zero is not None else []
            self.at_s += times or [at_s]
        if packet.is_keyframe and not packet.is_corrupt:
            self.keys_s.append(at_s)

    def reaches(self, since_s: float, asked_s: float) -> bool:
        """Whether the picture shown since `since_s` is made from damage, or stays at `asked_s` because of it."""
        return any(at_s <= asked_s and not any(at_s < key_s <= since_s for key_s in self.keys_s) for at_s in self.at_s)


def _time_of(packet: av.Packet, zero: float, *, in_order: bool) -> float:
    """When it is shown or heard; where pictures are known by their order, the time of display of a packet is none."""
    time = packet.dts if packet.pts is None or in_order else packet.pts
    return -inf if time is None else in_seconds(time, packet.time_base) - zero


def decoded(
    container: InputContainer,
    stream: av.AudioStream | av.VideoStream,
    damage: Damage,
    coming: Iterator[av.Packet] | None = None,
    taken: deque[av.Packet] | None = None,
) -> Iterator[Any]:
    """Decoded frames; a damaged packet is noted and skipped, as players do, and damage to the file ends it.

    Args:
        coming: the packets, if not those from where the container stands.
        taken: packets that were decoded are appended to it; the caller takes them out again.
    """
    coming, codec = packets(container, stream) if coming is None else coming, stream.codec_context
    zero, sound = start_of(container), isinstance(stream, av.AudioStream)
    if not codec.is_open and codec.name in CHECKED:
        codec.options = {"err_detect": CHECKED[codec.name]}
    while True:
        try:
            packet = next(coming, None)
        except av.error.FFmpegError:
            damage.packets += 1
            return
        if packet is None:
            break
        if not packet.size:
            continue  # the picture before it stays: to a decoder an empty packet would say that the track is over
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            damage.packets += 1
            damage.at_s.append(_time_of(packet, zero, in_order=taken is not None))
            continue
        # of sound, whose packets are many and small, all is well but for these; no key frame is asked for
        if not (sound and frames) or packet.is_corrupt or any(frame.is_corrupt for frame in frames):
            at_s = _time_of(packet, zero, in_order=taken is not None)
            damage.note(packet, frames, at_s, None if taken is not None else zero)
            if sound and not frames:
                damage.blank_s.append(at_s)
        if taken is not None:
            taken.append(packet)
        yield from frames
    end = av.Packet()
    end.stream, end.time_base = stream, stream.time_base or Fraction(1, av.time_base)
    try:
        yield from end.decode()
    except av.error.FFmpegError:
        damage.packets += 1
