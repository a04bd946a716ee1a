"""The demo's page holds all it shows, fetches nothing, and says the numbers it was given."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from equiav.errors import ConfigError
from equiav.evaluate.retrieval import RetrievalReport
from equiav.metrics.retrieval import retrieval_metrics
from equiav.pages.demo import ClipShown, QueryShown, demo_page, loss_curves
from equiav.pages.pictures import file_uri, spectrogram_uri

ROWS = [
    {
        "step": i,
        "epoch": i / 4,
        "lr": 1e-4,
        "clips_per_s": 9.0,
        "loss": 5 / i,
        "loss_inter": 4 / i,
        "accuracy_inter": 0.5,
    }
    for i in range(1, 9)
]


class Page(HTMLParser):
    """Attributes of every tag, and the text without the styles."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data


def jpeg(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (shade, 90, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def clip(name, labels, score=None, audio=None):
    mel = np.random.default_rng(len(name)).normal(size=(40, 16)).astype(np.float16)
    return ClipShown(name, f"videos/{name}.mp4", 2.5, 4.0, labels, jpeg(40), log_mel=mel, score=score, audio=audio)


def report():
    rng = np.random.default_rng(0)
    audio, visual = rng.normal(size=(2, 20, 8))
    labels = [[str(i % 3)] for i in range(20)]
    return RetrievalReport(
        split="test",
        scoring="middle",
        clips=20,
        listed=None,
        found=None,
        rejected=0,
        trained_on=None,
        audio_to_visual=retrieval_metrics(audio, visual, labels=labels),
        visual_to_audio=retrieval_metrics(visual, audio, labels=labels),
        equal_sounds=3,
        equal_pictures=0,
        shared_sources=0,
        clip_ids=[],
    )


def page(**changes):
    queries = [
        QueryShown(
            "sound", clip("a", ["dog"], audio=b"RIFFxxxx"), [clip("b", ["cat"], 0.75), clip("a", ["dog"], 0.5)], 2
        ),
        QueryShown("picture", clip("c", ["<b>cow</b>"]), [clip("d", ["cow", "<b>cow</b>"], 0.25)], 1),
    ]
    given = {
        "title": "Title & more",
        "summary": ["First <i>words</i>."],
        "metrics": ROWS,
        "retrieval": report(),
        "queries": queries,
        "commands": ["equiav demo --out 'x'"],
    }
    return demo_page(**{**given, **changes})


def test_nothing_is_fetched():
    html = page()
    for tag, attributes in Page(html).tags:
        assert tag not in {"script", "link", "iframe", "base"}
        for name in ("src", "href", "xlink:href", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"{tag} {name}={value[:60]}"
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_every_inlined_image_decodes():
    sources = [attributes["src"] for tag, attributes in Page(page()).tags if tag == "img"]
    # two queries with one image each, three hits with a picture and a spectrogram
    assert len(sources) == 2 + 3 * 2
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).load()


def test_what_users_wrote_is_shown_as_text():
    html = page()
    assert "<b>cow</b>" not in html
    assert "<i>words</i>" not in html
    text = Page(html).text
    for words in ("Title & more", "First <i>words</i>.", "<b>cow</b>", "equiav demo --out 'x'", "videos/d.mp4"):
        assert words in text


def test_the_table_says_the_measured_numbers_with_gallery_chance_and_interval():
    measured = report()
    text = Page(page()).text
    for result in (measured.audio_to_visual, measured.visual_to_audio):
        for figure in (result.recall_at_1, result.recall_at_10, result.class_level_others.mean_average_precision):
            value, low, high, chance = (100 * x for x in (figure.value, figure.low, figure.high, figure.chance))
            assert f"{value:.1f} %" in text
            assert f"[{low:.1f} – {high:.1f}] · chance {chance:.1f} %" in text
    assert "among 20" in text
    assert "3 of 20 clips have the same sound as an earlier one" in text


def test_matches_are_marked_by_label_and_own_clip():
    tags = Page(page()).tags
    assert [attributes.get("class") for tag, attributes in tags if tag == "li"] == [None, "match", "match"]
    text = Page(page()).text
    assert "its own picture came at place 2" in text
    assert "its own sound came first" in text
    assert text.count("✓ its own") == 1
    assert "0.750" in text


def test_a_page_without_numbers_queries_or_commands_is_still_a_page():
    html = page(metrics=[], retrieval=None, queries=[], commands=[])
    assert "Measured" not in html
    assert "<svg" not in html
    assert Page(html).text.count("Title & more") == 2  # the tab's title and the heading


def test_the_same_input_gives_the_same_page():
    assert page() == page()


def test_curves_show_every_loss_and_nothing_else_in_the_pages_colours():
    svg = loss_curves(ROWS)
    assert "total" in svg
    assert "sound and picture agree" in svg
    assert "accuracy" not in svg
    assert ">lr<" not in svg
    assert "#0102" not in svg
    assert {"var(--series-0)", "var(--series-1)", "var(--muted)"} <= set(re.findall(r"var\(--[a-z0-9-]+\)", svg))
    with pytest.raises(ConfigError, match="no loss, only step, lr"):
        loss_curves([{"step": 1, "lr": 0.1}])


def pixels(uri):
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    return np.asarray(image).astype(int).sum(axis=2)


def test_spectrograms_run_left_to_right_with_low_sounds_at_the_bottom():
    mel = np.full((100, 40), -12.0)
    mel[:20, :8] = 2.0  # early and low
    light = pixels(spectrogram_uri(mel))
    rows, columns = light.shape
    assert light[-rows // 8 :, : columns // 8].min() > 4 * max(1, light[: rows // 2].max())
    assert light[-rows // 8 :, columns // 2 :].max() < 60


def test_padding_at_the_end_is_not_drawn_as_sound():
    sound = np.random.default_rng(0).normal(-6, 1, size=(100, 16))
    padded = np.concatenate([sound, np.zeros((60, 16))])
    assert spectrogram_uri(padded) == spectrogram_uri(sound)


def test_a_silent_or_broken_spectrogram():
    assert pixels(spectrogram_uri(np.zeros((8, 4)))).shape
    with pytest.raises(ConfigError, match=r"finite \(T, M\) array, found shape \(4,\)"):
        spectrogram_uri(np.zeros(4))
    with pytest.raises(ConfigError, match="finite"):
        spectrogram_uri(np.full((4, 4), np.nan))


def test_a_thumbnail_must_be_a_picture():
    with pytest.raises(ConfigError, match="JPEG or PNG"):
        file_uri(b"hello world")


def test_the_printed_table_holds_both_directions_and_the_gallery_size():
    from rich.console import Console

    console = Console(width=160, file=io.StringIO())
    console.print(report().to_table())
    text = console.file.getvalue()
    measured = report()
    assert "sound → picture (of 20)" in text
    assert "picture → sound (of 20)" in text
    for estimate in (measured.audio_to_visual.mean_rank, measured.visual_to_audio.class_level.precision_at_10):
        assert f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]" in text
    assert "3 of 20 clips have the same sound" in text
    assert RetrievalReport.model_validate(measured.to_dict()) == measured
