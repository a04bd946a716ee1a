"""A map of the embeddings:  stored vectors (n, E) → the plane in which they differ most, a point per clip.

By PCA: the same vectors give the same map, and one that a clip is added to stays much as it was.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from equiav.config import Modalities
from equiav.serve.schemas import Map, Point
from equiav.serve.sources import shown

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

    from equiav.search.approximate import Approximate
    from equiav.search.exact import Exact
    from equiav.search.index import SearchIndex

CLIPS = 3000  # more of them would be one blot
COLUMNS = ["clip_id", "source", "origin", "start_s", "end_s", "labels"]


class Maps:
    """The maps of one index, kept until the library or its embeddings change."""

    def __init__(self, index: SearchIndex) -> None:
        self._index, self._drawing = index, Lock()
        self._kept: dict[Modalities, bytes] = {}
        self._of = None

    def get(self, of: Modalities) -> bytes:
        """The JSON of the map of these vectors, of at most `CLIPS` clips.

        Raises:
            LibraryError: the library or its embeddings cannot be read.
        """
        with self._drawing:
            now = self._index.snapshot
            if now is not self._of:
                self._of, self._kept = now, {}
            if of not in self._kept:
                self._kept[of] = draw(now, of).model_dump_json().encode()
            return self._kept[of]


def draw(now: Exact | Approximate, of: Modalities) -> Map:
    """The map of one version of the library and its embeddings."""
    rows, vectors = now.sample(of, CLIPS, COLUMNS)
    places, explained = plane(vectors)
    points = [
        Point(
            clip_id=row["clip_id"],
            x=x,
            y=y,
            label=row["labels"][0] if row["labels"] else None,
            source=shown(row["source"], row["origin"]),
            start_s=row["start_s"],
            end_s=row["end_s"],
        )
        for row, (x, y) in zip(rows, places.tolist(), strict=True)
    ]
    return Map(of=of, explained=explained, clips=len(points), points=points)


def plane(vectors: Float32[np.ndarray, "n E"]) -> tuple[Float64[np.ndarray, "n 2"], tuple[float, float]]:
    """Places of vectors along the two directions in which they differ most, and the share of the variance in each."""
    from sklearn.decomposition import PCA

    exact = vectors.astype(np.float64)
    points, explained = np.zeros((len(exact), 2)), np.zeros(2)
    parts = min(2, *exact.shape)
    if parts and np.ptp(exact, axis=0).any():
        # the eigenvectors of E×E covariances: exact, where the default draws random directions
        pca = PCA(parts, svd_solver="covariance_eigh")
        points[:, :parts] = pca.fit_transform(exact)
        explained[:parts] = pca.explained_variance_ratio_
    return points, (float(explained[0]), float(explained[1]))
