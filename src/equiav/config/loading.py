"""Recipes and other YAML files  →  checked settings.

A recipe is a YAML file (shipped ones by bare name: `toy`, `base`, `audioset2m`) with dotted overrides on top:
`read_settings(Recipe, "toy", ["optim.lr=3e-4"])`. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from equiav.errors import ConfigError

RECIPES = Path(__file__).parent / "recipes"


class Settings(BaseModel):
    """Frozen, strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


S = TypeVar("S", bound=Settings)


def read_settings(kind: type[S], name: str | Path, overrides: Iterable[str] = ()) -> S:
    """`load_recipe` for any kind of recipe."""
    path = Path(name)
    if not path.is_file():
        path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(f"no recipe {str(name)!r}: neither a file nor one of the shipped recipes ({shipped})")
    tree = load_yaml(path, "recipe") or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, found {type(tree).__name__}")
    overrides = list(overrides)
    for override in overrides:
        _apply_override(tree, override)
    return parse_settings(kind, tree, where=str(path), overrides=overrides)


def load_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file.

    Args:
        path: the file.
        what: what it should hold, for the message.

    Raises:
        ConfigError: it is no YAML, or has a key twice, of which YAML takes the last one.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Once)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML {what}: {error}") from None


class _Once(yaml.SafeLoader):
    """Keys stand there once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({name for name in names if names.count(name) > 1 and name != "<<"}):
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse_settings(kind: type[S], tree: dict[str, Any], *, where: str, overrides: Iterable[str] = ()) -> S:
    """Validate `tree` as `kind`; every problem in one ConfigError, unknown keys with the nearest known one.

    Args:
        where: the file that the tree is from.
        overrides: `key=value` that were put into it: a problem with one of them names it instead of the file.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = [
            (_origin(problem["loc"], overrides) or where, _explain(kind, dict(problem))) for problem in error.errors()
        ]
        raise ConfigError("; ".join(f"{origin}: {problem}" for origin, problem in problems)) from None


def _origin(place: tuple[int | str, ...], overrides: Iterable[str]) -> str:
    """The overrides of the setting at a place, or of a part of it."""
    wanted = [str(part) for part in place]
    keys = {override: override.partition("=")[0].split(".") for override in overrides}
    # a problem with a whole section names every override in it
    return " ".join(text for text, key in keys.items() if wanted and key[: len(wanted)] == wanted[: len(key)])


def nearest(name: str, known: Iterable[str]) -> str:
    """`(did you mean X?) Known: …`: the tail of every unknown-name message."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{hint}. Known: {', '.join(known)}"


def _explain(kind: type[Settings], problem: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        found = "" if problem["type"] == "value_error" else f", found {problem['input']!r}"
        return f"{key or kind.__name__}: {problem['msg']}{found}"
    owner: type[BaseModel] = kind
    for part in problem["loc"][:-1]:
        owner = owner.model_fields[str(part)].annotation  # type: ignore[assignment]
    known = [field.alias or name for name, field in owner.model_fields.items()]
    return f"{key} is not a key of {owner.__name__}{nearest(str(problem['loc'][-1]), known)}"


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value, e.g. optim.lr=3e-4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {error}") from None
    if isinstance(value, str):
        # YAML 1.1 reads 3e-4 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {override!r}: {section} is not a section")
    tree[last] = value
