"""Errors as application/problem+json (RFC 9457), without paths and traces:  an exception → status, words for people."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from equiav.errors import EquiAVError, LibraryError, MediaError, WorkerError

# Of a file that is refused: everything else is 422
MEDIA_STATUS = {"not_media": 415, "unsupported": 415, "too_long": 413}
READ = (429, 503)  # what every read may get
RETRY_S = 2  # what a client that is turned away may wait


class Problem(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str


class Refusal(HTTPException):
    """A request that is not answered as asked."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.more = more


def refuse_for_now(status: int, detail: str) -> Refusal:
    """One that may be answered in a moment."""
    return Refusal(status, detail, {"Retry-After": str(RETRY_S)})


def problem(error: HTTPException, request_id: str) -> Response:
    """The answer to a request that is refused."""
    status = error.status_code
    title = HTTPStatus(status).phrase
    told = Problem(title=title, status=status, detail=error.detail or title, request_id=request_id)
    more = error.more if isinstance(error, Refusal) else {}
    content = told.model_dump() | more
    return JSONResponse(content, status, error.headers, media_type="application/problem+json")


def refusal_of(error: EquiAVError, library: str = "") -> Refusal:
    """What a client is told of an error of ours; `library` is the path that it need not know."""
    if isinstance(error, MediaError):
        # what a decoder says when it dies names lines of code
        detail = "the file's decoder died on it" if error.reason == "crashed" else error.detail
        return Refusal(MEDIA_STATUS.get(error.reason, 422), detail, reason=error.reason)
    if isinstance(error, WorkerError):
        return refuse_for_now(503, "files cannot be decoded at the moment")
    if isinstance(error, LibraryError):
        return Refusal(409, str(error).replace(library, "the library") if library else "the library cannot answer this")
    return Refusal(422, str(error))


def answer_errors(app: FastAPI, library: str) -> None:
    """Make problems of all errors that a handler of the app raises on purpose."""

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            faults = [{"at": ".".join(map(str, fault["loc"])), "problem": fault["msg"]} for fault in error.errors()]
            error = Refusal(422, "the request does not fit what is expected", errors=faults)
        elif isinstance(error, EquiAVError):
            error = refusal_of(error, library)
        elif isinstance(error, HTTPException) and error.status_code == 405:
            error = Refusal(405, error.detail, {"Allow": ", ".join(_methods(app, request))})
        assert isinstance(error, HTTPException)  # noqa: S101 - these three kinds are all that come here
        return problem(error, request.state.request_id)

    for kind in (HTTPException, RequestValidationError, EquiAVError):
        app.add_exception_handler(kind, refused)


def _methods(app: FastAPI, request: Request) -> list[str]:
    """All that this path takes: Starlette names those of one endpoint alone."""
    fit = (route for route in app.routes if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE)
    return sorted({method for route in fit for method in route.methods or ()})


def may_be_refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of these answers."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
