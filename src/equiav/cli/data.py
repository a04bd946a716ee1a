"""The verbs that make videos and libraries and look at them: toyworld, ingest, stats, export-clips, augment-gallery."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Column, Table

from equiav.cli.options import AsJson, LibraryPath, SourcePath, write_page
from equiav.cli.terminal import Bar, err, out, print_json, show
from equiav.errors import ConfigError
from equiav.words import counted

if TYPE_CHECKING:
    from equiav.config import Features
    from equiav.library.coverage import Coverage, IngestReport
    from equiav.library.places import Place

EXIT_PARTIAL = 3
SHOWN_FAILURES = 20

data_app = typer.Typer()


# Longer than most functions: half of it are its options
@data_app.command()
def ingest(
    source: SourcePath,
    library: LibraryPath,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings of the features: key=value, e.g. features.clip_s=2.5.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe that the clips are for: laptop, gpu, …; default: the library's own, for a new one `base`'s."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Run or model whose kind of clips to make, to embed them."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one per core.")] = None,
    media: Annotated[Path | None, typer.Option(help="Folder of the files that a dataset's list names.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="class_labels_indices.csv; default: the one beside the list.")
    ] = None,
    labels_from_folders: Annotated[
        bool, typer.Option("--labels-from-folders", help="VIDEOS/dog/x.mp4 has the label dog, VIDEOS/y.mp4 none.")
    ] = False,
    split: Annotated[str, typer.Option(help="Split of the clips to which the source gives none.")] = "train",
    hold_out: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="This share of the files, as 10% or 0.1, is the split test: to measure on."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the clips of this source whose files are gone.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Read on a Ray cluster: its address, auto, or local for one on this machine."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read media files into a library. Run it again to add new files; nothing is added twice.

    Clips with only sound or only a picture can be searched, but are not trained on.

    Examples: equiav ingest videos -L L --recipe laptop --hold-out 10%
              equiav ingest videos -L L --like R --labels-from-folders
              equiav ingest labels.csv -L L --recipe toy features.clip_s=2.5
              equiav ingest vggsound.csv --library L --media vggsound/videos
              equiav ingest eval_segments.csv -L L --media audioset --split test
    """
    from equiav.library.ingest import ingest as run_ingest
    from equiav.library.manifests import read_source

    features = _features(library, recipe, like, overrides or [])
    share = _share(hold_out)
    listing = read_source(
        source, media=media, label_map=labels, split=split, by_folder=labels_from_folders, hold_out=share
    )

    # Ray prints of lost actors on standard output, where --json has one object
    with redirect_stdout(sys.stderr), Bar("ingesting", "files") as bar:
        report = run_ingest(
            listing,
            library,
            features,
            workers=workers,
            ray=ray,
            prune=prune,
            on_prune=_print_pruned,
            on_progress=bar.update,
        )
    if as_json:
        print_json(asdict(report))
    else:
        _print_ingested(report)
        if share:
            typer.echo(f"{counted(report.held_out, 'file')} held out in split test{_few(report.held_out, share)}")
        _print_next(library, features, recipe, like)
    if report.rejects:
        raise typer.Exit(EXIT_PARTIAL)


def _features(library: Place, recipe: str | None, like: str | None, overrides: list[str]) -> Features:
    """Of the clips to make.

    Raises:
        ConfigError: a recipe and a model, or settings that make clips of another kind than the model's.
    """
    from equiav.config import load_recipe
    from equiav.library.table import Library
    from equiav.library.versions import is_table

    if like is None:
        known = is_table(library / "clips.lance") and not recipe and not overrides
        return Library(library).features if known else load_recipe(recipe or "base", overrides).features
    if recipe:
        raise ConfigError("--like takes the model's features, and --recipe a recipe's: give one of them")
    from equiav.model.folder import read_features

    features = read_features(like)
    if not overrides:
        return features
    changed = load_recipe("base", [f"features.{name}={value}" for name, value in features] + overrides).features
    if differ := changed.differences(features):
        raise ConfigError(f"{' '.join(overrides)}: {like} could not embed such clips: {differ}")
    return changed


def _share(text: str | None) -> float | None:
    """`10%` or `0.1` → 0.1."""
    if text is None:
        return None
    number = text.strip()
    try:
        return float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"--hold-out is a share of the files, e.g. 10% or 0.1; found {text!r}") from None


def _few(files: int, share: float) -> str:
    return "" if files else f": none of them by its hash, at {share:.0%}; a larger share holds out more"


def _print_next(library: Place, features: Features, recipe: str | None, like: str | None) -> None:
    """What these clips are for."""
    from equiav.config import recipes_for

    fitting = recipes_for(features)
    if like:
        typer.echo(f"next: equiav embed --library {library} --run {like}")
    elif recipe or fitting:
        first, *others = dict.fromkeys([recipe or fitting[0], *fitting])
        more = f" (or {', '.join(others)})" if others else ""
        typer.echo(f"next: equiav pretrain {first} --library {library} --run R{more}")
        if "gpu" in fitting and recipe is None:
            typer.echo("      without a GPU that takes days: equiav ingest VIDEOS --library NEW --recipe laptop")


def _print_pruned(clips: int, files: int) -> None:
    err.print(f"removing {counted(clips, 'clip')} of {counted(files, 'missing file')}", highlight=False)


def _print_ingested(report: IngestReport) -> None:
    statuses = ", ".join(f"{count} {status}" for status, count in report.statuses.items())
    parts = [
        f"{counted(report.files, 'file')}: {counted(report.clips_added, 'clip')} added{statuses and f' ({statuses})'}",
        f"{report.clips_present} already there",
    ]
    if report.duplicates:
        parts.append(f"{counted(report.duplicates, 'copy of a clip', 'copies of clips')} under another name")
    if report.clips_relabelled:
        parts.append(f"{report.clips_relabelled} with other labels or split than before")
    if report.ignored:
        parts.append(f"{counted(report.ignored, 'other file')} ignored")
    typer.echo(", ".join(parts))
    if report.system_folders:
        folders = ", ".join(f"{name} {count}" for name, count in report.system_folders.items())
        typer.echo(f"left out, with all that is in them, as the system's own folders: {folders}")
    if report.tails.count or report.tails.unknown:
        typer.echo(report.tails)
    title = f"{counted(len(report.rejects), 'file')} could not be read, or only partly"
    _print_failures(title, [(one.path, one.reason, one.detail) for one in report.rejects])
    if len(report.rejects) > SHOWN_FAILURES:
        typer.echo(f"… and {len(report.rejects) - SHOWN_FAILURES} more, all in the library's rejects table")
    _print_coverage(report.coverage)


def _print_failures(title: str, rows: Sequence[Iterable[object]]) -> None:
    """The first of them, by source, reason and detail; nothing of a path is cut."""
    if not rows:
        return
    table = Table(*(Column(name, overflow="fold") for name in ("source", "reason", "detail")))
    table.title, table.title_justify = title, "left"
    for row in rows[:SHOWN_FAILURES]:
        table.add_row(*(escape(str(part)) for part in row))
    out.print(table)


def _print_coverage(coverage: Sequence[Coverage]) -> None:
    if not coverage:
        return
    table = Table("split", "listed", "found", "missing", "unreadable", title="coverage", title_justify="left")
    for one in coverage:
        table.add_row(escape(one.split), *(f"{n}" for n in (one.listed, one.found, one.missing, one.unreadable)))
    out.print(table)


@data_app.command()
def stats(
    library_path: LibraryPath,
    page: Annotated[Path | None, typer.Option("--out", help="HTML page to write, with sample clips.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count what a library holds: clips by status, hours, labels, copies, normalisation, coverage of its lists.

    Example: equiav stats --library L --out library.html
    """
    from equiav.library.stats import library_stats
    from equiav.library.table import Library
    from equiav.pages.library import stats_page

    library = Library(library_path)
    found = library_stats(library)
    if page:
        write_page(page, stats_page(library, found))
        err.print(str(page), highlight=False, markup=False)
    show(found, as_json)


@data_app.command("export-clips")
def export_clips(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New file (csv, jsonl) or folder (webdataset, cav).")],
    library: LibraryPath,
    form: Annotated[
        Literal["csv", "jsonl", "webdataset", "cav"],
        typer.Option("--as", help="A list of windows of the source files; or sound and frames, in tars or as CAV-MAE."),
    ] = "csv",
    split: Annotated[str | None, typer.Option(help="Split to export; default: all.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode sound.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Export the clips of a library for other programs, or to ingest again. For a model: `equiav export`.

    Examples: equiav export-clips clips.csv --library L
              equiav export-clips shards --library L --as webdataset --split train
    """
    from equiav.library.export import export_clips as run_export
    from equiav.library.table import Library

    with Bar("exporting", "clips") as bar:
        report = run_export(Library(library), target, form, split=split, workers=workers, on_progress=bar.update)
    if as_json:
        print_json(asdict(report))
    else:
        typer.echo(f"{counted(report.clips, 'clip')} in {target}")
        left_out = [(one.source, one.reason, one.detail) for one in report.left_out]
        _print_failures(f"{counted(len(left_out), 'clip')} left out", left_out)
    if report.left_out:
        raise typer.Exit(EXIT_PARTIAL)


@data_app.command()
def toyworld(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the videos into.")],
    clips: Annotated[int, typer.Option("--clips", "-n", min=2, help="Number of videos.")] = 1600,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of the world.")] = 0,
    test: Annotated[int | None, typer.Option(help="Videos of the test split; default: an eighth.")] = None,
    as_json: AsJson = False,
) -> None:
    """Render videos of a made-up audio-visual world as ordinary .mp4 files, with labels.csv.

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


@data_app.command("augment-gallery")
def augment_gallery(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="Id of a clip of the library.")],
    page: Annotated[Path, typer.Argument(metavar="OUT.html", help="Page to write.")],
    library_path: LibraryPath,
    recipe: Annotated[str, typer.Option(help="Recipe whose transformations to show.")] = "base",
    as_json: AsJson = False,
) -> None:
    """Show every transformation of a recipe on one clip: each parameter low, neutral and high, on an HTML page.

    Example: equiav augment-gallery 0123456789abcdef01234567 gallery.html -L L
    """
    from equiav.augment.audio import audio_space
    from equiav.augment.visual import visual_space
    from equiav.config import load_recipe
    from equiav.library.table import Library
    from equiav.media.decode import load_image
    from equiav.pages.transformations import augment_gallery as draw

    library, settings = Library(library_path), load_recipe(recipe)
    row, (mean, std) = library.clip(clip), library.log_mel_stats()
    frame = load_image(row["frames"][len(row["frames"]) // 2]).transpose(2, 0, 1).copy()
    spaces = (
        audio_space(settings.augment, library.features.time_frames, library.features.mel_bins),
        visual_space(settings.augment, settings.model.image_side),
    )
    write_page(page, draw((row["fbank"] - mean) / std, frame, *spaces))
    print_json({"page": page}) if as_json else typer.echo(str(page))
