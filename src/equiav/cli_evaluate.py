"""The verbs that measure a model on the field's own tasks and maps: parse, one library call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equiav.cli_library import AsJson
from equiav.terminal import Bar, out, print_json

if TYPE_CHECKING:
    from equiav.model.equiav import EquiAV

RunPath = Annotated[Path, typer.Option("--run", "-R", help="Run folder, made by `equiav pretrain`.")]

field_app = typer.Typer()


def load_model(run: Path) -> EquiAV:
    """The model of a run, ready to embed."""
    from equiav.model.equiav import EquiAV

    folder = run / "model" if (run / "model").is_dir() else run
    return EquiAV.from_pretrained(folder).eval()


@field_app.command("mteb")
def evaluate_mteb(
    run: RunPath,
    tasks: Annotated[str, typer.Option(help="Names of mteb tasks, with commas between them.")],
    folder: Annotated[Path | None, typer.Option("--out", help="Folder of mteb's results; default RUN/mteb.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Items that pass the model at once.")] = 32,
    as_json: AsJson = False,
) -> None:
    """Run tasks of the MTEB and MVEB benchmarks that ask with sound, pictures and video. Needs the extra `mteb`.

    A task's data comes from the Hugging Face Hub, once; results that are there are not computed again.

    Example: equiav evaluate mteb --run runs/base --tasks VGGSoundAVA2VRetrieval,VGGSoundAVV2ARetrieval
    """
    from equiav.evaluate.mteb import evaluate_mteb as measure
    from equiav.evaluate.mteb import to_table

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    with Bar("embedding", "items") as bar:
        scores = measure(
            load_model(run),
            names,
            folder or run / "mteb",
            name=f"equiav/{run.resolve().name}",
            batch_size=batch,
            on_progress=bar.update,
        )
    print_json([score.to_dict() for score in scores]) if as_json else out.print(to_table(scores))
