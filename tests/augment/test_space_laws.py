"""Laws of every augmentation space: identity, replay, coding, subsets, randomness from the generator alone."""

from __future__ import annotations

import pytest
import torch

from equiav.augment import audio, visual
from equiav.augment.audio import audio_space
from equiav.augment.room import RoomOptions, RoomSpace
from equiav.augment.space import AugmentationSpace
from equiav.augment.visual import visual_space
from equiav.config import Augment
from equiav.errors import ConfigError

T, M, S = 48, 16, 32
SPACES: dict[str, AugmentationSpace] = {
    "audio": audio_space(Augment(), T, M),
    "visual": visual_space(Augment(), S),
    "audio, all": audio_space(Augment(audio={name: {} for name in audio.KNOWN}), T, M),
    "visual, all": visual_space(Augment(visual={name: {} for name in visual.KNOWN}), S),
    "visual, bicubic": visual_space(Augment(visual={"crop": {"interpolation": "bicubic"}, "flip": {}}), S),
    "audio, released": audio_space(Augment(variant="released"), T, M),
    "visual, released": visual_space(Augment(variant="released"), S),
    "room": RoomSpace(RoomOptions()),
}
every_space = pytest.mark.parametrize("name", list(SPACES))
unit_space = pytest.mark.parametrize("name", [name for name in SPACES if "released" not in name])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example(space: AugmentationSpace, n: int) -> torch.Tensor:
    if space.modality == "visual":
        return torch.rand(n, 3, S, S, generator=seeded(1))
    if space is SPACES["room"]:
        return torch.randn(n, 800, generator=seeded(1))
    return torch.randn(n, T, M, generator=seeded(1))


@every_space
def test_identity_is_exact(name):
    space = SPACES[name]
    x = example(space, 5)
    assert torch.equal(space.apply(x, space.identity(5)), x)


@unit_space
def test_identity_is_coded_as_zeros(name):
    space = SPACES[name]
    assert torch.equal(space.encode(space.identity(3)), torch.zeros(3, space.size))


@every_space
def test_replay_is_exact_and_leaves_the_input(name):
    space = SPACES[name]
    x = example(space, 16)
    before = x.clone()
    params = space.sample(16, seeded())
    assert torch.equal(space.apply(x, params), space.apply(x, params))
    assert torch.equal(x, before)


@every_space
def test_a_view_does_not_depend_on_its_batch(name):
    space = SPACES[name]
    x = example(space, 12)
    params = space.sample(12, seeded())
    together = space.apply(x, params)
    alone = torch.cat([space.apply(x[i : i + 1], params[i : i + 1]) for i in range(12)])
    assert (together - alone).abs().max() < 1e-5


@every_space
def test_coding_and_decoding_return_the_parameters(name):
    space = SPACES[name]
    params = space.sample(500, seeded())
    vectors = space.encode(params)
    assert vectors.shape == (500, space.size)
    again = space.decode(vectors)
    assert (again.values - params.values).abs().max() < 2e-5
    assert (space.encode(again) - vectors).abs().max() < 1e-5


@unit_space
def test_every_code_is_within_one_and_uses_its_range(name):
    space = SPACES[name]
    codes = space.encode(space.sample(4000, seeded()))
    assert codes.min() >= -1
    assert codes.max() <= 1
    assert ((codes.amax(0) - codes.amin(0)) > 0.1).all(), "a slot hardly moves"


@every_space
def test_samples_lie_in_the_declared_ranges(name):
    space = SPACES[name]
    params = space.sample(4000, seeded())
    for slot in space.slots:
        values = params.column(slot.name)
        low, high = min(slot.low, slot.neutral), max(slot.high, slot.neutral)
        assert values.min() >= low - 1e-5, slot
        assert values.max() <= high + 1e-5, slot


@unit_space
def test_any_vector_decodes_to_a_valid_set(name):
    space = SPACES[name]
    vectors = torch.randn(64, space.size, generator=seeded()) * 3
    params = space.decode(vectors)
    assert (space.decode(space.encode(params)).values - params.values).abs().max() < 2e-5
    assert space.apply(example(space, 64), params).isfinite().all()


# Slots that rightly do nothing: a map without colour has no saturation, no hue, and unclipped scaling and
# widening can be swapped.
SILENT = {
    "audio, released": {
        *(f"jitter.{slot}" for slot in ("first", "second", "third", "fourth", "saturation", "hue")),
        "mask.shift_on",
    }
}


@every_space
def test_every_slot_acts(name):
    space = SPACES[name]
    x = example(space, 6)
    for slot in space.slots:
        transform, _, field = slot.name.partition(".")
        drawn = space.only(transform).sample(256, seeded(5))
        base = drawn[drawn.column(f"{transform}.on") > 0.5][:6]
        # the same sets, but this one slot from the neighbour
        changed = space.identity(6) if field == "on" else base.replace(slot.name, base.column(slot.name).roll(1))
        changed = space.decode(space.encode(changed))
        acts = (space.apply(x, changed) - space.apply(x, base)).abs().max() > 1e-4
        assert bool(acts) != (slot.name in SILENT.get(name, set())), slot.name


@every_space
def test_only_the_generator_decides(name):
    space = SPACES[name]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = space.sample(32, seeded(7))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(space.sample(32, seeded(7)).values, first.values)
    assert not torch.equal(space.sample(32, seeded(8)).values, first.values)


@every_space
def test_only_keeps_the_slots_and_leaves_the_rest_neutral(name):
    space = SPACES[name]
    chosen = space.transforms[-1].name
    part = space.only(chosen)
    assert part.size == space.size
    assert part.names == space.names
    whole, alone = space.sample(64, seeded()), part.sample(64, seeded())
    neutral = space.identity(64)
    for slot in space.names:
        expected = whole if slot.startswith(f"{chosen}.") else neutral
        assert torch.equal(alone.column(slot), expected.column(slot)), slot


@every_space
@pytest.mark.parametrize("method", ["iid", "antithetic", "sobol"])
def test_flags_are_on_as_often_as_the_recipe_says(name, method):
    space = SPACES[name]
    params = space.sample(4096, seeded(), method, group=16)
    for transform in space.transforms:
        share = params.column(f"{transform.name}.on").mean().item()
        assert share == pytest.approx(transform.options.p, abs=0.04)


@every_space
def test_nothing_is_read_back_from_the_device(name):
    # meta tensors have no values: whatever waited for one, sample by sample or once, would raise
    space = SPACES[name]
    x = example(space, 8).to("meta")
    params = space.sample(8, seeded())
    assert space.apply(x, params).shape == x.shape
    assert space.encode(params.to("meta")).shape == (8, space.size)


def test_order_of_the_recipe_is_the_order_of_application():
    options = {"p": 1.0}
    forward = audio_space(Augment(audio={"shift": options, "time_mask": options}), T, M)
    backward = audio_space(Augment(audio={"time_mask": options, "shift": options}), T, M)
    x = torch.randn(1, T, M, generator=seeded())
    shift, mask = torch.tensor([[1.0, 0.25]]), torch.tensor([[1.0, 0.0, 0.5]])
    first = forward.apply(x, type(forward.identity(1))(torch.cat([shift, mask], 1), forward.names))
    second = backward.apply(x, type(forward.identity(1))(torch.cat([mask, shift], 1), backward.names))
    assert first[0, :24].abs().max() == 0
    assert second[0, 12:36].abs().max() == 0
    assert not torch.equal(first, second)
    assert forward.names == ("shift.on", "shift.amount", "time_mask.on", "time_mask.start", "time_mask.end")


def test_sizes_of_the_papers_lists():
    assert (SPACES["audio"].size, SPACES["visual"].size) == (20, 18)
    assert (SPACES["audio, released"].size, SPACES["visual, released"].size) == (24, 18)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"audio": {"time_msk": {}}}, "did you mean time_mask"),
        ({"audio": {"shift": {"larges": 0.1}}}, "did you mean largest"),
        ({"audio": {"shift": {"largest": 0.7}}}, "0.5"),
        ({"audio": {"crop": {"scale": [0.9, 0.1]}}}, "low, high"),
        ({"audio": {"gain": {"p": 1.5}}}, "less than or equal to 1"),
        ({"visual": {"flp": {}}}, "did you mean flip"),
        ({"visual": {"jitter": {"hue": 0.7}}}, "0.5"),
        ({"visual": {"flip": {}, "crop": {}}}, "comes first"),
        ({"visual": {"crop": {"interpolation": "nearest"}}}, "bicubic"),
        ({"audio": {"crop": {"scale": [0.9, 1.0], "ratio": [3.0, 4.0]}}}, "no box"),
        ({"variant": "released", "audio": {"shift": {}}}, "fixed list"),
        ({"effects": "released"}, "variant: released only"),
    ],
)
def test_a_wrong_name_or_range_is_an_error(settings, words):
    def both() -> None:
        audio_space(Augment(**settings), T, M).sample(1, seeded())
        visual_space(Augment(**settings), S).sample(1, seeded())

    with pytest.raises(ConfigError, match=words):
        both()


def test_inputs_that_do_not_fit_are_an_error():
    space = SPACES["audio"]
    x = torch.zeros(4, T, M)
    with pytest.raises(ConfigError, match="4 inputs but 3"):
        space.apply(x, space.identity(3))
    with pytest.raises(ConfigError, match=r"\(B, 48, 16\), found \(4, 16, 48\)"):
        space.apply(x.transpose(1, 2), space.identity(4))
    with pytest.raises(ConfigError, match="another space"):
        space.apply(x, SPACES["audio, released"].identity(4))
    with pytest.raises(ConfigError, match=r"\(n, 20\)"):
        space.decode(torch.zeros(4, 19))
    with pytest.raises(ConfigError, match=r"did you mean shift\.amount"):
        space.identity(1).column("shift.amont")
    with pytest.raises(ConfigError, match="did you mean crop"):
        space.only("crp")
    with pytest.raises(ConfigError, match="expected frames"):
        SPACES["visual"].apply(torch.zeros(2, 4, S, S), SPACES["visual"].identity(2))
    with pytest.raises(ConfigError, match="did you mean sobol"):
        space.sample(4, seeded(), "sobl")
    with pytest.raises(ConfigError, match="multiple of 3"):
        space.sample(4, seeded(), group=3)


@every_space
def test_what_is_read_on_the_processor_was_waited_for(name, monkeypatch):
    # a meta tensor stands for one on an accelerator: copies from there may only be left under way to there
    space, copies = SPACES[name], []
    real = torch.Tensor.to

    def to(tensor, device, non_blocking=False):
        if isinstance(device, torch.dtype):
            return real(tensor, device)
        copies.append((tensor.device.type, torch.device(device).type, non_blocking))
        return torch.zeros_like(tensor, device=device) if tensor.is_meta else real(tensor, device)

    params = space.sample(4, seeded())
    params.values.copy_(torch.where(torch.tensor([n.endswith(".on") for n in params.names]), 1.0, params.values))
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", to)
        space.apply(example(space, 4), params.to("meta"))
        part = space.part(params, space.transforms[0])
        part.to(torch.device("meta")).to(torch.device("cpu"))
        space.apply(example(space, 4), params)
    assert {("cpu", "meta", True), ("meta", "cpu", False)} <= set(copies)
    assert [copy for copy in copies if copy[1:] == ("cpu", True)] == []


def test_parameter_sets_are_indexed_and_moved():
    space = SPACES["visual"]
    params = space.sample(6, seeded())
    assert len(params[2:4]) == 2
    assert torch.equal(params[torch.tensor([5, 0])].values, params.values[[5, 0]])
    assert len(params[params.column("flip.on") > 0.5]) == int(params.column("flip.on").sum())
    assert params.to("cpu").names == params.names
    assert space.encode(params).view(2, 3, space.size).shape == (2, 3, 18)
    with pytest.raises(AttributeError):
        params.values = params.values  # type: ignore[misc]
