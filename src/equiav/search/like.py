"""The files of a library that are most like one:  a file or a clip, its windows → k files, the most similar first.

Files are ranked by the chamfer similarity: for each window of the shorter of two files the highest cosine with a window
of the other, and the mean of these; of sound and picture the mean (Kordopatis-Zilos et al., ViSiL, 2019, section 3). So
files are named also where none is a copy. What two files have in common is found as for all pairs (`search.copies`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equiav.config import MODALITIES, Modality
from equiav.errors import ConfigError, MediaError
from equiav.library.ingest import ingest
from equiav.library.items import as_text
from equiav.library.table import Library, quoted
from equiav.model.light import LightModel
from equiav.search.copies import Limits, best_match, offsets_of
from equiav.search.duplicates import agreement, pair_of
from equiav.search.embed import embed_library
from equiav.search.exact import Exact, Vectors
from equiav.search.gathered import Gathered
from equiav.search.hits import ClipFilter
from equiav.search.pairs import Duplicates, FilePair
from equiav.search.verdicts import Verdict

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int64

    from equiav.model.equiav import EquiAV

COSINES = 1 << 24  # at once: 64 MB


def most_like(
    now: Exact,
    model: EquiAV | LightModel,
    query: str | Path,
    least: Mapping[Modality, float],
    *,
    k: int,
    among: ClipFilter | None = None,
) -> Duplicates:
    """The k files most like a clip of the library, one of its files, or another file; its own file is left out.

    Args:
        now: one version of the library with its vectors.
        model: embeds a file that the library does not hold.
        query: id of a clip, or path of a file.
        least: cosines from which on sounds, and pictures, are the same.
        k: files; all where there are fewer.
        among: the clips to compare with; None: all.

    Raises:
        ConfigError: neither a clip nor a file.
        LibraryError: it is in the library and not embedded; or nothing is there to compare with.
        MediaError: the file cannot be used.
    """
    gathered = Gathered(now, among)
    asked, name = _asked(now, model, query)
    together = gathered.with_file(asked, name)
    number, others = len(gathered.sources), dict[Modality, np.ndarray]()
    own = np.array([source == name for source in gathered.sources])
    scores = np.full((len(MODALITIES), number), np.nan)
    for row, modality in zip(scores, MODALITIES, strict=True):
        there = np.flatnonzero(asked.has[modality])
        row[:], count = chamfer(gathered, modality, asked.vectors[modality][there], least[modality], own)
        others[modality] = np.zeros(len(together.file), np.int64)
        others[modality][len(gathered.file) + there] = count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no modality to compare: NaN
        score = np.nanmean(scores, axis=0)
    score[own] = np.nan
    windows = together.windows(now.library.features.hop_s, together.has, others)
    limits, pairs = Limits(least, agreement(gathered, least)), list[FilePair]()
    for file in np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:k].tolist():
        if np.isfinite(score[file]):
            alike = np.concatenate(list(_nearest(together, file, number)), axis=1)
            ((_, _, offsets),) = offsets_of(windows, *alike)
            match = best_match(windows, file, number, offsets, limits)
            pairs.append(pair_of(together, windows, Verdict(match, None, None), float(score[file])))
    return Duplicates(
        files=number,
        windows=len(gathered.file),
        missing=now.missing,
        least_audio=least["audio"],
        least_visual=least["visual"],
        pairs=pairs,
        groups=[],
    )


def _asked(now: Exact, model: EquiAV | LightModel, query: str | Path) -> tuple[Gathered, str]:
    """The windows of a query, and the name of its file."""
    clips = now.library.select(["source"], ids=[str(query)])
    if len(clips):
        return Gathered(now, ClipFilter(f"clip_id = {quoted([str(query)])}")), clips["source"][0].as_py()
    path = Path(query)
    names = now.library.select(["source"], f"source IN ({quoted([str(query), as_text(path)])})")["source"].to_pylist()
    if names:
        return Gathered(now, ClipFilter(f"source = {quoted(names[:1])}")), names[0]
    if not path.is_file():
        raise ConfigError(f"{query}: neither a clip of {now.library.path} nor a file")
    with tempfile.TemporaryDirectory() as folder:
        report = ingest(path, Path(folder) / "L", now.library.features, workers=1)
        if not report.clips_added:
            raise MediaError(report.rejects[0].reason, report.rejects[0].detail)
        library = Library(Path(folder) / "L")
        loaded = model.loaded if isinstance(model, LightModel) else model
        return Gathered(Exact(library, Vectors(embed_library(library, loaded), keep=True))), as_text(path)


def chamfer(
    gathered: Gathered,
    modality: Modality,
    query: Float32[np.ndarray, "q E"],
    least: float,
    own: Bool[np.ndarray, " files"],
) -> tuple[Float64[np.ndarray, " files"], Int64[np.ndarray, " q"]]:
    """How like each file is, NaN where nothing is to compare; and how many have a window like each of the query's.

    Args:
        gathered: the files.
        modality: which is compared.
        query: windows of one file, of length 1.
        least: cosine from which on two windows are alike.
        own: the files that are not counted.
    """
    scores, others = np.full(len(gathered.sources), np.nan), np.zeros(len(query), np.int64)
    rows = np.flatnonzero(gathered.has[modality])
    if not len(query) or not len(rows):
        return scores, others
    files, starts = np.unique(gathered.file[rows], return_index=True)
    ends = np.append(starts[1:], len(rows))
    first = 0
    while first < len(files):
        last = max(int(np.searchsorted(ends, starts[first] + COSINES // len(query), side="right")), first + 1)
        products = query @ gathered.vectors[modality][rows[starts[first] : ends[last - 1]]].T
        begin = starts[first:last] - starts[first]
        of_query = np.maximum.reduceat(products, begin, axis=1)
        counts = ends[first:last] - starts[first:last]
        of_file = np.add.reduceat(products.max(axis=0), begin) / counts
        scores[files[first:last]] = np.where(counts < len(query), of_file, of_query.mean(axis=0))
        others += ((of_query >= least) & ~own[files[first:last]]).sum(axis=1)
        first = last
    return scores, others


def _nearest(together: Gathered, file: int, number: int) -> Iterator[Int64[np.ndarray, "2 p"]]:
    """Of each window of two files, and of each modality, the nearest of the other file beside it."""
    one, other = (np.flatnonzero(together.file == which) for which in (file, number))
    for modality in MODALITIES:
        a, b = (rows[together.has[modality][rows]] for rows in (one, other))
        if len(a) and len(b):
            cosines = together.vectors[modality][a] @ together.vectors[modality][b].T
            yield np.stack([a, b[cosines.argmax(axis=1)]])
            yield np.stack([a[cosines.argmax(axis=0)], b])
