"""Results that explain themselves:  an evaluation → one JSON with figures, intervals and what they were made of;
two such files → what differs, and whether the differences of the figures are beyond chance.

Items that both results hold under the same ids are compared pair by pair: the bootstrap then resamples the differences
of the items, source by source, which is far sharper than holding two intervals against each other.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError

from equiav._version import __version__
from equiav.errors import ConfigError
from equiav.files import write_text
from equiav.metrics.figures import Figure, mean_figures, source_warning
from equiav.metrics.retrieval import FrozenResult

if TYPE_CHECKING:
    from rich.table import Table

    from equiav.library.table import Library
    from equiav.model.classifier import Classifier
    from equiav.model.equiav import EquiAV


class About(FrozenResult):
    """What a result was made of and on."""

    model: str = Field(description="Fingerprint of weights and config.")
    method: str
    recipe: str = Field(description="Fingerprint of the run's recipe.yaml; empty where the model came without its run.")
    library: str = Field(description="Fingerprint of features and clips.")
    split: str
    protocol: str = Field(description="How a clip became a vector and how it was scored, in words.")
    seed: int
    dtype: str
    precision: str = Field("fp32", description="Of the matrix products that gave the vectors.")
    versions: dict[str, str]
    hardware: dict[str, str]


class Result(FrozenResult):
    """The JSON of an evaluation."""

    schema_version: Literal[1] = 1
    evaluation: str
    about: About
    figures: dict[str, Figure]
    items: list[str] = Field(description="Ids of the queries or clips, in the order of `per_item`.")
    sources: list[int] = Field([], description="A number for each item, equal where two are of one source.")
    per_item: dict[str, list[float]] = Field(description="Figures whose mean over the items they are → their values.")
    details: dict[str, Any] = Field(description="The evaluation's own report.")

    def save(self, path: Path) -> None:
        """Write it whole or not at all.

        Raises:
            ConfigError: the file cannot be written.
        """
        write_text(path, self.model_dump_json(indent=1), ConfigError)

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read one back.

        Raises:
            ConfigError: no such file, or it is no result of this version.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is no result that this equiav wrote: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the whole"
            raise ConfigError(
                f"{path} is no result that this equiav wrote ({place}: {first['msg']}); expected what "
                "`equiav evaluate … --out` stores: measure again with this equiav"
            ) from None


def about(
    model: EquiAV | Classifier, library: Library, split: str, *, protocol: str, seed: int, run: Path | None = None
) -> About:
    """Describe what is being measured, here and now; `run` is the folder that the model came from."""
    recipe = run / "recipe.yaml" if run else None
    parameter, device = next(model.parameters()), model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return About(
        model=model.fingerprint(),
        method=model.config.architecture.method,
        recipe=hashlib.sha256(recipe.read_bytes()).hexdigest()[:16] if recipe and recipe.is_file() else "",
        library=library.fingerprint(),
        split=split,
        protocol=protocol,
        seed=seed,
        dtype=str(parameter.dtype).removeprefix("torch."),
        precision=model.precision,
        versions={"equiav": __version__, "torch": torch.__version__, "python": platform.python_version()},
        hardware={
            "device": name,
            "kind": device.type,
            "threads": str(torch.get_num_threads()),
            "cores": str(os.cpu_count()),
        },
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@dataclass(frozen=True)
class Difference:
    """A figure of two results, second minus first."""

    figure: str
    first: float
    second: float
    low: float | None  # None: there is no interval, what was measured on is of one source
    high: float | None
    paired: bool  # item by item; otherwise from the two intervals, taken as independent

    @property
    def beyond_chance(self) -> bool:
        """Whether the 95 % interval of the difference leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """What differs between two results."""

    settings: dict[str, tuple[str, str]]  # what they were made of, where it is not the same
    differences: list[Difference]
    shared_items: int
    shared_sources: int | None = None  # that the shared items come from; None where no result says so
    notes: list[str] = field(default_factory=list)  # what makes the intervals less sure than they look

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{**vars(found), "beyond_chance": found.beyond_chance} for found in self.differences]
        settings = {name: list(pair) for name, pair in self.settings.items()}
        shared = {"shared_items": self.shared_items, "shared_sources": self.shared_sources}
        return {"settings": settings, **shared, "notes": self.notes, "differences": rows}

    def to_table(self) -> Table:
        """For people."""
        from rich.markup import escape
        from rich.table import Column, Table

        made = "; ".join([*(f"{name}: {a} → {b}" for name, (a, b) in self.settings.items()), *self.notes])
        table = Table(
            Column("", overflow="fold", min_width=20),
            "first",
            "second",
            "difference [95 % interval]",
            "beyond\nchance",  # with it in one line the table is a column wider than 80
            caption=escape(made) or None,
        )
        for found in self.differences:
            ends = "no interval" if found.low is None else f"{found.low:+.3g}, {found.high:+.3g}"
            interval = f"{found.second - found.first:+.3g} [{ends}]"
            way = "" if found.paired else " (unpaired)"
            verdict = "yes" if found.beyond_chance else "no"
            table.add_row(found.figure, f"{found.first:.4g}", f"{found.second:.4g}", interval + way, verdict)
        return table


def compare_results(first: Result, second: Result) -> Comparison:
    """Second minus first, figure by figure.

    Raises:
        ConfigError: they are of different evaluations, or have no figure in common.
    """
    if first.evaluation != second.evaluation:
        raise ConfigError(f"a result of {first.evaluation} cannot be compared with one of {second.evaluation}")
    names = [name for name in first.figures if name in second.figures]
    if not names:
        raise ConfigError(
            "the two results have no figure in common: "
            f"the first has {', '.join(first.figures) or 'none'}, the second {', '.join(second.figures) or 'none'}"
        )
    places = {name: i for i, name in enumerate(second.items)}
    shared = [(i, places[name]) for i, name in enumerate(first.items) if name in places]
    whole = len(shared) == len(first.items) == len(second.items) > 0
    # the same items have the same sources: what one of the results knows of them holds for both
    known = (
        [first.sources[i] for i, _ in shared]
        if first.sources
        else [second.sources[j] for _, j in shared if second.sources]
    )
    sources = np.array(known) if known else None
    differences = [_difference(first, second, name, shared if whole else [], sources) for name in names]
    settings = _settings(first.about, second.about)
    if len(first.items) != len(second.items):  # a rank among fewer is a better one: no gain of the model
        settings["items"] = (str(len(first.items)), str(len(second.items)))
    count = len(set(known)) if known else None
    return Comparison(settings, differences, len(shared), count, _notes(first, second, count if whole else None))


def _notes(first: Result, second: Result, paired_sources: int | None) -> list[str]:
    """What makes the intervals of the differences less sure than they look."""
    notes = []
    if older := [name for name, one in (("first", first), ("second", second)) if one.items and not one.sources]:
        notes.append(
            f"the {' and the '.join(older)} result was stored without sources"
            + ("" if paired_sources else ": clips are taken as independent, though windows of one file are not")
        )
    return notes + source_warning(paired_sources)


def _difference(
    first: Result, second: Result, name: str, pairs: list[tuple[int, int]], sources: np.ndarray | None
) -> Difference:
    a, b = first.figures[name], second.figures[name]
    if pairs and name in first.per_item and name in second.per_item:
        here, there = np.array(first.per_item[name]), np.array(second.per_item[name])
        steps = np.array([there[j] - here[i] for i, j in pairs])
        step = mean_figures({name: steps}, sources)[name]
        return Difference(name, a.value, b.value, step.low, step.high, paired=True)
    gap = b.value - a.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Difference(name, a.value, b.value, None, None, paired=False)
    down = math.hypot(b.value - b.low, a.high - a.value)
    up = math.hypot(b.high - b.value, a.value - a.low)
    return Difference(name, a.value, b.value, gap - down, gap + up, paired=False)


def _settings(first: About, second: About) -> dict[str, tuple[str, str]]:
    ours, theirs = first.model_dump(), second.model_dump()
    return {name: (_text(ours[name]), _text(theirs[name])) for name in ours if ours[name] != theirs[name]}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
