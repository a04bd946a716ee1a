"""A measured figure: values per clip → mean with 95 % interval, and a name by which a gate finds it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from equiav.config import nearest
from equiav.errors import ConfigError
from equiav.metrics.figures import Figure, mean_figures

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


def figure(
    values: Float[Tensor, " n"] | Float[np.ndarray, " n"], sources: Int64[np.ndarray, " n"] | None = None
) -> Figure | None:
    """The mean of one value per clip; NaN is "unknown" and left out. None where nothing is left.

    Args:
        sources: a number for each clip, equal where two are of one source; None: the values are independent draws.
    """
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    if not known.any():
        return None
    array, units = array[known], None if sources is None else sources[known]
    return mean_figures({"": array}, units)[""]


@dataclass(frozen=True)
class Condition:
    """One condition of a gate, e.g. `flip.mrr>0.5`: of every figure whose dotted name is or ends in `name`."""

    name: str
    above: bool
    bound: float

    def check(self, figures: Mapping[str, Figure | float]) -> tuple[bool, str]:
        """Whether it holds of all figures that the name fits, and a line that says so.

        Raises:
            ConfigError: the name fits no figure.
        """
        values = {name: found.value if isinstance(found, Figure) else found for name, found in figures.items()}
        fits = {name: value for name, value in values.items() if f".{name}".endswith(f".{self.name}")}
        if not fits:
            tails = sorted({".".join(name.split(".")[1:]) for name in values})
            raise ConfigError(f"gate: no figure is called {self.name!r}{nearest(self.name, tails)}")
        met = all(value > self.bound if self.above else value < self.bound for value in fits.values())
        found = ", ".join(f"{name} is {value:.3g}" for name, value in fits.items())
        return met, f"{'met' if met else 'NOT MET'}: {self.name} {'>' if self.above else '<'} {self.bound:g}; {found}"


def parse_gate(gate: str) -> list[Condition]:
    """Conditions `name>number` or `name<number`, separated by commas.

    Raises:
        ConfigError: something that is no condition, or none at all.
    """
    conditions = []
    for text in filter(None, (part.strip() for part in gate.split(","))):
        match = re.fullmatch(r"([\w.-]+)\s*([<>])\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)", text)
        if not match:
            raise ConfigError(f"gate {text!r} is no condition; write e.g. flip.mrr>0.5,centroid.k16<0.1")
        conditions.append(Condition(match[1], match[2] == ">", float(match[3])))
    if not conditions:
        raise ConfigError("an empty gate holds always: write e.g. flip.mrr>0.5")
    return conditions
