"""What an older equiav stored under other names:  its rows and rejects get the names of today; nothing is decoded."""

from __future__ import annotations

from dataclasses import replace

from equiav.library.items import Listing, as_text
from equiav.library.records import STATUSES
from equiav.library.table import Library


def take_over(library: Library, listing: Listing) -> None:
    """Give what an earlier ingest of this source stored under former keys of its items their keys of today.

    Rows change in one commit; a kill before or after it, or between it and the rejects, leaves what the next run mends.
    """
    former = {old: item.key for item in listing.items for old in item.former_keys}
    for item in listing.items if former else []:
        former.pop(item.key, None)  # what is listed itself is not another's
    if not former:
        return
    origin = as_text(listing.source)
    rows = library.clips(columns=["clip_id", "item", "origin"], statuses=STATUSES)
    known = zip(*(rows[name].to_pylist() for name in ("clip_id", "item", "origin")), strict=True)
    library.update(
        [{"clip_id": clip_id, "item": former[item]} for clip_id, item, by in known if by == origin and item in former]
    )
    rejects = library.rejects()
    renamed = [reject for reject in rejects if reject.origin == origin and reject.item in former]
    there = {reject.item for reject in rejects}
    new = {former[reject.item]: replace(reject, item=former[reject.item]) for reject in renamed}
    library.reject([reject for key, reject in new.items() if key not in there])
    library.forgive([reject.item for reject in renamed])
