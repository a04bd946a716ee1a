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

    from equiav.search.index import SearchIndex

CLIPS = 3000  # more of them would be one blot
SHOWN = ["clip_id", "source", "origin", "start_s", "end_s", "labels"]


class Maps:
    """The maps of one index, kept until the library or its embeddings change."""

    def __init__(self, index: SearchIndex) -> None:
        self._index, self._drawing = index, Lock()
        self._kept: dict[Modalities, Map] = {}
        self._of = None

    def get(self, of: Modalities) -> Map:
        """The map of these vectors, of at most `CLIPS` clips.

        Raises:
            LibraryError: the library or its embeddings cannot be read.
        """
        with self._drawing:
            now = self._index.snapshot
            if now is not self._of:
                self._of, self._kept = now, {}
            if of not in self._kept:
                rows, vectors = now.sample(of, CLIPS, SHOWN)
                points, explained = plane(vectors)
                self._kept[of] = Map(
                    of=of,
                    clips=len(rows),
                    explained=explained,
                    points=[
                        Point(
                            clip_id=row["clip_id"],
                            x=x,
                            y=y,
                            label=row["labels"][0] if row["labels"] else None,
                            source=shown(row["source"], row["origin"]),
                            start_s=row["start_s"],
                            end_s=row["end_s"],
                        )
                        for row, (x, y) in zip(rows, points.tolist(), strict=True)
                    ],
                )
            return self._kept[of]


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
