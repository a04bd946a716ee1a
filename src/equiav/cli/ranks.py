"""Processes that were started together end together: when one fails, all say why, and end within seconds.

The others may be inside of a collective that never ends, in which Python runs no handler. So each has a thread that
looks into the store in which the processes met (torch's `TCPStore`); the first that fails leaves its message there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NoReturn

from rich.markup import escape
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from equiav.cli.terminal import err
from equiav.errors import EquiAVError, explain

LOOK_S = 0.5  # between two looks into the store
TOLD_S = 5.0  # that rank 0 waits for the others to see what failed
FAILED, SEEN = "failed", "seen"


@contextmanager
def end_together() -> Iterator[None]:
    """Around all that one of several processes does: its exception ends the others too, with exit code 1.

    The first that fails prints its message with its rank, and so does rank 0; a failure that follows from another's (a
    lost connection) is not printed. Exits, Ctrl-C and a closed pipe pass through.
    """
    rank, over = int(os.environ["RANK"]), threading.Event()
    watch = threading.Thread(target=_watch, args=(rank, over), daemon=True)
    watch.start()
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the others must not wait for this process
        over.set()
        _fail(rank, error)
    finally:
        over.set()
        watch.join(2 * LOOK_S)  # it may still wait for a store that nobody opens


def _watch(rank: int, over: threading.Event) -> None:
    """End this process when another one has failed; nothing else would, while it waits for that one."""
    with suppress(DistError):  # the store is gone: the process that held it has ended
        store = _store(timedelta(days=1))
        while not over.wait(LOOK_S):
            if store.check([FAILED]) and not over.is_set():
                _end(rank, store, store.get(FAILED).decode(), aloud=rank == 0)


def _fail(rank: int, error: Exception) -> NoReturn:
    """Tell the others, and end."""
    for number in (signal.SIGINT, signal.SIGTERM):  # of a launcher, or of somebody at the terminal: it ends anyway
        signal.signal(number, signal.SIG_IGN)
    known = isinstance(error, (EquiAVError, OSError))
    said = f"rank {rank}: {explain(error) if known else f'{type(error).__name__}: {error}'}"
    if rank:
        time.sleep(LOOK_S)  # what fails on all is said by the first
    try:
        store = _store(timedelta(seconds=TOLD_S))
        first = store.compare_set(FAILED, "", said).decode()
    except DistError:  # there is none yet, or none any more
        store, first = None, said
    if first == said and not known:
        traceback.print_exception(error)
    _end(rank, store, first, aloud=rank == 0 or first == said)


def _end(rank: int, store: Store | None, said: str, *, aloud: bool) -> NoReturn:
    if aloud:
        err.quiet = False
        err.show_cursor()
        err.print(f"[bold red]error:[/] {escape(said)}", highlight=False, soft_wrap=True)
    if store:
        with suppress(DistError):
            store.add(SEEN, 1)
            end = time.monotonic() + TOLD_S
            # the store may end with rank 0, which therefore leaves last
            while rank == 0 and store.add(SEEN, 0) < int(os.environ["WORLD_SIZE"]) and time.monotonic() < end:
                time.sleep(LOOK_S / 5)
    if rank:
        time.sleep(2 * LOOK_S)  # or a launcher would ask the others to stop before they know why
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # what ends a process in order would wait for collectives that never end


def _store(timeout: timedelta) -> Store:
    """A connection of our own to the store in which the processes meet; what a launcher starts again begins anew in it.

    Raises:
        DistError: nobody answers.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    return PrefixStore(f"equiav/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
