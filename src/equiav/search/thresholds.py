"""Which cosine do copies have?  copies made of a library's own files, its embeddings → recall and precision by cosine.

Files are drawn from the library and changed in one of ten ways each (`media.alter`), in a temporary folder; the copies
are ingested and embedded as the library was. How like a copy is to its original, and to all other files, is the chamfer
similarity of `search.like`. A copy that the library holds already counts as another file: precision is then too low.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest

from equiav.config import MODALITIES, Modality
from equiav.errors import LibraryError, MediaError
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media.alter import KINDS, alter, read_video
from equiav.metrics.bootstrap import interval, resampled_means
from equiav.search.embed import embed_library
from equiav.search.exact import Exact, Vectors
from equiav.search.gathered import Gathered
from equiav.search.like import chamfer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

    from equiav.model.equiav import EquiAV

COSINES = (0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
RECALL = 0.95  # of the copies, that the cosines which are recommended find; the second look drops what is no copy
KEPT: dict[Modality, str] = {"audio": "other_sound", "visual": "other_picture"}  # the kind that does not keep it
RESAMPLES = 1000


@dataclass(frozen=True)
class Share:
    """A share of `of`, and its 95 % interval: Wilson's (1927) of copies, and of pairs by resampling the copies."""

    value: float
    low: float
    high: float
    of: int

    def __str__(self) -> str:
        """In percent."""
        return "–" if not self.of else f"{100 * self.value:.0f} % ({100 * self.low:.0f}–{100 * self.high:.0f})"


@dataclass(frozen=True)
class Row:
    """What one modality finds from a cosine on."""

    modality: Modality
    cosine: float
    recall: Share
    precision: Share


@dataclass(frozen=True)
class Thresholds:
    """The curve of both modalities; the cosines recommended; of each kind the share that one of these finds."""

    copies: int
    rows: list[Row]
    audio: float
    visual: float
    kinds: dict[str, Share]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def measure_thresholds(
    now: Exact,
    model: EquiAV,
    *,
    copies: int = 100,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Thresholds:
    """Make copies of a library's files, and measure by which cosines they are found.

    Args:
        now: one version of the library with its vectors.
        model: embeds the copies.
        copies: how many are made; fewer where the library has fewer files with sound and picture. Of each file one.
        seed: of the files and of what is changed.
        on_progress: called with what is done, how much of it is done, and how much there is.

    Raises:
        LibraryError: not two of its files are there, with sound and picture.
    """
    gathered, features = Gathered(now), now.library.features
    with tempfile.TemporaryDirectory() as folder:
        made = _make(gathered, Path(folder) / "copies", copies, seed, on_progress)
        ingest(Path(folder) / "copies", Path(folder) / "L", features)
        library = Library(Path(folder) / "L")
        asked = Gathered(Exact(library, Vectors(embed_library(library, model), keep=True)))
        likeness = {modality: _likeness(gathered, asked, modality, made) for modality in MODALITIES}
    kinds = [made[Path(source).name][0] for source in asked.sources]
    rows = [
        _row(modality, cosine, *likeness[modality], np.array([kind != KEPT[modality] for kind in kinds]))
        for modality in MODALITIES
        for cosine in COSINES
    ]
    chosen: dict[Modality, float] = {}
    for modality in MODALITIES:
        enough = [row.cosine for row in rows if row.modality == modality and row.recall.value >= RECALL]
        chosen[modality] = max(enough, default=COSINES[0])
    by_one = np.any([likeness[m][0] >= chosen[m] for m in MODALITIES], axis=0)
    found = {kind: by_one[[k == kind for k in kinds]] for kind in KINDS}
    return Thresholds(
        copies=len(kinds),
        rows=rows,
        audio=chosen["audio"],
        visual=chosen["visual"],
        kinds={kind: _part(hits) for kind, hits in found.items() if len(hits)},
    )


def _make(
    gathered: Gathered, folder: Path, copies: int, seed: int, on_progress: Callable[[str, int, int], None] | None
) -> dict[str, tuple[str, int]]:
    """Copies of some files: name → kind, number of the file whose sound or picture it keeps."""
    folder.mkdir()
    rng, side = np.random.default_rng(seed), gathered.library.features.frame_side
    both = np.unique(gathered.file[gathered.has["audio"] & gathered.has["visual"]])
    made, before, number = dict[str, tuple[str, int]](), None, 0
    for file in rng.permutation(both).tolist():
        path = Path(gathered.sources[file])
        if len(made) == copies or not path.is_file():
            continue
        try:
            video = read_video(path, side)
        except MediaError:  # it was readable when it was ingested
            continue
        if before is not None:
            kind = KINDS[number % len(KINDS)]
            number += 1
            if altered := alter(kind, video, before, rng, gathered.library.features):
                name = f"{number:04d}.mp4"
                altered[0].write(folder / name)
                made[name] = kind, file
        before = video
        if on_progress:
            on_progress("making copies", len(made), min(copies, len(both)))
    if not made:
        raise LibraryError(f"{gathered.library.path}: copies are made of two files or more with sound and picture")
    return made


def _likeness(
    gathered: Gathered, asked: Gathered, modality: Modality, made: dict[str, tuple[str, int]]
) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, "c files"]]:
    """How like each copy is to its original, and to all other files, NaN for what is no other one."""
    true, others = np.full(len(asked.sources), np.nan), np.full((len(asked.sources), len(gathered.sources)), np.nan)
    nobody = np.zeros(len(gathered.sources), bool)
    for number, source in enumerate(asked.sources):
        rows = np.flatnonzero((asked.file == number) & asked.has[modality])
        scores, _ = chamfer(gathered, modality, asked.vectors[modality][rows], 1.0, nobody)
        kind, original = made[Path(source).name]
        if kind != KEPT[modality]:
            true[number], others[number] = scores[original], scores
            others[number, original] = np.nan
    return np.nan_to_num(true, nan=-1.0), np.nan_to_num(others, nan=-1.0)


def _row(
    modality: Modality,
    cosine: float,
    true: Float64[np.ndarray, " c"],
    others: Float64[np.ndarray, "c files"],
    kept: Bool[np.ndarray, " c"],
) -> Row:
    hits, false = true[kept] >= cosine, (others[kept] >= cosine).sum(axis=1)
    return Row(modality, cosine, _part(hits), _share(hits.astype(float), hits + false))


def _part(hits: Bool[np.ndarray, " c"]) -> Share:
    """Of copies those that are hits."""
    if not len(hits):
        return Share(float("nan"), float("nan"), float("nan"), 0)
    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, method="wilson")
    return Share(float(hits.mean()), float(low), float(high), len(hits))


def _share(hits: Float64[np.ndarray, " c"], count: Float64[np.ndarray, " c"]) -> Share:
    """Sum of the one over that of the other."""
    if not count.sum():
        return Share(float("nan"), float("nan"), float("nan"), 0)
    drawn = resampled_means(np.stack([hits, count], axis=1), resamples=RESAMPLES, seed=0)
    low, high = interval(drawn[:, 0] / np.where(drawn[:, 1] > 0, drawn[:, 1], np.nan))
    return Share(float(hits.sum() / count.sum()), low, high, int(count.sum()))
