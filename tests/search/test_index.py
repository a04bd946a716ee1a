"""Exact search is a full sort; the table is append-only, belongs to one model, and says what is wrong."""

import numpy as np
import pytest

from equiav.errors import ConfigError, LibraryError, ModelError
from equiav.search.encode import mean_direction
from equiav.search.index import EmbeddedClips, EmbeddingsTable, SearchIndex, table_path


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def clips(audio, visual, first=0):
    n = len(audio)
    return EmbeddedClips(
        clip_id=[f"clip{first + i}" for i in range(n)],
        source=[f"videos/{first + i}.mp4" for i in range(n)],
        start_s=[float(i) for i in range(n)],
        end_s=[float(i) + 2.5 for i in range(n)],
        labels=[["dog"] if i % 2 else [] for i in range(n)],
        thumbnail=[bytes([i % 256]) for i in range(n)],
        audio_embedding=audio,
        visual_embedding=visual,
    )


def filled(library, audio, visual):
    table = EmbeddingsTable.create(library, "model-a", audio.shape[1])
    table.append(clips(audio, visual))
    return SearchIndex(table)


def full_sort(query, matrices):
    """Ids in the order of the mean float64 cosine; equal scores in the table's order."""
    query = query / np.linalg.norm(query)
    scores = [
        sum(sum(float(a) * float(b) for a, b in zip(row, query, strict=True)) for row in rows) / len(rows)
        for rows in zip(*matrices, strict=True)
    ]
    return [f"clip{i}" for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i))]


@pytest.mark.parametrize("by", ["audio", "visual", "both"])
def test_search_equals_a_full_sort(tmp_path, by):
    rng = np.random.default_rng(0)
    audio, visual = unit(rng.normal(size=(2, 60, 16)))
    index = filled(tmp_path, audio, visual)
    matrices = {"audio": [audio], "visual": [visual], "both": [audio, visual]}[by]
    query = rng.normal(size=16) * 3
    everything = index.search(query, by=by, k=60)
    assert [hit.clip_id for hit in everything] == full_sort(query, matrices)
    for k in (1, 5, 59):
        assert index.search(query, by=by, k=k) == everything[:k]
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
    assert [hit.clip_id for hit in index.search(query, by="audio", k=7)] == full_sort(query, [audio])[:7]


def test_equal_scores_keep_the_order_of_the_table(tmp_path):
    row = unit(np.random.default_rng(2).normal(size=(1, 37)))
    same = np.repeat(row, 101, axis=0)
    index = filled(tmp_path, same, same)
    assert [hit.clip_id for hit in index.search(row[0], k=20)] == [f"clip{i}" for i in range(20)]


def test_hits_carry_the_row_of_their_clip(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    hit = filled(tmp_path, vectors, vectors[::-1].copy()).search(vectors[3], by="audio", k=1)[0]
    assert (hit.clip_id, hit.source, hit.start_s, hit.end_s) == ("clip3", "videos/3.mp4", 3.0, 5.5)
    assert (hit.labels, hit.thumbnail, hit.score) == (["dog"], b"\x03", 1.0)
    assert "thumbnail" not in hit.to_dict()


def test_excluded_clips_are_not_found(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    index = filled(tmp_path, vectors, vectors)
    found = index.search(index.clip_vector("clip2"), k=3, exclude=["clip2"])
    assert [hit.clip_id for hit in found] == ["clip0", "clip1", "clip3"]
    everything = index.search(vectors[0], k=100, exclude=["clip2"])
    assert [hit.clip_id for hit in everything] == ["clip0", "clip1", "clip3"]


def test_clip_vector_is_the_stored_one_or_the_mean_direction(tmp_path):
    audio, visual = np.eye(2, 4, dtype=np.float32), np.eye(2, 4, k=2, dtype=np.float32)
    index = filled(tmp_path, audio, visual)
    np.testing.assert_array_equal(index.clip_vector("clip1", "audio"), audio[1])
    np.testing.assert_array_equal(index.clip_vector("clip1", "visual"), visual[1])
    np.testing.assert_allclose(index.clip_vector("clip1"), (audio[1] + visual[1]) / np.sqrt(2))
    with pytest.raises(LibraryError, match="no clip 'nobody' among the 2"):
        index.clip_vector("nobody")
    with pytest.raises(ModelError, match="opposite"):
        mean_direction(audio[0], -audio[0])


def test_appended_clips_survive_reopening_in_order(tmp_path):
    rng = np.random.default_rng(3)
    audio, visual = unit(rng.normal(size=(2, 5, 8)))
    table = EmbeddingsTable.create(tmp_path, "model-a", 8)
    table.append(clips(audio[:3], visual[:3]))
    again = EmbeddingsTable.create(tmp_path, "model-a", 8)
    again.append(clips(audio[3:], visual[3:], first=3))
    opened = EmbeddingsTable.open(tmp_path, "model-a")
    assert opened.clip_ids() == [f"clip{i}" for i in range(5)]
    assert (opened.count(), opened.width, opened.fingerprint) == (5, 8, "model-a")
    np.testing.assert_array_equal(opened.vectors("audio"), audio)
    np.testing.assert_array_equal(opened.vectors("visual"), visual)


def test_what_cannot_be_searched_is_a_clear_error(tmp_path):
    vectors = np.eye(3, dtype=np.float32)
    index = filled(tmp_path, vectors, vectors)
    for k in (0, -1):
        with pytest.raises(ConfigError, match=f"k={k}: expected at least 1"):
            index.search(vectors[0], k=k)
    with pytest.raises(ConfigError, match=r"query of shape \(4,\), .*\(3,\)"):
        index.search(np.ones(4), k=1)
    with pytest.raises(ConfigError, match=r"shape \(1, 3\)"):
        index.search(np.ones((1, 3)), k=1)
    with pytest.raises(ConfigError, match="by='smell' is none of audio, visual, both"):
        index.search(vectors[0], by="smell", k=1)
    for bad in (np.zeros(3), np.full(3, np.nan)):
        with pytest.raises(ModelError, match="no direction"):
            index.search(bad, k=1)


def test_an_empty_table_is_a_clear_error(tmp_path):
    index = SearchIndex(EmbeddingsTable.create(tmp_path, "model-a", 4))
    assert index.table.vectors("audio").shape == (0, 4)
    with pytest.raises(LibraryError, match="holds no clips to search in"):
        index.search(np.ones(4), k=1)


def test_another_models_table_cannot_be_opened(tmp_path):
    EmbeddingsTable.create(tmp_path, "model-a", 4)
    with pytest.raises(LibraryError, match=r"no embeddings of model model-b .*other models: model-a"):
        EmbeddingsTable.open(tmp_path, "model-b")
    table_path(tmp_path, "model-a").rename(table_path(tmp_path, "model-b"))
    with pytest.raises(LibraryError, match="made with model model-a, not with model-b"):
        EmbeddingsTable.create(tmp_path, "model-b", 4)


def test_a_damaged_or_misfit_table_is_a_clear_error(tmp_path):
    EmbeddingsTable.create(tmp_path, "model-a", 4)
    with pytest.raises(LibraryError, match="width 4, the model gives 8"):
        EmbeddingsTable.create(tmp_path, "model-a", 8)
    table_path(tmp_path, "broken").mkdir()
    with pytest.raises(LibraryError, match="not a readable embeddings table"):
        EmbeddingsTable.open(tmp_path, "broken")


def test_non_finite_vectors_are_never_stored(tmp_path):
    table = EmbeddingsTable.create(tmp_path, "model-a", 2)
    broken = np.array([[1.0, np.nan]], dtype=np.float32)
    with pytest.raises(ModelError, match=r"audio_embedding: .* 1 NaN"):
        table.append(clips(broken, np.ones((1, 2), dtype=np.float32)))
    assert EmbeddingsTable.open(tmp_path, "model-a").count() == 0
