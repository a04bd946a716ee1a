"""What was measured of a run:  RUN/retrieval.json, RUN/report/equivariance.json → the figures that the page shows.

`equiav evaluate retrieval --out RUN/retrieval.json` and `equiav diagnose` write them. A file that is there is always
spoken of: one that was measured with other weights is stale, one that is no report is damaged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from equiav.errors import ConfigError
from equiav.evaluate.results import Result
from equiav.evaluate.retrieval import RetrievalReport
from equiav.metrics.figures import Figure, beats_all, seen_warning, source_warning
from equiav.serve.schemas import Displacement, Equivariance, NamedFigure, Report, ReportState, Retrieval
from equiav.serve.sources import without_folders

RETRIEVAL, EQUIVARIANCE = Path("retrieval.json"), Path("report", "equivariance.json")
BYTES = 64 << 20  # of a file that is read: a hundred thousand clips
WAYS = ("audio_to_visual", "visual_to_audio")

P = TypeVar("P", Retrieval, Equivariance)

log = logging.getLogger(__name__)


class Reports:
    """Of one run; a file is read again when it is written again."""

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._kept: dict[Path, tuple[tuple[int, int], Any]] = {}

    def get(self) -> Report:
        """What there is now."""
        if self._folder is None:
            return Report(retrieval=None, equivariance=None)
        return Report(
            retrieval=self._read(self._folder / RETRIEVAL, _retrieval, Retrieval),
            equivariance=self._read(self._folder / EQUIVARIANCE, _equivariance, Equivariance),
        )

    def _read(self, path: Path, parse: Callable[[Path], tuple[str, P]], kind: type[P]) -> P | None:
        try:
            found = path.stat()
        except OSError:
            return None
        stamp = (found.st_size, found.st_mtime_ns)
        if self._kept.get(path, (None,))[0] != stamp:
            self._kept[path] = stamp, self._parse(path, found.st_size, parse, kind)
        return self._kept[path][1]

    def _parse(self, path: Path, size: int, parse: Callable[[Path], tuple[str, P]], kind: type[P]) -> P:
        try:
            if size > BYTES:
                raise ConfigError(f"{path} has {size} bytes, a report has at most {BYTES}")
            model, shown = parse(path)
        except (ConfigError, ValidationError, OSError, UnicodeDecodeError) as error:
            log.warning("%s is no report that this equiav wrote: %s", path, error)
            return kind(state=ReportState.DAMAGED)
        return shown if model == self._fingerprint else shown.model_copy(update={"state": ReportState.STALE})


def _retrieval(path: Path) -> tuple[str, Retrieval]:
    """A stored result → the fingerprint of its model, and what is shown."""
    result = Result.load(path)
    if result.evaluation != "retrieval":
        raise ConfigError(f"{path} is a result of {result.evaluation}, not of retrieval")
    kept_apart = {"clip_ids": result.items, "clip_sources": result.sources}
    parts = {way: result.details.get(way) for way in WAYS}
    ways = {way: part | {"ranks": []} if isinstance(part, dict) else part for way, part in parts.items()}
    report = RetrievalReport.model_validate(result.details | ways | kept_apart)
    figures = []
    for way in WAYS:
        for name, found in getattr(report, way).estimates().items():
            own = result.figures.get(f"{way}.{name}")
            figures.append(_named(name, own or found, way=way, chance=found.chance))
    return result.about.model, Retrieval(
        split=report.split,
        clips=report.clips,
        protocol=without_folders(result.about.protocol),
        figures=figures,
        warnings=[without_folders(text) for text in report.warnings],
    )


class _Row(BaseModel):
    transform: str
    predictor: dict[str, Figure | None]
    margins: dict[str, Figure | None]


class _Table(BaseModel):
    question: str
    space: str
    rows: list[_Row]


class _Branch(BaseModel):
    tables: list[_Table]


class _About(BaseModel):
    model: str
    split: str | None
    clips: int
    sources: int | None = None
    trained_on: int | None = None


class _Diagnosis(BaseModel):
    """Of the JSON of `equiav diagnose`, what is shown."""

    about: _About
    figures: dict[str, Figure | float]
    branches: dict[str, _Branch]
    alarms: dict[str, str]


def _equivariance(path: Path) -> tuple[str, Equivariance]:
    """The JSON of a diagnosis → likewise."""
    found = _Diagnosis.model_validate_json(path.read_bytes())
    about = found.about
    return about.model, Equivariance(
        split=about.split,
        clips=about.clips,
        figures=[_named(name, value) for name, value in found.figures.items()],
        transforms=[
            Displacement(
                modality=modality,
                question=table.question,
                transform=row.transform,
                cosine=_named("cosine", cosine) if (cosine := row.predictor.get("cosine")) else None,
                beats_all=beats_all(row.margins.values()),
            )
            for modality, branch in found.branches.items()
            for table in branch.tables
            if table.space == "intra"
            for row in table.rows
        ],
        alarms=found.alarms,
        warnings=source_warning(about.sources) + seen_warning(about.trained_on, about.clips),
    )


def _named(name: str, found: Any, *, way: str | None = None, chance: float | None = None) -> NamedFigure:
    if isinstance(found, float):
        return NamedFigure(name=name, value=found)
    ends = {"low": found.low, "high": found.high, "n": getattr(found, "n", None)}
    return NamedFigure(name=name, way=way, value=found.value, chance=chance, **ends)
