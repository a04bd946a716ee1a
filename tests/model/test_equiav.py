"""The whole model: what each method compares, what embeds, what it refuses, and where its weights come from."""

from __future__ import annotations

import itertools

import pytest
import torch
from small_models import SMALL, batch_for, small_config, small_model
from torch import nn

from equiav.config import Loss, ModelConfig
from equiav.errors import ConfigError, ModelError
from equiav.model.equiav import EquiAV
from equiav.model.initialise import initialise
from equiav.train.loss import equiav_loss

METHODS = [{"method": m, "inter": i} for m in ("equiav", "invariant", "plain") for i in ("centroid", "mean")]
METHODS += [{"inter": "predicted"}, {"inter": "augmented"}, {"share": "none"}, {"predictor": "hypernetwork"}]


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_every_parameter_is_set_by_the_one_init_function_and_gets_a_gradient(settings):
    model = EquiAV(small_config(**settings), seed=None)
    for parameter in model.parameters():
        assert torch.isnan(parameter).all()
    initialise(model, 0)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
    equiav_loss(model(**batch_for(model)), Loss())["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_parameter_without_an_initialisation_is_an_error():
    module = nn.Module()
    module.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ModelError, match="no initialisation is defined for scale"):
        initialise(module, 0)


def test_output_is_six_embeddings():
    model = small_model()
    for x in model(**batch_for(model, size=5)):
        assert x is not None
        assert x.shape == (5, 16)


def test_each_output_is_the_papers_path_through_the_parts():
    model = small_model(share="none").eval()
    given = batch_for(model)
    found = model(**given)
    for modality, inter, predicted, augmented in (("audio", *found[::2]), ("visual", *found[1::2])):
        tower = getattr(model, f"{modality}_tower")
        tokens = getattr(model, f"{modality}_tokens")
        predict = getattr(model, f"predict_{modality}")
        h = tokens(given[modality])
        one = predict(h, given[f"{modality}_params"][:, None])[:, 0]
        centroid = torch.stack(
            [predict(h, params[:, None])[:, 0] for params in given[f"{modality}_centroid_params"].unbind(1)]
        ).mean(0)
        moved = tokens(given[f"{modality}_view"], view=True).mean(1)
        torch.testing.assert_close(inter, tower.inter_head(centroid))
        torch.testing.assert_close(predicted, tower.intra_head(one))
        torch.testing.assert_close(augmented, tower.intra_head(moved))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"inter": "mean"}, "mean"),
        ({"inter": "augmented"}, "augmented"),
        ({"inter": "predicted"}, "predicted"),
        ({"method": "invariant"}, "augmented"),
        ({"method": "invariant", "inter": "mean"}, "mean"),
        ({"method": "plain"}, "mean"),
    ],
    ids=str,
)
def test_inter_modal_loss_sees_what_the_settings_say(settings, expected):
    model = small_model(**settings).eval()
    given = batch_for(model)
    tokens = model.visual_tokens(given["visual"])
    latent = {
        "mean": lambda: tokens.mean(1),
        "augmented": lambda: model.visual_tokens(given["visual_view"], view=True).mean(1),
        "predicted": lambda: model.predict_visual(tokens, given["visual_params"][:, None])[:, 0],
    }[expected]()
    torch.testing.assert_close(model(**given).visual_inter, model.visual_tower.inter_head(latent))


def test_methods_without_predictor_predict_nothing():
    invariant, plain = small_model(method="invariant"), small_model(method="plain")
    given = batch_for(invariant)
    found = invariant(given["audio"], given["visual"], given["audio_view"], given["visual_view"])
    own = invariant.audio_tower.intra_head(invariant.audio_tokens(given["audio"]).mean(1))
    torch.testing.assert_close(found.audio_predicted, own)
    assert plain(given["audio"], given["visual"])[2:] == (None, None, None, None)
    for model in (invariant, plain):
        with pytest.raises(ModelError, match="has no predictor"):
            model.predict_audio(torch.zeros(1, 6, 24), torch.zeros(1, 1, model.audio_space.size))


@pytest.mark.parametrize("missing", ["audio_view", "visual_params", "audio_centroid_params"])
def test_a_missing_input_is_named(missing):
    model = small_model()
    given = batch_for(model)
    del given[missing]
    with pytest.raises(ModelError, match=r"none (was|were) given"):
        model(**given)


def test_models_of_one_seed_start_alike_where_they_have_the_same_parts():
    one, other = small_model(), small_model(method="plain")
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, one.state_dict()[name]), name
    again = EquiAV(small_config(), seed=1).state_dict()
    assert not torch.equal(again["audio_tower.encoder.modality"], one.state_dict()["audio_tower.encoder.modality"])


def test_construction_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    small_model()
    assert torch.equal(torch.get_rng_state(), before)


def test_sharing_the_predictor_saves_one_of_two():
    both, separate = small_model(), small_model(share="none")
    assert both.predictor("audio") is both.predictor("visual")
    assert separate.predictor("audio") is not separate.predictor("visual")


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_an_embedding_is_deterministic_of_length_one_and_does_not_depend_on_its_batch(settings):
    model = small_model(**settings).eval()
    given = batch_for(model, size=5)
    with torch.no_grad():
        for embed, x in ((model.embed_audio, given["audio"]), (model.embed_visual, given["visual"])):
            found = embed(x)
            assert torch.equal(found, embed(x))
            torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
            torch.testing.assert_close(found, torch.cat([embed(part) for part in x.split(1)]))


def test_an_embedding_is_the_centroid_over_the_fixed_parameters():
    model = small_model().eval()
    audio = batch_for(model)["audio"]
    moved = model.predict_audio(model.audio_tokens(audio), model.audio_centroid_set.expand(3, -1, -1)).mean(1)
    expected = nn.functional.normalize(model.audio_tower.inter_head(moved), dim=1)
    torch.testing.assert_close(model.embed_audio(audio), expected)
    assert model.audio_centroid_set.shape == (4, model.audio_space.size)


def test_sound_of_any_length_and_images_of_any_size_embed():
    model = small_model().eval()
    for frames in (16, 31, 48, 160):
        assert model.embed_audio(torch.randn(2, frames, 32)).shape == (2, 16)
    for size in ((16, 16), (32, 48), (70, 33)):
        assert model.embed_visual(torch.randn(2, 3, *size)).shape == (2, 16)


def test_wrong_mel_or_channel_counts_say_what_was_expected():
    model = small_model()
    with pytest.raises(ModelError, match=r"32 mel bins\), found \(2, 48, 64\)"):
        model.embed_audio(torch.zeros(2, 48, 64))
    with pytest.raises(ModelError, match=r"32 mel bins\), found \(48, 32\)"):
        model.embed_audio(torch.zeros(48, 32))
    for shape in ((2, 1, 32, 32), (3, 32, 32), (2, 3, 32, 15)):
        with pytest.raises(ModelError, match=rf"found an input of shape \({shape[0]}, .*3 channels.*at least 16x16"):
            model.embed_visual(torch.zeros(shape))


def test_standardised_audio_has_mean_0_and_deviation_1():
    tree = small_config().model_dump() | {"audio_mean": -4.0, "audio_std": 2.0}
    model = EquiAV(tree)
    assert model.standardise(torch.tensor([[[-4.0, 0.0]]])).tolist() == [[[0.0, 2.0]]]


def test_half_precision_products_keep_the_residual_stream_in_float32():
    model = small_model().eval()
    given = batch_for(model)
    exact = model(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.audio_tokens(given["audio"]).dtype == torch.float32
        found = model(**given)
    for a, b in zip(found, exact, strict=True):
        assert nn.functional.cosine_similarity(a.float(), b, dim=1).min() > 0.99
    assert model.bfloat16().embed_visual(given["visual"].bfloat16()).dtype == torch.float32


def test_embedding_without_autograd_first_does_not_spoil_training_later():
    model = small_model()
    given = batch_for(model)
    with torch.inference_mode():
        model.embed_visual(given["visual"][:, :, :16])
    model.embed_visual(given["visual"][:, :, :16]).sum().backward()


def test_fingerprint_follows_every_weight_and_setting_but_not_how_the_run_spends_memory():
    prints = [small_model().fingerprint(), small_model(inter="predicted").fingerprint()]
    model = small_model()
    for _, parameter in itertools.islice(model.named_parameters(), 0, None, 7):
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-3
        prints.append(model.fingerprint())
    assert len(set(prints)) == len(prints)
    assert small_model(checkpointing=True).fingerprint() == prints[0]


def test_config_may_be_a_dictionary_and_its_mistakes_are_named():
    assert EquiAV({"architecture": SMALL, "features": {"time_frames": 32}}).config.features.time_frames == 32
    with pytest.raises(ConfigError, match="did you mean width"):
        EquiAV({"architecture": {"widht": 8}})
    with pytest.raises(ConfigError, match="time_frames 40 must be a multiple of audio_patch 16"):
        EquiAV({"features": {"time_frames": 40}})


@pytest.mark.slow
@pytest.mark.gate
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own doings
def test_compiled_blocks_give_the_same_loss_and_gradient():
    plain, compiled = small_model(), small_model(compile=True)
    given = batch_for(plain)
    for model in (plain, compiled):
        equiav_loss(model(**given), Loss())["loss"].backward()
    for (name, a), b in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_full_size_model_has_the_released_number_of_parameters():
    with torch.device("meta"):
        model = EquiAV(ModelConfig.model_validate({"architecture": {"share": "none"}}), seed=None)
    # the release adds dead norms in 24 blocks, three-channel audio kernels, and stored positions
    released = sum(p.numel() for p in model.parameters()) + 24 * 6144 + 2 * 768 * 16 * 16 + (512 + 196) * 768
    assert round(released / 1e6, 1) == 211.7
