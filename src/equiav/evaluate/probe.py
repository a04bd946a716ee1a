"""What simple classifiers read off frozen features:  a library, a model → accuracy (one label per clip) or mAP (more).

Features are the mean of the encoder's patch tokens behind its final norm (the field's "pooled features"), or the
embeddings that retrieval and search compare. For the attentive probe the tokens of all clips are held in memory, as
float16.

One split is learned from and another measured on; or the splits are folds and each in turn is measured on (ESC-50's
protocol); or one split is cut into folds that have every label evenly and each source whole. What is measured on is
never chosen on: there is nothing to choose. Intervals resample sources (`bootstrap.py`); how many of the clips
measured on are of a source that was learned from too is counted. The baseline is what needs no features: of accuracy
the share of the commonest class among these very clips, of mAP the mean share of the classes (equal scores for all).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from equiav.augment.visual import normalise
from equiav.config import Modalities, check_features
from equiav.errors import ConfigError, LibraryError, ModelError
from equiav.evaluate.classifiers import NEIGHBOURS, Kind, class_scores
from equiav.evaluate.gallery import rows_by_id, sources_of
from equiav.evaluate.leaks import seen_in_training
from equiav.evaluate.results import Result, about
from equiav.library.loader import Batch, ClipLoader
from equiav.library.records import USABLE
from equiav.metrics.bootstrap import RESAMPLES, interval, resampled_classes, resampled_means
from equiav.metrics.classification import mean_average_precision
from equiav.metrics.figures import Figure, counted_clips, figure_table, seen_warning, source_warning
from equiav.model.encode import embed_log_mels, embed_pictures
from equiav.train.classification import label_matrix
from equiav.words import are, counted, have

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool, Float, Float64, Int64
    from numpy.typing import NDArray
    from rich.table import Table

    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.train.trained_on import TrainedOn

BATCH = 64
Feature = Literal["pooled", "embedding"]
BASELINES = {"accuracy": "commonest class alone", "mAP": "equal scores for all"}


@dataclass(frozen=True)
class Probed:
    """What a probe reached.

    Attributes:
        described: the classifier, what it sees, and how it was folded.
        measured_on: names of splits.
        measure: `accuracy` where every clip has one label, else `mAP` over the classes.
        folds: split measured on → its figure.
        low: lower end of the 95 % interval of their mean, by resampling the sources of each; None of a single source.
        high: upper end.
        right: for accuracy, clip → 1 or 0, scaled so that clips of small folds weigh more and the mean is the value.
        baseline: the measure without features.
        sources: how many the clips come from.
        shared: of the clips measured on, those of a source that was learned from.
        trained_on: of them, those of a source that the model itself was trained on; None where that is unknown.
        groups: of each clip of `right` a number, equal where two are of one source.
    """

    kind: Kind
    feature: Feature
    modalities: Modalities
    described: str
    measured_on: str
    measure: Literal["accuracy", "mAP"]
    classes: int
    folds: dict[str, float]
    low: float | None
    high: float | None
    right: dict[str, float]
    clips: int
    baseline: float | None = None
    sources: int | None = None
    shared: int = 0
    trained_on: int | None = None
    groups: list[int] = field(default_factory=list)

    @property
    def value(self) -> float:
        """Mean over the folds."""
        return statistics.mean(self.folds.values())

    @property
    def std(self) -> float:
        """Standard deviation over the folds; 0 of one."""
        return statistics.stdev(self.folds.values()) if len(self.folds) > 1 else 0.0

    @property
    def warnings(self) -> list[str]:
        """What makes the figure easier than it looks, or its interval less sure."""
        found = source_warning(self.sources)
        if self.shared:
            own = ": windows of a clip's own source do not vote" if self.kind == "knn" else ""
            clips = counted(self.clips, "clip")
            found.append(f"{self.shared} of {clips} measured on are of sources that were learned from too{own}")
        return found + seen_warning(self.trained_on, self.clips)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "value": self.value, "std": self.std, "warnings": self.warnings}

    def to_table(self) -> Table:
        """For people."""
        from rich.markup import escape

        clips, classes = counted_clips(self.clips, self.sources), counted(self.classes, "class", "classes")
        title = f"{self.described}, {self.modalities}: {classes}, {clips}"
        columns = ("measured on", f"{self.measure} %")
        table = figure_table(*columns, title=title, warnings=self.warnings, min_width=len(title))
        for name, value in self.folds.items():
            table.add_row(escape(name), f"{100 * value:.1f}")
        if len(self.folds) > 1:
            table.add_row("mean ± std", f"{100 * self.value:.1f} ± {100 * self.std:.1f}")
        interval = "none" if self.low is None or self.high is None else f"{100 * self.low:.1f} to {100 * self.high:.1f}"
        table.add_row("95 % interval", interval)
        if self.baseline is not None:
            table.add_row(BASELINES[self.measure], f"{100 * self.baseline:.1f}")
        return table


@dataclass(frozen=True)
class FrozenFeatures:
    """Frozen features of clips: unit embeddings (n, E) or patch tokens (n, N, D), one part per modality."""

    parts: list[Tensor]
    labels: list[list[str]]
    ids: list[str]
    rows: list[NDArray[np.int64]]  # of each split


class _Fold(NamedTuple):
    """What was reached on some clips, in each resample of their sources, and per clip where that has a meaning."""

    value: float
    resampled: Float64[np.ndarray, " r"]
    hits: Float64[np.ndarray, " m"] | None
    baseline: float
    shared: int  # clips of a source that was learned from


# Longer than most functions: two thirds are its options, their words and the record of the result
def probe(
    library: Library,
    model: EquiAV,
    *,
    kind: Kind = "linear",
    feature: Feature = "pooled",
    modalities: Modalities = "both",
    train: str = "train",
    test: str = "test",
    folds: bool = False,
    stratified: int | None = None,
    neighbours: int = NEIGHBOURS,
    learned: TrainedOn | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Probed:
    """Fit a classifier on frozen features and measure it on clips it has not seen.

    Args:
        feature: what the classifier sees of each modality; `attentive` always sees the patch tokens.
        modalities: clips that have this modality count, whether or not they have the other.
        folds: the library's splits are folds: each in turn is measured on, the others are learned from.
        stratified: cut the split `train` into that many folds, each with every label's share of the clips (of several
            labels, the rarest counts) and with all windows of a source, or none.
        neighbours: that vote, of `knn`.
        learned: what the model's run was trained on: which of the clips measured on it knows is counted.
        seed: of the attentive and SGD probes, of the stratified folds and of the resampling.
        on_progress: called with (clips seen, clips, what is fitted).

    Raises:
        ConfigError: folds of both kinds, or fewer than two.
        LibraryError: a split has no clips or is both learned from and measured on, clips have no labels, or there are
            fewer than two classes or folds.
        ModelError: the model gives NaN or infinite features.
    """
    check_features(library.features, model.config.features, library.path)
    usable = USABLE[modalities]
    splits = _splits(library, usable, train, test, folds, stratified)
    what = "tokens" if kind == "attentive" else feature
    seen = _features(library, model, splits, modalities, what, on_progress)
    rows = np.concatenate(seen.rows)
    classes = _classes(library, seen.labels)
    goal, one_label = label_matrix(seen.labels, classes).bool().numpy(), all(len(own) == 1 for own in seen.labels)
    classifier = f"{kind} ({counted(neighbours, 'neighbour')})" if kind == "knn" else kind
    described = f"{classifier} probe on {'patch tokens' if kind == 'attentive' else f'{feature} features'}"
    sources = sources_of(library, rows)
    if stratified:
        measured_on, described = train, f"{described}, {stratified} stratified folds"
        held_out = _stratified(goal, sources.tolist(), stratified, seed)
    else:
        held_out = _by_split(splits, [len(own) for own in seen.rows], None if folds else test)
        measured_on = ", ".join(held_out)
    reached: dict[str, _Fold] = {}
    for i, (name, there) in enumerate(held_out.items()):
        tell = (lambda text, name=name: on_progress(len(rows), len(rows), f"{name}: {text}")) if on_progress else None
        fit = partial(class_scores, kind, model, one_label=one_label, neighbours=neighbours, seed=seed, tell=tell)
        reached[name] = _fold(fit, seen.parts, goal, sources, there, one_label, [seed, i])
    low, high = interval(np.mean([fold.resampled for fold in reached.values()], axis=0))
    measured = np.concatenate(list(held_out.values()))
    ids = [seen.ids[row] for row in measured]
    right = _right(reached, held_out, ids)
    return Probed(
        kind=kind,
        feature=feature,
        modalities=modalities,
        described=described,
        measured_on=measured_on,
        measure="accuracy" if one_label else "mAP",
        classes=len(classes),
        folds={name: fold.value for name, fold in reached.items()},
        low=None if math.isnan(low) else low,
        high=None if math.isnan(high) else high,
        right=right,
        clips=len(ids),
        baseline=statistics.mean(fold.baseline for fold in reached.values()),
        sources=len(np.unique(sources[measured])),
        trained_on=seen_in_training(library, ids, learned),
        shared=sum(fold.shared for fold in reached.values()),
        groups=sources[measured].tolist() if right else [],
    )


def probe_result(found: Probed, library: Library, model: EquiAV, *, seed: int = 0, run: Path | None = None) -> Result:
    """The probe as a result that can be stored and compared."""
    name = f"{found.kind}.{found.modalities}.{found.measure}"
    return Result(
        evaluation="probe",
        about=about(model, library, found.measured_on, protocol=found.described, seed=seed, run=run),
        figures={name: Figure(value=found.value, low=found.low, high=found.high, n=found.clips, sources=found.sources)},
        items=list(found.right),
        sources=found.groups,
        per_item={name: list(found.right.values())} if found.right else {},
        details={
            "folds": found.folds,
            "std": found.std,
            "classes": found.classes,
            "baseline": found.baseline,
            "shared": found.shared,
            "trained_on": found.trained_on,
        },
    )


def _fold(
    fit: Callable[..., Float[np.ndarray, "m classes"]],
    parts: list[Tensor],
    goal: Bool[np.ndarray, "n classes"],
    sources: Int64[np.ndarray, " n"],
    there: Int64[np.ndarray, " m"],
    one_label: bool,
    seed: list[int],
) -> _Fold:
    """Learn from all clips but those of the fold, `there`, and measure on them."""
    here = np.setdiff1d(np.arange(len(goal)), there)
    fitted, unseen = ([part[rows] for part in parts] for rows in (here, there))
    scores = fit(train=fitted, targets=goal[here], test=unseen, sources=(sources[here], sources[there]))
    truth, own = goal[there], sources[there]
    shares, shared = truth.mean(0), int(np.isin(own, sources[here]).sum())
    if one_label:
        hits = truth[np.arange(len(there)), scores.argmax(1)].astype(float)
        again = resampled_means(hits[:, None], resamples=RESAMPLES, seed=seed, sources=own)[:, 0]
        return _Fold(float(hits.mean()), again, hits, float(shares.max()), shared)
    again, _ = resampled_classes(truth, scores, seed=seed, sources=own)
    return _Fold(mean_average_precision(truth, scores), again, None, float(shares[truth.any(0)].mean()), shared)


def _by_split(splits: Iterable[str], counts: list[int], test: str | None) -> dict[str, NDArray[np.int64]]:
    """The places of each split's clips among all of them; of `test` alone where that is given."""
    ends = np.cumsum(counts)
    places = {name: np.arange(end - n, end) for name, end, n in zip(splits, ends, counts, strict=True)}
    return places if test is None else {test: places[test]}


def _right(reached: dict[str, _Fold], held_out: dict[str, NDArray[np.int64]], ids: list[str]) -> dict[str, float]:
    """Clip → 1 or 0, clips of small folds weighing more, so that their mean is that of the folds."""
    weights = [len(ids) / (len(held_out) * len(there)) for there in held_out.values()]
    hits = [fold.hits * weight for fold, weight in zip(reached.values(), weights, strict=True) if fold.hits is not None]
    return dict(zip(ids, np.concatenate(hits).tolist(), strict=True)) if hits else {}


def _splits(
    library: Library, usable: tuple[str, ...], train: str, test: str, folds: bool, stratified: int | None
) -> list[str]:
    """What is to be read: both splits, all that are folds, or the one that folds are cut out of."""
    if folds and stratified is not None:
        raise ConfigError("either the library's splits are folds, or folds are cut out of one split: not both")
    if stratified is not None and stratified < 2:
        raise ConfigError(f"folds: at least 2, found {stratified}")
    splits = [train] if stratified else library.splits(usable) if folds else [train, test]
    if folds and len(splits) < 2:
        raise LibraryError(f"{library.path}: folds need at least two splits, found {', '.join(splits) or 'none'}")
    if len(set(splits)) < len(splits):
        raise LibraryError(
            f"a probe is not measured on the clips that it learned from: train and test are both {train!r}"
        )
    return splits


def _classes(library: Library, labels: list[list[str]]) -> list[str]:
    if unlabelled := sum(not own for own in labels):
        raise LibraryError(
            f"{library.path}: {unlabelled} of {counted(len(labels), 'clip')} {have(unlabelled)} no label; "
            "a probe needs labels"
        )
    classes = sorted({label for own in labels for label in own})
    if len(classes) < 2:
        raise LibraryError(f"{library.path}: all clips have the label {classes[0]!r}; a probe needs two classes")
    return classes


def _stratified(
    goal: Bool[np.ndarray, "n classes"], sources: Sequence[Hashable], folds: int, seed: int
) -> dict[str, Int64[np.ndarray, " m"]]:
    from sklearn.model_selection import StratifiedGroupKFold

    if len(set(sources)) < folds:
        raise LibraryError(f"{folds} folds need as many sources of clips, found {len(set(sources))}")
    rarest = np.where(goal, goal.sum(0), len(goal) + 1).argmin(1)
    if (most := np.bincount(rarest).max()) < folds:
        raise LibraryError(f"{folds} folds need a label with as many clips, the commonest has {most}: take fewer folds")
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(goal, rarest, sources)
    found = {f"fold {i}": there for i, (_, there) in enumerate(cut, 1)}
    if empty := [name for name, there in found.items() if not len(there)]:
        raise LibraryError(
            f"{counted(len(sources), 'clip')} {are(len(sources))} too few for {folds} folds: "
            f"{', '.join(empty)} would be empty"
        )
    return found


@torch.no_grad()
def _features(
    library: Library,
    model: EquiAV,
    splits: list[str],
    modalities: Modalities,
    what: Feature | Literal["tokens"],
    on_progress: Callable[[int, int, str], None] | None = None,
) -> FrozenFeatures:
    """Of the clips of several splits, one behind the other."""
    options: Any = {"frame": "middle", "shuffle": False, "drop_last": False, "modalities": modalities}
    chosen_rows = [rows_by_id(library, split, USABLE[modalities]) for split in splits]
    pairs = zip(splits, chosen_rows, strict=True)
    loaders = [ClipLoader(library, split, BATCH, rows=rows, **options) for split, rows in pairs]
    count = sum(map(len, chosen_rows))
    chosen = ("audio", "visual") if modalities == "both" else (modalities,)
    parts: list[list[Tensor]] = [[] for _ in chosen]
    labels: list[list[str]] = []
    ids: list[str] = []
    for batch in chain.from_iterable(loader.epoch(0) for loader in loaders):
        for part, modality in zip(parts, chosen, strict=True):
            part.append(_part(model, batch, modality, what))
        labels += batch.labels
        ids += batch.clip_ids
        if on_progress:
            on_progress(len(ids), count, "")
    return FrozenFeatures([torch.cat(part) for part in parts], labels, ids, chosen_rows)


def _part(model: EquiAV, batch: Batch, modality: str, what: Feature | Literal["tokens"]) -> Tensor:
    """Of a batch, what is to be seen of one modality."""
    if what == "embedding":
        if modality == "audio":
            return torch.from_numpy(embed_log_mels(model, batch.audio))
        return torch.from_numpy(embed_pictures(model, batch.frames, batch.sizes))
    device = model.device
    with model.computing():
        if modality == "audio":
            tokens = model.audio_tokens(model.standardise(batch.audio.to(device)))
        else:
            plain = model.visual_space.plain(batch.frames.to(device), batch.sizes.to(device))
            tokens = model.visual_tokens(normalise(plain))
    if not tokens.isfinite().all():  # a classifier that says nothing would score as one that always says the same
        raise ModelError("the model gave NaN or infinite features: its weights are broken; look at the run's losses")
    return tokens.half().cpu() if what == "tokens" else tokens.mean(1).float().cpu()
