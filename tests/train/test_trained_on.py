"""A run knows the clips that it was trained on, of which files, in which role; those of the run before it too."""

import json

import pyarrow.parquet as pq
import pytest

from equiav.errors import TrainingError
from equiav.train.finetune import finetune
from equiav.train.pretrain import pretrain
from equiav.train.trained_on import load_trained_on
from train.labelled_library import tiny_recipe
from train.small_library import make_library, small_recipe


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return make_library(tmp_path_factory.mktemp("trained-on"))


@pytest.fixture(scope="module")
def run(library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    pretrain(small_recipe(), library, folder)
    return folder


def test_a_run_names_every_clip_and_file_that_it_was_trained_on(library, run):
    found = load_trained_on(run)
    rows = library.clips("train", ["clip_id", "source", "file_size"]).to_pylist()
    assert found.clip_ids == {row["clip_id"] for row in rows}
    assert found.sources == {row["source"] for row in rows}
    stored = pq.read_table(run / "trained_on.parquet").to_pylist()
    assert {row["clip_id"]: (row["source"], row["file_size"]) for row in stored} == {
        row["clip_id"]: (row["source"], row["file_size"]) for row in rows
    }
    about = json.loads((run / "trained_on.json").read_text())
    assert about["library"] == str(library.path)
    assert about["library_fingerprint"] == library.fingerprint()
    assert about["splits"] == {"train": "train"}
    assert about["clips"] == {"train": 5}
    assert about["sources"] == 5
    assert about["fingerprint"] == found.fingerprint


def test_the_model_of_a_run_knows_it_too_and_a_model_alone_does_not(run, tmp_path):
    assert load_trained_on(run / "model").fingerprint == load_trained_on(run).fingerprint
    (run / "model").parent.joinpath("report").mkdir(exist_ok=True)
    assert load_trained_on(run / "report") is None, "not any folder of a run is its model"
    assert load_trained_on(tmp_path) is None


def test_a_run_that_starts_from_another_was_trained_on_its_clips_too(run, library_of, tmp_path):
    labelled = library_of()
    recipe = tiny_recipe("data.validation=val", "train.average_last=null", source=run)
    finetune(recipe, labelled, tmp_path / "fine")
    found, before = load_trained_on(tmp_path / "fine"), load_trained_on(run)
    own = {role: set(found.of(role)["clip_id"].to_pylist()) for role in ("train", "validation", "earlier")}
    assert own["train"] == set(labelled.clips("train", ["clip_id"])["clip_id"].to_pylist())
    assert own["validation"] == set(labelled.clips("val", ["clip_id"])["clip_id"].to_pylist())
    assert own["earlier"] == before.clip_ids
    assert before.sources < found.sources
    assert found.clips["labels"].null_count == len(before.clips), "labels count where they are learned"


def test_damaged_notes_of_a_run_are_an_error_that_names_them(run, tmp_path):
    for name in ("trained_on.json", "trained_on.parquet"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    table = pq.read_table(run / "trained_on.parquet")
    pq.write_table(table.slice(1), tmp_path / "trained_on.parquet")
    with pytest.raises(TrainingError, match=r"trained_on\.parquet is not the table .* expected, found"):
        load_trained_on(tmp_path)
    (tmp_path / "trained_on.parquet").write_bytes(b"PAR1")
    with pytest.raises(TrainingError, match=r"cannot be read \(trained_on\.json"):
        load_trained_on(tmp_path)
    (tmp_path / "trained_on.json").write_text('{"schema_version": 99}')
    with pytest.raises(TrainingError, match="has version 99"):
        load_trained_on(tmp_path)
