"""A model from its folder or from the Hugging Face Hub; its fingerprint, and its card.

folder, run or hf://owner/name -> model;   model -> README.md (the model card), fingerprint
"""

# safetensors and huggingface_hub leave some of their types open
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from equiav.config import ModelConfig
from equiav.errors import ModelError
from equiav.files import whole_file
from equiav.machine import DTYPES, Precision, pick_device, pick_precision
from equiav.model.folder import CONFIG, WEIGHTS, Fingerprint, fetch
from equiav.model.initialise import load_strictly

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from typing_extensions import Self


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        ModelError: damaged, or no safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from None


def write_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Tensors as a safetensors file.

    Raises:
        ModelError: it cannot be written: the disk is full, say.
    """
    with whole_file(path, ModelError, SafetensorError) as beside:
        save_file(tensors, beside)


class StoredModel(nn.Module):
    """A module whose sizes and preprocessing are a ModelConfig, and that is kept in a folder or on the Hub."""

    config: ModelConfig
    precision: Precision = "fp32"  # of matrix products outside training; the weights are what they are

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.parameters()).device

    def computing(self, precision: str | torch.dtype | None = None) -> AbstractContextManager[Any]:
        """A context in which the model is run to embed: matrix products are of `precision`, or of the model's own.

        The residual stream, LayerNorms, softmax and the final normalisation stay in fp32.

        Raises:
            ConfigError: there is no such precision on the model's device.
        """
        device = self.device
        chosen = pick_precision(self.precision if precision is None else precision, device)
        if chosen == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=getattr(torch, DTYPES[chosen]))

    def stored(self) -> dict[str, Any]:
        """config.json's content: all that changes what the model gives, but its weights."""
        raise NotImplementedError

    @classmethod
    def without_weights(cls, path: Path) -> Self:
        """A model of this config.json's sizes, its weights NaN."""
        raise NotImplementedError

    def allocate(self, device: torch.device) -> None:
        """Room on a device for weights that were made without any."""

        def room(tensor: Tensor) -> Tensor:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

        # to_empty imports sympy, a second of its own, on account of tensors that have no storage yet
        self._apply(room)

    def standardise(self, log_mel: Float[Tensor, "B T M"]) -> Float[Tensor, "B T M"]:
        """Log-mel to what the encoder sees: mean 0 and deviation 1 over the training data."""
        return (log_mel - self.config.audio_mean) / self.config.audio_std

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any weight and with any setting that changes an output."""
        found = Fingerprint(self.stored())
        for name, tensor in sorted(self.state_dict().items()):
            content = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
            found.add(name, str(tensor.dtype), tuple(tensor.shape), [content])
        return found.text()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Self:
        """A model from a folder or from the Hub, in evaluation mode; safetensors only.

        Args:
            name: a model folder, a run's folder, or `hf://owner/name` on the Hugging Face Hub.
            revision: branch, tag or commit on the Hub.
            local_files_only: do not ask the Hub; the cache or a folder must have it.
            device: where to put it: `auto` (a GPU if there is one), `cuda`, `cuda:1`, `mps`, `cpu`; None leaves it
                where torch makes tensors: on the CPU, unless set otherwise.
            dtype: precision in which it embeds: `auto`, `fp32`, `bf16`, `fp16` or torch's dtypes, as
                `equiav.machine.pick_precision` says; None: fp32. The weights stay in fp32, and so does the fingerprint.

        Raises:
            ModelError: no such model, or weights that do not fit its config.
            ConfigError: config.json has unknown keys or values out of range; there is no such device or precision.
        """
        place = pick_device(device) if device else None
        files = [fetch(name, file, revision=revision, local_files_only=local_files_only) for file in (CONFIG, WEIGHTS)]
        home = torch.get_default_device()
        with torch.device("meta"):
            model = cls.without_weights(files[0])
        model.allocate(home)
        load_strictly(model, read_weights(files[1]), where=str(files[1]))
        model = (model.to(place) if place else model).eval()
        model.precision = pick_precision(dtype or "fp32", model.device)
        return model


# Longer than most functions: nearly all of it is the text of the card
def model_card(
    config: ModelConfig,
    parameters: int,
    *,
    license: str = "apache-2.0",  # noqa: A002  (the Hub's name for it)
    data: str = "not stated",
    metrics: dict[str, float] | None = None,
    limits: str = "",
) -> ModelCard:
    """README.md of a model: licence, data, metrics and limits, in the Hub's form.

    Args:
        license: the Hub's short name of the licence the weights are given under.
        data: one sentence on what the model was trained on.
        metrics: names and values, e.g. {"A->V R@1": 0.31}.
        limits: sentences added to the limits that hold for every model of this kind.
    """
    features, sizes = config.features, config.architecture
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in (metrics or {}).items())
    table = f"| metric | value |\n|---|---|\n{rows}" if rows else "None were stored with the weights."
    front = ModelCardData(
        library_name="equiav",
        license=license,
        tags=["audio-visual", "self-supervised", "contrastive-learning", "equivariance", "retrieval"],
        pipeline_tag="feature-extraction",
    )
    return ModelCard(f"""---
{front.to_yaml()}
---

# A joint embedding of sound and image (EquiAV)

Embeds {features.clip_s:g} s of sound and one video frame into one space of {sizes.embedding} numbers, trained without
labels by the method of Kim et al., *EquiAV: Leveraging Equivariance for Audio-Visual Contrastive Learning*, ICML 2024
(arXiv 2403.09502). {parameters / 1e6:.1f} M parameters; method `{sizes.method}`, predictor `{sizes.predictor}`.

```python
from equiav import EquiAV

model = EquiAV.from_pretrained("this folder")  # or hf://owner/name
audio = model.encode(audio=["dog.wav"])  # (n, {sizes.embedding}), L2-normalised
image = model.encode(image=["dog.jpg"])  # cosine = audio @ image.T
```

## Data

{data}

## Metrics

{table}

## Limits

- There is no text tower: it cannot be searched with words.
- Sound is {features.sample_rate} Hz mono, {features.mel_bins} mel bins; images are {sizes.image_side} pixels
  square, one frame at a time: no motion is seen.
- It knows what sounded and looked alike in its training videos, with their biases; it has no notion of truth, and it
  is not made to identify people or to judge their behaviour.
{limits}

## Licence

{license}
""")


def classifier_card(config: ModelConfig, classes: list[str], labels: str, modalities: str) -> ModelCard:
    """README.md of a fine-tuned classifier.

    Args:
        labels: `single-label` or `multi-label`.
        modalities: what it looks at.
    """
    front = ModelCardData(library_name="equiav", license="apache-2.0", tags=["audio-visual", "classification"])
    shown = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
    return ModelCard(f"""---
{front.to_yaml()}
---

# A classifier of {config.features.clip_s:g}-second clips

{labels.capitalize()}, {modalities}, {len(classes)} classes: {shown}. The encoders are those of an EquiAV model (Kim et
al., ICML 2024, arXiv 2403.09502), fine-tuned with labels.

```python
from equiav import Classifier

classifier = Classifier.from_pretrained("this folder")  # or hf://owner/name
logits = classifier(audio, visual)  # standardised log-mel (B, T, M), normalised image (B, 3, H, W)
```

`equiav evaluate classify --library L --run THIS` measures it on the labelled clips of a library. It knows these classes
alone: every clip gets probabilities of them, whatever it shows.
""")
