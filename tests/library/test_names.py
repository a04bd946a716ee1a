"""Names that look the same, composed or decomposed: a list finds its file in either form, or says why it cannot."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from test_shards import pack
from test_sources import jpeg, write_wav

from equiav.errors import ConfigError
from equiav.evaluate.gallery import choose, names_of
from equiav.library.ingest import ingest
from equiav.library.manifests import read_source
from equiav.library.table import Library
from samples import TINY, pictures, tone, write_media

NAME = "Café Größe ế.mp4"
FORMS = ("NFC", "NFD")


def form(kind, text=NAME):
    return unicodedata.normalize(kind, text)


def other(kind):
    return "NFD" if kind == "NFC" else "NFC"


@pytest.fixture
def two_names(tmp_path):
    """A place where both forms are names of their own, as they are not on some systems."""
    for kind in FORMS:
        (tmp_path / form(kind, "é")).touch()
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes both forms for one name")
    for path in tmp_path.iterdir():
        path.unlink()
    return tmp_path


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("how", ["csv", "jsonl", "hugging face", "cav video", "cav folder"])
def test_a_list_finds_a_file_whose_name_has_the_other_form(two_names, kind, how):
    folder = two_names / form(other(kind), "Vidéos")
    folder.mkdir()
    (folder / form(other(kind))).touch()
    said = f"{form(kind, 'Vidéos')}/{form(kind)}"
    entry = {"video_id": said[:-4].split("/")[1], "labels": "a", "video_path": said.split("/")[0]}
    lists = {
        "csv": ("l.csv", f"path\n{said}\n"),
        "jsonl": ("l.jsonl", json.dumps({"path": said})),
        "hugging face": ("metadata.csv", f"file_name\n{said}\n"),
        "cav video": ("l.json", json.dumps({"data": [entry | {"video_path": said}]})),
        "cav folder": ("l.json", json.dumps({"data": [entry]})),
    }
    name, text = lists[how]
    (two_names / name).write_text(text)
    source = two_names if how == "hugging face" else two_names / name
    (item,) = read_source(source).items
    assert item.path == folder / form(other(kind))
    shutil.rmtree(folder)
    (gone,) = read_source(source).items
    assert gone.key == item.key, "the item is the same, missing or in another form"
    (two_names / said).parent.mkdir()
    (two_names / said).touch()
    (exact,) = read_source(source).items
    assert (exact.path, exact.key) == (two_names / said, item.key)


def test_a_file_of_the_very_name_comes_first_and_several_of_other_forms_are_an_error(two_names):
    halfway = unicodedata.normalize("NFD", "Café Größe ") + "ế.mp4"
    assert len({form("NFC"), form("NFD"), halfway}) == 3
    for name in (form("NFD"), halfway):
        (two_names / name).touch()
    (two_names / "l.csv").write_text(f"path\n{form('NFD')}\n{halfway}\n")
    items = read_source(two_names / "l.csv").items
    assert [item.path.name for item in items] == [form("NFD"), halfway]
    assert len({item.key for item in items}) == 2
    (two_names / "l.csv").write_text(f"path\na.mp4\n{form('NFC')}\n")
    with pytest.raises(
        ConfigError, match=r"line 3: there is no file .*Caf\\xe9.* but 2 whose names look the same.*e\\u0301"
    ):
        read_source(two_names / "l.csv")


def test_lines_that_write_one_file_in_two_forms_are_one_item(two_names):
    (two_names / form("NFD")).touch()
    for first in FORMS:
        (two_names / "l.csv").write_text(f"path,label\n{form(first)},a\n{form(other(first))},b\n")
        (item,) = read_source(two_names / "l.csv").items
        assert (item.path.name, item.labels) == (form("NFD"), ("a", "b"))


def test_a_file_whose_name_changes_its_form_keeps_its_clips(two_names):
    folder, library = two_names / "v", two_names / "L"
    folder.mkdir()
    (two_names / "l.csv").write_text(f"path,label\nv/{form('NFC')},a\n")
    assert [reject.reason for reject in ingest(two_names / "l.csv", library, TINY, workers=1).rejects] == ["missing"]
    write_media(folder / "x.mp4", frames=pictures(7), sound=tone(0.7)).rename(folder / form("NFD"))
    report = ingest(two_names / "l.csv", library, TINY, workers=1)
    assert (report.clips_added, report.rejects, Library(library).rejects()) == (1, [], [])
    (folder / form("NFD")).rename(folder / form("NFC"))
    report = ingest(two_names / "l.csv", library, TINY, workers=1)
    assert (report.clips_added, report.clips_present, report.duplicates) == (0, 1, 0)
    assert Library(library).clips()["source"].to_pylist() == [str(folder / form("NFC"))]


def test_labels_splits_and_ids_that_look_the_same_are_the_same(tmp_path):
    for name in ("a", "b"):
        write_media(tmp_path / f"{name}.mp4", frames=pictures(7, seed=ord(name)), sound=tone(0.7, 300 + ord(name)))
    rows = [
        f"{name}.mp4,{form(kind, 'Bär')},{form(kind, 'prüf')},{form(kind, 'ü')}{name}"
        for name, kind in zip("ab", FORMS, strict=True)
    ]
    (tmp_path / "l.csv").write_text("path,label,split,id\n" + "\n".join(rows))
    before = [item.key for item in read_source(tmp_path / "l.csv").items]
    ingest(tmp_path / "l.csv", tmp_path / "L", TINY, workers=1)
    table = Library(tmp_path / "L").clips("prüf")
    assert table["labels"].to_pylist() == [["Bär"], ["Bär"]]
    (tmp_path / "l.csv").write_text(form("NFD", (tmp_path / "l.csv").read_text()))
    assert [item.key for item in read_source(tmp_path / "l.csv").items] == before


def test_a_list_of_ids_finds_clips_in_either_form(two_names):
    write_media(two_names / "x.mp4", frames=pictures(7), sound=tone(0.7)).rename(two_names / form("NFD"))
    ingest(two_names / form("NFD"), two_names / "L", TINY, workers=1)
    (two_names / "ids.csv").write_text(f"id\n{form('NFC', Path(NAME).stem)}\n")
    assert choose(Library(two_names / "L"), "train", two_names / "ids.csv").found == 1
    assert names_of(f"/{form('NFC')}", 0.0) == names_of(f"/{form('NFD')}", 0.0)


def test_members_of_a_sample_may_be_packed_in_both_forms(tmp_path):
    wav = write_wav(tmp_path / "s.wav", 0.655).read_bytes()
    members = [(f"{form('NFD', 'é')}.wav", wav), (f"{form('NFC', 'é')}.json", b'{"label": "a"}'), ("b.wav", wav)]
    items = read_source(pack(tmp_path / "s.tar", members)).items
    assert [(item.labels, item.fault) for item in items] == [(("a",), None), ((), None)]
    assert items[0].source == f"{tmp_path}/s.tar#{form('NFD', 'é')}"
    twice = [(f"{form(kind, 'é')}.jpg", jpeg(9)) for kind in FORMS]
    items = read_source(pack(tmp_path / "t.tar", twice)).items
    assert [item.fault for item in items] == [None, None], "two samples of the same look stay two"


def test_a_folder_that_is_named_in_the_other_form_is_found(two_names):
    (two_names / form("NFD", "Vidéos")).mkdir()
    (two_names / form("NFD", "Vidéos") / "a.mp4").touch()
    listing = read_source(two_names / form("NFC", "Vidéos"))
    assert listing.source == two_names / form("NFD", "Vidéos")
