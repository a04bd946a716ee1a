"""ONNX files against torch, run by another runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import small_model

from equiav.augment.visual import normalise
from equiav.errors import ModelError
from equiav.model import export
from equiav.model.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("settings", [{}, {"method": "plain"}, {"predictor": "hypernetwork"}], ids=str)
def test_onnx_towers_embed_as_torch_does_at_any_batch_size(settings, tmp_path):
    model = small_model(**settings)
    assert model.training
    exported = export_onnx(model, tmp_path)
    assert model.training
    assert [file.path.name for file in exported] == ["audio.onnx", "visual.onnx"]
    assert max(file.max_abs_difference for file in exported) < 1e-5
    for batch in (1, 5):
        log_mel, image = torch.randn(batch, 48, 32) * 4 - 4, torch.rand(batch, 3, 32, 32)
        with torch.no_grad():
            expected = (model.embed_audio(model.standardise(log_mel)), model.embed_visual(normalise(image)))
        for file, name, x, wanted in zip(exported, ("log_mel", "image"), (log_mel, image), expected, strict=True):
            session = onnxruntime.InferenceSession(str(file.path), providers=["CPUExecutionProvider"])
            (found,) = session.run(None, {name: x.numpy()})
            np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_a_file_that_embeds_otherwise_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="do not use it"):
        export_onnx(small_model(), tmp_path)


def test_without_onnx_the_error_says_what_to_install(tmp_path, monkeypatch):
    def missing(name, *_):
        raise ImportError(name)

    monkeypatch.setattr(export, "import_module", missing)
    with pytest.raises(ModelError, match=r"pip install 'equiav\[export\]'"):
        export_onnx(small_model(), tmp_path)
