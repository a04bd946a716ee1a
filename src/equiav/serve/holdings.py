"""What a library holds, and what gave no clip:  a library → counts, labels; rejects, without places of this machine."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Query

from equiav.library.stats import library_stats
from equiav.serve.asking import TheService
from equiav.serve.problems import READ, may_be_refused
from equiav.serve.schemas import LABELS, LabelCount, LibraryInfo, RejectInfo, RejectPage, RejectsQuery
from equiav.serve.sources import shown, without_folders

if TYPE_CHECKING:
    from equiav.library.records import Reject
    from equiav.library.table import Library


def add_holdings(app: FastAPI) -> None:
    """Add the endpoints of the library as a whole."""

    @app.get("/v1/library", responses=may_be_refused(409, *READ))
    async def library(service: TheService) -> LibraryInfo:
        """Counts of clips, files, hours, labels and rejects."""
        return await service.read(lambda: describe(service.library))

    @app.get("/v1/rejects", responses=may_be_refused(409, 422, *READ))
    async def rejects(query: Annotated[RejectsQuery, Query()], service: TheService) -> RejectPage:
        """Files and windows that gave no clip, by their names."""
        return await service.read(lambda: list_rejects(service.library, query))


def describe(library: Library) -> LibraryInfo:
    """Count everything, whatever its status."""
    stats = library_stats(library)
    long = stats.durations
    return LibraryInfo(
        name=library.path.absolute().name,
        clips=stats.clips,
        files=stats.files,
        hours=long.hours,
        shortest_s=long.shortest_s,
        median_s=long.median_s,
        longest_s=long.longest_s,
        status=stats.status,
        splits=stats.splits,
        labels=[LabelCount(label=label, clips=clips) for label, clips in islice(stats.labels.items(), LABELS)],
        labels_in_all=len(stats.labels),
        unlabelled=stats.unlabelled,
        copies=stats.copies,
        rejects=stats.rejects,
    )


def list_rejects(library: Library, query: RejectsQuery) -> RejectPage:
    """What gave no clip, ordered by file: the same order for each page."""
    found = sorted(library.rejects(), key=lambda reject: (reject.path, reject.item))
    reasons = Counter(reject.reason for reject in found)
    chosen = [reject for reject in found if query.reason in (None, reject.reason)]
    return RejectPage(
        total=len(chosen),
        reasons=dict(sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))),
        rejects=[reject_info(reject) for reject in chosen[query.offset : query.offset + query.k]],
    )


def reject_info(reject: Reject) -> RejectInfo:
    """A reject as clients see it."""
    source = shown(reject.path, reject.origin)
    detail = reject.detail
    for place in (reject.path, reject.path.rpartition("#")[0]):
        detail = detail.replace(place, source) if place else detail
    return RejectInfo(source=source, stage=reject.stage, reason=reject.reason, detail=without_folders(detail))
