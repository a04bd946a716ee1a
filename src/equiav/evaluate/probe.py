"""What simple classifiers read off frozen features:  a library, a model → accuracy (one label per clip) or mAP (more).

- linear: logistic regression on standardised features, C = 1, nothing tuned;
- sgd: a linear classifier fitted by SGD, the usual recipe where there are too many clips for the other;
- knn: votes of the k nearest training clips by cosine, weighted by exp(similarity / 0.07) (Wu et al. 2018); windows of
  the clip's own source do not vote;
- attentive: one learned query over the patch tokens. CAV-MAE Sync's and TG-DP's "linear probe" has such an attention
  inside: do not hold it against a linear one. The tokens of all clips are held in memory, as float16.

Features are the mean of the encoder's patch tokens behind its final norm (the field's "pooled features"), or the
embeddings that retrieval and search compare. sgd and attentive are `gradient_probe.py`.

One split is learned from and another measured on; or the splits are folds and each in turn is measured on (ESC-50's
protocol); or one split is cut into folds that have every label evenly and each source whole. What is measured on is
never chosen on: there is nothing to choose. Intervals resample sources (`bootstrap.py`); how many of the clips
measured on are of a source that was learned from too is said. The baseline is what needs no features: of accuracy the
share of the commonest class among these very clips, of mAP the mean share of the classes (equal scores for all).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from equiav.augment.visual import normalise
from equiav.config import Modalities, check_features
from equiav.errors import ConfigError, LibraryError, ModelError
from equiav.evaluate.gallery import recordings_of
from equiav.evaluate.gradient_probe import fitted_scores
from equiav.evaluate.leaks import seen_in_training
from equiav.evaluate.probed import Feature, Kind, Probed, probe_result
from equiav.library.loader import Batch, ClipLoader
from equiav.library.records import USABLE
from equiav.metrics.bootstrap import RESAMPLES, interval, resampled_classes, resampled_means
from equiav.metrics.classification import mean_average_precision
from equiav.metrics.sources import numbered
from equiav.model.encode import embed_log_mels, embed_pictures
from equiav.train.classification import label_matrix
from equiav.words import are, counted, have

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64

    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.train.trained_on import TrainedOn

NEIGHBOURS, TEMPERATURE = 20, 0.07
BATCH = 64
__all__ = ["Feature", "Kind", "Probed", "probe", "probe_result"]


@dataclass(frozen=True)
class Features:
    """Frozen features of clips: unit embeddings (n, E) or patch tokens (n, N, D), one part per modality."""

    parts: list[Tensor]
    labels: list[list[str]]
    ids: list[str]


class _Fold(NamedTuple):
    """What was reached on some clips, in each resample of their sources, and per clip where that has a meaning."""

    value: float
    resampled: Float64[np.ndarray, " r"]
    hits: Float64[np.ndarray, " m"] | None
    baseline: float
    shared: int  # clips of a source that was learned from


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
    counts = [library.count(split, usable) for split in splits]
    seen = _read(library, model, splits, counts, modalities, "tokens" if kind == "attentive" else feature, on_progress)
    classes = _classes(library, seen.labels)
    goal, one_label = label_matrix(seen.labels, classes).bool().numpy(), all(len(own) == 1 for own in seen.labels)
    described = kind if kind != "knn" else f"{kind} ({counted(neighbours, 'neighbour')})"
    described += f" probe on {'patch tokens' if kind == 'attentive' else f'{feature} features'}"
    rows = np.concatenate([library.positions(split, usable) for split in splits])
    sources = numbered(recordings_of(library, rows))
    if stratified:
        measured_on, described = train, f"{described}, {stratified} stratified folds"
        held_out = _stratified(goal, sources.tolist(), stratified, seed)
    else:
        ends = np.cumsum(counts)
        held_out = {name: np.arange(end - n, end) for name, end, n in zip(splits, ends, counts, strict=True)}
        held_out = held_out if folds else {test: held_out[test]}
        measured_on = ", ".join(held_out)
    reached: dict[str, _Fold] = {}
    for i, (name, there) in enumerate(held_out.items()):
        tell = (
            (lambda said, name=name: on_progress(sum(counts), sum(counts), f"{name}: {said}")) if on_progress else None
        )
        fit = partial(_scores, kind, model, one_label=one_label, neighbours=neighbours, seed=seed, tell=tell)
        reached[name] = _fold(fit, seen.parts, goal, sources, there, one_label, [seed, i])
    low, high = interval(np.mean([fold.resampled for fold in reached.values()], axis=0))
    measured = np.concatenate(list(held_out.values()))
    weights = [len(measured) / (len(held_out) * len(there)) for there in held_out.values()]
    hits = [fold.hits * weight for fold, weight in zip(reached.values(), weights, strict=True) if fold.hits is not None]
    right = dict(zip([seen.ids[row] for row in measured], np.concatenate(hits).tolist(), strict=True)) if hits else {}
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
        clips=len(measured),
        baseline=statistics.mean(fold.baseline for fold in reached.values()),
        sources=len(np.unique(sources[measured])),
        trained_on=seen_in_training(library, [seen.ids[row] for row in measured], learned),
        shared=sum(fold.shared for fold in reached.values()),
        groups=sources[measured].tolist() if right else [],
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


def _read(
    library: Library,
    model: EquiAV,
    splits: list[str],
    counts: list[int],
    modalities: Modalities,
    what: Feature | Literal["tokens"],
    on_progress: Callable[[int, int, str], None] | None,
) -> Features:
    """The clips of several splits, one behind the other."""
    known: list[Features] = []
    for i, split in enumerate(splits):
        tell = (lambda n, i=i: on_progress(sum(counts[:i]) + n, sum(counts), "")) if on_progress else None
        known.append(_features(library, model, split, modalities, what, tell))
    return Features(
        [torch.cat(parts) for parts in zip(*(found.parts for found in known), strict=True)],
        [own for found in known for own in found.labels],
        [clip_id for found in known for clip_id in found.ids],
    )


@torch.no_grad()
def _features(
    library: Library,
    model: EquiAV,
    split: str,
    modalities: Modalities,
    what: Feature | Literal["tokens"],
    on_progress: Callable[[int], None] | None,
) -> Features:
    loader = ClipLoader(library, split, BATCH, frame="middle", shuffle=False, drop_last=False, modalities=modalities)
    chosen = ("audio", "visual") if modalities == "both" else (modalities,)
    parts: list[list[Tensor]] = [[] for _ in chosen]
    labels: list[list[str]] = []
    ids: list[str] = []
    for batch in loader.epoch(0):
        for part, modality in zip(parts, chosen, strict=True):
            part.append(_part(model, batch, modality, what))
        labels += batch.labels
        ids += batch.clip_ids
        if on_progress:
            on_progress(len(ids))
    return Features([torch.cat(part) for part in parts], labels, ids)


def _part(model: EquiAV, batch: Batch, modality: str, what: Feature | Literal["tokens"]) -> Tensor:
    """Of a batch, what is to be seen of one modality."""
    if what == "embedding":
        heard = modality == "audio"
        made = embed_log_mels(model, batch.audio) if heard else embed_pictures(model, batch.frames, batch.sizes)
        return torch.from_numpy(made)
    device = next(model.parameters()).device
    if modality == "audio":
        tokens = model.audio_tokens(model.standardise(batch.audio.to(device)))
    else:
        plain = model.visual_space.plain(batch.frames.to(device), batch.sizes.to(device))
        tokens = model.visual_tokens(normalise(plain))
    if not tokens.isfinite().all():  # a classifier that says nothing would score as one that always says the same
        raise ModelError("the model gave NaN or infinite features: its weights are broken; look at the run's losses")
    return tokens.half().cpu() if what == "tokens" else tokens.mean(1).float().cpu()


def _scores(
    kind: Kind,
    model: EquiAV,
    train: list[Tensor],
    targets: Bool[np.ndarray, "n classes"],
    test: list[Tensor],
    one_label: bool,
    neighbours: int,
    sources: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]],
    seed: int,
    tell: Callable[[str], None] | None,
) -> Float[np.ndarray, "m classes"]:
    """What the classifier says of every clip and class; larger is more likely."""
    if kind in ("attentive", "sgd"):
        heads, goal = model.config.architecture.heads, torch.from_numpy(targets)
        on_epoch = (lambda epoch, epochs: tell(f"epoch {epoch} of {epochs}")) if tell else None
        options = {"heads": heads, "one_label": one_label, "seed": seed, "on_epoch": on_epoch}
        return fitted_scores(kind, train, goal, test, **options).numpy()
    here, there = (torch.cat(parts, dim=1).double().numpy() for parts in (train, test))
    return (
        _vote(here, targets, there, neighbours, sources) if kind == "knn" else _linear(here, targets, there, one_label)
    )


def _vote(
    train: Float[np.ndarray, "n E"],
    targets: Bool[np.ndarray, "n classes"],
    test: Float[np.ndarray, "m E"],
    neighbours: int,
    sources: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]] | None = None,
) -> Float[np.ndarray, "m classes"]:
    """The votes of the nearest training clips that are of another source; 0 for all classes where there are none."""
    from sklearn.neighbors import NearestNeighbors

    here, there = sources or (np.zeros(len(train), int), np.ones(len(test), int))
    known, counts = np.unique(here, return_counts=True)
    most = int(counts[np.isin(known, there)].max(initial=0))  # windows of its own source that come before others
    index = NearestNeighbors(n_neighbors=min(neighbours + most, len(train)), metric="cosine").fit(train)
    distance, nearest = index.kneighbors(test)
    votes = here[nearest] != there[:, None]
    votes &= np.cumsum(votes, axis=1) <= neighbours
    first = np.where(votes, distance, np.inf).min(1, keepdims=True)
    weight = np.where(votes, np.exp((np.where(votes, first, distance) - distance) / TEMPERATURE), 0.0)
    return (weight[:, :, None] * targets[nearest]).sum(1) / np.maximum(weight.sum(1, keepdims=True), 1e-300)


def _linear(
    train: Float[np.ndarray, "n E"],
    targets: Bool[np.ndarray, "n classes"],
    test: Float[np.ndarray, "m E"],
    one_label: bool,
) -> Float[np.ndarray, "m classes"]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(train)
    train, test = np.asarray(scale.transform(train)), np.asarray(scale.transform(test))
    scores = np.full((len(test), targets.shape[1]), -1e9)  # of classes that the training split lacks
    if one_label and targets.any(0).sum() == 1:  # of a fold without the rare class
        scores[:, targets.any(0)] = 0.0
        return scores
    if one_label:
        model = LogisticRegression(max_iter=1000).fit(train, targets.argmax(1))
        scores[:, model.classes_] = model.predict_log_proba(test)
        return scores
    for column in np.flatnonzero(targets.any(0) & ~targets.all(0)):
        model = LogisticRegression(max_iter=1000).fit(train, targets[:, column])
        scores[:, column] = model.decision_function(test)
    return scores
