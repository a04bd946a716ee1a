"""Exact search in a library's embeddings:  a library, a model; a sound, a picture, a video, a clip → ranked hits.

A query vector (E,) is compared with all n clips: a float32 product picks the candidates, with a margin wider than its
rounding error, and float64 cosines rank them. So the ranking is that of a full sort, and equal scores are ordered by
clip id, whatever the order of the table. What a clip does not have is not compared: a sound without picture is never
found by its picture.

The vectors are the table's; which clips there are, their files, times, labels and splits are the library's, of one
version of it for all hits of a query. So a clip that was renamed is shown with its new name, and one that left the
library is not found, whatever was embedded when.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from equiav.config import MODALITIES, Modalities, Modality, check_features
from equiav.errors import ConfigError, LibraryError, ModelError
from equiav.library.table import Library
from equiav.model.encode import encode, mean_direction
from equiav.search.embed import listed
from equiav.search.table import EmbeddingsTable, first_rows, places
from equiav.words import are, counted

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int64

    from equiav.model.equiav import EquiAV

__all__ = ["EmbeddingsTable", "Hit", "SearchIndex"]

_LACKS = {"audio": "sound", "visual": "picture", "both": "sound and picture"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """One clip of a ranking. `score` is the cosine, or the mean of two; `thumbnail` a small JPEG, or empty."""

    clip_id: str
    source: str
    start_s: float
    end_s: float
    labels: list[str]
    split: str
    score: float
    thumbnail: bytes

    def to_dict(self) -> dict[str, Any]:
        """Everything but the thumbnail, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "thumbnail"}


class SearchIndex:
    """Search in one library with one model, kept open for many queries, also from several threads.

    Each query is answered from the library and the embeddings as they are then. The vectors of a modality are read on
    its first search, and again when the table was written to: n·E·4 bytes each (a million clips of width 512: 2 GB).

    Args:
        library: its folder.
        model: queries are embedded with it, and compared with what `equiav embed` stored of it.

    Raises:
        LibraryError: no library, one of other features than the model's, or one that was not embedded with it.
    """

    def __init__(self, library: str | Path, model: EquiAV) -> None:
        self.path, self.model = Path(library), model
        self._fingerprint = model.fingerprint()
        self._now = self._open(None)

    def search(
        self,
        *,
        audio: Any = None,
        image: Any = None,
        video: Any = None,
        clip: str | None = None,
        vector: Float[np.ndarray, " E"] | None = None,
        by: Modalities | None = None,
        k: int = 5,
        exclude: Collection[str] = (),
    ) -> list[Hit]:
        """The k clips nearest to one query, best first.

        Without `by` the other modality is searched: pictures for a sound, sounds for a picture. A video's query is the
        unit mean of its sound and its picture, and is compared with both modalities; so are a vector, and a clip, which
        is itself left out.

        Args:
            audio: a sound, as `EquiAV.encode` takes it.
            image: a picture, likewise.
            video: a video, likewise.
            clip: id of a clip of the library.
            vector: an embedding; its length does not matter.
            by: compare with the clips' sounds, their pictures, or both: the mean of the two cosines, or, of a clip
                that has one modality, that one's.
            k: how many hits; all clips where there are fewer.
            exclude: ids of clips that are not to be found.

        Raises:
            ConfigError: not exactly one query; k, `by` or the vector's shape do not fit.
            LibraryError: no such clip; the library has no clips with what is compared, or none is embedded.
            MediaError: the query's file cannot be used.
            ModelError: the query has no direction (zero, NaN or infinite).
        """
        queries = {"audio": audio, "image": image, "video": video, "clip": clip, "vector": vector}
        given = [name for name, query in queries.items() if query is not None]
        if len(given) != 1:
            raise ConfigError(f"give exactly one query (audio, image, video, clip or vector), found {given or 'none'}")
        if by is not None and by not in get_args(Modalities):
            raise ConfigError(f"by={by!r} is none of {', '.join(get_args(Modalities))}")
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ConfigError(f"k={k}: expected at least 1 hit")
        now = self._newest()
        if clip is not None:
            return now.nearest(now.clip_vector(clip, "both"), by or "both", k, [*exclude, clip])
        if vector is not None:
            return now.nearest(vector, by or "both", k, exclude)
        embedded = encode(self.model, audio=audio, image=image, video=video)
        found, other = (embedded, None) if isinstance(embedded, np.ndarray) else embedded
        if len(found) != 1:
            raise ConfigError(f"one query at a time, found {len(found)}")
        if other is not None:
            return now.nearest(mean_direction(found[0], other[0]), by or "both", k, exclude)
        return now.nearest(found[0], by or ("visual" if image is None else "audio"), k, exclude)

    def clip_vector(self, clip_id: str, by: Modalities = "both") -> Float32[np.ndarray, " E"]:
        """The stored embedding of a clip: its sound, its picture, or the unit mean of what it has of them.

        Raises:
            LibraryError: no such clip, or it has no such modality, or it is not embedded.
        """
        return self._newest().clip_vector(clip_id, by)

    @property
    def missing(self) -> int:
        """Clips of the library that are not embedded yet, and cannot be found."""
        return self._newest().missing

    def _newest(self) -> _Snapshot:
        """What is there now; what did not change is kept."""
        now = self._now
        if not (now.library.is_newest() and now.table.is_newest()):
            self._now = now = self._open(now)
        return now

    def _open(self, before: _Snapshot | None) -> _Snapshot:
        library = before.library if before and before.library.is_newest() else Library(self.path)
        check_features(library.features, self.model.config.features, library.path)
        kept = before is not None and before.table.is_newest()
        vectors = before.vectors if before and kept else _Vectors(EmbeddingsTable.open(self.path, self._fingerprint))
        now = _Snapshot(library, vectors)
        if now.missing and not (before and now.missing == before.missing):
            log.warning(now.not_embedded())
        return now


class _Vectors:
    """One version of the embeddings table, in its order."""

    def __init__(self, table: EmbeddingsTable) -> None:
        self.table, self.ids = table, table.ids()
        self.first = first_rows(self.ids)
        self.rank: Int64[np.ndarray, " n"] = pc.call_function("rank", [self.ids]).to_numpy()

    @cached_property
    def audio(self) -> Float32[np.ndarray, "n E"]:
        return self.table.vectors("audio")

    @cached_property
    def visual(self) -> Float32[np.ndarray, "n E"]:
        return self.table.vectors("visual")

    def of(self, by: Modalities) -> list[Float32[np.ndarray, "n E"]]:
        """The matrices that are compared."""
        return [self.audio, self.visual] if by == "both" else [self.audio if by == "audio" else self.visual]


class _Snapshot:
    """One version of the library with one of the table."""

    def __init__(self, library: Library, vectors: _Vectors) -> None:
        self.library, self.vectors, self.table = library, vectors, vectors.table
        self.ids, has = listed(library)
        # where the clip of each row of the table stands in the library; -1: nowhere
        self.row = places(vectors.ids, self.ids)
        same = self.table.is_made_from(library.features)  # else these are other sounds and pictures of the same ids
        self.known: Bool[np.ndarray, " n"] = vectors.first & (self.row >= 0) & same
        self.missing = len(self.ids) - int(self.known.sum())
        self.has: dict[Modality, Bool[np.ndarray, " n"]] = {
            modality: np.append(has[modality], False)[self.row] for modality in has
        }

    def nearest(self, query: Float[np.ndarray, " E"], by: Modalities, k: int, exclude: Collection[str]) -> list[Hit]:
        """The ranking of all clips that can be compared, up to the k-th."""
        unit = self._unit_query(query)
        matrices = self.vectors.of(by)
        # NaN where a clip does not have the modality
        cosines = np.stack([matrix @ unit.astype(np.float32) for matrix in matrices])
        allowed = self._allowed(np.isfinite(cosines), by, exclude)
        k = min(k, len(allowed))
        if not k:
            return []
        rough = np.nanmean(cosines[:, allowed], axis=0)
        # a float32 dot product of two unit vectors of width E is off by at most E·ε
        margin = 4 * len(unit) * np.finfo(np.float32).eps
        candidates = allowed[rough >= np.partition(rough, -k)[-k] - margin]
        # row-wise sums, because they round equal rows equally; a matrix product may not
        scores = np.nanmean([(matrix[candidates] * unit).sum(axis=1) for matrix in matrices], axis=0)
        best = np.lexsort((self.vectors.rank[candidates], -scores))[:k]
        return self._hits(candidates[best], scores[best])

    def _hits(self, positions: Int64[np.ndarray, " k"], scores: Float64[np.ndarray, " k"]) -> list[Hit]:
        columns = ["clip_id", "source", "start_s", "end_s", "labels", "split"]
        rows = self.library.take(self.row[positions].tolist(), columns).to_pylist()
        pictures = self.table.thumbnails(positions.tolist())
        return [
            Hit(**row, score=float(score), thumbnail=picture)
            for row, score, picture in zip(rows, scores, pictures, strict=True)
        ]

    def _allowed(
        self, found: Bool[np.ndarray, "modalities n"], by: Modalities, exclude: Collection[str]
    ) -> Int64[np.ndarray, " m"]:
        """Positions of the clips to rank; `found`: which embeddings there are of each."""
        if not self.known.any():
            raise LibraryError(self.not_embedded())
        has = np.stack([self.has[modality] for modality in MODALITIES if by in (modality, "both")])
        # one that was embedded when it had other modalities is not embedded
        keep = self.known & (found == has).all(axis=0) & has.any(axis=0)
        if not keep.any():
            raise LibraryError(f"{self.library.path}: all its embedded clips were ingested without {_LACKS[by]}")
        if exclude:
            keep &= places(self.vectors.ids, pa.array(list(exclude), pa.string())) < 0
        return np.flatnonzero(keep)

    def clip_vector(self, clip_id: str, by: Modalities) -> Float32[np.ndarray, " E"]:
        """The stored embedding of a clip."""
        if self.ids.index(clip_id).as_py() < 0:
            raise LibraryError(f"{self.library.path} holds no clip {clip_id!r}, or not any more")
        position = self.vectors.ids.index(clip_id).as_py()  # its first row
        modalities: tuple[Modality, ...] = MODALITIES if by == "both" else (by,)
        has: list[Modality] = [modality for modality in modalities if position >= 0 and self.has[modality][position]]
        found = [self.vectors.of(modality)[0][position] for modality in has]
        if position < 0 or not self.known[position] or not np.isfinite(found).all():
            raise LibraryError(f"clip {clip_id} is not embedded yet: run {self._embed}")
        if not found:
            raise LibraryError(f"clip {clip_id} has no {by} embedding: it was ingested without {_LACKS[by]}")
        return found[0] if len(found) == 1 else mean_direction(*found)

    def not_embedded(self) -> str:
        """What to do about the clips that cannot be found."""
        if not len(self.ids):
            return f"{self.library.path} holds no clips to search in; add some: equiav ingest"
        return (
            f"{counted(self.missing, 'clip')} {are(self.missing)} not embedded, "
            f"of {len(self.ids)} in {self.library.path}: run {self._embed}"
        )

    @property
    def _embed(self) -> str:
        return f"equiav embed --library {self.library.path} --run RUN"

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
