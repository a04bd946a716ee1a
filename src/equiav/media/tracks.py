"""The tracks of an open container: which are read, and their packets and frames from any time on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition, Stream

# Decoders need packets before the asked time, and some demuxers land late: each try starts earlier than the last
MARGINS_S = (1.0, 5.0, 30.0, float("inf"))
FOR_FEW = Disposition.hearing_impaired | Disposition.visual_impaired  # tracks that tell what is seen, or heard


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    """The sound track that players take: marked as default, not made for the deaf or the blind; else the first."""
    # a transport stream may hold several programmes: a radio's sound belongs to no picture
    related = container.streams.best("audio", video_stream(container)) if container.format.name == "mpegts" else None
    return related if isinstance(related, av.AudioStream) else min(container.streams.audio, key=_rank, default=None)


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The moving-picture track that players take; a cover picture of a song is none."""
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return min(moving, key=_rank, default=None)


def _rank(stream: Stream) -> tuple[bool, bool]:
    return bool(stream.disposition & FOR_FEW), not stream.disposition & Disposition.default


def tracks_of(container: InputContainer) -> list[av.AudioStream | av.VideoStream]:
    """The tracks that are read."""
    return [stream for stream in (audio_stream(container), video_stream(container)) if stream is not None]


def start_of(container: InputContainer) -> float:
    """The container's start in its own time stamps, in seconds: zero of every time we give."""
    return (container.start_time or 0) / av.time_base


def seek(container: InputContainer, time_s: float, track: av.AudioStream | None = None) -> None:
    """Go to the last entry point at or before `time_s` of the container's own time, of `track` or of the whole.

    Some demuxers refuse times before their first key frame, some land late: callers look at what comes.
    """
    start = container.start_time or 0
    target = start if _misleads(container) else max(int(time_s * av.time_base), start)
    if track is not None and track.time_base:
        with suppress(av.error.FFmpegError):
            container.seek(int(target / av.time_base / track.time_base), stream=track)
            return
    # an MPEG stream has no index: asked for its very start, FFmpeg lands behind the first packets
    first = target if target > start else start - av.time_base
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
            said = (sound.codec_context.bit_rate or 0) * float(first.duration * first.time_base)
            return abs(8 * first.size - said) > 0.01 * 8 * first.size
    return False


def packets(container: InputContainer, *tracks: Stream) -> Iterator[av.Packet]:
    """The packets of these tracks from where the container stands."""
    demuxed = container.demux(*tracks)
    while True:
        try:
            packet = next(demuxed, None)
        except IndexError:
            # another track begins in the middle of the file, which PyAV does not expect: go on behind its packet
            demuxed = container.demux(*tracks)
            continue
        if packet is None:
            return
        yield packet


@dataclass
class Damage:
    """What a decoder could not make sense of."""

    packets: int = 0


def decoded(
    container: InputContainer,
    stream: av.AudioStream | av.VideoStream,
    damage: Damage,
    taken: deque[av.Packet] | None = None,
) -> Iterator[Any]:
    """Decoded frames; a damaged packet is counted and skipped, as players do, and damage to the file ends it.

    Into `taken` go the packets that were decoded, for whoever takes them out again.
    """
    coming = packets(container, stream)
    while True:
        try:
            packet = next(coming, None)
        except av.error.FFmpegError:
            damage.packets += 1
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            damage.packets += 1
            continue
        if taken is not None and packet.size:
            taken.append(packet)
        yield from frames
