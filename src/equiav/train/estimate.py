"""What a dry run found, as a table or as JSON, and what to change where it does not fit into the memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from equiav.words import counted

TIGHT = 0.9  # of the memory that is free: more is not counted on


@dataclass(frozen=True)
class Growth:
    """Memory by the clips whose activations are held at once: a straight line, in 10^9 bytes."""

    clips: int  # measured at,
    gb: float  # with this
    per_clip: float

    def at(self, clips: int) -> float:
        """Peak with that many clips at once."""
        return self.gb + self.per_clip * (clips - self.clips)

    def most(self, gb: float) -> int:
        """The largest power of two that fits; 0 where none does."""
        fitting = [1 << power for power in range(20) if self.at(1 << power) <= gb]
        return max(fitting, default=0)


@dataclass(frozen=True)
class Estimate:
    """What was found."""

    parameters: int
    clips: int  # in the split
    steps: int
    processes: int
    device: str
    precision: str
    global_batch: int
    process_batch: int
    micro_batch: int
    negatives_inter: int  # per anchor
    negatives_intra: int
    tflop_per_step: float  # useful work of all processes
    mfu: float | None  # of the measured steps; None where none could be done
    seconds_per_step: float | None
    hours: float | None
    memory_gb: float  # per process, at its peak: the next three; more than this where the last is None
    other_gb: float  # interpreter, libraries and batches read; 0 on a GPU
    weights_gb: float  # weights, gradients, moments, averaged weights
    activations_gb: float | None  # of a micro batch, and what a step needs besides
    available_gb: float  # per process, with what it has already
    whole_steps: bool  # measured; else drawn from steps of fewer clips
    advice: str  # what to change where it does not fit; else empty
    shapes: dict[str, tuple[int, ...]]  # of the model's arguments, for this process's share of the first batch

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def to_table(self) -> Table:
        """For people."""
        table = Table("", "", show_header=False)
        rows = {
            "parameters": f"{self.parameters / 1e6:.1f} M",
            "training": f"{counted(self.clips, 'clip')}, "
            f"{counted(self.steps, 'step')} of {counted(self.global_batch, 'clip')}",
            "processes": f"{self.processes} on {self.device}, {self.precision}: "
            f"{counted(self.process_batch, 'clip')} each, "
            f"{self.micro_batch} at once",
            "negatives per anchor": f"{self.negatives_inter} inter-modal, {self.negatives_intra} intra-modal",
            "memory per process": self._memory(),
            "time": self._time(),
            **{f"first batch: {name}": " × ".join(map(str, shape)) for name, shape in self.shapes.items()},
        }
        for name, text in rows.items():
            table.add_row(name, text)
        return table

    def _memory(self) -> str:
        more = "more than " if self.activations_gb is None else ""
        parts = {
            "the process": self.other_gb,
            "weights, gradients and moments": self.weights_gb,
            "activations": self.activations_gb,
        }
        said = " + ".join(f"{gb:.2f} GB {name}" for name, gb in parts.items() if gb)
        return f"{more}{self.memory_gb:.2f} GB at its peak ({said}); {self.available_gb:.1f} GB are free"

    def _time(self) -> str:
        if self.hours is None or self.seconds_per_step is None or self.mfu is None:
            return "not measured: it does not fit"
        whole = f"{self.hours:.1f} h" if self.hours >= 1 else f"{60 * self.hours:.1f} min"
        how = "from whole steps" if self.whole_steps else "from steps of fewer clips"
        return (
            f"{whole}: {self.seconds_per_step:.2f} s per step of {self.tflop_per_step:.2f} TFLOP, "
            f"MFU {self.mfu:.0%}, {how}"
        )


def advise(needed_gb: float, available_gb: float, growth: Growth | None, micro_batch: int, larger: list[str]) -> str:
    """What to change where a training does not fit; empty where it does.

    Args:
        needed_gb: at its peak, per process.
        available_gb: likewise.
        growth: by clips at once; None where not even the first step fits.
        micro_batch: clips at once, now.
        larger: settings that need less memory otherwise.
    """
    if needed_gb <= TIGHT * available_gb:
        return ""
    more = "more than " if growth is None else ""
    said = f"this does not fit: a process needs {more}{needed_gb:.1f} GB, and {available_gb:.1f} GB are free"
    fitting = min(growth.most(TIGHT * available_gb), micro_batch) if growth else 0
    if growth and 0 < fitting < micro_batch:
        return (
            f"{said}. train.micro_batch={fitting} takes about {growth.at(fitting):.1f} GB: the same steps, with "
            "one more forward pass"
        )
    return f"{said}. What takes less: {', '.join(larger)}"
