"""Processes that were started together end together: when one fails, all end within seconds, and the reason is printed.

The others may be inside a collective that never ends, in which Python runs no handler. So each has a thread that polls
the store in which the processes met (torch's `TCPStore`); the first that fails leaves its message there.
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

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from equiav.cli.terminal import err, print_error
from equiav.errors import EquiAVError, explain

POLL_S = 0.5  # between two looks into the store
ACKNOWLEDGE_S = 5.0  # that rank 0 waits for the others to read the message
FAILED, SEEN = "failed", "seen"


@contextmanager
def end_together() -> Iterator[None]:
    """Around the work of one of several processes: its exception ends the others too, with exit code 1.

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
        watch.join(2 * POLL_S)  # it may still wait for a store that no process opens


def _watch(rank: int, over: threading.Event) -> None:
    """End this process when another one has failed: it may be waiting for that one."""
    with suppress(DistError):  # the store is gone: the process that held it has ended
        store = _store(timedelta(days=1))
        while not over.wait(POLL_S):
            if store.check([FAILED]) and not over.is_set():
                _end(rank, store, store.get(FAILED).decode(), shown=rank == 0)


def _fail(rank: int, error: Exception) -> NoReturn:
    """Leave the message for the others, and end."""
    for number in (signal.SIGINT, signal.SIGTERM):  # of a launcher or of the terminal: it ends anyway
        signal.signal(number, signal.SIG_IGN)
    known = isinstance(error, (EquiAVError, OSError))
    message = f"rank {rank}: {explain(error) if known else f'{type(error).__name__}: {error}'}"
    if rank:
        time.sleep(POLL_S)  # what fails on all is printed by the first
    try:
        store = _store(timedelta(seconds=ACKNOWLEDGE_S))
        first = store.compare_set(FAILED, "", message).decode()
    except DistError:  # there is no store yet, or no longer
        store, first = None, message
    if first == message and not known:
        traceback.print_exception(error)
    _end(rank, store, first, shown=rank == 0 or first == message)


def _end(rank: int, store: Store | None, message: str, *, shown: bool) -> NoReturn:
    if shown:
        err.quiet = False
        err.show_cursor()
        print_error(message)
    if store:
        with suppress(DistError):
            store.add(SEEN, 1)
            end = time.monotonic() + ACKNOWLEDGE_S
            # the store may end with rank 0, which therefore leaves last
            while rank == 0 and store.add(SEEN, 0) < int(os.environ["WORLD_SIZE"]) and time.monotonic() < end:
                time.sleep(POLL_S / 5)
    if rank:
        time.sleep(2 * POLL_S)  # or a launcher would stop the others before they know why
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # an orderly exit would wait for collectives that never end


def _store(timeout: timedelta) -> Store:
    """A connection to the store in which the processes meet; after a restart by the launcher its keys are new ones.

    Raises:
        DistError: no answer.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    return PrefixStore(f"equiav/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
