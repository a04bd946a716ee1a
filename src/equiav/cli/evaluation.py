"""The verbs that measure a model: evaluate …, diagnose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from equiav.cli.options import (
    AsJson,
    Device,
    LibraryPath,
    Precision,
    RunPath,
    Split,
    folder_here,
    load_model,
    open_to_measure,
    write_page,
)
from equiav.cli.terminal import IS_MAIN, Bar, err, out, print_json, show
from equiav.errors import ConfigError

if TYPE_CHECKING:
    from equiav.evaluate.classify import Classified
    from equiav.library.places import Place

Frames = Annotated[
    int | None, typer.Option(min=1, help="Stored frames whose probabilities are averaged; default all, 1: the middle.")
]
Feature = Annotated[
    Literal["pooled", "embedding"],
    typer.Option("--features", help="The mean patch token, or the embedding that search compares."),
]
ResultFile = Annotated[
    Path | None, typer.Option("--out", dir_okay=False, help="File for the result, to compare later.")
]
Page = Annotated[
    Path | None,
    typer.Option("--out", help="HTML page, with its figures beside it as .json; default in the run folder."),
]
Modalities = Annotated[Literal["audio", "visual", "both"], typer.Option(help="Modalities to classify by.")]
TrainSplit = Annotated[str, typer.Option("--train", help="Split to learn from.")]
Folds = Annotated[bool, typer.Option("--folds", help="The library's splits are folds: measure on each.")]
Stratified = Annotated[
    int | None, typer.Option(min=2, help="Cut the split of --train into so many folds with even labels.", metavar="K")
]

evaluate_app, report_app = typer.Typer(), typer.Typer()


@evaluate_app.callback(invoke_without_command=True)
def evaluate_compare(
    context: typer.Context,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two results that `--out` stored: what differs, and is it beyond chance?", metavar="A B"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on a library, or with --compare put two stored results side by side.

    Examples: equiav evaluate retrieval -L L -R runs/toy --out before.json
              equiav evaluate --compare before.json after.json
    """
    if compare is None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())
            raise typer.Exit(2)
        return
    if context.invoked_subcommand is not None:
        raise ConfigError(
            f"--compare takes two stored results and nothing else: leave out {context.invoked_subcommand}"
        )
    from equiav.evaluate.results import Result, compare_results

    found = compare_results(*(Result.load(path) for path in compare))
    show(found, as_json)


@evaluate_app.command("retrieval")
def evaluate_retrieval(
    library_path: LibraryPath,
    run: RunPath,
    split: Split = "test",
    scoring: Annotated[
        Literal["middle", "diagonal"],
        typer.Option(help="One frame and the whole sound; or each frame with the sound around it (CAV-MAE Sync)."),
    ] = "middle",
    subset: Annotated[Path | None, typer.Option(help="Ids of the clips to rank: a CSV or CAV-MAE's JSON.")] = None,
    training: Annotated[
        Path | None,
        typer.Option("--trained-on", help="Another library that the model was trained on; the run knows its own."),
    ] = None,
    result: ResultFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the picture by its sound and the sound by its picture, over all clips of a split.

    Examples: equiav evaluate retrieval -L L -R R --split test --out toy.json
              equiav evaluate retrieval -L L2 -R R --subset ids.csv --trained-on L
    """
    from equiav.evaluate.retrieval import evaluate_retrieval as measure
    from equiav.evaluate.retrieval import retrieval_result
    from equiav.library.table import Library

    library, model, learned = open_to_measure(library_path, run, device, precision)
    with Bar("embedding", "clips") as bar:
        report = measure(
            library,
            model,
            split=split,
            scoring=scoring,
            subset=subset,
            training=Library(training) if training else None,
            learned=learned,
            on_progress=bar.update,
        )
    if result is not None:
        retrieval_result(report, library, model, run=run).save(result)
    show(report, as_json)


@evaluate_app.command("probe")
def evaluate_probe(
    library_path: LibraryPath,
    run: RunPath,
    kind: Annotated[Literal["linear", "sgd", "attentive"], typer.Option(help="The classifier.")] = "linear",
    feature: Feature = "pooled",
    modalities: Modalities = "both",
    train: TrainSplit = "train",
    split: Split = "test",
    folds: Folds = False,
    stratified: Stratified = None,
    seed: Annotated[int, typer.Option(min=0, help="Of attentive and SGD probes, stratified folds, intervals.")] = 0,
    result: ResultFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Classify frozen features with a simple probe, and measure how often it is right.

    Examples: equiav evaluate probe --library L --run runs/toy
              equiav evaluate probe -L L -R R --kind attentive --modalities audio --folds
              equiav evaluate probe --library L --run runs/toy --stratified 5
    """
    features = {"kind": kind, "feature": feature, "modalities": modalities}
    clips = {"train": train, "test": split, "folds": folds, "stratified": stratified}
    _probe(library_path, run, result, (device, precision), as_json, **features, **clips, seed=seed)


@evaluate_app.command("knn")
def evaluate_knn(
    library_path: LibraryPath,
    run: RunPath,
    neighbours: Annotated[int, typer.Option("-k", min=1, help="Training clips that vote.")] = 20,
    feature: Feature = "pooled",
    modalities: Modalities = "both",
    train: TrainSplit = "train",
    split: Split = "test",
    folds: Folds = False,
    stratified: Stratified = None,
    seed: Annotated[int, typer.Option(min=0, help="Of stratified folds and intervals.")] = 0,
    result: ResultFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Classify by the nearest training clips: nothing is learned.

    Examples: equiav evaluate knn --library L --run runs/toy -k 20
              equiav evaluate knn -L L -R R --modalities audio --features embedding
    """
    features = {"kind": "knn", "neighbours": neighbours, "feature": feature, "modalities": modalities}
    clips = {"train": train, "test": split, "folds": folds, "stratified": stratified}
    _probe(library_path, run, result, (device, precision), as_json, **features, **clips, seed=seed)


def _probe(
    library_path: Place, run: Path, result: Path | None, where: tuple[str, str], as_json: bool, **settings: Any
) -> None:
    from equiav.evaluate.probe import probe, probe_result

    library, model, learned = open_to_measure(library_path, run, *where)
    with Bar("embedding", "clips") as bar:
        found = probe(library, model, **settings, learned=learned, on_progress=bar.update)
    if result is not None:
        probe_result(found, library, model, seed=settings["seed"], run=run).save(result)
    show(found, as_json)


@evaluate_app.command("classify")
def evaluate_classify(
    library_path: LibraryPath,
    run: Annotated[
        Path,
        typer.Option("--run", "-R", parser=folder_here, metavar="PATH", help="Run folder: `equiav finetune` makes it."),
    ],
    split: Split = "test",
    frames: Frames = None,
    result: ResultFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a fine-tuned classifier on the labels of a library's clips.

    Example: equiav evaluate classify -L L -R runs/classes --out classes.json
    """
    from equiav.train.processes import leave

    found = measure_classes(library_path, run, split, frames, result, device, precision)
    leave()
    if IS_MAIN:
        show(found, as_json)


@evaluate_app.command("mteb")
def evaluate_mteb(
    run: RunPath,
    tasks: Annotated[str, typer.Option(help="Names of mteb tasks, with commas between them.")],
    folder: Annotated[Path | None, typer.Option("--out", help="Folder of mteb's results; default RUN/mteb.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Items in one batch.")] = 32,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Run tasks of the MTEB and MVEB benchmarks that ask with sound, pictures and video. Needs the extra `mteb`.

    A task's data comes from the Hugging Face Hub, once; results that are there are not computed again.

    Example: equiav evaluate mteb -R runs/base --tasks VGGSoundAVA2VRetrieval
    """
    from equiav.evaluate.mteb import evaluate_mteb as measure
    from equiav.evaluate.mteb import to_table

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    with Bar("embedding", "items") as bar:
        scores = measure(
            load_model(run, device, precision),
            names,
            folder or run / "mteb",
            name=f"equiav/{run.resolve().name}",
            batch_size=batch,
            on_progress=bar.update,
        )
    print_json({"scores": [score.to_dict() for score in scores]}) if as_json else out.print(to_table(scores))


@evaluate_app.command("localise")
def evaluate_localise(
    library_path: LibraryPath,
    run: RunPath,
    split: Split = "test",
    boxes: Annotated[
        Path | None, typer.Option(help="CSV of boxes: path, time_s, x0, y0, x1, y1; without it no figures.")
    ] = None,
    page: Page = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of other clips' sounds.")] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Map where in each picture the sound is, on a page; with boxes, measure how well.

    Example: equiav evaluate localise -L L -R R --boxes boxes.csv --out maps.html
    """
    from equiav.evaluate.boxes import Boxes
    from equiav.evaluate.localise import localisation_result, localise
    from equiav.pages.localisation import localise_page

    page = page or run / "report" / "localise.html"
    if page.suffix == ".json":
        raise ConfigError(
            f"--out {page}: expected the name of a page, such as {page.with_suffix('.html')}; the result "
            "is written beside it as .json"
        )
    library, model, learned = open_to_measure(library_path, run, device, precision)
    known = Boxes(boxes) if boxes else None
    with Bar("mapping", "clips") as bar:
        found = localise(library, model, known, split=split, learned=learned, seed=seed, on_progress=bar.update)
    if found.ids:
        localisation_result(found, library, model, seed=seed, run=run).save(page.with_suffix(".json"))
    write_page(page, localise_page(found), make_folder=True)
    if as_json:
        print_json({**found.to_dict(), "page": page})
        return
    if found.ids:
        out.print(found.to_table())
    typer.echo(str(page))


def measure_classes(
    library_path: Place,
    run: Path,
    split: str,
    frames: int | None,
    result: Path | None,
    device: str = "auto",
    precision: str = "auto",
) -> Classified:
    """Measure a fine-tuned run; the first process stores the result."""
    from equiav.evaluate.classify import classify, classify_result
    from equiav.library.table import Library
    from equiav.model.classifier import Classifier
    from equiav.train.trained_on import load_trained_on

    library, classifier, learned = Library(library_path), Classifier.from_pretrained(run), load_trained_on(run)
    with Bar("measuring", "clips") as bar:
        found = classify(
            library,
            classifier,
            split=split,
            frames=frames,
            device=device,
            precision=precision,
            learned=learned,
            on_progress=bar.update,
        )
    if result is not None and IS_MAIN:
        classify_result(found, library, classifier, run=run).save(result)
    return found


@report_app.command()
def diagnose(
    library_path: LibraryPath,
    run: RunPath,
    page: Page = None,
    split: Split = "test",
    clips: Annotated[int, typer.Option(min=8, help="At most so many clips of the split.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of clips and of transformations.")] = 0,
    gate: Annotated[
        str | None, typer.Option(help="Conditions on figures of the JSON; exit code 1 if one does not hold.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    as_json: AsJson = False,
) -> None:
    """Measure what the predictor knows of each transformation, how good the centroid is, and what both cost.

    In fp32 unless told otherwise: its figures are differences of near vectors, and half precision rounds those.

    Examples: equiav diagnose --library L --run runs/toy --out report.html
              equiav diagnose -L L -R R --gate "flip.mrr>0.2,centroid.k16<0.1"
    """
    from equiav.diagnose.diagnosis import diagnose as measure
    from equiav.diagnose.figures import parse_gate
    from equiav.pages.diagnosis import verdicts, write_report

    conditions = parse_gate(gate) if gate is not None else []
    page = page or run / "report" / "equivariance.html"
    library, model, learned = open_to_measure(library_path, run, device, precision)
    with Bar("measuring", "parts") as bar:
        found = measure(library, model, split=split, clips=clips, seed=seed, learned=learned, on_progress=bar.update)
    write_report(found, page)
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
