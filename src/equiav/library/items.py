"""What a source asks for:  items, each a media file, a window of one, or a clip that lies there in pieces."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from equiav.errors import ConfigError
from equiav.library.places import BucketPath, Place, place_of

VIDEOS = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpe"}
    | {".264", ".265", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".mjpeg", ".mjpg"}  # bare streams
    | {".m2v", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv"}
)
SOUNDS = frozenset(
    {".aac", ".ac3", ".aif", ".aiff", ".amr", ".ape", ".caf", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg"}
    | {".aifc", ".m4b", ".mp2", ".opus", ".tta", ".w64", ".wav", ".wma", ".wv"}
)
PICTURES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
MEDIA = VIDEOS | SOUNDS | PICTURES
# What a system keeps for itself on a drive or in a share: trash, snapshots, thumbnails and other copies, in any case.
# Hidden folders are left out whatever they are called: these hold what somebody deleted or copied, so they are counted
SYSTEM_FOLDERS = re.compile(
    r"@eadir|#recycle|#snapshot|@sharesnap"  # Synology, TerraMaster
    r"|@recycle|@recently-snapshot|@transcode|\.@__thumb"  # QNAP
    r"|~snapshot|\.snapshots?|\.zfs|\.recycle(\.bin)?"  # NetApp, ZFS (TrueNAS), snapper, Samba, Unraid
    r"|\$recycle\.bin|recycler|system volume information|found\.\d{3}"  # Windows
    r"|lost\+found|\.trash.*"  # Linux and macOS
    r"|__macosx|network trash folder|\.(spotlight|documentrevisions)-v100|\.temporaryitems|\.apple(double|db|desktop)",
    re.IGNORECASE,
)
HELD_OUT = "test"
CUT_SLACK_S = 1.0  # what a downloader may leave at the ends of a segment that it cuts out


@dataclass(frozen=True)
class Member:
    """A file in an uncompressed tar: `size` bytes from `offset` on. Its name says what it is, never where it goes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Item:
    """One thing to ingest: a whole file, or one window of it.

    A clip in pieces has its sound at `path` and its frames at `pictures`, each shown for an equal part of the sound.
    A sample of a tar has the tar at `path` and its own files at `members`: a video, or a sound and pictures.
    """

    path: Place
    labels: tuple[str, ...] = ()
    split: str = "train"
    start_s: float | None = None
    end_s: float | None = None
    name: str = ""  # what a list calls it: it stays the same item when its file has another name or place
    pictures: tuple[Path, ...] = ()
    members: tuple[Member, ...] = ()
    maybe_cut: bool = False  # the file is either the recording that the window lies in, or the window already cut out
    fault: tuple[str, str] | None = None  # reason and detail why it cannot be read, seen when it was listed
    former_keys: tuple[str, ...] = ()  # what older versions called it
    local: Path | None = field(default=None, compare=False)  # a copy of what lies on an object store

    @property
    def key(self) -> str:
        """Stable name of this item: hash of the window, and of the name its list gives it or the absolute path.

        A segment that may be a file of its own is named by its list alone, whichever of the two there is.
        """
        window = (None, None) if self.maybe_cut else (self.start_s, self.end_s)
        return key_of(self.name or self.path.absolute(), *window)

    @property
    def source(self) -> str:
        """The absolute path as text, of a clip in pieces with `#` and what of it."""
        part = f"#{sample_key(self.members[0].name)}" if self.members else "#frames" if self.pictures else ""
        return as_text(Path(f"{self.path}{part}") if part else self.path)

    @property
    def files(self) -> tuple[Place, ...]:
        """Every file that it is read from."""
        return self.path, *self.pictures

    @property
    def one_picture(self) -> bool:
        """Whether a single picture stands for the whole clip: that it does not move says nothing of the recording."""
        return len(self.pictures) == 1 or len(self.members) == 2

    def within(self, duration_s: float) -> Item:
        """This item of a file of `duration_s`: one that is `maybe_cut` and no longer than its window is that window."""
        if not self.maybe_cut or self.start_s is None or self.end_s is None:
            return self
        cut = duration_s <= self.end_s - self.start_s + CUT_SLACK_S
        return replace(self, start_s=None, end_s=None) if cut else self


@dataclass(frozen=True)
class Listing:
    """What a source asks for."""

    source: Place
    items: list[Item]
    ignored: int = 0  # files of a folder that no suffix tells to be media
    labelled: bool = False  # a list: it names labels and splits, and what is missing is known
    system_folders: dict[str, int] = field(default_factory=dict)  # name → how many were left out
    by_folder: bool = False  # the folders that a folder's files lie in are their labels
    hold_out: float = 0.0  # share of the contents whose split is HELD_OUT, whatever their items say


def is_held_out(content: str, share: float) -> bool:
    """Whether a content, by its hash, is among `share` of all: the same in every library, whatever else there is.

    A larger share holds out all that a smaller one does.
    """
    return int(content, 16) < share * 16 ** len(content)


def key_of(name: str | Place, start_s: float | None = None, end_s: float | None = None) -> str:
    """The key of the item of this name and window."""
    return hashlib.sha256(f"{start_s}|{end_s}|".encode() + os.fsencode(str(name))).hexdigest()[:24]


def is_file(path: Place) -> bool:
    """Whether there is such a file, and no folder; False where access is denied: the methods of Path raise there."""
    return not is_absent(path) if isinstance(path, BucketPath) else os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Place) -> bool:
    """Whether it is a folder, of this machine."""
    return not isinstance(path, BucketPath) and os.path.isdir(path)  # noqa: PTH112


def as_text(path: Place) -> str:
    """The absolute path as text; bytes that are no UTF-8 are shown escaped."""
    return os.fsencode(str(path.absolute())).decode("utf-8", "backslashreplace")


def is_absent(path: Place) -> bool:
    """Whether there is no such file; False where access is denied: it may be there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return True
    except OSError:
        return False
    return False


def files_of(source: str) -> Iterator[tuple[Place, str]]:
    """The files that the source of a row may name, and which part of each: any `#` may be the one before the part."""
    marks = [i for i, letter in enumerate(source) if letter == "#"]
    for path, part in [(source, ""), *((source[:i], source[i + 1 :]) for i in marks)]:
        place = place_of(path) if "://" in path else Path(path)
        if is_file(place):
            yield place, part


def sample_key(name: str) -> str:
    """What the members of one sample of a WebDataset share: their path up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".")[0]


def merge(source: Path, items: Iterable[Item]) -> list[Item]:
    """One item for all lines about the same window, with all their labels.

    Raises:
        ConfigError: lines that contradict each other about split or file.
    """
    merged: dict[str, Item] = {}
    for item in items:
        key = item.key
        first = merged.setdefault(key, item)
        if first is item:
            continue
        if first.split != item.split:
            raise ConfigError(f"{source}: {item.path} is in two splits, {first.split!r} and {item.split!r}")
        if first.path != item.path:
            raise ConfigError(f"{source}: two lines have the same id, {first.path} and {item.path}: give each its own")
        merged[key] = replace(first, labels=tuple(dict.fromkeys(first.labels + item.labels)))
    if not merged:
        raise ConfigError(f"{source}: no lines that name a clip")
    return list(merged.values())
