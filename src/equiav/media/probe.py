"""What a media file holds, read from its headers and its last packets:  path → MediaInfo, or a MediaError.

Only local files are opened, through demuxers of a list: no URLs, no playlists, nothing that opens further files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer

from equiav.errors import MediaError
from equiav.media.sizes import Sizes, ends_in_a_fragment, sizes_of, view_of
from equiav.media.tracks import RAW, audio_stream, in_seconds, packets, seek, start_of, tracks_of, video_stream

REASONS = {
    "missing": "there is no such file, or it is not a regular file",
    "unreadable": "the operating system does not let us read it, or it is a folder",
    "empty_file": "it has zero bytes",
    "not_media": "its content is no known media format",
    "no_audio": "it has no sound track, and sound is needed",
    "no_video": "it has no picture track, and pictures are needed",
    "truncated": "it is shorter than its own headers say",
    "corrupt": "its content cannot be decoded",
    "gap": "most of the window has no sound",
    "too_short": "nothing of it, or less than one spectrogram frame, lies in the window",
    "too_long": "it is longer than the limit; name the parts to take with start_s and end_s in a CSV",
    "unsupported": "a codec or container we do not read, or larger than the limits on pixels, streams or channels",
    "changed": "it was changed while it was read",
    "crashed": "the decoder's process died on it",
    "timeout": "decoding it took longer than the limit",
    "memory": "decoding it took more memory than the limit",
}
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,wav,w64,aiff,mp3,flac,aac,ac3,eac3,"
    "amr,caf,wv,ape,tta,rm,mxf,nut,dv,ivf,h264,hevc,m4v,mjpeg,gif"
)
# The duration in these headers is what the writer wrote, so a file that ends earlier is cut. Elsewhere FFmpeg guesses
# it from the bit rate or reads it off the last packets.
PROMISING = {"mov", "matroska", "avi", "flv", "asf", "flac", "mxf", "nut"}
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
HELD_S = 0.5  # where headers and packets differ by less, packets are right
COVER_S = 0.5  # a single picture that is over so long before the sound is the cover of a song
STRETCHED_S = 0.1  # a packet of sound that says so much more than the others before it holds no more than they do


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
    is_mp4 = head[4:8] == b"ftyp"
    guess: Any = [{"skip_frame": "all"}] * MAX_STREAMS if is_mp4 else None  # PyAV's stubs say a list of str
    view = view_of(path, head)
    try:
        # "file:" makes any name a plain path: a leading dash, a colon or a percent sign means nothing
        source: Any = view or f"file:{path.absolute()}"
        container: Any = av.open(source, options=options, stream_options=guess, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise _explain_refusal(path, head, error) from None
    except ValueError:  # PyAV's, of options for streams that are not there
        raise MediaError("corrupt", f"{path.name} starts as an MP4 but holds no tracks") from None
    try:
        with container, view or nullcontext():
            yield container
    except av.error.FFmpegError as error:
        raise MediaError("corrupt", f"{path.name} cannot be decoded: {error.strerror or error}") from None


def check_pixels(name: str, width: int, height: int) -> None:
    """Refuse pictures that would take too much memory.

    Raises:
        MediaError: unsupported.
    """
    if width * height > MAX_PIXELS:
        raise MediaError("unsupported", f"{name} has {width}x{height} pixels, at most {MAX_PIXELS}")


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
    reason = error.strerror or str(error)
    invalid = isinstance(error, av.error.InvalidDataError)
    if head[4:8] == b"ftyp" and invalid:
        return MediaError("truncated", f"{path.name} starts as an MP4 but its index is missing or cut ({reason})")
    # subtitles, playlists and lists of files have demuxers too
    is_text = b"\0" not in head and head[:1] != b"\x89"
    if invalid or (isinstance(error, av.error.ArgumentError) and is_text):
        return MediaError("not_media", f"{path.name} is not in a known media format ({reason})")
    if isinstance(error, av.error.ArgumentError):
        return MediaError("unsupported", f"{path.name} is in a container that equiav does not read")
    return MediaError("corrupt", f"{path.name} cannot be opened: {reason}")


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
    count = len(container.streams.audio) + len(container.streams.video)  # fonts, subtitles and data cost nothing
    if count > MAX_STREAMS:
        raise MediaError("unsupported", f"{path.name} has {count} sound and picture tracks, at most {MAX_STREAMS}")
    for stream in (audio, video):
        if stream is not None and stream.codec_context is None:
            raise MediaError("unsupported", f"{path.name}: no decoder for its {stream.type} track")
    if video is not None:
        check_pixels(path.name, video.width, video.height)
    if audio is not None and audio.channels > MAX_CHANNELS:
        raise MediaError("unsupported", f"{path.name} has {audio.channels} channels, at most {MAX_CHANNELS}")
    ends, cut = _track_ends(container, path)
    if video is not None and video.index not in ends:
        video = None
    # a bare stream says its rate in its own headers, which FFmpeg takes for a guess
    rate = None if video is None else video.guessed_rate if container.format.name in RAW else video.average_rate
    whole = max(ends.values(), default=0.0)
    return MediaInfo(
        duration_s=whole,
        audio_end_s=None if audio is None else ends[audio.index],
        video_end_s=None if video is None else ends[video.index],
        sample_rate=audio.rate if audio else None,
        channels=audio.channels if audio else None,
        width=video.width if video else None,
        height=video.height if video else None,
        fps=float(rate) if rate else None,
        cut=cut,
    )


def _track_ends(container: InputContainer, path: Path) -> tuple[dict[int, float], bool]:
    """Stream index → its end in seconds: where its packets end, or, if the file is cut, where the headers promise.

    A track with a single picture that is over before the sound is the cover of a song: it has no end here.
    """
    names = set(container.format.name.split(","))
    promised = (container.duration or 0) / av.time_base
    if names & ENDING:
        promised -= max(start_of(container), 0.0)
    headers = {stream.index: _header_end_s(container, stream) for stream in tracks_of(container)}
    sizes = sizes_of(path)
    if sizes is not None and (sizes.sound or sizes.is_open or sizes.share < 1):
        return _ends_by_size(container, path, sizes, max(promised - TAIL_S, 0.0))
    tails = _tails(container, path, 0.0 if names & JOINABLE else max(promised - TAIL_S, 0.0))
    if "mov" in names and ends_in_a_fragment(path):
        return {index: max(tails[index].end_s if index in tails else 0.0, end) for index, end in headers.items()}, True
    needed = promised - max(0.5, 0.01 * promised)
    whole_avi = container.format.name == "avi" and sizes is not None  # maybe of empty pictures at its end
    if names & PROMISING and _last_end_s(tails) < needed and not whole_avi:
        # without an index a demuxer may land behind all that was looked for
        tails = _tails(container, path, 0.0) | tails
        # subtitles or a second sound may last longer than the tracks that we read
        if _last_end_s(tails) < needed and _others_end_s(container) < needed:
            return {index: end or promised for index, end in headers.items()}, True
    if "mov" in names and any(_lacks_samples(stream, path) for stream in tracks_of(container)):
        return {index: end or promised for index, end in headers.items()}, True
    # a track that is over before the tail has no packets there: its header says when, or a look at all packets
    sure = {index: tail for index, tail in tails.items() if not tail.is_stretched}
    if len(sure) < len(tails) or any(index not in tails and not end for index, end in headers.items()):
        tails = _tails(container, path, 0.0) | sure
    ends = {index: tails[index].content_end_s if index in tails else end for index, end in headers.items()}
    return _without_cover(container, tails, _held_by_header(container, headers, ends, whole_avi)), False


def _last_end_s(tails: dict[int, _Tail]) -> float:
    return max((tail.end_s for tail in tails.values()), default=0.0)


def _lacks_samples(stream: av.AudioStream | av.VideoStream, path: Path) -> bool:
    """Whether the index of an MP4 names samples behind the end of the file: other tracks may be whole."""
    size, entries = path.stat().st_size, stream.index_entries
    there = bisect_right(entries, size, key=lambda entry: entry.pos + entry.size)
    if there >= len(entries) or not stream.time_base:
        return False
    missing_s = float((entries[-1].timestamp - entries[there].timestamp) * stream.time_base)
    return missing_s > max(0.5, 0.01 * float(entries[-1].timestamp * stream.time_base))


def _held_by_header(
    container: InputContainer, headers: dict[int, float], ends: dict[int, float], whole_avi: bool
) -> dict[int, float]:
    """Of a last picture that stays, an MP4 with an edit list and an AVI may tell in their headers alone.

    FFmpeg shortens the last packet of the first, and leaves out the empty packets that say it in the other.
    """
    video, audio = video_stream(container), audio_stream(container)
    if video is None or not ("mov" in container.format.name or whole_avi):
        return ends
    held_s = headers[video.index] if audio is None else min(headers[video.index], ends[audio.index])
    return ends | {video.index: held_s} if held_s > ends[video.index] + HELD_S else ends


def _without_cover(container: InputContainer, tails: dict[int, _Tail], ends: dict[int, float]) -> dict[int, float]:
    video, audio = video_stream(container), audio_stream(container)
    if video is None or audio is None or ends[audio.index] - ends[video.index] <= COVER_S:
        return ends
    begins_s = float((video.start_time or 0) * (video.time_base or 0)) - start_of(container)
    tail = tails.get(video.index)
    if video.frames == 1 or (tail is not None and tail.count == 1 and tail.begins_s <= max(begins_s, 0.0)):
        return {index: end for index, end in ends.items() if index != video.index}
    return ends


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


def _ends_by_size(container: InputContainer, path: Path, sizes: Sizes, tail_s: float) -> tuple[dict[int, float], bool]:
    """As `_track_ends`, by how much of the file is there: what other headers say of its duration is often wrong."""
    tails = dict[int, _Tail]() if sizes.is_open else _tails(container, path, tail_s)
    if any(stream.index not in tails for stream in tracks_of(container)):
        tails = _tails(container, path, 0.0) | tails
    if sizes.share == 1:
        return {index: tail.content_end_s for index, tail in tails.items()}, False
    # of a packet that is cut some demuxers give the length of a whole one
    declared_s = (container.duration or 0) / av.time_base or np.inf
    return {index: min(tail.end_s, declared_s) / sizes.share for index, tail in tails.items()}, True


def _header_end_s(container: InputContainer, stream: av.AudioStream | av.VideoStream) -> float:
    if not stream.duration or not stream.time_base:
        return 0.0
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - start_of(container)


@dataclass
class _Tail:
    """What the packets of a track say, from some time on."""

    sound: bool
    begins_s: float = 0.0
    count: int = 0
    end_s: float = 0.0  # where the last of them ends
    content_end_s: float = 0.0  # the same, but no sound lasts longer than its packets do otherwise
    usual_s: float = 0.0  # the longest of those before

    @property
    def is_stretched(self) -> bool:
        """Whether a single packet of sound says that it is longer than sound is packed, and no other tells better."""
        return self.sound and self.count == 1 and self.end_s - self.begins_s > 1.0

    def add(self, at_s: float, lasts_s: float) -> None:
        """Take in the next packet."""
        if not self.count:
            self.begins_s = at_s
        self.end_s = max(self.end_s, at_s + lasts_s)
        # a picture stays for as long as its packet says, a sound is over when its samples are
        if self.sound and self.count and lasts_s > self.usual_s + STRETCHED_S:
            lasts_s = self.usual_s
        self.usual_s = max(self.usual_s, lasts_s)
        self.content_end_s = max(self.content_end_s, at_s + lasts_s)
        self.count += 1


def _tails(container: InputContainer, path: Path, from_s: float) -> dict[int, _Tail]:
    """What the packets from `from_s` on say, by stream; nothing is decoded.

    Raises:
        MediaError: corrupt, if the clock starts again on the way: sound and pictures would be of different recordings.
    """
    tails: dict[int, _Tail] = {}
    latest: dict[int, float] = {}  # by the order of decoding, which only ever grows
    zero = start_of(container)
    seek(container, zero + from_s)
    try:
        for packet in packets(container, *tracks_of(container)):
            index, time = packet.stream.index, packet.dts if packet.pts is None else packet.pts
            tick, dts = packet.time_base, packet.dts
            if not tick:
                continue
            if time is not None or packet.size:
                tail = tails.setdefault(index, _Tail(isinstance(packet.stream, av.AudioStream)))
                at = tail.end_s if time is None else in_seconds(time, tick) - zero
                tail.add(at, in_seconds(packet.duration or 0, tick))
            if dts is not None:
                at = in_seconds(dts, tick) - zero
                if at < latest.get(index, at) - RESTART_S:
                    raise MediaError(
                        "corrupt",
                        f"{path.name}: its clock starts again at {latest[index]:.1f} s: several "
                        "recordings, one behind the other; give each a file of its own",
                    )
                latest[index] = max(latest.get(index, at), at)
    except av.error.FFmpegError:
        return tails  # what is behind the damage cannot be reached by playing either
    return tails
