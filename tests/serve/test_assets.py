"""The page: its files and no others, without a token, under a policy that lets nothing of others in."""

import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest

from equiav.serve.assets import FOLDER, KINDS, read_assets
from serve.served import problem_of

pytestmark = pytest.mark.xdist_group("serve")
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.name != "index.html")


@pytest.fixture(scope="module")
def locked(open_app):
    with open_app(token="a-token-of-some-length", hosts=None, address="http://search.example") as client:
        yield client


def policy(response):
    parts = (part.split() for part in response.headers["content-security-policy"].split(";"))
    return {name: set(sources) for name, *sources in parts}


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in NAMES)])
def test_the_page_needs_no_token_and_is_what_lies_in_its_folder(locked, path):
    found = locked.get(path)
    name = path.removeprefix("/page/") if path != "/" else "index.html"
    assert (found.status_code, found.content) == (200, (FOLDER / name).read_bytes())
    assert found.headers["content-type"] == KINDS[Path(name).suffix]
    assert found.headers["cache-control"] == "no-cache"
    assert found.headers["x-content-type-options"] == "nosniff"
    rules = policy(found)
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == {"'none'"}
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == {"'self'"}
    assert rules["img-src"] == rules["media-src"] == {"'self'", "blob:"}
    allowed = dict(rule.split("=") for rule in found.headers["permissions-policy"].split(", "))
    assert {name for name, to in allowed.items() if to != "()"} == {"microphone", "camera"}
    assert allowed["microphone"] == allowed["camera"] == "(self)"


def test_answers_that_are_no_page_keep_their_strict_policy(client):
    assert policy(client.get("/v1/runs"))["default-src"] == {"'none'"}
    assert "script-src" not in policy(client.get("/page/none"))


def test_what_a_client_has_is_not_sent_again(client):
    tag = client.get("/").headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}'):
        found = client.get("/", headers={"If-None-Match": known})
        assert (found.status_code, found.content, found.headers["etag"]) == (304, b"", tag)
    for other in ('"x"', "", tag[:-2] + '"'):
        assert client.get("/", headers={"If-None-Match": other}).status_code == 200


def status_of(app, path):
    """Of a request for this path as it is: clients would make it straight first."""
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [(b"host", b"a.example")]}
    scope |= {"http_version": "1.1", "scheme": "http", "root_path": "", "client": None, "server": None}
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    anyio.run(app, scope, receive, send)
    return sent[0]["status"]


OTHERS = [
    "none.js",
    "index.html",
    "..",
    ".",
    "",
    "../app.py",
    "..\\app.py",
    "/etc/hostname",
    "a\0.js",
    "x" * 101,
    "é.js",
]
OTHERS += ["../v1/runs", "../healthz", "..//../v1/runs", f"../page/{NAMES[0] if NAMES else ''}", "sub/none.js", "*"]


@pytest.mark.parametrize("name", OTHERS)
def test_no_other_name_gives_a_file(locked, name):
    assert status_of(locked.app, f"/page/{name}") in (404, 422)
    problem_of(locked.get(f"/page/{quote(name, safe='')}x"), 404 if len(name) < 100 else 422)


def test_a_name_that_only_looks_like_the_page_s_needs_the_token(locked):
    for path in ("/page", "/pages/x", "/Page/x", "/v1/runs?/page/", "/index.html"):
        problem_of(locked.get(path), 401)


def test_only_files_of_known_kinds_are_read(tmp_path):
    for name in ("index.html", "a.js", "b.py", ".c.css", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "d.js").mkdir()
    assert set(read_assets(tmp_path)) == {"index.html", "a.js"}


def test_the_wheel_has_the_page(tmp_path):
    root = FOLDER.parents[3]
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    copied = tmp_path / "copy"
    copied.mkdir()
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        (copied / name).symlink_to(root / name)
    subprocess.run([sys.executable, "-c", code], cwd=copied, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = {name.rpartition("/")[2] for name in zipfile.ZipFile(wheel).namelist() if "/serve/page/" in name}
    assert packed == {path.name for path in FOLDER.iterdir()}
