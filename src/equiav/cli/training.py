"""The verbs that make and convert models: pretrain, finetune, compare, convert, export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from equiav.cli.evaluation import Frames, measure_classes
from equiav.cli.options import AsJson, LibraryPath, Overrides, RunPath, folder_here, load_model
from equiav.cli.terminal import IS_MAIN, STOPPED, Bar, err, out, print_json, show, stop_code, stop_on_signal
from equiav.errors import ConfigError
from equiav.words import counted

if TYPE_CHECKING:
    from equiav.train.loop import Step
    from equiav.train.run_folder import Outcome

train_app = typer.Typer()


@train_app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (laptop, gpu, base, …) or a YAML file.")],
    library_path: LibraryPath,
    run: RunPath,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing; show parameters, memory, time, negatives, shapes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on a library, without labels. The same command goes on where a stopped run was.

    Examples: equiav pretrain laptop --library L --run runs/own
              equiav pretrain base --library L --run runs/base --dry-run
              torchrun --nproc-per-node 8 -m equiav pretrain base -L L -R R
    """
    from equiav.config import load_recipe
    from equiav.library.table import Library
    from equiav.train.pretrain import pretrain as run_pretrain
    from equiav.train.processes import leave

    _check_overrides(overrides or [])
    settings, library = load_recipe(recipe, overrides or []), Library(library_path)
    if dry_run:
        from equiav.train.dry_run import dry_run as estimate

        with Bar("dry run", "steps") as bar:
            found = estimate(settings, library, run, on_step=bar.update)
        leave()
        if IS_MAIN:
            show(found, as_json)
        if found.advice:
            err.print(f"[bold yellow]warning:[/] {escape(found.advice)}", highlight=False, soft_wrap=True)
        return
    with stop_on_signal() as should_stop, Bar("training", "steps") as bar:
        done = run_pretrain(settings, library, run, on_plan=_tell, on_step=_shown_on(bar), should_stop=should_stop)
    leave()
    if as_json and IS_MAIN:
        print_json({name: value for name, value in vars(done).items() if name != "classes"})
    elif IS_MAIN:
        _print_outcome(done)
        if done.done:
            typer.echo(f"next: equiav embed --library {library_path} --run {run}")
    if done.stopped:
        raise typer.Exit(stop_code())


def _tell(what: object) -> None:
    err.print(escape(str(what)), highlight=False, soft_wrap=True)


def _shown_on(bar: Bar) -> Callable[[Step], None]:
    from equiav.train.schedule import Pace

    pace = Pace(_tell)

    def show_step(step: Step) -> None:
        bar.update(step.step, step.steps, step.describe())
        pace(step)

    return show_step


def _print_outcome(done: Outcome) -> None:
    if not done.done:
        typer.echo(f"stopped and saved at step {done.step} of {done.steps}; continue with the same command")
        return
    classes = f" of {counted(done.classes, 'class', 'classes')}" if done.classes else ""
    steps, clips = counted(done.steps, "step"), counted(done.clips, "clip")
    typer.echo(f"trained {steps} on {clips}{classes}: {done.run / 'model'}")


@train_app.command()
def compare(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (laptop, gpu, base, …) or a YAML file.")],
    library: LibraryPath,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the runs, the table and the picture.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=a,b,c makes variants; key=value holds for all.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Variants with several settings each: a shipped table (paper) or a YAML file.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    split: Annotated[str, typer.Option(help="Split to measure retrieval on.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Train variants of a recipe with the same budget and compare them. For stored results: `evaluate --compare`.

    Examples: equiav compare toy -L L --out C model.method=equiav,invariant,plain
              equiav compare toy -L L --out ablations --table paper train.epochs=6
              equiav compare toy -L L --out K --seeds 2 model.centroid_samples=1,4
    """
    from equiav.compare import compare as run_compare
    from equiav.compare import load_table, to_tables, variants
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
        if as_json:
            print_json({"out": folder, "stopped": True})
        err.print(STOPPED)
    elif as_json:
        typer.echo((folder / "compare.json").read_text(encoding="utf-8"))
    else:
        out.print(*to_tables(results), sep="\n")
        typer.echo(f"{folder / 'compare.json'}, {folder / 'compare.png'}")
    if should_stop():
        raise typer.Exit(stop_code())


@train_app.command()
def finetune(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (finetune-toy, …) or a YAML file.")],
    library_path: LibraryPath,
    run: Annotated[Path, typer.Option("--run", "-R", parser=folder_here, metavar="PATH", help="Run folder to make.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="R0", help="Pretrained run, model or hf://owner/name; default: from scratch."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change: key=value, e.g. task.modalities=audio.")
    ] = None,
    test: Annotated[str, typer.Option(help="Split to measure on at the end; nothing is chosen on it.")] = "test",
    frames: Frames = None,
    as_json: AsJson = False,
) -> None:
    """Train a classifier with a library's labels. The same command goes on where a stopped run was.

    Examples: equiav finetune finetune-toy -L L -R runs/classes --from runs/toy
              equiav finetune finetune-vggsound -L L -R V --from R
              torchrun --nproc-per-node 2 -m equiav finetune finetune-toy -L L -R C
    """
    from equiav.config.finetuning import load_finetune_recipe
    from equiav.library.records import USABLE
    from equiav.library.table import Library
    from equiav.train.finetune import finetune as run_finetune
    from equiav.train.processes import leave

    _check_overrides(overrides or [], source)
    settings, library = load_finetune_recipe(recipe, overrides or [], source=source), Library(library_path)
    if test in (settings.data.split, settings.data.validation):
        raise ConfigError(f"split {test!r} is trained or chosen on: name another with --test")
    with stop_on_signal() as should_stop, Bar("training", "steps") as bar:
        done = run_finetune(settings, library, run, test=test, on_step=_shown_on(bar), should_stop=should_stop)
    measures = done.done and not done.stopped and library.count(test, USABLE[settings.task.modalities]) > 0
    found = measure_classes(library_path, run, test, frames, run / "result.json") if measures else None
    leave()
    if as_json and IS_MAIN:
        figures = found.to_dict() if found else None
        print_json({**vars(done), "result": run / "result.json" if found else None, "test": figures})
    elif IS_MAIN:
        _print_outcome(done)
        if found:
            out.print(found.to_table())
            typer.echo(f"{run / 'result.json'}: for equiav evaluate --compare")
        elif done.done and not done.stopped:
            err.print(f"split {test!r} has no clips: nothing was measured")
    if done.stopped:
        raise typer.Exit(stop_code())


def _check_overrides(overrides: list[str], source: str | None = None) -> None:
    for text in overrides:
        key = text.partition("=")[0]
        if key.startswith("features."):
            raise ConfigError("features are fixed when a library is made: give them to `equiav ingest`")
        if source and key.startswith(("model", "init")) and key not in ("model.checkpointing", "model.compile"):
            raise ConfigError(f"{key}: with --from the pretrained model decides its sizes and weights: leave it out")


@train_app.command()
def convert(
    official: Annotated[Path, typer.Argument(help="The authors' checkpoint, a .pth file.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Model folder to write.")],
    heads: Annotated[int, typer.Option(min=1, help="Attention heads per block, which the file does not hold.")] = 12,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in OUT.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert the EquiAV authors' checkpoint into a model folder. Only tensors are read from the file.

    Example: equiav convert equiav_pretrained.pth models/equiav
    """
    from equiav.model.convert import convert as run_convert

    model = run_convert(official, folder, heads=heads, overwrite=overwrite)
    parameters, features = sum(p.numel() for p in model.parameters()), model.config.features
    commands = [
        f"equiav ingest VIDEOS --library L --like {folder}",
        f"equiav embed --library L --run {folder}",
        f"equiav search --library L --run {folder} --audio dog.wav",
    ]
    if as_json:
        print_json({"folder": folder, "parameters": parameters, "features": dict(features), "next": commands})
        return
    typer.echo(f"{parameters / 1e6:.1f} M parameters in {folder}")
    typer.echo(
        f"it needs libraries of features.sample_rate={features.sample_rate} clip_s={features.clip_s:g} "
        f"mel_bins={features.mel_bins} time_frames={features.time_frames}\nnext: " + "\n      ".join(commands)
    )


@train_app.command()
def export(
    run: RunPath,
    onnx: Annotated[Path, typer.Option(help="Folder for audio.onnx and visual.onnx.")],
    as_json: AsJson = False,
) -> None:
    """Export a model: two ONNX files, features in, unit embeddings out. For clips: `equiav export-clips`.

    Example: equiav export --run runs/toy --onnx exported
    """
    from equiav.model.export import export_onnx

    files = export_onnx(load_model(run, "cpu"), onnx)
    if as_json:
        print_json({"files": [vars(file) for file in files]})
        return
    for file in files:
        typer.echo(f"{file.path}: within {file.max_abs_difference:.1e} of PyTorch")
