"""A toy world on disk:  (seed, number of clips)  →  OUT/{train,test}/*.mp4, {labels,factors,boxes}.csv, README.md."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equiav.errors import ConfigError, MediaError
from equiav.media.mux import write_clip
from equiav.media.sandbox import Sandbox
from equiav.toyworld.clip import Factors, draw_factors
from equiav.toyworld.picture import FPS, SIDE, render_frames
from equiav.toyworld.sound import RATE, render_sound

CLIP_LIMIT_S = 600.0  # a clip takes a quarter of a second; this is for a machine that has stopped

README_TEXT = """# A toy world

Made by `equiav toyworld`: ordinary .mp4 files (H.264 96x96, 10 frames/s; AAC mono 24 kHz) of 2-4 seconds.
`labels.csv` (path,label,split) is what `equiav ingest` takes; `factors.csv` holds the truth behind each clip, and
`boxes.csv` where each of its sounding things is seen at each time: shares of the frame, for `equiav evaluate localise`.

Shared by picture and sound (any single frame shows all of it):

| what one sees | what one hears |
|---|---|
| the kind of thing (12 silhouettes with marks) | its timbre: modes, noise, glides |
| its size | its pitch: larger is lower |
| the hue of its body, from red (soft) to blue (hard) | brightness of the spectrum, length of the decay |
| how many there are (1-4) | density: strikes per second, or notes at once |

Nuisance, drawn independently for the two modalities: background texture and colours, its drift, camera shift,
lighting, grain, positions, tilt and sway of the things | loudness, onset, noise floor and its colour, exact
times of the strikes, small detuning.
"""


def make_world(
    out: Path,
    clips: int,
    seed: int,
    *,
    test: int | None = None,
    workers: int = 2,
    on_clip: Callable[[], None] | None = None,
) -> None:
    """Render `clips` clips into `out`; the last `test` (default: an eighth) are the test split.

    A clip already there is kept, so a killed rendering goes on where it was.

    Raises:
        ConfigError: fewer than two clips, or a test split that leaves nothing to train on.
        MediaError: a clip cannot be written.
    """
    test = max(1, clips // 8) if test is None else test
    if clips < 2 or not 0 < test < clips:
        raise ConfigError(f"a world needs at least one training and one test clip, found clips={clips}, test={test}")
    for split in ("train", "test"):
        (out / split).mkdir(parents=True, exist_ok=True)
    _claim(out, seed, clips, test)
    drawn = [draw_factors(seed, i) for i in range(clips)]
    names = [f"{'train' if i < clips - test else 'test'}/{clip.kind}-{i:06d}.mp4" for i, clip in enumerate(drawn)]
    boxes: dict[int, NDArray[np.int64]] = {}
    with Sandbox(partial(_render_file, out, seed), workers, CLIP_LIMIT_S) as sandbox:
        for (i, _), shown in sandbox.run(enumerate(names)):
            if isinstance(shown, MediaError):
                raise shown
            boxes[i] = shown
            if on_clip:
                on_clip()
    _write_tables(out, names, drawn, [boxes[i] for i in range(clips)])


def _claim(out: Path, seed: int, clips: int, test: int) -> None:
    """Clips of two worlds never mix in one folder."""
    found, wanted = out / "world.json", {"version": 1, "seed": seed, "clips": clips, "test": test}
    if found.exists() and json.loads(found.read_text(encoding="utf-8")) != wanted:
        raise ConfigError(
            f"{out} holds another world: {found.read_text(encoding='utf-8')}, wanted {wanted}; give another folder"
        )
    found.write_text(json.dumps(wanted), encoding="utf-8")
    (out / "README.md").write_text(README_TEXT, encoding="utf-8")


def _render_file(out: Path, seed: int, task: tuple[int, str]) -> NDArray[np.int64]:
    """Write a clip that is not there yet; where its things are: boxes, as `render_frames` gives them."""
    index, name = task
    clip = draw_factors(seed, index)
    frames, boxes = render_frames(clip, seed)
    if not (out / name).exists():
        write_clip(out / name, frames, FPS, render_sound(clip, seed), RATE)
    return boxes


def _write_tables(out: Path, names: list[str], drawn: list[Factors], boxes: list[NDArray[np.int64]]) -> None:
    labels = [[name, clip.kind, name.split("/")[0]] for name, clip in zip(names, drawn, strict=True)]
    _write_table(out / "labels.csv", ["path", "label", "split"], labels)
    factors = [
        [name, c.kind, f"{c.size:.4f}", f"{c.hardness:.4f}", c.count, f"{c.duration_s:.3f}"]
        for name, c in zip(names, drawn, strict=True)
    ]
    _write_table(out / "factors.csv", ["path", "kind", "size", "hardness", "count", "duration_s"], factors)
    places = [
        [name, f"{frame / FPS:g}", *(f"{share:.4g}" for share in box / SIDE)]
        for name, shown in zip(names, boxes, strict=True)
        for frame, things in enumerate(shown)
        for box in things
        if box.any()
    ]
    _write_table(out / "boxes.csv", ["path", "time_s", "x0", "y0", "x1", "y1"], places)


def _write_table(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
