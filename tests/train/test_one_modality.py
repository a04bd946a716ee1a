"""A library of sounds alone, or of pictures alone, is enough for whoever looks at that modality."""

import json

import numpy as np
import pytest
from PIL import Image

from equiav.errors import LibraryError
from equiav.evaluate.probe import probe
from equiav.library.ingest import ingest
from equiav.library.loader import ClipLoader
from equiav.library.records import USABLE
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.train.finetune import finetune
from samples import TINY, pictures, tone, write_media
from train.labelled_library import label, save_pretrained, tiny_recipe

N = 11


@pytest.fixture(scope="module")
def source(library_of, tmp_path_factory):
    return save_pretrained(library_of(), tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="module", params=["audio", "visual"])
def modality(request):
    return request.param


@pytest.fixture(scope="module")
def library(modality, tmp_path_factory):
    folder = tmp_path_factory.mktemp(modality)
    for i in range(N):
        if modality == "audio":
            write_media(folder / f"{i:02d}.m4a", sound=tone(0.7, 200 + 50 * i))
        else:
            Image.fromarray(pictures(1, seed=i)[0]).save(folder / f"{i:02d}.png")
    ingest(folder, folder / "L", TINY, workers=1)
    return label(Library(folder / "L"))


def test_whole_clips_are_none_and_usable_ones_are_all(library, modality):
    assert (library.count(), library.count(statuses=USABLE[modality])) == (0, N)
    with pytest.raises(LibraryError, match="0 clips with sound and picture"):
        ClipLoader(library, "train", 2)
    batch = next(ClipLoader(library, "train", 6, modalities=modality).epoch(0))
    assert batch.audio.numel() > 0 if modality == "audio" else batch.frames.numel() > 0
    assert batch.audio.numel() == 0 or batch.frames.numel() == 0, "what a clip lacks is not made up"
    assert sorted(len(part.clip_ids) for part in batch.split(4)) == [2, 4]


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_a_probe_of_that_modality_takes_them(library, modality, source, kind):
    model = EquiAV.from_pretrained(source).eval()
    found = probe(library, model, kind=kind, modalities=modality)
    assert (found.clips, set(found.right)) == (3, set(library.all_ids()[8:]))
    with pytest.raises(LibraryError, match="0 clips with sound and picture"):
        probe(library, model)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_classifier_of_that_modality_learns_from_them_and_is_measured(
    equiav, library, modality, source, tmp_path, pretrained
):
    recipe = tiny_recipe(
        f"task.modalities={modality}",
        "data.validation=val",
        "train.average_last=null",
        source=source if pretrained else None,
    )
    assert finetune(recipe, library, tmp_path / "run").done
    assert json.loads((tmp_path / "run" / "health.jsonl").read_text().splitlines()[-1])["validation_error"] >= 0
    code, out, err = equiav("evaluate", "classify", "--library", library.path, "--run", tmp_path / "run", "--json")
    assert (code, json.loads(out)["clips"]) == (0, 3), err


def test_both_modalities_are_still_needed_where_both_are_used(equiav, library, source, tmp_path):
    code, _, err = equiav("finetune", "finetune-toy", "-L", library.path, "-R", tmp_path / "r", "--from", source)
    assert code == 1
    assert "0 clips with sound and picture" in err


def test_a_reader_of_one_modality_sees_what_a_reader_of_both_sees(library_of):
    whole = next(ClipLoader(library_of(), "train", 6, seed=3).epoch(1))
    heard, seen = (
        next(ClipLoader(library_of(), "train", 6, seed=3, modalities=s).epoch(1)) for s in ("audio", "visual")
    )
    assert whole.clip_ids == heard.clip_ids == seen.clip_ids
    np.testing.assert_array_equal(heard.audio, whole.audio)
    np.testing.assert_array_equal(seen.frames, whole.frames)
    np.testing.assert_array_equal(seen.sizes, whole.sizes)
