"""What every request passes:  an id, the host and the token, the size and the time of its body; headers of the answer.

Bodies are measured where they come in, before any parser sees them, so that none is spooled that is too large, with a
Content-Length or without.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equiav.serve.limits import JSON_BYTES, Limits
from equiav.serve.measures import Measures
from equiav.serve.problems import Refusal, problem
from equiav.serve.sessions import Sessions

OPEN = (
    "/healthz",
    "/readyz",
    "/",
)  # to whoever watches the service, or opens its page: they say nothing of the library
OPEN_FOLDER = "/page/"
READS = ("GET", "HEAD", "OPTIONS")
OWN = (None, "same-origin", "none")  # what browsers say of where a request is from: older ones nothing
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLOSE = {"Connection": "close"}  # the rest of the body is not read

log = logging.getLogger(__name__)


class Guards:
    """ASGI middleware around all that is served.

    Args:
        app: what is guarded.
        limits: of bodies.
        sessions: the token that every request must bear, or a cookie for it.
        hosts: names that this service may be called by, against pages that point a name of theirs at it; None: any.
        measures: what is counted.
    """

    def __init__(
        self, app: ASGIApp, *, limits: Limits, sessions: Sessions, hosts: Collection[str] | None, measures: Measures
    ) -> None:
        self._app, self._limits, self._sessions, self._hosts = app, limits, sessions, hosts
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, begun, status = Headers(scope=scope), time.monotonic(), 0
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    sent.setdefault(name, value)
                sent["X-Request-ID"] = request_id
            await send(message)

        try:
            self._check(scope["method"], scope["path"], headers)
            size = self._limits.body_bytes if _is_multipart(headers) else JSON_BYTES
            body = _Body(receive, headers, size, begun + self._limits.timeout_s)
            await self._app(scope, body, answer)
        except ClientDisconnect:
            status = status or 499  # as others count those who left before they had an answer
        except Exception as error:  # whatever it is, the client gets an answer, and the log a trace
            if status:
                raise
            if not isinstance(error, HTTPException):
                log.exception("request %s: %s %s", request_id, scope["method"], scope["path"])
                error = Refusal(500, "something went wrong here; the server's log says what, under this request's id")
            await problem(error, request_id)(scope, receive, answer)
        finally:
            self._measures.answered(scope, status, time.monotonic() - begun)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _name_of(f"//{host}") not in self._hosts:
            raise Refusal(421, "this service is not called by that name")
        origin = headers.get("origin")
        if origin is not None and _netloc_of(origin) != host.lower():
            raise Refusal(403, "pages of other sites may not ask this service")
        if path in OPEN or path.startswith(OPEN_FOLDER) or self._sessions.bears_token(headers):
            return
        if not self._sessions.bears_cookie(headers):
            raise Refusal(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        # a browser sends the cookie along whoever asks it to: what it says of that has to fit
        if method not in READS and origin is None and headers.get("sec-fetch-site") not in OWN:
            raise Refusal(403, "pages of other sites may not ask this service")


class _Body:
    """A request's body as it comes in, up to a size and a time."""

    def __init__(self, receive: Receive, headers: Headers, size: int, deadline: float) -> None:
        self._receive, self._size, self._deadline, self._came, self._whole = receive, size, deadline, 0, False
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > size:
            raise self._too_large()

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        message: Message | None = None
        with anyio.move_on_after(max(self._deadline - time.monotonic(), 0.0)):
            message = await self._receive()
        if message is None:
            raise Refusal(408, "the request's body did not arrive in time", CLOSE)
        self._came += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._came > self._size:
            raise self._too_large()
        return message

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request's body is larger than {self._size} bytes", CLOSE)


def _is_multipart(headers: Headers) -> bool:
    return headers.get("content-type", "").lower().startswith("multipart/form-data")


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _netloc_of(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None
