"""The verbs that measure a model on the field's own tasks and maps: parse, one library call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equiav.cli_library import AsJson, LibraryPath
from equiav.errors import ConfigError
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


@field_app.command("localise")
def evaluate_localise(
    library: LibraryPath,
    run: RunPath,
    split: Annotated[str, typer.Option(help="Split to look at.")] = "test",
    boxes: Annotated[
        Path | None, typer.Option(help="CSV of boxes: path, time_s, x0, y0, x1, y1; without it no figures.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--out", help="HTML page, with the result beside it as .json; default in the run.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of other clips' sounds.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Map where in each picture the sound is, as overlays on a page; with boxes, say how well.

    Example: equiav evaluate localise --library L --run runs/toy --boxes videos/boxes.csv --out maps.html
    """
    from equiav.evaluate.boxes import Boxes
    from equiav.evaluate.localise import localisation_result, localise
    from equiav.evaluate.overlay import localise_page
    from equiav.library.table import Library

    shelf, model = Library(library), load_model(run)
    page = page or run / "report" / "localise.html"
    known = Boxes(boxes) if boxes else None
    with Bar("mapping", "clips") as bar:
        found = localise(shelf, model, known, split=split, seed=seed, on_progress=bar.update)
    if found.ids:
        localisation_result(found, shelf, model, seed=seed, run=run).save(page.with_suffix(".json"))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(localise_page(found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{page} cannot be written: {error.strerror}") from None
    if as_json:
        print_json({**found.to_dict(), "page": page})
        return
    if found.ids:
        out.print(found.to_table())
    typer.echo(str(page))
