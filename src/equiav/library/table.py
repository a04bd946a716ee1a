"""The library on disk:  L/clips.lance (one row per clip) and L/rejects.lance (one row per thing that gave none).

Every append is one atomic Lance commit; the tables' metadata hold the schema version and the feature settings.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from equiav.config import Features, recipes_for
from equiav.errors import LibraryError
from equiav.library.items import is_folder
from equiav.library.lock import only_writer
from equiav.library.places import Place, place_of
from equiav.library.records import WHOLE, Clip, KnownItem, Reject
from equiav.library.versions import (
    commits_of,
    free_old_versions,
    index_ids,
    is_newest,
    is_table,
    make_place,
    make_table,
    name_of_version,
    open_table,
    reading,
    stamp_of_table,
    writing,
)
from equiav.words import counted, have

SCHEMA_VERSION = 2
VERSION_KEY, FEATURES_KEY = b"equiav.library", b"equiav.features"
FRAGMENTS = 64  # more small ones than this are joined
FRAGMENT_ROWS = 4096  # larger ones are left alone: a gigabyte or two
NO_TIME = -(2**63)  # a modification time that no file has


class Library:
    """A folder of clips.

    Args:
        path: the folder, or s3://BUCKET/FOLDER, gs://… or az://….
        version: of its clips, to read them as another process does; default the newest.

    Raises:
        LibraryError: there is no library or no such version, or it is damaged, or of a newer equiav.
    """

    def __init__(self, path: str | Place, version: int | None = None) -> None:
        self.path = place_of(path)
        self._clips_path, self._rejects_path = self.path / "clips.lance", self.path / "rejects.lance"
        if not is_table(self._clips_path) and not is_folder(self._clips_path):
            raise LibraryError(f"{self.path} holds no library; make one: equiav ingest VIDEOS --library {self.path}")
        self._stamp = stamp_of_table(self._clips_path)
        self._clips_commits, self._rejects_commits = commits_of(self._clips_path), commits_of(self._rejects_path)
        self._clips = self._open_clips(version)
        metadata = self._clips.schema.metadata or {}
        schema = metadata.get(VERSION_KEY, b"").decode()
        if schema != str(SCHEMA_VERSION):
            found = f"has schema {schema}" if schema else "was not made by equiav"
            raise LibraryError(
                f"{self._clips_path} {found}; this equiav reads schema {SCHEMA_VERSION}: ingest into a new folder, or "
                "use the equiav that it was made with"
            )
        self.opened = name_of_version(self._clips)  # None where it is not known
        try:
            self.features = Features.model_validate_json(metadata.get(FEATURES_KEY, b"{}"))
        except ValidationError as error:
            raise LibraryError(
                f"{self._clips_path}: feature settings that this version of equiav cannot read: {error}"
            ) from None

    @classmethod
    def create(cls, path: str | Place, features: Features) -> Library:
        """Make an empty library, or open the one there is.

        Raises:
            LibraryError: the library there was made with other features, or the folder cannot be written.
        """
        path = place_of(path)
        with writing(path):
            make_place(path)
            for table, schema in (("rejects", _REJECTS_SCHEMA), ("clips", _clips_schema(features))):
                make_table(path / f"{table}.lance", schema)
        library = cls(path)
        missing = [f.name for f in fields(Clip) if f.name not in (*library._clips.schema.names, *_LATER)]
        if missing:
            raise LibraryError(f"{path} has no columns {', '.join(missing)}: ingest into a new folder")
        if library.features != features:
            found, wanted = library.features.model_dump(), features.model_dump()
            differ = "; ".join(f"{k} is {found[k]}, requested {wanted[k]}" for k in found if found[k] != wanted[k])
            fits = "".join(f"; it fits recipe {name}" for name in recipes_for(library.features)[:1])
            raise LibraryError(f"{path} was made with other features: {differ}. Use the same, or another folder{fits}")
        return library

    def append(self, clips: Sequence[Clip]) -> None:
        """Add rows in one atomic commit: a reader, or the next run, sees all of them or none."""
        if not clips:
            return
        schema = self._clips.schema
        columns: dict[str, Any] = {name: [getattr(clip, name) for clip in clips] for name in schema.names}
        size, silence = schema.field("fbank").type.list_size, np.array([clip.fbank is None for clip in clips])
        flat = np.zeros((len(clips), size), np.float16)  # what is masked is not stored
        for row, clip in zip(flat, clips, strict=True):
            if clip.fbank is not None:
                row[:] = clip.fbank.ravel()
        columns["fbank"] = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), size, mask=pa.array(silence))
        with writing(self.path):
            self._clips = lance.write_dataset(
                pa.table(columns, schema=schema), str(self._clips_path), mode="append", commit_lock=self._clips_commits
            )

    def remove(self, clip_ids: Sequence[str]) -> None:
        """Drop clips."""
        if clip_ids:
            with writing(self.path):
                self._clips.delete(f"clip_id IN ({quoted(clip_ids)})")

    def update(self, new: Sequence[Mapping[str, Any]]) -> None:
        """Change columns of clips: rows of `clip_id` and the new values, of the same columns in all of them."""
        if new:
            schema = pa.schema([self._clips.schema.field(name) for name in new[0]])
            rows = pa.Table.from_pylist([dict(row) for row in new], schema=schema)
            with writing(self.path):
                self._clips.merge_insert("clip_id").when_matched_update_all().execute(rows)
            self._clips = self._open_clips()

    def reject(self, rejects: Sequence[Reject]) -> None:
        """Record what gave no clip; an item's older record is replaced."""
        if rejects:
            rows = pa.Table.from_pylist([asdict(reject) for reject in rejects], schema=_REJECTS_SCHEMA)
            merge = self._open_rejects().merge_insert("item")
            with writing(self.path):
                merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def drop_rejects(self, items: Sequence[str]) -> None:
        """Drop the reject records of items that gave clips after all."""
        if items:
            with writing(self.path):
                self._open_rejects().delete(f"item IN ({quoted(items)})")

    def rejects(self) -> list[Reject]:
        """All reject records."""
        if not is_table(self._rejects_path):
            return []
        with reading(self._rejects_path):
            return [Reject(**row) for row in self._open_rejects().to_table().to_pylist()]

    def clips(
        self, split: str | None = None, columns: list[str] | None = None, statuses: Collection[str] = WHOLE
    ) -> pa.Table:
        """The rows in the table's order, of one split or all; without `statuses` those with both modalities (ok)."""
        return self._rows(columns, _where(split, statuses))

    def select(self, columns: list[str], where: str | None = None, ids: Collection[str] | None = None) -> pa.Table:
        """Columns of the clips, whatever their status, that match a Lance expression and are among `ids`."""
        both = [f"({where})"] if where else []
        if ids is not None:
            both.append(f"clip_id IN ({quoted(ids)})")
        return self._rows(columns, " AND ".join(both) or None)

    def count(self, split: str | None = None, statuses: Collection[str] = WHOLE) -> int:
        """How many `clips` there are."""
        with reading(self._clips_path):
            return self._clips.count_rows(filter=_where(split, statuses))

    def splits(self, statuses: Collection[str] = WHOLE) -> list[str]:
        """Names of the splits that have `clips`."""
        return sorted(set(self.clips(None, ["split"], statuses)["split"].to_pylist()))

    def positions(self, split: str | None = None, statuses: Collection[str] = WHOLE) -> NDArray[np.int64]:
        """Row numbers for `take`, of one split or all, in the table's order."""
        table = self._rows(["status", "split"])
        rows = enumerate(zip(table["status"].to_pylist(), table["split"].to_pylist(), strict=True))
        return np.array([i for i, (status, of) in rows if status in statuses and split in (None, of)], dtype=np.int64)

    def take(self, positions: Sequence[int], columns: list[str] | None = None) -> pa.Table:
        """Rows by number, in the order asked."""
        with reading(self._clips_path):
            return self._clips.take(list(positions), columns=columns)

    def _rows(self, columns: list[str] | None = None, where: str | None = None) -> pa.Table:
        with reading(self._clips_path):
            return self._clips.to_table(columns=columns, filter=where)

    def _open_clips(self, version: int | None = None) -> lance.LanceDataset:
        with reading(self._clips_path):
            return open_table(self._clips_path, self._clips_commits, version)

    def _open_rejects(self) -> lance.LanceDataset:
        with reading(self._rejects_path):
            return open_table(self._rejects_path, self._rejects_commits)

    @property
    def columns(self) -> list[str]:
        """What the clips have; a table of an older equiav lacks some of it."""
        return self._clips.schema.names

    def fbanks(self, table: pa.Table) -> NDArray[np.float32]:
        """The `fbank` column of rows of this library as (n, T, M); all of them must have sound."""
        if silent := table["fbank"].null_count:
            raise LibraryError(f"{self.path}: {silent} of these {counted(len(table), 'clip')} {have(silent)} no sound")
        flat = table["fbank"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.astype(np.float32).reshape(-1, self.features.time_frames, self.features.mel_bins)

    def clip(self, clip_id: str) -> dict[str, Any]:
        """One row as a dict; its `fbank` as float32 (T, M), None without sound.

        Raises:
            LibraryError: no such clip.
        """
        table = self._rows(where=f"clip_id = {quoted([clip_id])}")
        if not len(table):
            raise LibraryError(f"{self.path} holds no clip {clip_id!r}")
        fbank = None if table["fbank"].null_count else self.fbanks(table)[0]
        return table.slice(0, 1).drop(["fbank"]).to_pylist()[0] | {"fbank": fbank}

    def log_mel_stats(self, split: str | None = None, statuses: Collection[str] = WHOLE) -> tuple[float, float]:
        """Mean and standard deviation of the log-mel over all sounding frames (padding left out) of a split."""
        table = self.clips(split, ["fbank_frames", "fbank_mean", "fbank_square"], statuses)
        weight = table["fbank_frames"].to_numpy().astype(np.float64)
        if not weight.sum():
            raise LibraryError(f"{self.path}: split {split!r} has no clips to measure the log-mel on")
        # exact sums: the same clips in another order of rows give the same recipe, to the last bit
        sums = (math.fsum(table[name].to_numpy() * weight) for name in ("fbank_mean", "fbank_square"))
        mean, square = (total / float(weight.sum()) for total in sums)
        variance = square - mean**2
        if variance <= 0:
            raise LibraryError(f"{self.path}: the sound of split {split!r} is all silence, its log-mel is constant")
        return mean, variance**0.5

    def known_items(self) -> dict[str, KnownItem]:
        """All items that have clips, by `Item.key`; where the rows of one disagree about the file it has NO_TIME."""
        columns = ["item", "item_windows", "file_size", "file_mtime_ns", "source", "origin"]
        table = self._rows(columns)
        known: dict[str, KnownItem] = {}
        for item, windows, size, mtime, *rest in zip(*(table[c].to_pylist() for c in columns), strict=True):
            before, stamp = known.get(item), (size, mtime)
            if before and before.stamp != stamp:
                stamp = before.stamp[0], NO_TIME
            known[item] = KnownItem(before.clips + 1 if before else 1, windows, stamp, *rest)
        return known

    def tails(self) -> dict[str, float | None]:
        """The end of each item that no window covers, in seconds, by `Item.key`; None where it is not known."""
        table = self._rows(["item", *({"item_tail_s"} & set(self._clips.schema.names))])
        values = table[1].to_pylist() if table.num_columns > 1 else [None] * len(table)
        tails: dict[str, float | None] = {}
        for item, tail_s in zip(table["item"].to_pylist(), values, strict=True):
            tails[item] = tails.get(item) if tail_s is None else tail_s
        return tails

    def all_ids(self) -> list[str]:
        """Ids of all clips, whatever their status, in the table's order: entry i is row i of `take`."""
        return self._rows(["clip_id"])["clip_id"].to_pylist()

    def clip_ids(self) -> set[str]:
        """Ids of all clips, whatever their status."""
        return set(self.all_ids())

    def fingerprint(self) -> str:
        """Hash of the features and of all clip ids, whatever their order."""
        digest = hashlib.sha256(self.features.model_dump_json().encode())
        for clip_id in sorted(self.clip_ids()):
            digest.update(clip_id.encode())
        return digest.hexdigest()[:16]

    def tidy(self) -> None:
        """Join the small fragments that many appends leave: access and commits stay fast, however many there were."""
        for table in (self._open_clips(), self._open_rejects()):
            if table.stats.dataset_stats(FRAGMENT_ROWS)["num_small_files"] > FRAGMENTS:
                with writing(self.path):
                    # by bytes where nothing was deleted: faster, and it does not hold thousands of clips in memory
                    table.optimize.compact_files(
                        target_rows_per_fragment=FRAGMENT_ROWS, compaction_mode="try_binary_copy"
                    )
        self._clips = self._open_clips()

    def forget_old_versions(self) -> None:
        """Free what was replaced more than a day ago: a library that was opened before can be read for a day."""
        with writing(self.path):
            for table in (self._open_clips(), self._open_rejects()):
                free_old_versions(table)

    @property
    def version(self) -> int:
        """Of the clips, as they are read here: the row numbers of one version mean the same everywhere."""
        return self._clips.version

    def index_ids(self) -> None:
        """Let clips be found by their ids without reading all ids.

        Raises:
            LibraryError: another process is writing to the library.
        """
        with self.locked():
            index_ids(self._clips, self._clips_path)
            self._clips = self._open_clips()

    def is_newest(self) -> bool:
        """Whether the clips on disk are still those that this object reads: a look at a folder, no reading."""
        return is_newest(self._clips, self._clips_path, self._stamp)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out; the lock goes with the process, whatever ends it.

        Raises:
            LibraryError: another process holds it.
        """
        with only_writer(self.path / ".lock", f"{self.path}: another process is writing to it"):
            with writing(self.path):
                for commits in (self._clips_commits, self._rejects_commits):
                    if commits:
                        commits.catch_up()
            self._clips = self._open_clips()
            lacking = [field for field in _clips_schema(self.features) if field.name not in self._clips.schema.names]
            if lacking:  # an older equiav made it: its rows are empty there
                with writing(self.path):
                    self._clips.add_columns(lacking)
            yield


def quoted(names: Collection[str]) -> str:
    """Names as the literals of a Lance expression."""
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)


def _where(split: str | None, statuses: Collection[str]) -> str:
    wanted = f"status IN ({quoted(statuses)})"
    return wanted if split is None else f"{wanted} AND split = {quoted([split])}"


def _schema(record: type[Clip | Reject], fbank: pa.DataType | None = None) -> pa.Schema:
    """The columns of a table are the fields of its records; those that may be None may be empty."""
    text, real = pa.string(), pa.float64()
    types = {"str": text, "int": pa.int64(), "float": real, "NDArray[np.float16]": fbank}
    types |= {"list[str]": pa.list_(text), "list[bytes]": pa.list_(pa.binary()), "list[float]": pa.list_(pa.float32())}
    columns = ((f.name, *str(f.type).partition(" | None")) for f in fields(record))
    return pa.schema([pa.field(name, types[kind], nullable=bool(none)) for name, kind, none, _ in columns])


def _clips_schema(features: Features) -> pa.Schema:
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), FEATURES_KEY: json.dumps(features.model_dump()).encode()}
    fbank = pa.list_(pa.float16(), features.time_frames * features.mel_bins)
    return _schema(Clip, fbank).with_metadata(metadata)


_LATER = ("item_tail_s", "content")  # columns that tables of an older equiav lack until they are written to
_REJECTS_SCHEMA = _schema(Reject)
