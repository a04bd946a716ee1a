"""What a media file holds, read from its headers:  path → MediaInfo, or a MediaError with one of REASONS.

Only local files are opened, through demuxers of a list: no URLs, no playlists, nothing that opens further files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from equiav.errors import MediaError

REASONS = {
    "missing": "there is no such file, or it is not a regular file",
    "unreadable": "the operating system does not let us read it",
    "empty_file": "it has zero bytes",
    "not_media": "its content is no known media format",
    "no_audio": "it has no sound track",
    "no_video": "it has no picture track",
    "truncated": "it ends before its own headers say",
    "corrupt": "its content cannot be decoded",
    "too_short": "nothing of it falls into the asked window, or less than one spectrogram frame",
    "unsupported": "it is larger than the limits on pixels, streams or channels",
    "crashed": "the decoder's process died on it",
}
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,wav,w64,aiff,mp3,flac,aac,ac3,caf,"
    "mxf,nut,dv,h264,hevc,gif,image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
MAX_PIXELS = 16384 * 8640
MAX_STREAMS = 64
MAX_CHANNELS = 64


@dataclass(frozen=True)
class MediaInfo:
    """What the headers say. Times count from the container's start, in seconds; None where there is no such track."""

    duration_s: float
    audio_end_s: float | None
    video_end_s: float | None
    sample_rate: int | None
    channels: int | None
    width: int | None
    height: int | None
    fps: float | None


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a local media file; whatever FFmpeg says against it becomes a MediaError."""
    try:
        if not path.is_file():
            raise MediaError("missing", f"{path} is not a regular file")
        if path.stat().st_size == 0:
            raise MediaError("empty_file", f"{path.name} has zero bytes")
        with path.open("rb") as file:
            head = file.read(12)
    except PermissionError:
        raise MediaError("unreadable", f"no permission to read {path}") from None
    options = {"protocol_whitelist": "file", "format_whitelist": DEMUXERS}
    try:
        # "file:" makes any name a plain path: a leading dash, a colon or a percent sign means nothing
        container = av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        said = error.strerror or str(error)
        if head[4:8] == b"ftyp" and isinstance(error, av.error.InvalidDataError):
            raise MediaError(
                "truncated", f"{path.name} starts as an MP4 but its index is missing or cut ({said})"
            ) from None
        if isinstance(error, av.error.InvalidDataError):
            raise MediaError("not_media", f"{path.name} is not in a known media format ({said})") from None
        raise MediaError("corrupt", f"{path.name} cannot be opened: {said}") from None
    try:
        with container:
            yield container
    except av.error.FFmpegError as error:
        raise MediaError("corrupt", f"{path.name} cannot be decoded: {error.strerror or error}") from None


def probe(path: Path) -> MediaInfo:
    """Read the headers of `path`.

    Raises:
        MediaError: not a readable media file, or beyond the limits.
    """
    with open_media(path) as container:
        return describe(container, path)


def describe(container: InputContainer, path: Path) -> MediaInfo:
    """What the headers of an open container say, checked against the limits."""
    audio = container.streams.audio[0] if container.streams.audio else None
    video = video_stream(container)
    ends = {stream: _end_s(container, stream) for stream in (audio, video) if stream is not None}
    if len(container.streams) > MAX_STREAMS:
        raise MediaError("unsupported", f"{path.name} has {len(container.streams)} streams, at most {MAX_STREAMS}")
    if video is not None and video.width * video.height > MAX_PIXELS:
        raise MediaError("unsupported", f"{path.name} says {video.width}x{video.height} pixels, at most {MAX_PIXELS}")
    if audio is not None and audio.channels > MAX_CHANNELS:
        raise MediaError("unsupported", f"{path.name} has {audio.channels} channels, at most {MAX_CHANNELS}")
    whole = (container.duration or 0) / av.time_base
    return MediaInfo(
        duration_s=max([whole, *(end for end in ends.values() if end)]),
        audio_end_s=None if audio is None else ends[audio] or whole,
        video_end_s=None if video is None else ends[video] or whole,
        sample_rate=audio.rate if audio else None,
        channels=audio.channels if audio else None,
        width=video.width if video else None,
        height=video.height if video else None,
        fps=float(video.average_rate) if video is not None and video.average_rate else None,
    )


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The first moving-picture track; a cover picture of a song is none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def start_of(container: InputContainer) -> float:
    """The container's start in its own time stamps, in seconds: zero of every time we give."""
    return (container.start_time or 0) / av.time_base


def _end_s(container: InputContainer, stream: av.AudioStream | av.VideoStream) -> float:
    if not stream.duration or not stream.time_base:
        return 0.0
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - start_of(container)
