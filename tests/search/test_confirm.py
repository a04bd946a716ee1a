"""The second look tells copies from others by sound and picture themselves, and agrees with plain loops."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from equiav.config import ModelConfig, load_recipe
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media.alter import KINDS, alter, read_video
from equiav.media.fbank import SHIFT_S
from equiav.model.equiav import EquiAV
from equiav.search.confirm import bands_of, compare_pictures, compare_sounds, looks_of
from equiav.search.embed import embed_library
from equiav.search.index import SearchIndex
from equiav.search.verdicts import ALONE, SAME, TOGETHER, kind_of
from equiav.toyworld import make_world
from tiny_library import SIZES


def naive(a, b, most):
    """Similarity at each lag, by a loop over frames."""
    found = {}
    for lag in range(-most, most + 1):
        pairs = [(a[t + lag], b[t]) for t in range(len(b)) if 0 <= t + lag < len(a)]
        top = sum(float(x @ y) for x, y in pairs)
        found[lag] = top / max(1e-6, (sum(float(x @ x) for x, _ in pairs) * sum(float(y @ y) for _, y in pairs)) ** 0.5)
    return found


@settings(max_examples=40, deadline=None)
@given(first=st.integers(2, 14), second=st.integers(2, 14), seed=st.integers(0, 99))
def test_the_similarity_of_sounds_is_the_highest_of_all_lags(first, second, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(first, 3)).astype(np.float32), rng.normal(size=(second, 3)).astype(np.float32)
    most = min(first, second) // 2
    expected = naive(a, b, most)
    found = compare_sounds(a, b, 1.0)
    assert found.similarity == pytest.approx(max(expected.values()), abs=2e-3)
    assert expected[round(found.lag_s / SHIFT_S)] == pytest.approx(found.similarity, abs=1e-5)


@pytest.mark.parametrize("lag", [-30, 0, 17])
def test_a_sound_that_is_later_louder_and_otherwise_equalised_is_the_same(lag):
    rng = np.random.default_rng(0)
    long = rng.normal(-6, 2, (200, 64)).astype(np.float32)
    one = bands_of(long[40:140], 100)
    changed = long[40 + lag : 140 + lag] + 3 + np.linspace(-2, 2, 64, dtype=np.float32)
    found = compare_sounds(one, bands_of(changed, 100), 0.5)
    assert found.lag_s == pytest.approx(lag * SHIFT_S)
    assert found.similarity > 0.95
    assert compare_sounds(one, bands_of(rng.normal(-6, 2, (100, 64)), 100), 0.5).similarity < 0.3


def test_padding_and_no_sound_at_all_are_not_compared():
    sound = np.random.default_rng(0).normal(-6, 2, (100, 32)).astype(np.float32)
    padded = np.concatenate([sound[:60], np.zeros((40, 32), np.float32)])
    np.testing.assert_array_equal(bands_of(padded, 60), bands_of(sound[:60], 60))
    assert compare_sounds(bands_of(sound, 0), bands_of(sound, 100), 1.0) == (0.0, 0.0)


def picture(seed):
    """Detail of several sizes."""
    rng, size = np.random.default_rng(seed), (160, 120)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(size) for n in (3, 6, 12)]
    return Image.fromarray(np.mean([np.asarray(one, float) for one in layers], axis=0).astype(np.uint8))


def looks(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return looks_of(buffer.getvalue())


CHANGES = {
    "encoded": lambda image: image.resize((64, 48)),
    "cropped": lambda image: image.crop((8, 6, 128, 96)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped and mirrored": lambda image: image.crop((20, 10, 150, 110)).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_the_same_from_either_side_and_another_one_is_not(change):
    changed = looks(CHANGES[change](picture(0)))
    assert compare_pictures(looks(picture(0)), changed) > 0.8
    assert compare_pictures(changed, looks(picture(0))) > 0.8
    assert max(compare_pictures(looks(picture(seed)), changed) for seed in range(1, 20)) < SAME


def test_black_bars_are_cut_off_and_a_black_picture_is_like_no_other():
    bars = Image.new("RGB", (160, 200))
    bars.paste(picture(0), (0, 40))
    assert compare_pictures(looks(bars), looks(picture(0))) > 0.9
    black = looks(Image.new("RGB", (160, 120)))
    assert compare_pictures(black, looks(picture(0))) < 0.1
    assert compare_pictures(black, black) == pytest.approx(0)


@pytest.mark.parametrize(
    ("sound", "picture", "coverage", "kind"),
    [
        (1.0, 1.0, (1, 1), "same_recording"),
        (SAME, 2 * TOGETHER - SAME, (1, 1), "same_recording"),
        (SAME - 0.01, 1.0, (1, 1), "same_picture"),
        (1.0, 0.1, (1, 1), "same_sound"),
        (1.0, None, (1, 1), "same_recording"),
        (None, ALONE, (1, 1), "same_recording"),
        (None, ALONE - 0.01, (1, 1), None),
        (SAME, SAME, (1, 1), None),
        (ALONE - 0.01, SAME - 0.01, (1, 1), None),
        (None, None, (1, 1), None),
        (1.0, 1.0, (0.3, 1), "part_of"),
        (1.0, 1.0, (0.3, 0.5), "shared_part"),
    ],
)
def test_kinds_follow_from_what_is_the_same(sound, picture, coverage, kind):
    assert kind_of(sound, picture, coverage) == kind


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A world of which one clip has a copy of each kind, and an index by a model that has learned nothing."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder / "world", 8, 3, workers=1)
    recipe = load_recipe("toy", ["features.hop_s=0.5"])
    paths = sorted((folder / "world").rglob("*.mp4"), key=lambda path: path.stem[-6:])
    rng, other, begins = np.random.default_rng(0), read_video(paths[7], 96), {}
    for number, kind in enumerate(KINDS):  # of more copies of one the nearest hide the others
        found = alter(kind, read_video(paths[number % 3], 96), other, rng, recipe.features)
        assert found, kind
        begins[kind] = found[1]
        found[0].write(folder / "world" / f"{kind}.mp4")
    ingest(folder / "world", folder / "L", recipe.features, workers=1)
    model = EquiAV(
        ModelConfig(architecture=SIZES, features=recipe.features, audio_mean=-6.0, audio_std=4.0), seed=0
    ).eval()
    embed_library(Library(folder / "L"), model)
    return SearchIndex(folder / "L", model), paths, begins


def test_with_any_model_copies_of_all_kinds_are_told_from_others(copied, monkeypatch):
    # to this model all is alike: of each window those with all files are looked at
    monkeypatch.setattr("equiav.search.duplicates.NEAREST", 99)
    index, paths, begins = copied
    report = index.duplicates(audio=0.01, visual=0.01, partial=True)
    found = {(Path(name).stem, str(path)): pair for pair in report.pairs for name, path in pair_names(pair)}
    originals = {kind: str(paths[number % 3]) for number, kind in enumerate(KINDS)}
    for kind in KINDS:
        pair = found[kind, originals[kind]]
        wanted = {"other_sound": "same_picture", "other_picture": "same_sound", "part": "part_of"}
        assert pair.kind == wanted.get(kind, "same_recording"), kind
        assert abs(pair.offset_s) == pytest.approx(begins[kind], abs=0.05), kind
    copies = {
        str(path) for path in map(Path, index.library.select(["source"])["source"].to_pylist()) if path.stem in KINDS
    }
    assert {path for _, path in found} <= {*copies, *originals.values(), str(paths[7])}
    best = {name: group.best for group in report.groups for name in (group.best, *group.copies)}
    assert best[originals["flipped"]] == best[next(name for name in best if Path(name).stem == "flipped")]


def pair_names(pair):
    return (pair.a, pair.b), (pair.b, pair.a)
