"""The models that are served:  a run's name → a map of its embeddings, what was measured of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query
from fastapi.responses import Response

from equiav.library.records import STATUSES
from equiav.serve.asking import TheService
from equiav.serve.problems import READ, may_be_refused
from equiav.serve.schemas import Map, MapQuery, Report, Run, Runs
from equiav.serve.service import Served

RunInPath = Annotated[str, Path(min_length=1, max_length=500)]


def add_runs(app: FastAPI) -> None:
    """Add the endpoints of runs."""

    @app.get("/v1/runs", responses=may_be_refused(409, *READ))
    async def runs(service: TheService) -> Runs:
        """The models that are served."""
        return await service.read(lambda: Runs(runs=[_run(run) for run in service.runs.values()]))

    @app.get("/v1/runs/{run}/map", response_model=Map, responses=may_be_refused(404, 409, 422, *READ))
    async def embeddings(run: RunInPath, query: Annotated[MapQuery, Query()], service: TheService) -> Response:
        """The library's clips in the plane in which their vectors differ most."""
        served = service.run(run)
        # thousands of points: as they were written in the thread, not again in the event loop
        return Response(await service.read(lambda: served.maps.get(query.of)), media_type="application/json")

    @app.get("/v1/runs/{run}/report", responses=may_be_refused(404, 409, 422, *READ))
    async def report(run: RunInPath, service: TheService) -> Report:
        """What was measured of a model: retrieval, equivariance."""
        served = service.run(run)
        return await service.read(served.reports.get)


def _run(run: Served) -> Run:
    index, config = run.index, run.model.config
    return Run(
        name=run.name,
        fingerprint=run.fingerprint,
        width=config.architecture.embedding,
        clip_s=config.features.clip_s,
        clips=index.library.count(statuses=STATUSES),
        not_embedded=index.missing,
    )
