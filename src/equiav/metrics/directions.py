"""What stands for several unit vectors:  (…, E) each → their mean direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from equiav.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float32


def mean_direction(*vectors: Float32[np.ndarray, "*n E"]) -> Float32[np.ndarray, "*n E"]:
    """Unit vectors along the sums of vectors.

    Raises:
        ModelError: they cancel out.
    """
    total = np.sum(vectors, axis=0, dtype=np.float64)
    norms = np.linalg.norm(total, axis=-1, keepdims=True)
    if not norms.all():
        raise ModelError("the vectors point in opposite directions: their mean has no direction")
    return (total / norms).astype(np.float32)
