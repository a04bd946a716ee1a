"""Batches to fine-tune on: powers add, rare classes are drawn as often, and nothing depends on the processes."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from equiav.config import Features
from equiav.media.fbank import log_mel
from equiav.train.mixing import MixingLoader, balanced_weights, mix_sounds
from samples import tone
from train.labelled_library import tiny_recipe


@pytest.fixture(scope="module")
def library(library_of):
    return library_of()


def loader(library, *overrides, shard=(0, 1)):
    return MixingLoader(library, tiny_recipe("train.global_batch=2", *overrides), shard)


def test_mixed_log_mels_are_the_log_of_the_mixed_powers():
    first, second = (4 * torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    shares = torch.tensor([0.3, 0.5, 0.9])
    weight = shares[:, None, None].double()
    powers = weight * first.double().exp() + (1 - weight) * second.double().exp()
    torch.testing.assert_close(mix_sounds(first, second, shares), powers.log().float())


def test_a_mixture_is_the_sound_of_both_waves_at_once():
    features = Features()
    waves, share = [tone(1.0, 300), tone(1.0, 4000)], 0.4
    alone = [torch.from_numpy(log_mel(wave, features))[None] for wave in waves]
    together = log_mel(np.sqrt(share) * waves[0] + np.sqrt(1 - share) * waves[1], features)
    mixed = mix_sounds(alone[0], alone[1], torch.tensor([share]))[0].numpy()
    loud = together > together.max() - 7  # 30 dB: where the tones are, not the floor between them
    assert loud.sum() > 100
    assert np.abs(mixed - together)[loud].max() < 0.1


def test_padding_stays_padding_and_adds_nothing():
    first, second = torch.full((1, 6, 4), -3.0), torch.full((1, 6, 4), -5.0)
    first[:, 4:], second[:, 2:] = 0, 0
    mixed = mix_sounds(first, second, torch.tensor([0.25]))[0]
    torch.testing.assert_close(mixed[:2, 0], torch.tensor([0.25 * np.exp(-3) + 0.75 * np.exp(-5)] * 2).log().float())
    torch.testing.assert_close(mixed[2:4, 0], torch.tensor([-3 + np.log(0.25)] * 2).float())
    assert (mixed[4:] == 0).all()


def test_no_share_makes_a_mixture_that_is_no_number():
    first, second = torch.full((2, 6, 4), -3.0), torch.full((2, 6, 4), -5.0)
    second[:, 2:] = 0
    mixed = mix_sounds(first, second, torch.tensor([0.0, 1e-42]))
    assert mixed.isfinite().all()
    torch.testing.assert_close(mixed[:, :2], second[:, :2])


def test_a_clip_that_is_not_mixed_is_left_as_it_is():
    first, second = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    assert torch.equal(mix_sounds(first, second, torch.ones(2)), first)


def test_balanced_weights_give_every_class_the_same_chance():
    labels = [["common"]] * 7 + [["rare"]] * 2 + [["once"]]
    weights = balanced_weights(labels)
    chance = {name: weights[[name in own for own in labels]].sum() for name in ("common", "rare", "once")}
    assert chance == pytest.approx(dict.fromkeys(chance, 1 / 3))
    both = balanced_weights([["common"], ["common"], ["common", "rare"]])
    assert both == pytest.approx(np.array([1 / 3, 1 / 3, 1 / 3 + 1]) / 2)


def test_a_balanced_loader_draws_rare_classes_as_often(library_of):
    skewed = library_of([["a"]] * 5 + [["b"]] + [["x"]] * 5)
    found = {}
    for balanced in ("true", "false"):
        batches = loader(skewed, f"data.balanced={balanced}", "augment.mix=0")
        drawn = Counter(own[0] for epoch in range(40) for batch in batches.epoch(epoch) for own in batch.clips.labels)
        assert drawn.total() == 240
        found[balanced] = drawn["b"] / 240
    assert found["true"] == pytest.approx(1 / 2, abs=3 * 0.5 / 240**0.5)
    assert found["false"] == 1 / 6


def test_every_clip_is_drawn_once_in_an_epoch_and_each_epoch_has_its_own_order(library):
    orders = [[i for batch in loader(library).epoch(epoch) for i in batch.clip_ids] for epoch in range(3)]
    assert all(sorted(order) == sorted(library.all_ids()[:6]) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    numbers = [number for batch in loader(library).epoch(0) for number in batch.draws.tolist()]
    assert numbers == list(range(6))


def test_about_the_set_share_of_clips_is_mixed_with_others_by_a_beta_share(library):
    batches = loader(library)
    shares = torch.cat([batch.shares for epoch in range(60) for batch in batches.epoch(epoch)])
    mixed = shares[shares < 1]
    assert len(mixed) / len(shares) == pytest.approx(0.5, abs=0.08)
    assert float(mixed.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(mixed.std()) == pytest.approx(1 / 84**0.5, abs=0.02)  # of Beta(10, 10)


def describe(batches):
    """Everything of batches that must not depend on who reads them."""
    found = {}
    for batch in batches:
        columns = (batch.clip_ids, batch.others.clip_ids, batch.shares, batch.clips.frames, batch.others.frames)
        for number, *rest in zip(batch.draws.tolist(), *columns, strict=True):
            found[number] = [x.numpy().tobytes() if torch.is_tensor(x) else x for x in rest]
    return found


@pytest.mark.parametrize("batch", [2, 5])
def test_two_processes_share_the_batches_of_one(library, batch):
    size = f"train.global_batch={batch}"
    parts = [describe(loader(library, size, shard=(number, 2)).epoch(1)) for number in range(2)]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0] | parts[1] == describe(loader(library, size).epoch(1))


def test_an_epoch_can_be_entered_in_the_middle(library):
    whole = describe(loader(library).epoch(2))
    late = describe(loader(library).epoch(2, start_batch=1))
    assert late == {number: whole[number] for number in range(2, 6)}


def test_parts_of_a_batch_are_the_batch(library):
    batch = next(iter(loader(library, "train.global_batch=5").epoch(0)))
    assert [len(part.clip_ids) for part in batch.split(2)] == [2, 2, 1]
    assert describe(itertools.chain(batch.split(2))) == describe([batch])
