"""What a library records:  a clip, a reject, what is known of an item; which clips are of use for which modalities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from equiav.config import Modalities, Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What a clip may be: whole; or both modalities, of which one says nothing; or one modality, the other empty in its row
STATUSES = ("ok", "silent", "still", "no_audio", "no_video")
# Those in which the modalities that one looks at say something
USABLE: dict[Modalities, tuple[str, ...]] = {
    "both": ("ok",),
    "audio": ("ok", "still", "no_video"),
    "visual": ("ok", "silent", "no_audio"),
}
WHOLE = USABLE["both"]
# What clips have, whether or not it says something: all that was stored of them
STORED: dict[Modalities, tuple[str, ...]] = {
    "both": ("ok", "silent", "still"),
    "audio": ("no_video",),
    "visual": ("no_audio",),
}
HAS: dict[Modality, tuple[str, ...]] = {
    "audio": STORED["both"] + STORED["audio"],
    "visual": STORED["both"] + STORED["visual"],
}

# Why an item gave no clip, if it may be different at the next try although the file is the same
TRANSIENT = frozenset({"missing", "unreadable", "changed", "crashed", "timeout"})


@dataclass(frozen=True)
class Clip:
    """One row of clips.lance: a window of one media file."""

    clip_id: str
    item: str  # what of a source the row was made from: `library.manifests.Item.key`
    source: str
    start_s: float
    end_s: float
    labels: list[str]
    split: str
    status: str
    fbank: NDArray[np.float16] | None  # (T, M) raw log-mel; None without sound
    fbank_frames: int  # rows of fbank that are sound; the rest is padding
    fbank_mean: float | None  # mean and mean square over those rows
    fbank_square: float | None
    frames: list[bytes]  # none without picture
    frame_times_s: list[float]
    file_size: int
    file_mtime_ns: int
    item_windows: int = 1  # windows that the item was cut into: fewer rows than this, and it is not done
    item_tail_s: float | None = 0.0  # its end that no window covers; None where an older equiav did not write it down
    origin: str = ""  # the folder, file or table that was ingested
    content: str | None = None  # hash of the whole files it is from; None where an older equiav did not write it down


@dataclass(frozen=True)
class KnownItem:
    """What the library holds of an item."""

    clips: int
    windows: int
    stamp: tuple[int, int]  # of the file: size, modification time
    source: str
    origin: str


@dataclass(frozen=True)
class Reject:
    """One row of rejects.lance: an item that gave no clip, and why."""

    item: str
    path: str
    stage: str
    reason: str
    detail: str
    file_size: int
    file_mtime_ns: int
    origin: str = ""

    def is_final(self, stamp: tuple[int, int], alone: bool) -> bool:
        """Whether reading the file, of this stamp now, would change nothing; `alone`: it is no copy of another."""
        same = (self.file_size, self.file_mtime_ns) == stamp and self.reason not in TRANSIENT
        return same and (alone or self.stage == "probe")
