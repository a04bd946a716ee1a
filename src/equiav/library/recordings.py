"""Which clips are windows of one recording:  `source` of a clip  →  the recording's name.

Windows of one recording are alike: they are no independent pieces of evidence, and what was learned from one of them
helps with the others. A recording is a file, or a sample of a tar; files whose names hold the same YouTube id, as the
usual downloaders cut segments out of one video, are one recording.
"""

from __future__ import annotations

import re
from pathlib import PurePath

# An id is 64 bits in 11 characters: the last one has four bits of its own, which lets few other words through
SEGMENT = re.compile(r"Y?([A-Za-z0-9_-]{10}[AEIMQUYcgkosw048])([_-]\d+([._-][\d._-]*)?)?")


def named_file(source: str) -> PurePath:
    """What names a clip: its file, of a clip in pieces its sound, of a sample of a tar the sample."""
    place, _, part = source.rpartition("#")
    if part == "frames":
        return PurePath(place)
    return PurePath(part if place.lower().endswith(".tar") else source)


def recording(source: str) -> str:
    """The recording that a clip of this `source` is a window of."""
    segment = SEGMENT.fullmatch(named_file(source).stem)
    # nearly every id has letters of both cases, and a word in the name of a series has not
    if segment and segment[1] not in (segment[1].lower(), segment[1].upper()):
        return f"youtube:{segment[1]}"
    return source.removesuffix("#frames")
