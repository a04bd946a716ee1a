"""What simple classifiers read off frozen features:  a library, a model → accuracy (one label per clip) or mAP (more).

- linear: logistic regression on standardised features, C = 1, nothing tuned;
- sgd: a linear classifier fitted by SGD, the usual recipe where there are too many clips for the other;
- knn: votes of the 20 nearest training clips by cosine, weighted by exp(similarity / 0.07) (Wu et al. 2018);
- attentive: one learned query over the patch tokens. CAV-MAE Sync's and TG-DP's "linear probe" has such an attention
  inside: do not hold it against a linear one. The tokens of all clips are held in memory, as float16.

Features are the mean of the encoder's patch tokens behind its final norm (the field's "pooled features"), or the
embeddings that retrieval and search compare. sgd and attentive are `gradient_probe.py`.

Either one split is learned from and another measured on, or the splits are folds and each in turn is measured on
(ESC-50's protocol). The split measured on is never chosen on: there is nothing to choose.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from equiav.augment.visual import normalise
from equiav.errors import LibraryError
from equiav.evaluate.bootstrap import mean_intervals
from equiav.evaluate.gradient_probe import fitted_scores
from equiav.evaluate.results import Measured, Result, about
from equiav.library.loader import ClipLoader
from equiav.search.embed import check_features
from equiav.search.encode import embed_batch
from equiav.train.scoring import mean_average_precision

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool, Float
    from rich.table import Table

    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV

Kind = Literal["linear", "sgd", "knn", "attentive"]
Feature = Literal["pooled", "embedding"]
Senses = Literal["audio", "visual", "both"]
NEIGHBOURS, TEMPERATURE = 20, 0.07
BATCH = 64


@dataclass(frozen=True)
class Features:
    """Frozen features of clips: unit embeddings (n, E) or patch tokens (n, N, D), one part per sense."""

    parts: list[Tensor]
    labels: list[list[str]]
    ids: list[str]

    def rows(self, chosen: list[int]) -> Features:
        """Some of the clips."""
        return Features(
            [x[chosen] for x in self.parts], [self.labels[i] for i in chosen], [self.ids[i] for i in chosen]
        )


@dataclass(frozen=True)
class Probed:
    """What a probe reached.

    Attributes:
        measure: `accuracy` where every clip has one label, else `mAP` over the classes.
        folds: split measured on → its figure.
        right: clip → 1 or 0, for accuracy.
    """

    kind: Kind
    feature: Feature
    senses: Senses
    measure: Literal["accuracy", "mAP"]
    classes: int
    folds: dict[str, float]
    right: dict[str, float]
    clips: int

    @property
    def described(self) -> str:
        """The classifier and what it sees."""
        return f"{self.kind} probe on {'patch tokens' if self.kind == 'attentive' else f'{self.feature} features'}"

    @property
    def value(self) -> float:
        """Mean over the folds."""
        return statistics.mean(self.folds.values())

    @property
    def std(self) -> float:
        """Standard deviation over the folds; 0 of one."""
        return statistics.stdev(self.folds.values()) if len(self.folds) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "value": self.value, "std": self.std}

    def to_table(self) -> Table:
        """For people."""
        from rich.table import Table

        title = f"{self.described}, {self.senses}: {self.classes} classes, {self.clips} clips measured on"
        table = Table("measured on", f"{self.measure} %", title=title, title_justify="left")
        for name, value in self.folds.items():
            table.add_row(name, f"{100 * value:.1f}")
        if len(self.folds) > 1:
            table.add_row("mean ± std", f"{100 * self.value:.1f} ± {100 * self.std:.1f}")
        return table


def probe(
    library: Library,
    model: EquiAV,
    *,
    kind: Kind = "linear",
    feature: Feature = "pooled",
    senses: Senses = "both",
    train: str = "train",
    test: str = "test",
    folds: bool = False,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Probed:
    """Fit a classifier on frozen features and measure it on clips it has not seen.

    Args:
        feature: what the classifier sees of each sense; `attentive` always sees the patch tokens.
        folds: the library's splits are folds: each in turn is measured on, the others are learned from.
        seed: of the attentive probe.

    Raises:
        LibraryError: a split has no clips or is both learned from and measured on, clips have no labels, or there are
            fewer than two classes or folds.
    """
    check_features(library, model)
    if not folds and train == test:
        raise LibraryError(f"a probe is not measured on what it learned from: train and test are both {train!r}")
    splits = library.splits() if folds else [train, test]
    if folds and len(splits) < 2:
        raise LibraryError(f"{library.path}: folds need at least two splits, found {', '.join(splits) or 'none'}")
    total = sum(library.count(split) for split in splits)
    known: dict[str, Features] = {}
    for split in splits:
        done = sum(len(found.ids) for found in known.values())
        tell = (lambda n, done=done: on_progress(done + n, total)) if on_progress else None
        known[split] = _features(library, model, split, senses, "tokens" if kind == "attentive" else feature, tell)
    labels = [own for found in known.values() for own in found.labels]
    if unlabelled := sum(not own for own in labels):
        raise LibraryError(f"{library.path}: {unlabelled} of {len(labels)} clips have no label; a probe needs labels")
    classes = sorted({label for own in labels for label in own})
    if len(classes) < 2:
        raise LibraryError(f"{library.path}: all clips have the label {classes[0]!r}; a probe needs two classes")
    one_label = all(len(own) == 1 for own in labels)
    figures, right = {}, {}
    for held_out in splits if folds else [test]:
        rest = [found for split, found in known.items() if split != held_out]
        fitted = Features(
            [torch.cat(parts) for parts in zip(*(found.parts for found in rest), strict=True)],
            [own for found in rest for own in found.labels],
            [],
        )
        goal = _targets(known[held_out].labels, classes)
        scores = _scores(kind, model, fitted, _targets(fitted.labels, classes), known[held_out], one_label, seed)
        hits = goal[np.arange(len(goal)), scores.argmax(1)]
        figures[held_out] = float(hits.mean()) if one_label else mean_average_precision(goal, scores)
        if one_label:
            right |= dict(zip(known[held_out].ids, hits.astype(float).tolist(), strict=True))
    measured = sum(len(known[split].ids) for split in figures)
    return Probed(kind, feature, senses, "accuracy" if one_label else "mAP", len(classes), figures, right, measured)


def probe_result(found: Probed, library: Library, model: EquiAV, *, seed: int = 0, run: Path | None = None) -> Result:
    """The probe as a result that can be stored and compared."""
    values = np.array(list(found.right.values()))
    low, high = found.value, found.value
    if len(values):
        low, high = (float(end[0]) for end in mean_intervals(values[:, None], resamples=1000, seed=seed))
    name = f"{found.kind}.{found.senses}.{found.measure}"
    return Result(
        evaluation="probe",
        about=about(model, library, ", ".join(found.folds), protocol=found.described, seed=seed, run=run),
        figures={name: Measured(value=found.value, low=low, high=high, n=found.clips)},
        items=list(found.right),
        per_item={name: list(found.right.values())} if found.right else {},
        details={"folds": found.folds, "std": found.std, "classes": found.classes},
    )


@torch.no_grad()
def _features(
    library: Library,
    model: EquiAV,
    split: str,
    senses: Senses,
    what: Feature | Literal["tokens"],
    on_progress: Callable[[int], None] | None,
) -> Features:
    loader = ClipLoader(library, split, BATCH, frame="middle", shuffle=False, drop_last=False)
    chosen = ("audio", "visual") if senses == "both" else (senses,)
    device = next(model.parameters()).device
    parts: list[list[Tensor]] = [[] for _ in chosen]
    labels: list[list[str]] = []
    ids: list[str] = []
    for batch in loader.epoch(0):
        if what != "embedding":
            plain = model.visual_space.plain(batch.frames.to(device), batch.sizes.to(device))
            found = {
                "audio": lambda batch=batch: model.audio_tokens(model.standardise(batch.audio.to(device))),
                "visual": lambda plain=plain: model.visual_tokens(normalise(plain)),
            }
            tokens = [found[sense]() for sense in chosen]
            made = [x.half().cpu() if what == "tokens" else x.mean(1).float().cpu() for x in tokens]
        else:
            embedded = embed_batch(model, batch)
            made = [torch.from_numpy(getattr(embedded, sense)) for sense in chosen]
        for part, x in zip(parts, made, strict=True):
            part.append(x)
        labels += batch.labels
        ids += batch.clip_ids
        if on_progress:
            on_progress(len(ids))
    return Features([torch.cat(part) for part in parts], labels, ids)


def _targets(labels: list[list[str]], classes: list[str]) -> Bool[np.ndarray, "n classes"]:
    column = {name: i for i, name in enumerate(classes)}
    found = np.zeros((len(labels), len(classes)), dtype=bool)
    for row, own in zip(found, labels, strict=True):
        row[[column[name] for name in own]] = True
    return found


def _scores(
    kind: Kind,
    model: EquiAV,
    train: Features,
    targets: Bool[np.ndarray, "n classes"],
    test: Features,
    one_label: bool,
    seed: int,
) -> Float[np.ndarray, "m classes"]:
    """What the classifier says of every clip and class; larger is more likely."""
    if kind in ("attentive", "sgd"):
        heads, goal = model.config.architecture.heads, torch.from_numpy(targets)
        return fitted_scores(kind, train.parts, goal, test.parts, heads=heads, one_label=one_label, seed=seed).numpy()
    here, there = (torch.cat(found.parts, dim=1).double().numpy() for found in (train, test))
    return _vote(here, targets, there) if kind == "knn" else _linear(here, targets, there, one_label)


def _vote(
    train: Float[np.ndarray, "n E"], targets: Bool[np.ndarray, "n classes"], test: Float[np.ndarray, "m E"]
) -> Float[np.ndarray, "m classes"]:
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train)), metric="cosine").fit(train)
    distance, nearest = index.kneighbors(test)
    weight = np.exp((distance.min(1, keepdims=True) - distance) / TEMPERATURE)
    return (weight[:, :, None] * targets[nearest]).sum(1) / weight.sum(1, keepdims=True)


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
    if one_label:
        model = LogisticRegression(max_iter=1000).fit(train, targets.argmax(1))
        scores[:, model.classes_] = model.predict_log_proba(test)
        return scores
    for column in np.flatnonzero(targets.any(0) & ~targets.all(0)):
        model = LogisticRegression(max_iter=1000).fit(train, targets[:, column])
        scores[:, column] = model.decision_function(test)
    return scores
