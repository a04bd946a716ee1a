"""The clips of a library:  filters → a page of rows; an id → the row, its picture, its spectrogram, its file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pyarrow.compute as pc
from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import Response

from equiav.pages.pictures import spectrogram_png
from equiav.search.filters import clip_filter
from equiav.serve.asking import TheService
from equiav.serve.problems import READ, Refusal, may_be_refused
from equiav.serve.schemas import ClipInfo, ClipPage, ClipsQuery, links
from equiav.serve.service import CLIP
from equiav.serve.sources import FileRange, open_source, shown

if TYPE_CHECKING:
    from equiav.library.table import Library

ClipIdInPath = Annotated[str, Path(min_length=1, max_length=200)]
KEPT = {"Cache-Control": "private, max-age=300"}
ORDER = [("source", "ascending"), ("start_s", "ascending"), ("clip_id", "ascending")]


def add_clips(app: FastAPI) -> None:
    """Add the endpoints of clips."""
    refused = may_be_refused(404, 409, 422, *READ)

    @app.get("/v1/clips", responses=may_be_refused(409, 422, *READ))
    async def clips(query: Annotated[ClipsQuery, Query()], service: TheService) -> ClipPage:
        """Clips that match, by their files and times."""
        return await service.read(lambda: list_clips(service.library, query))

    @app.get("/v1/clips/{clip_id}", responses=refused)
    async def clip(clip_id: ClipIdInPath, service: TheService) -> ClipInfo:
        """What the library says of a clip."""
        return clip_info(await service.clip(clip_id))

    @app.get("/v1/clips/{clip_id}/thumbnail", response_class=Response, responses={**_picture("jpeg"), **refused})
    async def thumbnail(clip_id: ClipIdInPath, service: TheService) -> Response:
        """The picture that a clip is embedded by, at most 128 pixels wide and high."""
        return Response(await service.thumbnail(clip_id), media_type="image/jpeg", headers=KEPT)

    @app.get("/v1/clips/{clip_id}/spectrogram", response_class=Response, responses={**_picture("png"), **refused})
    async def spectrogram(clip_id: ClipIdInPath, service: TheService) -> Response:
        """The log-mel that a clip is embedded by: time to the right, low at the bottom, of 288×96 pixels."""
        found = await service.read(lambda: draw_spectrogram(service.library, clip_id))
        return Response(found, media_type="image/png", headers=KEPT)

    whole = {200: {"content": {"*/*": {}}}, 206: {"description": "Partial Content", "content": {"*/*": {}}}}

    @app.get(
        "/v1/clips/{clip_id}/media", response_class=Response, responses={**whole, **refused, **may_be_refused(416)}
    )
    async def media(clip_id: ClipIdInPath, request: Request, service: TheService) -> Response:
        """The file that a clip is a window of, whole or by range of bytes."""
        row = await service.clip(clip_id)
        file = await service.read(lambda: open_source(row))
        return FileRange(file, row["source"], request.headers)


def _picture(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {f"image/{kind}": {}}}}


def clip_info(row: dict[str, Any]) -> ClipInfo:
    """A row of the library, the columns `CLIP`, as clients see it."""
    source = shown(row["source"], row["origin"])
    return ClipInfo.model_validate(row | {"source": source} | links(row["clip_id"], row["status"]))


def list_clips(library: Library, query: ClipsQuery) -> ClipPage:
    """The clips of a library that match, ordered by file, time and id: the same order for each page."""
    among = clip_filter(query.labels, query.sources, query.split, query.start_s, query.end_s)
    rows = library.select(["clip_id", "source", "start_s"], among and among.where)
    rows = among.of(rows) if among else rows
    order = pc.call_function("sort_indices", [rows], pc.SortOptions(ORDER))
    ids = rows["clip_id"].take(order.slice(query.offset, query.k)).to_pylist()
    found = {row["clip_id"]: row for row in library.select(CLIP, ids=ids).to_pylist()} if ids else {}
    return ClipPage(total=len(rows), clips=[clip_info(found[clip_id]) for clip_id in ids])


def draw_spectrogram(library: Library, clip_id: str) -> bytes:
    """A PNG of a clip's log-mel.

    Raises:
        Refusal: no such clip, or it has no sound.
    """
    rows = library.select(["fbank"], ids=[clip_id])
    if not len(rows):
        raise Refusal(404, "the library holds no such clip")
    if rows["fbank"].null_count:
        raise Refusal(404, "this clip has no sound")
    return spectrogram_png(library.fbanks(rows)[0])
