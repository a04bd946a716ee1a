"""What the README's lines for own videos take:  ten-second videos → every line of both ways, timed as it stands there.

    python benchmarks/own_videos.py --out FOLDER [--videos 200]      # FOLDER/VIDEOS is kept, all else is made anew

The videos are the toy world's things (sound and picture have to do with each other), of 10 s, 480 x 480, 30 pictures a
second, in a folder for each kind. The lines run in FOLDER by `bash`, with `equiav` of this Python's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from _common import environment
from equiav.media.mux import wav_file, write_clip
from equiav.toyworld import RATE, draw_factors, render_frames, render_sound

README = Path(__file__).parent.parent / "README.md"
SECONDS, SCALE = 10.0, (5, 3)  # each pixel is shown five times in both directions, each picture three times
WAY = re.compile(r"<!-- (own videos|published checkpoint) -->\n```\n(.*?)```", re.DOTALL)


def lines_of(way: str) -> list[str]:
    """The commands of a way, as the README has them."""
    blocks = dict(WAY.findall(README.read_text(encoding="utf-8")))
    return [line.partition("  #")[0].strip() for line in blocks[way].splitlines() if line.strip()]


def render(folder: Path, index: int) -> None:
    clip = replace(draw_factors(0, index), duration_s=SECONDS)
    path = folder / clip.kind / f"{index:03d}.mp4"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        frames, _ = render_frames(clip, 0)
        side, shown = SCALE
        large = frames.repeat(shown, axis=0).repeat(side, axis=1).repeat(side, axis=2)
        write_clip(path, large, 10 * shown, render_sound(clip, 0), RATE)


def timed(line: str, folder: Path) -> dict[str, Any]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    start, before = time.monotonic(), os.times()
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    after = os.times()
    return {
        "line": line,
        "seconds": round(time.monotonic() - start, 1),
        "processor_s": round(after.children_user + after.children_system - before[2] - before[3], 1),
        "exit_code": done.returncode,
        "printed": done.stdout[-3000:],
        "told": done.stderr[:1000],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--render-only", action="store_true")
    given = parser.parse_args()
    videos = given.out / "VIDEOS"
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(partial(render, videos), range(given.videos)))
    (given.out / "dog.wav").write_bytes(wav_file(render_sound(replace(draw_factors(1, 0), duration_s=3.0), 1), RATE))
    if given.render_only:
        return
    for old in ("L", "R"):
        shutil.rmtree(given.out / old, ignore_errors=True)
    found = [timed(line, given.out) for line in lines_of("own videos")]
    total = round(sum(line["seconds"] for line in found), 1)
    print(json.dumps({**environment(), "videos": given.videos, "seconds": total, "lines": found}, indent=2))


if __name__ == "__main__":
    main()
