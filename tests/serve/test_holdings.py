"""What the library holds is what `stats` says, and rejects name no place of the server."""

import pytest

from equiav.library.ingest import ingest
from equiav.library.records import Reject
from equiav.library.stats import library_stats
from equiav.library.table import Library
from equiav.media.mux import wav_file
from equiav.serve.holdings import reject_info
from samples import TINY, tone
from serve.served import problem_of

pytestmark = pytest.mark.xdist_group("serve")


def test_the_library_is_what_stats_says(client, library):
    found, stats = client.get("/v1/library").json(), library_stats(library).to_dict()
    for name in ("clips", "files", "status", "splits", "unlabelled", "copies", "rejects"):
        assert found[name] == stats[name]
    for name in ("hours", "shortest_s", "median_s", "longest_s"):
        assert found[name] == stats["durations"][name]
    assert found["labels"] == [{"label": "pet", "clips": 4}, {"label": "thing", "clips": 2}]
    assert (found["labels_in_all"], found["name"]) == (2, "library")


@pytest.fixture(scope="module")
def rejecting(serve_own, tmp_path_factory):
    """A library of one sound with 300 labels, of which 120 copies could not be read, and its folder."""
    folder = tmp_path_factory.mktemp("rejecting") / "sounds"
    folder.mkdir()
    (folder / "good.wav").write_bytes(wav_file(tone(0.7), 16_000))
    (folder / "deep").mkdir()
    for i in range(60):
        (folder / "deep" / f"bad{i:02}.wav").write_bytes(b"no media %d" % i)
        (folder / f"empty{i:02}.mp4").write_bytes(b"")
    ingest(folder, folder.parent / "library", TINY, workers=1)
    made = Library(folder.parent / "library")
    made.update([{"clip_id": made.all_ids()[0], "labels": [f"label{i:03}" for i in range(300)]}])
    with serve_own(made.path) as client:
        yield client, folder


def test_of_many_labels_the_first_are_named(rejecting):
    found = rejecting[0].get("/v1/library").json()
    assert found["labels"] == [{"label": f"label{i:03}", "clips": 1} for i in range(200)]
    assert found["labels_in_all"] == 300
    assert sum(found["rejects"].values()) == 120


def test_rejects_are_paged_and_named_without_places(rejecting):
    client, folder = rejecting
    stored = Library(folder.parent / "library").rejects()
    parts = [client.get("/v1/rejects", params={"k": 50, "offset": at}).json() for at in (0, 50, 100, 150)]
    found = [one for part in parts for one in part["rejects"]]
    assert [part["total"] for part in parts] == [120] * 4
    assert [one["source"] for one in found] == sorted(
        reject.path.removeprefix(f"{folder.parent}/") for reject in stored
    )
    assert all(one["source"].startswith("sounds/") for one in found)
    assert str(folder.parent) not in str(parts)
    reasons = parts[0]["reasons"]
    assert sum(reasons.values()) == 120
    for reason, count in reasons.items():
        only = client.get("/v1/rejects", params={"reason": reason, "k": 200}).json()
        assert (only["total"], only["reasons"]) == (count, reasons)
        assert only["rejects"] == [one for one in found if one["reason"] == reason]
    assert client.get("/v1/rejects", params={"reason": "none"}).json()["rejects"] == []


@pytest.mark.parametrize("query", ["k=0", "k=201", "offset=-1", "k=x", "x=1", f"reason={'r' * 501}"])
def test_queries_that_mean_nothing_are_refused(client, query):
    problem_of(client.get(f"/v1/rejects?{query}"), 422)


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ("[Errno 2] No such file: '/srv/media/pets/a b/x.mp4'", "[Errno 2] No such file: 'pets/a b/x.mp4'"),
        ("cannot open /home/someone/tmp-1/part.wav, gone", "cannot open part.wav, gone"),
        ("it is a link to '/mnt/other disk/y.mp4'", "it is a link to 'y.mp4'"),
        (r"C:\Users\someone\x.mp4: no", "x.mp4: no"),
        ("s3://bucket/a/b.mp4: denied", "b.mp4: denied"),
        ("it has 3/4 of a frame, at 30000/1001 per second", "it has 3/4 of a frame, at 30000/1001 per second"),
        ("video/mp4 and/or audio", "video/mp4 and/or audio"),
    ],
)
def test_details_name_files_and_not_where_they_lie(detail, told):
    reject = Reject("i", "/srv/media/pets/a b/x.mp4", "decode", "broken", detail, 1, 1, origin="/srv/media/pets")
    assert reject_info(reject).detail == told
    assert reject_info(reject).source == "pets/a b/x.mp4"
