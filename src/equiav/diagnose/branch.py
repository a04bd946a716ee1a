"""One branch of a model, asked about clips: plain, really transformed and predicted representations.

    clips, parameter sets t → views t(x) → latents;   ψ(t), tokens of x → predicted latents;   latent → unit embedding

The plain representation is that of the space's *resting* set, through the LayerNorm of augmented views: the same
function f as for t(x), so that nothing but the transformation lies between p = f(x) and q = f(t(x)).

n clips · M parameter sets of each · K of them asked at once · N tokens · D latent width · E embedding width · P slots
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equiav.augment import uniforms
from equiav.augment.room import RoomSpace
from equiav.augment.space import AugmentationSpace, SpaceParams
from equiav.augment.visual import normalise
from equiav.config import check_features
from equiav.errors import ConfigError, MediaError, ModelError
from equiav.evaluate.gallery import sources_of
from equiav.library.loader import ClipLoader
from equiav.media.decode import decode_audio
from equiav.media.fbank import fit_frames, log_mel

if TYPE_CHECKING:
    from jaxtyping import Float, Int64, UInt8
    from numpy.typing import NDArray

    from equiav.augment.transform import Transform
    from equiav.library.loader import Batch
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV

BATCH = 64  # inputs that pass an encoder at once
MODALITIES: tuple[Literal["audio", "visual"], ...] = ("audio", "visual")


@dataclass(frozen=True)
class Effort:
    """How much is measured; the defaults are the report's."""

    views: int = 16  # M, of each clip
    curve_clips: int = 48
    curve_points: int = 9  # over a slot's range
    focus_clips: int = 64
    focus_sets: int = 64  # parameter sets that attention is asked about
    composed_clips: int = 64
    composed_draws: int = 8
    centroid_clips: int = 64
    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # K
    draws: int = 8  # of K sets
    dense: int = 4096  # predictions that stand for infinitely many
    real: int = 512  # really transformed inputs of a clip
    real_clips: int = 24
    unseen_clips: int = 24
    pool: int = 64  # known sets, the nearest of which stands for an unknown transformation
    repeats: int = 5  # of a timed step


FULL = Effort()


@dataclass(frozen=True)
class ClipTensors:
    """Clips of a library in memory: standardised log-mel and middle frames, padded to the largest."""

    audio: Float[Tensor, "n T M"]
    frames: UInt8[Tensor, "n 3 H W"]
    sizes: Int64[Tensor, "n 2"]
    ids: list[str]
    labels: list[list[str]]
    sounds: list[Float[Tensor, " S"]] | None = None  # waveforms; None where a source cannot be read any more
    sources: list[int] | None = None  # a number for each, equal where two are of one source; None: each has its own

    def __len__(self) -> int:
        return len(self.ids)


def read_clips(library: Library, model: EquiAV, split: str | None, most: int, seed: int = 0) -> ClipTensors:
    """At most `most` clips of a split, a random choice that depends on the seed and the clips' ids alone.

    Raises:
        LibraryError: the split has no clips, or the library's features are not the model's.
    """
    check_features(library.features, model.config.features, library.path)
    loader = ClipLoader(library, split, BATCH, seed, frame="middle", drop_last=False)
    batches: list[Batch] = []
    for batch in loader.epoch(0):
        batches.append(batch.split(most)[0])
        most -= len(batches[-1].clip_ids)
        if most == 0:
            break
    rows = torch.cat([batch.indices for batch in batches])
    side = torch.stack([batch.sizes.amax(0) for batch in batches]).amax(0)
    padded = [
        F.pad(batch.frames, (0, int(side[1]) - batch.frames.shape[3], 0, int(side[0]) - batch.frames.shape[2]))
        for batch in batches
    ]
    return ClipTensors(
        audio=model.standardise(torch.cat([batch.audio for batch in batches])),
        frames=torch.cat(padded),
        sizes=torch.cat([batch.sizes for batch in batches]),
        ids=[name for batch in batches for name in batch.clip_ids],
        labels=[labels for batch in batches for labels in batch.labels],
        sounds=_sounds(library, rows),
        sources=sources_of(library, rows.numpy()).tolist(),
    )


def _sounds(library: Library, rows: Int64[Tensor, " n"]) -> list[Float[Tensor, " S"]] | None:
    """The clips' waveforms, read from their sources: what is done to sound before the spectrogram needs them."""
    rate = library.features.sample_rate
    about = library.take(rows.tolist(), ["source", "start_s", "end_s"]).to_pylist()
    try:
        return [torch.from_numpy(decode_audio(Path(x["source"]), x["start_s"], x["end_s"], rate)) for x in about]
    except MediaError:
        return None


P = ParamSpec("P")


def _computed(method: Callable[Concatenate[Branch, P], Tensor]) -> Callable[Concatenate[Branch, P], Tensor]:
    """Without gradients, in the model's precision; what comes out is fp32."""

    @wraps(method)
    def run(branch: Branch, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        with torch.no_grad(), branch.model.computing():
            return method(branch, *args, **kwargs).float()

    return run


class Branch:
    """A model's sound or picture side, and the clips that it is asked about.

    Args:
        model: in evaluation mode, on any device.
        name: which branch.
        clips: the clips; rows of them are asked by number.
    """

    def __init__(self, model: EquiAV, name: Literal["audio", "visual"], clips: ClipTensors) -> None:
        self.model, self.name, self.clips = model, name, clips
        self.space: AugmentationSpace = model.audio_space if name == "audio" else model.visual_space
        self.tower = model.audio_tower if name == "audio" else model.visual_tower
        self.predictor = model.predictor(name)
        self.device = next(model.parameters()).device

    def sources(self, rows: Int64[Tensor, " b"]) -> NDArray[np.int64]:
        """The number of the source of each of these clips, equal where two are of one."""
        known = self.clips.sources
        return rows.numpy() if known is None else np.array(known)[rows.numpy()]

    @property
    def predicts(self) -> bool:
        """Whether the method has a predictor at all."""
        return self.predictor is not None

    def view(self, rows: Int64[Tensor, " b"], params: SpaceParams) -> Tensor:
        """The inputs of clips under one parameter set each."""
        return self.transformed(rows, self.space, params)

    def transformed(self, rows: Int64[Tensor, " b"], space: AugmentationSpace, params: SpaceParams) -> Tensor:
        """The same by any space of this branch: transformations that the model was not trained on."""
        if isinstance(space, RoomSpace):
            return self._from_sounds(rows, space, params).to(self.device)
        if self.name == "audio":
            return space.apply(self.clips.audio[rows].to(self.device), params)
        frames, sizes = self.clips.frames[rows].to(self.device), self.clips.sizes[rows]
        return normalise(space.apply(frames, params, sizes))  # type: ignore[call-arg]

    def _from_sounds(self, rows: Int64[Tensor, " b"], space: RoomSpace, params: SpaceParams) -> Tensor:
        """Spectrograms of transformed waveforms, made as `equiav ingest` makes them."""
        features = self.model.config.features
        sounds = [] if self.clips.sounds is None else [self.clips.sounds[int(row)] for row in rows]
        changed = space.apply(torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True), params)
        mels = [log_mel(x[: len(sound)].numpy(), features) for x, sound in zip(changed, sounds, strict=True)]
        fitted = [torch.from_numpy(fit_frames(mel[: features.time_frames], features.time_frames)) for mel in mels]
        return self.model.standardise(torch.stack(fitted))

    def plain(self, rows: Int64[Tensor, " b"]) -> Tensor:
        """Clips as people see them: standardised log-mel, or pictures in [0, 1]."""
        if self.name == "audio":
            return self.clips.audio[rows]
        return self.model.visual_space.plain(self.clips.frames[rows], self.clips.sizes[rows])

    @_computed
    def tokens(self, rows: Int64[Tensor, " b"]) -> Float[Tensor, "b N D"]:
        """What the predictor looks at: tokens of the plain inputs, through the base view's LayerNorm."""
        plain = self.plain(rows).to(self.device)
        return self.model.audio_tokens(plain) if self.name == "audio" else self.model.visual_tokens(normalise(plain))

    @_computed
    def latent(self, views: Tensor) -> Float[Tensor, "b D"]:
        """f of inputs: the mean token, through the LayerNorm of augmented views where the method has one."""
        view = self.tower.method != "plain"
        tokens = self.model.audio_tokens if self.name == "audio" else self.model.visual_tokens
        return tokens(views, view=view).mean(1)

    @_computed
    def predict(self, tokens: Float[Tensor, "b N D"], codes: Float[Tensor, "b K P"]) -> Float[Tensor, "b K D"]:
        """Latents after each of K transformations as the predictor expects them."""
        if self.predictor is None:
            raise ModelError(f"method {self.tower.method} has no predictor")
        return self.tower.predict(tokens, codes.to(self.device), self.predictor)

    @_computed
    def project(self, latent: Float[Tensor, "*b D"]) -> Float[Tensor, "*b E"]:
        """Unit vectors in the space of the intra-modal loss (of the inter-modal one for method plain)."""
        head = self.tower.inter_head if self.tower.method == "plain" else self.tower.intra_head
        return F.normalize(head(latent.to(self.device)).float(), dim=-1).cpu()

    @_computed
    def embed(self, latent: Float[Tensor, "*b D"]) -> Float[Tensor, "*b E"]:
        """Unit vectors in the space of the inter-modal loss: where sounds meet pictures."""
        return F.normalize(self.tower.inter_head(latent.to(self.device)).float(), dim=-1).cpu()

    @_computed
    def embed_inputs(self, inputs: Tensor) -> Float[Tensor, "b E"]:
        """What search would see: the model's own embedding of inputs."""
        return (self.model.embed_audio if self.name == "audio" else self.model.embed_visual)(inputs).cpu()

    def embeddings(self) -> Float[Tensor, "n E"]:
        """The model's own embeddings of all clips, plain."""
        rows = torch.arange(len(self.clips))
        return batched(lambda *part: self.embed_inputs(self.view(*part)), rows, repeat(rest(self.space), len(rows)))


@dataclass(frozen=True)
class States:
    """Latents of n clips: p before (plain, or under a base set), q under M sets, and what the predictor says.

    `r` is its prediction for the M sets, `r_before` its prediction for where p is; None without predictor.
    """

    p: Float[Tensor, "n M D"]
    q: Float[Tensor, "n M D"]
    r: Float[Tensor, "n M D"] | None
    r_before: Float[Tensor, "n M D"] | None

    def projected(self, branch: Branch) -> States:
        """The same states as unit embeddings of the intra-modal space."""
        p = branch.project(self.p[:, 0])[:, None].expand(*self.q.shape[:2], -1)
        if self.r is None or self.r_before is None:
            return States(p, branch.project(self.q), None, None)
        before = branch.project(self.r_before[:, 0])[:, None].expand(*self.q.shape[:2], -1)
        return States(p, branch.project(self.q), branch.project(self.r), before)

    def views(self, chosen: list[int]) -> States:
        """Some of the M."""
        return States(*(None if x is None else x[:, chosen] for x in (self.p, self.q, self.r, self.r_before)))  # type: ignore[arg-type]


def states(branch: Branch, rows: Int64[Tensor, " n"], params: SpaceParams, base: SpaceParams | None = None) -> States:
    """Embed clips before and after transformations, and as predicted.

    Args:
        rows: the clips.
        params: M sets for each clip, a clip's sets together.
        base: one set for each clip to start from; by default all rest.
    """
    n, views = len(rows), len(params) // len(rows)
    base = base or repeat(rest(branch.space), n)
    p, q = latents(branch, rows, base), latents(branch, rows.repeat_interleave(views), params)
    p, q = p[:, None].expand(-1, views, -1), q.unflatten(0, (n, views))
    if not branch.predicts:
        return States(p, q, None, None)
    codes = torch.cat([branch.space.encode(base)[:, None], branch.space.encode(params).unflatten(0, (n, views))], dim=1)
    predicted = batched(lambda part, code: branch.predict(branch.tokens(part), code).cpu().float(), rows, codes)
    return States(p, q, predicted[:, 1:], predicted[:, :1].expand(-1, views, -1))


def latents(branch: Branch, rows: Int64[Tensor, " b"], params: SpaceParams) -> Float[Tensor, "b D"]:
    """f of clips under one set each."""
    return batched(lambda *part: branch.latent(branch.view(*part)).cpu().float(), rows, params)


def batched(ask: Callable[..., Tensor], *asked: Tensor | SpaceParams) -> Tensor:
    """What `ask` says of all rows, of which so many as an encoder takes at once are asked together."""
    starts = range(0, len(asked[0]), BATCH)
    return torch.cat([ask(*(rows[i : i + BATCH] for rows in asked)) for i in starts])


def repeat(params: SpaceParams, times: int) -> SpaceParams:
    """The same sets, one after the other, `times` times."""
    return SpaceParams(params.values.repeat(times, 1), params.names)


def join(*params: SpaceParams) -> SpaceParams:
    """Sets of one space one after the other."""
    return SpaceParams(torch.cat([one.values for one in params]), params[0].names)


def rest(space: AugmentationSpace) -> SpaceParams:
    """The set that changes nothing and that the predictor knows: what is always on in training is on at neutral."""
    resting = space.identity(1)
    for transform in space.transforms:
        if transform.options.p == 1:
            resting = resting.replace(f"{transform.name}.on", 1.0)
    return resting


def alone(
    space: AugmentationSpace, name: str, n: int, generator: torch.Generator, base: SpaceParams | None = None
) -> SpaceParams:
    """n draws of one transform, on, the others as in `base`, or at rest.

    Raises:
        ConfigError: no such transform, or it is never on in training.
    """
    coin = sum(transform.uniforms for transform in takewhile(lambda one: one.name != name, space.transforms))
    drawn = uniforms.from_generator(n, space.uniforms, generator)
    drawn[:, coin : coin + 1] = 0.0
    params = space.only(name).from_uniforms(drawn)
    if not bool((params.column(f"{name}.on") > 0.5).all()):
        raise ConfigError(f"{name} is never on (p: 0): nothing to measure")
    own = torch.tensor([slot.split(".")[0] == name for slot in space.names])
    return SpaceParams(torch.where(own, params.values, (base or rest(space)).values), space.names)


def median(params: SpaceParams, transform: Transform) -> SpaceParams:
    """The same sets with one transform on, its other slots where a median draw puts them."""
    drawn = transform.draw(torch.full((1, transform.uniforms), 0.5))
    for slot, column in zip(transform.slots[1:], drawn[0, 1:], strict=True):
        params = params.replace(f"{transform.name}.{slot.name}", column)
    return params.replace(f"{transform.name}.on", 1.0)


def along(
    space: AugmentationSpace, base: SpaceParams, transform: Transform, slot: str, values: Float[Tensor, " n"]
) -> SpaceParams:
    """A median draw of a transform over n values of one slot, the others as in `base`, one set.

    A value that does not go with the other slots is brought to one that does: a box must stay inside.
    """
    params = median(repeat(base, len(values)), transform).replace(f"{transform.name}.{slot}", values)
    return space.decode(space.encode(params))


def trained_on(space: AugmentationSpace) -> list[str]:
    """Names of the transforms that training draws, in order of application."""
    return [transform.name for transform in space.transforms if transform.options.p > 0]
