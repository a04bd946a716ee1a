"""Pictures of a media file on its clock:  path, times → JPEG frames. Picture files: `stills`.

Only what is needed is decoded: the packets of the asked span are read first, so the packet that is shown at each time
is known, decoding begins at the key frame before it, and pictures that no other picture is made from are left out.
Where that gives anything but the very frame that was asked for, the track is played as a player does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from equiav.errors import MediaError
from equiav.media.pixels import frame_jpeg
from equiav.media.probe import MediaInfo, describe
from equiav.media.tracks import MARGINS_S, Damage, decoded, packets, seek, start_of, video_stream

SEEK_AHEAD_S = 2.0  # nearer than this, decoding on is cheaper than seeking
ROUNDING_S = 1e-3  # containers round time stamps to milliseconds
UNTIMED = frozenset({"h264", "hevc"})  # codecs whose order of display FFmpeg does not work out without time stamps
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
    times = [time_s for time_s, _ in played.shown]
    if times[0] > times_s[-1] + 2.0 / (info.fps or 1.0):
        raise MediaError("gap", f"{path.name}: no picture before {times[0]:.2f} s, asked for {times_s[-1]:.2f} s")
    # a picture that stays for long is no fault of the file, unless packets are broken or missing after it
    if times_s[-1] - times[-1] > (0.0 if info.cut else 1.0) + 2.0 / (info.fps or 1.0):
        if played.damage.packets and not (info.cut and played.ended):
            raise MediaError("corrupt", f"{path.name}: {played.damage.packets} packets of pictures cannot be decoded")
        if played.ended:
            raise MediaError("truncated", f"{path.name}: no pictures after {times[-1]:.2f} s")
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


@dataclass
class _Held:
    """A packet, and when the picture in it begins to show."""

    packet: av.Packet
    time_s: float


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


def _hold(container: InputContainer, stream: av.VideoStream, times_s: list[float]) -> tuple[list[_Held], bool]:
    """The packets from the key frame shown at or before the first time up to the picture after the last one.

    And whether they are all that the track still has.
    """
    zero = start_of(container)
    for margin_s in (0.0, *MARGINS_S):
        from_s = max(times_s[0] - margin_s, 0.0)
        seek(container, zero + from_s)
        held, size, ended = list[_Held](), 0, True
        try:
            for packet in packets(container, stream):
                if packet.size == 0:
                    continue  # the end
                size += packet.size
                if packet.pts is None or packet.dts is None or packet.is_corrupt or size > MAX_HELD:
                    return [], False
                if held or packet.is_keyframe:
                    held.append(_Held(packet, float(packet.pts * packet.time_base) - zero))
                # what comes is decoded later, so it is shown later
                if held and float(packet.dts * packet.time_base) - zero > times_s[-1] + ROUNDING_S:
                    ended = False
                    break
        except av.error.FFmpegError:
            return [], False
        if held and (held[0].time_s <= times_s[0] + ROUNDING_S or from_s == 0):
            return held, ended
    return [], False


def _decode_wanted(
    stream: av.VideoStream, held: list[_Held], wanted: dict[int | None, float]
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
                frames |= {frame.pts: frame for frame in packet.decode() if frame.pts in wanted}
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
    for margin_s in (0.0, *MARGINS_S):
        from_s = max(time_s - margin_s, 0.0)
        seek(container, start_of(container) + from_s)
        frames = _timed(container, stream, damage)
        first = next(frames, None)
        if (first is not None and first[0] <= time_s + ROUNDING_S) or from_s == 0:
            return frames, first
    raise AssertionError("the last margin starts at 0")


def _timed(container: InputContainer, stream: av.VideoStream, damage: Damage) -> Iterator[tuple[float, av.VideoFrame]]:
    time_s, zero = 0.0, start_of(container)
    taken = deque[av.Packet]() if _is_untimed(container, stream) else None
    for frame in decoded(container, stream, damage, taken):
        # the n-th picture that comes out is shown at the time of the n-th packet that went in
        packet = taken.popleft() if taken else None
        told = frame.time if packet is None or packet.dts is None else packet.dts * packet.time_base
        # a frame without a time stamp comes one frame after the last
        time_s = time_s + float(1 / (stream.average_rate or 25)) if told is None else float(told) - zero
        yield time_s, frame


def _is_untimed(container: InputContainer, stream: av.VideoStream) -> bool:
    """Whether FFmpeg guesses when pictures are shown, and wrong: an AVI only knows their order of decoding."""
    return container.format.name == "avi" and stream.codec_context.name in UNTIMED
