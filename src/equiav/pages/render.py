"""Pages for people:  a template of `templates/`, values  →  HTML text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equiav._version import __version__
from equiav.words import counted

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """One page. Values are escaped; one that the template names and nobody gave is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update({"counted": counted, **(filters or {})})
    return environment.get_template(template).render(version=__version__, **values)
