"""Embedding a library: every clip once, resumable, the same vectors whatever the batches."""

import io

import lance
import numpy as np
import pytest
import torch
from PIL import Image

from equiav.augment.visual import normalise
from equiav.errors import LibraryError, ModelError
from equiav.library.table import Library
from equiav.search import embed as embed_module
from equiav.search import engines
from equiav.search.embed import embed_library
from equiav.search.table import EmbeddingsTable, table_path
from tiny_library import FEATURES, make_clip, make_model


def one_by_one(library, model):
    """Every clip through the model alone, from the stored row."""
    sounds, pictures = [], []
    for clip_id in library.clips(columns=["clip_id"])["clip_id"].to_pylist():
        row = library.clip(clip_id)
        picture = np.asarray(Image.open(io.BytesIO(row["frames"][1])).convert("RGB"))
        view = model.visual_space.plain(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])
        with torch.no_grad():
            sounds.append(model.embed_audio(model.standardise(torch.from_numpy(row["fbank"])[None]))[0].numpy())
            pictures.append(model.embed_visual(normalise(view))[0].numpy())
    return np.stack(sounds), np.stack(pictures)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_stored_vectors_are_the_models_whatever_the_batch(library, model, batch_size):
    table = embed_library(library, model, batch_size=batch_size)
    sounds, pictures = one_by_one(library, model)
    np.testing.assert_allclose(table.vectors("audio"), sounds, atol=2e-6)
    np.testing.assert_allclose(table.vectors("visual"), pictures, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(table.vectors("visual"), axis=1), 1, atol=1e-6)


def test_every_clip_has_a_row_with_a_thumbnail(library, model):
    table = embed_library(library, model)
    assert table.clip_ids() == [f"clip{i}" for i in range(10)]
    assert Image.open(io.BytesIO(table.thumbnails([4])[0])).size == (47, 40)


def test_thumbnails_are_small():
    wide = engines._thumbnail(torch.zeros(3, 200, 400, dtype=torch.uint8))
    assert Image.open(io.BytesIO(wide)).size == (128, 64)


def test_a_killed_embedding_goes_on_and_ends_the_same(library, model, monkeypatch):
    monkeypatch.setattr(embed_module, "COMMIT_CLIPS", 4)

    def killed(done, _total):
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_library(library, model, batch_size=2, on_progress=killed)
    stored = EmbeddingsTable.open(library.path, model.fingerprint())
    assert stored.clip_ids() == [f"clip{i}" for i in range(4)]

    seen = []
    table = embed_library(library, model, batch_size=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(6, 10), (8, 10), (10, 10)]
    assert table.clip_ids() == [f"clip{i}" for i in range(10)]
    sounds, _ = one_by_one(library, model)
    np.testing.assert_allclose(table.vectors("audio"), sounds, atol=2e-6)


def watched(monkeypatch):
    """Ids of the clips that pass the model from now on."""
    asked, original = [], engines._embed

    def watch(model, read):
        clips = original(model, read)
        asked.extend(clips.clip_id)
        return clips

    monkeypatch.setattr(engines, "_embed", watch)
    return asked


def test_only_new_clips_are_embedded_and_removed_ones_leave(library, model, monkeypatch):
    embed_library(library, model)
    library.append([make_clip(10), make_clip(11)])
    library.remove(["clip3"])
    asked = watched(monkeypatch)
    table = embed_library(Library(library.path), model)
    assert asked == ["clip10", "clip11"]
    assert sorted(table.clip_ids()) == sorted(f"clip{i}" for i in range(12) if i != 3)
    asked.clear()
    assert embed_library(Library(library.path), model).count() == 11
    assert asked == []


def test_models_keep_to_their_own_tables(library, model):
    other = make_model(seed=1)
    first, second = embed_library(library, model), embed_library(library, other)
    assert first.path != second.path
    assert not np.allclose(first.vectors("audio"), second.vectors("audio"))
    assert first.path == table_path(library.path, model.fingerprint())


def test_a_library_of_other_features_is_refused(tmp_path, model):
    library = Library.create(tmp_path / "other", FEATURES.model_copy(update={"clip_s": 1.0}))
    with pytest.raises(LibraryError, match=r"clip_s is 1\.0, the model's 0\.4"):
        embed_library(library, model)


def test_a_broken_model_stores_nothing(library):
    broken = make_model()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN or infinite"):
        embed_library(library, broken)
    assert EmbeddingsTable.open(library.path, broken.fingerprint()).count() == 0


def test_an_empty_library_is_a_clear_error(tmp_path, model):
    library = Library.create(tmp_path / "empty", FEATURES)
    with pytest.raises(LibraryError, match="no clips to embed"):
        embed_library(library, model)


def test_the_second_of_two_embeds_ends_at_once_and_nothing_is_stored_twice(library, model):
    errors = []

    def meanwhile(*_):
        with pytest.raises(LibraryError, match="another process is embedding with this model") as error:
            embed_library(Library(library.path), model)
        errors.append(error)

    table = embed_library(library, model, batch_size=4, on_progress=meanwhile)
    assert len(errors) == 3
    assert table.clip_ids() == [f"clip{i}" for i in range(10)]


def test_what_was_stored_twice_is_dropped_and_not_embedded_again(library, model, monkeypatch):
    path = embed_library(library, model).path
    lance.write_dataset(lance.dataset(path).to_table(), path, mode="append")
    asked = watched(monkeypatch)
    table = embed_library(library, model)
    assert table.clip_ids() == [f"clip{i}" for i in range(10)]
    assert asked == []


def test_a_clip_that_has_other_modalities_now_is_embedded_again(library, model, monkeypatch):
    embed_library(library, model)
    library.remove(["clip3"])
    library.append([make_clip(3, status="no_audio")])
    asked = watched(monkeypatch)
    table = embed_library(Library(library.path), model)
    assert asked == ["clip3"]
    heard, seen = table.modalities()
    assert [table.clip_ids()[i] for i in np.flatnonzero(~heard)] == ["clip3"]
    assert seen.all()


def test_a_library_that_was_opened_before_loses_no_newer_vectors(library, model, monkeypatch):
    library.append([make_clip(10)])
    old = Library(library.path)
    library.append([make_clip(11)])
    embed_library(library, model)
    asked = watched(monkeypatch)
    assert embed_library(old, model).count() == 12
    assert asked == []
