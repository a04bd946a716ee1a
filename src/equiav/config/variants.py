"""What is compared:  (recipe, key=a,b,c, table, seeds) → one resolved recipe and one folder per variant and seed.

    OUT/VARIANT/seed-0, OUT/VARIANT/seed-1, …

Two variants never share a folder, and no setting is given twice: what a variant is called is what it has.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from equiav.config.loading import RECIPES, load_yaml
from equiav.config.training import Recipe, load_recipe
from equiav.errors import ConfigError

TABLES = RECIPES / "tables"
LONGEST = 100  # letters of a folder's name


@dataclass(frozen=True)
class Variant:
    """One recipe of the comparison, for one seed."""

    name: str  # its own settings, or "recipe" where nothing varies
    seed: int
    recipe: Recipe
    run: Path


def variants(
    recipe: str, settings: list[str], seeds: int, out: Path, rows: dict[str, list[str]] | None = None
) -> list[Variant]:
    """Every combination of the settings' values, for every seed; a seed's variants follow each other.

    Args:
        recipe: shipped name or path.
        settings: `key=value` for all; `key=a,b,c` makes variants. A comma inside brackets is part of its value.
        seeds: how many, from 0 on.
        out: folder of the comparison.
        rows: name → settings of its own, as `load_table` reads them; each is combined with `settings`.

    Raises:
        ConfigError: an unknown key, a value out of range, the seed among the settings, a setting given twice, or two
            variants of one name.
    """
    rows = {"": []} if rows is None else rows
    if any(setting.startswith("train.seed=") for own in (settings, *rows.values()) for setting in own):
        raise ConfigError("train.seed is what --seeds varies: leave it out of the settings")
    for row, own in rows.items():
        _check_once([*settings, *own], f"row {row!r} of the table and the settings for all" if row else "the settings")
    choices = [[f"{key}={value}" for value in _values(text)] for key, _, text in (s.partition("=") for s in settings)]
    varied = {choice for among in choices if len(among) > 1 for choice in among}
    found = []
    for seed, row, chosen in itertools.product(range(seeds), rows, itertools.product(*choices)):
        name = " ".join([*filter(None, [row]), *(text for text in chosen if text in varied)]) or "recipe"
        folder = out / _folder(name)
        made = load_recipe(recipe, [*chosen, *rows[row], f"train.seed={seed}"])
        found.append(Variant(name, seed, made, folder / f"seed-{seed}"))
    twice = [name for name, times in Counter(variant.name for variant in found).items() if times > seeds]
    if twice:
        raise ConfigError(f"{len(twice)} variants stand there twice: {', '.join(map(repr, twice))}; leave one out")
    return found


def _check_once(settings: list[str], where: str) -> None:
    """A setting that is given twice would silently be the last one, under the name of both."""
    keys = [setting.partition("=")[0] for setting in settings]
    pairs = itertools.combinations(keys, 2)
    if twice := sorted({early for early, late in pairs if early == late or early.startswith(f"{late}.")}):
        raise ConfigError(f"{where} give {', '.join(twice)} more than once: leave it out in one place")


def _folder(name: str) -> str:
    """A name for the disk; with a hash of `name` where that can't be read off it, so that no two share a folder."""
    settings = all("=" in part for part in name.split(" "))  # joined by blanks, of which they hold none
    joined = name.replace(" ", "+") if settings else name
    if "+" not in name and re.fullmatch(r"[a-z0-9_=-][a-z0-9_.=+-]*", joined) and len(joined) <= LONGEST:
        return joined
    plain = re.sub(r"[^\w.=-]+", "_", name)[:LONGEST].lstrip(".")
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def load_table(name: str) -> dict[str, list[str]]:
    """Rows of a comparison: name → settings, of a shipped table or a YAML file.

    Raises:
        ConfigError: no such table, or it does not map names to lists of `key=value`.
    """
    path = Path(name) if Path(name).is_file() else TABLES / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"no table {name!r}: neither a file nor one of the shipped: {_shipped()}")
    rows = load_yaml(path, "table")
    if not isinstance(rows, dict) or not all(
        isinstance(row, list) and all(isinstance(text, str) for text in row) for row in rows.values()
    ):
        raise ConfigError(f"{path}: a table maps names to lists of settings, e.g.  plain: [model.method=plain]")
    if len({str(name) for name in rows}) < max(len(rows), 1):
        raise ConfigError(f"{path}: a table has one row or more, each with a name of its own")
    return {str(name): row for name, row in rows.items()}


def _shipped() -> str:
    return ", ".join(sorted(path.stem for path in TABLES.glob("*.yaml")))


def _values(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
