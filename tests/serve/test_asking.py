"""The service gives what `EquiAV.encode` and `SearchIndex.search` give, and clips as the library has them."""

import io

import numpy as np
import pytest
from PIL import Image

from equiav.media.mux import wav_file
from equiav.search.index import SearchIndex
from samples import pictures, tone, write_media
from serve.served import problem_of

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture(scope="module")
def png():
    buffer = io.BytesIO()
    Image.fromarray(pictures(1)[0]).save(buffer, "PNG")
    return buffer.getvalue()


def send(client, path, content, **fields):
    return client.post(path, files={"file": ("any", content)}, data=fields)


def test_embed_gives_the_vectors_of_encode(client, models, videos, png):
    video = (videos / "pets" / "a.mp4").read_bytes()
    sound = wav_file(tone(1.4, 500), 16_000)
    found = send(client, "/v1/embed", video).json()
    expected = models["first"].encode(video=[video])
    assert (found["kind"], found["windows"], found["run"]) == ("both", 2, "first")
    assert found["fingerprint"] == models["first"].fingerprint()
    np.testing.assert_allclose(found["audio"], expected.audio[0], atol=1e-5)
    np.testing.assert_allclose(found["visual"], expected.visual[0], atol=1e-5)
    found = send(client, "/v1/embed", sound, run="second").json()
    assert (found["kind"], found["visual"], found["run"]) == ("audio", None, "second")
    np.testing.assert_allclose(found["audio"], models["second"].encode(audio=[sound])[0], atol=1e-5)
    found = send(client, "/v1/embed", png).json()
    assert (found["kind"], found["audio"], found["windows"]) == ("visual", None, 1)
    np.testing.assert_allclose(found["visual"], models["first"].encode(image=[png])[0], atol=1e-5)


@pytest.mark.parametrize(("use_as", "kind"), [("audio", "audio"), ("image", "visual"), ("video", "both")])
def test_a_video_may_be_used_as_its_sound_or_its_picture(client, models, videos, use_as, kind):
    video = (videos / "pets" / "b.mp4").read_bytes()
    found = send(client, "/v1/embed", video, **{"as": use_as}).json()
    assert found["kind"] == kind
    assert (found["audio"] is None, found["visual"] is None) == (use_as == "image", use_as == "audio")
    if use_as != "video":
        modality = {"audio": "audio", "image": "visual"}[use_as]
        expected = models["first"].encode(**{use_as: [video]})[0]
        np.testing.assert_allclose(found[modality], expected, atol=1e-5)


def rows(response, *names):
    return [tuple(hit[name] for name in names) for hit in response.json()["hits"]]


def of(hits, *names):
    return [tuple(getattr(hit, name) for name in names) for hit in hits]


@pytest.mark.parametrize("use_as", ["audio", "image", "video"])
def test_search_by_a_file_is_the_index_s(client, library, models, videos, use_as):
    video = (videos / "pets" / "b.mp4").read_bytes()
    found = send(client, "/v1/search", video, **{"as": use_as}, k=10)
    expected = SearchIndex(library.path, models["first"]).search(**{use_as: video}, k=10)
    assert rows(found, "clip_id", "start_s", "labels") == of(expected, "clip_id", "start_s", "labels")
    for name in ("score", "percentile"):
        np.testing.assert_allclose(rows(found, name), of(expected, name), atol=1e-3)
    assert found.json()["by"] == {"audio": "visual", "image": "audio", "video": "both"}[use_as]


def test_search_by_a_clip_or_a_vector_is_the_index_s(client, library, models, clips):
    index = SearchIndex(library.path, models["second"])
    found = client.post("/v1/search", json={"clip": clips["a.mp4"], "run": "second", "k": 3})
    assert rows(found, "clip_id", "score", "percentile") == of(
        index.search(clip=clips["a.mp4"], k=3), "clip_id", "score", "percentile"
    )
    vector = np.random.default_rng(0).normal(size=12)
    asked = {"vector": vector.tolist(), "vector_of": "audio", "run": "second"}
    found = client.post("/v1/search", json=asked)
    expected = index.search(vector=vector, vector_of="audio")
    assert rows(found, "clip_id", "score", "percentile") == of(expected, "clip_id", "score", "percentile")
    assert (found.json()["kind"], found.json()["by"]) == ("audio", "visual")


def test_filters_are_those_of_the_index(client, clips, videos):
    sound = (videos / "d.wav").read_bytes()
    pets = send(client, "/v1/search", sound, labels=["pet", "no such label"], by="audio", k=10)
    assert {hit["source"] for hit in pets.json()["hits"]} == {"videos/pets/a.mp4", "videos/pets/b.mp4"}
    assert len(pets.json()["hits"]) == 4
    one_each = send(client, "/v1/search", sound, labels="pet", by="audio", group_by="source")
    assert len(one_each.json()["hits"]) == 2
    asked = {"clip": clips["c.mp4"], "sources": ["pets/*"], "start_s": 1.0, "k": 10, "split": "train"}
    late = client.post("/v1/search", json=asked).json()["hits"]
    assert [hit["start_s"] for hit in late] == pytest.approx([0.655, 0.655])
    asked = {"clip": clips["c.mp4"], "exclude": [clips["a.mp4"]], "k": 10}
    everything = client.post("/v1/search", json=asked).json()["hits"]
    assert {clips["a.mp4"], clips["c.mp4"]}.isdisjoint(hit["clip_id"] for hit in everything)
    rest = client.post("/v1/search", json=asked | {"offset": 1, "k": 1}).json()["hits"]
    assert rest == everything[1:2]
    good = everything[0]["score"]
    assert len(client.post("/v1/search", json=asked | {"min_score": good}).json()["hits"]) == 1


def test_clips_thumbnails_and_runs(client, clips, models):
    clip = client.get(f"/v1/clips/{clips['b.mp4']}").json()
    assert (clip["source"], clip["start_s"], clip["labels"], clip["status"]) == ("videos/pets/b.mp4", 0, ["pet"], "ok")
    picture = client.get(clip["thumbnail"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(picture.content)).size) <= 128
    problem_of(client.get(f"/v1/clips/{clips['d.wav']}/thumbnail"), 404)  # a sound
    runs = client.get("/v1/runs").json()["runs"]
    assert [(run["name"], run["clips"], run["not_embedded"]) for run in runs] == [("first", 6, 0), ("second", 6, 0)]
    assert [run["fingerprint"] for run in runs] == [model.fingerprint() for model in models.values()]


@pytest.mark.parametrize("path", ["", "/thumbnail", "/media"])
@pytest.mark.parametrize(
    "clip", ["nobody", "..%2F..%2Fetc%2Fpasswd", "%00", "'%20OR%20'1'='1", "%ff", "x" * 200, "a%0d%0ab", "%F0%9F%90%B6"]
)
def test_no_other_id_names_a_clip(client, clip, path):
    problem_of(client.get(f"/v1/clips/{clip}{path}"), 404)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"clip": "a", "vector": [1.0]},
        {"vector": [1.0]},
        {"vector": []},
        {"vector": [0.0] * 12},
        {"vector": ["a"]},
        {"vector": [1.0] * 12, "k": 0},
        {"vector": [1.0] * 12, "k": 10**9},
        {"vector": [1.0] * 12, "by": "smell"},
        {"vector": [1.0] * 12, "start_s": 2.0, "end_s": 1.0},
        {"vector": [1.0] * 12, "url": "http://example.com/a.mp4"},
        {"vector": [1.0] * 12, "path": "a.mp4"},
        {"vector": [1.0] * 12, "sources": ["*" * 501]},
        [],
        "text",
    ],
)
def test_a_query_that_does_not_fit_is_refused(client, asked):
    problem_of(client.post("/v1/search", json=asked), 422)


@pytest.mark.parametrize("body", [b"", b"{", b'{"vector": [NaN]}', b"\xff", b'{"clip": "\\ud800"}', b"[" * 5000])
def test_json_that_is_none_is_refused(client, body):
    headers = {"content-type": "application/json"}
    problem_of(client.post("/v1/search", content=body, headers=headers), 422)


def test_what_is_not_there_is_not_found(client):
    problem_of(client.post("/v1/search", json={"clip": "nobody"}), 404)
    problem_of(client.post("/v1/search", json={"vector": [1.0] * 12, "run": "third"}), 404)
    problem_of(client.get("/v1/nothing"), 404)
    problem_of(client.get("/docs"), 404)  # it would load scripts of others
    assert problem_of(client.delete("/v1/embed"), 405)["title"] == "Method Not Allowed"


def test_files_that_cannot_be_used_are_refused_with_a_reason(client, bad_videos):
    expected = {"zero": 422, "text": 415, "cut_index": 422, "noise": 415}
    for kind, status in expected.items():
        found = problem_of(send(client, "/v1/embed", bad_videos[kind].read_bytes()), status)
        assert found["reason"]
    assert send(client, "/v1/embed", bad_videos["no_audio"].read_bytes(), **{"as": "audio"}).status_code == 422


def test_a_file_longer_than_the_limit_is_refused(client, tmp_path):
    long = write_media(tmp_path / "x.m4a", sound=tone(21.0)).read_bytes()
    assert problem_of(send(client, "/v1/embed", long), 413)["reason"] == "too_long"


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{path}'\n",
        "[playlist]\nFile1={path}\nNumberOfEntries=1\n",
        '<?xml version="1.0"?><MPD><BaseURL>{path}</BaseURL></MPD>',
        "<svg xmlns='http://www.w3.org/2000/svg'><image href='{path}'/></svg>",
    ],
)
def test_a_file_that_names_other_files_is_refused(client, videos, content):
    named = content.format(path=videos / "c.mp4").encode()
    assert problem_of(send(client, "/v1/search", named), 415)["reason"] == "not_media"


def test_the_name_of_a_file_means_nothing(client, videos):
    content = (videos / "d.wav").read_bytes()
    for name in ("../../x.wav", "/etc/passwd", "concat:x", "http://example.com/a.wav", "x" * 3000, "a\\b%00.wav"):
        found = client.post("/v1/embed", files={"file": (name, content, "text/plain")})
        assert found.status_code == 200


def test_only_one_file_is_taken_in_the_part_of_that_name(client):
    sound = wav_file(tone(0.7), 16_000)
    problem_of(client.post("/v1/embed", files={"other": ("a", sound)}), 422)
    problem_of(client.post("/v1/embed", data={"file": "a.wav"}, files={"x": ("a", b"")}), 422)
    problem_of(client.post("/v1/embed", files=[("file", ("a", sound)), ("file", ("b", sound))]), 400)
    problem_of(client.post("/v1/embed", data={"file": "a.wav"}), 415)
    problem_of(client.post("/v1/embed", content=sound, headers={"content-type": "audio/wav"}), 415)
    problem_of(client.post("/v1/embed", content=b"x", headers={"content-type": "multipart/form-data"}), 400)
    problem_of(send(client, "/v1/embed", sound, url="http://example.com"), 422)
    problem_of(send(client, "/v1/search", sound, k="many"), 422)
    assert send(client, "/v1/embed", sound).status_code == 200
