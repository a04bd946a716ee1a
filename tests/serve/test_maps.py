"""A map is the PCA of the stored vectors, the same each time, and new when they are."""

import numpy as np
import pytest

from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media.mux import wav_file
from equiav.metrics.directions import mean_direction
from equiav.search.embed import embed_library
from equiav.search.index import SearchIndex
from equiav.serve import maps
from equiav.serve.maps import plane
from samples import TINY, tone
from serve.served import problem_of

pytestmark = pytest.mark.xdist_group("serve")


def drawn(client, run="first", **query):
    found = client.get(f"/v1/runs/{run}/map", params=query)
    assert found.status_code == 200, found.text
    return found.json()


def by_svd(vectors):
    """The two first principal components, and their shares of the variance."""
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    return (left * sizes)[:, :2], (sizes**2 / (sizes**2).sum())[:2]


def assert_same_up_to_sign(found, expected):
    for own, other in zip(found.T, expected.T, strict=True):
        np.testing.assert_allclose(own * np.sign(own @ other), other, atol=1e-6)


@pytest.mark.parametrize("run", ["first", "second"])
@pytest.mark.parametrize(("of", "has"), [("audio", 6), ("visual", 5), ("both", 6)])
def test_it_is_the_pca_of_the_stored_vectors(client, library, models, run, of, has):
    found, index = drawn(client, run, of=of), SearchIndex(library.path, models[run])
    assert (found["of"], found["clips"], len(found["points"])) == (of, has, has)
    ids = [point["clip_id"] for point in found["points"]]
    assert ids == sorted(ids)
    points, shares = by_svd(np.stack([index.clip_vector(clip_id, of) for clip_id in ids]))
    assert_same_up_to_sign(np.array([(point["x"], point["y"]) for point in found["points"]]), points)
    np.testing.assert_allclose(found["explained"], shares, atol=1e-6)


def test_points_are_the_clips(client):
    for point in drawn(client)["points"]:
        clip = client.get(f"/v1/clips/{point['clip_id']}").json()
        assert all(point[name] == clip[name] for name in ("source", "start_s", "end_s"))
        assert [point["label"]] == clip["labels"]


def test_it_is_the_same_each_time_and_in_each_service(client, serve_own, library):
    with serve_own(library.path) as other:
        assert drawn(client) == drawn(client) == drawn(other)


def test_it_follows_the_library_and_its_embeddings(serve_own, models, tmp_path):
    (tmp_path / "sounds").mkdir()
    for i, hertz in enumerate((200, 500, 900)):
        (tmp_path / "sounds" / f"{i}.wav").write_bytes(wav_file(tone(0.7, hertz), 16_000))
    ingest(tmp_path / "sounds", tmp_path / "library", TINY, workers=1)
    with serve_own(tmp_path / "library") as client:
        before = drawn(client)
        assert (before["clips"], {point["label"] for point in before["points"]}) == (3, {None})
        (tmp_path / "sounds" / "3.wav").write_bytes(wav_file(tone(0.7, 3000), 16_000))
        ingest(tmp_path / "sounds", tmp_path / "library", TINY, workers=1)
        made = Library(tmp_path / "library")
        made.update([{"clip_id": clip_id, "labels": ["b", "a"]} for clip_id in made.all_ids()])
        labelled = drawn(client)  # what is not embedded is not on it yet
        assert [point | {"label": None} for point in labelled["points"]] == before["points"]
        assert {point["label"] for point in labelled["points"]} == {"b"}
        embed_library(made, models["first"])
        assert drawn(client)["clips"] == 4
        made.remove(made.all_ids()[:2])
        assert drawn(client)["clips"] == 2
        assert drawn(client, of="visual") == {"of": "visual", "explained": [0.0, 0.0], "clips": 0, "points": []}


def test_it_is_drawn_once(client, monkeypatch):
    kept = drawn(client, of="audio")
    monkeypatch.setattr(maps, "plane", None)
    assert drawn(client, of="audio") == kept


def test_of_many_clips_some_are_drawn_evenly_over_the_ids(library, models, monkeypatch):
    index = SearchIndex(library.path, models["first"])
    whole, vectors = index.snapshot.sample("both", 6, ["clip_id"])
    some, few = index.snapshot.sample("both", 3, ["clip_id"])
    ids = sorted(library.all_ids())
    assert [row["clip_id"] for row in whole] == ids
    assert [row["clip_id"] for row in some] == [ids[0], ids[2], ids[5]]
    np.testing.assert_array_equal(few, vectors[[0, 2, 5]])
    both = [i for i, clip_id in enumerate(ids) if library.clip(clip_id)["frames"]]
    pairs = [[index.clip_vector(ids[i], of) for i in both] for of in ("audio", "visual")]
    np.testing.assert_allclose(vectors[both], mean_direction(*map(np.stack, pairs)), atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 4), (5, 1), (5, 2), (3000, 24)])
def test_any_number_of_vectors_has_a_plane(shape):
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    points, explained = plane(vectors)
    assert points.shape == (shape[0], 2)
    assert 0 <= explained[1] <= explained[0] <= 1
    if min(shape) > 2:
        expected, shares = by_svd(vectors)
        assert_same_up_to_sign(points, expected)
        np.testing.assert_allclose(explained, shares, atol=1e-9)
    # those that do not differ lie in one place
    points, explained = plane(np.ones(shape, np.float32))
    assert (points.any(), explained) == (False, (0.0, 0.0))


@pytest.mark.parametrize("query", ["of=x", "of=", "x=1", "of=both&k=3"])
def test_queries_that_mean_nothing_are_refused(client, query):
    problem_of(client.get(f"/v1/runs/first/map?{query}"), 422)


@pytest.mark.parametrize("run", ["none", "%00", "..%2ffirst", "FIRST", "first%20", "x" * 500])
def test_other_runs_have_none(client, run):
    assert "first, second" in problem_of(client.get(f"/v1/runs/{run}/map"), 404)["detail"] or "%2f" in run
