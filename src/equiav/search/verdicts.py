"""What the second look says of matches:  files that the embeddings match, their stored clips → kinds, exact offsets.

Of the common part three windows are looked at, spread evenly over it (`search.confirm`), and the middle one of their
similarities counts. More is asked of a modality that is the same alone. A match in which none is, is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from equiav.search.confirm import bands_of, compare_pictures, compare_sounds, looks_of
from equiav.search.copies import WHOLE, Kind, Match, Windows, overlap
from equiav.search.gathered import Gathered

if TYPE_CHECKING:
    from jaxtyping import Float32

    from equiav.search.confirm import Looks

WINDOWS = 3  # of a match that are looked at
# Similarities, chosen on copies of nine kinds of 96 clips of the toy world
SAME, TOGETHER = 0.7, 0.83  # where both modalities are the same: of each, and the mean of both
ALONE = 0.93  # of one that is the same alone
AT_ONCE = 64  # matches whose clips are in memory: of ten-second clips 150 MB
COLUMNS = ["fbank_frames", "frames", "frame_times_s"]


class _Clip(NamedTuple):
    """What is compared of a clip; each is None where it says nothing."""

    bands: Float32[np.ndarray, "t B"] | None
    frames: list[bytes]
    times_s: list[float]


@dataclass(frozen=True)
class Verdict:
    """A match that holds; `sound` and `picture` are similarities, None where there is nothing to compare."""

    match: Match
    sound: float | None
    picture: float | None


def verdicts(
    gathered: Gathered,
    windows: Windows,
    matches: Sequence[Match],
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Verdict]:
    """Those of the matches that hold, with the kind that they are and their exact offset.

    Args:
        gathered: the library's windows.
        windows: the same, as they were compared.
        matches: of whole files or parts.
        on_progress: called with (matches looked at so far, all).
    """
    for first in range(0, len(matches), AT_ONCE):
        part = matches[first : first + AT_ONCE]
        looked = [np.unique(np.linspace(0, len(match.rows) - 1, WINDOWS).round().astype(int)) for match in part]
        wanted = {int(i) for match, at in zip(part, looked, strict=True) for i in (*match.rows[at], *match.columns[at])}
        clips, looks = _read(gathered, windows, sorted(wanted)), dict[tuple[int, int], Any]()
        for match, at in zip(part, looked, strict=True):
            pairs = zip(match.rows[at].tolist(), match.columns[at].tolist(), strict=True)
            found = _looked_at(windows, clips, looks, match, list(pairs))
            if found:
                yield found
        if on_progress:
            on_progress(first + len(part), len(matches))


def _read(gathered: Gathered, windows: Windows, numbers: list[int]) -> dict[int, _Clip]:
    """The stored clips of some windows."""
    library, rows = gathered.library, gathered.numbers[numbers].tolist()
    order = np.argsort(rows)
    table = library.take([rows[i] for i in order], [*COLUMNS, "fbank"])
    clips: dict[int, _Clip] = {}
    for place, i in enumerate(order):
        number, row = numbers[i], table.slice(place, 1)
        about = row.select(COLUMNS).to_pylist()[0]
        bands = None
        if windows.has["audio"][number] and windows.says["audio"][number]:
            bands = bands_of(library.fbanks(row)[0], about["fbank_frames"])
        seen = windows.has["visual"][number] and windows.says["visual"][number]
        clips[number] = _Clip(bands, about["frames"] if seen else [], about["frame_times_s"])
    return clips


def _looked_at(
    windows: Windows,
    clips: dict[int, _Clip],
    looks: dict[tuple[int, int], Looks],
    match: Match,
    pairs: list[tuple[int, int]],
) -> Verdict | None:
    sounds: list[tuple[float, float]] = []
    for i, j in pairs:
        a, b = clips[i].bands, clips[j].bands
        if a is not None and b is not None:
            shift_s = windows.start_s[i] - windows.start_s[j] - match.offset_s
            similarity, lag_s = compare_sounds(a, b, windows.hop_s / 2)
            sounds.append((similarity, shift_s + lag_s))
    sound, picture = _middle([similarity for similarity, _ in sounds]), None
    offset_s = match.offset_s
    if sound is not None and sound >= SAME:
        offset_s += min(sounds, key=lambda one: abs(one[0] - sound))[1]

    def look(number: int, frame: int) -> Looks:
        if (number, frame) not in looks:
            looks[number, frame] = looks_of(clips[number].frames[frame])
        return looks[number, frame]

    pictures: list[float] = []
    for i, j in pairs:
        if clips[i].frames and clips[j].frames:
            middle = len(clips[j].frames) // 2
            away = np.abs(np.array(clips[i].times_s) - offset_s - clips[j].times_s[middle])
            nearest = np.argsort(away, kind="stable")[:2].tolist()
            pictures.append(max(compare_pictures(look(i, frame), look(j, middle)) for frame in nearest))
    picture = _middle(pictures)
    coverage = match.coverage
    if not match.cut:
        coverage = overlap(windows, match.a, match.b, offset_s) or coverage
    kind = kind_of(sound, picture, coverage)
    changed = replace(match, kind=kind or match.kind, offset_s=offset_s, coverage=coverage)
    return None if kind is None else Verdict(changed, sound, picture)


def kind_of(sound: float | None, picture: float | None, coverage: tuple[float, float]) -> Kind | None:
    """What two files have in common whose sounds and pictures are so far the same; None: nothing."""
    known = [one for one in (sound, picture) if one is not None]
    both = len(known) == 2 and min(known) >= SAME and sum(known) / 2 >= TOGETHER
    if not both and max(known, default=0.0) < ALONE:
        return None
    if sound is not None and picture is not None and not both:
        return "same_sound" if sound > picture else "same_picture"
    if min(coverage) >= WHOLE:
        return "same_recording"
    return "part_of" if max(coverage) >= WHOLE else "shared_part"


def _middle(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
