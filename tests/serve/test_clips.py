"""Lists of clips are the library's, page by page; a spectrogram is that of the pages."""

import io

import numpy as np
import pytest
from PIL import Image

from equiav.library.ingest import ingest
from equiav.pages.pictures import data_uri, spectrogram_uri
from equiav.search.index import SearchIndex
from samples import TINY, pictures, write_media
from serve.served import problem_of

pytestmark = pytest.mark.xdist_group("serve")


def listed(client, **query):
    found = client.get("/v1/clips", params=query)
    assert found.status_code == 200, found.text
    return found.json()


def test_all_clips_are_listed_by_file_and_time(client, library, videos):
    found = listed(client)
    rows = library.select(["clip_id", "source", "start_s", "end_s", "labels", "split", "status"]).to_pylist()
    rows.sort(key=lambda row: (row["source"], row["start_s"]))
    assert found["total"] == len(rows) == len(found["clips"])
    for clip, row in zip(found["clips"], rows, strict=True):
        assert clip["source"] == row["source"].removeprefix(f"{videos.parent}/")
        assert {name: clip[name] for name in row if name != "source"} == {k: v for k, v in row.items() if k != "source"}
        assert client.get(f"/v1/clips/{clip['clip_id']}").json() == clip


@pytest.mark.parametrize("k", [1, 2, 4, 200])
def test_pages_put_together_are_the_whole(client, k):
    whole = listed(client)
    parts = [listed(client, k=k, offset=offset) for offset in range(0, whole["total"] + k, k)]
    assert [clip for part in parts for clip in part["clips"]] == whole["clips"]
    assert {part["total"] for part in parts} == {whole["total"]}
    assert all(len(part["clips"]) <= k for part in parts)


FILTERS = [
    {"labels": ["pet"]},
    {"labels": ["thing", "none"]},
    {"labels": ["none"]},
    {"sources": ["a.mp4"]},
    {"sources": ["pets/*", "d.*"]},
    {"sources": ["*"], "labels": ["thing"]},
    {"split": "train"},
    {"split": "it's"},
    {"start_s": 0.7},
    {"end_s": 0.5, "labels": ["pet"]},
    {"start_s": 0.2, "end_s": 0.6, "sources": ["?.mp4"]},
]


@pytest.mark.parametrize("filters", FILTERS)
def test_filters_are_those_of_search(client, library, models, filters):
    found = listed(client, k=200, **filters)
    index = SearchIndex(library.path, models["first"])
    hits = index.search(vector=np.ones(12), k=1000, **filters)
    assert sorted(clip["clip_id"] for clip in found["clips"]) == sorted(hit.clip_id for hit in hits)
    assert found["total"] == len(hits)


@pytest.mark.parametrize(
    "query",
    [
        "k=0",
        "k=201",
        "k=x",
        "k=1.5",
        "offset=-1",
        "offset=99999999999999999999",
        "start_s=nan",
        "end_s=inf",
        "x=1",
        "start_s=2&end_s=1",
        "start_s=1&end_s=1",
        f"split={'s' * 501}",
        f"labels={'l' * 501}",
        "&".join(["labels=a"] * 51),
        "k=",
        "split=a&split=b&k=-1",
        "by=audio",
        "start_s=1e999",
    ],
)
def test_queries_that_mean_nothing_are_refused(client, query):
    problem_of(client.get(f"/v1/clips?{query}"), 422)


@pytest.mark.parametrize(
    "query",
    [
        "labels=') OR ('1'='1",
        "split=x' OR 1=1 --",
        "sources=../../*",
        "sources=/etc/*",
        "labels=%00",
        "sources=[",
        "labels=",
        "split=%ff",
        "sources=%5b!]",
        "labels=é",
        "split=",
        "start_s=1e300",
        "offset=1000000000",
    ],
)
def test_odd_values_are_values(client, query):
    assert client.get(f"/v1/clips?{query}").status_code == 200
    found = client.get(f"/v1/clips?{query}").json()
    assert found["clips"] == []
    assert found["total"] == (listed(client)["total"] if query.startswith("offset") else 0)


def test_a_spectrogram_is_the_png_of_the_pages(client, library, clips):
    for name in ("a.mp4", "d.wav"):
        found = client.get(f"/v1/clips/{clips[name]}/spectrogram")
        assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
        assert data_uri("image/png", found.content) == spectrogram_uri(library.clip(clips[name])["fbank"])
        picture = Image.open(io.BytesIO(found.content))
        assert (picture.format, picture.size) == ("PNG", (288, 96))


def test_links_lead_where_they_say(client, clips):
    hits = client.post("/v1/search", json={"clip": clips["a.mp4"], "k": 100}).json()["hits"]
    for clip in [*listed(client)["clips"], *hits]:
        assert client.get(clip["spectrogram"]).headers["content-type"] == "image/png"
        assert client.get(clip["media"]).status_code == 200


def test_a_clip_without_sound_has_no_spectrogram(serve_own, models, tmp_path):
    (tmp_path / "videos").mkdir()
    write_media(tmp_path / "videos" / "e.mp4", frames=pictures(7, seed=5), sound=None)
    ingest(tmp_path / "videos", tmp_path / "library", TINY, workers=1)
    with serve_own(tmp_path / "library") as client:
        [clip] = listed(client)["clips"]
        assert (clip["status"], clip["spectrogram"]) == ("no_audio", None)
        assert (
            problem_of(client.get(f"/v1/clips/{clip['clip_id']}/spectrogram"), 404)["detail"]
            == "this clip has no sound"
        )
        [hit] = client.post("/v1/search", json={"vector": [1.0] * 12}).json()["hits"]
        assert hit["spectrogram"] is None


@pytest.mark.parametrize("clip_id", ["none", "..", "..%2f..", "%00", "'", "x' OR '1'='1", "é", "%ff", "x" * 200])
def test_other_ids_have_no_spectrogram(client, clip_id):
    assert problem_of(client.get(f"/v1/clips/{clip_id}/spectrogram"), 404)
    problem_of(client.get(f"/v1/clips/{'x' * 201}/spectrogram"), 422)


def test_what_is_added_beside_the_service_is_listed(serve_own, tmp_path):
    (tmp_path / "videos").mkdir()
    write_media(tmp_path / "videos" / "b.mp4", frames=pictures(7, seed=5), sound=None)
    ingest(tmp_path / "videos", tmp_path / "library", TINY, workers=1)
    with serve_own(tmp_path / "library") as client:
        assert listed(client)["total"] == 1
        write_media(tmp_path / "videos" / "a.mp4", frames=pictures(7, seed=6), sound=None)
        ingest(tmp_path / "videos", tmp_path / "library", TINY, workers=1)
        assert [clip["source"] for clip in listed(client)["clips"]] == ["videos/a.mp4", "videos/b.mp4"]
