"""Whatever comes: an answer below 500, and the next good request works."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiav.media.mux import wav_file
from samples import tone

pytestmark = pytest.mark.xdist_group("serve")
EXAMPLES = settings(
    max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SOUND = wav_file(tone(0.7), 16_000)
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
FORM += SOUND[:2000] + b'\r\n--x\r\nContent-Disposition: form-data; name="k"\r\n\r\n3\r\n--x--\r\n'
HEADER_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@st.composite
def spoilt(draw, whole):
    """A body with some of it cut, repeated, changed or added."""
    for _ in range(draw(st.integers(1, 4))):
        # the headers and the ends of parts more often than the sound
        head, end = st.integers(0, 140), st.integers(max(len(whole) - 80, 0), len(whole))
        first, last = sorted((draw(head | end), draw(head | end)))
        middle = {"cut": b"", "repeat": whole[first:last] * 2, "change": draw(st.binary(max_size=20))}
        whole = whole[:first] + middle[draw(st.sampled_from(sorted(middle)))] + whole[last:]
    return whole


def works(client):
    return client.post("/v1/embed", files={"file": ("a", SOUND)}).status_code == 200


@EXAMPLES
@given(
    body=spoilt(FORM),
    kind=st.sampled_from(["multipart/form-data; boundary=x"] * 6 + ["multipart/form-data", "text/plain", ""])
    | HEADER_TEXT.map(lambda text: f"multipart/form-data; boundary={text}; charset={text}"),
    path=st.sampled_from(["/v1/embed", "/v1/search"]),
)
def test_spoilt_forms_are_refused(client, body, kind, path):
    status = client.post(path, content=body, headers={"content-type": kind}).status_code
    assert status in (200, 400, 413, 415, 422)


@pytest.mark.parametrize(
    "charset", ["utf-16", "unicode_escape", "idna", "hex", "zlib", "punycode", "utf-7", "nonsense"]
)
def test_forms_in_other_alphabets_are_read_or_refused(client, charset):
    """Text in most of them is no longer what it says; some are no alphabets at all."""
    kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    assert client.post("/v1/search", content=FORM, headers=kind).status_code in (200, 400, 422)
    lone = FORM.replace(b'name="k"\r\n\r\n3', b'name="labels"\r\n\r\n\\ud800')
    assert client.post("/v1/search", content=lone, headers=kind).status_code in (200, 400, 422)


@EXAMPLES
@given(
    asked=HEADER_TEXT | st.from_regex(r"bytes=[0-9]{0,20}-[0-9]{0,20}(, ?[0-9]{0,3}-[0-9]{0,3}){0,3}", fullmatch=True)
)
def test_odd_ranges_give_the_file_or_none_of_it(client, clips, videos, asked):
    content = (videos / "pets" / "a.mp4").read_bytes()
    found = client.get(f"/v1/clips/{clips['a.mp4']}/media", headers={"Range": asked})
    assert found.status_code in (200, 206, 416)
    if found.status_code == 200:
        assert found.content == content
    elif found.status_code == 206:
        first, last = found.headers["content-range"].removeprefix("bytes ").partition("/")[0].split("-")
        assert found.content == content[int(first) : int(last) + 1] != b""


@EXAMPLES
@given(spoilt(SOUND))
def test_spoilt_files_are_embedded_or_refused(client, content):
    assert client.post("/v1/embed", files={"file": ("a", content)}).status_code in (200, 413, 415, 422)


def test_after_all_of_that_a_good_request_works(client):
    assert works(client)


@pytest.mark.slow
@pytest.mark.gate
def test_what_openapi_lets_clients_send_gets_an_answer_that_it_names(serving):
    """By schemathesis: statuses, types and schemas of answers; bad data are refused; headers; methods."""
    if sys.version_info < (3, 11):
        pytest.skip("schemathesis needs Python 3.11")
    with serving("--timeout", "20") as (process, address):
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{address}/openapi.json",
            "--seed",
            "1",
            "-n",
            "20",
        ]
        command += ["--phases", "coverage,fuzzing", "--generation-database", "none", "--no-color"]
        # a file of any bytes is what the schema asks for, and rightly refused all the same
        command += ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=process.folder)
        assert done.returncode == 0, done.stdout
        assert "17 selected / 17 total" in done.stdout
