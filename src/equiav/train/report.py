"""What a run says of itself while it trains: a `Step` after each, and lines of JSON that resuming does not repeat."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equiav.model.hub import write_text


@dataclass(frozen=True)
class Step:
    """What one finished step says of itself; a line of metrics.jsonl."""

    step: int  # finished optimizer steps
    steps: int  # of how many
    epoch: float
    lr: float
    gradient_norm: float
    clips_per_s: float  # over all processes
    data_wait: float  # share of the step's time spent waiting for the loader
    mfu: float | None  # matrix-product FLOPs of the model over the best that the processor has shown in this run
    memory_gb: float  # at its peak so far: of this process (processor) or of its GPU
    skipped: int  # steps skipped so far because of a non-finite loss or gradient
    losses: dict[str, float]  # "loss", its parts, accuracies, and what else the objective measures

    def describe(self) -> str:
        """One line for a progress bar."""
        parts = {name.removeprefix("loss_"): value for name, value in self.losses.items() if name.startswith("loss")}
        said = [" ".join(f"{name} {value:.2f}" for name, value in parts.items())]
        if "accuracy_inter" in self.losses:
            said.append(f"acc {self.losses['accuracy_inter']:.0%}")
        if "alignment" in self.losses:
            said.append(f"align {self.losses['alignment']:.2f} uniform {self.losses['uniformity']:.2f}")
        said.append(f"{self.clips_per_s:.0f} clips/s, wait {self.data_wait:.0%}")
        if self.mfu is not None:
            said.append(f"MFU {self.mfu:.0%}")
        said.append(f"{self.memory_gb:.1f} GB")
        return " · ".join(said)

    def numbers(self) -> dict[str, float]:
        """All of it, flat."""
        return {key: value for key, value in vars(self).items() if key != "losses"} | self.losses


class JsonLines:
    """A file of JSON lines with a "step" each. Opened again at a step, later lines and a half one are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        if not path.exists():
            return
        lines = (text for text in path.read_text(encoding="utf-8").splitlines(keepends=True) if text[-1] == "\n")
        kept = [text for text in lines if json.loads(text)["step"] <= step]
        write_text(path, "".join(kept))

    def add(self, line: dict[str, Any]) -> None:
        """Append one; what is not finite becomes null, which every reader of JSON takes."""
        finite = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in line.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")
