"""The toy world: deterministic, physical, and not solvable by mean colour and mean spectrum."""

import csv
import shutil
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest

from equiav.errors import ConfigError, MediaError
from equiav.toyworld import KINDS, RATE, Factors, draw_factors, make_world, render_frames, render_sound


def clip(**factors):
    return replace(Factors(index=3, kind="flute", size=0.5, hardness=0.5, count=1, duration_s=2.5), **factors)


def centroid_hz(sound):
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float((np.fft.rfftfreq(len(sound), 1 / RATE) * power).sum() / power.sum())


def peak_hz(sound):
    return float(np.fft.rfftfreq(len(sound), 1 / RATE)[np.abs(np.fft.rfft(sound)).argmax()])


def strikes(sound):
    """Onsets: times where the loudness of 5 ms jumps well above what came before."""
    loud = np.abs(sound[: len(sound) // 120 * 120]).reshape(-1, 120).max(1)
    return int(((loud[2:] > 0.25 * loud.max()) & (loud[2:] > 2.5 * loud[:-2])).sum())


def test_the_same_seed_gives_the_same_clip_and_another_seed_another():
    one, two = draw_factors(0, 5), draw_factors(0, 5)
    assert one == two
    assert np.array_equal(render_sound(one, 0), render_sound(two, 0))
    assert np.array_equal(render_frames(one, 0)[0], render_frames(two, 0)[0])
    assert draw_factors(1, 5) != one
    assert not np.array_equal(render_sound(one, 0), render_sound(one, 1))


def test_classes_are_spread_evenly():
    drawn = [draw_factors(0, i).kind for i in range(240)]
    assert {drawn.count(kind) for kind in KINDS} == {20}


def test_a_larger_thing_sounds_lower_and_covers_more_of_the_picture():
    small, large = clip(size=0.0), clip(size=1.0)
    assert peak_hz(render_sound(large, 0)) < 0.6 * peak_hz(render_sound(small, 0))
    area = {c.size: np.ptp(render_frames(c, 0)[1][0, 0, [0, 2]]) for c in (small, large)}
    assert area[1.0] > 1.5 * area[0.0]


@pytest.mark.parametrize("kind", ["siren", "flute", "engine", "string", "drum", "wind"])
def test_a_harder_thing_sounds_brighter(kind):
    soft, hard = (
        np.mean([centroid_hz(render_sound(clip(kind=kind, hardness=h), s)) for s in range(4)]) for h in (0, 1)
    )
    assert hard > 1.15 * soft


def test_more_things_strike_more_often():
    one, four = (np.mean([strikes(render_sound(clip(kind="drum", count=c), s)) for s in range(6)]) for c in (1, 4))
    assert four > 2 * one


def test_as_many_things_are_shown_as_counted():
    for count in (1, 2, 3, 4):
        frames, boxes = render_frames(clip(count=count), 0)
        assert boxes.shape == (len(frames), count, 4)
        assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_a_thing_is_inside_its_box_at_each_time_and_touches_all_its_sides():
    """Two worlds that differ in the thing's colour alone differ where the box is, and nowhere else."""
    soft, boxes = render_frames(clip(kind="ball", hardness=0.0), 0)
    hard, _ = render_frames(clip(kind="ball", hardness=1.0), 0)
    for one, other, (box,) in zip(soft, hard, boxes, strict=True):
        rows, columns = np.nonzero(np.abs(one.astype(int) - other).max(-1) > 25)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(found) - box).max() <= 2


def test_every_class_looks_and_sounds_unlike_every_other():
    pictures = {kind: render_frames(clip(kind=kind), 0)[0][0].astype(float) for kind in KINDS}
    sounds = {kind: np.abs(np.fft.rfft(render_sound(clip(kind=kind), 0))) for kind in KINDS}
    for a in KINDS:
        for b in KINDS:
            if a < b:
                assert np.abs(pictures[a] - pictures[b]).max() > 50, (a, b)
                assert np.corrcoef(sounds[a], sounds[b])[0, 1] < 0.9, (a, b)


def test_mean_colour_and_mean_spectrum_do_not_match_pictures_to_sounds():
    """The linear shortcut: canonical correlation of mean colour with the mean spectrum, on held-out clips."""
    from sklearn.cross_decomposition import CCA

    def colour(c):
        mean = render_frames(replace(c, duration_s=0.25), 0)[0][0].mean((0, 1)) / 255
        return np.concatenate([mean, mean**2])

    def spectrum(c):
        power = np.abs(np.fft.rfft(render_sound(c, 0)))[: RATE // 2]
        return np.log(np.array([band.mean() for band in np.array_split(power, 24)]) + 1e-6)

    clips = [draw_factors(0, i) for i in range(300)]
    colours, spectra = np.array([colour(c) for c in clips]), np.array([spectrum(c) for c in clips])
    model = CCA(3).fit(spectra[:200], colours[:200])
    a, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in model.transform(spectra[200:], colours[200:]))
    similarity = a @ v.T
    recall_at_10 = ((similarity > np.diag(similarity)[:, None]).sum(1) < 10).mean()
    assert recall_at_10 < 0.25  # chance is 0.1; a trained model is asked for far more


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    make_world(out, 6, 0, test=2, workers=1)
    return out


def test_a_world_is_ordinary_videos_with_a_table(world):
    rows = list(csv.DictReader((world / "labels.csv").read_text().splitlines()))
    assert [row["split"] for row in rows] == ["train"] * 4 + ["test"] * 2
    with av.open(str(world / rows[0]["path"])) as media:
        assert media.streams.video[0].codec_context.name == "h264"
        assert media.streams.audio[0].codec_context.name == "aac"
        assert 2.0 <= media.duration / av.time_base <= 4.0
    truth = list(csv.DictReader((world / "factors.csv").read_text().splitlines()))
    assert [row["kind"] for row in truth] == [row["label"] for row in rows]
    boxes = list(csv.DictReader((world / "boxes.csv").read_text().splitlines()))
    assert {row["path"] for row in boxes} == {row["path"] for row in rows}
    assert all(0 <= float(row["x0"]) < float(row["x1"]) <= 1 for row in boxes)
    assert max(float(row["time_s"]) for row in boxes) < 4


def test_a_lost_clip_is_rendered_again_byte_for_byte(world):
    victim = next((world / "train").glob("*.mp4"))
    before = victim.read_bytes()
    victim.unlink()
    make_world(world, 6, 0, test=2, workers=1)
    assert victim.read_bytes() == before


def test_a_script_without_a_main_guard_makes_a_world_and_runs_once(world, tmp_path):
    script = 'from pathlib import Path\nfrom equiav.toyworld import make_world\nPath("ran").touch(exist_ok=False)\n'
    (tmp_path / "script.py").write_text(script + 'make_world(Path("world"), 6, 0, test=2, workers=2)\n')
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = {path.relative_to(world): path.read_bytes() for path in world.rglob("*.*")}
    made = tmp_path / "world"
    assert {path.relative_to(made): path.read_bytes() for path in made.rglob("*.*")} == files


def test_a_clip_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    with pytest.raises(MediaError, match=r"test/\w+-000005.mp4 cannot be written: No such file or directory"):
        make_world(tmp_path, 6, 0, test=1, workers=1, on_clip=lambda: shutil.rmtree(tmp_path / "test", True))


def test_two_worlds_do_not_mix_in_one_folder(world):
    with pytest.raises(ConfigError, match="another world"):
        make_world(world, 6, 1, test=2, workers=1)


def test_a_world_needs_both_splits(tmp_path):
    with pytest.raises(ConfigError, match="at least one training and one test clip"):
        make_world(tmp_path, 4, 0, test=4)
