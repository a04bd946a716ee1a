"""What is found of copies:  pairs of files, with when and why; groups of whole copies, each with its best file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from equiav.search.copies import Kind
from equiav.words import counted

# whole copies of each other
COPIES: tuple[Kind, ...] = ("same_content", "same_recording")
TITLES: dict[Kind, str] = {
    "same_content": "the same content under two names",
    "same_recording": "the same recording",
    "part_of": "a part of it",
    "shared_part": "a part in common",
    "same_sound": "the same sound with another picture",
    "same_picture": "the same picture with another sound",
    "similar": "similar, but no copy",
}


@dataclass(frozen=True)
class FilePair:
    """Two files that have something in common.

    Attributes:
        a: the longer file.
        b: the other; of `part_of` it is the part.
        kind: what they have in common.
        offset_s: what is at t seconds in `b` is at t + offset_s in `a`.
        start_s: where the common part begins in `a`, in seconds.
        length_s: of the common part.
        audio: mean cosine of the sounds over the common part; None where there is nothing to compare.
        visual: likewise of the pictures.
        sound: how far the sounds themselves are the same, by their spectrograms; None where that was not looked at.
        picture: likewise the pictures.
        coverage_a: share of `a` that lies in the common part.
        coverage_b: likewise of `b`.
        windows: of either file in the common part.
        common: of these, how many are in more than one other recording, and count less for it.
        others: how many other recordings have the most common of them.
        clip_a: a clip of `a` from the middle of the common part, to look at.
        clip_b: the one of `b` beside it.
        score: of files that are like one: the mean over its windows of the nearest cosine in the other file.
    """

    a: str
    b: str
    kind: Kind
    offset_s: float
    start_s: float
    length_s: float
    audio: float | None
    visual: float | None
    sound: float | None
    picture: float | None
    coverage_a: float
    coverage_b: float
    windows: int
    common: int = 0
    others: int = 0
    clip_a: str = ""
    clip_b: str = ""
    score: float | None = None

    @property
    def why(self) -> str:
        """In words."""
        if self.kind == "same_content":
            return "byte for byte the same file"
        rows = (("sound", self.audio, self.sound), ("picture", self.visual, self.picture))
        seen = {name: "" if found is None else f", itself {found:.2f}" for name, _, found in rows}
        said = [f"{name} {score:.3f}{seen[name]}" for name, score, _ in rows if score is not None]
        silent = [name for name, score, _ in rows if score is None]
        text = f"{' and '.join(said) or 'nothing'} over {counted(self.windows, 'window')}"
        if silent:
            text += f"; no {' or '.join(silent)} to compare"
        if self.common:
            text += f"; {self.common} of them in up to {counted(self.others, 'other recording')}, which count less"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"why": self.why}


@dataclass(frozen=True)
class Group:
    """Whole copies of each other: `best` is the longest, of equally long ones the sharpest; `copies` are the others."""

    best: str
    copies: list[str]


@dataclass(frozen=True)
class Duplicates:
    """What was found in a library.

    Attributes:
        files: that were compared.
        windows: their clips.
        missing: clips of the library that are not embedded, and were not compared.
        least_audio: cosine from which on a sound is the same.
        least_visual: likewise a picture.
        pairs: by kind, then by file; of files that are like one, the most similar first.
        groups: by their best file.
    """

    files: int
    windows: int
    missing: int
    least_audio: float
    least_visual: float
    pairs: list[FilePair]
    groups: list[Group]

    @property
    def copies(self) -> list[str]:
        """All files of the groups but the best of each."""
        return sorted(file for group in self.groups for file in group.copies)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        about = {name: value for name, value in asdict(self).items() if name not in ("pairs", "groups")}
        groups = [asdict(group) for group in self.groups]
        return about | {"groups": groups, "pairs": [pair.to_dict() for pair in self.pairs], "copies": self.copies}


def groups_of(pairs: Iterable[FilePair], worth: Callable[[list[str]], dict[str, Any]]) -> list[Group]:
    """Groups of files that whole copies connect.

    Args:
        pairs: of files, of any kind.
        worth: of the files of some groups what can be ordered, and is highest for the best file.
    """
    copies = [(pair.a, pair.b) for pair in pairs if pair.kind in COPIES]
    files = sorted({file for pair in copies for file in pair})
    number = {file: place for place, file in enumerate(files)}
    known, groups = worth(files) if files else {}, defaultdict[int, list[str]](list)
    for file, group in zip(files, connected(len(files), [(number[a], number[b]) for a, b in copies]), strict=True):
        groups[group].append(file)
    found: list[Group] = []
    for group in groups.values():
        best = max(group, key=known.__getitem__)
        found.append(Group(best, [file for file in group if file != best]))
    return sorted(found, key=lambda group: group.best)


def connected(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Of `count` things the number of the group that each is in when these pairs are connected."""
    if not count:
        return []
    edges: Any = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(pairs)), edges), (count, count))
    return connected_components(graph, directed=False)[1].tolist()
