"""The embeddings of a library's clips on disk:  L/embeddings/<model fingerprint>.lance, one row per clip.

`clip_id, thumbnail, audio_embedding, visual_embedding`; a clip of one modality has no embedding of the other. What else
there is to say of a clip stands in the library alone, so that nothing here is ever out of date. One process writes at
a time; each append, and each removal, is one atomic Lance commit. The table's metadata says which model made it:
vectors of two models never meet in one ranking.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from equiav.config import Features
from equiav.errors import LibraryError, ModelError
from equiav.library.lock import only_writer
from equiav.library.places import Place, place_of
from equiav.library.table import quoted
from equiav.library.versions import (
    commits_of,
    free_old_versions,
    is_newest,
    is_table,
    make_place,
    make_table,
    open_table,
    stamp_of_table,
    tables_in,
    writing,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64

SCHEMA_VERSION = 3
SCHEMA_KEY, MODEL_KEY, FEATURES_KEY = b"equiav.embeddings", b"equiav.model", b"equiav.features"
MADE_WITH_KEY = b"equiav.made_with"
FILES_OF_CLIPS = ["source", "start_s", "end_s", "labels"]  # columns of schema 2
FRAGMENTS = 64  # more small ones than this are joined
FRAGMENT_ROWS = 32_768  # larger ones are left alone: some hundred megabytes
REMOVED_AT_ONCE = 50_000


@dataclass(frozen=True)
class EmbeddedClips:
    """n clips with their vectors, in the columns of the table."""

    clip_id: list[str]
    thumbnail: list[bytes]
    audio_embedding: Float32[np.ndarray, "n E"] | None  # None: these clips have no sound
    visual_embedding: Float32[np.ndarray, "n E"] | None
    made_with: str = ""  # precision and kind of device, e.g. "bf16 on cuda"


class EmbeddingsTable:
    """One model's embeddings of one library: `open` reads it, `for_writing` makes it when missing."""

    def __init__(self, path: Place) -> None:
        self.path, self._stamp, self._commits = path, stamp_of_table(path), commits_of(path)
        try:
            self.dataset = open_table(path, self._commits)
        except (ValueError, OSError) as error:
            raise LibraryError(
                f"{path} is not a readable embeddings table ({error}); remove it and embed again"
            ) from None

    @classmethod
    def open(cls, library: str | Place, fingerprint: str) -> EmbeddingsTable:
        """Open the table of the model `fingerprint`, as it is now.

        Raises:
            LibraryError: there is none, it is damaged, or it was made with another model or schema.
        """
        path = table_path(library, fingerprint)
        embed = f"equiav embed --library {library} --run RUN"
        if not is_table(path):
            others = [other for other in tables_in(path.parent) if other != fingerprint]
            found = f"found those of other models: {', '.join(others)}" if others else "found none"
            raise LibraryError(f"no embeddings of model {fingerprint} in {library} ({found}); make them: {embed}")
        table = cls(path)
        version, model = table.said(SCHEMA_KEY), table.said(MODEL_KEY)
        if version == "2":
            raise LibraryError(
                f"{path}: embeddings schema 2, of an older equiav; bring it up to date (the vectors stay): {embed}"
            )
        if version != str(SCHEMA_VERSION):
            raise LibraryError(
                f"{path}: embeddings schema {version or 'missing'}, expected {SCHEMA_VERSION}; "
                f"remove it and embed again: {embed}"
            )
        if model != fingerprint:
            raise LibraryError(
                f"{path} was made with model {model}, not with {fingerprint}: their vectors cannot be compared; "
                f"embed the library with this model: {embed}"
            )
        return table

    @classmethod
    @contextmanager
    def for_writing(
        cls, library: str | Place, fingerprint: str, width: int, features: Features
    ) -> Iterator[EmbeddingsTable]:
        """The table of the model `fingerprint`, with all other writers kept out; it is made when missing.

        One of schema 2 is brought up to date. One that was made from other features than the library has now, of which
        clips may have the same ids, is emptied.

        Args:
            width: E, of the model's vectors.
            features: the library's.

        Raises:
            LibraryError: another process is writing, or the table is damaged, or of another model, width or schema.
        """
        path = table_path(library, fingerprint)
        busy = f"{library}: another process is embedding with this model"
        with writing(path):
            make_place(path.parent)
        with only_writer(path.with_name(f".{path.name}.lock"), busy):
            with writing(path):
                make_table(path, _schema(fingerprint, width, features))
                table = cls(path)
                if table._commits:
                    table._commits.catch_up()
                table._update_schema(features)
            table = cls.open(library, fingerprint)
            if table.width != width:
                raise LibraryError(f"{path} holds vectors of width {table.width}, the model gives {width}")
            if not table.is_made_from(features):
                table._empty(_schema(fingerprint, width, features))
            yield table

    def _update_schema(self, features: Features) -> None:
        """From schema 2 to 3: two commits, and what a kill leaves between them is taken up again."""
        if self.said(SCHEMA_KEY) == "2":
            if old := [name for name in FILES_OF_CLIPS if name in self.dataset.schema.names]:
                self.dataset.drop_columns(old)
            metadata: dict[str, str | None] = {SCHEMA_KEY.decode(): str(SCHEMA_VERSION)}
            metadata[FEATURES_KEY.decode()] = features.model_dump_json()
            self.dataset.update_schema_metadata(metadata)

    def _empty(self, schema: pa.Schema) -> None:
        with writing(self.path):
            self.dataset = lance.write_dataset(
                schema.empty_table(), str(self.path), mode="overwrite", commit_lock=self._commits
            )

    def said(self, key: bytes) -> str:
        """What the table's metadata says, empty where nothing."""
        return (self.dataset.schema.metadata or {}).get(key, b"").decode()

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model that made the vectors."""
        return self.said(MODEL_KEY)

    def made_with(self) -> list[str]:
        """Precisions and kinds of device that vectors were made with, e.g. "bf16 on cuda"; empty where it is not known.

        Vectors of several are compared as they are: half precision moves a vector by a cosine of at most 0.001.
        """
        return json.loads(self.said(MADE_WITH_KEY) or "[]")

    def note_made_with(self, how: str) -> None:
        """Record what the vectors that come are made with."""
        known = self.made_with()
        if how not in known:
            self.say(MADE_WITH_KEY, json.dumps([*known, how]))

    @property
    def width(self) -> int:
        """E, the width of the vectors."""
        return self.dataset.schema.field("audio_embedding").type.list_size

    def is_made_from(self, features: Features) -> bool:
        """Whether the clips were of these features."""
        try:
            return Features.model_validate_json(self.said(FEATURES_KEY)) == features
        except ValidationError:
            return False

    def is_newest(self) -> bool:
        """Whether the table on disk is still what this object reads: a look at a folder, no reading.

        Raises:
            LibraryError: there is none any more.
        """
        return is_newest(self.dataset, self.path, self._stamp)

    def count(self) -> int:
        """Rows of the table: clips, of which some may have left the library since."""
        return self.dataset.count_rows()

    def clip_ids(self) -> list[str]:
        """Ids of all rows, in the table's order."""
        return self.ids().to_pylist()

    def ids(self) -> pa.StringArray:
        """As `clip_ids`, as an Arrow array."""
        return _column(self.dataset.to_table(columns=["clip_id"]), "clip_id")

    def vectors(self, modality: Literal["audio", "visual"]) -> Float32[np.ndarray, "n E"]:
        """All embeddings of one modality, in the table's order; NaN for clips without."""
        return matrix_of(self.dataset.to_table(columns=[f"{modality}_embedding"])[0])

    def batches(self, modality: Literal["audio", "visual"]) -> Iterator[Float32[np.ndarray, "m E"]]:
        """The same, part by part."""
        for batch in self.dataset.to_batches(columns=[f"{modality}_embedding"], batch_size=8192):
            yield matrix_of(pa.chunked_array([batch.column(0)]))

    def sample(self, size: int) -> tuple[Float32[np.ndarray, "n E"], Float32[np.ndarray, "n E"]]:
        """Embeddings of sound and picture of at most `size` clips, evenly spaced in the table; NaN if without."""
        rows = np.unique(np.linspace(0, self.count(), size, endpoint=False).astype(np.int64)) if self.count() else []
        found = self.dataset.take(list(rows), columns=["clip_id", "audio_embedding", "visual_embedding"])
        first = first_rows(_column(found, "clip_id"))
        audio, visual = (matrix_of(found[name])[first] for name in found.column_names[1:])
        return audio, visual

    def modalities(self) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Which rows have an embedding of the sound, and which one of the picture."""
        rows = self._row_ids()
        without = (self._row_ids(f"{modality}_embedding IS NULL") for modality in ("audio", "visual"))
        heard, seen = (~np.isin(rows, found) for found in without)
        return heard, seen

    def _row_ids(self, where: str | None = None) -> Int64[np.ndarray, " m"]:
        found = self.dataset.to_table(columns=["clip_id"], filter=where, with_row_id=True)
        return _column(found, "_rowid").to_numpy()

    def thumbnails(self, positions: Sequence[int]) -> list[bytes]:
        """Thumbnails of the rows at these positions, in this order."""
        return self.take(positions, ["thumbnail"])["thumbnail"].to_pylist()

    def rows(self, row_ids: Int64[np.ndarray, " m"], columns: list[str]) -> pa.Table:
        """Columns, and `_rowid`, of the rows of these ids, in the table's order."""
        fragments = self.dataset.get_fragments()
        if any(fragment.num_deletions for fragment in fragments):
            return self._where(f"_rowid IN ({', '.join(map(str, row_ids.tolist())) or 'NULL'})", columns)
        # no plan is made for rows by number, which takes as long as reading them
        sizes = np.array([fragment.physical_rows for fragment in fragments], np.int64)
        begins = (np.cumsum(sizes) - sizes).tolist()
        starts = dict(zip((fragment.fragment_id for fragment in fragments), begins, strict=True))
        numbers = np.array([starts[row_id >> 32] + (row_id & 0xFFFFFFFF) for row_id in row_ids.tolist()], np.int64)
        order = np.argsort(numbers)
        return self.take(numbers[order].tolist(), columns).append_column(
            "_rowid", pa.array(row_ids[order], pa.uint64())
        )

    def find(self, clip_ids: Sequence[str], columns: list[str]) -> pa.Table:
        """Columns, and `_rowid`, of the rows of these clips."""
        return self._where(f"clip_id IN ({quoted(clip_ids)})", columns)

    def _where(self, condition: str, columns: list[str]) -> pa.Table:
        found = self.dataset.to_table(columns=columns, filter=condition, with_row_id=True)
        return found.take(pa.array(np.argsort(self.places(found["_rowid"].to_numpy()))))

    def places(self, row_ids: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Numbers in the order that rows of these ids have in the table."""
        fragments = {fragment.fragment_id: place for place, fragment in enumerate(self.dataset.get_fragments())}
        places = [fragments[row_id >> 32] << 32 | row_id & 0xFFFFFFFF for row_id in row_ids.tolist()]
        return np.array(places, dtype=np.int64)

    def outside(self, fragments: frozenset[int], condition: str, columns: list[str]) -> pa.Table:
        """Columns, and `_rowid`, of the rows outside of these fragments that meet a condition."""
        others = [part for part in self.dataset.get_fragments() if part.fragment_id not in fragments]
        if not others:  # told no fragment, or no row, Lance would read the vectors of all
            fields = [self.dataset.schema.field(name) for name in columns]
            return pa.schema([*fields, pa.field("_rowid", pa.uint64())]).empty_table()
        # late: other columns are read of the rows that meet the condition alone
        return self.dataset.scanner(
            columns=columns, filter=condition, with_row_id=True, fragments=others, late_materialization=True
        ).to_table()

    def take(self, positions: Sequence[int], columns: list[str]) -> pa.Table:
        """Columns of the rows at these positions, in this order."""
        found = self.dataset.take(list(positions), columns=columns)
        if len(found) != len(positions):  # Lance leaves out what is not there
            raise IndexError(f"{self.path}: {len(found)} of {len(positions)} rows are there")
        return found

    def append(self, *parts: EmbeddedClips) -> None:
        """Add clips in one atomic commit; a reader sees all of them or none."""
        table = pa.concat_tables([self._columns(clips) for clips in parts])
        with writing(self.path):
            self.dataset = lance.write_dataset(table, str(self.path), mode="append", commit_lock=self._commits)

    def _columns(self, clips: EmbeddedClips) -> pa.Table:
        schema = self.dataset.schema
        vectors = {"audio_embedding": clips.audio_embedding, "visual_embedding": clips.visual_embedding}
        columns: dict[str, Any] = {name: getattr(clips, name) for name in schema.names if name not in vectors}
        for name, rows in vectors.items():
            if rows is None:
                columns[name] = pa.nulls(len(clips.clip_id), schema.field(name).type)
                continue
            if rows.shape != (len(clips.clip_id), self.width) or not np.isfinite(rows).all():
                raise ModelError(
                    f"{name}: expected finite vectors of shape {(len(clips.clip_id), self.width)}, found shape "
                    f"{rows.shape} with {int((~np.isfinite(rows)).sum())} NaN or infinite values"
                )
            flat = np.ascontiguousarray(rows, dtype=np.float32).ravel()
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), self.width)
        return pa.table(columns, schema=schema)

    def reopen(self) -> None:
        """Read the newest version."""
        self.dataset = open_table(self.path, self._commits)

    def say(self, key: bytes, value: str) -> None:
        """Write something into the table's metadata."""
        with writing(self.path):
            self.dataset.update_schema_metadata({key.decode(): value})

    def remove(self, positions: Int64[np.ndarray, " m"]) -> None:
        """Drop the rows at these positions."""
        chosen = self._row_ids()[positions]
        for first in range(0, len(chosen), REMOVED_AT_ONCE):
            part = ", ".join(map(str, chosen[first : first + REMOVED_AT_ONCE].tolist()))
            with writing(self.path):
                self.dataset.delete(f"_rowid IN ({part})")

    def tidy(self) -> None:
        """Join the small fragments that many appends leave: reading stays fast, however many there were."""
        self.join(FRAGMENT_ROWS, FRAGMENTS)

    def join(self, rows: int, most: int) -> None:
        """Join the fragments of fewer than `rows` rows if they are more than `most`."""
        with writing(self.path):
            if self.dataset.stats.dataset_stats(rows)["num_small_files"] > most:
                self.dataset.optimize.compact_files(target_rows_per_fragment=rows)

    def forget_old_versions(self) -> None:
        """Free what was replaced more than a day ago: who opened the table goes on reading it for a day."""
        with writing(self.path):
            free_old_versions(self.dataset)


def table_path(library: str | Place, fingerprint: str) -> Place:
    """Where a model's embeddings of a library lie."""
    return place_of(library) / "embeddings" / f"{fingerprint}.lance"


def first_rows(ids: pa.StringArray) -> Bool[np.ndarray, " n"]:
    """Of each id one row, the first: an equiav that let two embed at once stored clips twice."""
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids.dictionary_encode().indices.to_numpy(), return_index=True)[1]] = True
    return first


def places(ids: pa.StringArray, among: pa.StringArray) -> Int64[np.ndarray, " n"]:
    """Where each id stands among others; -1 where it does not."""
    found = pc.call_function("index_in", [ids], pc.SetLookupOptions(among))
    return pc.fill_null(found, -1).to_numpy().astype(np.int64)


def matrix_of(column: pa.ChunkedArray) -> Float32[np.ndarray, "n E"]:
    """A column of vectors; NaN where there is none."""
    array, width = column.combine_chunks(), column.type.list_size
    # an empty column has no chunk to flatten; flattening leaves out what is null
    found = array.flatten().to_numpy().reshape(-1, width)
    if not array.null_count:
        return found
    vectors = np.full((len(array), width), np.nan, np.float32)
    vectors[array.is_valid().to_numpy(zero_copy_only=False)] = found
    return vectors


def _column(table: pa.Table, name: str) -> Any:
    return table[name].combine_chunks()


def _schema(fingerprint: str, width: int, features: Features) -> pa.Schema:
    vector = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("thumbnail", pa.binary(), nullable=False),
            pa.field("audio_embedding", vector, nullable=True),
            pa.field("visual_embedding", vector, nullable=True),
        ],
        metadata={
            SCHEMA_KEY: str(SCHEMA_VERSION).encode(),
            MODEL_KEY: fingerprint.encode(),
            FEATURES_KEY: features.model_dump_json().encode(),
        },
    )
