"""Where libraries and media lie:  a folder, or a place on an object store, `s3://`, `gs://` or `az://`.

Stores are reached through obstore, which stands on the same Rust library as Lance: what the environment says (AWS_…,
GOOGLE_…, AZURE_…) holds for both, and a write can be refused where there is something already, which is what a single
writer needs (`library.lease`). Credentials are read from the environment alone, neither kept nor shown.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

from equiav.errors import ConfigError, LibraryError

SCHEMES = ("s3", "gs", "az")
BLOCK = 8 << 20
Tag: TypeAlias = dict[str, str]  # of a content: ETag, or what a store has for it
ANYTHING: Tag = {}
RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}  # a lease must be renewed in time


class Stat(NamedTuple):
    """Of an object what `Path.stat` tells of a file; the time is a number that its ETag gives, which no copy keeps."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True)
class BucketPath:
    """A place on an object store, with what pathlib's paths can do as far as it is needed here."""

    url: str
    listed: Stat | None = field(default=None, compare=False)  # what a listing said of it

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(f"{self.url}/{name}")

    @property
    def _key(self) -> PurePosixPath:
        return PurePosixPath(self.url.split("://")[1])

    @property
    def name(self) -> str:
        """Behind the last slash."""
        return self._key.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._key.stem

    @property
    def suffix(self) -> str:
        """From the name's last dot on."""
        return self._key.suffix

    @property
    def parent(self) -> BucketPath:
        """What it lies in."""
        return BucketPath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> BucketPath:
        """Another one beside it."""
        return self.parent / name

    def absolute(self) -> BucketPath:
        """Itself."""
        return self

    def stat(self) -> Stat:
        """Size and ETag.

        Raises:
            FileNotFoundError: no such object. LibraryError: the store does not answer.
        """
        if self.listed:
            return self.listed
        with self._store() as (obstore, store, key):
            return _stat(obstore.head(store, key))

    def last_modified(self) -> datetime:
        """When it was written, by the store's clock."""
        with self._store() as (obstore, store, key):
            return obstore.head(store, key)["last_modified"]

    def read_bytes(self) -> bytes:
        """All of it."""
        return self.read_with_tag()[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of it, as text."""
        return self.read_bytes().decode(encoding)

    def read_with_tag(self) -> tuple[bytes, Tag]:
        """All of it, and the tag of just this content."""
        with self._store() as (obstore, store, key):
            found = obstore.get(store, key)
            return bytes(found.bytes()), _tag(found.meta)

    def write(self, content: bytes, *, over: Tag | None = ANYTHING) -> Tag | None:
        """Write it whole or not at all.

        Args:
            content: what to write.
            over: the tag of what it may replace; None: nothing may be there.

        Returns:
            Its own tag; None where something else is there.
        """
        mode = "create" if over is None else over or "overwrite"
        with self._store() as (obstore, store, key):
            refused = obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError, FileNotFoundError
            try:
                return _tag(obstore.put(store, key, content, mode=mode, use_multipart=False))
            except refused:
                if over == ANYTHING:
                    raise
                return None

    def unlink(self) -> None:
        """Remove it, if it is there."""
        with self._store() as (obstore, store, key):
            obstore.delete(store, key)

    def objects(self) -> Iterator[BucketPath]:
        """All objects below, by name."""
        with self._store() as (obstore, store, key):
            found = [one for part in obstore.list(store, prefix=key or None) for one in part]
        root = self.url.removesuffix(key)
        for one in sorted(found, key=lambda one: one["path"]):
            yield BucketPath(f"{root}{one['path']}", _stat(one))

    def entries(self) -> list[BucketPath]:
        """What lies directly in it, by name."""
        with self._store() as (obstore, store, key):
            found = obstore.list_with_delimiter(store, prefix=key or None)
        names = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return [self / PurePosixPath(name).name for name in sorted(names)]

    def download(self, target: Path) -> Stat:
        """Write its content into a file; what it was then."""
        with self._store() as (obstore, store, key), target.open("wb") as file:
            found = obstore.get(store, key)
            for block in found.stream(min_chunk_size=BLOCK):
                file.write(block)
            return _stat(found.meta)

    @contextmanager
    def _store(self) -> Iterator[tuple[Any, Any, str]]:
        scheme, _, rest = self.url.partition("://")
        bucket, _, key = rest.partition("/")
        obstore = _obstore(self.url)
        try:
            yield obstore, _bucket(f"{scheme}://{bucket}"), key
        except obstore.exceptions.BaseError as error:
            raise LibraryError(f"{self.url}: the object store refused or did not answer: {_first(error)}") from None


Place: TypeAlias = Path | BucketPath


def place_of(text: str | Place) -> Place:
    """The place that a path or URL names.

    Raises:
        ConfigError: a protocol that is not known to keep two writers apart.
    """
    if isinstance(text, BucketPath):
        return text
    given = str(text)
    if isinstance(text, Path):  # which makes one of several slashes
        first, _, rest = given.partition(":/")
        given = f"{first}://{rest}" if rest and first in SCHEMES else given
    scheme, mark, rest = given.partition("://")
    if not mark:
        return Path(text)
    parts = [part for part in rest.split("/") if part]
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{given}: found the protocol {scheme}; expected a folder, or s3://, gs:// or az://, whose stores can "
            "refuse a write where something is already: elsewhere two writers could damage a library. Download or "
            "mount it, and give the folder"
        )
    if not parts or ".." in parts:
        raise ConfigError(f"{given}: expected {scheme}://BUCKET/FOLDER")
    return BucketPath(f"{scheme}://{'/'.join(parts)}")


def _tag(found: Any) -> Tag:
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}


def _stat(found: Any) -> Stat:
    tag = f"{found['e_tag'] or found['last_modified'].isoformat()}"
    return Stat(found["size"], int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "big") >> 1)


def _obstore(url: str) -> Any:
    try:
        importlib.import_module("obstore.exceptions")
        return importlib.import_module("obstore")
    except ModuleNotFoundError:
        raise ConfigError(f"{url} needs obstore, which is not installed: pip install 'equiav[cloud]'") from None


@lru_cache
def _bucket(url: str) -> Any:
    return importlib.import_module("obstore.store").from_url(url, retry_config=RETRIES)


def _first(error: Exception) -> str:
    """What an error says, without the dump of its causes."""
    return str(error).partition("\n\nDebug source")[0].strip()[:500]
