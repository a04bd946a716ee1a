"""The two towers as ONNX files, for use without torch.

    EquiAV -> OUT/audio.onnx: log_mel (batch, T, M), as ingest stores it -> embedding (batch, E), L2-normalised
              OUT/visual.onnx: image (batch, 3, S, S), RGB in [0, 1] -> embedding (batch, E), L2-normalised

Both normalisations and the centroid's parameter vectors are constants inside; the batch dimension is free. Each file
is run with onnxruntime and held against torch before it is accepted.
"""

# torch leaves some of its types open
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equiav.augment.visual import normalise
from equiav.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiav.model.equiav import EquiAV

_OPSET = 17
TOLERANCE = 1e-4  # largest absolute difference of an embedding's components from torch's


@dataclass(frozen=True)
class Exported:
    """One ONNX file and its largest absolute difference from torch, over the components of some embeddings."""

    path: Path
    max_abs_difference: float


def export_onnx(model: EquiAV, out: str | Path) -> tuple[Exported, Exported]:
    """Write audio.onnx and visual.onnx into the folder `out`, and check them.

    Raises:
        ModelError: onnx or onnxruntime is not installed, or a file's embeddings differ from torch's by more than 1e-4.
    """
    for package in ("onnx", "onnxruntime"):
        try:
            import_module(package)
        except ImportError:
            raise ModelError(f"exporting needs {package}: pip install 'equiav[export]'") from None
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    features, side = model.config.features, model.config.architecture.image_side
    generator = torch.Generator().manual_seed(0)
    # three in a batch: the traced two must not be the only size that works
    log_mel = torch.randn(3, features.time_frames, features.mel_bins, generator=generator)
    log_mel = log_mel * model.config.audio_std + model.config.audio_mean
    image = torch.rand(3, 3, side, side, generator=generator)

    def audio(log_mel: Tensor) -> Tensor:
        return model.embed_audio(model.standardise(log_mel))

    def visual(image: Tensor) -> Tensor:
        return model.embed_visual(normalise(image))

    return (
        _export(model, audio, log_mel, "log_mel", out / "audio.onnx"),
        _export(model, visual, image, "image", out / "visual.onnx"),
    )


class _Call(nn.Module):
    """A method of a model as a module of its own, which is what the exporter takes."""

    def __init__(self, model: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def _export(model: EquiAV, call: Callable[[Tensor], Tensor], example: Tensor, name: str, path: Path) -> Exported:
    device, training = next(model.parameters()).device, model.training
    model.cpu().eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # the tracer warns of every size it takes as fixed; sizes other than the batch's are meant to be
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Call(model, call),
                (example[:2],),
                str(path),
                input_names=[name],
                output_names=["embedding"],
                dynamic_axes={name: {0: "batch"}, "embedding": {0: "batch"}},
                opset_version=_OPSET,
                dynamo=False,
            )
            expected = call(example)
    finally:
        model.to(device).train(training)
    difference = float((_run(path, name, example) - expected).abs().max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{path}: embeddings differ from torch's by up to {difference:.2e}, more than {TOLERANCE:g}; do not use it"
        )
    return Exported(path, difference)


def _run(path: Path, name: str, example: Tensor) -> Tensor:
    onnxruntime: Any = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: example.numpy()})[0])
