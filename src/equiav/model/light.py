"""A model that is asked for its fingerprint and its settings alone, until a file is to be embedded.

run or model folder -> config, fingerprint, without torch and without a model in memory
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiav.errors import ModelError
from equiav.machine import pick_device, pick_precision
from equiav.model.folder import CONFIG, WEIGHTS, Fingerprint, fetch, read_config, stored_config

if TYPE_CHECKING:
    from typing import BinaryIO

    from equiav.model.equiav import EquiAV

_PART = 1 << 20  # bytes of weights that are read at once
_LONGEST = 100 << 20  # bytes of a header: safetensors' own limit


class LightModel:
    """A model that is loaded when a file is to be embedded: its settings and its fingerprint are known before.

    Args:
        folder: the model's folder, or its run's.
        device: as `EquiAV.from_pretrained` takes it.
        dtype: likewise.

    Raises:
        ModelError: no such folder, or not a model's.
        ConfigError: config.json has unknown keys or values out of range; there is no such device or precision.
    """

    def __init__(self, folder: str | Path, *, device: str | None = None, dtype: str | None = None) -> None:
        self._folder, self._device, self._dtype = folder, device, dtype
        self._given = ""
        if device not in (None, "auto", "cpu") or dtype not in (None, "auto", "fp32"):
            pick_precision(dtype or "auto", pick_device(device or "auto"))  # these alone need torch to be checked
        self.config, self._weights = read_config(fetch(folder, CONFIG)), fetch(folder, WEIGHTS)

    @cached_property
    def loaded(self) -> EquiAV:
        """The model itself.

        Raises:
            ModelError: its weights do not fit, or are others than those of the fingerprint that was given.
        """
        from equiav.model.equiav import EquiAV

        model = EquiAV.from_pretrained(self._folder, device=self._device, dtype=self._dtype)
        if self._given and self._given != model.fingerprint():
            raise ModelError(f"{self._weights} was replaced while it was in use: start again")
        return model

    def encode(self, **what: Any) -> Any:
        """As `EquiAV.encode`."""
        return self.loaded.encode(**what)

    def fingerprint(self) -> str:
        """The same as the loaded model's.

        Of weights as equiav writes them it is that of the file's bytes: what is kept beside a file may be of another.
        """
        try:
            self._given = self._of_file()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(f"{self._weights}: not a readable safetensors file: {error}") from None
        self._given = self._given or self.loaded.fingerprint()
        return self._given

    def _of_file(self) -> str:
        """Empty where the weights are stored in another precision than they are loaded in."""
        found = Fingerprint(stored_config(self.config))
        with self._weights.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(size, _LONGEST)))
            header.pop("__metadata__", None)
            for name, about in sorted(header.items()):
                if about["dtype"] != "F32":
                    return ""
                first, end = about["data_offsets"]
                file.seek(8 + size + first)
                found.add(name, "torch.float32", tuple(about["shape"]), _parts(file, end - first))
        return found.text()


def _parts(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        part = file.read(min(_PART, size))
        if not part:
            raise ValueError("it ends before its weights do")
        yield part
        size -= len(part)
