"""The authors' checkpoint and masked autoencoders: exact where they fit, refused where they do not."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from safetensors.torch import save as save_tensors
from small_models import small_model

from equiav.config import Init, Loss, ModelConfig
from equiav.errors import ConfigError, ModelError
from equiav.model.convert import (
    check_heads,
    convert,
    load_mae,
    ours_from_official,
    read_tensors,
    start_encoders,
    without_prefix,
)
from equiav.model.equiav import EquiAV
from equiav.model.vit import sincos_positions
from equiav.train.loss import equiav_loss

GOLDEN = Path(__file__).parent.parent / "golden"
OFFICIAL = GOLDEN / "official.pth"
INPUTS = ("audio", "visual", "audio_aug", "visual_aug", "t_a", "t_v", "t_a_list", "t_v_list")
OUTPUTS = ("z_a_inter", "z_v_inter", "z_a_equi", "z_v_equi", "z_a_aug", "z_v_aug")
LOSSES = {
    "loss": "loss",
    "loss_inter": "loss_inter",
    "loss_intra_audio": "loss_intra_a",
    "loss_intra_visual": "loss_intra_v",
}


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    return torch.load(OFFICIAL, weights_only=True)


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "official_io.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> EquiAV:
    return convert(OFFICIAL, tmp_path_factory.mktemp("converted"), heads=3)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def test_outputs_and_losses_equal_the_authors_to_1e_5(model, stored):
    output = model.train()(*[stored[f"in.{name}"] for name in INPUTS])
    for found, name in zip(output, OUTPUTS, strict=True):
        assert relative(found.detach(), stored[f"out.{name}"]) < 1e-5, name
    losses = equiav_loss(output, Loss())
    for ours, theirs in LOSSES.items():
        assert losses[ours].item() == pytest.approx(stored[f"out.{theirs}"].item(), rel=1e-5), ours


def test_every_stored_gradient_is_equalled_to_1e_4(model, stored):
    model.train().zero_grad()
    output = model(*[stored[f"in.{name}"] for name in INPUTS])
    equiav_loss(output, Loss())["loss"].backward()
    theirs = {name[5:]: tensor for name, tensor in stored.items() if name.startswith("grad.")}
    expected = ours_from_official(without_prefix(theirs, where="gradients"), where="gradients")
    # our one-channel kernel stands for three equal ones, each with the gradient that ours has
    expected["audio_tower.encoder.patch_projection.weight"] /= 3
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert relative(gradient, expected[name]) < 1e-4, name


def save(tree: Any, path: Path) -> Path:
    torch.save(tree, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module.", "__M__.", "module.__M__."])
def test_prefixes_do_not_matter(official, prefix, model, tmp_path):
    renamed = {name.replace("__M__.", prefix, 1): tensor for name, tensor in official.items()}
    again = convert(save(renamed, tmp_path / "x.pth"), tmp_path / "out", heads=3)
    assert again.fingerprint() == model.fingerprint()


def test_the_written_folder_is_the_model(official, tmp_path, model):
    convert(OFFICIAL, tmp_path, heads=3)
    loaded = EquiAV.from_pretrained(tmp_path)
    assert loaded.fingerprint() == model.fingerprint()
    assert loaded.config.augment.variant == "released"
    assert (loaded.audio_space.size, loaded.visual_space.size) == (24, 18)
    assert (loaded.config.features.time_frames, loaded.config.architecture.image_side) == (32, 32)


MISFITS = {
    "a missing key": (lambda d: d.pop("__M__.blocks_v.0.mlp.fc1.bias"), "blocks.0.mlp.fc1.bias is missing"),
    "a key too many": (lambda d: d.update({"__M__.fusion.weight": torch.ones(1)}), "fusion.weight"),
    "a wrong size": (lambda d: d.update({"__M__.norm_a.weight": torch.ones(23)}), r"is \(23,\), expected \(24,\)"),
    "a value twice": (lambda d: d.update({"norm_a.weight": torch.ones(24)}), "norm_a.weight is there twice"),
    "other positions": (lambda d: d.update({"__M__.pos_embed_v": torch.ones(1, 4, 24)}), "pos_embed_v"),
    "no positions": (lambda d: d.pop("__M__.pos_embed_a"), "pos_embed_a is missing"),
    "a value that is not finite": (lambda d: d["__M__.norm_a.weight"].fill_(math.nan), "not finite"),
    "other parameters": (lambda d: d.update({"__M__.aug_encoder_v.0.weight": torch.ones(8, 21)}), "takes 21 param"),
    "one channel": (
        lambda d: d.update({"__M__.patch_embed_a.proj.weight": torch.ones(24, 1, 16, 16)}),
        r"expected \(width, 3, patch, patch\)",
    ),
    "keys without values": (lambda d: d.pop("__M__.cross_attn_a.attn.to_v.bias"), "to_k without attn.to_v"),
    "something else": (
        lambda d: [d.clear(), d.update({"fc.weight": torch.ones(2, 2)})],
        "not a checkpoint of the EquiAV authors",
    ),
    "no tensor": (lambda d: d.update({"epoch": 3}), "expected tensors only, but epoch"),
}


@pytest.mark.parametrize("change", MISFITS, ids=str)
def test_what_does_not_fit_is_named(official, change, tmp_path):
    damaged = {name: tensor.clone() for name, tensor in official.items()}
    damage, message = MISFITS[change]
    damage(damaged)
    with pytest.raises(ModelError, match=message):
        convert(save(damaged, tmp_path / "x.pth"), tmp_path / "out", heads=3)
    assert not (tmp_path / "out").exists()


def test_heads_that_do_not_divide_the_width_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"with 5 heads: .*width 24 must be a multiple of heads 5"):
        convert(OFFICIAL, tmp_path, heads=5)


class Malicious:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_nothing_runs(official, writer, tmp_path):
    trace, path = tmp_path / "it ran", tmp_path / "evil.pth"
    tree = dict(official) | {"__M__.extra": Malicious(trace)}
    if writer == "torch":
        save(tree, path)
    else:
        path.write_bytes(pickle.dumps(tree, protocol=2))
    with pytest.raises(ModelError, match="refused, because it holds more than tensors"):
        convert(path, tmp_path / "out", heads=3)
    assert not trace.exists()
    # read carelessly, it would have run
    if writer == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b"not a checkpoint", "it begins with b'not a checkpoint'"),
        (b"config of\nsomething\n", "it begins with b'config of"),
        (b"<!DOCTYPE html><p>sign in", "it begins with b'<!DOCTYPE html"),
        (b"PK\x03\x04 cut short", "a zip that is cut or damaged"),
        (pickle.dumps({"epoch": [1, 2]}), "a pickle of something else"),
        (save_tensors({"w": torch.ones(2)}), r"a safetensors file: rename it to \.safetensors"),
    ],
)
def test_a_file_that_is_no_checkpoint_says_so_and_advises_nothing_unsafe(content, found, tmp_path):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"broken\.pth: not a checkpoint: .*{found}") as raised:
        read_tensors(path)
    assert "weights_only" not in str(raised.value)


def test_a_checkpoint_of_more_than_tensors_names_what_and_advises_nothing_unsafe(tmp_path):
    with pytest.raises(ModelError, match=r"holds more than tensors \(torch\.nn\.modules\.linear\.Linear\)") as raised:
        read_tensors(save(torch.nn.Linear(1, 1), tmp_path / "module.pth"))
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors"])
def test_a_missing_file_is_an_error_that_names_it(name, tmp_path):
    with pytest.raises(ModelError, match=rf"{name}: no such file"):
        read_tensors(tmp_path / name)
    with pytest.raises(ModelError, match="a folder, expected a checkpoint"):
        read_tensors(tmp_path)


def test_a_model_is_not_overwritten_unasked(tmp_path):
    convert(OFFICIAL, tmp_path, heads=3)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a model already: name another folder, or replace it with --overwrite"):
        convert(OFFICIAL, tmp_path, heads=6)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert EquiAV.from_pretrained(tmp_path).config.architecture.heads == 3
    convert(OFFICIAL, tmp_path, heads=6, overwrite=True)
    assert EquiAV.from_pretrained(tmp_path).config.architecture.heads == 6


@pytest.mark.parametrize(
    ("width", "heads", "said"), [(768, 12, ""), (768, 6, "--heads 12"), (768, 16, "48 wide"), (24, 3, "8 wide")]
)
def test_heads_that_are_not_64_wide_are_warned_of(width, heads, said, caplog):
    check_heads(width, heads)
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def mae_checkpoint(width: int = 24, depth: int = 2) -> dict[str, torch.Tensor]:
    """timm's names of a ViT that was trained as a masked autoencoder, decoder included."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 5, width),
        "mask_token": (1, 1, 8),
        "decoder_embed.weight": (8, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(depth):
        layers = {"attn.qkv": 3 * width, "attn.proj": width, "mlp.fc1": 4 * width, "mlp.fc2": width}
        for name, size in layers.items():
            shapes[f"blocks.{i}.{name}.weight"] = (size, 4 * width if name == "mlp.fc2" else width)
            shapes[f"blocks.{i}.{name}.bias"] = (size,)
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("form", ["pth", "nested pth", "safetensors"])
def test_masked_autoencoder_weights_start_an_encoder(form, tmp_path):
    tensors = mae_checkpoint()
    path = tmp_path / ("mae.safetensors" if form == "safetensors" else "mae.pth")
    if form == "safetensors":
        save_file(tensors, path)
    else:
        save({"model": tensors} if form == "nested pth" else tensors, path)
    model = small_model()
    before = model.audio_tower.encoder.modality.clone()
    start_encoders(model, Init.model_validate({"audio": str(path), "visual": str(path)}))
    for tower in (model.audio_tower, model.visual_tower):
        state = tower.encoder.state_dict()
        assert torch.equal(state["blocks.1.attention.qkv.weight"], tensors["blocks.1.attn.qkv.weight"])
        assert torch.equal(state["view_norm.bias"], tensors["norm.bias"])
    # a spectrogram repeated to three channels, as the release feeds it
    image = torch.randn(1, 1, 32, 48)
    kernel, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    expected = torch.conv2d(image.expand(-1, 3, -1, -1), kernel, bias, stride=16).flatten(2).transpose(1, 2)
    encoder = model.audio_tower.encoder
    found = encoder.embed(image) - encoder.positions(2, 3) - encoder.modality
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(encoder.modality, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update({"head.weight": torch.ones(10, 24)}), "head.weight"),
        (lambda d: d.pop("blocks.1.norm2.bias"), "blocks.1.norm2.bias is missing"),
        (lambda d: d.update({"blocks.0.ls1.gamma": torch.ones(24)}), "blocks.0.ls1.gamma"),
        (lambda d: d.update({"norm.weight": torch.ones(8)}), r"norm.weight is \(8,\), expected \(24,\)"),
    ],
)
def test_other_weights_than_an_autoencoders_are_an_error(change, message, tmp_path):
    tensors = mae_checkpoint()
    change(tensors)
    model = small_model()
    before = model.fingerprint()
    with pytest.raises(ModelError, match=message):
        load_mae(model, "visual", save(tensors, tmp_path / "mae.pth"))
    assert model.fingerprint() == before


def test_a_recipe_without_init_starts_fresh_and_a_missing_source_is_an_error(tmp_path):
    model = small_model()
    before = model.fingerprint()
    start_encoders(model, Init.model_validate({}))
    assert model.fingerprint() == before
    with pytest.raises(ModelError, match=r"mae\.pth: no such file"):
        start_encoders(model, Init.model_validate({"visual": str(tmp_path / "nothing" / "mae.pth")}))


@pytest.mark.slow
def test_a_full_size_checkpoint_of_the_released_format_converts(tmp_path):
    # ViT-B, 211.7 M parameters, random: our own full-size weights under the authors' names
    def linear(name, rows, columns):
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name, width=768):
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    shapes = {}
    for m, tokens, slots in (("a", 512, 24), ("v", 196, 18)):
        shapes |= {f"modality_{m}": (1, 1, 768), f"patch_embed_{m}.proj.bias": (768,)}
        shapes |= {f"patch_embed_{m}.proj.weight": (768, 3, 16, 16), f"pos_embed_{m}": (1, tokens, 768)}
        for i in range(12):
            block = f"blocks_{m}.{i}"
            for one in ("norm1", "norm1_a", "norm1_v", "norm2", "norm2_a", "norm2_v"):
                shapes |= norm(f"{block}.{one}")
            shapes |= linear(f"{block}.attn.qkv", 2304, 768) | linear(f"{block}.attn.proj", 768, 768)
            shapes |= linear(f"{block}.mlp.fc1", 3072, 768) | linear(f"{block}.mlp.fc2", 768, 3072)
        shapes |= norm(f"norm_{m}") | norm(f"norm_{m}_aug")
        cross = f"cross_attn_{m}"
        shapes |= linear(f"aug_encoder_{m}.0", 256, slots)
        shapes |= linear(f"aug_encoder_{m}.2", 256, 256) | linear(f"aug_encoder_{m}.4", 256, 256)
        shapes |= norm(f"{cross}.norm_aug", 256) | norm(f"{cross}.norm")
        shapes |= linear(f"{cross}.attn.to_q", 512, 256) | {f"{cross}.attn.to_out.weight": (768, 512)}
        shapes |= linear(f"{cross}.attn.to_k", 512, 768) | linear(f"{cross}.attn.to_v", 512, 768)
        shapes |= linear(f"{cross}.mlp.fc1", 3072, 768) | linear(f"{cross}.mlp.fc2", 768, 3072)
        for space in ("intra", "inter"):
            head = f"pred_{m}_{space}"
            shapes |= linear(f"{head}.fc1", 2048, 768) | norm(f"{head}.norm1", 2048)
            shapes |= linear(f"{head}.fc2", 2048, 2048) | norm(f"{head}.norm2", 2048)
            shapes |= linear(f"{head}.fc3", 512, 2048) | norm(f"{head}.norm3", 512)
    assert round(sum(math.prod(shape) for shape in shapes.values()) / 1e6, 1) == 211.7
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
    for m, rows, columns in (("a", 8, 64), ("v", 14, 14)):
        positions = sincos_positions(torch.arange(rows), torch.arange(columns), 768)
        tensors[f"pos_embed_{m}"] = positions[None]
    wrapped = {f"module.__M__.{name}": tensor for name, tensor in tensors.items()}
    model = convert(save(wrapped, tmp_path / "audioset2m.pth"), tmp_path / "out", heads=12)
    loaded = EquiAV.from_pretrained(tmp_path / "out")
    assert loaded.fingerprint() == model.fingerprint()
    assert loaded.config.features.time_frames == 1024
    assert loaded.config.architecture == ModelConfig.model_validate({"architecture": {"share": "none"}}).architecture
