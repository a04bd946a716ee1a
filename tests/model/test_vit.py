"""The encoder against other people's definitions of its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from equiav.config import Architecture
from equiav.errors import ModelError
from equiav.model.initialise import initialise
from equiav.model.vit import Block, Encoder, as_grid, sincos_positions


def encoder(*, stretch=True, **settings):
    architecture = Architecture(**({"width": 16, "depth": 2, "heads": 2} | settings))
    made = Encoder(architecture, channels=3, patch=4, grid=(3, 5), stretch=stretch)
    initialise(made, 0)
    return made.eval()


def test_positions_are_those_of_masked_autoencoders():
    # He et al. 2022, util/pos_embed.py, spelled out: half of the slots for the column, then half for the row
    width, rows, columns = 16, 3, 5
    frequency = 1 / 10_000 ** (np.arange(width // 4) / (width / 4))
    expected = [
        np.concatenate([np.sin(c * frequency), np.cos(c * frequency), np.sin(r * frequency), np.cos(r * frequency)])
        for r in range(rows)
        for c in range(columns)
    ]
    found = sincos_positions(torch.arange(rows), torch.arange(columns), width)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-7)


def test_patches_projected_equal_a_strided_convolution():
    image = torch.randn(2, 3, 12, 20)
    convolution = nn.Conv2d(3, 7, kernel_size=4, stride=4)
    expected = convolution(image).flatten(2).transpose(1, 2)
    patches = as_grid(image, 4).flatten(3).flatten(1, 2)
    torch.testing.assert_close(patches @ convolution.weight.flatten(1).T + convolution.bias, expected)


def test_block_equals_torchs_own_encoder_layer():
    block = Block(16, 2)
    layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0, activation="gelu", batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_weight": "attention.qkv.weight",
        "self_attn.in_proj_bias": "attention.qkv.bias",
        "self_attn.out_proj.weight": "attention.out.weight",
        "self_attn.out_proj.bias": "attention.out.bias",
        "linear1.weight": "mlp.fc1.weight",
        "linear1.bias": "mlp.fc1.bias",
        "linear2.weight": "mlp.fc2.weight",
        "linear2.bias": "mlp.fc2.bias",
        "norm1.weight": "norm1.weight",
        "norm1.bias": "norm1.bias",
        "norm2.weight": "norm2.weight",
        "norm2.bias": "norm2.bias",
    }
    initialise(block, 0)
    state = block.state_dict()
    layer.load_state_dict({theirs: state[ours] for theirs, ours in names.items()})
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(block(x), layer(x))


def test_two_views_in_one_batch_equal_each_view_alone():
    made = encoder()
    base, view = torch.randn(2, 2, 3, 12, 20)
    with torch.no_grad():
        made.view_norm.weight.mul_(2)
        tokens, view_tokens = made(base, view)
        torch.testing.assert_close(tokens, made.norm(made.features(made.embed(base))))
        torch.testing.assert_close(view_tokens, made.view_norm(made.features(made.embed(view))))


def test_each_position_and_the_modality_vector_reach_their_token():
    made = encoder()
    with torch.no_grad():
        made.patch_projection.weight.zero_()
        made.modality.fill_(3.0)
        tokens = made.embed(torch.randn(1, 3, 12, 20))
    torch.testing.assert_close(tokens[0], made.positions(3, 5) + 3.0)


def test_smaller_sounds_take_the_first_positions():
    made = encoder(stretch=False)
    full = made.positions(3, 5).unflatten(0, (3, 5))
    torch.testing.assert_close(made.positions(3, 2).unflatten(0, (3, 2)), full[:, :2])


def test_other_image_sizes_spread_the_positions_over_the_trained_range():
    made = encoder(stretch=True)
    # 6 rows over 3: patch centres at -0.25, 0.25, 0.75 ... of the trained grid
    expected = sincos_positions(torch.arange(6) / 2 - 0.25, torch.arange(5), 16)
    torch.testing.assert_close(made.positions(6, 5), expected)
    assert made(torch.randn(1, 3, 24, 8))[0].shape == (1, 12, 16)


def test_a_last_part_smaller_than_a_patch_is_left_out():
    made = encoder()
    image = torch.randn(1, 3, 15, 22)
    torch.testing.assert_close(made(image)[0], made(image[:, :, :12, :20])[0])


@pytest.mark.parametrize("shape", [(1, 1, 12, 20), (1, 3, 3, 20), (1, 3, 12, 2)])
def test_wrong_channels_and_less_than_a_patch_are_refused(shape):
    with pytest.raises(ModelError, match=r"3 channels, height, width\), at least 4x4"):
        encoder()(torch.randn(shape))


def test_checkpointing_changes_memory_not_gradients():
    plain, saving = encoder(), encoder(checkpointing=True)
    x = torch.randn(2, 3, 12, 20)
    for made in (plain, saving):
        made(x)[0].square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_drop_path_skips_whole_branches_in_training_only_and_keeps_the_mean():
    block = Block(8, 2)
    initialise(block, 0)
    x = torch.randn(1, 4, 8).expand(4000, -1, -1)
    block.drop_path = 0.25
    whole = block.eval()(x[:1])
    torch.manual_seed(0)
    with torch.no_grad():
        attended = x[:1] + block.attention(block.norm1(x[:1]))
        dropped = block.train()(x)
        kept = (dropped != x).any(dim=(1, 2)).float().mean()
    assert not torch.equal(whole, attended)
    assert float(kept) == pytest.approx(1 - 0.25**2, abs=0.02)  # neither branch: both were skipped
    block.drop_path = 0.0
    torch.testing.assert_close(block(x[:1]), whole)


def test_views_of_different_sizes_are_refused():
    image = torch.randn(4, 3, 12, 20)
    for view in (image[:2], image[:, :, :8]):
        with pytest.raises(ModelError, match="expected the same"):
            encoder()(image, view)
