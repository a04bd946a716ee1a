"""The command line: one short function per verb: parse, one library call, print.

Exit codes: 0 ok · 1 error · 2 usage · 3 done, but some files failed · 130 interrupted.
Heavy imports live inside the verbs, so that `equiav --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.markup import escape
from rich.table import Column, Table

from equiav._version import __version__
from equiav.cli_library import AsJson, LibraryPath, library_app, print_coverage
from equiav.errors import ConfigError, EquiAVError
from equiav.memory import share_heaps
from equiav.terminal import IS_MAIN, Bar, err, out, print_json, stop_on_signal

EXIT_PARTIAL = 3
HELP = """Learn joint sound-and-image embeddings from plain videos with EquiAV, and use them.

A folder of videos to ranked hits: equiav ingest VIDEOS --library L, equiav pretrain toy --library L --run R,
equiav embed --library L --run R, equiav search --library L --run R --audio dog.wav
"""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
evaluate_app = typer.Typer(help="Measure a model on a library.", no_args_is_help=True)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(library_app)

RunPath = Annotated[Path, typer.Option("--run", "-R", help="Run folder, made by `equiav pretrain`.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to change: key=value, e.g. optim.lr=1e-4.")]


def main() -> NoReturn:
    """Entry point: run a verb; errors of ours become one line and exit code 1."""
    share_heaps()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        app(standalone_mode=True)
    except EquiAVError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("interrupted; run the same command again to go on")
        sys.exit(130)
    except BrokenPipeError:  # `equiav … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


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
) -> None:
    """The whole way on a made-up world: videos, ingest, pretrain, evaluate, embed, search, and a page to look at.

    Example: equiav demo --out demo
    """
    from equiav.demo import run_demo

    def say(text: str) -> None:
        err.print(text, highlight=False)

    page = run_demo(folder, seed=seed, fast=fast, bar=Bar, say=say, stopping=stop_on_signal)
    if page is None:
        err.print("stopped and saved; run the same command again to go on")
        raise typer.Exit(0)
    typer.echo(str(page))


@app.command()
def toyworld(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the videos into.")],
    clips: Annotated[int, typer.Option("--clips", "-n", min=2, help="Number of videos.")] = 1600,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Same seed, same world.")] = 0,
    test: Annotated[int | None, typer.Option(help="Videos of the test split; default an eighth.")] = None,
) -> None:
    """Render a made-up audio-visual world to ordinary .mp4 files, with labels.csv.

    Example: equiav toyworld videos --clips 400 --seed 1
    """
    from equiav.toyworld import make_world

    with Bar("rendering", "videos") as bar:
        done = iter(range(1, clips + 1))
        make_world(folder, clips, seed, test=test, on_clip=lambda: bar.update(next(done), clips))
    typer.echo(f"{clips} videos in {folder}; next: equiav ingest {folder / 'labels.csv'} --library L --recipe toy")


@app.command()
def ingest(
    source: Annotated[
        Path, typer.Argument(help="A folder of videos or tars, one video, or a list (CSV, JSONL, JSON): docs/data.md.")
    ],
    library: LibraryPath,
    overrides: Overrides = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe whose `features` to use; default those of the library, of a new one `base`'s."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one per core.")] = None,
    media: Annotated[Path | None, typer.Option(help="Folder of the files that a dataset's list names.")] = None,
    labels: Annotated[Path | None, typer.Option(help="class_labels_indices.csv; default the one by the list.")] = None,
    split: Annotated[str, typer.Option(help="Split of what the source gives no split.")] = "train",
    prune: Annotated[bool, typer.Option("--prune", help="Drop the clips of this source whose files are gone.")] = False,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Read on a Ray cluster: its address, or local for one here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read media files into a library. Run it again to add new files; nothing is added twice.

    Videos, sounds and pictures: what has no sound or no picture can be searched, but is not trained on.

    Examples: equiav ingest videos --library L --prune
              equiav ingest labels.csv --library L --recipe toy features.clip_s=2.5
              equiav ingest vggsound.csv --library L --media vggsound/videos
              equiav ingest eval_segments.csv --library L --media audioset --split test
    """
    from equiav.config import load_recipe
    from equiav.library.ingest import ingest as run_ingest
    from equiav.library.manifests import read_source
    from equiav.library.table import Library

    if (library / "clips.lance").exists() and not recipe and not overrides:
        features = Library(library).features
    else:
        features = load_recipe(recipe or "base", overrides or []).features
    listing = read_source(source, media=media, label_map=labels, split=split)

    def say(clips: int, files: int) -> None:
        err.print(f"dropping {clips} clips of {files} files that are gone", highlight=False)

    with Bar("ingesting", "files") as bar:
        report = run_ingest(
            listing,
            library,
            features,
            workers=workers,
            ray=ray,
            prune=prune,
            on_prune=say,
            on_progress=bar.update,
        )
    if as_json:
        print_json(asdict(report))
    else:
        kinds = ", ".join(f"{count} {status}" for status, count in report.statuses.items())
        typer.echo(
            f"{report.files} files: {report.clips_added} clips added{kinds and f' ({kinds})'}, "
            f"{report.clips_present} already there"
        )
        _print_rejects(report.rejects)
        print_coverage(report.coverage)
    if report.rejects:
        raise typer.Exit(EXIT_PARTIAL)


def _print_rejects(rejects: list[Any]) -> None:
    if not rejects:
        return
    table = Table(
        Column("file", overflow="fold"),
        "reason",
        "detail",
        title=f"{len(rejects)} files could not be read, wholly or in part",
        title_justify="left",
    )
    for reject in rejects[:20]:
        table.add_row(*(escape(str(part)) for part in (reject.path, reject.reason, reject.detail)))
    out.print(table)
    if len(rejects) > 20:
        typer.echo(f"… and {len(rejects) - 20} more, all in the library's rejects table")


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (toy, base) or a YAML file.")],
    library: LibraryPath,
    run: RunPath,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take: parameters, memory, time, negatives, shapes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on a library. Run it again to go on where it was.

    Examples: equiav pretrain toy --library L --run runs/toy train.epochs=20
              equiav pretrain base --library L --run runs/base --dry-run
              torchrun --nproc-per-node 8 -m equiav pretrain base -L L -R runs/base
    """
    from equiav.config import load_recipe
    from equiav.library.table import Library
    from equiav.train.pretrain import pretrain as run_pretrain
    from equiav.train.processes import leave

    if any(text.startswith("features.") for text in overrides or []):
        raise ConfigError("features are fixed when a library is made: give them to `equiav ingest`")
    if dry_run:
        from equiav.train.dry_run import dry_run as estimate

        found = estimate(load_recipe(recipe, overrides or []), Library(library), run)
        if IS_MAIN:
            print_json(found.to_dict()) if as_json else out.print(found.to_table())
        return
    with stop_on_signal() as should_stop, Bar("training", "steps") as bar:
        done = run_pretrain(
            load_recipe(recipe, overrides or []),
            Library(library),
            run,
            on_step=lambda step: bar.update(step.step, step.steps, step.describe()),
            should_stop=should_stop,
        )
    leave()
    if not IS_MAIN:
        return
    if as_json:
        print_json({"run": run, "step": done.step, "steps": done.steps, "clips": done.clips})
    elif done.done:
        typer.echo(
            f"trained {done.steps} steps on {done.clips} clips: {run / 'model'}\n"
            f"next: equiav embed --library {library} --run {run}"
        )
    else:
        typer.echo(f"stopped and saved at step {done.step} of {done.steps}; continue with the same command")


@app.command()
def compare(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (toy, base) or a YAML file.")],
    library: LibraryPath,
    folder: Annotated[Path, typer.Option("--out", help="Folder for all runs and the table.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=a,b,c makes variants; key=value holds for all.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Rows with several settings each: a shipped table (paper) or a YAML file.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    split: Annotated[str, typer.Option(help="Split to measure retrieval on.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Train variants of a recipe with the same budget, and put them into one table. Run it again to go on.

    Examples: equiav compare toy --library L --out methods model.method=equiav,invariant,plain
              equiav compare toy --library L --out ablations --table paper train.epochs=6
              equiav compare toy --library L --out k model.centroid_samples=1,4,16 train.epochs=8 --seeds 2
    """
    from equiav.compare import compare as run_compare
    from equiav.compare import load_table, to_table, variants
    from equiav.library.table import Library

    chosen = variants(recipe, settings or [], seeds, folder, load_table(table) if table else None)
    with stop_on_signal() as should_stop, Bar("training", "steps") as bar:
        results = run_compare(
            Library(library),
            chosen,
            folder,
            split=split,
            on_step=lambda run, step: bar.update(step.step, step.steps, f"{run}: {step.describe()}"),
            should_stop=should_stop,
        )
    if results is None:
        err.print("stopped and saved; run the same command again to go on")
    elif as_json:
        typer.echo((folder / "compare.json").read_text(encoding="utf-8"))
    else:
        out.print(to_table(results))
        typer.echo(f"{folder / 'compare.json'}, {folder / 'compare.png'}")


@evaluate_app.command("retrieval")
def evaluate_retrieval(
    library: LibraryPath,
    run: RunPath,
    split: Annotated[str, typer.Option(help="Split to measure on.")] = "test",
    result: Annotated[Path | None, typer.Option("--out", help="File for the result, to compare later.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the picture by its sound and the sound by its picture, over all clips of a split.

    Examples: equiav evaluate retrieval --library L --run runs/toy --split test
              equiav evaluate retrieval --library L --run runs/toy --out toy.json
    """
    from equiav.evaluate.retrieval import evaluate_retrieval as measure
    from equiav.evaluate.retrieval import retrieval_result
    from equiav.library.table import Library

    shelf, model = Library(library), _model(run)
    report = measure(shelf, model, split=split)
    if result is not None:
        retrieval_result(report, shelf, model).save(result)
    print_json(report.to_dict()) if as_json else out.print(report.to_table())


@evaluate_app.command("probe")
def evaluate_probe(
    library: LibraryPath,
    run: RunPath,
    kind: Annotated[Literal["linear", "knn", "attentive"], typer.Option(help="The classifier.")] = "linear",
    senses: Annotated[Literal["audio", "visual", "both"], typer.Option(help="What it looks at.")] = "both",
    train: Annotated[str, typer.Option(help="Split to learn from.")] = "train",
    test: Annotated[str, typer.Option(help="Split to measure on.")] = "test",
    folds: Annotated[bool, typer.Option("--folds", help="The library's splits are folds: measure on each.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the attentive probe.")] = 0,
    result: Annotated[Path | None, typer.Option("--out", help="File for the result, to compare later.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how well a simple classifier tells the labels from frozen features.

    Examples: equiav evaluate probe --library L --run runs/toy
              equiav evaluate probe --library ESC50 --run runs/base --kind attentive --senses audio --folds
    """
    from equiav.evaluate.probe import probe, probe_result
    from equiav.library.table import Library

    shelf, model = Library(library), _model(run)
    with Bar("embedding", "clips") as bar:
        found = probe(
            shelf,
            model,
            kind=kind,
            senses=senses,
            train=train,
            test=test,
            folds=folds,
            seed=seed,
            on_progress=bar.update,
        )
    if result is not None:
        probe_result(found, shelf, model, seed=seed).save(result)
    print_json(found.to_dict()) if as_json else out.print(found.to_table())


@evaluate_app.command("compare")
def evaluate_compare(
    first: Annotated[Path, typer.Argument(help="A result, written by `equiav evaluate … --out`.")],
    second: Annotated[Path, typer.Argument(help="Another of the same evaluation.")],
    as_json: AsJson = False,
) -> None:
    """Say what differs between two results, and whether it is beyond chance.

    Example: equiav evaluate compare before.json after.json
    """
    from equiav.evaluate.results import Result, compare_results

    found = compare_results(Result.load(first), Result.load(second))
    print_json(found.to_dict()) if as_json else out.print(found.to_table())


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
    as_json: AsJson = False,
) -> None:
    """Measure what the predictor knows of the transformations, how good the centroid is, and what both cost.

    Examples: equiav diagnose --library L --run runs/toy --out report.html
              equiav diagnose --library L --run runs/toy --gate "flip.mrr>0.2,centroid.k16<0.1"
    """
    from equiav.diagnose.figures import parse_gate
    from equiav.diagnose.page import verdicts, write_report
    from equiav.library.table import Library

    conditions = parse_gate(gate) if gate is not None else []
    page = page or run / "report" / "equivariance.html"
    with Bar("measuring", "parts") as bar:
        found = write_report(
            Library(library), _model(run), page, split=split, clips=clips, seed=seed, on_progress=bar.update
        )
    checked = [condition.check(found.figures()) for condition in conditions]
    if as_json:
        typer.echo(page.with_suffix(".json").read_text(encoding="utf-8"))
    else:
        for line in verdicts(found):
            typer.echo(line)
        typer.echo(f"{page}, {page.with_suffix('.json')}")
    for _, line in checked:
        err.print(line, highlight=False, soft_wrap=True)
    if not all(met for met, _ in checked):
        raise typer.Exit(1)


@app.command()
def embed(library: LibraryPath, run: RunPath, as_json: AsJson = False) -> None:
    """Embed every clip of a library, for search. Run it again after ingesting more.

    Example: equiav embed --library L --run runs/toy
    """
    from equiav.library.table import Library
    from equiav.search.embed import embed_library

    with Bar("embedding", "clips") as bar:
        table = embed_library(Library(library), _model(run), on_progress=bar.update)
    if as_json:
        print_json({"path": table.path, "clips": table.count()})
    else:
        typer.echo(f"{table.count()} clips embedded: {table.path}")


@app.command()
def search(
    library: LibraryPath,
    run: RunPath,
    audio: Annotated[Path | None, typer.Option(help="Search by a sound (any audio or video file).")] = None,
    image: Annotated[Path | None, typer.Option(help="Search by a picture.")] = None,
    video: Annotated[Path | None, typer.Option(help="Search by a video: its sound and its picture.")] = None,
    clip: Annotated[str | None, typer.Option(help="Search by a clip of the library, by its id.")] = None,
    by: Annotated[
        Literal["audio", "visual", "both"] | None,
        typer.Option(help="Compare with the clips' audio, visual, or both; default: the other sense."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Rank the clips of a library by a sound, a picture, a video or one of its own clips.

    Example: equiav search --library L --run runs/toy --audio dog.wav -k 10
    """
    from equiav.search.index import search_files

    hits = search_files(library, _model(run), audio=audio, image=image, video=video, clip=clip, by=by, k=k)
    if as_json:
        print_json([hit.to_dict() for hit in hits])
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
) -> None:
    """Turn the EquiAV authors' checkpoint into a model folder. Nothing but tensors is read from the file.

    Example: equiav convert equiav_pretrained.pth models/equiav
    """
    from equiav.model.convert import convert as run_convert

    model = run_convert(official, folder, heads=heads)
    typer.echo(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters in {folder}")


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

    files = export_onnx(_model(run), onnx)
    if as_json:
        print_json([vars(file) for file in files])
        return
    for file in files:
        typer.echo(f"{file.path}: within {file.max_abs_difference:.1e} of PyTorch")


@app.command("augment-gallery")
def augment_gallery(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="Id of a clip of the library.")],
    page: Annotated[Path, typer.Argument(metavar="OUT.html", help="Page to write.")],
    library: LibraryPath,
    recipe: Annotated[str, typer.Option(help="Recipe whose transformations to show.")] = "base",
) -> None:
    """Draw every transformation of a recipe on one clip, low, neutral and high, with its slots.

    Example: equiav augment-gallery 0123456789abcdef01234567 gallery.html --library L
    """
    from equiav.augment.audio import audio_space
    from equiav.augment.visual import visual_space
    from equiav.config import load_recipe
    from equiav.diagnose.gallery import augment_gallery as draw
    from equiav.library.table import Library
    from equiav.media.decode import load_image

    shelf, settings = Library(library), load_recipe(recipe)
    row, (mean, std) = shelf.clip(clip), shelf.log_mel_stats()
    frame = load_image(row["frames"][len(row["frames"]) // 2]).transpose(2, 0, 1).copy()
    spaces = (
        audio_space(settings.augment, shelf.features.time_frames, shelf.features.mel_bins),
        visual_space(settings.augment, settings.model.image_side),
    )
    page.write_text(draw((row["fbank"] - mean) / std, frame, *spaces), encoding="utf-8")
    typer.echo(str(page))


def _model(run: Path) -> Any:
    """The model of a run, ready to embed."""
    from equiav.model.equiav import EquiAV

    folder = run / "model" if (run / "model").is_dir() else run
    return EquiAV.from_pretrained(folder).eval()
