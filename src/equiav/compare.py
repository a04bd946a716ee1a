"""Recipes against each other:  (recipe, key=a,b,c, seeds) → one run per variant and seed → one table, one picture.

    OUT/VARIANT/seed-0/{recipe.yaml, metrics.jsonl, model/, …, result.json}   OUT/compare.json   OUT/compare.png

All variants get the same clips, steps and seeds. Every run goes on where it was; a finished one is not touched again.
A result holds what it was made of: it counts for these weights, this recipe, library, split and code alone; otherwise
the run is measured anew, and the result that was there is kept beside, as result-HASH.json.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from equiav.config.variants import Variant, load_table, variants
from equiav.errors import LibraryError, TrainingError
from equiav.files import write_text
from equiav.library.records import STATUSES

if TYPE_CHECKING:
    from equiav.evaluate.retrieval import RetrievalReport
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.train.loop import Step

__all__ = ["Variant", "VariantResult", "compare", "draw_curves", "load_table", "to_tables", "variants"]

DIAGNOSED, VIEWS = 100, 8  # clips, and views of each, for the displacement
# The tables that people see: figure → heading, scale, digits
TABLES_SHOWN = {
    "retrieval and probe": {
        "recall_at_1": ("R@1 %", 100, 1),
        "recall_at_10": ("R@10 %", 100, 1),
        "class_precision_at_1": ("class P@1 %", 100, 1),
        "probe": ("probe %", 100, 1),
    },
    f"what is predicted for sound: displacement, its view found among {VIEWS}, similarity": {
        "audio_cosine": ("cosine", 1, 2),
        "audio_h1": ("H@1", 1, 2),
        "audio_similarity": ("similarity", 1, 2),
    },
    "for picture": {
        "visual_cosine": ("cosine", 1, 2),
        "visual_h1": ("H@1", 1, 2),
        "visual_similarity": ("similarity", 1, 2),
    },
    "cost": {
        "parameters": ("M parameters", 1e-6, 2),
        "gflops_per_clip": ("GFLOP/clip", 1, 2),
        "saved_mb": ("MB kept", 1, 0),
        "clips_per_s": ("clips/s", 1, 0),
    },
}
FIGURES = {figure: shown for table in TABLES_SHOWN.values() for figure, shown in table.items()}
PAIRED = ("recall_at_1", "recall_at_10")  # figures whose difference to the first variant is taken seed by seed
CURVES = ("loss_inter", "accuracy_inter", "accuracy_intra_audio", "accuracy_intra_visual")


@dataclass(frozen=True)
class VariantResult:
    """What a variant reached."""

    name: str
    seed: int
    figures: dict[str, float | None]


def compare(
    library: Library,
    chosen: list[Variant],
    out: Path,
    *,
    split: str = "test",
    on_step: Callable[[str, Step], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[VariantResult] | None:
    """Train and evaluate all variants; writes compare.json and compare.png. None when stopped before the end.

    Raises:
        TrainingError: as `pretrain`; before anything is trained: a run that is there is of another recipe or library,
            or not all variants would have the same clips.
        LibraryError: the split to evaluate on has no clips.
    """
    _check_runs(library, chosen, out)
    _set_aside(out, chosen, split)
    contents, results = _contents(library), []
    for number, variant in enumerate(chosen, 1):
        run = f"{number}/{len(chosen)} {variant.name} seed {variant.seed}"
        tell = (lambda step, run=run: on_step(run, step)) if on_step else None
        result = _result(library, variant, split, contents, tell, should_stop)
        if result is None:
            return None
        results.append(result)
        write_text(out / "compare.json", json.dumps(_summary(results, split), indent=2), TrainingError)
    draw_curves(chosen, out / "compare.png")
    return results


def _check_runs(library: Library, chosen: list[Variant], out: Path) -> None:
    """What is there must be what would be trained now."""
    from equiav.train.pretrain import resolve
    from equiav.train.run_folder import begun_run, check_recipe, check_start
    from equiav.train.trained_on import about_to_train

    clips: dict[str, dict[str, tuple[str, int]]] = {}  # split → fingerprint of its clips → who has them, how many
    now = {split: about_to_train(library, {"train": split}) for split in {one.recipe.data.split for one in chosen}}
    for variant in chosen:
        split = variant.recipe.data.split
        try:
            begun = begun_run(variant.run)
            if begun:
                check_recipe(begun, resolve(variant.recipe, library, run=variant.run))
                check_start(begun, variant.recipe)
        except TrainingError as error:
            raise TrainingError(f"{error} (in a comparison: another --out folder than {out})") from None
        own = begun.trained_on if begun else now[split]
        who = f"{variant.run}" if begun else "a new run"
        clips.setdefault(split, {}).setdefault(own.fingerprint, (who, len(own.of("train"))))
    for split, found in clips.items():
        if len(found) > 1:
            runs = ", ".join(f"{who} of {n}" for who, n in found.values())
            raise TrainingError(
                f"{out}: not all variants would have the same clips of split {split!r}: {runs}. The library has "
                "changed since this comparison began: bring it back as it was, or compare into another --out folder"
            )


def _result(
    library: Library,
    variant: Variant,
    split: str,
    contents: str,
    on_step: Callable[[Step], None] | None,
    should_stop: Callable[[], bool],
) -> VariantResult | None:
    from equiav.evaluate.retrieval import evaluate_retrieval
    from equiav.model.equiav import EquiAV
    from equiav.train.pretrain import pretrain
    from equiav.train.run_folder import MODEL, RECIPE, hash_of_file, is_finished

    if not is_finished(variant.run):
        trained = pretrain(variant.recipe, library, variant.run, on_step=on_step, should_stop=should_stop)
        if trained.stopped or not trained.done:
            return None
    made_of = {
        "weights": hash_of_file(variant.run / MODEL),
        "recipe": hash_of_file(variant.run / RECIPE),
        "library": contents,
        "split": split,
        "code": _code(),
    }
    figures = _stored(variant.run, made_of)
    if figures is None:
        model = EquiAV.from_pretrained(variant.run / "model", device="auto")
        report = evaluate_retrieval(library, model, split=split)
        figures = _figures(library, model, report, variant.recipe.data.split, split)
        figures["clips_per_s"] = _rate(variant.run)
        file = variant.run / "result.json"
        if file.exists():  # it was made of something else
            _keep(file)
        result = {"made_of": made_of, "figures": figures, **report.to_dict()}
        write_text(file, json.dumps(result, indent=2), TrainingError)
    return VariantResult(variant.name, variant.seed, figures)


def _stored(run: Path, made_of: dict[str, str]) -> dict[str, float | None] | None:
    """The figures of what is stored, now or before, if it was made of just this."""
    for file in (run / "result.json", *sorted(run.glob("result-*.json"))):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["made_of"] == made_of:
                return found["figures"]
    return None


def _keep(file: Path) -> None:
    """Give a file a name that says its content."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file.replace(file.with_name(f"{file.stem}-{digest}{file.suffix}"))


def _set_aside(out: Path, chosen: list[Variant], split: str) -> None:
    """A table of other variants, or on another split, is kept under another name."""
    now = {(variant.name, variant.seed, split) for variant in chosen}
    table = out / "compare.json"
    if not table.is_file():
        return
    try:
        rows = json.loads(table.read_text(encoding="utf-8"))
        before = {(row["variant"], seed["seed"], row["split"]) for row in rows for seed in row["seeds"]}
    except (ValueError, KeyError, TypeError):
        before = None
    if before is None or not before <= now:
        for file in (table, out / "compare.png"):
            if file.is_file():
                _keep(file)


def _contents(library: Library) -> str:
    """Hash of all that a measurement reads of a library besides sound and pictures, which clip ids stand for."""
    table = library.clips(columns=["clip_id", "split", "status", "labels", "source"], statuses=STATUSES)
    digest = hashlib.sha256(library.features.model_dump_json().encode())
    for row in sorted(json.dumps(row, sort_keys=True) for row in table.to_pylist()):
        digest.update(row.encode())
    digest.update(str(len(library.rejects())).encode())
    return digest.hexdigest()[:16]


@cache
def _code() -> str:
    """Hash of this package's source: whatever measures may have changed with it."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _figures(
    library: Library, model: EquiAV, report: RetrievalReport, train: str, split: str
) -> dict[str, float | None]:
    """What a trained variant is compared by; None where it does not have it."""
    from equiav.diagnose.branch import MODALITIES, Branch, read_clips
    from equiav.diagnose.cost import costs
    from equiav.diagnose.equivariance import all_together
    from equiav.evaluate.probe import probe

    directions = (report.audio_to_visual, report.visual_to_audio)
    levels = [level for direction in directions if (level := direction.class_level)]
    found: dict[str, float | None] = {
        "recall_at_1": statistics.mean(d.recall_at_1.value for d in directions),
        "recall_at_10": statistics.mean(d.recall_at_10.value for d in directions),
        "class_precision_at_1": statistics.mean(x.precision_at_1.value for x in levels) if levels else None,
        "probe": None,
    }
    with suppress(LibraryError):  # clips without labels
        found["probe"] = probe(library, model, train=train, test=split).value
    clips = read_clips(library, model, split, DIAGNOSED)
    for name in MODALITIES:
        row = all_together(Branch(model, name, clips), views=VIEWS)
        for measure in ("cosine", "h1", "similarity"):
            known = row.predictor.get(measure)
            found[f"{name}_{measure}"] = known.value if known else None
    cost = costs(model)[1][-1]
    return found | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops_per_clip": cost.gflops_per_clip,
        "saved_mb": cost.saved_mb,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def _against(own: list[VariantResult], first: list[VariantResult], figure: str) -> dict[str, float] | None:
    """Mean difference to the first variant over the seeds that both have, with its 95 % t-interval."""
    from scipy.stats import t

    base = {result.seed: result.figures[figure] for result in first}
    pairs = [(r.figures[figure], base[r.seed]) for r in own if r.seed in base]
    known = [a - b for a, b in pairs if a is not None and b is not None]
    if len(known) < 2:
        return None
    mean, error = statistics.mean(known), statistics.stdev(known) / len(known) ** 0.5
    reach = float(t.ppf(0.975, len(known) - 1)) * error
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def _summary(results: list[VariantResult], split: str = "") -> list[dict[str, Any]]:
    """Per variant mean and standard deviation over seeds, differences to the first variant, figures of each seed."""
    rows, groups = [], {name: [r for r in results if r.name == name] for name in dict.fromkeys(r.name for r in results)}
    first = groups[results[0].name]
    for name, own in groups.items():
        columns = {figure: [r.figures.get(figure) for r in own] for figure in FIGURES}
        known = {figure: [v for v in values if v is not None] for figure, values in columns.items()}
        means = {figure: _spread(values) for figure, values in known.items() if values}
        against = {} if own is first else {figure: _against(own, first, figure) for figure in PAIRED}
        seeds = [{"seed": r.seed, **r.figures} for r in own]
        rows.append({"variant": name, "split": split, **means, "minus_first": against, "seeds": seeds})
    return rows


def to_tables(results: list[VariantResult]) -> list[Table]:
    """For people: mean ± standard deviation over seeds, both directions averaged; figures that none has left out."""
    rows, tables = _summary(results), []
    for title, figures in TABLES_SHOWN.items():
        shown = {figure: about for figure, about in figures.items() if any(figure in row for row in rows)}
        if not shown:
            continue
        table = Table("variant", *(name for name, _, _ in shown.values()), title=title, title_justify="left")
        for row in rows:
            cells = [_cell(row.get(figure), *about[1:]) for figure, about in shown.items()]
            table.add_row(escape(row["variant"]), *cells)
        tables.append(table)
    return tables


def _cell(spread: dict[str, float] | None, scale: float, digits: int) -> str:
    if spread is None:
        return "–"
    mean = f"{scale * spread['mean']:.{digits}f}"
    return f"{mean} ± {scale * spread['std']:.{digits}f}" if spread["std"] else mean


def _rate(run: Path) -> float:
    """Clips per second of training, the median over what was logged."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return statistics.median(json.loads(line)["clips_per_s"] for line in lines)


def draw_curves(chosen: list[Variant], file: Path) -> None:
    """Losses and accuracies of all runs over their steps: a colour per variant, a thin line per seed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(variant.name for variant in chosen))
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    for axes, key in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        for variant in chosen:
            text = (variant.run / "metrics.jsonl").read_text(encoding="utf-8")
            lines = [line for line in map(json.loads, text.splitlines()) if key in line]
            colour = colormaps["tab10"](names.index(variant.name) % 10)
            label = variant.name if variant.seed == 0 else None
            axes.plot([x["step"] for x in lines], [x[key] for x in lines], color=colour, lw=1, label=label)
        axes.set(title=key.replace("_", " "), xlabel="step")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    figure.savefig(file, dpi=110)
