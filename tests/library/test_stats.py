"""The figures of a library are what is in it, and its page shows them with nothing to fetch."""

import json
import re
import shutil

import numpy as np
import pytest

from equiav.errors import LibraryError
from equiav.library.ingest import ingest
from equiav.library.stats import library_stats
from equiav.library.table import Library
from equiav.pages.library import stats_page
from samples import TINY, pictures, tone, write_media


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Two files, a copy, another with the same sound, one that is missing."""
    folder = tmp_path_factory.mktemp("stats")
    for i, hertz in enumerate((300, 700, 300)):
        write_media(folder / f"{i}.mp4", frames=pictures(14, seed=i), sound=tone(1.4, hertz))
    shutil.copy(folder / "1.mp4", folder / "copy.mp4")
    rows = [
        {"path": "0.mp4", "labels": ["<b>dog</b>", "loud"]},
        {"path": "1.mp4", "labels": ["loud"], "split": "test"},
        {"path": "2.mp4"},
        {"path": "copy.mp4"},
        {"path": "gone.mp4", "split": "test"},
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingest(folder / "t.jsonl", folder / "L", TINY, workers=1)
    return Library(folder / "L")


def test_the_figures_are_what_is_in_the_library(library):
    stats = library_stats(library)
    assert (stats.clips, stats.files, stats.status, stats.splits) == (6, 3, {"ok": 6}, {"train": 4, "test": 2})
    assert (stats.labels, stats.unlabelled) == ({"loud": 4, "<b>dog</b>": 2}, 2)
    assert (stats.copies, stats.same_sound, stats.rejects) == (2, 4, {"missing": 1})
    assert stats.durations.longest_s == pytest.approx(0.655)
    assert stats.durations.hours == pytest.approx(4.0 / 3600, abs=0.2 / 3600)
    table = library.clips("train")
    fbanks = zip(library.fbanks(table), table["fbank_frames"].to_pylist(), strict=True)
    sounding = np.concatenate([fbank[:frames] for fbank, frames in fbanks])
    train = next(one for one in stats.normalisation if one.split == "train")
    assert (train.mean, train.std) == (
        pytest.approx(sounding.mean(), abs=0.01),
        pytest.approx(sounding.std(), abs=0.01),
    )
    (source,) = stats.sources
    assert [(one["split"], one["listed"], one["found"]) for one in source["coverage"]] == [
        ("test", 2, 1),
        ("train", 3, 3),
    ]
    assert json.loads(json.dumps(stats.to_dict()))["clips"] == 6


def test_the_page_is_self_contained_escapes_and_shows_every_clip(library):
    page = stats_page(library, library_stats(library))
    assert page.startswith("<!doctype html>")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert "<b>dog" not in page
    assert page.count("data:image/jpeg") == page.count("data:image/png") == 6
    assert "gone.mp4" in page
    assert "2 of 3" not in page
    assert "test: 1 of 2 found" in page


def test_an_empty_library_says_what_to_do(tmp_path):
    library = Library.create(tmp_path / "L", TINY)
    with pytest.raises(LibraryError, match="has no clips yet: equiav ingest"):
        library_stats(library)


def test_one_of_a_kind_is_called_so(tmp_path):
    write_media(tmp_path / "x.mp4", frames=pictures(7), sound=tone(0.7))
    ingest(tmp_path / "x.mp4", tmp_path / "L", TINY, workers=1)
    lines = dict(library_stats(Library(tmp_path / "L")).lines())
    assert lines["clips"].startswith("1 of 1 file, ")
    assert lines["copies"] == "0 windows left out, 0 clips with the sound of another"
