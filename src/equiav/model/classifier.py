"""A classifier on top of the encoders, for fine-tuning and for use.

    audio (B, T, M) and/or visual (B, 3, H, W) -> mean tokens -> one linear layer per modality (B, E)
        -> side by side -> linear -> logits (B, classes)

As released for fine-tuning (README): predictor and heads are dropped, there are no fusion
layers. Deliberate differences: a single modality classifies its own E numbers (the released audio_only feeds 512 into
a layer of 768), and the head's learning rate is a group of its own (the released scheduler overwrites it).

B batch · T time frames · M mel bins · H, W image · D width · E embedding width
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from equiav.config import ModelConfig, nearest, parse_settings
from equiav.errors import ModelError
from equiav.model.equiav import EquiAV, as_image, make_encoder, stored_config
from equiav.model.hub import CONFIG, WEIGHTS, fetch, read_json, read_weights
from equiav.model.initialise import initialise, load_strictly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

Senses = Literal["audio", "visual", "audio-visual"]


class Classifier(nn.Module):
    """Labels from sound, picture, or both.

    Args:
        config: of the model whose encoders are fine-tuned.
        classes: names of the labels, in the order of the logits.
        senses: which modalities it looks at.
        drop_path: chance that a sequence skips a block's branch in training, growing linearly from 0 at the first
            block to this at the last; drawn from torch's global generator.
        seed: of the fresh weights; None leaves them NaN for a loader to fill.

    Raises:
        ModelError: no classes, or unknown senses.
    """

    def __init__(
        self,
        config: ModelConfig,
        classes: Sequence[str],
        senses: Senses = "audio-visual",
        *,
        drop_path: float = 0.0,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        if senses not in get_args(Senses):
            raise ModelError(f"no senses {senses!r}{nearest(senses, get_args(Senses))}")
        if not classes:
            raise ModelError("a classifier needs at least one class: none were given")
        self.config, self.classes, self.senses = config, list(classes), senses
        settings = config.architecture
        device = torch.get_default_device()
        with torch.device("meta"):
            self.encoders = nn.ModuleDict()
            self.projections = nn.ModuleDict()
            for modality in ("audio", "visual"):
                if modality in senses:
                    self.encoders[modality] = make_encoder(config, modality, view_norm=False)
                    self.projections[modality] = nn.Linear(settings.width, settings.embedding)
            self.head = nn.Linear(settings.embedding * len(self.projections), len(self.classes))
        self.to_empty(device=device)
        if seed is not None:
            initialise(self, seed)
        self._set_drop_path(drop_path)

    @classmethod
    def on_top_of(
        cls,
        model: EquiAV,
        classes: Sequence[str],
        senses: Senses = "audio-visual",
        *,
        drop_path: float = 0.0,
        seed: int = 0,
    ) -> Classifier:
        """A classifier that starts from a pretrained model's encoders."""
        classifier = cls(model.config, classes, senses, drop_path=drop_path, seed=seed)
        for modality, encoder in classifier.encoders.items():
            trained = model.get_submodule(f"{modality}_tower.encoder").state_dict()
            kept = {name: tensor for name, tensor in trained.items() if not name.startswith("view_norm.")}
            load_strictly(encoder, kept, where=f"the {modality} encoder")
        return classifier

    def forward(
        self,
        audio: Float[Tensor, "B T M"] | None = None,
        visual: Float[Tensor, "B 3 H W"] | None = None,
    ) -> Float[Tensor, "B classes"]:
        """Logits; sigmoid for many labels per clip, softmax for one.

        Raises:
            ModelError: a modality that the classifier looks at is missing or has the wrong size.
        """
        given = {"audio": audio, "visual": visual}
        parts = []
        for modality, encoder in self.encoders.items():
            x = given[modality]
            if x is None:
                raise ModelError(f"this classifier looks at {self.senses}: {modality} was not given")
            tokens, _ = encoder(as_image(x, self.config.features.mel_bins) if modality == "audio" else x)
            parts.append(self.projections[modality](tokens.mean(dim=1)))
        return self.head(torch.cat(parts, dim=1))

    def parameter_groups(self, lr: float, head_lr_ratio: float) -> list[dict[str, Any]]:
        """Optimizer groups: the encoders at `lr`, projections and head at `head_lr_ratio` times it (released: 50)."""
        head = [*self.projections.parameters(), *self.head.parameters()]
        return [
            {"params": list(self.encoders.parameters()), "lr": lr, "lr_ratio": 1.0},
            {"params": head, "lr": lr * head_lr_ratio, "lr_ratio": head_lr_ratio},
        ]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json (with classes and senses) and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tree = {"classes": self.classes, "senses": self.senses, "model": stored_config(self.config)}
        (folder / CONFIG).write_text(json.dumps(tree, indent=2), encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, local_files_only: bool = False
    ) -> Classifier:
        """A classifier from a folder or the Hub, in evaluation mode.

        Raises:
            ModelError: no such classifier, or weights that do not fit.
        """
        paths = [fetch(name, file, revision=revision, local_files_only=local_files_only) for file in (CONFIG, WEIGHTS)]
        tree = read_json(paths[0])
        if not tree.keys() >= {"classes", "senses", "model"}:
            raise ModelError(f"{paths[0]}: not a classifier's config.json: it needs classes, senses and model")
        config = parse_settings(ModelConfig, tree["model"], where=str(paths[0]))
        classifier = cls(config, tree["classes"], tree["senses"], seed=None)
        load_strictly(classifier, read_weights(paths[1]), where=str(paths[1]))
        return classifier.eval()

    def _set_drop_path(self, highest: float) -> None:
        for encoder in self.encoders.values():
            blocks = list(encoder.blocks)  # type: ignore[arg-type]
            for index, block in enumerate(blocks):
                block.drop_path = highest * index / max(len(blocks) - 1, 1)
