"""Imports of a verb that answers once and ends: they take longer than what it does."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Around the imports: the garbage collector rests meanwhile, and leaves the modules alone up to the process's end.

    With PyTorch's that is half a second of looking through what stays anyway.
    """
    working = gc.isenabled()
    gc.disable()
    try:
        _arrow_without_pandas()
        yield
    finally:
        gc.freeze()
        if working:
            gc.enable()


class _NoPandas:
    """Asked before all other finders, it says of pandas that there is none."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        """Nothing, of other modules: the finders behind this one know them."""
        if name == "pandas":
            raise ModuleNotFoundError(f"no {name} is wanted here", name=name)


def _arrow_without_pandas() -> None:
    """Load Arrow as where pandas is not installed.

    Arrow imports it, in 0.2 s, to know its objects when it meets them; who gives it none can do without.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        import pyarrow.dataset  # noqa: F401  (it makes values, and before the first one Arrow looks, once)
    finally:
        sys.meta_path.remove(_NoPandas)
