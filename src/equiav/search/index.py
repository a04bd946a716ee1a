"""Search in a library's embeddings:  a library, a model; a sound, a picture, a video, a clip → ranked hits.

The vectors are the table's; which clips there are, their files, times, labels and splits are the library's, of one
version of it for all hits of a query. So a clip that was renamed is shown with its new name, and one that left the
library is not found, whatever was embedded when.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from equiav.config import Modalities, Modality, check_features
from equiav.errors import ConfigError
from equiav.library.places import Place, place_of
from equiav.library.table import Library
from equiav.metrics.directions import mean_direction
from equiav.model.light import LightModel
from equiav.search.approximate import Approximate
from equiav.search.exact import Exact, Vectors, unit_vector
from equiav.search.filters import clip_filter
from equiav.search.hits import Hit
from equiav.search.indexing import EmbeddingIndex
from equiav.search.percentiles import PairScores
from equiav.search.table import EmbeddingsTable

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

    from equiav.model.equiav import EquiAV
    from equiav.search.pairs import Duplicates
    from equiav.search.thresholds import Thresholds

__all__ = ["EmbeddingsTable", "Hit", "SearchIndex"]

_OTHER: dict[Modalities, Modalities] = {"audio": "visual", "visual": "audio", "both": "both"}

AUDIO, VISUAL = 0.95, 0.9  # cosines from which on sounds and pictures are the same

log = logging.getLogger(__name__)


class SearchIndex:
    """Search in one library with one model, kept open for many queries, also from several threads.

    Each query is answered from the library and the embeddings as they are then. Of a table without an index the vectors
    of a modality are read on its first search, and again when the table was written to: n·E·4 bytes each.

    Args:
        library: its folder.
        model: queries are embedded with it, and compared with what `equiav embed` stored of it. A `LightModel` is
            loaded at the first query that is a file.

    Raises:
        LibraryError: no library, one of other features than the model's, or one that was not embedded with it.
    """

    def __init__(self, library: str | Place, model: EquiAV | LightModel) -> None:
        self.path, self.model = place_of(library), model
        self._fingerprint = model.fingerprint()
        self._opening, self._now = Lock(), self._open(None)

    # Longer than most functions: most of it says what its arguments are
    def search(
        self,
        *,
        audio: Any = None,
        image: Any = None,
        video: Any = None,
        clip: str | None = None,
        vector: Float[np.ndarray, " E"] | None = None,
        vector_of: Modalities = "both",
        by: Modalities | None = None,
        k: int = 5,
        offset: int = 0,
        labels: Collection[str] | str = (),
        sources: Collection[str] | str = (),
        split: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        min_score: float | None = None,
        group_by: Literal["source"] | None = None,
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
            vector_of: what `vector` was made from: a sound, a picture, or both.
            by: compare with the clips' sounds, their pictures, or both: the mean of the two cosines, or, of a clip
                that has one modality, that one's.
            k: how many hits; all clips where there are fewer.
            offset: how many of the first hits to leave out: the next page.
            labels: find clips with at least one of these labels.
            sources: find clips of files whose path, or the end of it after a slash, matches one of these patterns:
                `dog*.mp4`, `pets/*`.
            split: find clips of this split.
            start_s: find clips that end after this time of their file, in seconds.
            end_s: find clips that begin before this time of their file.
            min_score: leave out hits that score less.
            group_by: `source` gives of each file its best clip alone.
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
        for name, modalities in (("by", by), ("vector_of", vector_of)):
            if modalities is not None and modalities not in get_args(Modalities):
                raise ConfigError(f"{name}={modalities!r} is none of {', '.join(get_args(Modalities))}")
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ConfigError(f"k={k}: expected at least 1 hit")
        if isinstance(offset, bool) or not isinstance(offset, (int, np.integer)) or offset < 0:
            raise ConfigError(f"offset={offset}: expected 0 hits to leave out, or more")
        if group_by not in (None, "source"):
            raise ConfigError(f"group_by={group_by!r}: expected 'source', or None")
        among = clip_filter(labels, sources, split, start_s, end_s)
        now = self._newest()
        made_from: dict[str, Modalities] = {"audio": "audio", "image": "visual", "vector": vector_of}
        kind = made_from.get(given[0], "both")
        by = by or _OTHER[kind]
        if clip is not None:
            query, exclude = now.clip_vector(clip, "both"), [*exclude, clip]
        else:
            query = self._query(audio, image, video) if vector is None else vector

        unit = unit_vector(query, now.table.width)

        def nearest(count: int) -> list[Hit]:
            return now.nearest(unit, by, count, exclude, among)

        hits = _best_of_sources(nearest, k + offset, min_score) if group_by else nearest(k + offset)
        hits = [hit for hit in hits[offset:] if min_score is None or hit.score >= min_score]
        percentiles = self._pair_scores.percentiles(np.array([hit.score for hit in hits]), kind, by)
        return [replace(hit, percentile=found) for hit, found in zip(hits, percentiles, strict=True)]

    def duplicates(
        self,
        *,
        audio: float | None = None,
        visual: float | None = None,
        like: str | Path | None = None,
        k: int = 20,
        partial: bool = False,
        confirm: bool = True,
        labels: Collection[str] | str = (),
        sources: Collection[str] | str = (),
        split: str | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> Duplicates:
        """Files that are copies of each other, re-encoded or changed too; or the k files most like one.

        All windows are compared, of files that have nothing in common too: of 100,000 windows it takes minutes.

        Args:
            audio: mean cosine from which on two sounds are the same; default 0.95.
            visual: likewise two pictures; default 0.9.
            like: id of a clip, or path of a file, of the library or not: only the files most like it.
            k: how many files, with `like`.
            confirm: look at the stored sounds and pictures of what the embeddings match; else these alone are believed.
            partial: also files of which one is a part of the other, or that have a part in common.
            labels: compare clips with at least one of these labels.
            sources: compare clips of files whose path, or the end of it after a slash, matches one of these patterns.
            split: compare clips of this split.
            on_progress: called with what is done, how much of it is done, and how much there is.

        Raises:
            ConfigError: a cosine is not above 0 and at most 1; k is below 1; `like` is neither a clip nor a file.
            LibraryError: no clip that matches is embedded.
            MediaError: the file `like` cannot be used.
        """
        from equiav.search.duplicates import find_duplicates

        least: dict[Modality, float] = {
            "audio": AUDIO if audio is None else audio,
            "visual": VISUAL if visual is None else visual,
        }
        for name, given in least.items():
            if not 0 < given <= 1:
                raise ConfigError(f"{name}={given}: expected a cosine above 0 and at most 1")
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ConfigError(f"k={k}: expected at least 1 file")
        now, among = self._exact(), clip_filter(labels, sources, split)
        if like is None:
            return find_duplicates(now, least, among=among, partial=partial, confirm=confirm, on_progress=on_progress)
        from equiav.search.like import most_like

        return most_like(now, self.model, like, least, k=k, among=among)

    def thresholds(
        self, *, copies: int = 100, seed: int = 0, on_progress: Callable[[str, int, int], None] | None = None
    ) -> Thresholds:
        """Which cosines copies have in this library, measured on copies of ten kinds made of its own files.

        Args:
            copies: how many are made, in a temporary folder; fewer where the library has fewer files.
            seed: of the files and of what is changed.
            on_progress: called with what is done, how much of it is done, and how much there is.

        Raises:
            ConfigError: copies is below 1.
            LibraryError: not two of its embedded files are there, with sound and picture.
        """
        from equiav.search.thresholds import measure_thresholds

        if copies < 1:
            raise ConfigError(f"copies={copies}: expected at least 1")
        now = self._exact()
        model = self.model.loaded if isinstance(self.model, LightModel) else self.model
        return measure_thresholds(now, model, copies=copies, seed=seed, on_progress=on_progress)

    def _query(self, audio: Any, image: Any, video: Any) -> Float32[np.ndarray, " E"]:
        embedded = self.model.encode(audio=audio, image=image, video=video)
        found, other = (embedded, None) if isinstance(embedded, np.ndarray) else embedded
        if len(found) != 1:
            raise ConfigError(f"one query at a time, found {len(found)}")
        return found[0] if other is None else mean_direction(found[0], other[0])

    def clip_vector(self, clip_id: str, by: Modalities = "both") -> Float32[np.ndarray, " E"]:
        """The stored embedding of a clip: its sound, its picture, or the unit mean of what it has of them.

        Raises:
            LibraryError: no such clip, or it has no such modality, or it is not embedded.
        """
        return self._newest().clip_vector(clip_id, by)

    def thumbnail(self, clip_id: str) -> bytes:
        """The picture that a clip is embedded by, as a small JPEG; empty where it has none or is not embedded."""
        found = self._newest().table.find([clip_id], ["thumbnail"])["thumbnail"].to_pylist()
        return found[0] if found else b""

    @property
    def snapshot(self) -> Exact | Approximate:
        """The library and its embeddings as they are now: the same object until one of them changes."""
        return self._newest()

    def thumbnails(self, clip_ids: Collection[str]) -> dict[str, bytes]:
        """Thumbnails of those of the clips that have one, by their ids."""
        found = self._newest().table.find(list(clip_ids), ["clip_id", "thumbnail"]) if clip_ids else None
        rows = found.to_pylist() if found is not None else []
        return {row["clip_id"]: row["thumbnail"] for row in rows if row["thumbnail"]}

    @property
    def library(self) -> Library:
        """The library as it is now."""
        return self._newest().library

    @property
    def missing(self) -> int:
        """Clips of the library that are not embedded yet, and cannot be found."""
        return self._newest().missing

    def _exact(self) -> Exact:
        """What is there now, as all vectors are compared."""
        now = self._newest()
        return now.exact if isinstance(now, Approximate) else now

    def _newest(self) -> Exact | Approximate:
        """What is there now; what did not change is kept."""
        with self._opening:
            if not (self._now.library.is_newest() and self._now.table.is_newest()):
                self._now = self._open(self._now)
            return self._now

    def _open(self, before: Exact | Approximate | None) -> Exact | Approximate:
        library = before.library if before and before.library.is_newest() else Library(self.path)
        check_features(library.features, self.model.config.features, library.path)
        if before and before.table.is_newest():
            vectors = before.vectors
        else:
            table = EmbeddingsTable.open(self.path, self._fingerprint)
            self._pair_scores = PairScores(table)
            vectors = Vectors(table, keep=not EmbeddingIndex.of(table).covered)
        index = EmbeddingIndex.of(vectors.table)
        made_from = vectors.table.is_made_from(library.features)
        now = Approximate(library, vectors, index) if index.covered and made_from else Exact(library, vectors)
        if now.missing and not (before and now.missing == before.missing):
            log.warning(now.not_embedded())
        return now


def _best_of_sources(nearest: Callable[[int], list[Hit]], count: int, min_score: float | None) -> list[Hit]:
    """The best hit of each of the first `count` files; `nearest` gives so many hits, best first."""
    asked = 4 * count
    while True:
        hits = nearest(asked)
        best: dict[str, Hit] = {}
        for hit in hits:
            best.setdefault(hit.source, hit)
        rest_is_less = bool(hits) and min_score is not None and hits[-1].score < min_score
        if len(best) >= count or len(hits) < asked or rest_is_less:
            return list(best.values())[:count]
        asked *= 4
