"""The command line: one short function per verb: parse, one library call, print.

Exit codes: see `HELP`.
Heavy imports live inside the verbs, so that `equiav --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.markup import escape
from rich.table import Column, Table

from equiav._version import __version__
from equiav.cli.data import AsJson, Device, LibraryPath, RunPath, library_app
from equiav.cli.evaluation import evaluate_app, load_model
from equiav.cli.terminal import (
    SEVERAL,
    Bar,
    err,
    interrupt_on_sigterm,
    out,
    print_json,
    say_interrupted,
    stop_code,
    stop_on_signal,
)
from equiav.cli.training import train_app
from equiav.errors import EquiAVError, explain
from equiav.machine import share_heaps
from equiav.words import counted

HELP = """Learn joint sound-and-image embeddings from plain videos with EquiAV, and use them.

A folder of videos to ranked hits: equiav ingest VIDEOS --library L, equiav pretrain toy --library L --run R,
equiav embed --library L --run R, equiav search --library L --run R --audio dog.wav

Exit codes: 0 done; 1 error; 2 wrong usage; 3 done, but some files failed; 130 stopped by Ctrl-C, 143 by SIGTERM: the
same command goes on.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every verb
)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(library_app)
app.add_typer(train_app)


def main() -> NoReturn:
    """Entry point: run a verb; errors of ours become one line and exit code 1."""
    share_heaps()
    interrupt_on_sigterm()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        with _with_the_others():
            app(standalone_mode=True)
    except SystemExit as leaving:
        # Typer makes Exit(130) of it; a training that saved and stopped has said so itself
        if isinstance(getattr(leaving.__context__, "__cause__", None), KeyboardInterrupt):
            say_interrupted()
            sys.exit(stop_code())
        raise
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for this
            raise
        what = str(error).partition("\n")[0].strip()
        err.print(
            f"[bold red]error:[/] {escape(what)} Verbs that use a model run on the processor with --device cpu, or on "
            "another GPU with --device cuda:1; training needs less with train.micro_batch (docs/training.md)",
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(1)
    except BrokenPipeError:  # `equiav … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (EquiAVError, OSError) as error:  # a full disk, a folder that may not be written
        err.print(f"[bold red]error:[/] {escape(explain(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    sys.exit(0)


def _with_the_others() -> AbstractContextManager[None]:
    if not SEVERAL:
        return nullcontext()
    from equiav.cli.ranks import end_together

    return end_together()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the world and of training.")] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="A tenth of it: a smoke test, not a result.")] = False,
    as_json: AsJson = False,
) -> None:
    """The whole way on a made-up world: videos, ingest, pretrain, evaluate, embed, search, and a page to look at.

    Example: equiav demo --out demo
    """
    from equiav.demo import run_demo

    def say(text: str) -> None:
        err.print(text, highlight=False)

    page = run_demo(folder, seed=seed, fast=fast, bar=Bar, say=say, stopping=stop_on_signal)
    if page is None:
        if as_json:
            print_json({"page": None, "stopped": True})
        err.print("stopped and saved; run the same command again to go on")
        raise typer.Exit(stop_code())
    print_json({"page": page, "retrieval": folder / "retrieval.json"}) if as_json else typer.echo(str(page))


@app.command()
def toyworld(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the videos into.")],
    clips: Annotated[int, typer.Option("--clips", "-n", min=2, help="Number of videos.")] = 1600,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Same seed, same world.")] = 0,
    test: Annotated[int | None, typer.Option(help="Videos of the test split; default an eighth.")] = None,
    as_json: AsJson = False,
) -> None:
    """Render a made-up audio-visual world to ordinary .mp4 files, with labels.csv.

    Example: equiav toyworld videos --clips 400 --seed 1
    """
    from equiav.toyworld import make_world

    with Bar("rendering", "videos") as bar:
        done = iter(range(1, clips + 1))
        make_world(folder, clips, seed, test=test, on_clip=lambda: bar.update(next(done), clips))
    listing = folder / "labels.csv"
    if as_json:
        print_json({"folder": folder, "videos": clips, "labels": listing})
    else:
        typer.echo(f"{counted(clips, 'video')} in {folder}; next: equiav ingest {listing} --library L --recipe toy")


@app.command()
def diagnose(
    library: LibraryPath,
    run: RunPath,
    page: Annotated[
        Path | None, typer.Option("--out", help="Page to write, its figures beside it as .json; default in the run.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to measure on.")] = "test",
    clips: Annotated[int, typer.Option(min=8, help="At most so many clips.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of clips and of transformations.")] = 0,
    gate: Annotated[
        str | None, typer.Option(help="Conditions on figures of the JSON; exit code 1 when one does not hold.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure what the predictor knows of the transformations, how good the centroid is, and what both cost.

    Examples: equiav diagnose --library L --run runs/toy --out report.html
              equiav diagnose -L L -R R --gate "flip.mrr>0.2,centroid.k16<0.1"
    """
    from equiav.diagnose.figures import parse_gate
    from equiav.library.table import Library
    from equiav.pages.diagnosis import verdicts, write_report
    from equiav.train.trained_on import load_trained_on

    conditions = parse_gate(gate) if gate is not None else []
    page = page or run / "report" / "equivariance.html"
    with Bar("measuring", "parts") as bar:
        found = write_report(
            Library(library),
            load_model(run, device),
            page,
            split=split,
            clips=clips,
            seed=seed,
            learned=load_trained_on(run),
            on_progress=bar.update,
        )
    if as_json:
        typer.echo(page.with_suffix(".json").read_text(encoding="utf-8"))
    else:
        for line in verdicts(found):
            typer.echo(line)
        typer.echo(f"{page}, {page.with_suffix('.json')}")
    # last: a figure that there is not is an error, and what was measured is shown all the same
    checked = [condition.check(found.figures()) for condition in conditions]
    for _, line in checked:
        err.print(line, highlight=False, soft_wrap=True)
    if not all(met for met, _ in checked):
        raise typer.Exit(1)


@app.command()
def embed(library: LibraryPath, run: RunPath, device: Device = "auto", as_json: AsJson = False) -> None:
    """Embed every clip of a library, for search. Run it again after ingesting more.

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


@app.command()
def search(
    library: LibraryPath,
    run: RunPath,
    audio: Annotated[Path | None, typer.Option(help="Search by a sound (any audio or video file).")] = None,
    image: Annotated[Path | None, typer.Option(help="Search by a picture.")] = None,
    video: Annotated[Path | None, typer.Option(help="Search by a video: its sound and its picture.")] = None,
    clip: Annotated[
        str | None, typer.Option(help="Search by a clip of the library, by its id; `--json` shows ids.")
    ] = None,
    by: Annotated[
        Literal["audio", "visual", "both"] | None,
        typer.Option(
            help="Compare with the clips' audio, visual, or both; default: the other sense, of --video and --clip both."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 5,
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


@app.command()
def convert(
    official: Annotated[Path, typer.Argument(help="The authors' checkpoint, a .pth file.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Model folder to write.")],
    heads: Annotated[int, typer.Option(min=1, help="Attention heads per block: the file does not say.")] = 12,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model that OUT holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn the EquiAV authors' checkpoint into a model folder. Nothing but tensors is read from the file.

    Example: equiav convert equiav_pretrained.pth models/equiav
    """
    from equiav.config import Features
    from equiav.model.convert import convert as run_convert

    model = run_convert(official, folder, heads=heads, overwrite=overwrite)
    parameters, features = sum(p.numel() for p in model.parameters()), model.config.features
    others = [f"features.{name}={value}" for name, value in features if value != getattr(Features(), name)]
    commands = [
        " ".join(["equiav ingest VIDEOS --library L", *others]),
        f"equiav embed --library L --run {folder}",
        f"equiav search --library L --run {folder} --audio dog.wav",
    ]
    if as_json:
        print_json({"folder": folder, "parameters": parameters, "features": dict(features), "next": commands})
        return
    typer.echo(f"{parameters / 1e6:.1f} M parameters in {folder}")
    typer.echo(
        f"its libraries have features.sample_rate={features.sample_rate} clip_s={features.clip_s:g} "
        f"mel_bins={features.mel_bins} time_frames={features.time_frames}\nnext: " + "\n      ".join(commands)
    )


@app.command()
def export(
    run: RunPath,
    onnx: Annotated[Path, typer.Option(help="Folder for audio.onnx and visual.onnx.")],
    as_json: AsJson = False,
) -> None:
    """Write the two towers as ONNX files (features in, unit embeddings out), checked against PyTorch.

    Example: equiav export --run runs/toy --onnx exported
    """
    from equiav.model.export import export_onnx

    files = export_onnx(load_model(run, "cpu"), onnx)
    if as_json:
        print_json({"files": [vars(file) for file in files]})
        return
    for file in files:
        typer.echo(f"{file.path}: within {file.max_abs_difference:.1e} of PyTorch")


@app.command("augment-gallery")
def augment_gallery(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="Id of a clip of the library.")],
    page: Annotated[Path, typer.Argument(metavar="OUT.html", help="Page to write.")],
    library: LibraryPath,
    recipe: Annotated[str, typer.Option(help="Recipe whose transformations to show.")] = "base",
    as_json: AsJson = False,
) -> None:
    """Draw every transformation of a recipe on one clip, low, neutral and high, with its slots.

    Example: equiav augment-gallery 0123456789abcdef01234567 gallery.html -L L
    """
    from equiav.augment.audio import audio_space
    from equiav.augment.visual import visual_space
    from equiav.config import load_recipe
    from equiav.library.table import Library
    from equiav.media.decode import load_image
    from equiav.pages.transformations import augment_gallery as draw

    shelf, settings = Library(library), load_recipe(recipe)
    row, (mean, std) = shelf.clip(clip), shelf.log_mel_stats()
    frame = load_image(row["frames"][len(row["frames"]) // 2]).transpose(2, 0, 1).copy()
    spaces = (
        audio_space(settings.augment, shelf.features.time_frames, shelf.features.mel_bins),
        visual_space(settings.augment, settings.model.image_side),
    )
    page.write_text(draw((row["fbank"] - mean) / std, frame, *spaces), encoding="utf-8")
    print_json({"page": page}) if as_json else typer.echo(str(page))
