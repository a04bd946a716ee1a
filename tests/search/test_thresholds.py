"""The curve counts copies that are made of the library's files, and nothing of them stays."""

import json
import tempfile

import pytest

from equiav.errors import ConfigError, LibraryError
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.search.embed import embed_library
from equiav.search.index import SearchIndex
from equiav.search.thresholds import COSINES, RECALL
from samples import pictures, tone, write_media
from tiny_library import FEATURES, make_model


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i in range(11):
        write_media(folder / f"{i:02}.mp4", frames=pictures(9, seed=i), sound=tone(0.9, 200 + 90 * i))
    library, model = folder.parent / f"{folder.name}-L", make_model()
    ingest(folder, library, FEATURES, workers=1)
    embed_library(Library(library), model)
    return folder, library, model


def test_recall_falls_with_the_cosine_and_copies_of_each_kind_are_counted(videos):
    _, library, model = videos
    told = []
    found = SearchIndex(library, model).thresholds(on_progress=lambda *step: told.append(step))
    assert found.copies == 10, "of the first file none is made: nothing is there yet to be put in its place"
    assert told[-1] == ("making copies", 10, 11)
    assert set(found.kinds) >= {"flipped", "gained", "other_sound", "other_picture"}
    for modality in ("audio", "visual"):
        rows = [row for row in found.rows if row.modality == modality]
        assert [row.cosine for row in rows] == list(COSINES)
        recalls = [row.recall.value for row in rows]
        assert recalls == sorted(recalls, reverse=True)
        assert rows[0].recall.of == 9, "one kind does not keep it"
        assert all(row.recall.low <= row.recall.value + 1e-9 <= row.recall.high + 2e-9 for row in rows)
        assert all(row.recall.high - row.recall.low > 0.1 for row in rows), "also of all copies or none"
        chosen = getattr(found, modality)
        enough = [row.cosine for row in rows if row.recall.value >= RECALL]
        assert chosen == max(enough, default=COSINES[0])
    assert found == SearchIndex(library, model).thresholds()


def test_precision_is_the_share_of_originals_among_what_is_found(videos):
    _, library, model = videos
    for row in SearchIndex(library, model).thresholds().rows:
        hits = round(row.recall.value * row.recall.of)
        if row.precision.of:
            assert row.precision.value == pytest.approx(hits / row.precision.of)


def test_nothing_is_added_to_the_library_and_no_copy_is_left(videos, tmp_path, monkeypatch):
    _, library, model = videos
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = Library(library).clip_ids()
    SearchIndex(library, model).thresholds(copies=2)
    assert Library(library).clip_ids() == before
    assert not list(tmp_path.iterdir())


def test_without_files_there_are_no_copies_to_measure(videos, tmp_path):
    _, library, model = videos
    with pytest.raises(ConfigError, match="expected at least 1"):
        SearchIndex(library, model).thresholds(copies=0)
    write_media(tmp_path / "one.mp4", frames=pictures(9), sound=tone(0.9))
    ingest(tmp_path / "one.mp4", tmp_path / "L", FEATURES, workers=1)
    embed_library(Library(tmp_path / "L"), model)
    with pytest.raises(LibraryError, match="two files or more with sound and picture"):
        SearchIndex(tmp_path / "L", model).thresholds()


def test_the_verb_prints_the_curve_and_what_it_recommends(videos, tmp_path, equiav):
    _, library, model = videos
    model.save_pretrained(tmp_path / "run" / "model")
    asked = ["duplicates", "-L", library, "-R", tmp_path / "run", "--thresholds"]
    code, out, _ = equiav(*asked)
    assert code == 0
    assert "Recommended: --audio" in out
    assert "other_picture" in out
    code, out, _ = equiav(*asked, "--json")
    assert (code, len(json.loads(out)["rows"])) == (0, 2 * len(COSINES))
