"""What every request passes: names, tokens, bodies, queue, time; and that the next good request works."""

import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.datastructures import UploadFile

from equiav.errors import ConfigError, LibraryError, WorkerError
from equiav.media.mux import wav_file
from equiav.serve import clips, guards, sessions
from equiav.serve.problems import refusal_of
from equiav.serve.server import named_runs, read_token
from samples import pictures, tone, write_media
from serve.served import problem_of
from serve.stand_ins import broken, hang, slow

pytestmark = pytest.mark.xdist_group("serve")
TOKEN = "a-token-of-some-length"
SOUND = wav_file(tone(0.7), 16_000)


def embed(client, content=SOUND, **more):
    return client.post("/v1/embed", files={"file": ("a", content)}, **more)


@pytest.mark.parametrize("path", ["/healthz", "/v1/runs", "/nothing", "/metrics", "/openapi.json"])
def test_every_answer_has_the_headers(client, path):
    found = client.get(path)
    assert found.headers["content-security-policy"].startswith("default-src 'none'")
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["referrer-policy"] == "no-referrer"
    assert found.headers["x-request-id"]


def test_a_request_keeps_its_id_if_it_is_one(client):
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    for odd in ("a b", "x" * 65, "<script>", ""):
        found = client.get("/healthz", headers={"X-Request-ID": odd}).headers["x-request-id"]
        assert found != odd
        assert len(found) == 32
    assert client.get("/healthz").headers["x-request-id"] != client.get("/healthz").headers["x-request-id"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7860", "", "[::1", "localhost@evil.example"])
def test_on_this_machine_alone_other_names_are_refused(client, host):
    problem_of(client.get("/v1/runs", headers={"Host": host}), 421)


def test_names_of_this_machine_are_its_own(open_app):
    with open_app(hosts=guards.LOOPBACK) as client:
        for host in ("localhost", "localhost:7860", "127.0.0.1:1", "[::1]:7860", "LOCALHOST"):
            assert client.get("/v1/runs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9", "http://[", "file://"])
def test_pages_of_others_may_not_ask(client, origin):
    problem_of(embed(client, headers={"Origin": origin}), 403)


def test_the_own_page_may_ask(client):
    assert client.get("/v1/runs", headers={"Origin": "http://127.0.0.1:7860"}).status_code == 200


@pytest.fixture(scope="module")
def locked(open_app):
    with open_app(token=TOKEN, hosts=None, address="http://search.example") as client:
        yield client


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer é"],
)
@pytest.mark.parametrize("path", ["/v1/runs", "/metrics", "/openapi.json", "/nothing"])
def test_without_the_token_nothing_is_served(locked, path, given):
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    found = locked.get(path, headers=headers)
    problem_of(found, 401)
    assert found.headers["www-authenticate"] == "Bearer"


def test_with_the_token_all_is_served_and_without_it_whether_it_lives(locked):
    assert locked.get("/v1/runs", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert locked.get("/v1/runs", headers={"Authorization": f"bearer  {TOKEN}"}).status_code == 200
    assert locked.get("/healthz").status_code == 200
    assert locked.get("/readyz").status_code in (200, 503)


def test_a_token_is_compared_in_constant_time(locked, monkeypatch):
    seen = []
    monkeypatch.setattr(sessions.hmac, "compare_digest", lambda *pair: seen.append(pair) or False)
    locked.get("/v1/runs", headers={"Authorization": "Bearer x"})
    assert seen == [(b"x", TOKEN.encode())]


def test_an_address_that_others_reach_needs_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv("EQUIAV_TOKEN", raising=False)
    assert read_token(None, "127.0.0.1") is None
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        with pytest.raises(ConfigError, match="token"):
            read_token(None, host)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    assert read_token(file, "0.0.0.0") == TOKEN
    monkeypatch.setenv("EQUIAV_TOKEN", TOKEN[::-1])
    assert read_token(None, "0.0.0.0") == TOKEN[::-1]
    assert read_token(file, "0.0.0.0") == TOKEN
    for bad in ("", "short", "x" * 10 + " " + "y" * 10, "ä" * 20):
        file.write_text(bad)
        with pytest.raises(ConfigError, match="at least 16"):
            read_token(file, "127.0.0.1")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none", "127.0.0.1")


def test_runs_have_names():
    assert named_runs(["runs/toy"]) == {"toy": "runs/toy"}
    assert named_runs(["runs/toy/", "b=x/y"]) == {"toy": "runs/toy/", "b": "x/y"}
    for same in (["a/x", "b/x"], ["n=a", "n=b"], ["=a"], [""]):
        with pytest.raises(ConfigError, match="name of its own"):
            named_runs(same)


def in_parts(size, part=1 << 16):
    """A body without a Content-Length."""
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for _ in range(size // part):
        yield bytes(part)


def test_a_body_that_says_it_is_too_large_is_refused_unread(client):
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(2 << 30)}
    body = in_parts(1 << 16)
    found = client.post("/v1/embed", content=body, headers=headers)
    problem_of(found, 413)
    assert found.headers["connection"] == "close"


def test_a_body_that_does_not_say_so_is_refused_before_it_is_spooled(client, monkeypatch):
    written = []
    write = UploadFile.write
    monkeypatch.setattr(UploadFile, "write", lambda self, data: written.append(len(data)) or write(self, data))
    body = in_parts(8 << 20)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    problem_of(client.post("/v1/embed", content=body, headers=headers), 413)
    assert sum(written) <= 1 << 20
    body = in_parts(8 << 20)
    problem_of(client.post("/v1/search", content=body, headers={"Content-Type": "application/json"}), 413)
    assert embed(client).status_code == 200


def test_a_picture_of_too_many_pixels_is_refused(client):
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    png = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    assert problem_of(embed(client, png), 415)["reason"] == "unsupported"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("x") / "x.mp4", frames=pictures(7), sound=tone(0.7)).read_bytes()


def ready(client):
    while client.get("/readyz").status_code != 200:
        time.sleep(0.05)
    return client


def leftovers(client):
    """Files in the folders that decoders read from."""
    decoders = client.app.state.service._decoders
    boxes = [decoders._idle.get(timeout=30) for _ in range(decoders._workers)]
    found = [list(box.folder.iterdir()) for box in boxes]
    for box in boxes:
        decoders._idle.put(box)
    return [name for names in found for name in names]


def test_a_decoder_that_hangs_is_given_up_and_the_next_request_works(open_app, video):
    with open_app(function=hang, timeout_s=4.0) as client:
        ready(client)
        assert problem_of(embed(client, video), 422)["reason"] == "timeout"
        assert embed(client).status_code == 200
        assert leftovers(client) == []


def test_a_decoder_that_breaks_tells_no_lines_of_code(open_app, video):
    with open_app(function=broken) as client:
        found = problem_of(embed(client, video), 422)
        assert found["reason"] == "crashed"
        assert "no good" not in found["detail"]
        assert client.get("/readyz").status_code == 503
        assert leftovers(client) == []


def test_more_than_the_queue_holds_is_turned_away_at_once(open_app):
    with open_app(function=slow, queue=2) as client:
        ready(client)
        found = []
        asking = [threading.Thread(target=lambda: found.append(embed(client))) for _ in range(6)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        statuses = [response.status_code for response in found]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 2
        refused = next(response for response in found if response.status_code == 429)
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/v1/runs").status_code == 200
        assert embed(client).status_code == 200


def test_what_takes_too_long_is_answered(open_app):
    with open_app(function=slow, timeout_s=2.0, queue=9) as client:
        ready(client)
        found = []
        asking = [threading.Thread(target=lambda: found.append(embed(client))) for _ in range(8)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert {response.status_code for response in found} == {200, 503}
        late = next(response for response in found if response.status_code == 503)
        assert int(late.headers["retry-after"]) > 0


def test_an_error_of_ours_is_answered_and_its_trace_is_in_the_log_alone(client, monkeypatch, caplog):
    def fails(*_, **__):
        raise ZeroDivisionError("secret of /tmp/x")

    monkeypatch.setattr(client.app.state.service, "run", fails)
    found = embed(client, headers={"X-Request-ID": "this-one"})
    problem_of(found, 500)
    assert "secret" not in found.text
    assert "this-one" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_what_a_library_says_of_itself_names_no_path():
    told = refusal_of(
        LibraryError("/data/L/embeddings/x.lance is damaged; embed again: equiav embed -L /data/L"), "/data/L"
    )
    assert "/data" not in told.detail
    assert (told.status_code, refusal_of(WorkerError("/bin/x")).status_code) == (409, 503)
    assert "/bin" not in refusal_of(WorkerError("/bin/x")).detail


def test_nothing_is_left_in_the_decoders_folders(client, bad_videos, videos):
    for content in (SOUND, b"no media", (videos / "c.mp4").read_bytes(), bad_videos["cut_data"].read_bytes()):
        embed(client, content)
    assert leftovers(client) == []


def test_folders_go_with_the_app(open_app):
    with open_app() as client:
        embed(client)
        service = client.app.state.service
        box = service._decoders._idle.get()
        folder = box.folder
        service._decoders._idle.put(box)
        assert folder.is_dir()
    assert not folder.exists()


def test_more_reads_than_the_queue_holds_are_turned_away_and_slow_ones_given_up(open_app, monkeypatch):
    read = clips.list_clips
    monkeypatch.setattr(clips, "list_clips", lambda *given: time.sleep(0.5) or read(*given))
    with open_app(queue=2) as client, ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: client.get("/v1/clips"), range(6)))
        assert {one.status_code for one in found} == {200, 429}
        assert all(one.headers["retry-after"] for one in found if one.status_code == 429)
        assert client.get("/v1/clips").status_code == 200
    with open_app(timeout_s=0.2) as client:
        problem_of(client.get("/v1/clips"), 503)
        assert client.get("/v1/rejects").status_code == 200


@pytest.mark.parametrize(
    "value", ["none", "..", "%2e%2e%2f%2e%2e%2fetc%2fhostname", "%00", "'--", "%ff", "é", "x" * 600]
)
def test_no_read_names_a_place_of_the_server(client, library, clips, value):
    """Whatever fills the names and queries of the OpenAPI's reads."""
    asked = 0
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if "get" not in methods:
            continue
        good = path.format(clip_id=clips["a.mp4"], run="first")
        queries = [part["name"] for part in methods["get"].get("parameters", []) if part["in"] == "query"]
        for place in {good, path.format(clip_id=value, run=value), *(f"{good}?{name}={value}" for name in queries)}:
            found = client.get(place)
            assert found.status_code in (200, 404, 409, 422, 503), place
            assert str(library.path.parent).encode() not in found.content, place
            asked += 1
    assert asked > 20
