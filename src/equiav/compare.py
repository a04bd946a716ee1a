"""Recipes against each other:  (recipe, key=a,b,c, seeds) → one run per variant and seed → one table, one picture.

    OUT/VARIANT/seed-0/{recipe.yaml, metrics.jsonl, model/, …, result.json}   OUT/compare.json   OUT/compare.png

All variants get the same clips, steps and seeds. Every run goes on where it was; a finished one is not touched again.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.markup import escape
from rich.table import Table

from equiav.config import RECIPES, Recipe, load_recipe
from equiav.errors import ConfigError, LibraryError

if TYPE_CHECKING:
    from equiav.evaluate.metrics import RetrievalReport
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.train.report import Step

TABLES = RECIPES / "tables"
# of every variant: in the table with how many times and how many digits
# The tables that people see: figure → heading, scale, digits
TABLES_SHOWN = {
    "retrieval and probe": {
        "recall_at_1": ("R@1 %", 100, 1),
        "recall_at_10": ("R@10 %", 100, 1),
        "class_precision_at_1": ("class P@1 %", 100, 1),
        "probe": ("probe %", 100, 1),
    },
    "what is predicted for sound: displacement, its view found among 8, similarity": {
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
DIAGNOSED, VIEWS = 100, 8  # clips, and views of each, for the displacement
CURVES = ("loss_inter", "accuracy_inter", "accuracy_intra_audio", "accuracy_intra_visual")


@dataclass(frozen=True)
class Variant:
    """One recipe of the comparison, for one seed."""

    name: str  # its own settings, or "recipe" where nothing varies
    seed: int
    recipe: Recipe
    run: Path


@dataclass(frozen=True)
class Result:
    """What a variant reached."""

    name: str
    seed: int
    figures: dict[str, float | None]


def variants(
    recipe: str, settings: list[str], seeds: int, out: Path, rows: dict[str, list[str]] | None = None
) -> list[Variant]:
    """Every combination of the settings' values, for every seed; a seed's variants follow each other.

    Args:
        recipe: shipped name or path.
        settings: `key=value` for all; `key=a,b,c` makes variants. A comma inside brackets is part of its value.
        seeds: how many, from 0 on.
        out: folder of the comparison.
        rows: name → settings of its own, as `load_table` reads them; each is combined with `settings`.

    Raises:
        ConfigError: an unknown key, a value out of range, or the seed among the settings.
    """
    rows = rows or {"": []}
    if any(setting.startswith("train.seed=") for own in (settings, *rows.values()) for setting in own):
        raise ConfigError("train.seed is what --seeds varies: leave it out of the settings")
    choices = [[f"{key}={value}" for value in _values(text)] for key, _, text in (s.partition("=") for s in settings)]
    varied = {choice for among in choices if len(among) > 1 for choice in among}
    found = []
    for seed, row, chosen in itertools.product(range(seeds), rows, itertools.product(*choices)):
        name = " ".join([*filter(None, [row]), *(text for text in chosen if text in varied)]) or "recipe"
        folder = out / re.sub(r"[^\w.=-]+", "_", name)
        made = load_recipe(recipe, [*chosen, *rows[row], f"train.seed={seed}"])
        found.append(Variant(name, seed, made, folder / f"seed-{seed}"))
    return found


def load_table(name: str) -> dict[str, list[str]]:
    """Rows of a comparison: name → settings, of a shipped table or a YAML file.

    Raises:
        ConfigError: no such table, or it does not map names to lists of `key=value`.
    """
    path = Path(name) if Path(name).is_file() else TABLES / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"no table {name!r}: neither a file nor one of the shipped: {_shipped()}")
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML table: {error}") from None
    if not isinstance(rows, dict) or not all(
        isinstance(row, list) and all(isinstance(text, str) for text in row) for row in rows.values()
    ):
        raise ConfigError(f"{path}: a table maps names to lists of settings, e.g.  plain: [model.method=plain]")
    return {str(name): row for name, row in rows.items()}


def _shipped() -> str:
    return ", ".join(sorted(path.stem for path in TABLES.glob("*.yaml")))


def _values(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def compare(
    library: Library,
    chosen: list[Variant],
    out: Path,
    *,
    split: str = "test",
    on_step: Callable[[str, Step], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Result] | None:
    """Train and evaluate all variants; writes compare.json and compare.png. None when told to stop.

    Raises:
        TrainingError: as `pretrain`.
        LibraryError: the split to evaluate on has no clips.
    """
    results = []
    for number, variant in enumerate(chosen, 1):
        said = f"{number}/{len(chosen)} {variant.name} seed {variant.seed}"
        tell = (lambda step, said=said: on_step(said, step)) if on_step else None
        result = _result(library, variant, split, tell, should_stop)
        if result is None:
            return None
        results.append(result)
        (out / "compare.json").write_text(json.dumps(_summary(results), indent=2), encoding="utf-8")
    draw_curves(chosen, out / "compare.png")
    return results


def _result(
    library: Library,
    variant: Variant,
    split: str,
    on_step: Callable[[Step], None] | None,
    should_stop: Callable[[], bool],
) -> Result | None:
    from equiav.evaluate.retrieval import evaluate_retrieval
    from equiav.model.equiav import EquiAV
    from equiav.train.pretrain import pretrain

    file = variant.run / "result.json"
    if not file.exists():
        trained = pretrain(variant.recipe, library, variant.run, on_step=on_step, should_stop=should_stop)
        if trained.stopped or not trained.done:
            return None
        model = EquiAV.from_pretrained(variant.run / "model")
        report = evaluate_retrieval(library, model, split=split)
        figures = _figures(library, model, report, variant.recipe.data.split, split) | {
            "clips_per_s": _rate(variant.run)
        }
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps({"figures": figures, **report.to_dict()}, indent=2), encoding="utf-8")
        beside.replace(file)
    return Result(variant.name, variant.seed, json.loads(file.read_text(encoding="utf-8"))["figures"])


def _figures(
    library: Library, model: EquiAV, report: RetrievalReport, train: str, split: str
) -> dict[str, float | None]:
    """What a trained variant is compared by; None where it does not have it."""
    from equiav.diagnose.cost import costs
    from equiav.diagnose.equivariance import all_together
    from equiav.diagnose.sense import SENSES, Sense, read_clips
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
    for name in SENSES:
        row = all_together(Sense(model, name, clips), views=VIEWS)
        for measure in ("cosine", "h1", "similarity"):
            known = row.predictor.get(measure)
            found[f"{name}_{measure}"] = known.value if known else None
    cost = costs(model)[1][-1]
    return found | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops_per_clip": cost.gflops_per_clip,
        "saved_mb": cost.saved_mb,
    }


def _by_name(results: list[Result]) -> Iterator[tuple[str, list[Result]]]:
    for name in dict.fromkeys(result.name for result in results):
        yield name, [result for result in results if result.name == name]


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def _against(own: list[Result], first: list[Result], figure: str) -> dict[str, float] | None:
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


def _summary(results: list[Result]) -> list[dict[str, Any]]:
    """Per variant mean and standard deviation over seeds, differences to the first variant, figures of each seed."""
    rows = []
    groups = list(_by_name(results))
    for name, own in groups:
        columns = {figure: [r.figures.get(figure) for r in own] for figure in FIGURES}
        known = {figure: [v for v in values if v is not None] for figure, values in columns.items()}
        means = {figure: _spread(values) for figure, values in known.items() if values}
        against = {} if own is groups[0][1] else {figure: _against(own, groups[0][1], figure) for figure in PAIRED}
        seeds = [{"seed": r.seed, **r.figures} for r in own]
        rows.append({"variant": name, **means, "minus_first": against, "seeds": seeds})
    return rows


def to_tables(results: list[Result]) -> list[Table]:
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
