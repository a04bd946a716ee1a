"""`equiav serve`:  a library, models, an address → a server until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import python_multipart  # noqa: F401 - Starlette reads forms with it, and would miss it at the first one only
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from equiav.errors import ConfigError
from equiav.serve.app import make_app
from equiav.serve.guards import LOOPBACK
from equiav.serve.limits import Limits
from equiav.serve.service import Service

if TYPE_CHECKING:
    from equiav.library.places import Place
    from equiav.model.equiav import EquiAV

__all__ = ["Limits", "named_runs", "read_token", "run_server"]

TOKEN = "EQUIAV_TOKEN"  # noqa: S105 - the name of a variable
SHORTEST = 16
IDLE_S = 5  # that a connection is kept without a request


def named_runs(given: list[str]) -> dict[str, str]:
    """Folders of runs by name, from `FOLDER` or `NAME=FOLDER`.

    Raises:
        ConfigError: two have one name.
    """
    runs: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        folder = folder if equals else text
        name = name if equals else folder.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
        if not name or name in runs:
            raise ConfigError(f"--run {text}: each run needs a name of its own: --run NAME={folder}")
        runs[name] = folder
    return runs


def read_token(file: Path | None, host: str) -> str | None:
    """The token of a file, or of the environment; None where there is none.

    Raises:
        ConfigError: an address that others reach has none, or it is too short, or the file cannot be read.
    """
    token = os.environ.get(TOKEN, "").strip() or None
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file {file} cannot be read: {error}") from None
    if token is None and host not in LOOPBACK:
        raise ConfigError(f"--host {host} lets others in: give a token, with --token-file or in {TOKEN}")
    if token is not None and (len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError(
            f"a token has at least {SHORTEST} letters and digits without a space: python -c "
            "'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return token


def run_server(
    library: str | Place,
    models: Mapping[str, EquiAV],
    *,
    host: str,
    port: int,
    token: str | None,
    limits: Limits,
    on_start: Callable[[str], None],
    folders: Mapping[str, Path] | None = None,
) -> None:
    """Serve until a signal comes; what is in hand then is finished.

    Args:
        on_start: called with the address once it is listened on.
        folders: of runs, by name: what was measured of them lies there.

    Raises:
        LibraryError: no library, or one that was not embedded with these models.
        ConfigError: the address cannot be listened on.
    """
    # a page that points a name of its own at this address does not know the token
    hosts = LOOPBACK if token is None else None
    app = make_app(Service(library, models, limits, folders=folders), token=token, hosts=hosts)
    config = uvicorn.Config(
        app,
        host=host,
        http=Impatient,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=math.ceil(limits.timeout_s),
    )
    with _listening(host, port) as listener:
        at = f"[{host}]" if ":" in host else host
        on_start(f"http://{at}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run([listener])


class Impatient(H11Protocol):
    """Closes a connection on which the headers of a request do not arrive in time: uvicorn would wait for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait on, or stop waiting when they are whole."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._late is None:
            seconds = self.config.timeout_graceful_shutdown or IDLE_S
            self._late = self.loop.call_later(seconds, self.transport.close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
