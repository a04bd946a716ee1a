"""Copies of a library are found whatever the order of its rows; what says nothing makes none; nothing is made up."""

import io
import json
import logging

import numpy as np
import pytest
from PIL import Image, ImageFilter

from equiav.errors import ConfigError, LibraryError, MediaError
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.search.embed import embed_library
from equiav.search.index import SearchIndex
from equiav.search.table import EmbeddedClips, EmbeddingsTable
from samples import pictures, tone, write_media
from search.vectors import of_width, unit
from tiny_library import FEATURES, make_clip, make_model

WIDTH = 64
HOP_S = FEATURES.hop_s


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
PICTURE, BLACK = jpeg(NOISE), jpeg(np.zeros((40, 40, 3), np.uint8))
BLURRED = jpeg(np.asarray(Image.fromarray(NOISE).filter(ImageFilter.GaussianBlur(2))))


def window(sound, picture, *, thumbnail=PICTURE, embedded=True, **changes):
    """A window that sounds and looks like those of the same numbers; None where it has none."""
    lacks = {"status": "no_audio"} if sound is None else {"status": "no_video"} if picture is None else {}
    return {"sound": sound, "picture": picture, "thumbnail": thumbnail, "embedded": embedded} | lacks | changes


def film(sounds, pictures_=None, **changes):
    return [window(a, v, **changes) for a, v in zip(sounds, sounds if pictures_ is None else pictures_, strict=True)]


def direction(number, noise, modality):
    """Near the one of this number; those of unlike numbers are nearly orthogonal."""
    rng = np.random.default_rng([number, modality])
    return unit(unit(rng.normal(size=WIDTH)) + 0.15 * unit(np.random.default_rng(noise).normal(size=WIDTH)))


def made(path, files, order=None):
    """An index over a library of these files: name → windows."""
    rows = [(name, i, one) for name, windows in files.items() for i, one in enumerate(windows)]
    rows = [rows[i] for i in order] if order is not None else rows
    library, embedded = Library.create(path, FEATURES), []
    for name, i, one in rows:
        about = {key: value for key, value in one.items() if key not in ("sound", "picture", "thumbnail", "embedded")}
        clip_id = f"{name}-{i}"
        where = {"start_s": i * HOP_S, "end_s": (i + 1) * HOP_S, "source": name, "item": name}
        library.append([make_clip(i, clip_id=clip_id, **(where | about))])
        if one["embedded"]:
            embedded.append((clip_id, one))
    with EmbeddingsTable.for_writing(path, "model-a", WIDTH, FEATURES) as table:
        for number, (clip_id, one) in enumerate(embedded):
            seed = int.from_bytes(clip_id.encode()[:7], "big")
            vectors = [
                None if one[name] is None else direction(one[name], [seed, number], modality)[None]
                for modality, name in enumerate(("sound", "picture"))
            ]
            table.append(EmbeddedClips([clip_id], [one["thumbnail"]], *vectors))
    return SearchIndex(path, of_width(WIDTH))


def found(index, **asked):
    """(a, b) → kind and offset in hops, by the vectors alone: the sounds and pictures of these clips are noise."""
    report = index.duplicates(confirm=False, **asked)
    return {(p.a, p.b): (p.kind, round(p.offset_s / HOP_S, 6)) for p in report.pairs}


FILMS = {
    "a": film([1, 2, 3, 4]),
    "b": film([5, 6, 7]),
    "c copy of a": film([1, 2, 3, 4]),
    "d part of a": film([3, 4]),
    "e other": film([8]),
    "f a with another picture": film([1, 2, 3, 4], [11, 12, 13, 14]),
    "g b with another sound": film([15, 16, 17], [5, 6, 7]),
}
WHOLE = {
    ("a", "c copy of a"): ("same_recording", 0.0),
    ("a", "f a with another picture"): ("same_sound", 0.0),
    ("c copy of a", "f a with another picture"): ("same_sound", 0.0),
    ("b", "g b with another sound"): ("same_picture", 0.0),
}
PARTS = {("a", "d part of a"): ("part_of", 2.0), ("c copy of a", "d part of a"): ("part_of", 2.0)}


def test_each_kind_of_copy_is_named(tmp_path):
    index = made(tmp_path, FILMS)
    assert found(index) == WHOLE
    sounds = {("f a with another picture", "d part of a"): ("same_sound", 2.0)}
    assert found(index, partial=True) == WHOLE | PARTS | sounds
    (pair,) = [
        pair for pair in index.duplicates(partial=True, confirm=False).pairs if (pair.a, pair.b) == ("a", "d part of a")
    ]
    assert (pair.start_s, pair.length_s, pair.windows) == pytest.approx((2 * HOP_S, 2 * HOP_S, 2))
    assert (pair.coverage_a, pair.coverage_b) == (0.5, 1.0)
    assert (pair.clip_a, pair.clip_b) == ("a-3", "d part of a-1")
    assert pair.audio == pytest.approx(0.98, abs=0.02)
    assert "sound 0.9" in pair.why
    assert "8 of them" not in pair.why


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_the_table_changes_nothing(tmp_path, seed):
    order = np.random.default_rng(seed).permutation(sum(map(len, FILMS.values())))
    one, other = made(tmp_path / "one", FILMS), made(tmp_path / "other", FILMS, order)
    assert found(one, partial=True) == found(other, partial=True)
    assert one.duplicates(confirm=False).groups == other.duplicates(confirm=False).groups


def test_files_may_change_their_names_and_so_their_places(tmp_path):
    index = made(tmp_path / "one", FILMS)
    names = {name: f"{'gfedcba'[i]} was {name}" for i, name in enumerate(FILMS)}
    turned = made(tmp_path / "other", {names[name]: windows for name, windows in FILMS.items()})
    as_named = {frozenset(names[n] for n in pair): kind for pair, (kind, _) in found(index, partial=True).items()}
    assert {frozenset(pair): kind for pair, (kind, _) in found(turned, partial=True).items()} == as_named


def test_a_group_has_its_longest_file_as_the_best_and_of_equally_long_ones_the_sharpest(tmp_path):
    blurred, sharp = film([1, 2, 3, 4, 5], frames=[BLURRED] * 3), film([1, 2, 3, 4, 5], frames=[PICTURE] * 3)
    pair = {"a": film([21, 22], frames=[BLURRED] * 3), "b": film([21, 22], frames=[PICTURE] * 3)}
    files = {"x": film([1, 2, 3, 4, 5, 6], frames=[BLURRED] * 3), "y": blurred, "z": sharp} | pair
    groups = made(tmp_path, files).duplicates(confirm=False).groups
    assert [(group.best, group.copies) for group in groups] == [("b", ["a"]), ("x", ["y", "z"])]
    assert made(tmp_path / "more", pair).duplicates(confirm=False).copies == ["a"]
    # what an encoder adds to a picture is no detail: the larger file is the better one
    sharpened = jpeg(np.clip(NOISE * 1.05, 0, 255).astype(np.uint8))
    sizes = {"a": film([1, 2], frames=[PICTURE] * 3, file_size=9), "b": film([1, 2], frames=[sharpened] * 3)}
    assert made(tmp_path / "sizes", sizes).duplicates(confirm=False).copies == ["b"]


@pytest.mark.parametrize(
    "silent",
    [
        {"a": film([1, 1, 1], [2, 3, 4], status="silent"), "b": film([1, 1, 1], [5, 6, 7], status="silent")},
        {"a": film([1], [2], fbank_square=36.01), "b": film([1], [5], fbank_square=36.01)},
        {"a": film([2, 3], [1, 1], thumbnail=BLACK), "b": film([5, 6], [1, 1], thumbnail=BLACK)},
        {"a": film([2, 3], [1, 1], status="still"), "b": film([5, 6], [1, 1], status="still")},
    ],
    ids=["silent", "unvaried", "black", "still"],
)
def test_windows_that_say_nothing_make_no_copies(tmp_path, silent):
    assert found(made(tmp_path, silent), partial=True) == {}


def test_black_pictures_are_not_compared_and_other_still_ones_are(tmp_path):
    black = {"a": film([1, 2], [9, 9], thumbnail=BLACK), "b": film([1, 2], [9, 9], thumbnail=BLACK)}
    (pair,) = made(tmp_path / "black", black).duplicates(confirm=False).pairs
    assert (pair.kind, pair.visual) == ("same_recording", None)
    assert "no picture to compare" in pair.why
    covers = {"a": film([1, 2], [8, 8], status="still"), "b": film([1, 2], [9, 9], status="still")}
    assert found(made(tmp_path / "covers", covers)) == {("a", "b"): ("same_sound", 0.0)}


def test_windows_that_are_everywhere_count_less_and_the_report_says_so(tmp_path):
    files = {f"{i:02}": film([99, 10 * i + 1, 10 * i + 2]) for i in range(6)}
    files["copy"] = files["03"]
    (pair,) = made(tmp_path, files).duplicates(partial=True, confirm=False).pairs
    assert (pair.kind, pair.a, pair.b, pair.common, pair.others) == ("same_recording", "03", "copy", 1, 6)
    assert "1 of them in up to 6 other recordings, which count less" in pair.why


def test_sounds_without_pictures_and_pictures_without_sounds_have_copies_too(tmp_path):
    files = {
        "a.wav": film([1, 2], [None, None]),
        "a.mp4": film([1, 2]),
        "p.jpg": [window(None, 7, start_s=0.0, end_s=0.0)],
    }
    files["q.jpg"] = files["p.jpg"]
    pairs = {("a.mp4", "a.wav"): ("same_recording", 0.0), ("p.jpg", "q.jpg"): ("same_recording", 0.0)}
    assert found(made(tmp_path, files)) == pairs


def test_what_is_not_embedded_is_not_compared_and_is_counted(tmp_path, caplog):
    files = {"a": film([1, 2, 3]), "b": film([1, 2, 3]), "c": film([1, 2, 3], embedded=False)}
    files["b"][1] |= {"embedded": False}
    with caplog.at_level(logging.WARNING):
        report = made(tmp_path, files).duplicates(partial=True, confirm=False)
    assert [(p.a, p.b, p.kind, p.windows) for p in report.pairs] == [("a", "b", "same_recording", 2)]
    assert (report.files, report.windows, report.missing) == (2, 5, 4)
    assert "4 clips are not embedded" in caplog.text


def test_a_copy_without_its_start_is_one_although_its_end_fills_no_window(tmp_path):
    files = {"a": film([1, 2, 3, 4]), "b": film([1, 2, 3], item_tail_s=0.9 * HOP_S)}
    assert found(made(tmp_path / "tail", files)) == {("a", "b"): ("same_recording", 0.0)}
    files["b"] = film([1, 2, 3])
    assert found(made(tmp_path / "none", files), partial=True) == {("a", "b"): ("part_of", 0.0)}


def test_one_file_and_files_that_have_nothing_in_common_have_no_copies(tmp_path):
    assert found(made(tmp_path / "one", {"a": film([1, 1, 1])}), partial=True) == {}
    report = made(tmp_path / "more", {"a": film([1, 2]), "b": film([3, 4])}).duplicates(partial=True, confirm=False)
    assert (report.pairs, report.groups, report.copies) == ([], [], [])


def test_only_what_matches_is_compared(tmp_path):
    index = made(tmp_path, FILMS)
    assert found(index, sources=["a", "c*"]) == {("a", "c copy of a"): ("same_recording", 0.0)}
    assert found(index, labels="class0", partial=True, split="train")
    with pytest.raises(LibraryError, match="none of the clips asked for is embedded"):
        index.duplicates(split="nowhere")


@pytest.mark.parametrize("asked", [{"audio": 0.0}, {"visual": 1.01}, {"audio": float("nan")}, {"like": "a", "k": 0}])
def test_what_cannot_be_asked_is_told(tmp_path, asked):
    with pytest.raises(ConfigError, match="expected"):
        made(tmp_path, {"a": film([1])}).duplicates(**asked)


def test_a_file_of_the_library_is_asked_with_its_windows_and_a_clip_with_itself(tmp_path):
    index = made(tmp_path, FILMS)
    pairs = index.duplicates(like="d part of a", k=3).pairs
    assert [(p.a, p.b, p.kind) for p in pairs[:2]] == [
        ("a", "d part of a", "part_of"),
        ("c copy of a", "d part of a", "part_of"),
    ]
    assert pairs[2].kind == "same_sound"
    assert [p.score for p in pairs] == sorted((p.score for p in pairs), reverse=True)
    (first, second, *others) = index.duplicates(like="a-2").pairs
    shown = {(p.a, p.b, p.kind, p.offset_s) for p in (first, second)}
    assert shown == {("c copy of a", "a", "part_of", 0.0), ("d part of a", "a", "part_of", -0.8)}
    assert len(others) == len(FILMS) - 3
    assert others[-1].kind == "similar"
    with pytest.raises(ConfigError, match="nobody: neither a clip of"):
        index.duplicates(like="nobody")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of a video, one of its content, one cut from it; and a library of it, embedded."""
    folder = tmp_path_factory.mktemp("videos")
    sound = np.concatenate([tone(0.4, hertz, 16_000) for hertz in (300, 900, 1800, 500)])
    write_media(folder / "a.mp4", frames=pictures(16), sound=sound)
    (folder / "same.mp4").write_bytes((folder / "a.mp4").read_bytes())
    write_media(folder / "other.mp4", frames=pictures(16, seed=5), sound=sound[::-1].copy())
    model, library = make_model(), folder.parent / f"{folder.name}-L"
    ingest(folder, library, FEATURES, workers=1)
    embed_library(Library(library), model)
    return folder, library, model


def test_a_file_that_ingest_left_out_is_a_copy_of_the_one_that_has_its_content(videos):
    folder, library, model = videos
    report = SearchIndex(library, model).duplicates(audio=1.0, visual=1.0)
    assert [(p.a, p.b, p.kind) for p in report.pairs] == [
        (str(folder / "a.mp4"), str(folder / "same.mp4"), "same_content")
    ]
    assert report.copies == [str(folder / "same.mp4")]
    ingest(folder, library, FEATURES, workers=1)
    assert SearchIndex(library, model).duplicates(audio=1.0, visual=1.0).copies == report.copies


def test_a_file_that_the_library_does_not_hold_is_embedded_and_leaves_nothing_behind(videos, tmp_path):
    folder, library, model = videos
    (tmp_path / "new.mp4").write_bytes((folder / "a.mp4").read_bytes())
    before = Library(library).clip_ids()
    first, second = SearchIndex(library, model).duplicates(like=tmp_path / "new.mp4").pairs
    assert (first.a, first.b, first.kind) == (str(folder / "a.mp4"), str(tmp_path / "new.mp4"), "same_recording")
    assert first.score == pytest.approx(1)
    assert second.a == str(folder / "other.mp4")
    assert second.score < first.score
    assert Library(library).clip_ids() == before
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError, match="not_media"):
        SearchIndex(library, model).duplicates(like=tmp_path / "text.mp4")


def test_the_verb_prints_pairs_groups_and_copies(videos, tmp_path, equiav):
    folder, library, model = videos
    model.save_pretrained(tmp_path / "run" / "model")
    asked = ["duplicates", "-L", library, "-R", tmp_path / "run", "--audio", 1, "--visual", 1, "--partial"]
    code, out, err = equiav(*asked)
    assert (code, "comparing pictures" in err) == (0, True)
    assert "2 files compared, of 8 clips: 1 pair" in out
    code, out, _ = equiav(*asked, "--json")
    found = json.loads(out)
    assert (code, found["copies"]) == (0, [str(folder / "same.mp4")])
    assert [pair["kind"] for pair in found["pairs"]] == ["same_content"]
    code, out, _ = equiav(*asked, "--copies", "--out", tmp_path / "copies.html")
    assert (code, out.splitlines()) == (0, [str(folder / "same.mp4")])
    page = (tmp_path / "copies.html").read_text()
    assert page.count("<video") == 2
    assert page.count("poster=") == 2
    code, out, _ = equiav(*asked, "--json", "--like", folder / "other.mp4", "-k", 1)
    assert (code, len(json.loads(out)["pairs"])) == (0, 1)
    for two in (["--like", folder / "other.mp4", "--copies"], ["--thresholds", "--out", tmp_path / "copies.html"]):
        code, _, err = equiav(*asked, *two)
        assert (code, "leave" in err) == (1, True), two
    code, _, err = equiav(*asked, "--like", "nobody")
    assert (code, "neither a clip" in err) == (1, True)
