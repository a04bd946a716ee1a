"""What pretraining is about: a batch's views and their parameters, the three losses, and signs of health.

clips (B) → base views, augmented views, ψ(t) of the view (B, P) and of the centroid (B, K, P) → model → losses
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equiav.augment.audio_effects import take_frames
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.uniforms import Method, from_keys
from equiav.augment.visual import normalise
from equiav.metrics.health import centroid_noise, deviation, displacement_ratio, logit_spread, rank_share
from equiav.model.equiav import EquiAV, EquiAVOutput
from equiav.train.loss import equiav_loss

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from equiav.config import Recipe
    from equiav.library.loader import Batch

HEALTH_CLIPS = 128  # looked at after each epoch
VIEW, CENTROID, ROLL = 0, 1, 9  # streams of randomness; a space takes two per number, one for each modality


class Pretraining:
    """EquiAV's objective: a batch's views and their parameters, and the three losses.

    What is drawn for a clip depends on (seed, epoch, clip id) alone: neither the number of processes nor the clips it
    shares a batch with change its views.
    """

    def __init__(self, model: EquiAV, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe

    def inputs(self, batch: Batch, epoch: int) -> tuple[Tensor, ...]:
        """Arguments of `EquiAV.forward`: base views, and unless the method is plain augmented views and ψ(t)."""
        model, settings = self.model, self.recipe.model
        device = next(model.parameters()).device
        keys = clip_keys(batch.clip_ids)
        audio = model.standardise(batch.audio.to(device))
        frames, sizes = batch.frames.to(device), batch.sizes.to(device)
        if self.recipe.train.roll:
            audio = roll_time(audio, from_keys(keys, 1, seed=self.recipe.train.seed, epoch=epoch, stream=ROLL)[:, 0])
        visual = normalise(model.visual_space.plain(frames, sizes))
        if settings.method == "plain":
            return audio, visual

        def draw(space: AugmentationSpace, stream: int, count: int, method: Method) -> SpaceParams:
            seed = self.recipe.train.seed
            return space.sample_for(keys, seed=seed, epoch=epoch, stream=stream, count=count, method=method)

        spaces = model.audio_space, model.visual_space
        samples = settings.centroid_samples
        audio_params, visual_params = (draw(space, VIEW, 1, "iid") for space in spaces)
        sets = (draw(space, CENTROID, samples, settings.centroid_sampling) for space in spaces)
        return (
            audio,
            visual,
            model.audio_space.apply(audio, audio_params),
            normalise(model.visual_space.apply(frames, visual_params, sizes)),
            model.audio_space.encode(audio_params).to(device),
            model.visual_space.encode(visual_params).to(device),
            *(space.encode(s).view(len(keys), samples, -1).to(device) for space, s in zip(spaces, sets, strict=True)),
        )

    def losses(self, output: EquiAVOutput, batch: Batch) -> dict[str, Tensor]:
        """Weighted sum and parts; the other clips of the batch are all the target there is."""
        del batch
        return equiav_loss(output, self.recipe.loss)

    @torch.no_grad()
    def health(self, batch: Batch, epoch: int) -> dict[str, float]:
        """The measures of `equiav.metrics.health` on (at most `HEALTH_CLIPS` clips of) a batch."""
        model = self.model.eval()
        audio, visual, *views = self.inputs(batch.split(HEALTH_CLIPS)[0], epoch)
        tokens = {"audio": model.audio_tokens(audio), "visual": model.visual_tokens(visual)}
        embedded = model.embed_audio(audio), model.embed_visual(visual)
        found = {"logit_spread": logit_spread(*embedded, self.recipe.loss.temperature)}
        for modality, x in zip(tokens, embedded, strict=True):
            found |= {f"{modality}.deviation": deviation(x), f"{modality}.rank_share": rank_share(x)}
        if self.recipe.model.method == "equiav":
            # before and after through the same LayerNorm: nothing but the transformation lies between them
            plain = model.audio_tokens(audio, view=True), model.visual_tokens(visual, view=True)
            changed = model.audio_tokens(views[0], view=True), model.visual_tokens(views[1], view=True)
            predict = model.predict_audio, model.predict_visual
            for i, (modality, x) in enumerate(tokens.items()):
                head = (model.audio_tower, model.visual_tower)[i].intra_head
                moved = predict[i](x, torch.cat([views[2 + i][:, None], views[4 + i]], dim=1))
                found[f"{modality}.displacement_ratio"] = displacement_ratio(
                    head(plain[i].mean(1)), head(moved[:, 0]), head(changed[i].mean(1))
                )
                if moved.shape[1] > 2:
                    found[f"{modality}.centroid_noise"] = centroid_noise(moved[:, 1:])
        model.train()
        return {name: float(value) for name, value in found.items()}


def clip_keys(clip_ids: list[str]) -> Int64[Tensor, " B"]:
    """64 bits of each id, a hexadecimal hash of content and window."""
    return torch.tensor([int.from_bytes(bytes.fromhex(i[:16]), "big", signed=True) for i in clip_ids])


def roll_time(audio: Float[Tensor, "B T M"], share: Float[Tensor, " B"]) -> Float[Tensor, "B T M"]:
    """Roll each spectrogram by a share of its length, as the release does to the base view by a random one."""
    frames = audio.shape[1]
    shift = (share * frames).long().to(audio.device)
    return take_frames(audio, (torch.arange(frames, device=audio.device) - shift[:, None]) % frames)
