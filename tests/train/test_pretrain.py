"""Pretraining: every part of the model learns, the recipe is resolved on the library, a run belongs to its recipe."""

import pytest
import torch

from equiav.config import load_recipe
from equiav.errors import TrainingError
from equiav.library.ingest import ingest
from equiav.library.loader import ClipLoader
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.train.pretrain import Pretraining, clip_keys, model_config, pretrain, resolve, roll_time
from samples import TINY, pictures, tone, write_media

SMALL = [
    *("model.width=32", "model.depth=1", "model.heads=2", "model.image_side=32", "model.head_hidden=32"),
    *("model.embedding=16", "model.centroid_samples=4", "train.global_batch=4", "train.epochs=2"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    for i in range(5):
        write_media(folder / f"{i}.mp4", frames=pictures(7, seed=i), sound=tone(0.7, 200 + 150 * i))
    ingest(folder, folder / "L", TINY, workers=1)
    return Library(folder / "L")


def small(library, *overrides):
    return resolve(load_recipe("toy", [*SMALL, *overrides]), library, torch.device("cpu"))


def one_batch(library, recipe):
    return next(iter(ClipLoader(library, "train", recipe.train.global_batch).epoch(0)))


def losses(model, batch, recipe, epoch=0):
    objective = Pretraining(model, recipe)
    return objective.losses(model(*objective.inputs(batch, epoch)))


def rows(batch, index):
    picked = {name: getattr(batch, name)[index] for name in ("audio", "frames", "sizes", "indices")}
    return type(batch)(**picked, clip_ids=[batch.clip_ids[i] for i in index], labels=[batch.labels[i] for i in index])


@pytest.mark.parametrize("method", ["equiav", "invariant", "plain"])
@pytest.mark.parametrize("share", ["modalities", "none"])
def test_every_parameter_gets_a_gradient(library, method, share):
    recipe = small(library, f"model.method={method}", f"model.share={share}")
    model = EquiAV(model_config(recipe))
    parts = losses(model, one_batch(library, recipe), recipe)
    parts["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    weighted = recipe.loss.inter * parts["loss_inter"]
    if method != "plain":
        weighted = weighted + recipe.loss.intra_audio * parts["loss_intra_audio"]
        weighted = weighted + recipe.loss.intra_visual * parts["loss_intra_visual"]
    assert parts["loss"].item() == pytest.approx(weighted.item(), rel=1e-5)


def test_a_clips_views_follow_from_seed_epoch_and_id_alone(library):
    recipe = small(library)
    model, batch = EquiAV(model_config(recipe)), one_batch(library, recipe)
    objective = Pretraining(model, recipe)
    whole, order = objective.inputs(batch, 3), [2, 0, 3]
    for found, expected in zip(objective.inputs(rows(batch, order), 3), whole, strict=True):
        assert torch.equal(found, expected[order])
    reseeded = Pretraining(model, small(library, "train.seed=1"))
    for other in (objective.inputs(batch, 4), reseeded.inputs(batch, 3)):
        changed = [not torch.equal(a, b) for a, b in zip(other, whole, strict=True)]
        assert changed == [True, False, *[True] * 6], "everything but the base picture is drawn"


def test_clip_keys_are_64_bits_of_the_id():
    keys = clip_keys(["0000000000000001aaaaaaaa", "ffffffffffffffff00000000", "7fffffffffffffff"])
    assert keys.tolist() == [1, -1, 2**63 - 1]


def test_rolling_keeps_every_frame_in_its_cyclic_order():
    audio = torch.arange(24.0).view(1, 6, 4).expand(12, -1, -1)
    for k, rolled in enumerate(roll_time(audio, torch.arange(12) / 12)):
        assert torch.equal(rolled, audio[0].roll(k // 2, 0))


def test_the_library_decides_features_normalisation_and_a_batch_that_fits(library):
    recipe = resolve(load_recipe("toy", ["train.global_batch=64"]), library, torch.device("cpu"))
    assert recipe.features == TINY
    assert recipe.train.global_batch == 5
    assert recipe.train.precision in {"bf16", "fp32"}
    assert (recipe.data.audio_mean, recipe.data.audio_std) == pytest.approx(library.log_mel_stats("train"))
    fixed = resolve(load_recipe("toy", ["data.audio_mean=-4.3", "data.audio_std=4.3"]), library, torch.device("cpu"))
    assert (fixed.data.audio_mean, fixed.data.audio_std) == (-4.3, 4.3)


def test_a_split_with_nothing_to_compare_is_an_error(library):
    with pytest.raises(TrainingError, match=r"split 'test' has 0 clips .* needs at least 2"):
        resolve(load_recipe("toy", ["data.split=test"]), library, torch.device("cpu"))


def test_a_run_stopped_and_taken_up_ends_in_the_same_model(library, tmp_path):
    recipe, done = load_recipe("toy", [*SMALL, "train.epochs=4"]), []
    whole = pretrain(recipe, library, tmp_path / "whole")
    parts = pretrain(recipe, library, tmp_path / "parts", on_step=done.append, should_stop=lambda: len(done) >= 2)
    assert (whole.done, parts.done) == (True, False)
    parts = pretrain(recipe, library, tmp_path / "parts")
    assert parts.done
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_the_base_recipe_is_a_vit_b_and_takes_a_step(library):
    recipe = resolve(load_recipe("base", ["train.global_batch=2"]), library, torch.device("cpu"))
    recipe = recipe.model_copy(update={"features": load_recipe("base").features})
    model = EquiAV(model_config(recipe))
    assert sum(p.numel() for p in model.audio_tower.encoder.parameters()) == pytest.approx(85.4e6, rel=0.02)
    batch = one_batch(library, recipe)
    batch = type(batch)(**{**vars(batch), "audio": torch.randn(len(batch.clip_ids), 1024, 128)})
    loss = losses(model, batch, recipe)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
