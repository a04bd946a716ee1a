"""Whether two files are copies:  their windows and which of these are alike → offset, common part, scores, kind.

Two windows that are alike name an offset: how much later the one lies in its file. At that offset all windows of the
two files are laid side by side, each with the nearest in time, at most half a hop away, and their cosines are what
counts; a window that many files have counts little. The score of a modality is the weighted mean over the common part.
That is the whole overlap where its mean is high enough for one modality, else the run of windows whose cosines exceed
the least one by most in sum. A mean is high enough only where a window is, so that no copy has no window to start from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from equiav.config import MODALITIES, Modality

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int64

Kind = Literal["same_content", "same_recording", "part_of", "shared_part", "same_sound", "same_picture", "similar"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WHOLE = 0.8  # share of a file that the common part has, from which on it is the file
MIN_WINDOWS = 3  # of a common part that is neither file
# sum of the weights of a common part that is not both files: half a window that two files alone have
MIN_EVIDENCE = 0.5
OFFSETS = 8  # that are tried of two files: those that most windows speak for


@dataclass(frozen=True)
class Windows:
    """n windows, those of a file together and in order of time.

    Attributes:
        file: number of each window's file, from 0.
        first: where each file begins, and n.
        start_s: seconds.
        end_s: likewise.
        hop_s: between two windows of a file.
        vectors: of each modality, of length 1; zero where there is none.
        has: which windows have a vector of a modality.
        says: which windows say something of a modality when two of them are compared.
        others: how many other files have a window like this.
        tail_s: what of the file lies behind each window, if it is its last one; None: nothing.
    """

    file: Int64[np.ndarray, " n"]
    first: Int64[np.ndarray, " files+1"]
    start_s: Float64[np.ndarray, " n"]
    end_s: Float64[np.ndarray, " n"]
    hop_s: float
    vectors: Mapping[Modality, Float32[np.ndarray, "n E"]]
    has: Mapping[Modality, Bool[np.ndarray, " n"]]
    says: Mapping[Modality, Bool[np.ndarray, " n"]]
    others: Mapping[Modality, Int64[np.ndarray, " n"]]
    tail_s: Float64[np.ndarray, " n"] | None = None

    def count(self, file: int) -> int:
        """Windows of a file."""
        return int(self.first[file + 1] - self.first[file])

    def span_s(self, file: int) -> tuple[float, float]:
        """Where the first window of a file begins, and where the file ends."""
        mine = slice(self.first[file], self.first[file + 1])
        last = int(np.argmax(self.end_s[mine]))
        tail_s = 0.0 if self.tail_s is None else float(self.tail_s[mine][last])
        return float(self.start_s[mine].min()), float(self.end_s[mine][last]) + tail_s

    def length_s(self, file: int) -> float:
        """Of a file, from its first window on."""
        start_s, end_s = self.span_s(file)
        return end_s - start_s


@dataclass(frozen=True)
class Limits:
    """Cosines: from `least` on a modality is the same; where the other one is, from `agrees` on it is too."""

    least: Mapping[Modality, float]
    agrees: Mapping[Modality, float]


@dataclass(frozen=True)
class Match:
    """What two files have in common.

    Attributes:
        a: number of the longer file.
        b: number of the other.
        offset_s: time in `a` less time in `b`.
        rows: windows of `a` in the common part.
        columns: those of `b` beside them.
        scores: mean cosine of each modality; None where there is nothing to compare.
        evidence: sum of the windows' weights, of the modality that reaches the least one and says most.
        kind: `similar` where no score reaches the least one.
        coverage: share of `a`, and of `b`, that the common part has.
        cut: whether it is less than what overlaps.
    """

    a: int
    b: int
    offset_s: float
    rows: Int64[np.ndarray, " k"]
    columns: Int64[np.ndarray, " k"]
    scores: Mapping[Modality, float | None]
    evidence: float
    kind: Kind
    coverage: tuple[float, float]
    cut: bool

    @property
    def whole(self) -> bool:
        """Whether the common part is either file, but for a little."""
        return min(self.coverage) >= WHOLE


class _Aligned(NamedTuple):
    """Two files side by side at an offset."""

    rows: Int64[np.ndarray, " k"]
    columns: Int64[np.ndarray, " k"]
    cosines: dict[Modality, Float64[np.ndarray, " k"]]
    weights: dict[Modality, Float64[np.ndarray, " k"]]


def matches(
    windows: Windows, first: Int64[np.ndarray, " p"], second: Int64[np.ndarray, " p"], limits: Limits
) -> Iterator[Match]:
    """Of all pairs of files that have windows which are alike what they have in common, sorted by file.

    Args:
        first: windows that are alike, of either modality.
        second: of another file than `first`, beside it.
    """
    for a, b, offsets in offsets_of(windows, first, second):
        yield best_match(windows, a, b, offsets, limits)


def is_enough(match: Match, *, partial: bool) -> bool:
    """Whether a match is one of whole files, or, where parts are asked for, of a part that is long enough."""
    if match.kind == "similar":
        return False
    return match.whole or (partial and (max(match.coverage) >= WHOLE or len(match.rows) >= MIN_WINDOWS))


def is_known_elsewhere(match: Match) -> bool:
    """Whether a part is one that so many files have that it says nothing of two of them."""
    return not match.whole and match.evidence < MIN_EVIDENCE


def best_match(windows: Windows, a: int, b: int, offsets: Float64[np.ndarray, " o"], limits: Limits) -> Match:
    """Two files at the offset that most speaks for; of equally good ones the nearest to none."""
    tried = [_aligned(windows, a, b, offset_s) for offset_s in sorted(offsets.tolist(), key=lambda o: (abs(o), o))]
    gains = [sum(best_run(_excess(one, m, limits))[2] for m in MODALITIES) for one in tried]
    # a rounding error decides nothing
    best = max(range(len(tried)), key=lambda i: (round(gains[i], 6), len(tried[i].rows), -i))
    return _judged(windows, a, b, tried[best], limits)


def best_run(values: Float64[np.ndarray, " k"]) -> tuple[int, int, float]:
    """The run [start, stop) with the highest sum, and that sum; an empty one, of 0, where no value is above 0."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    lowest = np.minimum.accumulate(sums)
    stop = int(np.argmax(sums - lowest))
    start = int(np.flatnonzero(sums[: stop + 1] == lowest[stop])[-1])
    return start, stop, float(sums[stop] - lowest[stop])


def offsets_of(
    windows: Windows, first: Int64[np.ndarray, " p"], second: Int64[np.ndarray, " p"]
) -> Iterator[tuple[int, int, Float64[np.ndarray, " o"]]]:
    """Pairs of files, and the offsets that most of their windows speak for, to the millisecond; 0 is among them."""
    a, b = windows.file[first], windows.file[second]
    offset_ms = np.round(1000 * (windows.start_s[first] - windows.start_s[second])).astype(np.int64)
    order = np.lexsort((offset_ms, b, a))
    a, b, offset_ms = a[order], b[order], offset_ms[order]
    files = len(windows.first)
    new = np.flatnonzero(np.diff(a * files + b, prepend=-1))
    for start, stop in zip(new, [*new[1:], len(a)][: len(new)], strict=True):
        found, votes = np.unique(offset_ms[start:stop], return_counts=True)
        most = found[np.argsort(-votes, kind="stable")[:OFFSETS]]
        yield int(a[start]), int(b[start]), np.unique(np.append(most, 0)) / 1000


def _aligned(windows: Windows, a: int, b: int, offset_s: float) -> _Aligned:
    """Each window of the file with fewer of them, and that of the other which is nearest in time."""
    few, many, shift_s = (a, b, -offset_s) if windows.count(a) < windows.count(b) else (b, a, offset_s)
    mine, theirs = (np.arange(windows.first[file], windows.first[file + 1]) for file in (few, many))
    wanted, there = windows.start_s[mine] + shift_s, windows.start_s[theirs]
    after = np.clip(np.searchsorted(there, wanted), 0, len(there) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(wanted - there[before] < there[after] - wanted, before, after)
    within = np.abs(there[nearest] - wanted) <= windows.hop_s / 2 + 1e-6
    mine, theirs = mine[within], theirs[nearest[within]]
    rows, columns = (mine, theirs) if few == a else (theirs, mine)
    cosines, weights = dict[Modality, np.ndarray](), dict[Modality, np.ndarray]()
    for modality in MODALITIES:
        vectors, has, says = windows.vectors[modality], windows.has[modality], windows.says[modality]
        cosines[modality] = np.einsum("ke,ke->k", vectors[rows], vectors[columns], dtype=np.float64)
        common = np.maximum(windows.others[modality][rows], windows.others[modality][columns])
        both = has[rows] & has[columns] & (says[rows] | says[columns])
        weights[modality] = both / np.maximum(common, 1)
    return _Aligned(rows, columns, cosines, weights)


def _excess(aligned: _Aligned, modality: Modality, limits: Limits) -> Float64[np.ndarray, " k"]:
    return aligned.weights[modality] * (aligned.cosines[modality] - limits.least[modality])


def _scores(aligned: _Aligned) -> dict[Modality, float | None]:
    scores: dict[Modality, float | None] = {}
    for modality in MODALITIES:
        weight = aligned.weights[modality]
        scores[modality] = float(weight @ aligned.cosines[modality] / weight.sum()) if weight.any() else None
    return scores


def _judged(windows: Windows, a: int, b: int, aligned: _Aligned, limits: Limits) -> Match:
    """The common part of two files at an offset, its scores and kind."""
    scores, cut = _scores(aligned), False
    reached: list[Modality] = [m for m in MODALITIES if _reaches(scores[m], limits.least[m])]
    if not reached:
        runs = {m: best_run(_excess(aligned, m, limits)) for m in MODALITIES}
        most = max(MODALITIES, key=lambda m: runs[m][2])
        if runs[most][2] > 0:
            aligned = _cut(aligned, slice(*runs[most][:2]))
            scores = _scores(aligned)
            reached = [most]
            cut = True
    if (windows.length_s(a), windows.count(a)) < (windows.length_s(b), windows.count(b)):
        a, b, aligned = b, a, aligned._replace(rows=aligned.columns, columns=aligned.rows)
    rows, columns = aligned.rows, aligned.columns
    offset_s = float(np.mean(windows.start_s[rows] - windows.start_s[columns])) if len(rows) else 0.0
    counts = len(np.unique(rows)) / windows.count(a), len(np.unique(columns)) / windows.count(b)
    coverage = counts if cut else overlap(windows, a, b, offset_s) or counts
    return Match(
        a=a,
        b=b,
        offset_s=offset_s,
        rows=rows,
        columns=columns,
        scores=scores,
        evidence=max((float(aligned.weights[m].sum()) for m in reached), default=0.0),
        kind=_kind(scores, reached, limits, coverage),
        coverage=coverage,
        cut=cut,
    )


def overlap(windows: Windows, a: int, b: int, offset_s: float) -> tuple[float, float] | None:
    """Shares of two files that overlap at an offset; None where one has no length."""
    (start_a, end_a), (start_b, end_b) = windows.span_s(a), windows.span_s(b)
    if start_a == end_a or start_b == end_b:
        return None
    both_s = max(0.0, min(end_a, end_b + offset_s) - max(start_a, start_b + offset_s))
    return both_s / (end_a - start_a), both_s / (end_b - start_b)


def with_evidence(windows: Windows, match: Match) -> Match:
    """The same match, its windows weighed anew."""
    counts = [windows.others[m][side] for m in MODALITIES for side in (match.rows, match.columns)]
    return replace(match, evidence=float((1 / np.maximum(np.maximum.reduce(counts), 1)).sum()))


def _cut(aligned: _Aligned, run: slice) -> _Aligned:
    return _Aligned(
        aligned.rows[run],
        aligned.columns[run],
        {m: aligned.cosines[m][run] for m in MODALITIES},
        {m: aligned.weights[m][run] for m in MODALITIES},
    )


def _reaches(score: float | None, least: float) -> bool:
    return score is not None and score >= least


def _kind(
    scores: Mapping[Modality, float | None], reached: list[Modality], limits: Limits, coverage: tuple[float, float]
) -> Kind:
    """What it is, of a common part in which the modalities `reached` are the same; the other one agrees sooner."""
    if not reached:
        return "similar"
    agree = [m for m in scores if m in reached or _reaches(scores[m], limits.agrees[m])]
    if any(score is not None and m not in agree for m, score in scores.items()):
        return "same_sound" if agree == ["audio"] else "same_picture"
    if min(coverage) >= WHOLE:
        return "same_recording"
    return "part_of" if max(coverage) >= WHOLE else "shared_part"
