"""The verbs that use a model: embed, search, duplicates, serve."""

from __future__ import annotations

import sys
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Column, Table

from equiav.cli.options import (
    AsJson,
    Device,
    LibraryPath,
    Precision,
    RunPath,
    device_of_rank,
    folder_here,
    light_model,
    load_model,
    write_page,
)
from equiav.cli.start import quick_imports
from equiav.cli.terminal import IS_MAIN, SEVERAL, Bar, err, out, print_json
from equiav.errors import ConfigError
from equiav.words import are, counted

if TYPE_CHECKING:
    from equiav.search.pairs import Duplicates
    from equiav.search.thresholds import Thresholds

use_app = typer.Typer()

HOST, PORT = "127.0.0.1", 7860  # that `serve` listens on
OF_SERVE = ("fastapi", "prometheus_client", "python_multipart", "uvicorn")


def lacking_of_serve() -> str | None:
    """A package that `serve` needs and that is not installed, if there is one."""
    return next((name for name in OF_SERVE if find_spec(name) is None), None)


@use_app.command()
def embed(
    library: LibraryPath,
    run: RunPath,
    device: Device = "auto",
    precision: Precision = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Embed on a Ray cluster: its address, auto, or local for one on this machine."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --ray: models at work; default: one per GPU, or per four cores.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Embed every clip of a library, for search. Run it again after each ingest.

    Examples: equiav embed --library L --run runs/toy
              equiav embed -L L -R R --ray auto
              torchrun --nproc-per-node 8 -m equiav embed -L L -R R
    """
    from equiav.library.table import Library
    from equiav.search.embed import embed_library
    from equiav.search.engines import follow, in_process, on_ray, over_processes, several_processes
    from equiav.search.indexing import RECALL_AT, EmbeddingIndex

    if SEVERAL and ray:
        raise ConfigError("--ray brings its own processes: start one equiav, without torchrun")
    clips = Library(library)
    engine = over_processes if SEVERAL else on_ray(ray, device, precision, workers) if ray else in_process
    model = load_model(run, "cpu" if ray else device_of_rank(device), precision)
    with several_processes() if SEVERAL else nullcontext():
        if not IS_MAIN:
            follow(library, model)
            return
        # Ray prints of lost actors on standard output, where --json has one object
        with redirect_stdout(sys.stderr), Bar("embedding", "clips") as bar:
            table = embed_library(clips, model, engine=engine, on_progress=bar.update)
    facts = EmbeddingIndex.of(table).facts
    if as_json:
        index = {name: asdict(known) for name, known in facts.items()}
        print_json({"path": table.path, "clips": table.count(), "made_with": table.made_with(), "index": index})
        return
    typer.echo(f"{counted(table.count(), 'clip')} embedded, {' and '.join(table.made_with())}: {table.path}")
    for name, known in facts.items():
        typer.echo(f"index of the {name} vectors: finds {100 * known.recall:.1f} % of the {RECALL_AT} nearest")


# Longer than most functions: most of it are its options
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
    offset: Annotated[int, typer.Option(help="Leave out so many of the first hits: the next page.")] = 0,
    label: Annotated[
        list[str] | None, typer.Option(help="Find clips with this label; given again, with one of them.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Find clips of files whose path or name matches, such as 'pets/*.mp4'."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Find clips of this split.")] = None,
    start: Annotated[float | None, typer.Option(help="Find clips that end after this second of their file.")] = None,
    end: Annotated[float | None, typer.Option(help="Find clips that begin before this second of their file.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out hits that score less.")] = None,
    group_by: Annotated[
        Literal["source"] | None, typer.Option(help="source: of each file its best moment alone.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Rank the clips of a library by a sound, a picture, a video or one of its own clips.

    A percentile says how many of the library's own pairs of clips score less than a hit.

    Example: equiav search --library L --run runs/toy --audio dog.wav --group-by source

    Example: equiav search --library L --run runs/toy --clip ID --label dog --source 'pets/*' --start 60 --end 120
    """
    with quick_imports():
        from equiav.search.index import SearchIndex

        model = light_model(run, device, precision)
        if not clip:
            import_module("equiav.model.encode")
            import_module("equiav.model.equiav")
    index = SearchIndex(library, model if clip else model.loaded)
    hits = index.search(
        audio=audio,
        image=image,
        video=video,
        clip=clip,
        by=by,
        k=k,
        offset=offset,
        labels=label or (),
        sources=source or (),
        split=split,
        start_s=start,
        end_s=end,
        min_score=min_score,
        group_by=group_by,
    )
    if as_json:
        print_json({"hits": [hit.to_dict() for hit in hits]})
        return
    if not hits:
        typer.echo("no clip of the library matches; `equiav stats` shows its labels and splits")
        return
    table = Table("#", Column("source", overflow="fold"), "start–end", "frame", "labels", "score", "percentile")
    for rank, hit in enumerate(hits, offset + 1):
        table.add_row(
            str(rank),
            escape(hit.source),
            f"{hit.start_s:.1f}–{hit.end_s:.1f} s",
            "–" if hit.frame_s is None else f"{hit.frame_s:.1f} s",
            escape(", ".join(hit.labels)),
            f"{hit.score:.3f}",
            "–" if hit.percentile is None else f"{hit.percentile:.1f} %",
        )
    out.print(table)


# Longer than most functions: most of it are its options
@use_app.command()
def duplicates(
    library: LibraryPath,
    run: RunPath,
    audio: Annotated[
        float | None, typer.Option(help="Mean cosine from which on two sounds are the same; default 0.95.")
    ] = None,
    visual: Annotated[
        float | None, typer.Option(help="Mean cosine from which on two pictures are the same; default 0.9.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Also files of which one is a part of the other, or that share a part.")
    ] = False,
    confirm: Annotated[
        bool,
        typer.Option(
            help="Look at the stored sounds and pictures of what the embeddings match, or believe these alone."
        ),
    ] = True,
    like: Annotated[
        str | None,
        typer.Option(metavar="FILE|CLIP", help="Only the files most like this file, or this clip of the library."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="With --like: number of files.")] = 20,
    label: Annotated[
        list[str] | None, typer.Option(help="Compare clips with this label; given again, with one of them.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Compare clips of files whose path or name matches, such as 'pets/*.mp4'."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Compare clips of this split.")] = None,
    page: Annotated[
        Path | None, typer.Option("--out", dir_okay=False, help="HTML page with the pairs side by side.")
    ] = None,
    copies: Annotated[
        bool,
        typer.Option("--copies", help="Print the files that a better one stands for, one a line, and nothing else."),
    ] = False,
    thresholds: Annotated[
        bool,
        typer.Option("--thresholds", help="Measure the cosines of copies that are made of the library's own files."),
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Find files that are copies of each other: re-encoded, changed, or with another sound or picture.

    Nothing is deleted: what to do with the files that `--copies` prints is for you to say.

    Examples: equiav duplicates --library L --run runs/toy --partial --out copies.html
              equiav duplicates -L L -R R --like holiday.mp4 -k 5
              equiav duplicates -L L -R R --copies | xargs -d '\\n' ls -l
    """
    from equiav.search.index import SearchIndex

    if like and copies:
        raise ConfigError("--copies names files of groups of copies, and --like makes no groups: leave one of them out")
    if thresholds and (like or copies or page):
        raise ConfigError("--thresholds measures, and finds no pairs: leave --like, --copies and --out out")
    index = SearchIndex(library, light_model(run, device, precision))
    with ExitStack() as bars:
        shown: dict[str, Bar] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in shown:
                bars.close()
                shown[what] = bars.enter_context(Bar(what, what.rpartition(" ")[2]))
            shown[what].update(done, total)

        if thresholds:
            measured = index.thresholds(on_progress=tell)
            print_json(measured.to_dict()) if as_json else _print_thresholds(measured)
            return
        found = index.duplicates(
            audio=audio,
            visual=visual,
            like=like,
            k=k,
            partial=partial,
            confirm=confirm,
            labels=label or (),
            sources=source or (),
            split=split,
            on_progress=tell,
        )
    if page is not None:
        from equiav.pages.duplicates import duplicates_page

        shown_clips = {clip for pair in found.pairs for clip in (pair.clip_a, pair.clip_b) if clip}
        write_page(page, duplicates_page(found, index.thumbnails(shown_clips), f"Copies in {library}"))
    if as_json:
        print_json(found.to_dict())
    elif copies:
        for file in found.copies:
            typer.echo(file)
    else:
        _print_duplicates(found)


def _print_thresholds(found: Thresholds) -> None:
    table = Table("cosine", "sounds: recall", "precision", "pictures: recall", "precision")
    sounds, pictures = ([row for row in found.rows if row.modality == name] for name in ("audio", "visual"))
    for sound, picture in zip(sounds, pictures, strict=True):
        cells = [share for row in (sound, picture) for share in (row.recall, row.precision)]
        table.add_row(f"{sound.cosine:g}", *map(str, cells))
    out.print(table)
    kinds = Table("copy", "found by sound or picture")
    for kind, share in found.kinds.items():
        kinds.add_row(kind, str(share))
    out.print(kinds)
    typer.echo(
        f"of {counted(found.copies, 'copy', 'copies')}, with 95 % intervals; before the second look. "
        f"Recommended: --audio {found.audio:g} --visual {found.visual:g}"
    )


def _print_duplicates(found: Duplicates) -> None:
    from equiav.search.pairs import TITLES

    table = Table("kind", Column("file", overflow="fold"), Column("and", overflow="fold"), "offset", "length", "why")
    for pair in found.pairs:
        table.add_row(
            TITLES[pair.kind],
            escape(pair.a),
            escape(pair.b),
            f"{pair.offset_s:.1f} s",
            f"{pair.length_s:.1f} s",
            pair.why,
        )
    if found.pairs:
        out.print(table)
    compared = f"{counted(found.files, 'file')} compared, of {counted(found.windows, 'clip')}"
    if found.missing:
        compared += f"; {counted(found.missing, 'clip')} {are(found.missing)} not embedded"
    typer.echo(f"{compared}: {counted(len(found.pairs), 'pair')}")
    for group in found.groups:
        typer.echo(f"best of {len(group.copies) + 1}: {group.best}")


@use_app.command()
def serve(
    library: LibraryPath,
    run: Annotated[
        list[str],
        typer.Option("--run", "-R", metavar="[NAME=]PATH", help="Run folder; given again, several runs by name."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")] = HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = PORT,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that clients must send; or EQUIAV_TOKEN is set.")
    ] = None,
    max_mb: Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")] = 64,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Longest sound or video that is taken.")] = 300.0,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a request may take to arrive, and again to be answered.")
    ] = 60.0,
    queue: Annotated[int, typer.Option(min=1, help="Embeds and searches in hand at once.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Files decoded at the same time.")] = 2,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Serve a library over HTTP, with a page to search it in a browser, until Ctrl-C.

    Needs `pip install 'equiav[serve]'`.

    Example: equiav serve --library L --run runs/toy

    Example: equiav serve -L L -R a=runs/a -R b=runs/b --host 0.0.0.0 --token-file F
    """
    try:
        from equiav.serve.server import Limits, named_runs, read_token, run_server
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve needs {error.name}: pip install 'equiav[serve]'") from None

    folders = {name: folder_here(folder) for name, folder in named_runs(run).items()}
    token = read_token(token_file, host)
    models = {name: load_model(folder, device, precision) for name, folder in folders.items()}
    limits = Limits(max_mb << 20, max_seconds, timeout, queue, workers)

    def on_start(url: str) -> None:
        if as_json:
            print_json({"url": url, "runs": list(models)})
        else:
            err.print(f"serving on {url} (Ctrl-C ends it)")

    run_server(library, models, host=host, port=port, token=token, limits=limits, on_start=on_start, folders=folders)
