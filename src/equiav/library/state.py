"""What an ingest knows and decides:  one record per clip, one per item, and the steps that change them.

A clip has one owner: the item whose row it is, or that is reading it. Other items with the same content are its
copies. The laws are those of docs/data.md; each stands beside the line that holds it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from equiav.library.coverage import IngestReport
from equiav.library.items import HELD_OUT, Item, Listing, as_text, files_of, is_held_out
from equiav.library.records import STATUSES, Clip, KnownItem, Reject
from equiav.library.table import Library
from equiav.library.windows import NO_FILE, ClipWindow, Examined, Stamp

NOT_LISTED = -1


@dataclass(slots=True, eq=False)
class ItemState:
    """An item that the source lists, or that the library holds."""

    place: int = NOT_LISTED  # in the source
    before: KnownItem | None = None  # what the library held of it when this ingest began
    recorded: Reject | None = None  # its row among the rejects
    stamp: Stamp = NO_FILE  # of its files when this ingest began
    clips: dict[str, ClipState] = field(default_factory=dict)  # those whose rows are its own
    reading: Reading | None = None
    reject: Reject | None = None  # why it does not give all its clips, as far as this ingest knows
    unreachable: Item | None = None  # the item itself if it cannot be read now: it keeps its clips

    def is_gone(self) -> bool:
        """Whether this source does not list an item that gave clips, and its file is not there."""
        return self.before is not None and self.place == NOT_LISTED and not any(files_of(self.before.source))


@dataclass(slots=True, eq=False)
class ClipState:
    """A clip that has a row, or that an item of the source would give."""

    stored: bool = False  # it has a row, in the table or in the next commit
    added: bool = False  # by this ingest
    owner: ItemState | None = None  # None: no item gives it (any more), so far
    labels: tuple[str, ...] = ()  # labels and split of its row: a list may name single windows of a file
    split: str = ""
    content: str | None = None  # hash of the files that its row is from, as far as that is known
    named_by: tuple[int, Item] | None = None  # the first item of the list that names it, and its place
    # the other items that would give it, by their keys: of one clip there may be very many
    copies: dict[str, tuple[Item, Examined]] = field(default_factory=dict)


@dataclass
class Reading:
    """The windows of an item that are being read."""

    item: Item
    wanted: list[str]  # clips to come
    tasks: int  # still to come back
    reject: Reject | None = None
    again: bool = False  # to be examined once more: an item that it is a copy of failed meanwhile


@dataclass
class Uncommitted:
    """What the next commit writes."""

    clips: list[Clip] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # clip_id → its row for Library.update
    items: dict[str, ItemState] = field(default_factory=dict)  # whose rejects are to be written, or dropped


class IngestState:
    """The records, by `Item.key` and by clip id, and what of them is not written yet."""

    def __init__(self, library: Library, report: IngestReport, listing: Listing) -> None:
        self.report, self.origin, self.listing = report, as_text(listing.source), listing
        self.items, self.clips = defaultdict[str, ItemState](ItemState), defaultdict[str, ClipState](ClipState)
        self.uncommitted = Uncommitted()
        for place, item in enumerate(listing.items):
            self.items[item.key].place = place
        for key, known in library.known_items().items():
            self.items[key].before = known
        for reject in library.rejects():
            self.items[reject.item].recorded = reject
        table = library.clips(columns=["clip_id", "item", "labels", "split", "content"], statuses=STATUSES)
        for clip_id, key, labels, split, content in zip(*(column.to_pylist() for column in table.columns), strict=True):
            self._store(clip_id, key, tuple(labels), split, content)

    def _store(self, clip_id: str, key: str, labels: tuple[str, ...], split: str, content: str | None) -> ClipState:
        clip, item = self.clips[clip_id], self.items[key]
        clip.stored, clip.owner, clip.labels, clip.split, clip.content = True, item, labels, split, content
        item.clips[clip_id] = clip
        return clip

    def add(self, clip: Clip) -> None:
        """A clip was read."""
        clip = replace(clip, split=self._split(clip.split, clip.content))
        self.uncommitted.clips.append(clip)
        self._store(clip.clip_id, clip.item, tuple(clip.labels), clip.split, clip.content).added = True

    def _split(self, split: str, content: str | None) -> str:
        """Where `split` is given to a clip of this content: all windows and all copies of one are in one split."""
        share = self.listing.hold_out
        return HELD_OUT if share and content and is_held_out(content, share) else split

    def examined(self, item: Item, found: Examined) -> list[ClipWindow]:
        """The windows of an item that are to be read: the others have a row, or another item owns them."""
        state, ids = self.items[item.key], [window.clip_id for window in found.windows]
        known = state.before
        moved = known is not None and (known.stamp, known.source) != (found.stamp, item.source)
        self.release(state, state.clips.keys() - ids)  # a changed file replaces its clips
        self.name(item, ids)
        wanted = []
        for window in found.windows:
            clip = self.clips[window.clip_id]
            owner, noted, clip.content = clip.owner, clip.content, found.content
            if clip.stored and (owner is None or (owner is not state and owner.is_gone())):
                self._take(window.clip_id, item, found, self.origin)  # a renamed file is the same clip
            elif owner is not None and owner is not state:
                # the same content twice is one clip, of the file that gave it first
                self.report.duplicates += item.key not in clip.copies
                clip.copies[item.key] = item, found
            elif not clip.stored:
                clip.owner = state
                wanted.append(window)
            elif known and (moved or noted is None):
                self._take(window.clip_id, item, found, known.origin)  # a touched file is not decoded again
        return wanted

    def name(self, item: Item, clip_ids: Iterable[str]) -> None:
        """A list says what labels and split these clips have: of two lines of one list the first does.

        A folder says labels or splits where it was asked for them.
        """
        if self.listing.labelled or self.listing.by_folder or self.listing.hold_out:
            named_by = self.items[item.key].place, item
            for clip_id in clip_ids:
                clip = self.clips[clip_id]
                if clip.named_by is None or named_by[0] < clip.named_by[0]:
                    clip.named_by = named_by

    def release(self, state: ItemState, clip_ids: Iterable[str]) -> None:
        """An item does not give these clips any more.

        A clip that a copy gives stays, with its labels and split. One without a copy goes when all have been examined.
        """
        for clip_id in clip_ids:
            clip = state.clips.pop(clip_id)
            clip.owner = None
            if clip.copies:
                item, found = clip.copies.pop(next(iter(clip.copies)))
                self.report.duplicates -= 1
                self._take(clip_id, item, found, self.origin)

    def _take(self, clip_id: str, item: Item, found: Examined, origin: str) -> None:
        """Make the row of a clip this item's: nothing is decoded anew."""
        clip, key = self.clips[clip_id], item.key
        if clip.owner:
            del clip.owner.clips[clip_id]
        self._store(clip_id, key, clip.labels, clip.split, found.content)
        row = {"clip_id": clip_id, "item": key, "source": item.source, "origin": origin, "content": found.content}
        row |= {"item_windows": found.count, "item_tail_s": found.tail_s}
        self.uncommitted.rows[clip_id] = row | dict(zip(("file_size", "file_mtime_ns"), found.stamp, strict=True))

    def not_read(self, reading: Reading) -> list[Item]:
        """Take from an item the clips that it could not read; its copies are as bad, and are to be recorded too."""
        copies = []
        for clip in (self.clips[clip_id] for clip_id in reading.wanted):
            if not clip.stored:
                copies += [item for item, _ in clip.copies.values()]
                clip.owner, clip.copies = None, {}
        self.report.duplicates -= len(copies)
        return copies

    def remove_unowned(self) -> list[str]:
        """The clips that no item gives; from now on they count as not stored."""
        unowned = sorted(clip_id for clip_id, clip in self.clips.items() if clip.stored and clip.owner is None)
        for clip_id in unowned:
            self.clips[clip_id].stored = False
        return unowned

    def relabelled(self) -> list[dict[str, Any]]:
        """New labels and splits of the clips that a list names, for `Library.update`.

        Only when all have been examined: the first line that names a clip may be examined late.
        """
        for state in self.items.values():
            if state.unreachable:  # also files that cannot be reached get the labels of their list
                self.name(state.unreachable, state.clips)
        listing, new = self.listing, []
        for clip_id, clip in self.clips.items():
            if clip.stored and clip.named_by:
                item = clip.named_by[1]
                labels = item.labels if listing.labelled or listing.by_folder else clip.labels
                split = self._split(item.split, clip.content) if listing.labelled or listing.hold_out else clip.split
                if (clip.labels, clip.split) != (labels, split):
                    clip.labels, clip.split = labels, split
                    new.append({"clip_id": clip_id, "labels": labels, "split": split})
                    self.report.clips_relabelled += not clip.added
        return new

    def knows_contents(self, state: ItemState) -> bool:
        """Whether it is known, as far as this ingest needs it, what the clips of an item are made of."""
        return not self.listing.hold_out or all(clip.content for clip in state.clips.values())

    def copies(self) -> dict[str, str]:
        """Files of this source that another one is stored for, because it has their content; and that content."""
        found = (copy for clip in self.clips.values() if clip.stored for copy in clip.copies.values())
        return {item.source: examined.content for item, examined in found if examined.content}

    def held_out(self) -> int:
        """Items of this source with clips that are held out."""
        listed = (item for item in self.items.values() if item.place != NOT_LISTED)
        return sum(any(clip.split == HELD_OUT for clip in item.clips.values()) for item in listed)
