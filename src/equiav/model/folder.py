"""A model's folder and its twin on the Hugging Face Hub: config.json, model.safetensors and README.md, no pickles.

folder, run or hf://owner/name -> config, fingerprint;   nothing here loads torch: what is asked of a model's stored
vectors needs no weights, only to know whose they are
"""

# huggingface_hub leaves some of its types open
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from equiav.config import Architecture, Features, ModelConfig, parse_settings
from equiav.errors import ModelError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
HUB = "hf://"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def fetch(name: str | Path, file: str, *, revision: str | None = None, local_files_only: bool = False) -> Path:
    """Path of one file of a model folder, or of a Hub repository (downloaded on first use, then from the cache).

    Only `hf://owner/name` is looked for on the Hub: any other name is a folder, so a mistyped one never waits for a
    server, nor takes a stranger's weights. A run's folder stands for the model in it.

    Raises:
        ModelError: no such folder, repository, revision or file; or not cached while offline.
    """
    if str(name).startswith(HUB):
        return _download(str(name).removeprefix(HUB), file, revision, local_files_only)
    folder = model_folder(name)
    if not folder.is_dir():
        found = "a file, not a folder" if folder.exists() else "no such folder"
        advice = f"; a model on the Hugging Face Hub is written {HUB}{name}" if _HUB_ID.fullmatch(str(name)) else ""
        raise ModelError(f"{name}: {found}; expected a model folder or a run that `equiav pretrain` made{advice}")
    if not (folder / file).is_file():
        raise ModelError(f"{folder} is not a model folder: it has no {file}")
    return folder / file


def model_folder(name: str | Path) -> Path:
    """The model's folder of a run, or the folder itself."""
    inside = Path(name) / "model"
    return inside if inside.is_dir() else Path(name)


def _download(name: str, file: str, revision: str | None, local_files_only: bool) -> Path:
    # here, because a model of this machine is read without it
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision, local_files_only=local_files_only))
    except HFValidationError:
        raise ModelError(f"{HUB}{name} is no address of a model on the Hub, expected {HUB}owner/name") from None
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{HUB}{name}: {file} is not in the Hub cache, and the Hub was not reached ({error}); "
            "go online once, or give a folder"
        ) from None
    except HfHubHTTPError as error:
        raise ModelError(f"{HUB}{name}: no {file} at revision {revision or 'main'} on the Hub: {error}") from None


def read_config(path: Path) -> ModelConfig:
    """A model's config.json, checked.

    Raises:
        ModelError: not JSON, or not a model's.
        ConfigError: a key is unknown or a value out of range.
    """
    tree = read_json(path)
    if "classes" in tree:
        raise ModelError(
            f"{path}: not the config.json of a model that embeds but a fine-tuned classifier's: give the run that it "
            "was fine-tuned from, or measure it with `equiav evaluate classify`"
        )
    if "schema_version" not in tree:
        raise ModelError(f"{path}: not an equiav model's config.json: it has no schema_version")
    return parse_settings(ModelConfig, tree, where=str(path))


def read_features(name: str | Path) -> Features:
    """What the clips of a model, or of a classifier, are: `name` is a run, a model's folder or hf://owner/name.

    Raises:
        ModelError: no such model, or not one of equiav's.
    """
    path = fetch(name, CONFIG)
    tree = read_json(path)
    if "features" not in tree:
        raise ModelError(f"{path}: not an equiav model's config.json: it has no features")
    return parse_settings(Features, tree["features"], where=str(path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        ModelError: it does not.
    """
    try:
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not a readable JSON file: {error}") from None
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(tree).__name__}")
    return tree


def stored_config(config: ModelConfig) -> dict[str, Any]:
    """config.json's content: how a run spends memory and time is no property of the weights, and is left at default."""
    default = {name: Architecture.model_fields[name].default for name in ("checkpointing", "compile")}
    kept = config.model_copy(update={"architecture": config.architecture.model_copy(update=default)})
    return kept.model_dump(mode="json")


class Fingerprint:
    """Twelve hexadecimal digits of a model's settings and of its weights, which are added in the order of their names.

    Args:
        stored: config.json's content.
    """

    def __init__(self, stored: dict[str, Any]) -> None:
        self._digest = hashlib.sha256(json.dumps(stored, sort_keys=True).encode())

    def add(self, name: str, dtype: str, shape: tuple[int, ...], content: Iterable[Any]) -> None:
        """The bytes of a tensor, in parts; its dtype as torch names it."""
        self._digest.update(f"{name}{dtype}{shape}".encode())
        for part in content:
            self._digest.update(part)

    def text(self) -> str:
        """The digits."""
        return self._digest.hexdigest()[:12]
