"""The whole way with media, library and embeddings in a bucket; only the run is a folder."""

import json

import pytest

from cli.small_settings import SMALL, TINY
from equiav.library.places import BucketPath
from samples import pictures, tone, write_media


@pytest.fixture
def videos(bucket, tmp_path):
    for i in range(5):
        path = write_media(tmp_path / f"{i}.mp4", frames=pictures(7, seed=i), sound=tone(0.7, 200 + 150 * i))
        (BucketPath(bucket) / "videos" / path.name).write(path.read_bytes())
    return f"{bucket}/videos"


def test_the_whole_way_in_a_bucket(equiav, videos, bucket, tmp_path):
    library, run = f"{bucket}/L", tmp_path / "R"
    code, out, err = equiav("ingest", videos, "--library", library, "--json", *TINY)
    assert (code, json.loads(out)["clips_added"]) == (0, 5), err
    code, out, err = equiav("stats", "--library", library, "--json")
    assert (code, json.loads(out)["path"]) == (0, library), err
    code, out, err = equiav("pretrain", "toy", "--library", library, "--run", run, *SMALL)
    assert code == 0, err
    assert f"next: equiav embed --library {library}" in out
    assert json.loads((run / "trained_on.json").read_text())["library"] == library
    assert equiav("pretrain", "toy", "--library", library, "--run", run, *SMALL)[0] == 0
    code, out, err = equiav("embed", "--library", library, "--run", run, "--json")
    assert (code, json.loads(out)["clips"]) == (0, 5), err
    assert json.loads(out)["path"].startswith(f"{library}/embeddings/")
    code, out, err = equiav("search", "-L", library, "-R", run, "--audio", tmp_path / "3.mp4", "-k", "4", "--json")
    hits = json.loads(out)["hits"]
    assert (code, len(hits)) == (0, 4), err
    assert all(hit["source"].startswith(f"{videos}/") for hit in hits)
    code, out, err = equiav("evaluate", "retrieval", "-L", library, "-R", run, "--split", "train", "--json")
    assert (code, json.loads(out)["clips"]) == (0, 5), err


def test_a_place_that_cannot_be_used_is_one_line(equiav, tmp_path):
    for verb in (("ingest", "http://host/videos", "-L", tmp_path), ("stats", "-L", "memory://L")):
        code, _, err = equiav(*verb)
        assert code == 1
        assert "expected a folder, or s3://, gs:// or az://" in err
    assert "Traceback" not in err


def test_a_run_in_a_bucket_is_refused(equiav, tmp_path):
    for verb in (("pretrain", "toy"), ("finetune", "finetune-toy"), ("embed",)):
        code, _, err = equiav(*verb, "-L", tmp_path, "--run", "s3://media/R")
        assert code == 1
        assert "--run s3://media/R: a run is a folder of this machine" in err
