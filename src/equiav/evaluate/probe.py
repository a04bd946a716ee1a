"""What a simple classifier reads off frozen embeddings:  embeddings and labels of two splits → accuracy.

Linear probe: multinomial logistic regression on standardised embeddings, its regularisation the library's default
(C = 1): the field's protocol for "linear separability" (FACTS: P3.i), without tuning on the split it is measured on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from equiav.library.loader import ClipLoader
from equiav.search.encode import embed_batch

if TYPE_CHECKING:
    from jaxtyping import Float

    from equiav.library.table import Library
    from equiav.model.equiav import EquiAV


def linear_probe(
    train: Float[np.ndarray, "n E"], train_labels: list[str], test: Float[np.ndarray, "m E"], test_labels: list[str]
) -> float:
    """Accuracy on the second set of a logistic regression fitted on the first."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(model.fit(train, train_labels).score(test, test_labels))


def probe_library(library: Library, model: EquiAV, *, train: str = "train", test: str = "test") -> float | None:
    """Linear probe on sound and picture embeddings side by side; None where clips of a split lack a (single) label.

    Raises:
        LibraryError: a split has no clips.
    """
    parts = []
    for split in (train, test):
        loader = ClipLoader(library, split, 64, frame="middle", shuffle=False, drop_last=False)
        batches = [(embed_batch(model, batch), batch.labels) for batch in loader.epoch(0)]
        labels = [own for _, rows in batches for own in rows]
        if any(len(own) != 1 for own in labels):
            return None
        vectors = np.concatenate([np.concatenate([x.audio, x.visual], axis=1) for x, _ in batches])
        parts += [vectors, [own[0] for own in labels]]
    return linear_probe(*parts) if len(set(parts[1])) > 1 else None
