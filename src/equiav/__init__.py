"""equiav: joint sound-and-image embeddings from plain videos, learned with EquiAV (Kim et al., ICML 2024).

The public names load on first use, so that `import equiav` stays fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from equiav._version import __version__
from equiav.errors import ConfigError, EquiAVError, LibraryError, MediaError, ModelError, TrainingError

if TYPE_CHECKING:
    from equiav.config import Recipe, load_recipe
    from equiav.library.ingest import ingest
    from equiav.library.table import Library
    from equiav.metrics.ranking import similarity
    from equiav.model.classifier import Classifier
    from equiav.model.equiav import EquiAV
    from equiav.search.embed import embed_library
    from equiav.search.index import Hit, SearchIndex

# Lance announces every table that it makes as a warning on stderr; set LANCE_LOG to see them
os.environ.setdefault("LANCE_LOG", "error")
# PyTorch's threads spin while they wait for each other: beside other work that takes several times the processor time
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_LAZY = {
    "Classifier": "equiav.model.classifier",
    "EquiAV": "equiav.model.equiav",
    "Hit": "equiav.search.index",
    "Library": "equiav.library.table",
    "Recipe": "equiav.config",
    "SearchIndex": "equiav.search.index",
    "embed_library": "equiav.search.embed",
    "ingest": "equiav.library.ingest",
    "load_recipe": "equiav.config",
    "similarity": "equiav.metrics.ranking",
}

__all__ = [
    "Classifier",
    "ConfigError",
    "EquiAV",
    "EquiAVError",
    "Hit",
    "Library",
    "LibraryError",
    "MediaError",
    "ModelError",
    "Recipe",
    "SearchIndex",
    "TrainingError",
    "__version__",
    "embed_library",
    "ingest",
    "load_recipe",
    "similarity",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'equiav' has no attribute {name!r}")
