"""The embeddings of a library's clips on disk, and exact search in them.

L/embeddings/<model fingerprint>.lance, one row per clip: `clip_id, source, start_s, end_s, labels, thumbnail,
audio_embedding, visual_embedding`; a clip of one sense has no embedding of the other. Rows are only ever appended,
each append is one atomic Lance commit, and the table's metadata says which model made it: vectors of two models never
meet in one ranking.

Search compares a query vector (E,) with all n clips: a float32 product picks the candidates, with a margin wider
than its rounding error, and float64 cosines rank them. So the ranking is that of a full sort, and equal scores keep
the table's order. What a clip does not have is not compared: a sound without picture is never found by its picture.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import lance
import numpy as np
import pyarrow as pa

from equiav.errors import ConfigError, LibraryError, ModelError
from equiav.search.encode import encode, mean_direction

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64

    from equiav.model.equiav import EquiAV

SCHEMA_VERSION = 2
SCHEMA_KEY, MODEL_KEY = b"equiav.embeddings", b"equiav.model"

By = Literal["audio", "visual", "both"]
_LACKS = {"audio": "sound", "visual": "picture", "both": "sound and picture"}


@dataclass(frozen=True)
class EmbeddedClips:
    """n clips with their vectors, in the columns of the table."""

    clip_id: list[str]
    source: list[str]
    start_s: list[float]
    end_s: list[float]
    labels: list[list[str]]
    thumbnail: list[bytes]
    audio_embedding: Float32[np.ndarray, "n E"] | None  # None: these clips have no sound
    visual_embedding: Float32[np.ndarray, "n E"] | None


@dataclass(frozen=True)
class Hit:
    """One clip of a ranking. `score` is the cosine, or the mean of two; `thumbnail` a small JPEG, or empty."""

    clip_id: str
    source: str
    start_s: float
    end_s: float
    labels: list[str]
    score: float
    thumbnail: bytes

    def to_dict(self) -> dict[str, Any]:
        """Everything but the thumbnail, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "thumbnail"}


class EmbeddingsTable:
    """One model's embeddings of one library; made by `create`, found again by `open`."""

    def __init__(self, dataset: lance.LanceDataset, path: Path) -> None:
        self._dataset = dataset
        self.path = path

    @classmethod
    def create(cls, library: str | Path, fingerprint: str, width: int) -> EmbeddingsTable:
        """Make an empty table for the model `fingerprint` with vectors of `width` numbers, or open the one there is.

        Raises:
            LibraryError: a table of this name holds another model's vectors or another width.
        """
        path = table_path(library, fingerprint)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            empty = _schema(fingerprint, width).empty_table()
            lance.write_dataset(empty, path, mode="create")
        table = cls.open(library, fingerprint)
        if table.width != width:
            raise LibraryError(f"{path} holds vectors of width {table.width}, the model gives {width}")
        return table

    @classmethod
    def open(cls, library: str | Path, fingerprint: str) -> EmbeddingsTable:
        """Open the table of the model `fingerprint`.

        Raises:
            LibraryError: there is none, it is damaged, or it was made with another model or schema.
        """
        path = table_path(library, fingerprint)
        if not path.exists():
            others = sorted(other.stem for other in path.parent.glob("*.lance"))
            found = f"found those of other models: {', '.join(others)}" if others else "found none"
            raise LibraryError(
                f"no embeddings of model {fingerprint} in {library} ({found}); make them: "
                f"equiav embed --library {library} --run RUN"
            )
        try:
            dataset = lance.dataset(path)
        except (ValueError, OSError) as error:
            raise LibraryError(
                f"{path} is not a readable embeddings table ({error}); remove it and embed again"
            ) from None
        metadata = dataset.schema.metadata or {}
        version, model = metadata.get(SCHEMA_KEY, b"").decode(), metadata.get(MODEL_KEY, b"").decode()
        if version != str(SCHEMA_VERSION):
            raise LibraryError(
                f"{path}: embeddings schema {version or 'missing'}, expected {SCHEMA_VERSION}; "
                "remove it and embed again"
            )
        if model != fingerprint:
            raise LibraryError(
                f"{path} was made with model {model}, not with {fingerprint}: their vectors cannot be compared; "
                "embed the library with this model"
            )
        return cls(dataset, path)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model that made the vectors."""
        return self._dataset.schema.metadata[MODEL_KEY].decode()

    @property
    def width(self) -> int:
        """E, the width of the vectors."""
        return self._dataset.schema.field("audio_embedding").type.list_size

    def count(self) -> int:
        """Clips in the table."""
        return self._dataset.count_rows()

    def clip_ids(self) -> list[str]:
        """Ids of all clips, in the table's order."""
        return self._dataset.to_table(columns=["clip_id"])["clip_id"].to_pylist()

    def vectors(self, sense: Literal["audio", "visual"]) -> Float32[np.ndarray, "n E"]:
        """All embeddings of one sense, in the table's order; NaN for clips without."""
        column = self._dataset.to_table(columns=[f"{sense}_embedding"]).column(0).combine_chunks()
        # an empty column has no chunk to flatten; flattening leaves out what is null
        found = column.flatten().to_numpy().reshape(-1, self.width)
        if not column.null_count:
            return found
        vectors = np.full((len(column), self.width), np.nan, np.float32)
        vectors[column.is_valid().to_numpy(zero_copy_only=False)] = found
        return vectors

    def rows(self, positions: list[int]) -> list[dict[str, Any]]:
        """The rows at these positions, without their vectors, in this order."""
        columns = ["clip_id", "source", "start_s", "end_s", "labels", "thumbnail"]
        return self._dataset.take(positions, columns=columns).to_pylist()

    def append(self, *parts: EmbeddedClips) -> None:
        """Add clips in one atomic commit; a reader sees all of them or none."""
        table = pa.concat_tables([self._columns(clips) for clips in parts])
        self._dataset = lance.write_dataset(table, self.path, mode="append")

    def _columns(self, clips: EmbeddedClips) -> pa.Table:
        schema = self._dataset.schema
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

    def remove(self, clip_ids: Collection[str]) -> None:
        """Drop the rows of clips that left the library, in one atomic commit."""
        if clip_ids:
            quoted = ", ".join("'" + clip_id.replace("'", "''") + "'" for clip_id in sorted(clip_ids))
            self._dataset.delete(f"clip_id IN ({quoted})")


class SearchIndex:
    """Exact cosine search over one embeddings table, as it was when the index was made.

    The vectors of a sense are read on its first search and kept: n·E·4 bytes each (a million clips of width 512: 2 GB).
    """

    def __init__(self, table: EmbeddingsTable) -> None:
        self.table = table

    def search(
        self, query: Float[np.ndarray, " E"], *, by: By = "both", k: int = 5, exclude: Collection[str] = ()
    ) -> list[Hit]:
        """The k clips nearest to `query`, best first.

        Args:
            query: one embedding; its length does not matter.
            by: compare with the clips' sounds, their pictures, or both: the mean of the two cosines, or, of a clip
                that has one sense, that one's.
            k: how many hits; all clips where there are fewer.
            exclude: ids of clips that are not to be found.

        Raises:
            LibraryError: the table has no clips with what is compared.
            ConfigError: k, `by` or the query's shape do not fit.
            ModelError: the query has no direction (zero, NaN or infinite).
        """
        if by not in get_args(By):
            raise ConfigError(f"by={by!r} is none of {', '.join(get_args(By))}")
        if k < 1:
            raise ConfigError(f"k={k}: expected at least 1 hit")
        unit = self._unit_query(query)
        matrices = [self._audio] if by == "audio" else [self._visual] if by == "visual" else [self._audio, self._visual]
        # NaN where a clip does not have the sense
        cosines = np.stack([matrix @ unit.astype(np.float32) for matrix in matrices])
        allowed = self._allowed(exclude, np.any(np.isfinite(cosines), axis=0, keepdims=True)[0], by)
        k = min(k, len(allowed))

        rough = np.nanmean(cosines[:, allowed], axis=0)
        # a float32 dot product of two unit vectors of width E is off by at most E·ε
        margin = 4 * len(unit) * np.finfo(np.float32).eps
        candidates = allowed[rough >= np.partition(rough, -k)[-k] - margin]
        # row-wise sums, because they round equal rows equally; a matrix product may not
        scores = np.nanmean([(matrix[candidates] * unit).sum(axis=1) for matrix in matrices], axis=0)
        best = np.argsort(-scores, kind="stable")[:k]
        rows = self.table.rows(candidates[best].tolist())
        return [Hit(score=float(score), **row) for score, row in zip(scores[best], rows, strict=True)]

    def clip_vector(self, clip_id: str, by: By = "both") -> Float32[np.ndarray, " E"]:
        """The stored embedding of a clip: its sound, its picture, or the unit mean of what it has of them.

        Raises:
            LibraryError: no such clip, or it has no such sense.
        """
        if clip_id not in self._position:
            raise LibraryError(
                f"no clip {clip_id!r} among the {len(self._position)} embedded ones of {self.table.path}"
            )
        position = self._position[clip_id]
        stored = {"audio": self._audio[position], "visual": self._visual[position]}
        found = [vector for sense, vector in stored.items() if by in (sense, "both") and np.isfinite(vector).all()]
        if not found:
            raise LibraryError(f"clip {clip_id} has no {by} embedding: it was ingested without {_LACKS[by]}")
        return found[0] if len(found) == 1 else mean_direction(*found)

    @cached_property
    def _audio(self) -> Float32[np.ndarray, "n E"]:
        return self.table.vectors("audio")

    @cached_property
    def _visual(self) -> Float32[np.ndarray, "n E"]:
        return self.table.vectors("visual")

    @cached_property
    def _position(self) -> dict[str, int]:
        return {clip_id: i for i, clip_id in enumerate(self.table.clip_ids())}

    def _allowed(self, exclude: Collection[str], keep: np.ndarray, by: By) -> np.ndarray:
        if len(keep) and not keep.any():
            raise LibraryError(f"{self.table.path}: all {len(keep)} clips were ingested without {_LACKS[by]}")
        keep[[self._position[clip_id] for clip_id in exclude if clip_id in self._position]] = False
        if not keep.any():
            raise LibraryError(f"{self.table.path} holds no clips to search in: run equiav embed after ingesting")
        return np.flatnonzero(keep)

    def _unit_query(self, query: Float[np.ndarray, " E"]) -> Float64[np.ndarray, " E"]:
        vector = np.asarray(query, dtype=np.float64)
        if vector.shape != (self.table.width,):
            raise ConfigError(
                f"query of shape {vector.shape}, expected one vector of the model's width: ({self.table.width},)"
            )
        norm = float(np.linalg.norm(vector))
        if not np.isfinite(norm) or norm == 0:
            raise ModelError(f"the query vector has length {norm}: it has no direction to compare")
        return vector / norm


def search_files(
    library: str | Path,
    model: EquiAV,
    *,
    audio: str | Path | bytes | None = None,
    image: str | Path | bytes | None = None,
    video: str | Path | bytes | None = None,
    clip: str | None = None,
    by: By | None = None,
    k: int = 5,
) -> list[Hit]:
    """The k clips of a library nearest to a sound, a picture, a video or one of its own clips.

    Without `by` the other sense is searched: pictures for a sound, sounds for a picture. A video's query is the unit
    mean of its sound and its picture, and is compared with both senses; so is a clip's, which is itself left out.

    Raises:
        ConfigError: not exactly one query, or `by` or k out of range.
        LibraryError: no embeddings of this model, or no such clip. MediaError: the query file cannot be used.
    """
    queries = {"audio": audio, "image": image, "video": video, "clip": clip}
    given = [name for name, query in queries.items() if query is not None]
    if len(given) != 1:
        raise ConfigError(f"give exactly one query (audio, image, video or clip), found {given or 'none'}")
    index = SearchIndex(EmbeddingsTable.open(library, model.fingerprint()))
    if clip is not None:
        return index.search(index.clip_vector(clip), by=by or "both", k=k, exclude=[clip])
    embedded = encode(model, audio=audio, image=image, video=video)
    if isinstance(embedded, np.ndarray):
        return index.search(embedded[0], by=by or ("visual" if image is None else "audio"), k=k)
    return index.search(mean_direction(embedded.audio[0], embedded.visual[0]), by=by or "both", k=k)


def table_path(library: str | Path, fingerprint: str) -> Path:
    """Where a model's embeddings of a library lie."""
    return Path(library) / "embeddings" / f"{fingerprint}.lance"


def _schema(fingerprint: str, width: int) -> pa.Schema:
    vector = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            pa.field("labels", pa.list_(pa.string()), nullable=False),
            pa.field("thumbnail", pa.binary(), nullable=False),
            pa.field("audio_embedding", vector, nullable=True),
            pa.field("visual_embedding", vector, nullable=True),
        ],
        metadata={SCHEMA_KEY: str(SCHEMA_VERSION).encode(), MODEL_KEY: fingerprint.encode()},
    )
