"""A cookie stands for the token: of this process alone, of no use to pages of other sites."""

import pytest

from serve.served import problem_of

pytestmark = pytest.mark.xdist_group("serve")
TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HOST = "http://search.example"


@pytest.fixture
def locked(open_app):
    return open_app(token=TOKEN, hosts=None, address=HOST)


def given(response):
    """The cookie, and what is said of it."""
    value, *attributes = response.headers["set-cookie"].split("; ")
    return value, {attribute.lower() for attribute in attributes}


@pytest.fixture
def cookie(locked):
    return given(locked.post("/v1/session", headers=BEARER))[0]


def test_the_token_gives_a_cookie_that_is_good_for_all(locked):
    found = locked.post("/v1/session", headers=BEARER)
    value, attributes = given(found)
    assert (found.status_code, found.content) == (204, b"")
    assert attributes == {"httponly", "samesite=strict", "path=/"}
    assert TOKEN not in value
    locked.cookies.clear()
    assert locked.get("/v1/runs", headers={"Cookie": value}).status_code == 200
    assert locked.get("/v1/runs", headers={"Cookie": f"a=b; {value}; c=d"}).status_code == 200
    assert locked.get("/metrics", headers={"Cookie": value}).status_code == 200
    assert locked.post("/v1/session", headers={"Cookie": value}).status_code == 204


def test_without_the_token_there_is_none(locked, cookie):
    locked.cookies.clear()
    problem_of(locked.post("/v1/session"), 401)
    problem_of(locked.post("/v1/session", headers={"Authorization": f"Bearer {TOKEN}x"}), 401)
    problem_of(locked.delete("/v1/session"), 401)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cookie: cookie[:-1],
        lambda cookie: cookie + "0",
        lambda cookie: f"x{cookie}",
        lambda cookie: cookie.replace("=", "=é"),
        lambda cookie: f"equiav-session={TOKEN}",
        lambda cookie: "equiav-session=",
        lambda cookie: 'equiav-session="\\377"',
        lambda cookie: "",
        str.upper,
    ],
)
def test_another_cookie_opens_nothing(locked, cookie, spoil):
    locked.cookies.clear()
    problem_of(locked.get("/v1/runs", headers={"Cookie": spoil(cookie).encode("latin-1")}), 401)


def test_the_cookie_of_another_process_opens_nothing(open_app, locked, cookie):
    after = open_app(token=TOKEN, hosts=None, address=HOST)
    problem_of(after.get("/v1/runs", headers={"Cookie": cookie}), 401)
    locked.cookies.clear()
    assert locked.get("/v1/runs", headers={"Cookie": cookie}).status_code == 200


def test_the_cookie_ends_when_it_is_asked_to(locked, cookie):
    value, attributes = given(locked.delete("/v1/session", headers=BEARER))
    assert value == 'equiav-session=""'
    assert {"max-age=0", "path=/", "httponly", "samesite=strict"} <= attributes
    problem_of(locked.get("/v1/runs"), 401)  # this client keeps cookies as a browser does


def test_other_sites_cannot_use_the_cookie(locked, cookie):
    locked.cookies.clear()
    search = {"json": {"clip": "none"}}
    own = {"Cookie": cookie}
    assert locked.post("/v1/search", **search, headers=own).status_code == 404
    assert locked.post("/v1/search", **search, headers=own | {"Origin": HOST}).status_code == 404
    assert locked.post("/v1/search", **search, headers=own | {"Sec-Fetch-Site": "same-origin"}).status_code == 404
    for other in ({"Origin": "http://evil.example"}, {"Origin": "null"}):
        problem_of(locked.post("/v1/search", **search, headers=own | other), 403)
        problem_of(locked.get("/v1/runs", headers=own | other), 403)
    for site in ("cross-site", "same-site", "odd"):
        problem_of(locked.post("/v1/search", **search, headers=own | {"Sec-Fetch-Site": site}), 403)
        # those who name the token themselves are no browser that was talked into it
        assert locked.post("/v1/search", **search, headers=BEARER | {"Sec-Fetch-Site": site}).status_code == 404


@pytest.mark.parametrize(
    ("address", "headers", "secure"),
    [
        ("https://search.example", {}, True),
        (HOST, {"Origin": HOST}, False),
        (HOST, {"X-Forwarded-Proto": "https"}, True),
        (HOST, {"Origin": "https://search.example"}, True),  # a proxy with TLS before it
    ],
)
def test_over_tls_the_cookie_never_travels_without(open_app, address, headers, secure):
    client = open_app(token=TOKEN, hosts=None, address=address)
    assert ("secure" in given(client.post("/v1/session", headers=BEARER | headers))[1]) == secure


def test_where_no_token_is_needed_there_is_no_cookie(client):
    found = client.post("/v1/session")
    assert (found.status_code, "set-cookie" in found.headers) == (204, False)
    assert client.get("/v1/runs", headers={"Cookie": "equiav-session=x"}).status_code == 200


def test_other_methods_are_told_which_there_are(client):
    found = client.get("/v1/session")
    problem_of(found, 405)
    assert found.headers["allow"] == "DELETE, POST"
