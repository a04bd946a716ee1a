"""Every kind of broken or odd media ends as its stated status; no made-up row, no crash, no hang."""

from pathlib import Path

import numpy as np
import pytest

from corpus import CORPUS, as_table, found_in, make_corpus
from equiav.library.records import STATUSES
from equiav.media.probe import REASONS


@pytest.fixture(scope="module")
def became(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder)
    return found_in(folder, tmp_path_factory.mktemp("library") / "L")


@pytest.mark.parametrize("name", CORPUS, ids=lambda name: name[:40])
def test_every_kind_of_media_ends_as_stated(became, name):
    assert became[0].get(name) == CORPUS[name][0]


def test_the_table_in_the_docs_is_this_corpus():
    page = (Path(__file__).parents[2] / "docs" / "media.md").read_text(encoding="utf-8")
    assert as_table({name: stated for name, (stated, _) in CORPUS.items()}) in page


def test_nothing_else_is_in_the_library_and_every_status_is_known(became):
    assert set(became[0]) == set(CORPUS)
    clips, _, rejects = zip(*(kind.partition(" + ") for kind, _ in CORPUS.values()), strict=True)
    statuses = {status for kinds in clips for status in kinds.split(" and ")}
    assert {*statuses, *rejects} <= {*STATUSES, *REASONS, ""}


def test_a_row_holds_what_the_clip_has_and_nothing_made_up(became):
    for row in became[1]:
        heard, seen = row["status"] != "no_audio", row["status"] != "no_video"
        assert (row["fbank"] is not None, row["fbank_mean"] is not None, row["fbank_frames"] > 0) == (heard,) * 3
        assert (len(row["frames"]) > 0, len(row["frame_times_s"]) > 0) == (seen,) * 2
        assert not heard or np.isfinite(np.array(row["fbank"], np.float32)).all()
        since_s = 0.0 if "stays" in row["source"] else row["start_s"] - 1
        assert all(since_s <= time_s < row["end_s"] + 1 for time_s in row["frame_times_s"])
