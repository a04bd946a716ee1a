"""Copies side by side:  Duplicates, thumbnails → one HTML text that fetches nothing until a file of it is played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from equiav.pages.pictures import file_uri
from equiav.pages.render import render
from equiav.search.pairs import COPIES, TITLES, Duplicates, FilePair

SHOWN = 500  # pairs; all are in the JSON


@dataclass(frozen=True)
class Side:
    """A file of a pair; `uri` is where a player finds it, None where none does."""

    source: str
    uri: str | None
    picture: str | None
    start_s: float
    coverage: float


def duplicates_page(found: Duplicates, thumbnails: Mapping[str, bytes], title: str) -> str:
    """The page as HTML text.

    Args:
        found: what `SearchIndex.duplicates` gives.
        thumbnails: of the clips of its pairs, by their ids; of those that are missing no picture is shown.
        title: heading.
    """
    best = {file: group.best for group in found.groups for file in (group.best, *group.copies)}
    pairs = found.pairs[:SHOWN]
    of_groups = [
        (group, _sides([pair for pair in pairs if pair.kind in COPIES and best[pair.a] == group.best], thumbnails))
        for group in found.groups
    ]
    others = {
        text: _sides([pair for pair in pairs if pair.kind == kind], thumbnails)
        for kind, text in TITLES.items()
        if kind not in COPIES
    }
    return render(
        "duplicates.html.jinja",
        title=title,
        found=found,
        groups=[(group, shown) for group, shown in of_groups if shown],
        others={text: shown for text, shown in others.items() if shown},
        titles=TITLES,
        left_out=len(found.pairs) - len(pairs),
    )


def _sides(pairs: Sequence[FilePair], thumbnails: Mapping[str, bytes]) -> list[tuple[FilePair, tuple[Side, Side]]]:
    return [
        (
            pair,
            (
                _side(pair.a, pair.clip_a, pair.start_s, pair.coverage_a, thumbnails),
                _side(pair.b, pair.clip_b, pair.start_s - pair.offset_s, pair.coverage_b, thumbnails),
            ),
        )
        for pair in pairs
    ]


def _side(source: str, clip: str, start_s: float, coverage: float, thumbnails: Mapping[str, bytes]) -> Side:
    path, start_s = Path(source), max(0.0, start_s)
    playable = path.is_absolute() and "#" not in source
    picture = thumbnails.get(clip)
    return Side(
        source=source,
        uri=f"{path.as_uri()}#t={start_s:.2f}" if playable else None,
        picture=file_uri(picture) if picture else None,
        start_s=start_s,
        coverage=coverage,
    )
