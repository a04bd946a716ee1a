"""Names that look the same:  é is one letter (composed, NFC) or e with an accent (decomposed, NFD), as systems like it.

A list that was made on one system finds the files on another: macOS, many NAS and unpackers change the form of names.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from equiav.errors import ConfigError
from equiav.library.items import is_absent


def composed(text: str) -> str:
    """The text in its composed form: labels, splits and ids that look the same are the same."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class Finder:
    """Finds the files that a list names, whatever form their names have; use one for all lines of a list."""

    def __init__(self) -> None:
        self._places: dict[Path, list[Path]] = {}  # folder as it is listed → those that look so
        self._inside: dict[Path, dict[str, list[str]]] = {}  # folder → composed name → names in it
        self._first: dict[Path, Path] = {}  # file → how the first line wrote it

    def find(self, listed: Path, where: str) -> tuple[Path, str]:
        """The file that a line names; and the name under which it is listed if that has another form, else "".

        A file of that very name comes first. Where there is none, listed is what it says.

        Raises:
            ConfigError: there is no such file, and several whose names look the same.
        """
        if os.fspath(listed).isascii():
            return listed, ""
        found = listed
        if is_absent(listed):
            alike = [path for path in self._alike(listed) if not is_absent(path)]
            if len(alike) > 1:
                names = ", ".join(ascii(os.fspath(path)) for path in alike)
                raise ConfigError(
                    f"{where}: there is no file {os.fspath(listed)!a}, but {len(alike)} whose names look the same: "
                    f"{names}; write one of them, or keep one"
                )
            found = alike[0] if alike else listed
        first = self._first.setdefault(found, listed)
        return found, "" if first == found else os.fspath(first.absolute())

    def _alike(self, path: Path) -> list[Path]:
        if path.parent == path:
            return [path]
        if path.parent not in self._places:
            self._places[path.parent] = [place for place in self._alike(path.parent) if not is_absent(place)]
        places, name = self._places[path.parent], path.name
        if name.isascii():
            return [place / name for place in places]
        return [place / known for place in places for known in self._names(place).get(composed(name), [name])]

    def _names(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._inside:
            try:
                names = sorted(path.name for path in folder.iterdir() if not path.name.isascii())
            except OSError:  # what we may not look into holds what the list says, if anything
                names = []
            self._inside[folder] = alike = dict[str, list[str]]()
            for name in names:
                alike.setdefault(composed(name), []).append(name)
        return self._inside[folder]
