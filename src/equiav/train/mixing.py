"""Batches of labelled clips to fine-tune on: in which order, how often, mixed with which other clip and how much.

    library, split -> `Mixture` batches;   two log-mels (B, T, M), shares (B,) -> log-mel of the mixed sound

Order, partners and shares follow from (seed, epoch) and the clips' ids, whatever the number of processes.

B batch · T time frames · M mel bins
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from equiav.library.loader import Batch, ClipLoader

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from numpy.typing import NDArray

    from equiav.config.finetuning import FinetuneRecipe
    from equiav.library.table import Library


@dataclass(frozen=True)
class Mixture:
    """B clips, each with another that it may be mixed with."""

    clips: Batch
    others: Batch | None
    shares: Float[Tensor, " B"]  # of the clip itself; 1: nothing is mixed in
    draws: Int64[Tensor, " B"]  # numbers within the epoch: a clip may be drawn more than once

    @property
    def clip_ids(self) -> list[str]:
        """Ids of the clips."""
        return self.clips.clip_ids

    def split(self, size: int) -> list[Mixture]:
        """Batches of `size` clips, the last of them maybe smaller."""
        others = repeat(None) if self.others is None else self.others.split(size)
        parts = zip(self.clips.split(size), others, self.shares.split(size), self.draws.split(size), strict=False)
        return [Mixture(*part) for part in parts]


class MixingLoader:
    """Batches of the recipe's training split.

    Args:
        shard: (number, of how many): this process gets its part of every batch.
        rows: row numbers of the clips to take instead of all of the split.

    Raises:
        LibraryError: the split is smaller than a batch, or a batch than the processes.
    """

    def __init__(
        self,
        library: Library,
        recipe: FinetuneRecipe,
        shard: tuple[int, int] = (0, 1),
        *,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.recipe, self.shard = recipe, shard
        split, batch_size = recipe.data.split, recipe.train.global_batch
        modalities = recipe.task.modalities
        self._clips = ClipLoader(
            library, split, batch_size, recipe.train.seed, shuffle=False, modalities=modalities, rows=rows, shard=shard
        )
        table = library.take(self._clips.rows.tolist(), ["clip_id", "labels"])
        # the same clips are drawn alike, in whatever order they were ingested
        order = np.argsort(np.array(table["clip_id"].to_pylist(), dtype=object), kind="stable")
        self.rows = self._clips.rows[order]
        labels = table["labels"].to_pylist()
        self.weights = balanced_weights([labels[i] for i in order]) if recipe.data.balanced else None

    def __len__(self) -> int:
        """Batches in an epoch: as many clips as the split has, drawn once each or, balanced, by weight."""
        return len(self.rows) // self.recipe.train.global_batch

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Mixture]:
        """This process's share of the batches of `epoch`, from `start_batch` on."""
        settings, n = self.recipe.augment, len(self.rows)
        rng = np.random.default_rng([self.recipe.train.seed, epoch, 1])  # ClipLoader's own ends with the epoch
        order = rng.permutation(n) if self.weights is None else rng.choice(n, n, p=self.weights)
        partners = rng.integers(0, n, n)
        shares = np.where(rng.random(n) < settings.mix, rng.beta(settings.mix_beta, settings.mix_beta, n), 1.0)
        clips = self._batches(order, epoch, start_batch)
        others = self._batches(partners, epoch, start_batch) if settings.mix else repeat(None)
        number, processes = self.shard
        size = self.recipe.train.global_batch
        share = np.array_split(np.arange(size), processes)[number]
        for index, (batch, other) in enumerate(zip(clips, others, strict=False), start_batch):
            draws = index * size + share
            yield Mixture(batch, other, torch.from_numpy(shares[draws]).float(), torch.from_numpy(draws))

    def _batches(self, order: NDArray[np.int64], epoch: int, start_batch: int) -> Iterator[Batch]:
        loader = copy.copy(self._clips)
        loader.rows = self.rows[order]
        return loader.epoch(epoch, start_batch)


def balanced_weights(labels: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Chance of each clip: proportional to the sum over its labels of 1 / clips with that label (CAV-MAE's weights)."""
    names, columns = np.unique([name for own in labels for name in own], return_inverse=True)
    rarity = 1 / np.bincount(columns, minlength=len(names))
    owner = np.repeat(np.arange(len(labels)), [len(own) for own in labels])
    weights = np.bincount(owner, rarity[columns], minlength=len(labels))
    return weights / weights.sum()


def mix_sounds(
    first: Float[Tensor, "B T M"], second: Float[Tensor, "B T M"], shares: Float[Tensor, " B"]
) -> Float[Tensor, "B T M"]:
    """log(share · exp(first) + (1 - share) · exp(second)): raw log-mels of two sounds that are played together.

    What uncorrelated sounds add up are their powers, so this is the log-mel of √share · one wave + √(1 - share) · the
    other. As in the release, padding of the first stays padding, and padding of the second adds nothing.

    Args:
        first: natural log of mel powers, padded at the end with frames of zeros.
        second: likewise.
        shares: of the first; where it is 1, the first is returned as it is.
    """
    # a small `mix_beta` draws shares of 0, whose logarithm no loss survives where the second is padding
    weight = shares.to(first).clamp_min(torch.finfo(first.dtype).tiny)[:, None, None]
    silent = (second == 0).all(2, keepdim=True)
    added = torch.where(silent, -torch.inf, second + torch.log1p(-weight))
    mixed = torch.logaddexp(first + weight.log(), added)
    untouched = (first == 0).all(2, keepdim=True) | (weight == 1)
    return torch.where(untouched, first, mixed)
