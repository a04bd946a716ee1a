"""Pretrain EquiAV on a library:  (recipe, library) → run folder (recipe.yaml, metrics.jsonl, …, state/, model/).

Run again with the same recipe it goes on where it was; another recipe in the same folder is refused.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from accelerate import Accelerator
from torch import Tensor

from equiav.augment.audio_effects import take_frames
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.uniforms import Method, from_keys
from equiav.augment.visual import normalise
from equiav.config import ModelConfig, Recipe
from equiav.errors import ConfigError, TrainingError
from equiav.library.loader import Batch, ClipLoader
from equiav.library.table import Library
from equiav.model.convert import start_encoders
from equiav.model.equiav import EquiAV, EquiAVOutput
from equiav.train.health import centroid_noise, deviation, displacement_ratio, logit_spread, rank_share
from equiav.train.loop import train
from equiav.train.loss import equiav_loss
from equiav.train.processes import from_main, make_accelerator, whole
from equiav.train.report import Step
from equiav.train.throughput import choose_precision, step_flops

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

HEALTH_CLIPS = 128  # looked at after each epoch
VIEW, CENTROID, ROLL = 0, 1, 9  # streams of randomness; a space takes two per number, one for each sense

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """Where a pretraining ended."""

    run: Path
    step: int
    steps: int
    clips: int

    @property
    def done(self) -> bool:
        """False when the run was told to stop before its last step."""
        return self.step == self.steps


def pretrain(
    recipe: Recipe,
    library: Library,
    run: Path,
    *,
    on_step: Callable[[Step], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Pretrained:
    """Train, or go on training, the model of `recipe` on `library` into the folder `run`.

    Started by `torchrun` or `accelerate launch`, all processes call this; the run folder must be one that they share.

    Raises:
        TrainingError: nothing to train on, `run` belongs to another recipe or library, or the loss is not finite.
        ConfigError: a tracker that is not installed.
    """
    plan = make_plan(recipe, library, run)
    recipe, accelerator = plan.recipe, plan.accelerator
    from_main(accelerator, lambda: claim_run(run, recipe))
    model = EquiAV(plan.config, seed=recipe.train.seed)
    start_encoders(model, recipe.init)
    model.to(accelerator.device)
    accelerator.init_trackers("equiav", config=_flat(recipe.model_dump(mode="json")))
    progress, average = train(
        model,
        plan.loader,
        Pretraining(model, recipe),
        run,
        settings=recipe.train,
        optim=recipe.optim,
        accelerator=accelerator,
        flops_per_clip=step_flops(plan.config),
        on_step=on_step,
        should_stop=should_stop,
    )
    for tracker in accelerator.trackers:
        tracker.finish()
    weights = {name: whole(tensor.detach()) for name, tensor in (model.state_dict() | average).items()}
    if accelerator.is_main_process:
        kept = EquiAV(plan.config, seed=None)
        kept.load_state_dict(weights)
        kept.eval().save_pretrained(run / "model")
    accelerator.wait_for_everyone()
    return Pretrained(run, progress.step, len(plan.loader) * recipe.train.epochs, library.count(recipe.data.split))


@dataclass(frozen=True)
class Plan:
    """A recipe made concrete: on this library, this machine, these processes."""

    recipe: Recipe
    config: ModelConfig
    accelerator: Accelerator
    loader: ClipLoader


def make_plan(recipe: Recipe, library: Library, run: Path) -> Plan:
    """Resolve the recipe and open the loader; writes nothing."""
    _check_trackers(recipe)
    # what is measured here must be the same everywhere
    recipe = from_main(make_accelerator(), lambda: resolve(recipe, library))
    accelerator = make_accelerator(recipe.train.precision, recipe.train.trackers, run)
    loader = ClipLoader(
        library,
        recipe.data.split,
        recipe.train.global_batch,
        recipe.train.seed,
        shard=(accelerator.process_index, accelerator.num_processes),
    )
    return Plan(recipe, model_config(recipe), accelerator, loader)


def _check_trackers(recipe: Recipe) -> None:
    for tracker in recipe.train.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(f"train.trackers: {tracker} is not installed: pip install {tracker}, or leave it out")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
        flat.update(inner)
    return flat


class Pretraining:
    """The objective of DESIGN §4: a batch's views and their parameters, and the three losses.

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

    def losses(self, output: EquiAVOutput) -> dict[str, Tensor]:
        """Weighted sum and parts."""
        return equiav_loss(output, self.recipe.loss)

    @torch.no_grad()
    def health(self, batch: Batch, epoch: int) -> dict[str, float]:
        """The measures of `equiav.train.health` on (at most `HEALTH_CLIPS` clips of) a batch."""
        model = self.model.eval()
        audio, visual, *views = self.inputs(batch.split(HEALTH_CLIPS)[0], epoch)
        tokens = {"audio": model.audio_tokens(audio), "visual": model.visual_tokens(visual)}
        embedded = model.embed_audio(audio), model.embed_visual(visual)
        found = {"logit_spread": logit_spread(*embedded, self.recipe.loss.temperature)}
        for sense, x in zip(tokens, embedded, strict=True):
            found |= {f"{sense}.deviation": deviation(x), f"{sense}.rank_share": rank_share(x)}
        if self.recipe.model.method == "equiav":
            changed = model.audio_tokens(views[0], view=True), model.visual_tokens(views[1], view=True)
            predict = model.predict_audio, model.predict_visual
            for i, (sense, x) in enumerate(tokens.items()):
                head = (model.audio_tower, model.visual_tower)[i].intra_head
                moved = predict[i](x, torch.cat([views[2 + i][:, None], views[4 + i]], dim=1))
                found[f"{sense}.displacement_ratio"] = displacement_ratio(
                    head(x.mean(1)), head(moved[:, 0]), head(changed[i].mean(1))
                )
                if moved.shape[1] > 2:
                    found[f"{sense}.centroid_noise"] = centroid_noise(moved[:, 1:])
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


def resolve(recipe: Recipe, library: Library) -> Recipe:
    """Fill in what the library and the machine decide: features, normalisation, precision, a batch that fits."""
    clips = library.count(recipe.data.split)
    if clips < 2:
        raise TrainingError(
            f"{library.path}: split {recipe.data.split!r} has {clips} clips with both sound and picture; "
            "contrastive training needs at least 2: ingest more videos"
        )
    batch = min(recipe.train.global_batch, clips)
    if batch < recipe.train.global_batch:
        log.warning("batch reduced from %d to all %d clips of the split", recipe.train.global_batch, clips)
    mean, std = recipe.data.audio_mean, recipe.data.audio_std
    if mean is None or std is None:
        mean, std = library.log_mel_stats(recipe.data.split)
    precision = choose_precision(recipe.train.precision)
    return recipe.model_copy(
        update={
            "features": library.features,
            "data": recipe.data.model_copy(update={"audio_mean": mean, "audio_std": std}),
            "train": recipe.train.model_copy(update={"global_batch": batch, "precision": precision}),
        }
    )


def model_config(recipe: Recipe) -> ModelConfig:
    """What the model folder keeps of a resolved recipe."""
    if recipe.data.audio_mean is None or recipe.data.audio_std is None:
        raise TrainingError(
            "data.audio_mean and data.audio_std are not known yet: resolve the recipe on a library first"
        )
    return ModelConfig(
        architecture=recipe.model,
        features=recipe.features,
        augment=recipe.augment,
        audio_mean=recipe.data.audio_mean,
        audio_std=recipe.data.audio_std,
    )


def claim_run(run: Path, recipe: Recipe) -> None:
    """Write recipe.yaml, or check that the run found there is the same one."""
    run.mkdir(parents=True, exist_ok=True)
    file = run / "recipe.yaml"
    wanted = recipe.model_dump(mode="json")
    if file.exists():
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        differing = sorted(_differences(found, wanted))
        if differing:
            raise TrainingError(
                f"{run} holds a run of another recipe: {'; '.join(differing)}. "
                "Use another --run folder, or the same recipe to go on with this one"
            )
        return
    beside = file.with_suffix(".part")
    beside.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
    beside.replace(file)


def _differences(found: object, wanted: object, key: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = found.keys() | wanted.keys()
        return [d for k in keys for d in _differences(found.get(k), wanted.get(k), f"{key}.{k}" if key else str(k))]
    return [] if found == wanted else [f"{key} was {found!r}, now {wanted!r}"]
