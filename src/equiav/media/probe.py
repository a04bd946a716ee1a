"""What a media file holds, read from its headers and its last packets:  path → MediaInfo, or a MediaError.

Only local files are opened, through demuxers of a list: no URLs, no playlists, nothing that opens further files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer

from equiav.errors import MediaError
from equiav.media.tracks import audio_stream, packets, seek, start_of, tracks_of, video_stream

REASONS = {
    "missing": "there is no such file, or it is not a regular file",
    "unreadable": "the operating system does not let us read it, or it is a folder",
    "empty_file": "it has zero bytes",
    "not_media": "its content is no known media format",
    "no_audio": "it has no sound track, and sound was asked for",
    "no_video": "it has no picture track, and pictures were asked for",
    "truncated": "it ends before its own headers say",
    "corrupt": "its content cannot be decoded",
    "gap": "most of the window has no sound",
    "too_short": "nothing of it falls into the asked window, or less than one spectrogram frame",
    "too_long": "it is longer than the limit; name the parts to take with start_s and end_s in a CSV",
    "unsupported": "a codec or container we do not read, or larger than the limits on pixels, streams or channels",
    "changed": "it was changed while it was read",
    "crashed": "the decoder's process died on it",
    "timeout": "decoding it took longer than the limit",
    "memory": "decoding it took more memory than the limit",
}
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,wav,w64,aiff,mp3,flac,aac,ac3,eac3,"
    "amr,caf,wv,ape,tta,rm,mxf,nut,dv,ivf,h264,hevc,gif"
)
# The duration in these headers is what the writer wrote, so a file that ends earlier is cut. Elsewhere FFmpeg guesses
# it from the bit rate or reads it off the last packets.
PROMISING = {"mov", "matroska", "avi", "flv", "asf", "wav", "w64", "aiff", "flac", "caf", "mxf", "nut"}
# In these, files written one behind the other are one file, whose clock starts again: all packets are looked at
JOINABLE = {"mpegts", "mpeg", "ogg", "flac", "matroska", "nut"}
RESTART_S = 0.5  # a clock that falls back by more has started again
# Writers of these give the time of the end as duration, others the time from start to end
ENDING = {"matroska", "nut"}
MAX_PIXELS = 16384 * 8640
MAX_DURATION_S = 24 * 3600.0
MAX_STREAMS = 64
MAX_CHANNELS = 64
TAIL_S = 2.0  # how far before the promised end we look for the last packets


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. Times count from the container's start, in seconds; None where there is no such track.

    Where a track ends is read off its last packets; of a file that is cut it is where the headers promise it.
    """

    duration_s: float
    audio_end_s: float | None
    video_end_s: float | None
    sample_rate: int | None
    channels: int | None
    width: int | None
    height: int | None
    fps: float | None
    cut: bool = False  # it ends before its headers say
    picture: bool = False  # a picture file: nothing of it moves


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a local media file; whatever FFmpeg says against it becomes a MediaError."""
    head = read_head(path)
    options = {"protocol_whitelist": "file", "format_whitelist": DEMUXERS}
    # an MP4 says all there is to know in its headers: FFmpeg need not decode a dozen pictures to find it out
    told = head[4:8] == b"ftyp"
    guess: Any = [{"skip_frame": "all"}] * MAX_STREAMS if told else None  # PyAV's stubs say a list of str
    try:
        # "file:" makes any name a plain path: a leading dash, a colon or a percent sign means nothing
        name = f"file:{path.absolute()}"
        container = av.open(name, options=options, stream_options=guess, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise _explain_refusal(path, head, error) from None
    except ValueError:  # PyAV's, of options for streams that are not there
        raise MediaError("corrupt", f"{path.name} starts as an MP4 but holds no tracks") from None
    try:
        with container:
            yield container
    except av.error.FFmpegError as error:
        raise MediaError("corrupt", f"{path.name} cannot be decoded: {error.strerror or error}") from None


def read_head(path: Path) -> bytes:
    """The first kilobyte of a regular file.

    Raises:
        MediaError: missing, unreadable, empty_file.
    """
    try:
        if path.is_dir():
            raise MediaError("unreadable", f"{path} is a folder")
        if not path.is_file():
            raise MediaError("missing", f"there is no regular file {path}")
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise MediaError("unreadable", f"{path} cannot be read: {error.strerror or error}") from None
    if not head:
        raise MediaError("empty_file", f"{path.name} has zero bytes")
    return head


def _explain_refusal(path: Path, head: bytes, error: av.error.FFmpegError) -> MediaError:
    said = error.strerror or str(error)
    invalid = isinstance(error, av.error.InvalidDataError)
    if head[4:8] == b"ftyp" and invalid:
        return MediaError("truncated", f"{path.name} starts as an MP4 but its index is missing or cut ({said})")
    if invalid or (isinstance(error, av.error.ArgumentError) and _is_text(head)):
        return MediaError("not_media", f"{path.name} is not in a known media format ({said})")
    if isinstance(error, av.error.ArgumentError):
        return MediaError("unsupported", f"{path.name} is in a container that equiav does not read")
    return MediaError("corrupt", f"{path.name} cannot be opened: {said}")


def _is_text(head: bytes) -> bool:
    # subtitles, playlists and lists of files have demuxers too
    return b"\0" not in head and head[:1] != b"\x89"


def probe(path: Path) -> MediaInfo:
    """Read the headers and the last packets of `path`.

    Raises:
        MediaError: not a readable media file, or beyond the limits.
    """
    with open_media(path) as container:
        return describe(container, path)


def describe(container: InputContainer, path: Path) -> MediaInfo:
    """What an open container holds, checked against the limits."""
    audio, video = audio_stream(container), video_stream(container)
    if len(container.streams) > MAX_STREAMS:
        raise MediaError("unsupported", f"{path.name} has {len(container.streams)} streams, at most {MAX_STREAMS}")
    for stream in (audio, video):
        if stream is not None and stream.codec_context is None:
            raise MediaError("unsupported", f"{path.name}: no decoder for its {stream.type} track")
    if video is not None and video.width * video.height > MAX_PIXELS:
        raise MediaError("unsupported", f"{path.name} says {video.width}x{video.height} pixels, at most {MAX_PIXELS}")
    if audio is not None and audio.channels > MAX_CHANNELS:
        raise MediaError("unsupported", f"{path.name} has {audio.channels} channels, at most {MAX_CHANNELS}")
    ends, cut = _track_ends(container, path)
    whole = max(ends.values(), default=0.0)
    return MediaInfo(
        duration_s=whole,
        audio_end_s=None if audio is None else ends.get(audio.index, whole),
        video_end_s=None if video is None else ends.get(video.index, whole),
        sample_rate=audio.rate if audio else None,
        channels=audio.channels if audio else None,
        width=video.width if video else None,
        height=video.height if video else None,
        fps=float(video.average_rate) if video is not None and video.average_rate else None,
        cut=cut,
    )


def _track_ends(container: InputContainer, path: Path) -> tuple[dict[int, float], bool]:
    """Stream index → its end in seconds: where its packets end, or, if the file is cut, where the headers promise."""
    names = set(container.format.name.split(","))
    promised = (container.duration or 0) / av.time_base
    if names & ENDING:
        promised -= max(start_of(container), 0.0)
    headers = {stream.index: _header_end_s(container, stream) for stream in tracks_of(container)}
    found = _packet_ends(container, path, 0.0 if names & JOINABLE else max(promised - TAIL_S, 0.0))
    share = _riff_share(path)
    if share < 1:
        return {index: found.get(index, end) / share for index, end in headers.items()}, True
    needed = promised - max(0.5, 0.01 * promised)
    # subtitles or a second sound may last longer than the tracks that we read
    if names & PROMISING and max(found.values(), default=0.0) < needed and _others_end_s(container) < needed:
        return {index: end or promised for index, end in headers.items()}, True
    # a track that is over before the tail has no packets there: its header says when, or a look at all packets
    if any(index not in found and not end for index, end in headers.items()):
        found = _packet_ends(container, path, 0.0) | found
    return {index: found.get(index, end) for index, end in headers.items()}, False


def _others_end_s(container: InputContainer) -> float:
    """Where the packets of the tracks that we do not read end; a subtitle may have begun long before."""
    tracks, zero, end = tracks_of(container), start_of(container), 0.0
    others = [stream for stream in container.streams if stream not in tracks]
    if not others:
        return end
    seek(container, zero)
    with suppress(av.error.FFmpegError):  # behind damage there is nothing
        for packet in packets(container, *others):
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - zero)
    return end


def _riff_share(path: Path) -> float:
    """How much of a WAV or AVI is there; FFmpeg quietly shortens what is cut. 1 where the header does not say."""
    with path.open("rb") as file:
        head = file.read(12)
    declared = int.from_bytes(head[4:8], "little") + 8
    # programs that write to a pipe leave 0 or the largest number
    if head[:4] != b"RIFF" or head[8:] not in (b"WAVE", b"AVI ") or not 64 < declared < 0x7FFFFFFF:
        return 1.0
    return min(path.stat().st_size / declared, 1.0)


def _header_end_s(container: InputContainer, stream: av.AudioStream | av.VideoStream) -> float:
    if not stream.duration or not stream.time_base:
        return 0.0
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - start_of(container)


def _packet_ends(container: InputContainer, path: Path, from_s: float) -> dict[int, float]:
    """Where the packets from `from_s` on end, by stream; nothing is decoded.

    Raises:
        MediaError: corrupt, if the clock starts again on the way: sound and pictures would be of different recordings.
    """
    ends: dict[int, float] = {}
    latest: dict[int, float] = {}  # by the order of decoding, which only ever grows
    zero = start_of(container)
    seek(container, zero + from_s)
    try:
        for packet in packets(container, *tracks_of(container)):
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None and packet.time_base:
                end = float((time + (packet.duration or 0)) * packet.time_base) - zero
                ends[packet.stream.index] = max(ends.get(packet.stream.index, 0.0), end)
            if packet.dts is not None and packet.time_base:
                at = float(packet.dts * packet.time_base) - zero
                if at < latest.get(packet.stream.index, at) - RESTART_S:
                    raise MediaError(
                        "corrupt",
                        f"{path.name}: its clock starts again at {latest[packet.stream.index]:.1f} s: several "
                        "recordings, one behind the other; give each a file of its own",
                    )
                latest[packet.stream.index] = max(latest.get(packet.stream.index, at), at)
    except av.error.FFmpegError:
        return ends  # what is behind the damage cannot be reached by playing either
    return ends
