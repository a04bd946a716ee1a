"""What the command line shows and hears while it works: progress bars, and the signals that ask it to stop."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

# of processes started together (torchrun, accelerate launch) the first one speaks
IS_MAIN = os.environ.get("RANK", "0") == "0"
# `:dog:` in a name or a label stays what it is
err = Console(stderr=True, quiet=not IS_MAIN, emoji=False)
out = Console(emoji=False)


def print_json(value: dict[str, Any]) -> None:
    """What --json prints: one object, in strict JSON: what is no number is null."""
    typer.echo(json.dumps(_strict(value), indent=2, default=str, allow_nan=False))


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Bar:
    """A progress bar with rate and ETA on a terminal, the note below it; a plain line now and then elsewhere."""

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.task = self.progress.add_task(what, total=None, rate="")
        self.note = Text(style="dim")
        self.live = Live(Group(self.progress, self.note), console=err) if err.is_terminal else None
        self.printed, self.done = 0.0, -1

    def __enter__(self) -> Bar:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`, with the rate in `unit`s per second and a note."""
        self.progress.update(self.task, completed=done, total=total)
        state = self.progress.tasks[self.task]
        self.progress.update(self.task, rate=f"{state.speed:.1f} {self.unit}/s" if state.speed else "")
        self.note.plain = note
        if not self.live and (time.monotonic() - self.printed > 10 or self.done < done == total):
            self.printed, self.done = time.monotonic(), done
            left = f", {(total - done) / state.speed:.0f} s left" if state.speed and done < total else ""
            said = escape(f" {note}" if note else "")
            err.print(f"{self.what}: {done}/{total}{said}{left}", highlight=False, soft_wrap=True)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM finish the step in hand and save; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
