"""What a library holds:  library  →  counts, durations, labels, copies, normalisation, coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from equiav.errors import LibraryError
from equiav.library.coverage import Tails, read_records, tails_of
from equiav.library.table import Library
from equiav.words import counted

COLUMNS = ["source", "start_s", "end_s", "labels", "split", "status", "fbank_frames", "fbank_mean", "fbank_square"]


@dataclass(frozen=True)
class Durations:
    """Lengths of the clips, in seconds; `hours` is all of them together."""

    hours: float
    shortest_s: float
    median_s: float
    longest_s: float


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of a split's log-mel over all sounding frames: what pretraining takes."""

    split: str
    mean: float
    std: float


@dataclass(frozen=True)
class LibraryStats:
    """What a library holds. Counters are sorted, the largest first.

    `copies` counts windows that ingest left out because the same content was there under another name, as the last
    ingest of each source found it; `same_sound` the clips whose spectrogram another clip has too (another picture, or
    another container around the same sound).
    """

    path: str
    clips: int
    files: int
    status: dict[str, int]
    splits: dict[str, int]
    labels: dict[str, int]
    unlabelled: int
    durations: Durations
    normalisation: list[Normalisation]
    copies: int
    same_sound: int
    tails: Tails
    rejects: dict[str, int]
    sources: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def to_table(self) -> Table:
        """The figures for a terminal; of the labels the most frequent ones."""
        table = Table(title=escape(self.path), title_justify="left", show_header=False)
        for name, text in self.lines():
            table.add_row(name, escape(text))
        return table

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each figure, in words."""
        long = self.durations
        normal = [f"{one.split}: mean {one.mean:.3f}, std {one.std:.3f}" for one in self.normalisation]
        lines = [
            ("clips", f"{self.clips:,} of {counted(self.files, 'file')}, {long.hours:.2f} h"),
            ("duration", f"{long.shortest_s:.2f} to {long.longest_s:.2f} s, median {long.median_s:.2f} s"),
            ("status", _counted(self.status)),
            ("split", _counted(self.splits)),
            ("labels", f"{len(self.labels)}: {_counted(self.labels, 10)}" if self.labels else "none"),
            ("without label", str(self.unlabelled)),
            ("log-mel", "; ".join(normal) or "no sound"),
            (
                "copies",
                f"{counted(self.copies, 'window')} left out, "
                f"{counted(self.same_sound, 'clip')} with the sound of another",
            ),
            ("tails", str(self.tails)),
            ("rejects", f"{sum(self.rejects.values())}: {_counted(self.rejects)}" if self.rejects else "none"),
        ]
        for source in self.sources:
            parts = [
                f"{one['split']}: {one['found']} of {one['listed']} found, {one['unreadable']} unreadable"
                for one in source["coverage"]
            ]
            lines += [("coverage", f"{source['source']}: {'; '.join(parts)}")] if parts else []
        return lines


def library_stats(library: Library) -> LibraryStats:
    """Count everything, whatever its status.

    Raises:
        LibraryError: there are no clips.
    """
    table = library.take(range(len(library.all_ids())), COLUMNS)
    if not len(table):
        raise LibraryError(f"{library.path} has no clips yet: equiav ingest VIDEOS --library {library.path}")
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in COLUMNS}
    lengths = np.array(columns["end_s"]) - np.array(columns["start_s"])
    sounds = zip(columns["fbank_frames"], columns["fbank_mean"], columns["fbank_square"], strict=True)
    # two sums of 10^5 numbers that agree to the last bit are of the same numbers
    same = Counter(sound for sound in sounds if sound[0])
    sources = read_records(library.path)
    return LibraryStats(
        path=str(library.path),
        clips=len(table),
        files=len(set(columns["source"])),
        status=_sorted(columns["status"]),
        splits=_sorted(columns["split"]),
        labels=_sorted([label for labels in columns["labels"] for label in labels]),
        unlabelled=sum(not labels for labels in columns["labels"]),
        durations=Durations(
            float(lengths.sum()) / 3600, float(lengths.min()), float(np.median(lengths)), float(lengths.max())
        ),
        normalisation=_normalisation(library, sorted(set(columns["split"]))),
        copies=sum(source["duplicates"] for source in sources),
        same_sound=sum(count for count in same.values() if count > 1),
        tails=tails_of(library.tails().values(), library.features),
        rejects=_sorted([reject.reason for reject in library.rejects()]),
        sources=list(sources),
    )


def _normalisation(library: Library, splits: Sequence[str]) -> list[Normalisation]:
    found = []
    for split in splits:
        try:
            found.append(Normalisation(split, *library.log_mel_stats(split)))
        except LibraryError:  # all silence, or no clip with sound and picture: there is nothing to normalise by
            continue
    return found


def _sorted(values: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0])))


def _counted(counts: dict[str, int], most: int = 100) -> str:
    parts = [f"{name} {count}" for name, count in list(counts.items())[:most]]
    return ", ".join(parts) + (", …" if len(counts) > most else "")
