"""The embeddings table: one model, one writer, whole commits; what older or killed writers left is mended."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from equiav.errors import LibraryError, ModelError
from equiav.search import table as table_module
from equiav.search.table import EmbeddedClips, EmbeddingsTable, table_path
from power import Disk, cut_at_every_flush
from tiny_library import FEATURES


def vectors_of(n, width=8):
    return np.random.default_rng(n).normal(size=(n, width)).astype(np.float32)


def clips(vectors, first=0):
    ids, small = [f"clip{first + i:03}" for i in range(len(vectors))], [bytes([i % 256]) for i in range(len(vectors))]
    return EmbeddedClips(ids, small, vectors, vectors)


def writable(library, width=8, features=FEATURES, model="model-a"):
    return EmbeddingsTable.for_writing(library, model, width, features)


def written(library, *parts):
    with writable(library) as table:
        for part in parts:
            table.append(part)
    return EmbeddingsTable.open(library, "model-a")


def test_appended_clips_survive_reopening_in_order(tmp_path):
    vectors = vectors_of(5)
    written(tmp_path, clips(vectors[:3]))
    opened = written(tmp_path, clips(vectors[3:], first=3))
    assert opened.clip_ids() == [f"clip{i:03}" for i in range(5)]
    assert (opened.count(), opened.width, opened.fingerprint) == (5, 8, "model-a")
    assert opened.thumbnails([4, 0]) == [b"\x01", b"\x00"]
    np.testing.assert_array_equal(opened.vectors("audio"), vectors)
    np.testing.assert_array_equal(opened.vectors("visual"), vectors)


def test_a_modality_that_a_clip_lacks_is_no_vector(tmp_path):
    vectors = vectors_of(2)
    silent = EmbeddedClips(["clip000"], [b""], None, vectors[:1])
    table = written(tmp_path, silent, clips(vectors[1:], first=1))
    assert np.isnan(table.vectors("audio")[0]).all()
    np.testing.assert_array_equal(table.vectors("audio")[1], vectors[1])
    heard, seen = table.modalities()
    assert (heard.tolist(), seen.tolist()) == ([False, True], [True, True])
    assert written(tmp_path / "empty").vectors("audio").shape == (0, 8)


def test_removed_rows_are_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "REMOVED_AT_ONCE", 2)
    written(tmp_path, clips(vectors_of(3)), clips(vectors_of(4), first=3))
    with writable(tmp_path) as table:
        table.remove(np.array([1, 3, 6]))
    assert EmbeddingsTable.open(tmp_path, "model-a").clip_ids() == ["clip000", "clip002", "clip004", "clip005"]


def test_one_writer_at_a_time_and_readers_meanwhile(tmp_path):
    with writable(tmp_path) as table:
        table.append(clips(vectors_of(3)))
        with pytest.raises(LibraryError, match="another process is embedding with this model; wait for it to end"):
            writable(tmp_path).__enter__()
        with writable(tmp_path, model="model-b"):
            pass
        assert EmbeddingsTable.open(tmp_path, "model-a").count() == 3
    with writable(tmp_path):
        pass


def test_a_killed_writer_leaves_no_lock(tmp_path):
    code = (
        "import os, signal, sys; from tiny_library import FEATURES; from equiav.search.table import EmbeddingsTable\n"
        f"with EmbeddingsTable.for_writing({str(tmp_path)!r}, 'model-a', 8, FEATURES): os.kill(os.getpid(), 9)"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert written(tmp_path, clips(vectors_of(2))).count() == 2


def test_a_table_that_was_not_finished_is_none(tmp_path):
    """What a kill while it is made leaves: data files, and no version."""
    path = table_path(tmp_path, "model-a")
    for folder in ("data", "_versions", "_transactions"):
        (path / folder).mkdir(parents=True, exist_ok=True)
        (path / folder / "left.part").write_bytes(b"half a file")
    with pytest.raises(LibraryError, match=r"no embeddings of model model-a .*found none"):
        EmbeddingsTable.open(tmp_path, "model-a")
    assert written(tmp_path, clips(vectors_of(2))).count() == 2


def test_another_models_table_cannot_be_opened(tmp_path):
    written(tmp_path)
    with pytest.raises(LibraryError, match=r"no embeddings of model model-b .*other models: model-a"):
        EmbeddingsTable.open(tmp_path, "model-b")
    table_path(tmp_path, "model-a").rename(table_path(tmp_path, "model-b"))
    with pytest.raises(LibraryError, match="made with model model-a, not with model-b"):
        writable(tmp_path, model="model-b").__enter__()


def test_a_damaged_or_misfit_table_is_a_clear_error(tmp_path):
    written(tmp_path)
    with pytest.raises(LibraryError, match="width 8, the model gives 4"):
        writable(tmp_path, width=4).__enter__()
    broken = table_path(tmp_path, "broken") / "_versions"
    broken.mkdir(parents=True)
    (broken / "1.manifest").write_bytes(b"no manifest, LANC")
    with pytest.raises(LibraryError, match="not a readable embeddings table"):
        EmbeddingsTable.open(tmp_path, "broken")
    foreign = pa.schema([("x", pa.int64())], metadata={b"equiav.embeddings": b"9"})
    lance.write_dataset(foreign.empty_table(), table_path(tmp_path, "model-c"))
    with pytest.raises(LibraryError, match="embeddings schema 9, expected 3; remove it and embed again"):
        writable(tmp_path, model="model-c").__enter__()


def test_non_finite_vectors_are_never_stored(tmp_path):
    broken = np.array([[1.0, np.nan]], dtype=np.float32)
    with writable(tmp_path, width=2) as table, pytest.raises(ModelError, match=r"audio_embedding: .* 1 NaN"):
        table.append(clips(broken))
    assert EmbeddingsTable.open(tmp_path, "model-a").count() == 0


def as_of_schema_2(library, vectors):
    """The table as an older equiav wrote it: with what the library says of the clips, and here with doubles."""
    new = clips(vectors)
    vector = pa.list_(pa.float32(), vectors.shape[1])
    types = {"clip_id": pa.string(), "source": pa.string(), "start_s": pa.float64(), "end_s": pa.float64()}
    types |= {"labels": pa.list_(pa.string()), "thumbnail": pa.binary()}
    types |= {"audio_embedding": vector, "visual_embedding": vector}
    schema = pa.schema(list(types.items()), metadata={b"equiav.embeddings": b"2", b"equiav.model": b"model-a"})
    rows = {"source": "old.mp4", "start_s": 0.0, "end_s": 0.4, "labels": ["dog"]}
    found = {name: [value] * len(vectors) for name, value in rows.items()}
    found |= {"clip_id": new.clip_id, "thumbnail": new.thumbnail}
    found |= {name: vectors.tolist() for name in ("audio_embedding", "visual_embedding")}
    for mode in ("create", "append"):
        lance.write_dataset(pa.table(found, schema=schema), table_path(library, "model-a"), mode=mode)


@pytest.mark.parametrize("killed", [False, True])
def test_a_table_of_schema_2_is_brought_up_to_date_and_keeps_its_vectors(tmp_path, monkeypatch, killed):
    vectors = vectors_of(3)
    as_of_schema_2(tmp_path, vectors)
    with pytest.raises(LibraryError, match=r"schema 2, of an older equiav; .* \(the vectors stay\): equiav embed"):
        EmbeddingsTable.open(tmp_path, "model-a")
    if killed:  # between the two commits
        with monkeypatch.context() as patch:
            patch.setattr(lance.LanceDataset, "update_schema_metadata", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                writable(tmp_path).__enter__()
    with writable(tmp_path) as table:
        assert table.is_made_from(FEATURES)
    table = EmbeddingsTable.open(tmp_path, "model-a")
    assert lance.dataset(table.path).schema.names == ["clip_id", "thumbnail", "audio_embedding", "visual_embedding"]
    np.testing.assert_array_equal(table.vectors("audio"), np.concatenate([vectors, vectors]))


def test_a_table_made_from_other_features_is_emptied(tmp_path):
    table = written(tmp_path, clips(vectors_of(3)))
    key = FEATURES.model_copy(update={"frame_pick": "key"})
    assert table.is_made_from(FEATURES)
    assert not table.is_made_from(key)
    with writable(tmp_path, features=key) as emptied:
        assert emptied.count() == 0
        assert emptied.is_made_from(key)
    assert table.count() == 3, "a reader keeps what it opened"


def test_small_fragments_are_joined_and_old_versions_freed_a_day_later(tmp_path, monkeypatch):
    vectors = vectors_of(150)
    with writable(tmp_path) as table:
        first = EmbeddingsTable.open(tmp_path, "model-a")
        most = 0
        for i in range(150):
            table.append(clips(vectors[i : i + 1], first=i))
            table.tidy()
            most = max(most, len(lance.dataset(table.path).get_fragments()))
        assert most <= table_module.FRAGMENTS + 1
        assert table.clip_ids() == [f"clip{i:03}" for i in range(150)]
        np.testing.assert_array_equal(table.vectors("audio"), vectors)
        versions = len(lance.dataset(table.path).versions())
        table.forget_old_versions()
        assert len(lance.dataset(table.path).versions()) == versions
        assert first.count() == 0
        monkeypatch.setattr("equiav.library.versions.READABLE", timedelta(0))
        table.forget_old_versions()
    assert len(lance.dataset(table.path).versions()) == 1
    assert EmbeddingsTable.open(tmp_path, "model-a").count() == 150


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/fd names what is flushed")
def test_what_was_embedded_survives_a_power_cut_at_any_moment(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk", monkeypatch)
    monkeypatch.setattr(table_module, "FRAGMENTS", 1)

    def held(library):
        opened = EmbeddingsTable.open(library, "model-a")
        return sorted(opened.clip_ids()), np.sort(opened.vectors("audio").ravel()).tolist()

    steps = (
        lambda table: table.append(clips(vectors_of(3))),
        lambda table: table.append(clips(vectors_of(2), first=3), clips(vectors_of(1), first=5)),
        lambda table: table.remove(np.array([0, 4])),
        lambda table: table.tidy(),
        lambda table: table.forget_old_versions(),
    )
    with writable(disk.root / "L") as table:
        before = held(disk.root / "L")
        for step in steps:
            with cut_at_every_flush(disk) as cuts:
                step(table)
            now = held(disk.root / "L")
            assert all(held(left / "L") in (before, now) for left in cuts)
            assert [held(left / "L") for left in disk.cut()] == [now, now]
            before = now
    assert len(before[0]) == 4
