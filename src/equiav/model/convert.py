"""Other people's weights: the authors' checkpoint as a model folder, and MAE encoders as a start for training.

    official.pth -> EquiAV (variant released, share none) -> model folder
    MAE ViT (timm names; .pth, .safetensors or hf://owner/name) -> one encoder of an EquiAV

The one place that reads pickles, with `weights_only=True` and no fallback: a file with anything but tensors is
refused before any of it runs. Every name in a file is used once or known to be unused; anything else is an error.

Our spectrograms have one channel where the release repeats it three times, so an audio patch kernel is the sum over
its three input channels: the same function.
"""

# torch and huggingface_hub leave some of their types open
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging
import pickle
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from equiav.config import Init, ModelConfig, parse_settings
from equiav.errors import ConfigError, ModelError
from equiav.model.equiav import EquiAV
from equiav.model.folder import CONFIG, HUB, WEIGHTS, fetch
from equiav.model.hub import read_weights
from equiav.model.initialise import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiav.model.vit import Encoder

_MODALITIES: dict[str, Literal["audio", "visual"]] = {"a": "audio", "v": "visual"}
_HEAD_LAYERS = {"fc1": "0", "norm1": "1", "fc2": "3", "norm2": "4", "fc3": "6", "norm3": "7"}
_BLOCK_LAYERS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_PREDICTOR_LAYERS = {
    "norm_aug": "norm_query",
    "attn.to_q": "query",
    "attn.to_out": "out",
    "norm": "norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# models/pt_EquiAV.py:99-107: made in every block, never called
_DEAD = re.compile(r"blocks_[av]\.\d+\.norm[12]_[av]\.(weight|bias)")
_MAE_IGNORED = re.compile(r"cls_token|pos_embed|mask_token|decoder_.*")
_RELEASED_MEL_BINS = 128  # pt_main.py:167
_RELEASED_HEAD_WIDTH = 64  # of the predictor
_VIT_HEAD_WIDTH = 64
log = logging.getLogger(__name__)


def convert(official: str | Path, out: str | Path, *, heads: int = 12, overwrite: bool = False) -> EquiAV:
    """Write the authors' checkpoint as a model folder, and return the model.

    Args:
        official: their .pth.
        out: folder to write config.json, model.safetensors and README.md into.
        heads: attention heads per block: the file does not say. A warning tells of heads that are not 64 wide.
        overwrite: replace a model that lies in `out`.

    Raises:
        ModelError: no readable checkpoint, anything but tensors inside, or names and sizes that do not fit.
        ConfigError: the width is no multiple of `heads`, or `out` holds a model.
    """
    path, folder = Path(official), Path(out)
    if not overwrite and any((folder / name).exists() for name in (CONFIG, WEIGHTS)):
        raise ConfigError(f"{folder} holds a model already: name another folder, or replace it with --overwrite")
    tensors = without_prefix(read_tensors(path), where=str(path))
    model = EquiAV(released_config(tensors, heads=heads, where=str(path)), seed=0)
    check_heads(model.config.architecture.width, heads)
    _check_positions(model, tensors, where=str(path))
    weights = ours_from_official(tensors, where=str(path))
    for name in ("audio_tower.centroid_set", "visual_tower.centroid_set"):
        weights[name] = model.state_dict()[name]  # drawn anew: the release draws them at every call
    load_strictly(model, weights, where=str(path))
    model.eval().save_pretrained(
        folder,
        model_card_kwargs={
            "license": "other",
            "data": f"Converted from `{path.name}`, in the EquiAV authors' format; the file does not say what it was "
            "trained on (the released weights: AudioSet-2M).",
            "limits": "- The authors' licence holds for the weights.",
        },
    )
    return model


def check_heads(width: int, heads: int) -> None:
    """Any number that divides the width loads, and a wrong one gives wrong embeddings without a word."""
    if width != heads * _VIT_HEAD_WIDTH:
        fitting = f": --heads {width // _VIT_HEAD_WIDTH}" if width % _VIT_HEAD_WIDTH == 0 else ""
        log.warning(
            "%d heads in a width of %d are %d wide, and those of ViTs are %d%s. The file does not say which is right; "
            "a wrong number gives wrong embeddings",
            heads,
            width,
            width // heads,
            _VIT_HEAD_WIDTH,
            fitting,
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file; of a .pth also where they lie under `model` or `state_dict`.

    Raises:
        ModelError: not readable, or with anything but tensors inside.
    """
    if not path.is_file():
        raise ModelError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}, expected a checkpoint's file")
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        with warnings.catch_warnings():  # of pickles that torch.save did not write: they are refused anyway
            warnings.simplefilter("ignore", UserWarning)
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error) or not _begins(path).startswith((b"PK", b"\x80")):
            raise _no_checkpoint(path) from None
        # torch's own message tells how to load it all the same, which would run its code
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ModelError(
            f"{path}: refused, because it holds more than tensors{f' ({found[1]})' if found else ''}, and loading that "
            "could run code; expected a file of plain tensors"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError):
        raise _no_checkpoint(path) from None
    for key in ("model", "state_dict"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: expected a dictionary of tensors, found {type(tree).__name__}")
    foreign = [str(name) for name, value in tree.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ModelError(f"{path}: expected tensors only, but {', '.join(foreign[:8])} are none")
    return {str(name): tensor for name, tensor in tree.items()}


def _no_checkpoint(path: Path) -> ModelError:
    """What a file that torch.load does not read is instead."""
    head = _begins(path)
    if not head:
        found = "it is empty"
    elif head[8:9] == b"{":  # behind eight bytes that give its length
        found = "it looks like a safetensors file: rename it to .safetensors"
    elif head.startswith(b"PK"):
        found = "it is a zip that is cut or damaged, or of something else: download it again"
    elif head.startswith(b"\x80"):
        found = "it is a pickle of something else"
    else:
        found = f"it begins with {head!r}"
    return ModelError(f"{path}: not a checkpoint: expected a file that torch.save wrote, {found}")


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def without_prefix(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Names without the wrappers' `module.` and `__M__.`.

    Raises:
        ModelError: two names become one.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = re.sub(r"^((module|__M__)\.)+", "", name)
        if short in plain:
            raise ModelError(f"{where}: {short} is there twice, with and without prefix")
        plain[short] = tensor
    return plain


def released_config(tensors: Mapping[str, Tensor], *, heads: int, where: str) -> ModelConfig:
    """The sizes of an official checkpoint, read from its tensors.

    Raises:
        ModelError: a tensor that tells a size is missing, or is not of the released kind.
        ConfigError: the sizes contradict each other, e.g. the width is no multiple of `heads`.
    """

    def size(name: str, axis: int) -> int:
        tensor = tensors.get(name)
        if tensor is None or tensor.ndim <= axis:
            found = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise ModelError(f"{where}: {name} is {found}: not a checkpoint of the EquiAV authors' format")
        return tensor.shape[axis]

    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks_a.")})
    patch, visual_patch = (size(f"patch_embed_{m}.proj.weight", 3) for m in "av")
    side = round(size("pos_embed_v", 1) ** 0.5) * visual_patch
    frames = size("pos_embed_a", 1) * patch * patch // _RELEASED_MEL_BINS
    for name, slots in (("aug_encoder_a.0.weight", 24), ("aug_encoder_v.0.weight", 18)):
        if size(name, 1) != slots:
            raise ModelError(
                f"{where}: {name} takes {size(name, 1)} parameters; the released default of {slots} is the only one "
                "whose encoding is known here"
            )
    tree = {
        "architecture": {
            "width": size("modality_a", 2),
            "depth": depth,
            "heads": heads,
            "audio_patch": patch,
            "visual_patch": visual_patch,
            "image_side": side,
            "parameter_width": size("aug_encoder_a.0.weight", 0),
            "predictor_heads": size("cross_attn_a.attn.to_q.weight", 0) // _RELEASED_HEAD_WIDTH,
            "predictor_head_width": _RELEASED_HEAD_WIDTH,
            "share": "none",
            "head_hidden": size("pred_a_intra.fc1.weight", 0),
            "embedding": size("pred_a_intra.fc3.weight", 0),
        },
        "features": {"mel_bins": _RELEASED_MEL_BINS, "time_frames": frames},
        "augment": {"variant": "released"},
    }
    return parse_settings(ModelConfig, tree, where=f"{where}, with {heads} heads")


def ours_from_official(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Official names (without prefix) and layouts to ours; positions and dead norms are left out.

    Linear in the tensors, so that it maps gradients as well as weights.

    Raises:
        ModelError: a name that is not of the official format.
    """
    ours: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        if name in ("pos_embed_a", "pos_embed_v") or _DEAD.fullmatch(name):
            continue
        new = _renamed(name)
        if new is None:
            unknown.append(name)
        elif new.endswith("patch_projection.weight"):
            ours[new] = _kernel(tensor, name, one_channel=new.startswith("audio"), where=where)
        elif new.endswith("modality"):
            ours[new] = tensor.flatten()
        else:
            ours[new] = tensor
    if unknown:
        raise ModelError(f"{where}: not names of the authors' format: {', '.join(sorted(unknown))}")
    for name in [name for name in ours if ".key_only." in name]:
        value = name.replace(".key_only.", ".value_only.")
        if value not in ours:
            raise ModelError(f"{where}: attn.to_k without attn.to_v ({name})")
        ours[name.replace(".key_only.", ".key_value.")] = torch.cat([ours.pop(name), ours.pop(value)])
    return ours


def _renamed(name: str) -> str | None:
    """Our name of an official one; None when there is none. Keys and values are joined afterwards."""
    layer, _, leaf = name.rpartition(".")
    if found := re.fullmatch(r"modality_([av])", name):
        return f"{_MODALITIES[found[1]]}_tower.encoder.modality"
    if found := re.fullmatch(r"patch_embed_([av])\.proj", layer):
        return f"{_MODALITIES[found[1]]}_tower.encoder.patch_projection.{leaf}"
    if (found := re.fullmatch(r"blocks_([av])\.(\d+)\.(.+)", layer)) and found[3] in _BLOCK_LAYERS:
        return f"{_MODALITIES[found[1]]}_tower.encoder.blocks.{found[2]}.{_BLOCK_LAYERS[found[3]]}.{leaf}"
    if found := re.fullmatch(r"norm_([av])(_aug)?", layer):
        return f"{_MODALITIES[found[1]]}_tower.encoder.{'view_norm' if found[2] else 'norm'}.{leaf}"
    if found := re.fullmatch(r"aug_encoder_([av])\.([024])", layer):
        return f"{_MODALITIES[found[1]]}_tower.parameters_encoder.layers.{int(found[2]) // 2}.{leaf}"
    if found := re.fullmatch(r"cross_attn_([av])\.attn\.to_([kv])", layer):
        return f"predictors.{_MODALITIES[found[1]]}.{'key' if found[2] == 'k' else 'value'}_only.{leaf}"
    if (found := re.fullmatch(r"cross_attn_([av])\.(.+)", layer)) and found[2] in _PREDICTOR_LAYERS:
        return f"predictors.{_MODALITIES[found[1]]}.{_PREDICTOR_LAYERS[found[2]]}.{leaf}"
    if (found := re.fullmatch(r"pred_([av])_(intra|inter)\.(.+)", layer)) and found[3] in _HEAD_LAYERS:
        return f"{_MODALITIES[found[1]]}_tower.{found[2]}_head.{_HEAD_LAYERS[found[3]]}.{leaf}"
    return None


def _kernel(kernel: Tensor, name: str, *, one_channel: bool, where: str) -> Tensor:
    """A patch convolution's kernel (D, 3, p, p) as a linear layer's weight (D, C·p·p)."""
    if kernel.ndim != 4 or kernel.shape[1] != 3:
        raise ModelError(f"{where}: {name} is {tuple(kernel.shape)}, expected (width, 3, patch, patch)")
    return (kernel.sum(dim=1) if one_channel else kernel).flatten(1)


def _check_positions(model: EquiAV, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Positions are computed, not stored: the file's must be the same."""
    for m, modality in _MODALITIES.items():
        encoder = _encoder(model, modality)
        ours = encoder.positions(*encoder.grid)
        found = tensors[f"pos_embed_{m}"].squeeze(0)
        if found.shape != ours.shape or not torch.allclose(found, ours, atol=1e-5):
            raise ModelError(
                f"{where}: pos_embed_{m} {tuple(found.shape)} is not the fixed sine-cosine table {tuple(ours.shape)} "
                "of the release"
            )


def start_encoders(model: EquiAV, init: Init) -> None:
    """Load what a recipe's `init` names; see `load_mae`."""
    if init.audio:
        load_mae(model, "audio", init.audio)
    if init.visual:
        load_mae(model, "visual", init.visual)


def load_mae(model: EquiAV, modality: Literal["audio", "visual"], source: str | Path) -> None:
    """Start one encoder from a ViT trained as a masked autoencoder.

    Both final LayerNorms take the checkpoint's one; class token, positions and decoder are left out.

    Args:
        source: a .pth or .safetensors file, or `hf://owner/name` with a model.safetensors, of timm's names.

    Raises:
        ModelError: names or sizes that do not fit the encoder.
    """
    path = fetch(source, WEIGHTS) if str(source).startswith(HUB) else Path(source)
    encoder = _encoder(model, modality)
    load_strictly(encoder, _ours_from_mae(read_tensors(path), encoder, modality, str(source)), where=str(source))


def _encoder(model: EquiAV, modality: Literal["audio", "visual"]) -> Encoder:
    return model.audio_tower.encoder if modality == "audio" else model.visual_tower.encoder


def _ours_from_mae(tensors: Mapping[str, Tensor], encoder: Encoder, modality: str, where: str) -> dict[str, Tensor]:
    ours = {"modality": encoder.modality.detach().clone()}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", layer)
        if _MAE_IGNORED.fullmatch(name):
            continue
        if name == "patch_embed.proj.weight":
            ours["patch_projection.weight"] = _kernel(tensor, name, one_channel=modality == "audio", where=where)
        elif name == "patch_embed.proj.bias":
            ours["patch_projection.bias"] = tensor
        elif block and block[2] in _BLOCK_LAYERS:
            ours[f"blocks.{block[1]}.{_BLOCK_LAYERS[block[2]]}.{leaf}"] = tensor
        elif layer == "norm":
            ours[f"norm.{leaf}"] = tensor
            if encoder.view_norm is not None:
                ours[f"view_norm.{leaf}"] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise ModelError(f"{where}: not names of a masked autoencoder's encoder: {', '.join(sorted(unknown))}")
    return ours
