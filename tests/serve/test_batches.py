"""Files embedded together have the vectors that they have alone; what fails, fails for its own file."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from equiav.errors import ModelError
from equiav.serve import batches
from equiav.serve.batches import FILES, Batcher, Embedded, embed
from equiav.serve.decoding import Decoded
from samples import TINY

pytestmark = pytest.mark.xdist_group("serve")


def some(seed, sounds=1, shapes=()):
    """A file of random windows; its pictures have these sizes."""
    rng = np.random.default_rng(seed)
    mels = [rng.normal(-6, 4, (TINY.time_frames, TINY.mel_bins)).astype(np.float32) for _ in range(sounds)]
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    return Decoded("both" if sounds and shapes else "audio" if sounds else "visual", mels, pictures)


def test_a_batch_gives_what_each_file_gives_alone(models):
    files = [
        some(0),
        some(1, sounds=0, shapes=[(32, 50)]),
        some(2, sounds=40),
        some(3, sounds=2, shapes=[(32, 32), (60, 32)]),
        some(4),
    ]
    together = embed(models["first"], files)
    for file, found in zip(files, together, strict=True):
        [alone] = embed(models["first"], [file])
        for modality in ("audio", "visual"):
            one, other = getattr(found, modality), getattr(alone, modality)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, other, atol=1e-5)
    assert [found.audio is None for found in together] == [False, True, False, False, False]
    assert [found.visual is None for found in together] == [True, False, True, False, True]


def test_a_file_without_direction_is_the_only_one_that_fails(models, monkeypatch):
    def opposite(model, mels):
        vectors = np.zeros((len(mels), 12), np.float32)
        vectors[:, 0] = np.sign(mels[:, 0, 0].numpy())
        return vectors

    monkeypatch.setattr(batches, "embed_log_mels", opposite)
    lost = some(0, sounds=2)
    lost.sounds[0][0, 0], lost.sounds[1][0, 0] = 1.0, -1.0
    good, bad, also_good = embed(models["first"], [some(1), lost, some(2)])
    assert isinstance(bad, ModelError)
    assert isinstance(good, Embedded)
    assert isinstance(also_good, Embedded)


@pytest.fixture
def recorded(monkeypatch):
    """Batches as the model gets them; each waits until it is let through."""
    seen, let = [], threading.Semaphore(0)

    def stand_in(model, files):
        assert let.acquire(timeout=20)
        seen.append(files)
        if any(file.kind == "both" for file in files):
            raise ZeroDivisionError
        return [Embedded(file.sounds[0][0], None) for file in files]

    monkeypatch.setattr(batches, "embed", stand_in)
    return seen, let


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def run(scenario):
    sizes = []
    with ThreadPoolExecutor(1) as thread:

        async def main():
            return await asyncio.wait_for(scenario(Batcher(None, thread, sizes.append)), 20)

        return asyncio.run(main()), sizes


def test_what_waits_is_one_batch_and_each_gets_its_own(recorded):
    seen, let = recorded
    files = [some(i) for i in range(FILES + 5)]

    async def scenario(batcher):
        asked = [asyncio.create_task(batcher.embed(files[0]))]
        await until(lambda: batcher._work is not None and not batcher._waiting)
        asked += [asyncio.create_task(batcher.embed(file)) for file in files[1:]]
        await until(lambda: len(batcher._waiting) == len(files) - 1)
        let.release(3)
        return await asyncio.gather(*asked)

    found, sizes = run(scenario)
    assert sizes == [1, FILES, 4]
    assert [len(batch) for batch in seen] == sizes
    for file, embedded in zip(files, found, strict=True):
        np.testing.assert_array_equal(embedded.audio, file.sounds[0][0])


def test_who_left_is_not_embedded_and_an_error_reaches_all_that_wait(recorded):
    seen, let = recorded
    first, left, bad, beside, late = some(0), some(1), some(2, shapes=[(32, 32)]), some(3), some(4)

    async def scenario(batcher):
        asked = [asyncio.create_task(batcher.embed(first))]
        await until(lambda: batcher._work is not None and not batcher._waiting)
        asked += [asyncio.create_task(batcher.embed(file)) for file in (left, bad, beside)]
        await until(lambda: len(batcher._waiting) == 3)
        asked[1].cancel()
        let.release(3)
        found = await asyncio.gather(*asked, return_exceptions=True)
        return [*found, await batcher.embed(late)]

    found, sizes = run(scenario)
    assert sizes == [1, 2, 1]
    assert not any(file is left for batch in seen for file in batch)
    kinds = [Embedded, asyncio.CancelledError, ZeroDivisionError, ZeroDivisionError, Embedded]
    assert [type(one) for one in found] == kinds
