"""Exact search is a full sort of what the library holds now; and it says what is wrong."""

import shutil

import lance
import numpy as np
import pytest

from equiav.errors import ConfigError, LibraryError, ModelError
from equiav.library.table import Library
from equiav.metrics.directions import mean_direction
from equiav.search.embed import embed_library
from equiav.search.index import SearchIndex
from equiav.search.table import EmbeddedClips, EmbeddingsTable, table_path
from samples import pictures, tone
from search.vectors import of_width, unit
from tiny_library import FEATURES, make_clip


def clips(audio, visual, first=0):
    return EmbeddedClips(
        clip_id=[f"clip{first + i:03}" for i in range(len(audio))],
        thumbnail=[bytes([i % 256]) for i in range(len(audio))],
        audio_embedding=audio,
        visual_embedding=visual,
    )


def writable(library, width):
    return EmbeddingsTable.for_writing(library, "model-a", width, FEATURES)


def made(path, n):
    library = Library.create(path, FEATURES)
    library.append([make_clip(i, clip_id=f"clip{i:03}") for i in range(n)])
    return library


def filled(path, audio, visual):
    """An index over vectors made by hand, in the order of the clips' ids."""
    made(path, len(audio))
    with writable(path, audio.shape[1]) as table:
        table.append(clips(audio, visual))
    return SearchIndex(path, of_width(audio.shape[1]))


def full_sort(query, matrices):
    """Ids in the order of the mean float64 cosine; equal scores in the order of ids."""
    query = query / np.linalg.norm(query)
    scores = [
        sum(sum(float(a) * float(b) for a, b in zip(row, query, strict=True)) for row in rows) / len(rows)
        for rows in zip(*matrices, strict=True)
    ]
    return [f"clip{i:03}" for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i))]


@pytest.mark.parametrize("by", ["audio", "visual", "both"])
def test_search_equals_a_full_sort(tmp_path, by):
    rng = np.random.default_rng(0)
    audio, visual = unit(rng.normal(size=(2, 60, 16)))
    index = filled(tmp_path, audio, visual)
    matrices = {"audio": [audio], "visual": [visual], "both": [audio, visual]}[by]
    query = rng.normal(size=16) * 3
    everything = index.search(vector=query, by=by, k=60)
    assert [hit.clip_id for hit in everything] == full_sort(query, matrices)
    for k in (1, 5, 59):
        assert index.search(vector=query, by=by, k=k) == everything[:k]
    first = int(everything[0].clip_id.removeprefix("clip"))
    expected = np.mean([matrix[first] @ query for matrix in matrices]) / np.linalg.norm(query)
    assert everything[0].score == pytest.approx(expected, abs=1e-6)


def test_near_ties_below_float32_precision_are_still_sorted(tmp_path):
    """The float32 scan only picks candidates; the order is that of the float64 cosines of the stored vectors."""
    rng = np.random.default_rng(1)
    base = unit(rng.normal(size=512))
    audio = np.stack([base] * 40)
    audio[np.arange(40), rng.integers(0, 512, 40)] *= np.float32(1 + 1e-6)
    index = filled(tmp_path, audio, audio)
    query = rng.normal(size=512)
    assert [hit.clip_id for hit in index.search(vector=query, by="audio", k=7)] == full_sort(query, [audio])[:7]


def test_equal_scores_are_ordered_by_id_whatever_the_order_of_the_table(tmp_path):
    row = unit(np.random.default_rng(2).normal(size=(1, 37)))
    same = np.repeat(row, 51, axis=0)
    made(tmp_path, 101)
    with writable(tmp_path, 37) as table:
        table.append(clips(same[:50], same[:50], first=51))
        table.append(clips(same, same))
    index = SearchIndex(tmp_path, of_width(37))
    assert [hit.clip_id for hit in index.search(vector=row[0], k=60)] == [f"clip{i:03}" for i in range(60)]


def test_hits_carry_what_the_library_says_of_their_clip(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    index = filled(tmp_path, vectors, vectors[::-1].copy())
    hit = index.search(vector=vectors[3], by="audio", k=1)[0]
    assert (hit.clip_id, hit.source, hit.start_s, hit.end_s) == ("clip003", "videos/3.mp4", 0.0, 0.4)
    assert (hit.labels, hit.split, hit.thumbnail, hit.score) == (["class0"], "train", b"\x03", 1.0)
    assert "thumbnail" not in hit.to_dict()


def test_excluded_clips_are_not_found(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    index = filled(tmp_path, vectors, vectors)
    found = index.search(clip="clip002", k=3)
    assert [hit.clip_id for hit in found] == ["clip000", "clip001", "clip003"]
    everything = index.search(vector=vectors[0], k=100, exclude=["clip002", "nobody"])
    assert [hit.clip_id for hit in everything] == ["clip000", "clip001", "clip003"]
    assert index.search(vector=vectors[0], exclude=[f"clip{i:03}" for i in range(4)]) == []


def test_clip_vector_is_the_stored_one_or_the_mean_direction(tmp_path):
    audio, visual = np.eye(2, 4, dtype=np.float32), np.eye(2, 4, k=2, dtype=np.float32)
    index = filled(tmp_path, audio, visual)
    np.testing.assert_array_equal(index.clip_vector("clip001", "audio"), audio[1])
    np.testing.assert_array_equal(index.clip_vector("clip001", "visual"), visual[1])
    np.testing.assert_allclose(index.clip_vector("clip001"), (audio[1] + visual[1]) / np.sqrt(2))
    with pytest.raises(LibraryError, match="holds no clip 'nobody'"):
        index.clip_vector("nobody")
    with pytest.raises(ModelError, match="opposite"):
        mean_direction(audio[0], -audio[0])


def test_an_index_kept_open_tells_what_the_library_says_now(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    index = filled(tmp_path, vectors, vectors)
    assert len(index.search(vector=vectors[1], k=9)) == 4
    Library(tmp_path).update([{"clip_id": "clip001", "source": "new/name.mp4", "labels": ["cat"], "split": "test"}])
    hit = index.search(vector=vectors[1], k=1)[0]
    assert (hit.clip_id, hit.source, hit.labels, hit.split) == ("clip001", "new/name.mp4", ["cat"], "test")
    assert hit.thumbnail == b"\x01"
    Library(tmp_path).remove(["clip001"])
    found = index.search(vector=vectors[1], k=3)
    assert [hit.clip_id for hit in found] == ["clip000", "clip002", "clip003"], "a clip that is gone takes no place"
    with pytest.raises(LibraryError, match="holds no clip 'clip001', or not any more"):
        index.search(clip="clip001")
    Library(tmp_path).append([make_clip(7, clip_id="clip007")])
    assert index.missing == 1
    with pytest.raises(LibraryError, match=r"clip clip007 is not embedded yet: run equiav embed --library .* --run"):
        index.search(clip="clip007")
    with writable(tmp_path, 4) as table:
        table.append(clips(vectors[1:2], vectors[1:2], first=7))
    assert index.search(vector=vectors[1], k=1)[0].clip_id == "clip007"
    assert index.missing == 0


def test_nothing_is_read_again_while_nothing_changes(tmp_path, monkeypatch):
    vectors = np.eye(4, dtype=np.float32)
    index = filled(tmp_path, vectors, vectors)
    index.search(vector=vectors[1])
    opened = []
    original = lance.dataset
    monkeypatch.setattr(lance, "dataset", lambda *a, **k: opened.append(a) or original(*a, **k))
    index.search(vector=vectors[1])
    assert opened == []
    Library(tmp_path).update([{"clip_id": "clip001", "split": "test"}])
    read = []
    monkeypatch.setattr(EmbeddingsTable, "vectors", lambda *a: read.append(a))
    index.search(vector=vectors[1])
    assert read == [], "new labels cost no vectors"


def test_all_hits_of_a_query_are_of_one_version_of_the_library(tmp_path, monkeypatch):
    vectors = np.eye(4, dtype=np.float32)
    index = filled(tmp_path, vectors, vectors)
    before = index.search(vector=vectors[1], k=4)
    take = Library.take

    def late(library, *asked):
        """Another process writes between the ranking and the reading of the hits."""
        other = Library(tmp_path)
        other.update([{"clip_id": f"clip00{i}", "source": f"moved/{i}.mp4"} for i in (0, 2)])
        other.remove(["clip001"])
        return take(library, *asked)

    with monkeypatch.context() as patch:
        patch.setattr(Library, "take", late)
        assert index.search(vector=vectors[1], k=4) == before
    after = index.search(vector=vectors[1], k=4)
    assert [(hit.clip_id, hit.source) for hit in after] == [
        ("clip000", "moved/0.mp4"),
        ("clip002", "moved/2.mp4"),
        ("clip003", "videos/3.mp4"),
    ]


def test_another_library_or_table_at_the_same_place_is_noticed(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    index = filled(tmp_path / "a", vectors, vectors)
    assert index.search(vector=vectors[1], k=1)[0].clip_id == "clip001"
    filled(tmp_path / "b", vectors[::-1].copy(), vectors[::-1].copy())
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b").rename(tmp_path / "a")
    assert index.search(vector=vectors[1], k=1)[0].clip_id == "clip002"
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(LibraryError, match="no library"):
        index.search(vector=vectors[1])


def test_a_clip_that_was_stored_twice_is_found_once(tmp_path):
    vectors = unit(np.random.default_rng(4).normal(size=(6, 8)))
    once = filled(tmp_path, vectors, vectors).search(vector=vectors[2], k=9)
    double = lance.dataset(table_path(tmp_path, "model-a"))
    lance.write_dataset(double.to_table(), table_path(tmp_path, "model-a"), mode="append")
    assert EmbeddingsTable.open(tmp_path, "model-a").count() == 12
    index = SearchIndex(tmp_path, of_width(8))
    assert index.search(vector=vectors[2], k=9) == once
    np.testing.assert_array_equal(index.clip_vector("clip002"), mean_direction(vectors[2], vectors[2]))


def test_a_clip_that_has_other_modalities_now_is_not_found_by_the_old_ones(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    index = filled(tmp_path, vectors, vectors)
    Library(tmp_path).remove(["clip001"])
    Library(tmp_path).append([make_clip(1, clip_id="clip001", status="no_audio")])
    for by in ("audio", "both"):
        found = index.search(vector=vectors[1], by=by, k=9)
        assert [hit.clip_id for hit in found] == ["clip000", "clip002", "clip003"]
    assert index.search(vector=vectors[1], by="visual", k=1)[0].clip_id == "clip001"


def test_clips_that_are_not_embedded_are_counted_and_reported(tmp_path, caplog):
    vectors = np.eye(4, dtype=np.float32)
    filled(tmp_path, vectors, vectors)
    assert caplog.messages == []
    Library(tmp_path).append([make_clip(i, clip_id=f"clip{i:03}") for i in (4, 5, 6)])
    index = SearchIndex(tmp_path, of_width(4))
    assert len(index.search(vector=vectors[0], k=9)) == 4
    said = f"3 clips are not embedded, of 7 in {tmp_path}: run equiav embed --library {tmp_path} --run RUN"
    assert caplog.messages == [said]
    Library(tmp_path).remove(["clip004", "clip005"])
    index.search(vector=vectors[0])
    index.search(vector=vectors[0])
    assert caplog.messages[1:] == [said.replace("3 clips are", "1 clip is").replace("of 7", "of 5")]


def test_what_is_wrong_with_a_library_is_reported(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(LibraryError, match="no library"):
        SearchIndex(tmp_path / "nowhere", of_width(4))
    made(tmp_path / "new", 2)
    embed = rf"equiav embed --library {tmp_path}/\S+ --run RUN"
    with pytest.raises(LibraryError, match=rf"no embeddings of model model-a .*found none\); make them: {embed}"):
        SearchIndex(tmp_path / "new", of_width(4))
    with writable(tmp_path / "new", 4):
        pass
    with pytest.raises(LibraryError, match=rf"2 clips are not embedded, of 2 in .*: run {embed}"):
        SearchIndex(tmp_path / "new", of_width(4)).search(vector=vectors[0])
    Library.create(tmp_path / "empty", FEATURES)
    with writable(tmp_path / "empty", 4):
        pass
    with pytest.raises(LibraryError, match="holds no clips to search in; add some: equiav ingest"):
        SearchIndex(tmp_path / "empty", of_width(4)).search(vector=vectors[0])
    index = filled(tmp_path / "other", vectors, vectors)
    shutil.rmtree(tmp_path / "other" / "clips.lance")
    Library.create(tmp_path / "other", FEATURES.model_copy(update={"mel_bins": 16}))
    with pytest.raises(LibraryError, match=r"features that the model does not know: mel_bins is 16, the model's 32"):
        index.search(vector=vectors[0])
    shutil.rmtree(tmp_path / "other" / "clips.lance")
    again = Library.create(tmp_path / "other", FEATURES.model_copy(update={"frame_pick": "key"}))
    again.append([make_clip(i, clip_id=f"clip{i:03}") for i in range(4)])
    with pytest.raises(LibraryError, match="4 clips are not embedded"):
        index.search(vector=vectors[0])


def test_what_cannot_be_searched_is_a_clear_error(tmp_path):
    vectors = np.eye(3, dtype=np.float32)
    index = filled(tmp_path, vectors, vectors)
    for k in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match=f"k={k}: expected at least 1"):
            index.search(vector=vectors[0], k=k)
    with pytest.raises(ConfigError, match=r"query of shape \(4,\), .*\(3,\)"):
        index.search(vector=np.ones(4), k=1)
    with pytest.raises(ConfigError, match=r"shape \(1, 3\)"):
        index.search(vector=np.ones((1, 3)), k=1)
    with pytest.raises(ConfigError, match="by='smell' is none of audio, visual, both"):
        index.search(vector=vectors[0], by="smell", k=1)
    with pytest.raises(ConfigError, match=r"exactly one query .* found none"):
        index.search()
    with pytest.raises(ConfigError, match=r"exactly one query .*'audio', 'clip'"):
        index.search(audio="a", clip="b")
    for bad in (np.zeros(3), np.full(3, np.nan)):
        with pytest.raises(ModelError, match="no direction"):
            index.search(vector=bad, k=1)


def test_a_modality_that_no_clip_has_is_a_clear_error(tmp_path):
    Library.create(tmp_path, FEATURES).append(
        [make_clip(i, clip_id=f"clip{i:03}", status="no_video") for i in range(3)]
    )
    vectors = np.eye(3, dtype=np.float32)
    with writable(tmp_path, 3) as table:
        table.append(clips(vectors, None))
    index = SearchIndex(tmp_path, of_width(3))
    assert index.search(vector=vectors[1], k=1)[0].clip_id == "clip001"
    with pytest.raises(LibraryError, match="all its embedded clips were ingested without picture"):
        index.search(vector=vectors[1], by="visual")
    with pytest.raises(LibraryError, match="clip clip001 has no visual embedding: it was ingested without picture"):
        index.clip_vector("clip001", "visual")


def test_the_table_keeps_ids_thumbnails_and_vectors_alone(tmp_path):
    vectors = np.eye(3, dtype=np.float32)
    filled(tmp_path, vectors, vectors)
    schema = lance.dataset(table_path(tmp_path, "model-a")).schema
    assert schema.names == ["clip_id", "thumbnail", "audio_embedding", "visual_embedding"]


@pytest.mark.parametrize("made_from", ["audio", "image"])
def test_a_vector_that_says_what_it_was_made_from_finds_as_its_file_does(library, model, made_from):
    embed_library(library, model)
    index = SearchIndex(library.path, model)
    query = {"audio": (tone(0.5, rate=8000), 8000), "image": pictures(1)[0]}[made_from]
    vector = model.encode(**{made_from: query})[0]
    kind = {"audio": "audio", "image": "visual"}[made_from]
    assert index.search(vector=vector, vector_of=kind) == index.search(**{made_from: query})
    assert index.search(vector=vector) == index.search(vector=vector, by="both")
    with pytest.raises(ConfigError, match="vector_of"):
        index.search(vector=vector, vector_of="smell")


def test_a_clip_s_thumbnail_is_that_of_its_hit(library, model):
    embed_library(library, model)
    index = SearchIndex(library.path, model)
    hit = index.search(clip="clip3", k=1)[0]
    assert index.thumbnail(hit.clip_id) == hit.thumbnail != b""
    assert index.thumbnail("nobody") == b""
    library.append([make_clip(50)])
    assert index.thumbnail("clip50") == b""
    assert "clip50" in index.library.all_ids()
