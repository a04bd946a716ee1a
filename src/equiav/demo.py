"""`equiav demo`: toy world → ingest → pretrain → evaluate → embed → search → one page to look at.

Every stage is the library call behind its verb and goes on where a killed demo was.

    DEMO/videos/  DEMO/library/  DEMO/run/  DEMO/retrieval.json  DEMO/demo.html

What was measured lies in the run's folder too, as `equiav serve` shows it of any run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiav.config import load_recipe

if TYPE_CHECKING:
    from equiav.evaluate.retrieval import RetrievalReport
    from equiav.library.table import Library
    from equiav.pages.demo import ClipShown, QueryShown
    from equiav.search.index import SearchIndex

CLIPS, TEST = 1600, 200
QUERIES = 3
HITS = 5
OWN_COMMANDS = (
    "equiav ingest YOUR_VIDEOS --library L --recipe laptop",
    "equiav pretrain laptop --library L --run R && equiav embed --library L --run R",
    "equiav search --library L --run R --audio SOUND.wav",
)


# Longer than most functions: it is the list of the stages, in their order
def run_demo(
    out: Path,
    *,
    seed: int,
    fast: bool,
    bar: Callable[[str, str], Any],
    say: Callable[[str], None],
    stopping: Callable[[], AbstractContextManager[Callable[[], bool]]],
) -> Path | None:
    """Run the whole way in `out`; returns the page, or None when stopped during training.

    Args:
        out: folder for everything.
        seed: of the world and of the training.
        fast: a tenth of the clips and of the epochs: a smoke test.
        bar: makes a progress bar (what, unit): a context manager with `update(done, total, note)`.
        say: prints one line.
        stopping: makes the context that training runs in, whose value is called after every step: stop now?
    """
    from equiav.evaluate.retrieval import evaluate_retrieval, retrieval_result
    from equiav.library.ingest import ingest
    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV
    from equiav.search.embed import embed_library
    from equiav.search.index import SearchIndex
    from equiav.toyworld import make_world
    from equiav.train.pretrain import pretrain
    from equiav.train.trained_on import load_trained_on

    clips, test = (CLIPS // 10, TEST // 10) if fast else (CLIPS, TEST)
    recipe = load_recipe("toy", [f"train.seed={seed}", *(["train.epochs=1"] if fast else [])])
    start = time.monotonic()

    say(f"1/6 render {clips} videos of a made-up world into {out / 'videos'}")
    with bar("rendering", "videos") as progress:
        done = iter(range(1, clips + 1))
        make_world(out / "videos", clips, seed, test=test, on_clip=lambda: progress.update(next(done), clips))
    say(f"2/6 ingest them into {out / 'library'}")
    with bar("ingesting", "files") as progress:
        ingest(out / "videos" / "labels.csv", out / "library", recipe.features, on_progress=progress.update)
    library = Library(out / "library")
    say(f"3/6 pretrain the toy recipe on {library.count('train')} clips, without their labels, into {out / 'run'}")
    with stopping() as should_stop, bar("training", "steps") as progress:
        trained = pretrain(
            recipe,
            library,
            out / "run",
            on_step=lambda step: progress.update(step.step, step.steps, step.describe()),
            should_stop=should_stop,
        )
    if not trained.done or should_stop():
        return None
    model = EquiAV.from_pretrained(out / "run" / "model", device="auto")
    say(f"4/6 evaluate retrieval on {library.count('test')} held-out clips")
    report = evaluate_retrieval(library, model, split="test", learned=load_trained_on(out / "run"))
    (out / "retrieval.json").write_text(json.dumps(report.to_dict(), indent=2), encoding="utf-8")
    retrieval_result(report, library, model, run=out / "run").save(out / "run" / "retrieval.json")
    say("5/6 embed every clip")
    with bar("embedding", "clips") as progress:
        embed_library(library, model, on_progress=progress.update)
    say("6/6 search, and write the page")
    page = _page(
        out, library, SearchIndex(library.path, model), report, seconds=time.monotonic() - start, steps=trained.steps
    )
    (out / "demo.html").write_text(page, encoding="utf-8")
    for line in OWN_COMMANDS:
        say(f"  {line}")
    return out / "demo.html"


def _page(
    out: Path, library: Library, index: SearchIndex, report: RetrievalReport, *, seconds: float, steps: int
) -> str:
    from equiav.pages.demo import demo_page

    rows = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [{key: value for key, value in row.items() if not key.startswith("accuracy")} for row in rows]
    summary = [
        f"{library.count('train')} short videos of a made-up world, no labels, {steps} training steps; then "
        f"{report.clips} held-out clips: each sound is to find its own picture, and each picture its own sound.",
        f"All of it took {seconds / 60:.1f} minutes on this machine, or less if parts were there already.",
    ]
    return demo_page(
        title="equiav: from a folder of videos to ranked search results",
        summary=summary,
        metrics=losses,
        retrieval=report,
        queries=_queries(library, index),
        commands=OWN_COMMANDS,
    )


def _queries(library: Library, index: SearchIndex) -> list[QueryShown]:
    """Held-out clips as queries, by sound and by picture; the partner of each is among what can be found."""
    from equiav.pages.demo import QueryShown

    held_out = library.clips(split="test", columns=["clip_id"])["clip_id"].to_pylist()
    others = library.clips(split="train", columns=["clip_id"])["clip_id"].to_pylist()
    shown = []
    for number in range(min(QUERIES, len(held_out))):
        clip_id = held_out[number * len(held_out) // QUERIES]
        kind = "picture" if number % 2 else "sound"
        own, other = ("visual", "audio") if kind == "picture" else ("audio", "visual")
        hits = index.search(vector=index.clip_vector(clip_id, own), by=other, k=len(held_out), exclude=others)
        rank = 1 + [hit.clip_id for hit in hits].index(clip_id)
        found = [_shown(library, hit.clip_id, hit.score) for hit in hits[:HITS]]
        shown.append(QueryShown(kind, _shown(library, clip_id), found, rank))
    return shown


def _shown(library: Library, clip_id: str, score: float | None = None) -> ClipShown:
    from equiav.pages.demo import ClipShown

    row = library.clip(clip_id)
    return ClipShown.of({**row, "source": Path(row["source"]).name}, row["fbank"], score)
