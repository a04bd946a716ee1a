"""A classifier on top of the encoders, for fine-tuning and for use.

    audio (B, T, M) and/or visual (B, 3, H, W) -> mean tokens -> one linear layer per modality (B, E)
        -> side by side -> linear -> logits (B, classes)

As released for fine-tuning (README): predictor and heads are dropped, there are no fusion
layers. Deliberate differences: a single modality classifies its own E numbers (the released audio_only feeds 512 into
a layer of 768).

B batch · T time frames · M mel bins · H, W image · D width · E embedding width
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from equiav.config import Modalities, ModelConfig, covers, nearest, parse_settings, stored_modalities
from equiav.errors import ModelError
from equiav.model.equiav import EquiAV, as_image, make_encoder
from equiav.model.folder import CONFIG, WEIGHTS, read_json, stored_config
from equiav.model.hub import StoredModel, classifier_card, write_weights
from equiav.model.initialise import initialise, load_strictly

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float
    from typing_extensions import Self

    from equiav.model.vit import Block, Encoder

Labels = Literal["multi-label", "single-label"]


class Classifier(StoredModel):
    """Labels from sound, picture, or both.

    Args:
        config: of the model whose encoders are fine-tuned.
        classes: names of the labels, in the order of the logits.
        modalities: which modalities it looks at.
        labels: how many of the classes a clip may have.
        drop_path: chance that a sequence skips a block's branch in training, growing linearly from 0 at the first
            block to this at the last; drawn from torch's global generator.
        seed: of the fresh weights; None leaves them NaN for a loader to fill.

    Raises:
        ModelError: no classes, or unknown modalities.
    """

    def __init__(
        self,
        config: ModelConfig,
        classes: Sequence[str],
        modalities: Modalities = "both",
        labels: Labels = "multi-label",
        *,
        drop_path: float = 0.0,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        if modalities not in get_args(Modalities):
            raise ModelError(f"no modalities {modalities!r}{nearest(modalities, get_args(Modalities))}")
        if not classes:
            raise ModelError("a classifier needs at least one class: none were given")
        self.config, self.classes = config, list(classes)
        self.modalities: Modalities = modalities
        self.labels: Labels = labels
        settings = config.architecture
        device = torch.get_default_device()
        with torch.device("meta"):
            self.encoders = nn.ModuleDict()
            self.projections = nn.ModuleDict()
            for modality in ("audio", "visual"):
                if covers(modalities, modality):
                    self.encoders[modality] = make_encoder(config, modality, view_norm=False)
                    self.projections[modality] = nn.Linear(settings.width, settings.embedding)
            self.head = nn.Linear(settings.embedding * len(self.projections), len(self.classes))
        self.allocate(device)
        if seed is not None:
            initialise(self, seed)
        self._set_drop_path(drop_path)

    @classmethod
    def on_top_of(
        cls,
        model: EquiAV,
        classes: Sequence[str],
        modalities: Modalities = "both",
        labels: Labels = "multi-label",
        *,
        drop_path: float = 0.0,
        seed: int = 0,
    ) -> Classifier:
        """A classifier that starts from a pretrained model's encoders."""
        classifier = cls(model.config, classes, modalities, labels, drop_path=drop_path, seed=seed)
        classifier.start_from(model)
        return classifier

    def start_from(self, model: EquiAV) -> None:
        """Take a pretrained model's encoders.

        Raises:
            ModelError: they are of other sizes.
        """
        for modality, encoder in self.encoders.items():
            trained = model.get_submodule(f"{modality}_tower.encoder").state_dict()
            kept = {name: tensor for name, tensor in trained.items() if not name.startswith("view_norm.")}
            load_strictly(encoder, kept, where=f"the {modality} encoder")

    def forward(
        self,
        audio: Float[Tensor, "B T M"] | None = None,
        visual: Float[Tensor, "B 3 H W"] | None = None,
    ) -> Float[Tensor, "B classes"]:
        """Logits.

        Raises:
            ModelError: a modality that the classifier looks at is missing or has the wrong size.
        """
        given = {"audio": audio, "visual": visual}
        if missing := [name for name in self.encoders if given[name] is None]:
            raise ModelError(f"this classifier looks at {self.modalities}: {missing[0]} was not given")
        parts = [self.project(name, given[name]) for name in self.encoders]  # type: ignore[arg-type]
        return self.head(torch.cat(parts, dim=1))

    def project(self, modality: str, x: Tensor) -> Float[Tensor, "B E"]:
        """What one modality gives to the head."""
        image = as_image(x, self.config.features.mel_bins) if modality == "audio" else x
        tokens, _ = self.encoders[modality](image)
        return self.projections[modality](tokens.mean(dim=1))

    def probabilities(self, logits: Float[Tensor, "B classes"]) -> Float[Tensor, "B classes"]:
        """Of the classes: each on its own (multi-label), or of exactly one (single-label)."""
        return logits.float().sigmoid() if self.labels == "multi-label" else logits.float().softmax(dim=1)

    @staticmethod
    def is_new(name: str) -> bool:
        """Whether a parameter is no pretrained model's (projections and head), and may learn faster."""
        return not name.startswith("encoders.")

    @override
    def stored(self) -> dict[str, Any]:
        about = {"classes": self.classes, "modalities": self.modalities, "labels": self.labels}
        return about | {"model": stored_config(self.config)}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json (with classes, modalities and labels), model.safetensors and README.md."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(self.stored(), indent=2), encoding="utf-8")
        write_weights({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / WEIGHTS)
        classifier_card(self.config, self.classes, self.labels, self.modalities).save(folder / "README.md")

    @classmethod
    @override
    def without_weights(cls, path: Path) -> Self:
        tree = read_json(path)
        if "architecture" in tree:
            raise ModelError(
                f"{path}: not a classifier's config.json but that of a model that embeds: make a classifier of it "
                "with `equiav finetune … --from` it"
            )
        if not tree.keys() >= {"classes", "labels", "model"} or tree.keys().isdisjoint({"modalities", "senses"}):
            raise ModelError(f"{path}: not a classifier's config.json: it needs classes, modalities, labels and model")
        config = parse_settings(ModelConfig, tree["model"], where=str(path))
        return cls(config, tree["classes"], stored_modalities(tree), tree["labels"], seed=None)

    def _set_drop_path(self, highest: float) -> None:
        for encoder in self.encoders.values():
            blocks = cast("Encoder", encoder).blocks
            for index, block in enumerate(cast("Iterable[Block]", blocks)):
                block.drop_path = highest * index / max(len(blocks) - 1, 1)
