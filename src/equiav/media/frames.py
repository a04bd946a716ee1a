"""Pictures of a media file on its clock:  path, times → JPEG frames. Picture files: `stills`.

Only what is needed is decoded: the packets of the asked span are read first, so the packet that is shown at each time
is known, decoding begins at the key frame before it, and pictures that no other picture is made from are left out.
Where that gives anything but the very frame that was asked for, the track is played as a player does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from equiav.errors import MediaError
from equiav.media.pixels import frame_jpeg
from equiav.media.probe import MediaInfo, describe
from equiav.media.tracks import (
    FRAME_RATE,
    MARGINS_S,
    RAW,
    Damage,
    decoded,
    in_seconds,
    packets,
    seek,
    start_of,
    video_stream,
)
from equiav.words import counted

SEEK_AHEAD_S = 2.0  # nearer than this, decoding on is cheaper than seeking
MAX_LEAD_S = 0.5  # so much earlier than the first picture sound may begin: that picture stands for what is not there
MAX_GRACE_S = 0.1  # behind the end of the pictures, in frames two
ROUNDING_S = 1e-3  # containers round time stamps to milliseconds
# Codecs whose order of display FFmpeg does not work out in containers that only know the order of decoding
UNTIMED = {"avi": {"h264", "hevc"}, "asf": {"h264", "hevc", "mpeg1video", "mpeg2video"}, "mxf": {"h264", "hevc"}}
MAX_REORDER = 17  # packets; the last of so many to be decoded may be the first to be shown, in any codec
MAX_HELD = 256 * 2**20  # bytes of packets that are held to plan with
# Decoders that take one packet at a time and can leave out a picture that no other one refers to
SKIPPING = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})


def read_frames(
    container: InputContainer,
    path: Path,
    times_s: list[float],
    short_side: int,
    quality: int,
    info: MediaInfo | None = None,
    *,
    keys_s: tuple[float, float] | None = None,
) -> tuple[list[bytes], list[float]]:
    """The frames shown at `times_s` (ascending), as JPEG with at most `short_side` pixels on the short side.

    Returns the pictures, upright and with square pixels, and the times at which each began to show.

    Args:
        keys_s: of this span the key frames nearest to `times_s`, if it has any: they need no other picture decoded.

    Raises:
        MediaError: no_video, corrupt, truncated.
    """
    stream = video_stream(container)
    if stream is None:
        raise MediaError("no_video", f"{path.name} has no picture track")
    info = info or describe(container, path)
    if not stream.codec_context.is_open:
        stream.thread_type = "NONE"
    played = _pick(container, stream, times_s, keys_s) or _play(container, stream, times_s)
    if len(played.shown) < len(times_s):
        reason = "corrupt" if played.damage.packets and not info.cut else "truncated"
        raise MediaError(reason, f"{path.name}: no picture could be decoded at {times_s[len(played.shown)]:.2f} s")
    if not (info.cut and played.ended):
        for asked_s, (since_s, frame) in zip(times_s, played.shown, strict=True):
            # guessed at by the decoder, or staying because the next ones cannot be decoded
            if frame.is_corrupt or played.damage.reaches(since_s, asked_s):
                raise MediaError("corrupt", f"{path.name}: the picture at {asked_s:.2f} s is damaged")
    times = [time_s for time_s, _ in played.shown]
    if times[0] > times_s[-1] + max(MAX_LEAD_S, 2.0 / (info.fps or 1.0)):
        raise MediaError(
            "gap", f"{path.name}: no picture before {times[0]:.2f} s, one at {times_s[-1]:.2f} s is needed"
        )
    _check_last(container, stream, path, info, played, times_s[-1])
    # some containers leave it to the decoder to say
    pixel = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    scaler = VideoReformatter()
    codec = stream.codec_context.name
    jpegs = [frame_jpeg(scaler, frame, short_side, quality, pixel, codec) for _, frame in played.shown]
    return jpegs, [max(time_s, 0.0) for time_s in times]


@dataclass
class _Played:
    shown: list[tuple[float, av.VideoFrame]]  # what is on the screen at each asked time, and since when
    damage: Damage
    ended: bool  # the track was read to its end


class _Timed(NamedTuple):
    """A packet, and when the picture in it begins to show."""

    packet: av.Packet
    time_s: float


def _check_last(
    container: InputContainer, stream: av.VideoStream, path: Path, info: MediaInfo, played: _Played, asked_s: float
) -> None:
    """Refuse a last picture that stays because what should follow is broken or missing; it may be as long as that."""
    since_s, frame_s = played.shown[-1][0], 1.0 / (info.fps or 1.0)
    stays = asked_s - since_s > (0.0 if info.cut else 1.0) + 2 * frame_s
    if stays and played.damage.packets and not (info.cut and played.ended):
        raise MediaError(
            "corrupt", f"{path.name}: {counted(played.damage.packets, 'packet')} of pictures cannot be decoded"
        )
    if not played.ended:
        return
    until_s = _end_of(container, stream, since_s, 2 * frame_s) if info.cut else info.video_end_s or info.duration_s
    if asked_s > max(until_s, since_s) + min(2 * frame_s, MAX_GRACE_S) + (0.0 if info.cut else 1.0):
        raise MediaError("truncated", f"{path.name}: no pictures after {until_s:.2f} s")


def _end_of(container: InputContainer, stream: av.VideoStream, from_s: float, default_s: float) -> float:
    """Until when the last whole packet from `from_s` on says that its picture is shown; `default_s`: if it does not."""
    zero, end_s = start_of(container), from_s
    seek(container, zero + from_s)
    with suppress(av.error.FFmpegError):  # behind damage there is nothing
        for packet in packets(container, stream):
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None and not packet.is_corrupt:
                lasts_s = in_seconds(packet.duration, packet.time_base) if packet.duration else default_s
                end_s = max(end_s, in_seconds(time, packet.time_base) - zero + lasts_s)
    return end_s


def _pick(
    container: InputContainer, stream: av.VideoStream, times_s: list[float], keys_s: tuple[float, float] | None
) -> _Played | None:
    """Decode as few packets as give exactly the pictures shown at `times_s`; None where that is not certain."""
    if _is_untimed(container, stream):
        return None
    held, whole = _hold(container, stream, times_s)
    shown = [entry for entry in held if not entry.packet.is_discard]
    if not shown or len({entry.packet.pts for entry in shown}) < len(shown):
        return None
    shown.sort(key=lambda entry: entry.time_s)
    marks = [entry.time_s for entry in shown]
    # before the first frame of a track, players show that frame
    numbers = np.maximum(np.searchsorted(marks, np.array(times_s) + ROUNDING_S, side="right") - 1, 0)
    first_s, end_s = keys_s or (0.0, 0.0)
    keys = [i for i, entry in enumerate(shown) if entry.packet.is_keyframe and first_s <= entry.time_s < end_s]
    if keys:
        numbers = np.array([min(keys, key=lambda i: abs(marks[i] - time_s)) for time_s in times_s])
        held = [shown[i] for i in keys]
    wanted = {shown[number].packet.pts: shown[number].time_s for number in numbers}
    try:
        frames = _decode_wanted(stream, held, wanted)
    except av.error.FFmpegError:
        return None
    if frames is None:
        return None
    ended = whole and not keys and marks[-1] <= times_s[-1]
    return _Played([(marks[n], frames[shown[n].packet.pts]) for n in numbers], Damage(), ended)


def _hold(container: InputContainer, stream: av.VideoStream, times_s: list[float]) -> tuple[list[_Timed], bool]:
    """The packets from the key frame shown at or before the first time up to the picture after the last one.

    And whether they are all that the track still has.
    """
    zero = start_of(container)
    for margin_s in (0.0, *MARGINS_S):
        from_s = max(times_s[0] - margin_s, 0.0)
        seek(container, zero + from_s)
        held, size, ended = list[_Timed](), 0, True
        try:
            for packet in _settled(container, stream, from_s):
                if packet.size == 0:
                    continue  # the picture before it stays, or the end
                size += packet.size
                if packet.pts is None or packet.dts is None or packet.is_corrupt or size > MAX_HELD:
                    return [], False
                if held or packet.is_keyframe:
                    held.append(_Timed(packet, in_seconds(packet.pts, packet.time_base) - zero))
                # what comes is decoded later, so it is shown later
                if held and in_seconds(packet.dts, packet.time_base) - zero > times_s[-1] + ROUNDING_S:
                    ended = False
                    break
        except av.error.FFmpegError:
            return [], False
        if held and (held[0].time_s <= times_s[0] + ROUNDING_S or from_s == 0):
            return held, ended
    return [], False


def _decode_wanted(
    stream: av.VideoStream, held: list[_Timed], wanted: dict[int | None, float]
) -> dict[int | None, av.VideoFrame] | None:
    """Frames by time stamp; None if one did not come out."""
    decoder, frames, at = stream.codec_context, dict[int | None, av.VideoFrame](), 0
    keys = [(entry.time_s, i) for i, entry in enumerate(held) if entry.packet.is_keyframe]
    skip = decoder.name in SKIPPING
    decoder.flush_buffers()
    try:
        for stamp, time_s in sorted(wanted.items(), key=lambda item: item[1]):
            start = max((i for key_s, i in keys if key_s <= time_s), default=0)
            if start > at and stamp not in frames:
                decoder.flush_buffers()
                at = start
            while stamp not in frames and at < len(held):
                packet = held[at].packet
                decoder.skip_frame = "NONREF" if skip and packet.pts not in wanted else "DEFAULT"
                came = packet.decode()
                if any(frame.is_corrupt for frame in came):
                    return None
                frames |= {frame.pts: frame for frame in came if frame.pts in wanted}
                at += 1
            if stamp not in frames:
                frames |= {frame.pts: frame for frame in decoder.decode(None) if frame.pts in wanted}
                decoder.flush_buffers()
    finally:
        decoder.skip_frame = "DEFAULT"
        decoder.flush_buffers()
    return frames if len(frames) == len(wanted) else None


def _play(container: InputContainer, stream: av.VideoStream, times_s: list[float]) -> _Played:
    """Decode from the key frame before each time on; near times are reached by decoding, far ones by seeking."""
    played = _Played([], Damage(), ended=False)
    frames: Iterator[tuple[float, av.VideoFrame]] = iter(())
    current: tuple[float, av.VideoFrame] | None = None
    ahead: tuple[float, av.VideoFrame] | None = None
    for time_s in times_s:
        if not played.ended and (ahead is None or time_s - ahead[0] > SEEK_AHEAD_S):
            frames, ahead = _start_at(container, stream, time_s, played.damage)
            current = None
        while ahead is not None and ahead[0] <= time_s + ROUNDING_S:
            current, ahead = ahead, next(frames, None)
        played.ended = ahead is None
        # before the first frame of a track, players show that frame
        picture = current or ahead
        if picture is None:
            break
        played.shown.append(picture)
    return played


def _start_at(
    container: InputContainer, stream: av.VideoStream, time_s: float, damage: Damage
) -> tuple[Iterator[tuple[float, av.VideoFrame]], tuple[float, av.VideoFrame] | None]:
    """Frames from one shown at or before `time_s` on, and the first of them."""
    played = _in_order if _is_untimed(container, stream) or _is_sparse(container, stream) else _timed
    for margin_s in (0.0, *MARGINS_S):
        from_s = max(time_s - margin_s, 0.0)
        frames = played(container, stream, damage, from_s)
        first = next(frames, None)
        if (first is not None and first[0] <= time_s + ROUNDING_S) or from_s == 0:
            return frames, first
    raise AssertionError("the last margin starts at 0")


def _timed(
    container: InputContainer, stream: av.VideoStream, damage: Damage, from_s: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames and when each begins to show, from an entry point at or before `from_s` on."""
    time_s, zero = 0.0, start_of(container)
    seek(container, zero + from_s)
    for frame in decoded(container, stream, damage, _settled(container, stream, from_s)):
        # a frame without a time stamp comes one frame after the last
        late = float(1 / (stream.average_rate or FRAME_RATE))
        time_s = time_s + late if frame.time is None else float(frame.time) - zero
        yield time_s, frame


def _settled(container: InputContainer, stream: av.VideoStream, from_s: float) -> Iterator[av.Packet]:
    """The packets from where the container stands, without those whose times are wrong.

    Behind a jump into an MPEG program stream the first block of packed data begins with the rest of a picture, to which
    FFmpeg gives the time of the next one.
    """
    coming = packets(container, stream)
    if container.format.name != "mpeg" or not from_s:
        return coming
    blocks = 0
    for packet in coming:
        blocks += packet.pos is not None
        if blocks > 1 or not packet.size:
            return chain([packet], coming)
    return coming


def _in_order(
    container: InputContainer, stream: av.VideoStream, damage: Damage, from_s: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """The same where packets have no times of display: the n-th picture is shown at the time of the n-th packet."""
    zero, tick = start_of(container), stream.time_base or 0
    coming = _from_key(container, stream, from_s)
    first = list(islice(coming, MAX_REORDER))
    begins = first[0].pts if first and _is_sparse(container, stream) else None
    taken, lost, late = deque[av.Packet](), _leading(stream, first), None
    for frame in decoded(container, stream, damage, chain(first, coming), taken):
        while lost:
            lost -= 1
            taken.popleft()
        at = taken.popleft().dts or 0
        if late is None:
            late = 0 if begins is None else begins - at
        yield float((at + late) * tick) - zero, frame


def _from_key(container: InputContainer, stream: av.VideoStream, from_s: float) -> Iterator[av.Packet]:
    """The packets from the last key frame at or before `from_s` on; seeking may land long before it."""
    seek(container, start_of(container) + from_s)
    coming, tick = _with_times(_settled(container, stream, from_s), stream), stream.time_base or 0
    until, held, size = start_of(container) + from_s + ROUNDING_S, list[av.Packet](), 0
    with suppress(av.error.FFmpegError):  # decoding behind the damage meets it again
        for packet in coming:
            late = float((packet.dts or 0) * tick) > until
            if packet.is_keyframe and not (held and late):
                held, size = [], 0
            if held or packet.is_keyframe:
                held.append(packet)
                size += packet.size
            if held and (late or size > MAX_HELD):
                break
    return chain(held, coming)


def _with_times(coming: Iterator[av.Packet], stream: av.VideoStream) -> Iterator[av.Packet]:
    """Packets with data; one without a time, as there is behind a jump, comes one frame after the one before it."""
    at = None
    for packet in coming:
        if packet.dts is None and at is not None and packet.time_base:
            packet.dts = at + round(1 / (stream.average_rate or FRAME_RATE) / packet.time_base)
        if packet.size and packet.dts is not None:
            at = packet.dts
            yield packet


def _leading(stream: av.VideoStream, first: list[av.Packet]) -> int:
    """How many packets behind a key frame give no picture: it is made from one before that, and shown before it."""
    decoder, came = stream.codec_context, set[int | None]()
    for number, packet in enumerate(first):
        packet.pts = number
    decoder.flush_buffers()
    for packet in (*first, None):
        with suppress(av.error.FFmpegError):
            came |= {frame.pts for frame in decoder.decode(packet)}
    decoder.flush_buffers()
    return next((number for number in range(1, len(first)) if number in came), 1) - 1 if 0 in came else 0


def _is_untimed(container: InputContainer, stream: av.VideoStream) -> bool:
    """Whether FFmpeg guesses when pictures are shown, and wrong: the container only knows their order of decoding."""
    name = container.format.name
    return name in RAW or stream.codec_context.name in UNTIMED.get(name, ())


def _is_sparse(container: InputContainer, stream: av.VideoStream) -> bool:
    """Whether only some pictures may have times: in an MPEG program stream the first of each block of packed data."""
    return container.format.name == "mpeg" and stream.codec_context.name in ("h264", "hevc")
