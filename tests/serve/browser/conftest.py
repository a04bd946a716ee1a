"""The page in Chromium, on a small library of files that it can play, and one that it cannot."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from equiav.evaluate.retrieval import evaluate_retrieval, retrieval_result
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media.mux import wav_file
from equiav.search.embed import embed_library
from equiav.serve.reports import EQUIVARIANCE, RETRIEVAL
from samples import TINY, pictures, tone, write_media
from serve.served import serve

AXE = Path(__file__).parents[3] / "node_modules" / "axe-core" / "axe.min.js"


def missing(what):
    """Skip; where `make test-browser` has installed all, fail."""
    words = f"{what}: `make test-browser` installs it"
    if os.environ.get("EQUIAV_BROWSER") == "required":
        pytest.fail(words)
    pytest.skip(words)


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """Eight clips: of pets/a.mp4 and pets/b.mp4 two each, of c.webm, old.avi, d.wav, e.png; none of broken.mp4."""
    folder = tmp_path_factory.mktemp("browsed") / "videos"
    (folder / "pets").mkdir(parents=True)
    write_media(folder / "pets" / "a.mp4", frames=pictures(14, seed=1), sound=tone(1.4, 300))
    write_media(folder / "pets" / "b.mp4", frames=pictures(14, seed=2), sound=tone(1.4, 900))
    write_media(folder / "c.webm", frames=pictures(7, seed=3), sound=tone(0.7, 2000, 48_000), rate=48_000)
    write_media(folder / "old.avi", frames=pictures(7, seed=4), sound=tone(0.7, 500))
    (folder / "d.wav").write_bytes(wav_file(tone(0.7, 150), 16_000))
    Image.fromarray(pictures(1, seed=5)[0]).save(folder / "e.png")
    (folder / "broken.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="session")
def media_library(media, models):
    path = media.parent / "library"
    ingest(media, path, TINY, workers=1)
    made = Library(path)
    rows = made.select(["clip_id", "source"]).to_pylist()
    labels = {row["clip_id"]: ["pet" if "pets" in row["source"] else "thing"] for row in rows}
    made.update([{"clip_id": clip, "labels": names, "split": "test"} for clip, names in labels.items()])
    embed_library(Library(path), models["first"])
    return Library(path)


@pytest.fixture(scope="session")
def first_clip(media_library):
    """Id of the second window of pets/a.mp4: one that does not begin where its file does."""
    rows = media_library.select(["clip_id", "source", "start_s"]).to_pylist()
    return next(row["clip_id"] for row in rows if row["source"].endswith("a.mp4") and row["start_s"] > 0)


@pytest.fixture(scope="session")
def measured(media_library, models):
    """Retrieval in that library."""
    return evaluate_retrieval(media_library, models["first"], resamples=50)


@pytest.fixture(scope="session")
def measured_run(measured, media_library, models, tmp_path_factory):
    """A run in whose folder is what was measured of it."""
    folder = tmp_path_factory.mktemp("measured")
    models["first"].save_pretrained(folder)
    retrieval_result(measured, media_library, models["first"]).save(folder / RETRIEVAL)
    row = {"predictor": {"cosine": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 6, "sources": 4}}, "margins": {}}
    tables = [{"question": "alone", "space": "intra", "rows": [row | {"transform": "time_mask"}]}]
    about = {"model": models["first"].fingerprint(), "split": "test", "clips": 6}
    told = {
        "about": about,
        "figures": {},
        "branches": {"audio": {"tables": tables}},
        "alarms": {"uniformity": "is odd"},
    }
    (folder / EQUIVARIANCE).parent.mkdir()
    (folder / EQUIVARIANCE).write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="session")
def address(media_library, measured_run, run_folder, tmp_path_factory):
    """Of a service of two runs: one that was measured, and one that was not."""
    folder, others = tmp_path_factory.mktemp("temporary"), ("--run", f"other={run_folder}")
    with serve(media_library.path, f"measured={measured_run}", folder, *others) as (_, found):
        yield found


@pytest.fixture(scope="session")
def chromium():
    """Debian's, with a microphone and a camera that are made up."""
    path = shutil.which("chromium")
    if path is None:
        missing("there is no chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open the page: `open_page(address, "#/library", width=390, dark=True)`.

    At the end of each test: no request went elsewhere, no script failed, and the policy had nothing to block.
    """
    contexts, seen = [], []

    def make(address, view="#/search", *, width=1280, height=900, dark=False, still=True, **more):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce" if still else "no-preference",
            **more,
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: seen.append(request.url))
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.on("console", lambda message: page.said.append(message.text))
        page.failures, page.said, page.requests = [], [], seen
        page.goto(f"{address}/{view}")
        page.wait_for_selector("main > section:not([hidden])")
        return page

    yield make
    pages = [page for context in contexts for page in context.pages]
    found = [(page.failures, page.said) for page in pages]
    hosts = {page.url.partition("/#")[0] for page in pages}
    for context in contexts:
        context.close()
    elsewhere = [url for url in seen if not url.startswith((*hosts, "blob:"))]
    assert elsewhere == []
    for failures, said in found:
        assert failures == []
        assert [text for text in said if "Content Security Policy" in text or "Permissions-Policy" in text] == []


@pytest.fixture(scope="session")
def axe():
    """What axe-core finds that is serious or critical: `axe(page)`."""
    if not AXE.is_file():
        missing("there is no axe-core")
    script = AXE.read_text(encoding="utf-8")

    def check(page):
        page.evaluate(script)
        found = page.evaluate("axe.run()")["violations"]
        return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found if one["impact"] in GRAVE]

    return check


GRAVE = ("serious", "critical")
