"""Copies in a library:  one version of it and of its embeddings, two thresholds → `Duplicates`.

What the library knows comes first: files of one content, and those that ingest left out because another has theirs.
All others are compared window by window (`search.alike`), and two files that have windows which are alike at the offset
at which they agree (`search.copies`); then their sounds and pictures are looked at (`search.verdicts`). Nothing is
changed or deleted.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.ndimage import laplace

from equiav.config import MODALITIES, Modality
from equiav.library.coverage import read_records
from equiav.search.alike import NEAREST, Alike, alike
from equiav.search.copies import (
    KINDS,
    Limits,
    Match,
    Windows,
    is_enough,
    is_known_elsewhere,
    matches,
    with_evidence,
)
from equiav.search.exact import Exact
from equiav.search.gathered import Gathered
from equiav.search.hits import ClipFilter
from equiav.search.pairs import Duplicates, FilePair, connected, groups_of
from equiav.search.verdicts import Verdict, verdicts

if TYPE_CHECKING:
    from jaxtyping import Int64

Progress = Callable[[str, int, int], None]

COMPARING: dict[Modality, str] = {"audio": "comparing sounds", "visual": "comparing pictures"}
SAMPLE = 1024  # windows whose cosines tell what is usual in a library
SHARPER = 1.5  # times as sharp, below which two files are equally sharp: what an encoder adds is no detail
SHARPNESS_FILES = 512  # whose pictures are read at once


def find_duplicates(
    now: Exact,
    least: Mapping[Modality, float],
    *,
    among: ClipFilter | None = None,
    partial: bool = False,
    confirm: bool = True,
    on_progress: Progress | None = None,
) -> Duplicates:
    """All pairs of files that are copies, or have a part, the sound or the picture in common.

    Args:
        now: one version of the library with its vectors.
        least: cosines from which on sounds, and pictures, are the same.
        among: the clips to compare; None: all.
        partial: also files of which one is a part of the other, or that have a part in common.
        confirm: look at the stored sounds and pictures of what the embeddings match; else these alone are believed.
        on_progress: called with what is done (`comparing sounds`, `comparing pictures`), windows or files so far, all.

    Raises:
        LibraryError: no clip is embedded, or none of those asked for.
    """
    gathered = Gathered(now, among)
    found, windows = _compared(gathered, least, now.library.features.hop_s, on_progress)
    limits = Limits(least, agreement(gathered, least))
    likely = [m for m in matches(windows, found.first, found.second, limits) if is_enough(m, partial=partial)]
    if confirm:
        verdict = list(verdicts(gathered, windows, likely, _telling(on_progress, "looking at matches")))
        windows = replace(windows, others=recordings_with(windows, [one.match for one in verdict]))
        weighed = [replace(one, match=with_evidence(windows, one.match)) for one in verdict]
    else:
        weighed = [Verdict(match, None, None) for match in likely]
    pairs = [pair_of(gathered, windows, one) for one in weighed if not is_known_elsewhere(one.match)]
    pairs = _with_contents(pairs, gathered, read_records(now.library.path))
    return Duplicates(
        files=len(gathered.sources),
        windows=len(gathered.file),
        missing=now.missing,
        least_audio=least["audio"],
        least_visual=least["visual"],
        pairs=sorted(pairs, key=lambda pair: (KINDS.index(pair.kind), pair.a, pair.b)),
        groups=groups_of(pairs, lambda files: _worth(gathered, windows, files)),
    )


def _telling(on_progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, total: on_progress(what, done, total)


def recordings_with(windows: Windows, found: Sequence[Match]) -> dict[Modality, Int64[np.ndarray, " n"]]:
    """Of each window how many other recordings have it too, as far as that is known; whole copies are one recording.

    Of a window that has matches with fewer than `NEAREST` it is these; of others no more files were looked at, and it
    is how many are alike by their embeddings.
    """
    files = len(windows.first) - 1
    whole = [(match.a, match.b) for match in found if match.kind == "same_recording"]
    recording = connected(files, whole)
    partners: defaultdict[int, set[int]] = defaultdict(set)
    for match in found:
        a, b = recording[match.a], recording[match.b]
        for i, j in zip(match.rows.tolist(), match.columns.tolist(), strict=True):
            partners[i] |= {b} - {a}
            partners[j] |= {a} - {b}
    others = dict[Modality, Any]()
    for modality in MODALITIES:
        others[modality] = windows.others[modality].copy()
    for window, found_in in partners.items():
        for count in others.values():
            count[window] = len(found_in) if len(found_in) < NEAREST else max(len(found_in), count[window])
    return others


def _compared(
    gathered: Gathered, least: Mapping[Modality, float], hop_s: float, on_progress: Progress | None
) -> tuple[Alike, Windows]:
    """The windows that are alike by sound, by picture or by both, and what the windows say."""
    firsts, seconds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    says, others = dict[Modality, Any](), dict[Modality, Any]()
    for modality in MODALITIES:
        chosen = np.flatnonzero(gathered.starts_from(modality))
        found = alike(
            gathered.vectors[modality][chosen],
            gathered.file[chosen],
            least[modality],
            nearest=NEAREST,
            on_progress=_telling(on_progress, COMPARING[modality]),
        )
        first, second = chosen[found.first], chosen[found.second]
        others[modality] = np.zeros(len(gathered.file), np.int64)
        others[modality][chosen] = found.files
        says[modality] = gathered.has[modality].copy()
        if modality == "audio":
            says[modality] &= gathered.starts_from("audio")
        else:
            named = np.unique(np.concatenate([first, second]))
            says[modality][named[gathered.is_flat(named)]] = False
            both = says[modality][first] & says[modality][second]
            first, second = first[both], second[both]
        firsts.append(first)
        seconds.append(second)
    numbers = np.unique(np.concatenate(firsts) * len(gathered.file) + np.concatenate(seconds))
    together = Alike(*np.divmod(numbers, len(gathered.file)), np.zeros(0, np.int64))
    return together, gathered.windows(hop_s, says, others)


def agreement(gathered: Gathered, least: Mapping[Modality, float]) -> dict[Modality, float]:
    """Cosines from which on a modality agrees where the other one is the same.

    Half way from what is usual between two files of the library to the least cosine that makes two files copies: where
    the sound is that of a copy, a picture that is far nearer than usual is a crop and not another picture.
    """
    agrees: dict[Modality, float] = {}
    for modality in MODALITIES:
        rows = np.flatnonzero(gathered.has[modality])
        rows = rows[np.unique(np.linspace(0, len(rows), SAMPLE, endpoint=False).astype(int))] if len(rows) else rows
        cosines = gathered.vectors[modality][rows] @ gathered.vectors[modality][rows].T
        apart = cosines[gathered.file[rows][:, None] != gathered.file[rows]]
        usual = float(np.median(apart)) if len(apart) else 0.0
        agrees[modality] = min((usual + least[modality]) / 2, least[modality])
    return agrees


def pair_of(gathered: Gathered, windows: Windows, verdict: Verdict, score: float | None = None) -> FilePair:
    """A match as it is shown."""
    match = verdict.match
    others = np.maximum.reduce([windows.others[m][side] for m in MODALITIES for side in (match.rows, match.columns)])
    middle, clip = len(match.rows) // 2, gathered.rows["clip_id"]
    any_ = len(match.rows) > 0
    start_s = float(windows.start_s[match.rows].min()) if any_ else 0.0
    return FilePair(
        a=gathered.sources[match.a],
        b=gathered.sources[match.b],
        kind=match.kind,
        offset_s=round(match.offset_s, 3),
        start_s=start_s,
        length_s=round(float(windows.end_s[match.rows].max()) - start_s, 3) if any_ else 0.0,
        audio=match.scores["audio"],
        visual=match.scores["visual"],
        sound=verdict.sound,
        picture=verdict.picture,
        coverage_a=match.coverage[0],
        coverage_b=match.coverage[1],
        windows=len(match.rows),
        common=int((others > 1).sum()),
        others=int(others.max(initial=0)),
        clip_a=clip[int(match.rows[middle])].as_py() if any_ else "",
        clip_b=clip[int(match.columns[middle])].as_py() if any_ else "",
        score=score,
    )


def _with_contents(pairs: list[FilePair], gathered: Gathered, records: Iterable[Mapping[str, Any]]) -> list[FilePair]:
    """The pairs, and those of files that have one content, also if ingest left one of them out."""
    if "content" not in gathered.rows.column_names:
        return pairs
    first: dict[str, tuple[str, str]] = {}  # of each content the first file and a clip of it
    same: dict[tuple[str, str], FilePair] = {}
    files = [list(gathered.column(name)) for name in ("source", "content", "clip_id")]
    length_s = _lengths(gathered)
    stored = set(gathered.sources)
    left_out = [
        (file, content, "")
        for record in records
        for file, content in sorted(record["copies"].items())
        if file not in stored
    ]
    for file, content, clip in [*zip(*files, strict=True), *left_out]:
        if content is None or (not clip and content not in first):  # of a file that is not compared
            continue
        source, clip_a = first.setdefault(content, (file, clip))
        if file != source and (source, file) not in same:
            same[source, file] = FilePair(
                a=source,
                b=file,
                kind="same_content",
                offset_s=0.0,
                start_s=0.0,
                length_s=length_s[source],
                audio=None,
                visual=None,
                sound=None,
                picture=None,
                coverage_a=1.0,
                coverage_b=1.0,
                windows=0,
                clip_a=clip_a,
                clip_b=clip or clip_a,
            )
    known = {frozenset(names) for names in same}
    return [pair for pair in pairs if frozenset((pair.a, pair.b)) not in known] + list(same.values())


def _lengths(gathered: Gathered) -> defaultdict[str, float]:
    """End of the last window of each file, in seconds."""
    ends = defaultdict[str, float](float)
    for source, end_s in zip(gathered.column("source"), gathered.column("end_s"), strict=True):
        ends[source] = max(ends[source], float(end_s))
    return ends


def _worth(gathered: Gathered, windows: Windows, files: list[str]) -> dict[str, tuple[int, int, int]]:
    """Of files their length, in half hops, then the sharpness of the middle picture, then their size in bytes.

    A file that has no clips, because another one has its content, is worth less than all that have.
    """
    number = {source: place for place, source in enumerate(gathered.sources)}
    worth: dict[str, tuple[int, int, int]] = dict.fromkeys(files, (-1, 0, 0))
    known = [file for file in files if file in number]
    middles = [int(windows.first[number[file]] + windows.count(number[file]) // 2) for file in known]
    sizes = gathered.column("file_size")
    for start in range(0, len(known), SHARPNESS_FILES):
        part = slice(start, start + SHARPNESS_FILES)
        frames = gathered.frames(middles[part])
        for file, middle, pictures in zip(known[part], middles[part], frames, strict=True):
            length = round(2 * windows.length_s(number[file]) / windows.hop_s)
            sharp = sharpness(pictures[len(pictures) // 2]) if pictures else 0.0
            worth[file] = (length, round(math.log(sharp + 1) / math.log(SHARPER)), int(sizes[middle]))
    return worth


def sharpness(jpeg: bytes) -> float:
    """Variance of the Laplacian of a picture's brightness: detail, which copies of copies lose (Pech-Pacheco 2000)."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        y = np.asarray(picture.convert("L"), np.float32)
    if min(y.shape) < 3:
        return 0.0
    return float(laplace(y)[1:-1, 1:-1].var())
