"""`equiav serve` as a process: slow bodies, Ctrl-C, SIGTERM, what it leaves behind."""

import signal
import socket
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from equiav.media.mux import wav_file
from samples import tone

pytestmark = pytest.mark.xdist_group("serve")
SOUND = wav_file(tone(0.7), 16_000)


def talk(port, *parts, pause_s=0.0):
    """Send parts of a request as they are; all that comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        answer = b""
        try:
            while block := connection.recv(1 << 16):
                answer += block
        except ConnectionResetError:
            pass
        return answer


HEAD = b"POST /v1/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"


@pytest.fixture(scope="module")
def quick(serving):
    """A service that is short of patience and of space."""
    with serving("--timeout", "2", "--max-mb", "1") as started:
        yield started


def test_bodies_that_are_slow_too_large_or_end_early(quick):
    process, address = quick
    port = process.port
    slow = talk(port, HEAD + b"Content-Length: 1000\r\n\r\n", b"--x\r\n")
    assert slow.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in slow
    large = talk(port, HEAD + b"Content-Length: 2147483648\r\n\r\n")
    assert large.startswith(b"HTTP/1.1 413 ")
    part = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    begin = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunked = [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n" % len(begin) + begin + b"\r\n", *[part] * 17]
    assert talk(port, *chunked).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n--x\r\n")
    assert httpx2.post(f"{address}/v1/embed", files={"file": ("a", SOUND)}).status_code == 200
    assert httpx2.get(f"{address}/healthz", headers={"Host": "evil.example"}).status_code == 421


def test_headers_that_do_not_arrive_in_time_end_the_connection(quick):
    port = quick[0].port
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    last = whole[:-2] + b"Connection: close\r\n\r\n"
    assert talk(port) == b""
    assert talk(port, b"GET /healthz HTTP/1.1\r\n", b"Host: 127.") == b""
    assert talk(port, whole, b"GET ").count(b"HTTP/1.1 200 OK") == 1
    # a client may take its time within a connection
    assert talk(port, whole[:20], whole[20:], whole, last, pause_s=0.6).count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_when_what_is_in_hand_is_done(serving, number, code):
    with serving() as (process, address):
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + SOUND + b"\r\n--x--\r\n"
        with socket.create_connection(("127.0.0.1", process.port), timeout=60) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body[:100])
            time.sleep(0.5)
            process.send_signal(number)
            time.sleep(0.5)
            connection.sendall(body[100:])
            answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert process.wait(60) == code
        assert "Traceback" not in process.stderr.read()
        assert list(process.folder.iterdir()) == []
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{address}/healthz")


def test_a_token_opens_it_by_any_name_and_decoders_do_not_know_it(serving):
    token = "a-token-of-some-length"
    with serving(EQUIAV_TOKEN=token) as (process, address):
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {token}", "Host": "search.example"}, 200)):
            assert (
                httpx2.post(f"{address}/v1/embed", files={"file": ("a", SOUND)}, headers=headers).status_code == status
            )
        children = psutil.Process(process.pid).children()
        assert children
        for known, them in ((True, [psutil.Process(process.pid)]), (False, children)):
            assert all(("EQUIAV_TOKEN" in each.environ()) == known for each in them)


def test_nothing_is_left_when_it_is_killed(serving):
    with serving() as (process, address):
        assert httpx2.post(f"{address}/v1/embed", files={"file": ("a", SOUND)}).status_code == 200
        assert list(process.folder.iterdir()) != []
        process.kill()
        process.wait()
        end = time.monotonic() + 30
        while list(process.folder.iterdir()) and time.monotonic() < end:
            time.sleep(0.1)
        assert list(process.folder.iterdir()) == []


@pytest.mark.parametrize("package", ["uvicorn", "fastapi", "python_multipart", "prometheus_client"])
def test_without_the_extra_it_says_how_to_install_it(equiav, library, run_folder, monkeypatch, package):
    for name in [name for name in sys.modules if name.startswith("equiav.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, said = equiav("serve", "-L", library.path, "-R", run_folder)
    assert (code, f"serve needs {package}: pip install 'equiav[serve]'" in said) == (1, True)


def test_what_cannot_be_served_is_one_line(equiav, library, run_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("EQUIAV_TOKEN", raising=False)
    serve = ["serve", "-L", library.path, "-R", run_folder]
    code, _, said = equiav(*serve, "--host", "0.0.0.0")
    assert (code, "token" in said) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, said = equiav(*serve, "--port", taken.getsockname()[1])
        assert (code, "cannot listen" in said) == (1, True)
    code, _, said = equiav(*serve[:-1], tmp_path / "none")
    assert (code, "no such folder" in said) == (1, True)
    code, _, said = equiav("serve", "-L", tmp_path / "none", "-R", run_folder)
    assert (code, "holds no library" in said) == (1, True)
    code, said, _ = equiav("serve", "--help")
    assert (code, "Example: equiav serve" in said) == (0, True)
    assert Path(run_folder).is_dir()
