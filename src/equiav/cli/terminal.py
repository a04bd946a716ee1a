"""Results, progress bars, and the signals that stop a verb."""

from __future__ import annotations

import _thread
import json
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

from equiav.words import strict

# of processes started together (torchrun, accelerate launch) the first one prints
IS_MAIN = os.environ.get("RANK", "0") == "0"
SEVERAL = int(os.environ.get("WORLD_SIZE", "1")) > 1
# torchrun forwards the Ctrl-C that the terminal has sent to its processes already: within this time it is the same one
ECHO_S = 2.0
STOPPED = "stopped and saved; run the same command again to go on"
GRACE_S = 2.0  # after a second Ctrl-C
_signals = [int(signal.SIGINT)]  # those that came, the newest last
# `:dog:` in a name or a label stays what it is
err = Console(stderr=True, quiet=not IS_MAIN, emoji=False)
out = Console(emoji=False)


def print_json(value: dict[str, Any]) -> None:
    """Print one object in strict JSON, where NaN and infinity are null."""
    typer.echo(json.dumps(strict(value), indent=2, default=str, allow_nan=False))


def print_error(message: str) -> None:
    """Print the line that ends a verb."""
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)


def show(found: Any, as_json: bool) -> None:
    """Print a result: its `to_table`, or with --json its `to_dict`."""
    print_json(found.to_dict()) if as_json else out.print(found.to_table())


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
        """Show `done` of `total`, with the rate per second and a note."""
        self.progress.update(self.task, completed=done, total=total)
        state = self.progress.tasks[self.task]
        self.progress.update(self.task, rate=f"{state.speed:.1f} {self.unit}/s" if state.speed else "")
        self.note.plain = note
        if not self.live and (time.monotonic() - self.printed > 10 or self.done < done == total):
            self.printed, self.done = time.monotonic(), done
            left = f", {(total - done) / state.speed:.0f} s left" if state.speed and done < total else ""
            shown = escape(f" {note}" if note else "")
            err.print(f"{self.what}: {done}/{total}{shown}{left}", highlight=False, soft_wrap=True)


class Stop:
    """Whether this process shall stop: called, it is True or False."""

    def __init__(self) -> None:
        self.requested = False
        self._at_once = self._raised = False
        self._left = threading.Event()

    def __call__(self) -> bool:
        """True once Ctrl-C or SIGTERM came."""
        return self.requested

    def handle(self, number: int, _frame: object) -> None:
        """What Python calls between two of its instructions."""
        if not self.requested:
            _signals.append(number)
        self.requested = True
        if self._at_once and not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def listen(self, pipe: int) -> None:
        """Read signals from `pipe` until it is closed; the first is acknowledged, a second Ctrl-C interrupts."""
        first = 0.0
        while (read := os.read(pipe, 1)) and not self._at_once:
            if read[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if not first:
                first = time.monotonic()
                self.handle(read[0], None)
                # not where a launcher ends us because another process failed: that one has printed why
                if not (SEVERAL and self._left.wait(ECHO_S / 4)):
                    err.print("stopping after this step; Ctrl-C again stops at once, without saving", soft_wrap=True)
            elif read[0] == signal.SIGINT and time.monotonic() - first > ECHO_S * SEVERAL:
                self._at_once = True
                _signals.append(signal.SIGINT)
                _thread.interrupt_main()
                if not self._left.wait(GRACE_S):  # inside a call that may take long, or never end
                    err.show_cursor()
                    print_interrupted()
                    os._exit(stop_code())

    def leave(self) -> None:
        """End: the work is done."""
        self._left.set()


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM finish the current step and save, with a message at once; a second Ctrl-C interrupts.

    A step of a large model is a call or two of seconds, in which Python runs no handler: so a thread reads the signals,
    from a pipe that the C handler writes to.
    """
    stop = Stop()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    listener = threading.Thread(target=stop.listen, args=(reading,), daemon=True)
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
        os.close(reading)
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_on_sigterm() -> None:
    """Make SIGTERM, which `timeout` and clusters send, end a verb as Ctrl-C does, with an exit code of its own."""

    def interrupt(number: int, _frame: object) -> None:
        _signals.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def stop_code() -> int:
    """Exit code of a verb that a signal stopped, as of a process that it ends: 130 by Ctrl-C, 143 by SIGTERM."""
    return 128 + _signals[-1]


def print_interrupted() -> None:
    """Print the message of a verb that stops at once."""
    err.print("interrupted; run the same command again to go on")
