"""What an ingest did, and how much of a list was there:  items, rejects  →  counts per split; kept with the library.

L/sources/NAME-HASH.json holds what the last ingest of a source did, and its coverage if the source is a list. What is
missing or unreadable stands in L/rejects.lance, each with its reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from equiav.config import Features
from equiav.errors import LibraryError
from equiav.files import write_text
from equiav.library.items import Item, as_text
from equiav.library.places import BucketPath, Place
from equiav.library.records import Reject
from equiav.media.windows import shortest_tail_s
from equiav.words import counted


@dataclass
class Coverage:
    """Of one split: what the list names, what of it is there, and what of that gave no clip, wholly or in part."""

    split: str
    listed: int = 0
    found: int = 0
    missing: int = 0
    unreadable: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Tails:
    """Ends of items that were dropped, as too short for a window: how many, and how long they are together."""

    count: int = 0
    seconds: float = 0.0
    shorter_than_s: float = 0.0  # what a last window must have
    unknown: int = 0  # items that an older equiav ingested, which did not write it down

    def __str__(self) -> str:
        """In words."""
        were, least_s = "was" if self.count == 1 else "were", self.shorter_than_s
        least = f"{least_s:.1f}" if least_s == round(least_s, 1) else f"{least_s:g}"
        text = f"{counted(self.count, 'tail')} shorter than {least} s {were} dropped "
        text += f"({self.seconds:.{1 if self.seconds >= 0.1 or not self.count else 3}f} s in all)"
        items = counted(self.unknown, "item")
        return text + (f"; it is not known of {items} that an older equiav ingested" if self.unknown else "")


@dataclass
class IngestReport:
    """What an ingest did. `rejects` are the items of this source that gave no clip, now or in an earlier run."""

    files: int = 0
    ignored: int = 0  # files of the folder that no suffix tells to be media
    system_folders: dict[str, int] = field(default_factory=dict)  # trash, snapshots, thumbnails: name → left out
    clips_added: int = 0
    clips_present: int = 0
    clips_relabelled: int = 0
    clips_dropped: int = 0  # of files that are gone, by `prune`
    statuses: dict[str, int] = field(default_factory=dict)  # status → clips added
    held_out: int = 0  # files of this source whose clips are held out
    duplicates: int = 0  # clips whose content and window are in the library already, under another name
    copies: dict[str, str] = field(default_factory=dict)  # the files of these, and their content, as clips have it
    tails: Tails = field(default_factory=Tails)  # of the items of this source that have clips
    rejects: list[Reject] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)  # of a list, per split


def tails_of(found: Iterable[float | None], features: Features) -> Tails:
    """Count the tails of items, in seconds each."""
    tails = list(found)
    dropped = [tail_s for tail_s in tails if tail_s]
    return Tails(len(dropped), math.fsum(dropped), shortest_tail_s(features), unknown=tails.count(None))


def cover(items: Iterable[Item], rejects: Iterable[Reject]) -> list[Coverage]:
    """Coverage of each split, by name."""
    reasons = {reject.item: reject.reason for reject in rejects}
    splits: dict[str, Coverage] = {}
    for item in items:
        one, reason = splits.setdefault(item.split, Coverage(item.split)), reasons.get(item.key)
        one.listed += 1
        one.missing += reason == "missing"
        one.unreadable += reason not in (None, "missing")
        one.found = one.listed - one.missing
        if reason:
            one.reasons[reason] = one.reasons.get(reason, 0) + 1
    return [splits[name] for name in sorted(splits)]


def keep_record(library: Place, source: Place, record: dict[str, Any]) -> None:
    """Write what an ingest of `source` did into the library folder, whole or not at all.

    Raises:
        LibraryError: the folder cannot be written.
    """
    place = as_text(source)
    name = f"{Path(place).stem[:40].lstrip('.')}-{hashlib.sha256(place.encode()).hexdigest()[:8]}.json"
    record = {"source": place, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")} | record
    target, text = library / "sources" / name, json.dumps(record, indent=2)
    if isinstance(target, BucketPath):
        target.write(text.encode())
    else:
        write_text(target, text, LibraryError)


def read_records(library: Place) -> Sequence[dict[str, Any]]:
    """What the last ingest of each source did.

    Raises:
        LibraryError: one is damaged.
    """
    records = []
    folder = library / "sources"
    entries = folder.entries() if isinstance(folder, BucketPath) else sorted(folder.glob("*.json"))
    for path in (entry for entry in entries if entry.name[0] != "."):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            record |= {"source": str(record["source"]), "duplicates": int(record["duplicates"])}
            record["coverage"] = [asdict(Coverage(**one)) for one in record["coverage"]]
            record["copies"] = dict(record.get("copies", {}))  # an older equiav did not write them down
            records.append(record)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise LibraryError(f"{path} is damaged ({error!r}); ingest its source again, or remove it") from None
    return records
