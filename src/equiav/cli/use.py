"""The verbs that use a model: embed, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Column, Table

from equiav.cli.options import AsJson, Device, LibraryPath, RunPath, load_model
from equiav.cli.terminal import Bar, out, print_json
from equiav.words import counted

use_app = typer.Typer()


@use_app.command()
def embed(library: LibraryPath, run: RunPath, device: Device = "auto", as_json: AsJson = False) -> None:
    """Embed every clip of a library, for search. Run it again after each ingest.

    Example: equiav embed --library L --run runs/toy
    """
    from equiav.library.table import Library
    from equiav.search.embed import embed_library

    with Bar("embedding", "clips") as bar:
        table = embed_library(Library(library), load_model(run, device), on_progress=bar.update)
    if as_json:
        print_json({"path": table.path, "clips": table.count()})
    else:
        typer.echo(f"{counted(table.count(), 'clip')} embedded: {table.path}")


@use_app.command()
def search(
    library: LibraryPath,
    run: RunPath,
    audio: Annotated[Path | None, typer.Option(help="Search by a sound (any audio or video file).")] = None,
    image: Annotated[Path | None, typer.Option(help="Search by a picture.")] = None,
    video: Annotated[Path | None, typer.Option(help="Search by a video: its sound and its picture.")] = None,
    clip: Annotated[
        str | None, typer.Option(help="Search by a clip of the library: its id, which `--json` shows.")
    ] = None,
    by: Annotated[
        Literal["audio", "visual", "both"] | None,
        typer.Option(
            help="Compare with the clips' audio, visual or both; default: the other one, for --video and --clip both."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of hits.")] = 5,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Rank the clips of a library by a sound, a picture, a video or one of its own clips.

    Example: equiav search --library L --run runs/toy --audio dog.wav -k 10
    """
    from equiav.search.index import SearchIndex

    index = SearchIndex(library, load_model(run, device))
    hits = index.search(audio=audio, image=image, video=video, clip=clip, by=by, k=k)
    if as_json:
        print_json({"hits": [hit.to_dict() for hit in hits]})
        return
    table = Table("#", Column("source", overflow="fold"), "start–end", "labels", "score")
    for rank, hit in enumerate(hits, 1):
        table.add_row(
            str(rank),
            escape(hit.source),
            f"{hit.start_s:.1f}–{hit.end_s:.1f} s",
            escape(", ".join(hit.labels)),
            f"{hit.score:.3f}",
        )
    out.print(table)
