"""Search in a library's embeddings:  a library, a model; a sound, a picture, a video, a clip → ranked hits.

The vectors are the table's; which clips there are, their files, times, labels and splits are the library's, of one
version of it for all hits of a query. So a clip that was renamed is shown with its new name, and one that left the
library is not found, whatever was embedded when.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from equiav.config import Modalities, check_features
from equiav.errors import ConfigError
from equiav.library.table import Library
from equiav.model.encode import encode, mean_direction
from equiav.search.exact import Exact, Vectors
from equiav.search.hits import ClipFilter, Hit
from equiav.search.table import EmbeddingsTable

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

    from equiav.model.equiav import EquiAV

__all__ = ["EmbeddingsTable", "Hit", "SearchIndex"]

log = logging.getLogger(__name__)


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
        among: ClipFilter | None = None,
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
            among: which clips may be found; None: all.

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
            return now.nearest(now.clip_vector(clip, "both"), by or "both", k, [*exclude, clip], among)
        if vector is not None:
            return now.nearest(vector, by or "both", k, exclude, among)
        embedded = encode(self.model, audio=audio, image=image, video=video)
        found, other = (embedded, None) if isinstance(embedded, np.ndarray) else embedded
        if len(found) != 1:
            raise ConfigError(f"one query at a time, found {len(found)}")
        if other is not None:
            return now.nearest(mean_direction(found[0], other[0]), by or "both", k, exclude, among)
        return now.nearest(found[0], by or ("visual" if image is None else "audio"), k, exclude, among)

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

    def _newest(self) -> Exact:
        """What is there now; what did not change is kept."""
        now = self._now
        if not (now.library.is_newest() and now.table.is_newest()):
            self._now = now = self._open(now)
        return now

    def _open(self, before: Exact | None) -> Exact:
        library = before.library if before and before.library.is_newest() else Library(self.path)
        check_features(library.features, self.model.config.features, library.path)
        kept = before is not None and before.table.is_newest()
        vectors = before.vectors if before and kept else Vectors(EmbeddingsTable.open(self.path, self._fingerprint))
        now = Exact(library, vectors)
        if now.missing and not (before and now.missing == before.missing):
            log.warning(now.not_embedded())
        return now
