"""Embed and search:  a request's form or JSON → options and an open file → the service's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, BinaryIO, TypeVar

import numpy as np
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from equiav.config import Modalities
from equiav.search.index import Hit
from equiav.serve.problems import Refusal, may_be_refused
from equiav.serve.schemas import (
    Embedding,
    FileOptions,
    FileQuery,
    FoundClip,
    JsonQuery,
    Ranking,
    file_and,
    in_json,
    links,
)
from equiav.serve.service import OTHER, Served, Service
from equiav.serve.sources import shown

FIELDS = 1200  # of a form; a thousand of them may be ids of clips
FIELD_BYTES = 4096
ASKED = may_be_refused(400, 404, 409, 415, 422, 429, 503)
LISTS = ("labels", "sources", "exclude")

M = TypeVar("M", bound=BaseModel)


def _service(request: Request) -> Service:
    return request.app.state.service


TheService = Annotated[Service, Depends(_service)]


def add_asking(app: FastAPI) -> None:
    """Add the endpoints that run a model or search."""

    @app.post("/v1/embed", responses=ASKED, openapi_extra=_body(file_and(FileOptions)))
    async def embed(request: Request, service: TheService) -> Embedding:
        """Unit vectors of a file's sound and picture."""
        with service.in_hand():
            async with _form(request, FileOptions) as (options, file):
                run = service.run(options.run)
                with service.in_time():
                    decoded, found = await service.embed(run, file, options.use_as)
        return Embedding(
            run=run.name,
            fingerprint=run.fingerprint,
            kind=decoded.kind,
            windows=max(len(decoded.sounds), len(decoded.pictures)),
            audio=None if found.audio is None else found.audio.tolist(),
            visual=None if found.visual is None else found.visual.tolist(),
        )

    @app.post("/v1/search", responses=ASKED, openapi_extra=_body({**file_and(FileQuery), **in_json(JsonQuery)}))
    async def search(request: Request, service: TheService) -> Ranking:
        """Clips ranked by a file (multipart), or by a clip or a vector (JSON)."""
        with service.in_hand():
            if _content_type(request) == "application/json":
                return await _search_json(service, _valid(JsonQuery, await request.body()))
            async with _form(request, FileQuery) as (query, file):
                run = service.run(query.run)
                with service.in_time():
                    kind, hits = await service.search_file(run, file, query.use_as, query.by, **query.of_search())
                    return await _ranking(service, run, kind, query.by, hits)


async def _search_json(service: Service, query: JsonQuery) -> Ranking:
    if (query.clip is None) == (query.vector is None):
        raise Refusal(422, "give exactly one of clip and vector")
    run = service.run(query.run)
    with service.in_time():
        if query.clip is not None:
            await service.clip(query.clip)
            kind: Modalities = "both"
            hits = await service.search(run, query.by, clip=query.clip, **query.of_search())
        else:
            kind, vector = query.vector_of, np.array(query.vector)
            hits = await service.search(run, query.by, vector=vector, vector_of=kind, **query.of_search())
        return await _ranking(service, run, kind, query.by, hits)


async def _ranking(service: Service, run: Served, kind: Modalities, by: Modalities | None, hits: list[Hit]) -> Ranking:
    origins = await service.origins([hit.clip_id for hit in hits])
    found = []
    for hit in hits:
        origin, status = origins.get(hit.clip_id, ("", "ok"))
        source = shown(hit.source, origin)
        found.append(FoundClip.model_validate(hit.to_dict() | {"source": source} | links(hit.clip_id, status)))
    return Ranking(run=run.name, kind=kind, by=by or OTHER[kind], hits=found)


@asynccontextmanager
async def _form(request: Request, options: type[M]) -> AsyncIterator[tuple[M, BinaryIO]]:
    """The options and the file of a multipart body; of the file's name nothing is used."""
    if _content_type(request) != "multipart/form-data":
        raise Refusal(415, "a file is sent as multipart/form-data, in its part `file`")
    try:
        form = await request.form(max_files=1, max_fields=FIELDS, max_part_size=FIELD_BYTES)
    except (ValueError, LookupError, UnicodeError):  # odd charsets
        raise Refusal(400, "the form cannot be read") from None
    try:
        files = [(name, part) for name, part in form.multi_items() if isinstance(part, UploadFile)]
        if [name for name, _ in files] != ["file"]:
            raise Refusal(422, "one file is expected, in the part `file`")
        yield _valid(options, _fields(form)), files[0][1].file
    finally:
        await form.close()


def _fields(form: FormData) -> dict[str, Any]:
    """The fields of a form; lists are fields that are repeated."""
    fields: dict[str, Any] = {}
    for name in form:
        values = [value for value in form.getlist(name) if isinstance(value, str)]
        if values:
            fields[name] = values if name in LISTS or len(values) > 1 else values[0]
    return fields


def _valid(options: type[M], given: dict[str, Any] | bytes) -> M:
    try:
        if isinstance(given, bytes):
            return options.model_validate_json(given, strict=True)
        return options.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}
