"""What the command line shows and hears while it works: progress bars, and the signals that ask it to stop."""

from __future__ import annotations

import _thread
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
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
SEVERAL = int(os.environ.get("WORLD_SIZE", "1")) > 1
# torchrun hands on the Ctrl-C that its processes heard from the terminal already: within this time it is the same one
ECHO_S = 2.0
GRACE_S = 2.0  # after a second Ctrl-C
_heard = [int(signal.SIGINT)]  # what asked to stop, the last of it last
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
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
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


class Stop:
    """Was this process asked to stop? Called, it says so."""

    def __init__(self) -> None:
        self.asked = False
        self._at_once = self._raised = False
        self._left = threading.Event()

    def __call__(self) -> bool:
        """True once Ctrl-C or SIGTERM came."""
        return self.asked

    def handle(self, number: int, _frame: object) -> None:
        """What Python calls between two of its instructions."""
        if not self.asked:
            _heard.append(number)
        self.asked = True
        if self._at_once and not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def listen(self, pipe: int) -> None:
        """Read signals from `pipe` until it is closed: what is said, and how often it was asked."""
        first = 0.0
        while (read := os.read(pipe, 1)) and not self._at_once:
            if read[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if not first:
                first = time.monotonic()
                self.handle(read[0], None)
                # the launcher that ends us after another process failed: that one has said why
                if not (SEVERAL and self._left.wait(ECHO_S / 4)):
                    err.print("stopping after this step; Ctrl-C again stops at once, without saving", soft_wrap=True)
            elif read[0] == signal.SIGINT and time.monotonic() - first > ECHO_S * SEVERAL:
                self._at_once = True
                _heard.append(signal.SIGINT)
                _thread.interrupt_main()
                if not self._left.wait(GRACE_S):  # inside of a call that may last for long, or for ever
                    err.show_cursor()
                    say_interrupted()
                    os._exit(stop_code())

    def leave(self) -> None:
        """The work is over."""
        self._left.set()


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM finish the step in hand and save, and this is said at once; a second Ctrl-C interrupts.

    A step of a large model is a call or two of seconds, in which Python runs no handler: a thread hears the signals,
    through a pipe that the C handler writes to.
    """
    stop = Stop()
    hearing, writing = os.pipe()
    os.set_blocking(writing, False)
    listener = threading.Thread(target=stop.listen, args=(hearing,), daemon=True)
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    pipe_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listener.start()
    try:
        yield stop
    finally:
        stop.leave()
        signal.set_wakeup_fd(pipe_before)
        os.close(writing)
        listener.join()
        os.close(hearing)
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_on_sigterm() -> None:
    """SIGTERM, the Ctrl-C of `timeout` and of clusters, ends a verb as Ctrl-C does, with a code of its own."""

    def interrupt(number: int, _frame: object) -> None:
        _heard.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def stop_code() -> int:
    """Exit code of a verb that was asked to stop: 130 by Ctrl-C, 143 by SIGTERM, as of a process that they end."""
    return 128 + _heard[-1]


def say_interrupted() -> None:
    """What a verb says that stops at once."""
    err.print("interrupted; run the same command again to go on")
