"""Cookies that stand for the token, so that pages and the media in them need not send it:  a token → signed cookies.

A cookie is an HMAC of the token under a key that only this process has: it tells nobody the token, and ends with the
process.
"""

from __future__ import annotations

import hmac
import secrets

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

COOKIE = "equiav-session"
PATH = "/v1/session"


class Sessions:
    """Who may come.

    Args:
        token: that every request must bear, or a cookie for it; None: any may come.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self.cookie = None if token is None else hmac.new(secrets.token_bytes(32), token.encode(), "sha256").hexdigest()

    def bears_token(self, headers: Headers) -> bool:
        """Whether a request names the token, if there is one."""
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token)
        return scheme.lower() == "bearer" and right

    def bears_cookie(self, headers: Headers) -> bool:
        """Whether it has the cookie."""
        given = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        if given is None or self.cookie is None:
            return False
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.cookie.encode())


def add_sessions(app: FastAPI, sessions: Sessions) -> None:
    """Add the endpoints that give and end the cookie."""

    @app.post(PATH, status_code=204, response_class=Response, tags=["session"])
    async def begin(request: Request) -> Response:
        """A cookie that is good in place of the token, until the service ends; none where no token is needed."""
        answer = Response(status_code=204)
        if sessions.cookie is not None:
            secure = _came_by_https(request)
            answer.set_cookie(COOKIE, sessions.cookie, path="/", secure=secure, httponly=True, samesite="strict")
        return answer

    @app.delete(PATH, status_code=204, response_class=Response, tags=["session"])
    async def end(request: Request) -> Response:
        """Make the browser drop the cookie."""
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, path="/", secure=_came_by_https(request), httponly=True, samesite="strict")
        return answer


def _came_by_https(request: Request) -> bool:
    """As the browser sees it: behind a proxy with TLS the page's own address tells, or the proxy does."""
    told = (request.url.scheme, request.headers.get("x-forwarded-proto"))
    return "https" in told or request.headers.get("origin", "").startswith("https://")
