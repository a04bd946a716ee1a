"""The endpoints:  a Service → an ASGI app. docs/serve.md says what each does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import Response

from equiav._version import __version__
from equiav.serve.asking import TheService, add_asking
from equiav.serve.assets import add_page
from equiav.serve.clips import add_clips
from equiav.serve.guards import Guards
from equiav.serve.holdings import add_holdings
from equiav.serve.problems import answer_errors, may_be_refused, refuse_for_now
from equiav.serve.runs import add_runs
from equiav.serve.schemas import State
from equiav.serve.service import Service
from equiav.serve.sessions import Sessions, add_sessions

ALWAYS = may_be_refused(401, 403, 408, 413, 421, 500)


def make_app(service: Service, *, token: str | None = None, hosts: Collection[str] | None = None) -> FastAPI:
    """The app that serves.

    Args:
        service: it is opened and closed with the app.
        token: that every request must bear, or a cookie for it; None: any may come.
        hosts: names that it may be called by; None: any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.enter_context(service)
            warming = asyncio.create_task(service.warm_up())
            stack.callback(warming.cancel)
            yield

    # the pages that FastAPI makes of the OpenAPI load scripts of others
    app = FastAPI(
        title="equiav",
        version=__version__,
        summary="Search a media library by sound and picture.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=ALWAYS,
    )
    app.state.service = service
    sessions = Sessions(token)
    app.add_middleware(
        Guards,  # type: ignore[arg-type]  # Starlette's stubs ask for one parameter alone
        limits=service.limits,
        sessions=sessions,
        hosts=hosts,
        measures=service.measures,
    )
    answer_errors(app, service.place)
    _add_watching(app)
    add_page(app)
    add_sessions(app, sessions)
    add_asking(app)
    add_clips(app)
    add_holdings(app)
    add_runs(app)
    return app


def _add_watching(app: FastAPI) -> None:
    @app.get("/healthz", tags=["watching"])
    async def healthz() -> State:
        """The process is alive."""
        return State(status="ok")

    @app.get("/readyz", tags=["watching"], responses=may_be_refused(503))
    async def readyz(service: TheService) -> State:
        """It can answer: its models ran once, and its library is there."""
        if not await service.is_ready():
            raise refuse_for_now(503, "not ready")
        return State(status="ready")

    @app.get("/metrics", tags=["watching"], response_class=Response)
    async def metrics(service: TheService) -> Response:
        """Counters, for Prometheus."""
        return Response(service.measures.text(), media_type=service.measures.content_type)
