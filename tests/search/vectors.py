"""What tests of search ask of a model when they ask with vectors of their own."""

from types import SimpleNamespace

import numpy as np

from tiny_library import FEATURES


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def of_width(width):
    """What an index asks of a model when it is asked with vectors."""
    config = SimpleNamespace(features=FEATURES, architecture=SimpleNamespace(embedding=width))
    return SimpleNamespace(fingerprint=lambda: "model-a", config=config)
