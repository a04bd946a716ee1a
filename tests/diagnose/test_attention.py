"""Where the predictor looks: regions as shares of tokens, a uniform look as the yardstick."""

import pytest
import torch

from equiav.diagnose.attention import attention, chosen_sets, focuses, looks, maps, region
from equiav.diagnose.branch import Branch, ClipTensors, Effort, alone
from model.small_models import small_model


def branch_of(modality, **architecture):
    model = small_model(**architecture).eval()
    generator = torch.Generator().manual_seed(0)
    features = model.config.features
    clips = ClipTensors(
        torch.randn(6, features.time_frames, features.mel_bins, generator=generator),
        torch.randint(0, 256, (6, 3, 40, 40), generator=generator).to(torch.uint8),
        torch.full((6, 2), 40),
        [f"{i:024x}" for i in range(6)],
        [["x"]] * 6,
    )
    return Branch(model, modality, clips)


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_attention_sums_to_1_over_the_grid(modality):
    branch = branch_of(modality)
    params, captions = chosen_sets(branch)
    weights = attention(branch, torch.arange(3), params)
    assert weights.shape[:3] == (3, 2, len(captions))
    assert weights.shape[3:] == branch.tower.encoder.grid
    assert torch.allclose(weights.sum((-1, -2)), torch.ones(3, 2, len(captions)), atol=1e-5)


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_a_region_covers_its_share_of_the_area(modality):
    branch = branch_of(modality)
    params = alone(branch.space, "crop", 40, torch.Generator().manual_seed(1))
    cover = region(branch, "crop", params, (4, 12))
    area = params.column("crop.height") * params.column("crop.width")
    assert torch.allclose(cover.mean((1, 2)), area, atol=1e-5)
    assert cover.min() >= 0
    assert cover.max() <= 1 + 1e-6


def test_regions_lie_where_the_parameters_say():
    audio, visual = branch_of("audio"), branch_of("visual")
    sets, captions = chosen_sets(audio)
    late = region(audio, "crop", sets, (4, 6))[captions.index("crop to the end half")]
    assert late[:, 3:].min() == pytest.approx(1), "the end of time lies to the right"
    assert late[:, :3].max() == 0
    low = region(audio, "crop", sets, (4, 6))[captions.index("crop to the low half")]
    assert low[:2].min() == pytest.approx(1), "low bins come first"
    sets, captions = chosen_sets(visual)
    top = region(visual, "crop", sets, (4, 6))[captions.index("crop to the top half")]
    assert top[:2].min() == pytest.approx(1)
    assert top[2:].max() == 0
    masks = alone(audio.space, "time_mask", 5, torch.Generator().manual_seed(0))
    hidden = region(audio, "time_mask", masks, (4, 6))
    assert torch.allclose(
        hidden.mean((1, 2)), masks.column("time_mask.end") - masks.column("time_mask.start"), atol=1e-5
    )
    assert (hidden == hidden[:, :1]).all(), "all of the mel axis"


def test_a_uniform_look_has_no_margin_and_one_at_the_box_has(monkeypatch):
    branch = branch_of("visual")
    rows, columns = branch.tower.encoder.grid

    def uniform(_branch, clips, params):
        return torch.full((len(clips), 2, len(params), rows, columns), 1 / (rows * columns))

    def looking(branch, clips, params):
        cover = region(branch, "crop", params, (rows, columns))
        share = cover / cover.sum((1, 2), keepdim=True)
        return share[None, None].expand(len(clips), 2, -1, -1, -1)

    monkeypatch.setattr("equiav.diagnose.attention.attention", uniform)
    (focus,) = focuses(branch, Effort(focus_sets=8))
    assert focus.margin.value == pytest.approx(0, abs=1e-6)
    monkeypatch.setattr("equiav.diagnose.attention.attention", looking)
    (focus,) = focuses(branch, Effort(focus_sets=8))
    assert focus.inside.value > focus.uniform
    assert focus.margin.low > 0


def test_only_attention_has_maps():
    assert looks(branch_of("audio"))
    assert not looks(branch_of("audio", predictor="mlp"))
    assert not looks(branch_of("audio", method="invariant"))
    shown = maps(branch_of("visual"), 0)
    assert shown[0].caption == "nothing done"
    assert shown[-1].caption.endswith("head 2")
    assert all(one.weights.sum() == pytest.approx(1, abs=1e-4) for one in shown)
