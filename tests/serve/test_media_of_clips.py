"""A clip's file is served by range of bytes, as long as it is the one that was ingested."""

import os
import shutil

import pytest
from starlette.testclient import TestClient

from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.search.embed import embed_library
from equiav.serve.app import make_app
from equiav.serve.limits import Limits
from equiav.serve.service import Service
from equiav.serve.sources import shown
from samples import TINY, pictures, tone, write_media
from serve.served import model, problem_of

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture(scope="module")
def place(clips):
    return f"/v1/clips/{clips['a.mp4']}/media"


@pytest.fixture(scope="module")
def content(videos):
    return (videos / "pets" / "a.mp4").read_bytes()


def test_the_whole_file(client, place, content):
    found = client.get(place)
    assert (found.status_code, found.content) == (200, content)
    assert found.headers["content-type"] == "video/mp4"
    assert found.headers["accept-ranges"] == "bytes"
    assert found.headers["content-length"] == str(len(content))


@pytest.mark.parametrize("first", [0, 1, 500])
def test_part_of_it(client, place, content, first):
    size = len(content)
    asked = {f"bytes={first}-{first + 9}": (first, first + 9), f"bytes={first}-": (first, size - 1)}
    asked |= {f"bytes=-{first + 1}": (size - first - 1, size - 1), f"bytes={first}-{10**17}": (first, size - 1)}
    asked |= {f"bytes=-{10**17}": (0, size - 1)}
    for header, (start, end) in asked.items():
        found = client.get(place, headers={"Range": header})
        assert (found.status_code, found.content) == (206, content[start : end + 1])
        assert found.headers["content-range"] == f"bytes {start}-{end}/{size}"
        assert found.headers["content-length"] == str(end + 1 - start)


def test_bytes_that_are_not_there(client, place, content):
    for header in (f"bytes={len(content)}-", "bytes=99999999-", "bytes=-0"):
        found = client.get(place, headers={"Range": header})
        problem_of(found, 416)
        assert found.headers["content-range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize(
    "header",
    ["bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=--5", "b" * 999],
)
def test_what_is_no_range_means_the_whole(client, place, content, header):
    found = client.get(place, headers={"Range": header})
    assert (found.status_code, found.content) == (200, content)


def test_a_range_of_an_older_file_means_the_whole(client, place, content):
    tag = client.get(place).headers["etag"]
    same = client.get(place, headers={"Range": "bytes=0-3", "If-Range": tag})
    other = client.get(place, headers={"Range": "bytes=0-3", "If-Range": '"other"'})
    assert (same.content, other.content) == (content[:4], content)


@pytest.fixture
def own(tmp_path):
    """A library over two files in a folder: its client, and what to spoil."""
    folder = tmp_path / "films"
    folder.mkdir()
    write_media(folder / "x.mp4", frames=pictures(7), sound=tone(0.7))
    ingest(folder, tmp_path / "L", TINY, workers=1)

    made = Library(tmp_path / "L")
    embed_library(made, model())
    app = make_app(Service(made.path, {"one": model()}, Limits(workers=1)))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client, folder, f"/v1/clips/{made.all_ids()[0]}/media"


def test_a_file_that_changed_or_is_a_link_is_not_served(own, tmp_path):
    client, folder, place = own
    film, aside = folder / "x.mp4", tmp_path / "aside"
    assert client.get(place).status_code == 200
    # the same file, behind a link; then a folder that is one
    shutil.copy2(film, aside)
    film.unlink()
    film.symlink_to(aside)
    problem_of(client.get(place), 404)
    film.unlink()
    problem_of(client.get(place), 404)
    shutil.copy2(aside, film)
    assert client.get(place).status_code == 200
    os.utime(film)
    problem_of(client.get(place), 409)
    shutil.copy2(aside, film)
    with film.open("ab") as end:
        end.write(b"more")
    os.utime(film, ns=(aside.stat().st_atime_ns, aside.stat().st_mtime_ns))
    problem_of(client.get(place), 409)
    film.unlink()
    os.mkfifo(film)
    problem_of(client.get(place), 409)
    film.unlink()
    film.mkdir()
    problem_of(client.get(place), 409)


def test_a_folder_below_the_one_that_was_ingested_must_not_become_a_link(client, place, videos, content):
    pets, aside = videos / "pets", videos.parent / "aside"
    pets.rename(aside)
    try:
        pets.symlink_to(aside)
        problem_of(client.get(place), 409)
    finally:
        pets.unlink()
        aside.rename(pets)
    assert client.get(place).content == content


@pytest.mark.parametrize(
    ("source", "origin", "expected"),
    [
        ("/data/films/a/b.mp4", "/data/films", "films/a/b.mp4"),
        ("/data/films/a/b.mp4", "/data/films/", "films/a/b.mp4"),
        ("/data/films/a/b.mp4", "/data/list.csv", "a/b.mp4"),
        ("/data/films/b.mp4", "/data/film", "films/b.mp4"),
        ("/data/films/b.mp4", "/data/films/b.mp4", "films/b.mp4"),
        ("/b.mp4", "/", "b.mp4"),
        ("s3://bucket/films/a/b.mp4", "s3://bucket/films", "films/a/b.mp4"),
    ],
)
def test_clients_see_no_more_of_a_path_than_what_was_ingested(source, origin, expected):
    assert shown(source, origin).lstrip("/") == expected
