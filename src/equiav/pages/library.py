"""The page of `equiav stats`: the figures of a library, and some clips with a frame and the spectrogram of each."""

from __future__ import annotations

import numpy as np

from equiav.library.stats import LibraryStats
from equiav.library.table import Library
from equiav.pages.pictures import ClipShown, file_uri, spectrogram_uri
from equiav.pages.render import render

LABELS_SHOWN = 40
SAMPLES = 24


def stats_page(library: Library, stats: LibraryStats) -> str:
    """The page as HTML text, with some clips drawn evenly over the ids, which are hashes."""
    return render(
        "library.html.jinja",
        {"picture": file_uri, "spectrogram": spectrogram_uri},
        title=stats.path,
        stats=stats,
        labels=list(stats.labels.items())[:LABELS_SHOWN],
        most=max(stats.labels.values(), default=1),
        clips=_samples(library),
        rejects=library.rejects()[:SAMPLES],
    )


def _samples(library: Library) -> list[ClipShown]:
    positions = library.positions()
    ids = np.array(library.all_ids(), dtype=object)
    order = positions[np.argsort(ids[positions], kind="stable")]
    picked = order[np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).round().astype(int)]
    table = library.take(picked.tolist())
    rows = table.drop(["fbank"]).to_pylist()
    return [ClipShown.of(row, fbank) for row, fbank in zip(rows, library.fbanks(table), strict=True)]
