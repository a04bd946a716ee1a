"""Options and arguments that several verbs share, and what they name: a library, a run's model, a page to write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from equiav.errors import ConfigError
from equiav.library.places import place_of

if TYPE_CHECKING:
    from equiav.library.places import Place
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.model.light import LightModel
    from equiav.train.trained_on import TrainedOn

else:
    Place = Path  # Typer takes no unions; the value is what `parser` makes


def folder_here(text: str) -> Path:
    """A folder of this machine.

    Raises:
        ConfigError: it is a place on an object store.
    """
    if "://" in text:
        raise ConfigError(f"--run {text}: a run is a folder of this machine; libraries and media may lie on a store")
    return Path(text)


LibraryPath = Annotated[
    Place,
    typer.Option(
        "--library",
        "-L",
        parser=place_of,
        metavar="PATH",
        help="Library: a folder, or s3://, gs://, az://; `equiav ingest` makes it.",
    ),
]
RunPath = Annotated[
    Path,
    typer.Option("--run", "-R", parser=folder_here, metavar="PATH", help="Run folder: `equiav pretrain` makes it."),
]
SourcePath = Annotated[
    Place,
    typer.Argument(
        parser=place_of,
        metavar="SOURCE",
        help="A folder of videos or tars, one video, or a list (CSV, JSONL, JSON): docs/data.md; or s3://BUCKET/….",
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to change: key=value, e.g. optim.lr=1e-4.")]
Split = Annotated[str, typer.Option(help="Split to measure on.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(help="Of the model's matrix products; auto: bf16 (or fp16) on a CUDA GPU, fp32 elsewhere."),
]
Device = Annotated[
    str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def light_model(run: Path, device: str = "auto", precision: str = "auto") -> LightModel:
    """The model of a run, not loaded yet."""
    from equiav.model.light import LightModel

    if not run.is_dir():  # a mistyped folder is not to be looked for on the Hub
        raise ConfigError(f"{run}: no such folder; expected a run that `equiav pretrain` made, or a model's folder")
    folder = run / "model" if (run / "model").is_dir() else run
    return LightModel(folder, device=device, dtype=precision)


def load_model(run: Path, device: str = "auto", precision: str = "auto") -> EquiAV:
    """The model of a run, ready to embed in this precision, on the device of that name; auto: a GPU if there is one."""
    return light_model(run, device, precision).loaded


def device_of_rank(device: str) -> str:
    """Of several processes on one machine each has a GPU of its own, where there are GPUs."""
    import torch

    alone = "LOCAL_RANK" not in os.environ or device not in ("auto", "cuda") or not torch.cuda.is_available()
    return device if alone else f"cuda:{os.environ['LOCAL_RANK']}"


def open_to_measure(library: Place, run: Path, device: str, precision: str) -> tuple[Library, EquiAV, TrainedOn | None]:
    """A library, the model of a run on its device, and the clips that it was trained on, where the run has them."""
    from equiav.library.table import Library
    from equiav.train.trained_on import load_trained_on

    return Library(library), load_model(run, device, precision), load_trained_on(run)


def write_page(page: Path, text: str, *, make_folder: bool = False) -> None:
    """Write an HTML page.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        if make_folder:
            page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{page} cannot be written: {error.strerror}") from None
