"""Where sounding things are seen:  a CSV of boxes by source and time → the boxes of a clip's frame, as masks.

Columns path, time_s, x0, y0, x1, y1: the path from the CSV's folder, seconds on the file's clock, and left, top, right
and bottom as shares of the frame. Several rows of one path and time are several things. `equiav toyworld` writes one.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equiav.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool

COLUMNS = ("path", "time_s", "x0", "y0", "x1", "y1")
NEAR_S = 0.5  # a frame farther from the nearest annotated time has no boxes

Box = tuple[float, float, float, float]


class Boxes:
    """The boxes of a CSV.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or has a box that is none or reaches outside the frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[Path, dict[float, list[Box]]] = {}
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = csv.DictReader(file)
                if missing := set(COLUMNS) - set(rows.fieldnames or ()):
                    raise ConfigError(f"{path} lacks columns {sorted(missing)}; expected {', '.join(COLUMNS)}")
                for row in rows:
                    source, time_s, box = _read(row, f"{path}, line {rows.line_num}")
                    times = self._known.setdefault((path.parent / source).resolve(), {})
                    times.setdefault(time_s, []).append(box)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None

    def at(self, source: str, time_s: float) -> list[Box]:
        """The boxes of a file at the annotated time nearest to this one; none where that is over `NEAR_S` away."""
        times = self._known.get(Path(source).resolve())
        if not times:
            return []
        nearest = min(times, key=lambda known: abs(known - time_s))
        return times[nearest] if abs(nearest - time_s) <= NEAR_S else []


def _read(row: dict[str, str], where: str) -> tuple[str, float, Box]:
    try:
        time_s, x0, y0, x1, y1 = (float(row[name]) for name in COLUMNS[1:])
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: expected five numbers {', '.join(COLUMNS[1:])}, found {row}") from None
    if not row["path"]:
        raise ConfigError(f"{where}: no path, found {row}")
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and np.isfinite(time_s)):
        raise ConfigError(
            f"{where}: found a box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}); expected shares of the frame, "
            "0 to 1, left before right and top before bottom"
        )
    return row["path"], time_s, (x0, y0, x1, y1)


def mask(boxes: list[Box], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """The pixels whose centres lie in any of the boxes."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    inside = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        inside |= ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
    return inside
