"""EquiAV: an audio and a visual tower, and the predictor of what transformations do to their representations.

    audio (B, T, M), visual (B, 3, H, W), their augmented views and psi(t)
      -> encoders -> tokens -> predictor -> latents -> heads -> EquiAVOutput: six embeddings (B, E), not normalised

Kim et al., ICML 2024 (arXiv 2403.09502); models/pt_EquiAV.py. Where we differ from the release on purpose:
the base and the augmented view pass the encoder as one batch; the predictor may be shared between the modalities
(`share: modalities`); the centroid at inference uses a fixed set of parameter vectors kept with the weights, where the
release draws fresh ones for every clip.

B batch · T time frames · M mel bins · H, W image · N tokens · D width · E embedding width · K centroid samples ·
P parameter slots
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import Tensor, nn
from typing_extensions import override

from equiav.augment.audio import audio_space as make_audio_space
from equiav.augment.visual import visual_space as make_visual_space
from equiav.config import Architecture, ModelConfig, parse_settings
from equiav.errors import ModelError
from equiav.files import whole_file
from equiav.model.folder import WEIGHTS, read_config, stored_config
from equiav.model.heads import Head
from equiav.model.hub import StoredModel, model_card
from equiav.model.initialise import initialise
from equiav.model.predictor import ParameterEncoder, Predictor, make_predictor
from equiav.model.vit import Encoder

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float
    from typing_extensions import Self

    from equiav.augment.audio import AudioSpace
    from equiav.augment.visual import VisualSpace


class EquiAVOutput(NamedTuple):
    """What the losses compare, before L2 normalisation; None where the method has no such thing."""

    audio_inter: Float[Tensor, "B E"]
    visual_inter: Float[Tensor, "B E"]
    audio_predicted: Float[Tensor, "B E"] | None
    visual_predicted: Float[Tensor, "B E"] | None
    audio_augmented: Float[Tensor, "B E"] | None
    visual_augmented: Float[Tensor, "B E"] | None


def make_encoder(config: ModelConfig, modality: Literal["audio", "visual"], *, view_norm: bool) -> Encoder:
    """The encoder of a modality.

    Shorter sounds than in training take the first positions; other image sizes, and longer sounds, interpolate them.
    """
    settings, features = config.architecture, config.features
    if modality == "audio":
        patch = settings.audio_patch
        grid = (features.mel_bins // patch, features.time_frames // patch)
        return Encoder(settings, channels=1, patch=patch, grid=grid, stretch=False, view_norm=view_norm)
    side = settings.image_side // settings.visual_patch
    return Encoder(
        settings, channels=3, patch=settings.visual_patch, grid=(side, side), stretch=True, view_norm=view_norm
    )


class Tower(nn.Module):
    """One modality: encoder, parameter encoder and heads; the predictor is lent to it, as it may be shared."""

    centroid_set: Tensor

    def __init__(self, settings: Architecture, encoder: Encoder, slots: int) -> None:
        super().__init__()
        self.method, self.source = settings.method, settings.inter_source
        self.encoder = encoder
        self.inter_head = Head(settings.width, settings.head_hidden, settings.embedding)
        if self.method != "plain":
            self.intra_head = Head(settings.width, settings.head_hidden, settings.embedding)
        if self.method == "equiav":
            self.parameters_encoder = ParameterEncoder(slots, settings.parameter_width)
            self.register_buffer("centroid_set", torch.empty(settings.centroid_samples, slots))

    def forward(
        self,
        base: Float[Tensor, "B C H W"],
        view: Float[Tensor, "B C H W"] | None,
        params: Float[Tensor, "B P"] | None,
        centroid_params: Float[Tensor, "B K P"] | None,
        predictor: Predictor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Inter-modal, predicted and augmented embedding of a batch, (B, E) each."""
        tokens, view_tokens = self.encoder(base, None if self.method == "plain" else view)
        mean = tokens.mean(dim=1)
        if self.method == "plain":
            return self.inter_head(mean), None, None
        if view_tokens is None:
            raise ModelError(f"method {self.method} compares with an augmented view: none was given")
        latent = {"mean": mean, "augmented": view_tokens.mean(dim=1)}
        predicted = mean
        if predictor is not None:
            moved = self.predict(tokens, self._asked(params, centroid_params), predictor)
            predicted = latent["predicted"] = moved[:, 0]
            latent["centroid"] = moved[:, 1:].mean(dim=1)
        predicted, augmented = self.intra_head(torch.cat([predicted, latent["augmented"]])).chunk(2)
        # not views of one tensor: sharded training hangs its hooks on outputs
        return self.inter_head(latent[self.source]), predicted.clone(), augmented.clone()

    def _asked(
        self, params: Float[Tensor, "B P"] | None, centroid_params: Float[Tensor, "B K P"] | None
    ) -> Float[Tensor, "B K P"]:
        """The view's parameters first, then the centroid's where the inter-modal loss sees a centroid."""
        if params is None:
            raise ModelError("method equiav needs the parameters psi(t) of the augmented view: none were given")
        if self.source != "centroid":
            return params[:, None]
        if centroid_params is None:
            raise ModelError("inter: centroid needs the parameters psi(t) of the centroid: none were given")
        return torch.cat([params[:, None], centroid_params], dim=1)

    def predict(
        self, tokens: Float[Tensor, "B N D"], params: Float[Tensor, "B K P"], predictor: Predictor
    ) -> Float[Tensor, "B K D"]:
        """The base view's representation, moved by each of K transformations; params (1, K, P) serve all B."""
        return predictor(tokens, self.parameters_encoder(params))

    def embed(self, base: Float[Tensor, "B C H W"], predictor: Predictor | None) -> Float[Tensor, "B E"]:
        """Deterministic inter-modal embedding, L2-normalised: what the inter-modal loss saw in training.

        The centroid (and one prediction, of which it is the mean) over the fixed parameter set; else the mean token,
        through the LayerNorm of the view that the loss saw.
        """
        if self.source == "augmented":
            latent = self.tokens(base, view=True).mean(dim=1)
        elif self.source == "mean" or predictor is None:
            latent = self.tokens(base).mean(dim=1)
        else:
            latent = self.predict(self.tokens(base), self.centroid_set[None], predictor).mean(dim=1)
        return F.normalize(self.inter_head(latent).float(), dim=-1)

    def embed_tokens(self, base: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N E"]:
        """Each token by itself through the LayerNorm and the head that `embed` uses, L2-normalised."""
        return F.normalize(self.inter_head(self.tokens(base, view=self.source == "augmented")).float(), dim=-1)

    def tokens(self, image: Float[Tensor, "B C H W"], *, view: bool = False) -> Float[Tensor, "B N D"]:
        """Final tokens, through the base view's LayerNorm or the augmented view's."""
        encoder = self.encoder
        norm = encoder.view_norm if view else encoder.norm
        if norm is None:
            raise ModelError("method plain has no LayerNorm for augmented views")
        return norm(encoder.features(encoder.embed(image)))


class EquiAV(  # type: ignore[misc]  (from_pretrained takes fewer options than the mixin's: what this library supports)
    StoredModel,
    PyTorchModelHubMixin,
    library_name="equiav",
    license="apache-2.0",
    pipeline_tag="feature-extraction",
    paper_url="https://arxiv.org/abs/2403.09502",
):
    """The model.

    Args:
        config: sizes, features, augmentation and the spectrogram's mean and deviation; a ModelConfig or config.json's
            content.
        seed: of the fresh weights and of the fixed centroid parameters; None leaves them NaN for a loader to fill.
        audio_space: transformations whose parameters the predictor gets; by default made from `config`.
        visual_space: the same for images.

    Raises:
        ConfigError: unknown keys or values out of range in `config`.
    """

    def __init__(
        self,
        config: ModelConfig | dict[str, Any],
        *,
        seed: int | None = 0,
        audio_space: AudioSpace | None = None,
        visual_space: VisualSpace | None = None,
    ) -> None:
        super().__init__()
        if isinstance(config, dict):
            config = parse_settings(ModelConfig, config, where="config")
        self.config = config
        self._hub_mixin_config = stored_config(config)
        features, settings = config.features, config.architecture
        self.audio_space = audio_space or make_audio_space(config.augment, features.time_frames, features.mel_bins)
        self.visual_space = visual_space or make_visual_space(config.augment, settings.image_side)
        device = torch.get_default_device()
        with torch.device("meta"):
            self._build(settings)
        self.allocate(device)
        self._fill(seed)

    def _build(self, settings: Architecture) -> None:
        """Modules without values."""
        view_norm = settings.method != "plain"
        audio, visual = (make_encoder(self.config, modality, view_norm=view_norm) for modality in ("audio", "visual"))
        self.audio_tower = Tower(settings, audio, self.audio_space.size)
        self.visual_tower = Tower(settings, visual, self.visual_space.size)
        if settings.method != "equiav":
            self.predictors = nn.ModuleDict()
        elif settings.share == "modalities":
            self.predictors = nn.ModuleDict({"both": make_predictor(settings)})
        else:
            self.predictors = nn.ModuleDict({"audio": make_predictor(settings), "visual": make_predictor(settings)})

    @torch.no_grad()
    def _fill(self, seed: int | None) -> None:
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.fill_(float("nan"))
        if seed is None:
            return
        initialise(self, seed)
        if self.config.architecture.method == "equiav":
            for tower, space in ((self.audio_tower, self.audio_space), (self.visual_tower, self.visual_space)):
                generator = torch.Generator().manual_seed(seed)
                tower.centroid_set.copy_(space.encode(space.sample(len(tower.centroid_set), generator)))

    def forward(
        self,
        audio: Float[Tensor, "B T M"],
        visual: Float[Tensor, "B 3 H W"],
        audio_view: Float[Tensor, "B T M"] | None = None,
        visual_view: Float[Tensor, "B 3 H W"] | None = None,
        audio_params: Float[Tensor, "B P"] | None = None,
        visual_params: Float[Tensor, "B P"] | None = None,
        audio_centroid_params: Float[Tensor, "B K P"] | None = None,
        visual_centroid_params: Float[Tensor, "B K P"] | None = None,
    ) -> EquiAVOutput:
        """The six embeddings of a training batch, not normalised.

        Args:
            audio: standardised log-mel of the base view.
            visual: ImageNet-normalised image of the base view.
            audio_view: the augmented view, likewise; None for method plain.
            visual_view: likewise.
            audio_params: psi(t) of `audio_view`; None without predictor.
            visual_params: psi(t) of `visual_view`.
            audio_centroid_params: psi(t) of K fresh transformations per clip; None where `inter` is no centroid.
            visual_centroid_params: likewise.

        Raises:
            ModelError: an input has the wrong size, or what the method needs is missing.
        """
        view = None if audio_view is None else self._as_image(audio_view)
        a = self.audio_tower(self._as_image(audio), view, audio_params, audio_centroid_params, self.predictor("audio"))
        v = self.visual_tower(visual, visual_view, visual_params, visual_centroid_params, self.predictor("visual"))
        return EquiAVOutput(a[0], v[0], a[1], v[1], a[2], v[2])

    def predictor(self, modality: Literal["audio", "visual"]) -> Predictor | None:
        """The predictor of a modality (one for both with `share: modalities`); None where the method has none."""
        for name in (modality, "both"):
            if name in self.predictors:
                return self.predictors[name]  # type: ignore[return-value]
        return None

    @property
    def audio_centroid_set(self) -> Float[Tensor, "K P"]:
        """The fixed parameter vectors of the audio centroid at inference."""
        return self.audio_tower.centroid_set

    @property
    def visual_centroid_set(self) -> Float[Tensor, "K P"]:
        """The fixed parameter vectors of the visual centroid at inference."""
        return self.visual_tower.centroid_set

    def embed_audio(self, audio: Float[Tensor, "B T M"]) -> Float[Tensor, "B E"]:
        """Deterministic, L2-normalised embedding of standardised log-mel of any length from one patch on."""
        return self.audio_tower.embed(self._as_image(audio), self.predictor("audio"))

    def embed_visual(self, visual: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Deterministic, L2-normalised embedding of normalised images of any size from one patch on."""
        return self.visual_tower.embed(visual, self.predictor("visual"))

    def audio_tokens(self, audio: Float[Tensor, "B T M"], *, view: bool = False) -> Float[Tensor, "B N D"]:
        """Final tokens, mel rows first; `view` takes the augmented view's LayerNorm."""
        return self.audio_tower.tokens(self._as_image(audio), view=view)

    def visual_tokens(self, visual: Float[Tensor, "B 3 H W"], *, view: bool = False) -> Float[Tensor, "B N D"]:
        """Final tokens, image rows first; `view` takes the augmented view's LayerNorm."""
        return self.visual_tower.tokens(visual, view=view)

    def predict_audio(self, tokens: Float[Tensor, "B N D"], params: Float[Tensor, "B K P"]) -> Float[Tensor, "B K D"]:
        """Latents after each of K transformations, predicted from the base view's tokens (before any head)."""
        return self.audio_tower.predict(tokens, params, self._required_predictor("audio"))

    def predict_visual(self, tokens: Float[Tensor, "B N D"], params: Float[Tensor, "B K P"]) -> Float[Tensor, "B K D"]:
        """As `predict_audio`, for images."""
        return self.visual_tower.predict(tokens, params, self._required_predictor("visual"))

    def encode(self, *, audio: Any = None, image: Any = None, video: Any = None, **options: Any) -> Any:
        """Embeddings (n, E) of files, bytes or arrays, or an (audio, visual) pair of videos.

        See `equiav.model.encode.encode` for what it takes, gives and raises.
        """
        from equiav.model.encode import encode

        return encode(self, audio=audio, image=image, video=video, **options)

    @override
    def stored(self) -> dict[str, Any]:
        return stored_config(self.config)

    @classmethod
    @override
    def without_weights(cls, path: Path) -> Self:
        return cls(read_config(path), seed=None)

    def generate_model_card(self, *_: Any, **known: Any) -> ModelCard:
        """README.md; `known` are the options of `equiav.model.hub.model_card`."""
        return model_card(self.config, sum(p.numel() for p in self.parameters()), **known)

    @override
    def _save_pretrained(self, save_directory: Path) -> None:
        with whole_file(save_directory / WEIGHTS, ModelError, SafetensorError) as beside:
            save_model(self, str(beside))

    def _required_predictor(self, modality: Literal["audio", "visual"]) -> Predictor:
        predictor = self.predictor(modality)
        if predictor is None:
            raise ModelError(f"method {self.config.architecture.method} has no predictor; train with method=equiav")
        return predictor

    def _as_image(self, audio: Float[Tensor, "B T M"]) -> Float[Tensor, "B 1 M T"]:
        return as_image(audio, self.config.features.mel_bins)


def as_image(audio: Float[Tensor, "B T M"], mel_bins: int) -> Float[Tensor, "B 1 M T"]:
    """The spectrogram as the encoder sees it: mel bins down, time across.

    Raises:
        ModelError: another number of mel bins, or no batch.
    """
    if audio.ndim != 3 or audio.shape[2] != mel_bins:
        raise ModelError(f"expected log-mel audio (batch, frames, {mel_bins} mel bins), found {tuple(audio.shape)}")
    return audio.transpose(1, 2).unsqueeze(1)
