"""What fine-tuning is about: labels into targets, a batch's augmented inputs, and the loss on them.

labels of clips -> (B, classes);   `Mixture` -> audio (B, T, M), visual (B, 3, H, W) -> logits -> loss
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from equiav.augment.audio import audio_space
from equiav.augment.uniforms import from_keys
from equiav.augment.visual import normalise, visual_space
from equiav.config import Augment, covers
from equiav.errors import LibraryError
from equiav.train.loss import weight_of_share
from equiav.train.mixing import Mixture, mix_sounds
from equiav.train.objective import ROLL, VIEW, roll_time
from equiav.words import are, counted, have

if TYPE_CHECKING:
    from jaxtyping import Float

    from equiav.config.finetuning import FinetuneRecipe
    from equiav.library.loader import Batch
    from equiav.model.classifier import Classifier, Labels


def label_matrix(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> Float[Tensor, "B classes"]:
    """1 for every label of a clip, else 0."""
    column = {name: i for i, name in enumerate(classes)}
    found = torch.zeros(len(labels), len(classes))
    for row, own in zip(found, labels, strict=True):
        row[[column[name] for name in own]] = 1.0
    return found


def check_labels(labels: Sequence[Sequence[str]], kind: Labels, classes: Sequence[str], where: str) -> None:
    """Every clip must have labels that the task can use.

    Raises:
        LibraryError: a clip has none, one that is no class, or, of a single-label task, more than one.
    """
    if unlabelled := sum(not own for own in labels):
        raise LibraryError(
            f"{where}: {unlabelled} of {counted(len(labels), 'clip')} {have(unlabelled)} no label; ingest again with a "
            "list that has a label column, or give these clips a split of their own"
        )
    unknown = sorted({name for own in labels for name in own} - set(classes))
    if unknown:
        raise LibraryError(
            f"{where}: {counted(len(unknown), 'label')} {are(len(unknown))} no class of this classifier, which knows "
            f"{len(classes)}: {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}; name all classes in "
            "task.classes before training, or measure on clips of known classes"
        )
    several = sum(len(own) > 1 for own in labels)
    if kind == "single-label" and several:
        raise LibraryError(
            f"{where}: {several} of {counted(len(labels), 'clip')} {have(several)} more than one label; "
            "take task.labels=multi-label"
        )


class Classification:
    """The objective of fine-tuning.

    What is drawn for a clip depends on (seed, epoch, its number in the epoch) alone.
    """

    def __init__(self, model: Classifier, recipe: FinetuneRecipe) -> None:
        self.model, self.recipe = model, recipe
        features, settings = recipe.features, recipe.augment
        side = model.config.architecture.image_side
        self.plain = visual_space(model.config.augment, side).plain
        self.audio_space = (
            audio_space(Augment(audio=settings.audio), features.time_frames, features.mel_bins)
            if settings.audio
            else None
        )
        self.visual_space = visual_space(Augment(visual=settings.visual), side) if settings.visual else None

    def inputs(self, batch: Mixture, epoch: int) -> tuple[Tensor | None, Tensor | None]:
        """Sound and picture, each None where the classifier does not look at it."""
        audio = self._sound(batch, epoch) if covers(self.model.modalities, "audio") else None
        return audio, self._picture(batch, epoch) if covers(self.model.modalities, "visual") else None

    def losses(self, output: Float[Tensor, "B classes"], batch: Mixture) -> dict[str, Tensor]:
        """Binary cross-entropy over all classes (multi-label) or cross-entropy, against mixed, smoothed targets.

        Of this process's share; weighted so that the mean over processes is that over the clips of the batch.
        """
        classes, smoothing = self.model.classes, self.recipe.task.label_smoothing
        goal = label_matrix(batch.clips.labels, classes)
        if batch.others is not None:
            goal = torch.lerp(label_matrix(batch.others.labels, classes), goal, batch.shares[:, None])
        # as released: every class gets its part of what the labels give up
        goal = (goal * (1 - smoothing) + smoothing / len(classes)).to(output.device)
        one = F.binary_cross_entropy_with_logits if self.model.labels == "multi-label" else F.cross_entropy
        return {"loss": one(output.float(), goal) * weight_of_share(len(goal), output.device)}

    def health(self, batch: Any, epoch: int) -> dict[str, float]:
        """Nothing: the signs of `equiav.metrics.health` are of contrastive learning."""
        del batch, epoch
        return {}

    def _sound(self, batch: Mixture, epoch: int) -> Float[Tensor, "B T M"]:
        device, seed = self.model.head.weight.device, self.recipe.train.seed
        audio = batch.clips.audio.to(device)
        if batch.others is not None:
            audio = mix_sounds(audio, batch.others.audio.to(device), batch.shares)
        audio = self.model.standardise(audio)
        if self.audio_space:
            params = self.audio_space.sample_for(batch.draws, seed=seed, epoch=epoch, stream=VIEW)
            audio = self.audio_space.apply(audio, params)
        if self.recipe.train.roll:
            audio = roll_time(audio, from_keys(batch.draws, 1, seed=seed, epoch=epoch, stream=ROLL)[:, 0])
        return audio

    def _picture(self, batch: Mixture, epoch: int) -> Float[Tensor, "B 3 S S"]:
        picture = self._view(batch.clips, batch, epoch)
        if batch.others is not None:
            shares = batch.shares.to(picture)[:, None, None, None]
            picture = torch.lerp(self._view(batch.others, batch, epoch), picture, shares)
        return normalise(picture)

    def _view(self, clips: Batch, batch: Mixture, epoch: int) -> Float[Tensor, "B 3 S S"]:
        device = self.model.head.weight.device
        frames, sizes = clips.frames.to(device), clips.sizes.to(device)
        if self.visual_space is None:
            return self.plain(frames, sizes)
        seed = self.recipe.train.seed
        params = self.visual_space.sample_for(batch.draws, seed=seed, epoch=epoch, stream=VIEW)
        return self.visual_space.apply(frames, params, sizes)
