"""The verbs that learn from labels and measure what was learned; `equiav.cli` takes them in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equiav.cli_library import AsJson, LibraryPath
from equiav.errors import ConfigError
from equiav.terminal import IS_MAIN, Bar, err, out, print_json, stop_on_signal

if TYPE_CHECKING:
    from equiav.evaluate.classify import Classified

Frames = Annotated[
    int | None, typer.Option(min=1, help="Stored frames whose probabilities are averaged; default all, 1: the middle.")
]

finetune_app = typer.Typer()


@finetune_app.command()
def finetune(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (finetune-toy, …) or a YAML file.")],
    library: LibraryPath,
    run: Annotated[Path, typer.Option("--run", "-R", help="Run folder to make.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="R0", help="Pretrained run, model folder or Hub id; without it from scratch."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change: key=value, e.g. task.senses=audio.")
    ] = None,
    test: Annotated[str, typer.Option(help="Split to measure on in the end; nothing is chosen on it.")] = "test",
    frames: Frames = None,
    as_json: AsJson = False,
) -> None:
    """Train a classifier with a library's labels, on a pretrained model. Run it again to go on where it was.

    Examples: equiav finetune finetune-toy --library L --run runs/classes --from runs/toy
              equiav finetune finetune-vggsound --library L --run runs/vgg --from runs/base task.senses=audio
              torchrun --nproc-per-node 8 -m equiav finetune finetune-audioset20k -L L -R runs/as --from runs/base
    """
    from equiav.library.table import Library
    from equiav.train.finetune import finetune as run_finetune
    from equiav.train.finetune_recipe import load_finetune_recipe
    from equiav.train.processes import leave

    _check_overrides(overrides or [], source)
    settings, shelf = load_finetune_recipe(recipe, overrides or [], source=source), Library(library)
    if test in (settings.data.split, settings.data.validation):
        raise ConfigError(f"split {test!r} is trained or chosen on: name another with --test")
    with stop_on_signal() as should_stop, Bar("training", "steps") as bar:
        done = run_finetune(
            settings,
            shelf,
            run,
            on_step=lambda step: bar.update(step.step, step.steps, step.describe()),
            should_stop=should_stop,
        )
    measures = done.done and shelf.count(test) > 0
    found = _measure(library, run, test, frames, run / "result.json") if measures else None
    leave()
    if not IS_MAIN:
        return
    if as_json:
        figures = found.to_dict() if found else None
        print_json({**vars(done), "result": run / "result.json" if found else None, "test": figures})
    elif not done.done:
        typer.echo(f"stopped and saved at step {done.step} of {done.steps}; continue with the same command")
    else:
        typer.echo(f"trained {done.steps} steps on {done.clips} clips of {done.classes} classes: {run / 'model'}")
        if found:
            out.print(found.to_table())
            typer.echo(f"{run / 'result.json'}: equiav evaluate compare takes it")
        else:
            err.print(f"split {test!r} has no clips: nothing was measured")


def evaluate_classify(
    library: LibraryPath,
    run: Annotated[Path, typer.Option("--run", "-R", help="Run folder, made by `equiav finetune`.")],
    split: Annotated[str, typer.Option(help="Split to measure on.")] = "test",
    frames: Frames = None,
    result: Annotated[Path | None, typer.Option("--out", help="File for the result, to compare later.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how well a fine-tuned classifier knows the labels of a library's clips.

    Example: equiav evaluate classify --library L --run runs/classes --out classes.json
    """
    from equiav.train.processes import leave

    found = _measure(library, run, split, frames, result)
    leave()
    if IS_MAIN:
        print_json(found.to_dict()) if as_json else out.print(found.to_table())


def _measure(library: Path, run: Path, split: str, frames: int | None, result: Path | None) -> Classified:
    from equiav.evaluate.classify import classify, classify_result
    from equiav.library.table import Library
    from equiav.model.classifier import Classifier

    shelf, classifier = Library(library), Classifier.from_pretrained(run / "model" if (run / "model").is_dir() else run)
    with Bar("measuring", "clips") as bar:
        found = classify(shelf, classifier, split=split, frames=frames, on_progress=bar.update)
    if result is not None and IS_MAIN:
        classify_result(found, shelf, classifier).save(result)
    return found


def _check_overrides(overrides: list[str], source: str | None) -> None:
    for text in overrides:
        key = text.partition("=")[0]
        if key.startswith("features."):
            raise ConfigError("features are fixed when a library is made: give them to `equiav ingest`")
        if source and key.startswith(("model", "init")) and key not in ("model.checkpointing", "model.compile"):
            raise ConfigError(f"{key}: with --from the pretrained model decides its sizes and weights: leave it out")
