"""Versions of a Lance table:  opened, made, told apart, freed; each commit is on the disk before it is reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import lance
import pyarrow as pa

from equiav.errors import LibraryError
from equiav.files import make_folder
from equiav.library.durable import MANIFESTS, Durable, drop_torn
from equiav.library.lease import check_lease
from equiav.library.places import BucketPath, Place

ID_INDEX = "clip_id_idx"
OUTSIDE_ROWS = 10_000  # as many rows may be outside of an index of ids: they are read at each look-up
READABLE = timedelta(days=1)  # how long a version of a table can be read after the next one came


def open_table(path: Place, commits: Durable | None, version: int | None = None) -> lance.LanceDataset:
    """A version of a table, the newest by default; what is written through it goes through `commits`.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    return lance.dataset(str(path), version, commit_lock=commits)


def commits_of(path: Place) -> Durable | None:
    """What has commits to a table on the disk before they are reported; a store does so by itself."""
    return None if isinstance(path, BucketPath) else Durable(path)


def make_place(path: Place) -> None:
    """The folder in which tables are to be."""
    if not isinstance(path, BucketPath):
        make_folder(path)


def make_table(path: Place, schema: pa.Schema) -> None:
    """An empty table, where there is none: what a killed writer left of one has no version, and is none.

    Raises:
        LibraryError: there is data, and no version of it.
    """
    if not is_table(path):
        if not isinstance(path, BucketPath) and any((path / "data").glob("*.lance")):
            raise LibraryError(f"{path} is no readable table (it has data and no version); ingest into a new folder")
        lance.write_dataset(schema.empty_table(), str(path), mode="create", commit_lock=commits_of(path))


def is_table(path: Place) -> bool:
    """Whether there is a table of at least one version; what a power cut left of a commit is set aside."""
    if isinstance(path, BucketPath):
        return bool((path / MANIFESTS).entries())
    drop_torn(path)
    return any((path / MANIFESTS).glob("*.manifest"))


def tables_in(folder: Place) -> list[str]:
    """Names of the tables in a folder, without their suffix."""
    entries = folder.entries() if isinstance(folder, BucketPath) else folder.glob("*.lance")
    return sorted(entry.stem for entry in entries if entry.suffix == ".lance")


def free_old_versions(table: lance.LanceDataset) -> None:
    """Free what was replaced more than a day ago."""
    # by the time when the next one came: an old version may have been the newest until now
    times: list[Any] = [version["timestamp"] for version in table.versions()]
    recent = sum(time > datetime.now() - READABLE for time in times)
    table.cleanup_old_versions(retain_versions=recent + 1)


def index_ids(table: lance.LanceDataset, path: Place) -> None:
    """Make, or extend, the index by which rows are found by `clip_id`; Lance keeps it right whatever is written."""
    with writing(path):
        if ID_INDEX not in {index.name for index in table.describe_indices()}:
            table.create_scalar_index("clip_id", "BTREE", name=ID_INDEX)
        elif table.stats.index_stats(ID_INDEX)["num_unindexed_rows"] > OUTSIDE_ROWS:
            table.optimize.optimize_indices(index_names=[ID_INDEX])


def stamp_of_table(path: Place) -> tuple[int, int]:
    """What changes when a table is written to, or another one takes its place; taken before it is opened."""
    if isinstance(path, BucketPath):  # where folders are only names
        return 0, 0
    try:
        found = (path / MANIFESTS).stat()
    except OSError:  # it is gone, as opening it will say
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def is_newest(table: lance.LanceDataset, path: Place, stamp: tuple[int, int]) -> bool:
    """Whether the table at `path`, opened after `stamp` was taken, is still the newest version of the same one."""
    # two commits within a tick of the file system's clock have one stamp, another table may have the same version
    return stamp_of_table(path) == stamp and table.latest_version == table.version


def name_of_version(table: lance.LanceDataset) -> str | None:
    """A name that no other version of any table has; None where Lance does not know what made it."""
    try:
        written = table.read_transaction(table.version)
    except (ValueError, OSError):
        return None
    return written.uuid if written else None


@contextmanager
def reading(path: Place) -> Iterator[None]:
    """Damage shows when a table is read, not when it is opened: it becomes a LibraryError."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise LibraryError(
            f"{path} is no readable table ({error}); if it is damaged, ingest into a new folder"
        ) from None


@contextmanager
def writing(path: Place) -> Iterator[None]:
    """Errors of a full disk or of a folder that may not be written become LibraryErrors; a lost lease is one."""
    check_lease(path)
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise LibraryError(f"{path} cannot be written: {error}") from None
