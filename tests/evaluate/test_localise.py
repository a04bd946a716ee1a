"""Maps of where the sound is, asked of a model made by hand whose answer is known."""

import csv
import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import auc

from equiav.config import Architecture, Features, ModelConfig
from equiav.errors import ConfigError, LibraryError
from equiav.evaluate.boxes import Boxes, mask
from equiav.evaluate.localise import localise, on_frame, scores
from equiav.evaluate.results import Result
from equiav.library.records import Clip
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.pages.localisation import localise_page
from train.small_library import written_backwards

FEATURES = Features(mel_bins=16, time_frames=32, clip_s=0.35, frame_side=64, frames_per_clip=1)
SIZES = Architecture(
    width=24, depth=1, heads=3, image_side=64, visual_patch=8, head_hidden=16, embedding=64, centroid_samples=2
)
GRID = 8
CELLS = 4  # rows and columns of a box, in patches


def make_library(path, clips, height=64, width=64):
    """Clips whose pictures say nothing, and a CSV of one box each, aligned to the patches of the centre square."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, GRID - CELLS + 1, (clips, 2))
    side = min(height, width)
    rows = []
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(buffer, "PNG")
    made = []
    for i, (top, left) in enumerate(corners):
        y = [((height - side) / 2 + side * edge / GRID) / height for edge in (top, top + CELLS)]
        x = [((width - side) / 2 + side * edge / GRID) / width for edge in (left, left + CELLS)]
        rows.append([f"{i}.mp4", 0.1, x[0], y[0], x[1], y[1]])
        fbank = rng.normal(-4, 4, (32, 16)).astype(np.float16)
        clip = {"clip_id": f"clip{i:03d}", "item": f"item{i}", "source": str(path / f"{i}.mp4"), "labels": ["x"]}
        clip |= {"start_s": 0.0, "end_s": 0.35, "split": "test", "status": "ok", "fbank": fbank}
        clip |= {"fbank_frames": 32, "fbank_mean": -4.0, "fbank_square": 32.0, "frames": [buffer.getvalue()]}
        made.append(Clip(**clip, frame_times_s=[0.1], file_size=1, file_mtime_ns=1))
    library = Library.create(path / "library", FEATURES)
    library.append(made)
    write_boxes(path / "boxes.csv", rows)
    return library, Boxes(path / "boxes.csv"), corners


def write_boxes(path, rows, header=("path", "time_s", "x0", "y0", "x1", "y1")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def hand_made(corners, noise):
    """Tokens in the box are the clip's own sound, with noise as strong as `noise`; the others are random."""
    model = EquiAV(ModelConfig(architecture=SIZES, features=FEATURES), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    sounds, asked = [], []

    def unit(*shape):
        return F.normalize(torch.randn(*shape, SIZES.embedding, generator=generator), dim=-1)

    def embed_audio(audio):
        sounds.extend(unit(len(audio)))
        return torch.stack(sounds[-len(audio) :])

    def embed_tokens(pictures):
        tokens = unit(len(pictures), GRID, GRID)
        for picture in tokens:
            top, left = corners[len(asked)]
            inside = picture[top : top + CELLS, left : left + CELLS]
            if not noise:
                picture[:] = -sounds[len(asked)]
            inside[:] = F.normalize(sounds[len(asked)] + noise * unit(CELLS, CELLS), dim=-1)
            asked.append(1)
        return tokens.flatten(1, 2)

    model.embed_audio, model.visual_tower.embed_tokens = embed_audio, embed_tokens
    return model


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (96, 64)])
def test_where_tokens_in_the_box_equal_the_sound_pointing_and_ciou_are_one_in_frames_of_any_aspect(
    tmp_path, height, width
):
    library, boxes, corners = make_library(tmp_path, 20, height, width)
    figures = localise(library, hand_made(corners, noise=0), boxes).figures()
    assert figures["own_sound.pointing"].value == 1
    assert figures["own_sound.ciou"].value == 1
    assert figures["own_sound.auc"].value > 0.9  # the corners of a bilinear map are round
    assert figures["random_point.pointing"].value == pytest.approx((CELLS / GRID) ** 2 * 64 * 64 / (height * width))


def test_another_clips_sound_is_at_chance_and_the_difference_is_the_own_sounds(tmp_path):
    library, boxes, corners = make_library(tmp_path, 200)
    figures = localise(library, hand_made(corners, noise=3), boxes).figures()
    assert figures["own_sound.pointing"].value > 0.9
    assert figures["other_sound.pointing"].value == pytest.approx(figures["random_point.pointing"].value, abs=0.08)
    gap = figures["own_minus_other.pointing"]
    assert gap.value == pytest.approx(figures["own_sound.pointing"].value - figures["other_sound.pointing"].value)
    assert gap.low > 0


def test_the_order_in_which_clips_were_written_changes_nothing(tmp_path):
    library, boxes, _ = make_library(tmp_path, 12)
    model = EquiAV(ModelConfig(architecture=SIZES, features=FEATURES), seed=0).eval()
    first, second = (localise(one, model, boxes) for one in (library, written_backwards(library, tmp_path / "other")))
    assert (first.ids, first.sources, first.scores) == (second.ids, second.sources, second.scores)
    assert first.figures() == second.figures()
    assert [clip.source for clip in first.shown] == [clip.source for clip in second.shown]


def test_a_map_lies_where_the_centre_crop_put_its_square(tmp_path):
    corner = np.zeros((4, 4))
    corner[0, 3] = 1.0
    wide, tall = on_frame(corner, 32, 48), on_frame(corner, 48, 32)
    assert np.isnan(wide[:, :8]).all()
    assert np.isnan(wide[:, 40:]).all()
    assert np.argwhere(wide == np.nanmax(wide))[:, 1].min() >= 8 + 24
    assert np.isnan(tall[:8]).all()
    assert np.argwhere(tall == np.nanmax(tall))[:, 0].max() < 8 + 8


def test_what_lies_outside_the_square_counts_and_cannot_be_found():
    inside = mask([(0.0, 0.0, 1 / 6, 1.0)], 32, 48)
    found = scores(on_frame(np.eye(4), 32, 48), inside)
    assert found == {"pointing": 0.0, "ciou": 0.0, "auc": pytest.approx(0.025)}


def test_the_auc_is_that_of_the_curve_over_all_clips():
    rng = np.random.default_rng(0)
    inside = mask([(0.2, 0.2, 0.7, 0.8)], 40, 40)
    maps = [on_frame(rng.random((4, 4)), 40, 40) for _ in range(50)]
    ious = []
    for values in maps:
        scaled = (values - values.min()) / (values.max() - values.min())
        ious.append(((scaled >= 0.5) & inside).sum() / ((scaled >= 0.5) | inside).sum())
    curve = [np.mean(np.array(ious) >= 0.05 * i - 1e-12) for i in range(21)]
    found = [scores(values, inside) for values in maps]
    assert np.mean([one["auc"] for one in found]) == pytest.approx(auc([0.05 * i for i in range(21)], curve))
    assert np.mean([one["ciou"] for one in found]) == np.mean(np.array(ious) >= 0.5)


@pytest.mark.parametrize("step", range(21))
def test_an_iou_that_equals_a_threshold_reaches_it(step):
    values = np.ones((1, 20), dtype=np.float32)  # a flat map predicts all of it
    found = scores(values, (np.arange(20) < step)[None])
    assert found["auc"] == pytest.approx(min(step + 0.5, 20) / 20)


def test_a_flat_map_points_everywhere_at_once():
    inside = mask([(0.0, 0.0, 0.5, 0.5)], 40, 40)
    assert scores(on_frame(np.ones((4, 4)), 40, 40), inside)["pointing"] == 0.25


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (["a.mp4", 0, 0.5, 0.1, 1.2, 0.4], r"line 3: found a box from \(0.5, 0.1\) to \(1.2, 0.4\); expected shares"),
        (["a.mp4", 0, -0.1, 0.1, 0.2, 0.4], "expected shares of the frame"),
        (["a.mp4", 0, 0.5, 0.1, 0.5, 0.4], "left before right"),
        (["a.mp4", 0, 0.1, 0.1, "nan", 0.4], "expected shares"),
        (["a.mp4", 0, 0.1, "up", 0.2, 0.4], "line 3: expected five numbers"),
        (["a.mp4", 0, 0.1], "line 3: expected five numbers"),
        (["", 0, 0.1, 0.1, 0.2, 0.2], "line 3: no path"),
        (["a" * 200_000, 0, 0.1, 0.1, 0.2, 0.2], "cannot be read: field larger than field limit"),
    ],
)
def test_a_box_that_is_none_is_an_error_that_names_its_line(tmp_path, row, says):
    path = write_boxes(tmp_path / "boxes.csv", [["a.mp4", 0, 0.1, 0.1, 0.2, 0.2], row])
    with pytest.raises(ConfigError, match=says):
        Boxes(path)


def test_boxes_that_cannot_be_read_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Boxes(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match=r"lacks columns \['y1'\]"):
        Boxes(write_boxes(tmp_path / "boxes.csv", [], header=("path", "time_s", "x0", "y0", "x1")))


def test_boxes_that_a_spreadsheet_saved_are_read(tmp_path):
    path = write_boxes(tmp_path / "boxes.csv", [["a.mp4", 0, 0.1, 0.1, 0.2, 0.2]])
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert Boxes(path).at(str(tmp_path / "a.mp4"), 0.0) == [(0.1, 0.1, 0.2, 0.2)]


def test_the_boxes_of_a_frame_are_those_of_the_nearest_time_unless_it_is_far(tmp_path):
    rows = [["a.mp4", 1.0, 0, 0, 0.5, 0.5], ["a.mp4", 1.0, 0.5, 0.5, 1, 1], ["a.mp4", 1.4, 0, 0, 1, 1]]
    boxes = Boxes(write_boxes(tmp_path / "boxes.csv", rows))
    source = str(tmp_path / "a.mp4")
    assert boxes.at(source, 1.1) == [(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)]
    assert boxes.at(source, 1.3) == [(0, 0, 1, 1)]
    assert boxes.at(source, 2.0) == []
    assert boxes.at("b.mp4", 1.0) == []


def test_boxes_of_other_clips_and_a_split_of_one_clip_are_errors(tmp_path):
    library, _, corners = make_library(tmp_path, 3)
    strange = Boxes(write_boxes(tmp_path / "strange.csv", [["z.mp4", 0.1, 0, 0, 1, 1]]))
    with pytest.raises(ConfigError, match="boxes of none of the 3 clips of split 'test'"):
        localise(library, hand_made(corners, noise=0), strange)
    (tmp_path / "one").mkdir()
    library, boxes, corners = make_library(tmp_path / "one", 1)
    with pytest.raises(LibraryError, match="has one clip"):
        localise(library, hand_made(corners, noise=0), boxes)


def test_the_verb_writes_a_page_that_fetches_nothing_and_a_result(tmp_path, equiav):
    make_library(tmp_path, 5)
    EquiAV(ModelConfig(architecture=SIZES, features=FEATURES), seed=0).save_pretrained(tmp_path / "run" / "model")
    where = ("--library", tmp_path / "library", "--run", tmp_path / "run")
    code, out, _ = equiav("evaluate", "localise", *where, "--boxes", tmp_path / "boxes.csv", "--json")
    assert code == 0
    page = tmp_path / "run" / "report" / "localise.html"
    text = page.read_text()
    assert "http" not in text
    assert 'src="data:image' in text
    stored = Result.load(page.with_suffix(".json"))
    told = json.loads(out)
    assert told["clips_with_boxes"] == len(stored.items) == 5
    assert told["figures"]["own_sound.auc"]["value"] == stored.figures["own_sound.auc"].value
    code, out, _ = equiav("evaluate", "localise", *where, "--out", tmp_path / "maps.html")
    assert (code, out.strip()) == (0, str(tmp_path / "maps.html"))
    assert not (tmp_path / "maps.json").exists()
    code, _, err = equiav("evaluate", "localise", *where, "--out", tmp_path / "maps.json")
    assert (code, "the result is written beside it" in err) == (1, True)
    assert not (tmp_path / "maps.json").exists(), "a page would stand where the result was"


def test_without_boxes_a_page_has_maps_and_no_figures(tmp_path):
    library, _, corners = make_library(tmp_path, 4)
    found = localise(library, hand_made(corners, noise=0))
    assert found.figures() == {}
    assert localise_page(found).count("<figure>") == 4 * 4
