"""Search by an index: the hits, in their order and with their scores, are those of exact search."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import lance
import numpy as np
import pytest
from test_index import clips, writable
from vectors import of_width, unit

from equiav.library import versions
from equiav.library.table import Library
from equiav.search import approximate, indexing
from equiav.search.approximate import Approximate
from equiav.search.exact import Exact, Vectors
from equiav.search.index import SearchIndex
from equiav.search.indexing import EmbeddingIndex, update_index
from equiav.search.table import EmbeddedClips, EmbeddingsTable, table_path
from tiny_library import FEATURES, make_clip

WIDTH, ROWS = 16, 900


@pytest.fixture(autouse=True)
def _large(monkeypatch):
    monkeypatch.setattr(indexing, "EXACT_ROWS", 300)
    monkeypatch.setattr(indexing, "TAIL_ROWS", 100)
    monkeypatch.setattr(versions, "OUTSIDE_ROWS", 50)


def clustered(n, seed=0):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(20, WIDTH))[rng.integers(0, 20, n)] + 0.5 * rng.normal(size=(n, WIDTH)))


@pytest.fixture(scope="module")
def rows():
    clip = make_clip(0)
    return [
        replace(clip, clip_id=f"clip{i:03}", labels=[f"class{i % 3}"], source=f"{i}.mp4") for i in range(ROWS + 200)
    ]


def add(path, parts, rows, build=True):
    """Clips with their vectors, in a library and its embeddings, and an index."""
    Library.create(path, FEATURES).append(rows)
    Library(path).index_ids()
    with writable(path, WIDTH) as table:
        table.append(*parts)
        if build:
            update_index(table, Library(path).opened)


def exactly(path):
    index = SearchIndex(path, of_width(WIDTH))
    index._now = Exact(Library(path), Vectors(EmbeddingsTable.open(path, "model-a"), keep=True))
    return index


def check(path, queries, ks=(1, 7), **options):
    """The same hits; by the index alone, if not told otherwise."""
    index, exact = SearchIndex(path, of_width(WIDTH)), exactly(path)
    assert isinstance(index._now, Approximate)
    for by in ("audio", "visual", "both"):
        for k in ks:
            for query in queries:
                found = index.search(vector=query, by=by, k=k, **options)
                assert found == exact.search(vector=query, by=by, k=k, **options), (by, k)
    return index


def none_read_all(monkeypatch):
    for name in ("ids", "vectors", "batches"):
        monkeypatch.setattr(EmbeddingsTable, name, lambda *_: pytest.fail("all rows are read"))
    monkeypatch.setattr("equiav.search.exact.listed", lambda *_: pytest.fail("all clips are read"))


@pytest.fixture
def built(tmp_path, rows):
    audio, visual = clustered(ROWS), clustered(ROWS, 1)
    add(tmp_path, [clips(audio, visual)], rows[:ROWS])
    return tmp_path, audio, visual


def test_hits_are_those_of_exact_search_and_little_is_read(built, monkeypatch):
    path, audio, _ = built
    queries = [*audio[:5], *np.random.default_rng(3).normal(size=(5, WIDTH))]
    exact = exactly(path)
    wanted = {
        (by, k, i): exact.search(vector=q, by=by, k=k)
        for by in ("audio", "visual", "both")
        for k in (1, 5, 20)
        for i, q in enumerate(queries)
    }
    clip = exact.search(clip="clip007", k=3)
    none_read_all(monkeypatch)
    index = SearchIndex(path, of_width(WIDTH))
    for (by, k, i), hits in wanted.items():
        assert index.search(vector=queries[i], by=by, k=k) == hits
    assert index.search(clip="clip007", k=3) == clip
    assert index.missing == 0


def test_all_clips_and_more_than_there_are(built):
    path, audio, _ = built
    check(path, audio[:2], ks=(ROWS - 1, ROWS, 5 * ROWS))


def test_rows_that_no_index_holds_and_rows_that_are_gone(built, rows):
    path, audio, _ = built
    later = clustered(50, 2)
    add(path, [clips(later, later[::-1].copy(), first=ROWS)], rows[ROWS : ROWS + 50])
    queries = [*audio[:3], *later[:3]]
    index = check(path, queries)
    assert any(int(hit.clip_id[4:]) >= ROWS for hit in index.search(vector=later[0], by="audio"))
    assert EmbeddingIndex.of(index._now.table).facts["audio"].vectors == ROWS, "fifty more are no reason to index"
    nearest = [index.search(vector=query, by="audio", k=1)[0].clip_id for query in queries]
    Library(path).remove(nearest[:2])  # still embedded
    with writable(path, WIDTH) as table:
        table.remove(np.array([i for i, clip_id in enumerate(table.clip_ids()) if clip_id in nearest[2:4]]))
    index = check(path, queries)
    assert index.missing == 2 - len(set(nearest[2:4]) & set(nearest[:2]))


def test_an_index_is_extended_by_what_came_and_made_anew_when_most_of_it_is_new(built, rows, monkeypatch):
    path, audio, _ = built
    later = clustered(200, 2)
    add(path, [clips(later, later, first=ROWS)], rows[ROWS : ROWS + 200])
    table = EmbeddingsTable.open(path, "model-a")
    facts = EmbeddingIndex.of(table).facts["audio"]
    assert (facts.vectors, facts.trained) == (ROWS + 200, ROWS)
    check(path, [*audio[:2], *later[:2]])
    monkeypatch.setattr(indexing, "RETRAIN", 1)
    with writable(path, WIDTH) as table:
        facts = update_index(table, Library(path).opened).facts["audio"]
    assert facts.trained == ROWS + 200
    check(path, [*audio[:2], *later[:2]])


def test_small_fragments_are_joined_and_stay_in_the_index(built, monkeypatch):
    path, audio, _ = built
    with writable(path, WIDTH) as table:
        table.dataset.delete("clip_id IN ('clip001', 'clip003')")
        table.append(clips(audio[1:2], audio[1:2], first=1), clips(audio[3:4], audio[3:4], first=3))
        monkeypatch.setattr("equiav.search.table.FRAGMENTS", 0)
        table.tidy()
    check(path, audio[:5])


def test_an_index_is_of_few_large_fragments_and_knows_what_its_partitions_were_made_for(tmp_path, rows):
    audio = clustered(ROWS + 200)
    parts = [clips(audio[i : i + 50], audio[i : i + 50], first=i) for i in range(0, ROWS + 200, 50)]
    add(tmp_path, parts[:18], rows[:ROWS])
    with writable(tmp_path, WIDTH) as table:
        for part in parts[18:]:
            table.append(part)
        for part in parts[:8]:  # as of clips that came again
            table.remove(np.flatnonzero(np.isin(table.clip_ids(), part.clip_id)))
            table.append(part)
        trained = EmbeddingIndex.of(table).facts["audio"].trained
        assert len(table.dataset.get_fragments()) > indexing.FRAGMENTS
        facts = update_index(table, None).facts["audio"]
        assert len(table.dataset.get_fragments()) <= 2  # those in the index, and those that came since
    assert (facts.trained, facts.vectors) == (trained, ROWS + 200) == (ROWS, ROWS + 200)
    check(tmp_path, audio[[0, 60, 1000]])


def test_of_fragments_that_are_all_in_the_index_nothing_is_read(built, monkeypatch):
    path, _, _ = built
    table = EmbeddingsTable.open(path, "model-a")
    covered = EmbeddingIndex.of(table).covered["audio"]
    monkeypatch.setattr(lance.LanceDataset, "scanner", lambda *_, **__: pytest.fail("it was read"))
    found = table.outside(covered, "audio_embedding IS NOT NULL", ["clip_id", "audio_embedding"])
    assert (len(found), found.column_names) == (0, ["clip_id", "audio_embedding", "_rowid"])


def test_a_few_clips_with_both_are_all_found_however_many_are_asked_for(tmp_path, rows):
    """More are asked for than the index names, and no picture is left that was not compared."""
    audio, visual = clustered(ROWS), clustered(5, 1)
    parts = [clips(audio[:5], visual), clips(audio[5:], None, first=5)]
    add(tmp_path, parts, rows[:5] + [replace(row, status="no_video") for row in rows[5:ROWS]])
    check(tmp_path, audio[3:5], ks=(3, 200))


def test_ties_are_ordered_by_id_however_many_there_are(tmp_path, rows):
    audio = clustered(ROWS)
    audio[100:400] = audio[100]  # as of three hundred silent clips
    shuffled = np.random.default_rng(0).permutation(ROWS)
    part = clips(audio, audio)
    part = EmbeddedClips(
        [part.clip_id[i] for i in shuffled], [part.thumbnail[i] for i in shuffled], *[audio[shuffled]] * 2
    )
    add(tmp_path, [part], rows[:ROWS])
    index = check(tmp_path, audio[99:102], ks=(1, 5, 50))
    found = [hit.clip_id for hit in index.search(vector=audio[100], k=20)]
    assert found == [f"clip{i:03}" for i in range(100, 120)]


def test_vectors_without_a_direction_score_zero(tmp_path, rows):
    """An index does not hold them, and they are better than what points away."""
    audio = clustered(ROWS)
    audio[:, 0] = -np.abs(audio[:, 0]) - 0.2
    audio = unit(audio)
    audio[[5, 700]] = 0
    add(tmp_path, [clips(audio, audio[::-1].copy())], rows[:ROWS])
    ask = np.eye(1, WIDTH)[0]
    index = check(tmp_path, [ask, *audio[1:3]])
    assert [(hit.clip_id, hit.score) for hit in index.search(vector=ask, by="audio", k=2)] == [
        ("clip005", 0),
        ("clip700", 0),
    ]


def test_clips_of_one_modality_are_compared_by_it(tmp_path, rows):
    audio, visual = clustered(ROWS), clustered(ROWS, 1)
    kinds = [("ok", slice(0, 500)), ("no_video", slice(500, 700)), ("no_audio", slice(700, ROWS))]
    library = []
    for status, part in kinds:
        clip = make_clip(0, status=status)
        library += [replace(clip, clip_id=row.clip_id) for row in rows[part]]
    parts = [
        clips(audio[:500], visual[:500]),
        clips(audio[500:700], None, 500),
        replace(clips(visual[700:], visual[700:], 700), audio_embedding=None),
    ]
    add(tmp_path, parts, library)
    index = check(tmp_path, [*audio[:2], *audio[500:502], *visual[700:702]])
    assert index.search(vector=audio[501], k=1)[0].clip_id == "clip501"
    assert EmbeddingIndex.of(index._now.table).facts["audio"].alone == 200


def test_a_modality_of_few_clips_has_no_index_and_is_compared(tmp_path, rows):
    audio, visual = clustered(ROWS), clustered(20, 1)
    parts = [clips(audio[:20], visual), clips(audio[20:], None, 20)]
    clip = make_clip(0, status="no_video")
    library = rows[:20] + [replace(clip, clip_id=row.clip_id) for row in rows[20:ROWS]]
    add(tmp_path, parts, library)
    index = check(tmp_path, [*audio[:2], *visual[:2]])
    assert index._now.index.covered.keys() == {"audio"}


@pytest.mark.parametrize(
    "which",
    [
        {"labels": "class1"},
        {"sources": "7*"},
        {"sources": "77?.mp4", "labels": ["class0", "class1"]},
        {"split": "nowhere"},
        {"min_score": 0.5},
        {"group_by": "source", "offset": 2},
    ],
)
def test_a_filter_leaves_the_ranking_of_the_clips_that_match(built, which):
    path, audio, _ = built
    check(path, audio[:3], **which)
    check(path, audio[:3], **which, exclude=["clip001", "clip700", "clip007"])


def test_a_clip_that_was_stored_twice_is_found_once(built):
    path, audio, _ = built
    part = lance.dataset(table_path(path, "model-a")).to_table().slice(0, 60)
    lance.write_dataset(part, table_path(path, "model-a"), mode="append")
    check(path, audio[:5])


def test_what_was_measured_is_of_the_index_that_is_there(built, monkeypatch):
    path, audio, _ = built
    index = EmbeddingIndex.of(EmbeddingsTable.open(path, "model-a"))
    assert index.facts["audio"].recall > 0.95
    assert index.facts["visual"].zeros == 0
    monkeypatch.setattr(indexing, "RETRAIN", 0)
    with writable(path, WIDTH) as table, monkeypatch.context() as patch:
        patch.setattr(indexing, "_measured", lambda *_: 1 / 0)  # killed
        with pytest.raises(ZeroDivisionError):
            update_index(table, Library(path).opened)
    table = EmbeddingsTable.open(path, "model-a")
    assert "audio" not in EmbeddingIndex.of(table).facts
    check(path, audio[:3])
    with writable(path, WIDTH) as table:
        assert update_index(table, Library(path).opened).facts.keys() == {"audio", "visual"}


def test_recall_tells_a_bad_index(built, monkeypatch):
    path, _, _ = built
    near = indexing.near
    monkeypatch.setattr(indexing, "near", lambda t, modality, query, n, probes: near(t, modality, -query, n, probes))
    monkeypatch.setattr(indexing, "RETRAIN", 0)
    with writable(path, WIDTH) as table:
        facts = update_index(table, Library(path).opened).facts["audio"]
    assert facts.recall < 0.1
    assert facts.probes == indexing.PROBES[-1]


def test_as_few_partitions_are_looked_into_as_find_enough(built, monkeypatch):
    path, audio, _ = built
    near, asked = indexing.near, list[int]()

    def finds_with_80(table, modality, query, n, probes):
        asked.append(probes)
        return near(table, modality, query if probes >= 80 else -query, n, probes)

    for module in (indexing, approximate):
        monkeypatch.setattr(module, "near", finds_with_80)
    monkeypatch.setattr(indexing, "RETRAIN", 0)
    with writable(path, WIDTH) as table:
        facts = update_index(table, Library(path).opened).facts["audio"]
    assert facts.probes == 80
    assert facts.recall >= indexing.ENOUGH
    assert sorted(set(asked)) == [20, 40, 80]
    asked.clear()
    check(path, audio[:3], ks=(1, 7))
    assert set(asked) == {80}


def test_what_another_version_measured_is_measured_again(built):
    path, audio, _ = built
    with writable(path, WIDTH) as table:
        said = json.loads(table.said(indexing.KEY))
        del said["audio"]["probes"]
        table.say(indexing.KEY, json.dumps(said))
    assert EmbeddingIndex.of(EmbeddingsTable.open(path, "model-a")).facts.keys() == {"visual"}
    check(path, audio[:3])
    with writable(path, WIDTH) as table:
        assert update_index(table, Library(path).opened).facts.keys() == {"audio", "visual"}


def test_a_width_that_the_index_does_not_take_is_searched_exactly(tmp_path, rows):
    vectors = unit(np.random.default_rng(0).normal(size=(ROWS, 12)))
    Library.create(tmp_path, FEATURES).append(rows[:ROWS])
    with writable(tmp_path, 12) as table:
        table.append(clips(vectors, vectors))
        assert not update_index(table, Library(tmp_path).opened).covered
    assert SearchIndex(tmp_path, of_width(12)).search(vector=vectors[5], k=1)[0].clip_id == "clip005"


def test_several_threads_ask_one_index_while_the_table_is_written_to(built, rows):
    path, audio, _ = built
    index = SearchIndex(path, of_width(WIDTH))
    wanted = [hit.clip_id for hit in index.search(vector=audio[0], by="audio", k=5)]
    far = -audio[:1]

    def ask(_):
        return [hit.clip_id for hit in index.search(vector=audio[0], by="audio", k=5)]

    with ThreadPoolExecutor(4) as pool:
        found = pool.map(ask, range(40))
        for i in range(3):
            add(path, [clips(far, far, first=ROWS + i)], rows[ROWS + i : ROWS + i + 1])
        assert list(found) == [wanted] * 40
    assert index.search(vector=far[0], by="audio", k=1)[0].clip_id == f"clip{ROWS}"
