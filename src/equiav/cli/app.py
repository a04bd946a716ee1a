"""The command line as a whole: `main`, errors, signals and exit codes, and the verbs demo and doctor.

Heavy imports stand inside the verbs, so that `equiav --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, NoReturn

import typer
from rich.markup import escape
from rich.table import Column, Table

from equiav._version import __version__
from equiav.cli.data import data_app
from equiav.cli.evaluation import evaluate_app, report_app
from equiav.cli.options import AsJson
from equiav.cli.terminal import (
    SEVERAL,
    STOPPED,
    Bar,
    err,
    interrupt_on_sigterm,
    out,
    print_error,
    print_interrupted,
    print_json,
    stop_code,
    stop_on_signal,
)
from equiav.cli.training import train_app
from equiav.cli.use import HOST, PORT, lacking_of_serve, use_app
from equiav.errors import EquiAVError, explain
from equiav.machine import share_heaps

HELP = """Learn joint embeddings of sound and picture from plain videos with EquiAV, and use them.

From a folder of videos to ranked hits:

\b
  equiav ingest VIDEOS --library L --recipe laptop
  equiav pretrain laptop --library L --run R
  equiav embed --library L --run R
  equiav search --library L --run R --audio dog.wav

\b
Exit codes: 0 done; 1 error; 2 wrong usage; 3 done, but some files failed;
130 stopped by Ctrl-C, 143 by SIGTERM: the same command goes on.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every verb
)
for verbs in (data_app, train_app, report_app, use_app):
    app.add_typer(verbs)
app.add_typer(evaluate_app, name="evaluate")
MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "broken": "[bold red]broken[/]"}


def main() -> NoReturn:
    """Entry point: run a verb; an `EquiAVError` is printed as one line, with exit code 1."""
    share_heaps()
    interrupt_on_sigterm()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        with _with_the_others():
            app(standalone_mode=True)
    except SystemExit as leaving:
        # Typer makes Exit(130) of it; a training that saved and stopped has printed that itself
        if isinstance(getattr(leaving.__context__, "__cause__", None), KeyboardInterrupt):
            print_interrupted()
            sys.exit(stop_code())
        raise
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which is not imported for this
            raise
        what = str(error).partition("\n")[0].strip()
        print_error(
            f"{what} Verbs that use a model run on the processor with --device cpu, or on "
            "another GPU with --device cuda:1; training needs less with train.micro_batch (docs/training.md)"
        )
        sys.exit(1)
    except BrokenPipeError:  # `equiav … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (EquiAVError, OSError) as error:  # a full disk, a folder that may not be written
        print_error(explain(error))
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
    folder: Annotated[Path, typer.Option("--out", help="Folder for all that the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the world and of training.")] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="A tenth of the work: a smoke test, not a result.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do everything once, on a made-up world: videos, ingest, pretrain, evaluate, embed, search, an HTML page.

    Example: equiav demo --out demo
    """
    from equiav.demo import run_demo

    say = partial(err.print, highlight=False)
    page = run_demo(folder, seed=seed, fast=fast, bar=Bar, say=say, stopping=stop_on_signal)
    if page is None:
        if as_json:
            print_json({"page": None, "stopped": True})
        err.print(STOPPED)
        raise typer.Exit(stop_code())
    serve = f"{_program()} serve --library {quote(str(folder / 'library'))} --run {quote(str(folder / 'run'))}"
    if as_json:
        print_json({"page": page, "retrieval": folder / "retrieval.json", "serve": serve})
        return
    typer.echo(str(page))
    if lacks := lacking_of_serve():
        typer.echo(f"pip install 'equiav[serve]'  # what comes next needs it: there is no {lacks}")
    typer.echo(f"{serve}  # search it by your own files in a browser: http://{HOST}:{PORT}")


def _program() -> str:
    """How this command is called from where it was called: `equiav`, or its place where a shell would not find it."""
    called = Path(sys.argv[0])
    if (found := shutil.which("equiav")) and Path(found).parent == Path(sys.executable).parent:
        return "equiav"
    return quote(str(called)) if called.name == "equiav" else f"{quote(sys.executable)} -m equiav"


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option("--for", help="Folder for libraries and runs: its disk is checked.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Check versions, codecs, speed, memory and disk. Exit code 1 if something is broken.

    Example: equiav doctor --for /data
    """
    from equiav.doctor import examine

    checks = examine(folder)
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        table = Table("", "check", Column("found", overflow="fold"))
        for check in checks:
            advice = f"\n→ {escape(check.advice)}" if check.advice else ""
            table.add_row(MARKS[check.state], escape(check.name), escape(check.found) + advice)
        out.print(table)
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(1)
