"""How well does the toy recipe learn the toy world?  python benchmarks/toy.py [--seeds 0 1 2] [--methods equiav plain]

`--clips 550 train.epochs=64`: a quarter of the training clips, and the same number of steps.

For each seed: a world, a library, a training run of each method, retrieval over 200 held-out clips and a linear probe;
the yardsticks are chance and a linear model from mean spectrum to mean colour (canonical correlation) on the same
clips. DIR/seedN/METHOD.json holds each result, for `equiav evaluate --compare`. Goes on where it was.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from _common import environment
from equiav.config import load_recipe
from equiav.demo import CLIPS, TEST
from equiav.evaluate.probe import probe
from equiav.evaluate.retrieval import evaluate_retrieval, retrieval_result
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.toyworld import make_world
from equiav.train.pretrain import pretrain


def linear_recall(library: Library) -> float:
    """R@10 of mean spectrum ↔ mean colour, both directions averaged."""
    from sklearn.cross_decomposition import CCA

    def means(split: str) -> tuple[np.ndarray, np.ndarray]:
        table = library.clips(split, ["fbank", "frames"])
        pictures = [np.asarray(Image.open(io.BytesIO(row[len(row) // 2]))) for row in table["frames"].to_pylist()]
        colours = np.array([picture.mean((0, 1)) / 255 for picture in pictures])
        return library.fbanks(table).mean(1), np.hstack([colours, colours**2])

    model = CCA(3).fit(*means("train"))
    sound, colour = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in model.transform(*means("test")))
    s = sound @ colour.T
    return float(np.mean([((m > np.diag(m)[:, None]).sum(1) < 10).mean() for m in (s, s.T)]))


def measure(out: Path, seed: int, method: str, clips: int, overrides: list[str]) -> dict[str, object]:
    recipe = load_recipe("toy", [f"train.seed={seed}", f"model.method={method}", *overrides])
    make_world(out / "videos", clips, seed, test=TEST)
    ingest(out / "videos" / "labels.csv", out / "library", recipe.features)
    library = Library(out / "library")
    start = time.monotonic()
    run = out / ("run" if method == "equiav" else f"run-{method}")
    pretrain(recipe, library, run)
    seconds = time.monotonic() - start
    model = EquiAV.from_pretrained(run / "model").eval()
    report = evaluate_retrieval(library, model, split="test")
    retrieval_result(report, library, model, run=run).save(out / f"{method}.json")
    found: dict[str, object] = {"seed": seed, "method": method, "train_s": round(seconds)}
    found |= {"linear_recall_at_10": linear_recall(library), "linear_probe": probe(library, model).value}
    for name, result in (("sound_to_picture", report.audio_to_visual), ("picture_to_sound", report.visual_to_audio)):
        assert result.class_level
        assert result.class_level_others
        found[name] = {
            "gallery": result.gallery_size,
            "recall_at_1": result.recall_at_1.value,
            "recall_at_10": result.recall_at_10.value,
            "recall_at_10_interval": [result.recall_at_10.low, result.recall_at_10.high],
            "class_precision_at_1": result.class_level.precision_at_1.value,
            "class_precision_at_1_others": result.class_level_others.precision_at_1.value,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=["equiav", "invariant", "plain"], default=["equiav"])
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"of a world; {TEST} of them are the test split")
    parser.add_argument("overrides", nargs="*", help="of the toy recipe, e.g. train.epochs=64")
    parser.add_argument("--out", type=Path, default=Path("build/toy"))
    arguments = parser.parse_args()
    machine = environment()  # before the run: its load is then our own
    results = [
        measure(arguments.out / f"seed{seed}", seed, method, arguments.clips, arguments.overrides)
        for seed in arguments.seeds
        for method in arguments.methods
    ]
    about = {"clips": arguments.clips, "overrides": arguments.overrides}
    print(json.dumps({"benchmark": "toy", **machine, **about, "results": results}, indent=2))


if __name__ == "__main__":
    main()
