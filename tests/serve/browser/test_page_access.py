"""A service with a token: the page asks for it, keeps none, and lets go of the session."""

import pytest

from serve.browser.waiting import until
from serve.served import serve

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def locked(media_library, run_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("locked")
    with serve(media_library.path, run_folder, folder, EQUIAV_TOKEN=TOKEN) as (_, address):
        yield address


def test_who_has_the_token_signs_in_and_out(open_page, locked, axe):
    page = open_page(locked, "#/library")
    page.wait_for_selector("#view-sign-in:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "token"
    assert page.get_attribute("#token", "type") == "password"
    assert axe(page) == []
    page.fill("#token", "another-token-of-some-length")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sign-in-problem:not([hidden])")
    assert page.inner_text("#sign-in-problem") == "This is not the service’s token."
    assert page.locator("#view-library").is_hidden()
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#browse .card")
    until(page, "[...document.querySelectorAll('#browse img.still')].some(image => image.naturalWidth > 0)")
    kept = page.evaluate("JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])")
    assert TOKEN not in kept + str(page.context.cookies())
    page.reload()
    page.wait_for_selector("#browse .card")
    page.click("#sign-out")
    page.wait_for_selector("#view-sign-in:not([hidden])")
    assert page.context.cookies() == []
    assert page.evaluate("fetch('/v1/runs').then(answer => answer.status)") == 401


def test_where_no_token_is_needed_none_is_asked_for(open_page, address):
    page = open_page(address)
    assert page.locator("#view-sign-in").is_hidden()
    assert page.locator("#sign-out").is_hidden()
