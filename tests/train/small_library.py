"""A library of five short videos, and a recipe that trains on it in seconds."""

import numpy as np

from equiav.config import load_recipe
from equiav.library.ingest import ingest
from equiav.library.records import Clip
from equiav.library.table import Library
from samples import TINY, pictures, tone, write_media

SMALL = [
    *("model.width=32", "model.depth=1", "model.heads=2", "model.image_side=32", "model.head_hidden=32"),
    *("model.embedding=16", "model.centroid_samples=4", "train.global_batch=4", "train.epochs=2"),
]


def make_library(folder, clips=5):
    for i in range(clips):
        write_media(folder / f"{i}.mp4", frames=pictures(7, seed=i), sound=tone(0.7, 200 + 150 * i))
    ingest(folder, folder / "L", TINY, workers=1)
    return Library(folder / "L")


def written_backwards(library, folder):
    """The same clips in a new library, the last one first."""
    other = Library.create(folder, library.features)
    rows = library.take(range(len(library.all_ids()))[::-1]).to_pylist()
    shape = (library.features.time_frames, library.features.mel_bins)
    other.append([Clip(**row | {"fbank": np.array(row["fbank"], np.float16).reshape(shape)}) for row in rows])
    return other


def small_recipe(*overrides):
    return load_recipe("toy", [*SMALL, *overrides])
