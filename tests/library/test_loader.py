"""Batches: every clip once an epoch, in an order that seed and epoch fix, resumable at any batch."""

import numpy as np
import pytest
import torch

from equiav.errors import LibraryError
from equiav.library.ingest import ingest
from equiav.library.loader import ClipLoader
from equiav.library.table import Library
from samples import TINY, pictures, tone, write_media


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    for i in range(7):
        size = (48, 64) if i % 2 else (64, 48)
        write_media(folder / f"{i}.mp4", frames=pictures(7, size, seed=i), sound=tone(0.7, 200 + 60 * i))
    ingest(folder, folder / "L", TINY, workers=1)
    return Library(folder / "L")


def same(a, b):
    return a.clip_ids == b.clip_ids and torch.equal(a.audio, b.audio) and torch.equal(a.frames, b.frames)


def test_an_epoch_holds_every_clip_once_and_drops_the_incomplete_batch(library):
    loader = ClipLoader(library, "train", 3, seed=1)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == 2
    seen = [clip for batch in batches for clip in batch.clip_ids]
    assert len(set(seen)) == 6
    whole = ClipLoader(library, "train", 3, shuffle=False, drop_last=False)
    assert [len(batch.clip_ids) for batch in whole.epoch(0)] == [3, 3, 1]


def test_order_and_frames_depend_on_seed_and_epoch_alone(library):
    def first(seed, epoch):
        return next(iter(ClipLoader(library, "train", 6, seed).epoch(epoch)))

    assert same(first(1, 4), first(1, 4))
    assert first(1, 4).clip_ids != first(1, 5).clip_ids
    assert first(1, 4).clip_ids != first(2, 4).clip_ids


def test_an_epoch_taken_up_in_the_middle_goes_on_as_it_would_have(library):
    loader = ClipLoader(library, "train", 2, seed=3)
    whole = list(loader.epoch(2))
    for start in range(len(loader)):
        assert all(same(a, b) for a, b in zip(loader.epoch(2, start), whole[start:], strict=True))


def test_a_batch_holds_the_rows_it_names(library):
    batch = next(iter(ClipLoader(library, None, 7, frame="middle", shuffle=False).epoch(0)))
    table = library.clips()
    assert batch.clip_ids == table["clip_id"].to_pylist()
    assert np.array_equal(batch.audio.numpy(), library.fbanks(table))
    assert batch.audio.dtype == torch.float32
    assert batch.frames.dtype == torch.uint8
    sizes = {tuple(size) for size in batch.sizes.tolist()}
    assert sizes == {(32, 43), (43, 32)}
    assert tuple(batch.frames.shape) == (7, 3, 43, 43)
    for frame, (height, width) in zip(batch.frames, batch.sizes.tolist(), strict=True):
        assert frame[:, height:].sum() == 0
        assert frame[:, :, width:].sum() == 0
        assert frame[:, :height, :width].float().std() > 1


def test_a_split_without_enough_clips_is_an_error(library):
    with pytest.raises(LibraryError, match="split 'test' has 0 clips"):
        ClipLoader(library, "test", 2)
    with pytest.raises(LibraryError, match=r"has 7 clips .* not enough for a batch of 8"):
        ClipLoader(library, "train", 8)


def test_processes_share_every_batch_in_order(library):
    whole = list(ClipLoader(library, "train", 6, seed=3).epoch(2))
    for sizes in ([2, 2, 2], [2, 2, 1, 1]):
        n = len(sizes)
        shares = [list(ClipLoader(library, "train", 6, seed=3, shard=(number, n)).epoch(2)) for number in range(n)]
        parts = [share[0] for share in shares]
        batch = whole[0]
        assert [len(part.clip_ids) for part in parts] == sizes
        assert [clip for part in parts for clip in part.clip_ids] == batch.clip_ids
        assert torch.equal(torch.cat([part.audio for part in parts]), batch.audio)
    with pytest.raises(LibraryError, match="6 clips is too small for 7 processes"):
        ClipLoader(library, "train", 6, shard=(0, 7))


def test_a_batch_split_and_joined_is_the_batch(library):
    (batch,) = ClipLoader(library, "train", 7).epoch(0)
    parts = batch.split(3)
    assert [len(part.clip_ids) for part in parts] == [3, 3, 1]
    assert [clip for part in parts for clip in part.clip_ids] == batch.clip_ids
    assert torch.equal(torch.cat([part.frames for part in parts]), batch.frames)
