"""What a search may be told to find:  labels, files, a split, a stretch of time → the clips of a library that match."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import translate
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from equiav.errors import ConfigError
from equiav.library.table import quoted
from equiav.search.hits import ClipFilter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def clip_filter(
    labels: Collection[str] | str = (),
    sources: Collection[str] | str = (),
    split: str | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> ClipFilter | None:
    """The clips that match all that is given; None when nothing is.

    Args:
        labels: with at least one of these labels.
        sources: of files whose name or path matches one of these patterns (`*`, `?`, `[abc]`): the whole path or the
            end of it after a slash, so `dog*.mp4` and `pets/*` find /videos/pets/dog1.mp4. `*` matches slashes too.
        split: of this split.
        start_s: not ended before this time of their file, in seconds.
        end_s: begun before this time of their file.

    Raises:
        ConfigError: the end is not after the start.
    """
    if start_s is not None and end_s is not None and not start_s < end_s:
        raise ConfigError(f"a time range must end after it starts, found {start_s} to {end_s} s")
    labels, sources = ([given] if isinstance(given, str) else list(given) for given in (labels, sources))
    parts = []
    if labels:
        parts.append(f"array_has_any(labels, [{quoted(labels)}])")
    if split is not None:
        parts.append(f"split = {quoted([split])}")
    if start_s is not None:
        parts.append(f"end_s > {float(start_s)!r}")
    if end_s is not None:
        parts.append(f"start_s < {float(end_s)!r}")
    if not parts and not sources:
        return None
    where = " AND ".join(parts) or None
    return ClipFilter(where, partial(_match, patterns=sources), ("source",)) if sources else ClipFilter(where)


def _match(rows: pa.Table, patterns: list[str]) -> NDArray[np.bool_]:
    """Which rows are of a file that matches one of the patterns."""
    matches = re.compile("|".join(translate(pattern) for given in patterns for pattern in (given, f"*/{given}"))).match
    source = rows["source"].combine_chunks().dictionary_encode()
    found = pa.array([matches(name) is not None for name in source.dictionary.to_pylist()], pa.bool_())
    return found.take(source.indices).to_numpy(zero_copy_only=False)
