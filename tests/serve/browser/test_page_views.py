"""The views of the page: what they show of a library and a model, at every width, in light and dark, by keys alone."""

import pytest

from equiav.media.mux import wav_file
from samples import tone
from serve.browser.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
SOUND = {"name": "whistle.wav", "mimeType": "audio/wav", "buffer": wav_file(tone(0.7, 320), 16_000)}
SETTLED = "!document.querySelector('main > section:not([hidden]) [aria-busy]')"


def opened(open_page, address, view, ready, **more):
    page = open_page(address, view, **more)
    page.wait_for_selector(ready)
    until(page, SETTLED)
    return page


@pytest.fixture(params=["search", "hits", "library", "model"])
def view(request, first_clip):
    """Address of a view, and what shows that it is there."""
    return {
        "search": ("#/search", "#starts .card"),
        "hits": (f"#/search?clip={first_clip}", "#hits .card"),
        "library": ("#/library", "#browse .card"),
        "model": ("#/model", "#runs .measured"),
    }[request.param]


def test_no_view_has_a_serious_fault_of_accessibility(open_page, address, axe, view):
    page = opened(open_page, address, *view)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 900})
            assert axe(page) == [], (scheme, width)


def test_axe_finds_what_is_wrong(open_page, address, axe):
    page = opened(open_page, address, "#/search", "#starts .card")
    page.locator("#status").evaluate("node => { node.textContent = 'faint'; node.style.color = '#e8eaec'; }")
    page.locator("label[for=by]").evaluate("node => node.remove()")
    page.locator("#by").evaluate("node => node.removeAttribute('title')")
    assert {name for name, _ in axe(page)} == {"color-contrast", "select-name"}


def test_no_view_is_wider_than_its_window(open_page, address, view):
    wide = """[...document.querySelectorAll('main *')].filter(node => node.checkVisibility() && !node.closest('.unseen')
        && node.getBoundingClientRect().right > innerWidth + 1).map(node => node.outerHTML.slice(0, 80))"""
    page = opened(open_page, address, *view, width=360)
    for width in (360, 600, 801, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(wide) == []


SHIFTS = """window.shifted = 0; new PerformanceObserver(list => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({type: "layout-shift", buffered: true})"""


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_jumps_while_a_view_comes(open_page, address, view, width):
    """Chromium's layout shift; below 0.1 is called good."""
    page = opened(open_page, address, "#/model", "#runs .panel", width=width)
    page.context.add_init_script(SHIFTS)
    page.goto("about:blank")
    page.goto(f"{address}/{view[0]}")
    page.wait_for_selector(view[1])
    until(page, SETTLED)
    page.wait_for_timeout(300)
    assert page.evaluate("window.shifted") < 0.1


def luminance(page, name, of="body"):
    """Of a colour, from 0, black, to 1."""
    colour = page.locator(of).first.evaluate(f"node => getComputedStyle(node)['{name}']")
    red, green, blue = (int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_follow_the_system(open_page, address):
    for dark in (False, True):
        page = opened(open_page, address, "#/library", "#browse .card", dark=dark)
        for of in ("body", ".panel", ".top"):
            assert (luminance(page, "backgroundColor", of) < 0.2) == dark
        assert (luminance(page, "color") > 0.7) == dark


def test_what_moves_can_be_stilled(open_page, address):
    durations = []
    for still in (True, False):
        page = opened(open_page, address, "#/search", "#starts .card", still=still)
        durations.append(page.locator(".card").first.evaluate("node => getComputedStyle(node).transitionDuration"))
    assert durations[0] == "0s"
    assert durations[1] != "0s"


def test_the_views_are_links_that_say_which_is_shown(open_page, address):
    page = open_page(address)
    for name in ("Library", "Model", "Search"):
        page.get_by_role("link", name=name, exact=True).click()
        page.wait_for_selector(f"#view-{name.lower()}:not([hidden])")
        assert page.locator("nav a[aria-current=page]").all_inner_texts() == [name]
        assert page.title().startswith(name)
        assert page.evaluate("document.activeElement.id") == f"h-{name.lower()}"
    page.go_back()
    page.wait_for_selector("#view-model:not([hidden])")


def test_the_library_is_counted_and_its_clips_are_filtered(open_page, address):
    page = opened(open_page, address, "#/library", "#browse .card")
    tiles = dict(zip(*(page.locator(f".tiles {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert (tiles["clips"], tiles["files"]) == ("8", "6")
    assert "not media 1" in page.inner_text("#figures")
    bars = page.locator("#label-bars a")
    assert [text.split() for text in bars.all_inner_texts()] == [
        ["pet", "4", "·", "50.0", "%"],
        ["thing", "4", "·", "50.0", "%"],
    ]
    bars.first.click()
    until(page, "document.querySelectorAll('#browse .card').length === 4")
    assert set(page.locator("#browse h3").all_inner_texts()) == {"a.mp4", "b.mp4"}
    assert page.input_value("#in-labels") == "pet"
    page.fill("#in-labels", "")
    page.fill("#in-sources", "*.wav")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#browse .card').length === 1")
    page.locator("#browse .more").click()
    page.wait_for_selector("#hits .card")
    assert page.locator("#asked h3").inner_text() == "d.wav"


def test_what_was_not_taken_in_is_listed_with_its_reason(open_page, address, media):
    page = opened(open_page, address, "#/library", "#rejects tbody tr")
    assert page.locator("#rejects tbody tr").count() == 1
    row = page.inner_text("#rejects tbody tr")
    assert "broken.mp4" in row
    assert "not media" in row
    assert str(media) not in page.content()
    page.get_by_role("button", name="not media 1").click()
    page.wait_for_selector("#rejects [aria-pressed=true]:has-text('not media')")
    assert page.locator("#rejects tbody tr").count() == 1


def test_the_map_shows_a_clip_and_searches_by_it(open_page, address):
    page = opened(open_page, address, "#/library", "#map-place canvas")
    assert page.locator(".legend button").all_inner_texts() == ["pet", "thing"]
    box = page.locator("#map-place canvas").bounding_box()
    inks = """(() => {
        const canvas = document.querySelector("#map-place canvas");
        const {data, width} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const i = data.findIndex((value, at) => at % 4 === 3 && value > 200) >> 2;
        return [i % width, Math.floor(i / width)];
    })()"""
    x, y = page.evaluate(inks)
    page.mouse.move(box["x"] + x, box["y"] + y + 1)
    page.wait_for_selector(".tip:not([hidden])")
    shown = page.inner_text(".tip strong")
    page.mouse.click(box["x"] + x, box["y"] + y + 1)
    page.wait_for_selector("#hits .card")
    assert page.locator("#asked h3").inner_text() == shown


def test_the_map_is_a_table_too(open_page, address):
    page = opened(open_page, address, "#/library", "#map-more details")
    page.locator("#map-more summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#map-more tbody tr")
    assert page.locator("#map-more tbody tr").count() == 8
    page.keyboard.press("Tab")
    name = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hits .card")
    assert name.startswith(page.locator("#asked h3").inner_text())


def test_a_model_is_described_with_what_was_measured_of_it(open_page, address, models, measured):
    page = opened(open_page, address, "#/model", "#runs .measured table")
    run = page.get_by_role("region", name="Run measured")
    assert models["first"].fingerprint() in run.inner_text()
    assert "8 of 8" in run.inner_text()
    found = measured.audio_to_visual.recall_at_1
    row = run.locator("tr", has_text="R@1:").locator("td").first.inner_text()
    assert row.split() == [f"{100 * found.value:.1f}", "%", f"[{100 * found.low:.1f},", f"{100 * found.high:.1f}]"]
    known = run.get_by_role("region", name="Equivariance").inner_text()
    assert "0.50 [0.25, 0.75]" in known
    assert "time mask" in known
    assert "uniformity is odd" in known


def test_how_a_model_is_measured_is_said_where_it_was_not(open_page, address):
    page = opened(open_page, address, "#/model", "#runs .measured table")
    other = page.get_by_role("region", name="Run other")
    assert other.locator("code").all_inner_texts()[1:] == [
        "equiav evaluate retrieval --library L --run R --split test --out R/retrieval.json",
        "equiav diagnose --library L --run R",
    ]


def test_another_run_can_be_asked(open_page, address, first_clip):
    page = opened(open_page, address, f"#/search?clip={first_clip}", "#hits .card")
    until(page, "document.querySelector('#status').textContent.includes('run measured')")
    page.select_option("#run", "other")
    until(page, "document.querySelector('#status').textContent.includes('run other')")
    assert "run=other" in page.url
    page.select_option("#run", "measured")
    until(page, "document.querySelector('#status').textContent.includes('run measured')")
    assert "run=" not in page.url


def test_all_can_be_done_by_keys(open_page, address):
    page = opened(open_page, address, "#/search", "#starts .card")
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Enter")
    while not choosers:
        page.wait_for_timeout(20)
    choosers[0].set_files(SOUND)
    page.wait_for_selector("#hits .card")
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("k")
    first = "document.querySelector('#hits .card')"
    assert page.evaluate(f"document.activeElement === {first}.querySelector('.play')")
    page.keyboard.press("j")
    second = page.locator("#hits .card").nth(1)
    name = second.locator("h3").inner_text().split(". ")[1]
    assert second.locator(".play").evaluate("node => node === document.activeElement")
    assert second.evaluate("node => getComputedStyle(node).boxShadow") != "none"
    page.keyboard.press("m")
    until(page, "document.querySelector('#status').textContent.includes('this clip')")
    assert page.locator("#asked h3").inner_text() == name
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.wait_for_selector("#help", state="hidden")
    page.locator("#hits .play").first.focus()
    page.keyboard.press("j")
    assert page.evaluate(f"document.activeElement === {first}.querySelector('.play')")


def test_space_plays_the_clip_that_has_the_focus(open_page, address, first_clip):
    page = opened(open_page, address, f"#/search?clip={first_clip}&sources=pets/*", "#hits .card")
    page.keyboard.press("j")
    page.keyboard.press("Space")
    until(page, "document.querySelector('#hits video')?.currentTime > 0")


def test_the_first_page_is_small_and_loads_each_file_once(open_page, address):
    page = open_page(address)
    files = [url for url in page.requests if "/page/" in url]
    assert len(files) == len(set(files))
    sizes = page.evaluate(
        "performance.getEntriesByType('resource').filter(e => e.name.includes('/page/')).map(e => e.decodedBodySize)"
    )
    assert sum(sizes) < 150_000
