"""Search in the page: from a file, a clip, a recording to clips that play at the right second."""

import re

import pytest

from equiav.media.mux import wav_file
from samples import tone
from serve.browser.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
SOUND = {"name": "whistle.wav", "mimeType": "audio/wav", "buffer": wav_file(tone(0.7, 320), 16_000)}


def upload(page, file=SOUND):
    page.set_input_files("#file", file)
    page.wait_for_selector("#hits .card")
    page.wait_for_selector("#hits:not([aria-busy])")
    return names(page)


def names(page, within="#hits"):
    return [text.split(". ")[-1] for text in page.locator(f"{within} .card h3").all_inner_texts()]


def card(page, name, within="#hits"):
    return page.locator(f"{within} .card", has=page.locator("h3", has_text=name))


def played(page, one):
    """Click its play button; the media element's time at each frame until it stops."""
    page.evaluate("""() => {
        [window.times, window.stopped] = [[], false];
        document.addEventListener("playing", ({target}) => {
            const look = () => {
                window.times.push(target.currentTime);
                window.stopped = target.paused;
                if (!window.stopped) requestAnimationFrame(look);
            };
            look();
        }, {capture: true, once: true});
    }""")
    one.locator(".play").click()
    until(page, "window.stopped")
    return page.evaluate("window.times")


def test_a_sound_finds_pictures_which_are_ranked_and_described(open_page, address):
    page = open_page(address)
    found = upload(page)
    assert sorted(found) == ["a.mp4", "a.mp4", "b.mp4", "b.mp4", "c.webm", "e.png", "old.avi"]
    assert page.inner_text("#status").startswith("7 clips whose picture is nearest to this sound")
    scores = [float(text.replace("−", "-")) for text in page.locator("#hits .score strong").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    for text in page.locator("#hits .score span").all_inner_texts():
        assert re.fullmatch(r"closer than (all|[\d.]+ % of) pairs", text)
    assert page.locator("#asked audio").evaluate("node => node.duration") == pytest.approx(0.7, abs=0.05)
    assert "whistle.wav" in page.inner_text("#asked")


def test_a_clip_plays_from_its_start_to_its_end_with_its_sound(open_page, address, first_clip):
    page = open_page(address)
    upload(page)
    one = page.locator(f"#hits .card[data-clip='{first_clip}']")
    start, end = (float(text.split(":")[1]) for text in one.locator(".hint").inner_text().split(" · ")[0].split(" – "))
    assert start > 0.5
    times = played(page, one)
    assert start - 0.06 <= min(times) <= max(times) <= end + 0.06  # times are shown in tenths
    assert len(set(times)) > 3
    assert times[-1] == pytest.approx(end, abs=0.06)
    assert page.evaluate("document.querySelector('.stage video').webkitAudioDecodedByteCount") > 0
    assert page.evaluate("document.querySelector('.stage video').webkitDecodedFrameCount") > 0
    assert float(one.locator("input[type=range]").input_value()) == pytest.approx(1, abs=0.01)


def test_one_clip_plays_at_a_time_and_again_from_its_start(open_page, address):
    page = open_page(address)
    upload(page)
    first, second = card(page, "a.mp4").first, card(page, "c.webm")
    played(page, first)
    times = played(page, first)
    assert times[0] < times[-1]
    first.locator(".play").click()
    played(page, second)
    assert page.locator(".stage video").count() == 1
    assert second.locator("video").count() == 1


def test_what_the_browser_cannot_play_is_said_and_can_be_saved(open_page, address, media):
    page = open_page(address)
    upload(page)
    one = card(page, "old.avi")
    one.locator(".play").click()
    note = one.locator(".note")
    note.locator("a").wait_for()
    assert "cannot play .avi files" in note.inner_text()
    with page.expect_download() as waiting:
        note.locator("a").click()
    assert waiting.value.suggested_filename == "old.avi"
    assert waiting.value.path().read_bytes() == (media / "old.avi").read_bytes()


def test_a_picture_is_shown_whole(open_page, address):
    page = open_page(address)
    upload(page)
    one = card(page, "e.png")
    one.get_by_role("button", name="Show e.png").click()
    until(
        page, "[...document.querySelectorAll('#hits img')].some(i => i.src.endsWith('/media') && i.naturalWidth === 64)"
    )


def test_filters_hold_in_the_page_and_in_its_address(open_page, address):
    page = open_page(address)
    upload(page)
    page.fill("#label", "pet")
    page.click("#add-label")
    until(page, "document.querySelectorAll('#hits .card').length === 4")
    assert set(names(page)) == {"a.mp4", "b.mp4"}
    assert "labels=pet" in page.url
    page.fill("#sources", "b.*")
    page.keyboard.press("Tab")
    until(page, "document.querySelectorAll('#hits .card').length === 2")
    assert set(names(page)) == {"b.mp4"}
    page.check("#group")
    until(page, "document.querySelectorAll('#hits .card').length === 1")
    page.fill("#split", "none-such")
    page.keyboard.press("Tab")
    until(page, "document.querySelector('#status').textContent.startsWith('No clip matches')")
    page.click("#reset")
    until(page, "document.querySelectorAll('#hits .card').length === 7")


def test_more_like_this_is_a_search_by_that_clip_which_can_be_shared(open_page, address, first_clip):
    page = open_page(address)
    upload(page)
    page.select_option("#by", "audio")
    until(page, "document.querySelector('#status').textContent.includes('sound is nearest')")
    page.locator(f"#hits .card[data-clip='{first_clip}'] .more").click()
    until(page, "document.querySelector('#status').textContent.includes('this clip')")
    assert f"clip={first_clip}" in page.url
    assert "by=audio" in page.url
    found = names(page)
    assert found[0] == "a.mp4"  # the other window of the same tone
    assert page.locator(f"#hits .card[data-clip='{first_clip}']").count() == 0
    shared = open_page(address, page.url.partition("/#")[2].join(["#", ""]))
    shared.wait_for_selector("#hits .card")
    assert names(shared) == found
    assert shared.locator("#asked h3").inner_text() == "a.mp4"
    shared.check("#own")
    until(shared, "document.querySelectorAll('#hits .card').length === 5")
    assert "a.mp4" not in names(shared)
    page.go_back()
    page.wait_for_selector("#starts:not([hidden]) .card, #hits .card")


def test_more_results_follow_those_that_are_there(open_page, address):
    page = open_page(address)
    whole = upload(page)
    page.select_option("#k", "6")
    until(page, "document.querySelectorAll('#hits .card').length === 6")
    page.click("#more")
    until(page, "document.querySelectorAll('#hits .card').length === 7")
    assert names(page) == whole
    assert page.inner_text("#hits .card:last-child .rank") == "7."
    assert page.inner_text("#status").startswith("7 clips")
    assert page.locator("#more").is_hidden()


def test_a_query_is_still_there_after_another_view_was_shown(open_page, address):
    page = open_page(address)
    upload(page)
    page.select_option("#by", "both")
    until(page, "document.querySelector('#status').textContent.includes('nearest in sound and picture')")
    found = names(page)
    page.get_by_role("link", name="Library", exact=True).click()
    page.wait_for_selector("#browse .card")
    page.get_by_role("link", name="Search", exact=True).click()
    page.wait_for_selector("#hits .card")
    assert names(page) == found
    assert page.input_value("#by") == "both"
    assert "whistle.wav" in page.inner_text("#asked")


def test_a_picture_is_asked_for_again_while_the_service_is_busy(open_page, address):
    page = open_page(address)
    busy = ["once"]

    def handle(route):
        if busy and route.request.resource_type == "image":
            route.fulfill(status=429, headers={"Retry-After": "1"}, body="{}")
        elif busy:
            busy.clear()
            route.fulfill(status=429, headers={"Retry-After": "1"}, body="{}")
        else:
            route.continue_()

    page.route("**/thumbnail", handle)
    upload(page)
    until(page, "[...document.querySelectorAll('#hits img.still')].filter(image => image.naturalWidth > 0).length > 1")


def test_a_microphone_and_a_camera_are_searched_by(open_page, address):
    page = open_page(address, permissions=["microphone", "camera"])
    page.click("#record-sound")
    page.click("#capture-go")
    page.wait_for_timeout(1200)
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("#hits .card")
    assert "this sound" in page.inner_text("#status")
    page.click("#use-camera")
    until(page, "document.querySelector('#preview').videoWidth > 0")
    page.click("#capture-picture")
    until(page, "document.querySelector('#status').textContent.includes('this picture')")
    page.click("#use-camera")
    page.click("#capture-go")
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop").click()
    until(page, "document.querySelector('#status').textContent.includes('this video')")
    page.click("#record-sound")
    page.wait_for_selector("#capture[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#capture", state="hidden")
    assert "this video" in page.inner_text("#status")


def test_a_file_can_be_dropped_and_a_picture_pasted(open_page, address):
    page = open_page(address)
    made = """([type, name]) => {
        const canvas = new OffscreenCanvas(64, 48);
        canvas.getContext("2d").fillRect(0, 0, 30, 30);
        return canvas.convertToBlob({type: "image/png"}).then(blob => {
            const data = new DataTransfer();
            data.items.add(new File([blob], name, {type: "image/png"}));
            const more = {bubbles: true, cancelable: true};
            const event = type === "paste" ? new ClipboardEvent(type, {...more, clipboardData: data})
                                           : new DragEvent(type, {...more, dataTransfer: data});
            document.querySelector("#drop").dispatchEvent(event);
        });
    }"""
    for kind, name in (("drop", "dropped.png"), ("paste", "pasted.png")):
        page.evaluate(made, [kind, name])
        until(page, f"document.querySelector('#asked').textContent.includes('{name}')")
        until(page, "document.querySelector('#status').textContent.includes('sound is nearest to this picture')")


def test_what_cannot_be_searched_by_is_said_in_words(open_page, address):
    page = open_page(address)
    page.set_input_files("#file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"no video at all"})
    page.wait_for_selector("#search-problem .problem")
    assert page.inner_text("#alarm") in page.inner_text("#search-problem")
    assert len(page.inner_text("#alarm")) > 10
    page.fill("#clip-id", "none-such")
    page.click("#ask-clip")
    until(page, "document.querySelector('#alarm').textContent === 'The library holds no such clip.'")


def answer_once(page, status, then):
    """The next search is turned away, later ones are answered by `then`."""
    answers = [status]

    def handle(route):
        if answers:
            body = '{"title": "", "status": 429, "detail": "as many requests as may be", "request_id": "x"}'
            headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
            route.fulfill(status=answers.pop(), body=body, headers=headers)
        else:
            then(route)

    page.route("**/v1/search", handle)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_when_it_says(open_page, address, status):
    page = open_page(address)
    answer_once(page, status, lambda route: route.continue_())
    page.evaluate("""() => {
        window.told = [];
        const note = () => window.told.push(document.querySelector("#status").textContent);
        new MutationObserver(note).observe(document.querySelector("#status"), {childList: true});
    }""")
    page.set_input_files("#file", SOUND)
    page.wait_for_selector("#hits .card")
    assert sum("asked again in 1 s" in text for text in page.evaluate("window.told")) == 1


def test_a_query_can_be_cancelled(open_page, address):
    page = open_page(address)
    held = []
    answer_once(page, 429, lambda route: held.append(route))  # never answered
    page.set_input_files("#file", SOUND)
    while not held:
        page.wait_for_timeout(20)
    assert page.locator("#progress").is_visible()
    page.click("#cancel")
    until(page, "document.querySelector('#status').textContent === 'Cancelled.'")
    assert page.locator("#progress").is_hidden()
    assert page.locator("#cancel").is_hidden()
