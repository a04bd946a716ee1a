"""A library of four real files, a small model, and the app on top of them."""

import time
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media.mux import wav_file
from equiav.search.embed import embed_library
from equiav.serve.app import make_app
from equiav.serve.service import Service
from samples import TINY, pictures, tone, write_media
from serve.served import LIMITS, model, serve


@pytest.fixture(scope="session")
def models():
    return {"first": model(0), "second": model(1)}


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """pets/a.mp4 and pets/b.mp4 of two windows each, c.mp4 of one, d.wav."""
    folder = tmp_path_factory.mktemp("served") / "videos"
    (folder / "pets").mkdir(parents=True)
    write_media(folder / "pets" / "a.mp4", frames=pictures(14, seed=1), sound=tone(1.4, 300))
    write_media(folder / "pets" / "b.mp4", frames=pictures(14, seed=2), sound=tone(1.4, 900))
    write_media(folder / "c.mp4", frames=pictures(7, seed=3), sound=tone(0.7, 2000))
    (folder / "d.wav").write_bytes(wav_file(tone(0.7, 150), 16_000))
    return folder


@pytest.fixture(scope="session")
def library(videos, models):
    path = videos.parent / "library"
    ingest(videos, path, TINY, workers=1)
    made = Library(path)
    ids = made.all_ids()
    sources = dict(zip(ids, made.select(["source"])["source"].to_pylist(), strict=True))
    made.update([{"clip_id": i, "labels": ["pet"] if "pets" in sources[i] else ["thing"]} for i in ids])
    for each in models.values():
        embed_library(Library(path), each)
    return Library(path)


@pytest.fixture(scope="session")
def clips(library):
    """Rows of the library by their file's name, the first window of each."""
    rows = library.select(["clip_id", "source", "start_s"]).to_pylist()
    return {row["source"].rpartition("/")[2]: row["clip_id"] for row in sorted(rows, key=lambda r: -r["start_s"])}


@pytest.fixture(scope="session")
def open_app(library, models):
    """Make a client of an app of one's own: `with open_app(...) as client`."""

    def make(*, function=None, token=None, hosts=("127.0.0.1",), address="http://127.0.0.1:7860", **limits):
        more = {} if function is None else {"function": function}
        service = Service(library.path, models, replace(LIMITS, **limits), **more)
        app = make_app(service, token=token, hosts=hosts)
        return TestClient(app, base_url=address, raise_server_exceptions=False)

    return make


@pytest.fixture(scope="session")
def serve_own(models):
    """Embed and serve a library of one's own: `with serve_own(path) as client`."""

    def make(path, served=None, **more):
        served = served or {"first": models["first"]}
        for each in served.values():
            embed_library(Library(path), each)
        return TestClient(make_app(Service(path, served, LIMITS, **more)), raise_server_exceptions=False)

    return make


@pytest.fixture(scope="session")
def client(open_app):
    with open_app() as made:
        while made.get("/readyz").status_code != 200:
            time.sleep(0.05)
        yield made


@pytest.fixture(scope="session")
def run_folder(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    models["first"].save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def serving(library, run_folder, tmp_path_factory):
    """Start `equiav serve`; its process, and its address when it is ready."""

    def start(*more, **environment):
        return serve(library.path, run_folder, tmp_path_factory.mktemp("temporary"), *more, **environment)

    return start
