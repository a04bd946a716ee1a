"""Recipes: shipped ones are valid, every wrong key or value is named, overrides reach the right field."""

import pytest
import yaml

from equiav.config import Recipe, load_recipe
from equiav.config.finetuning import load_finetune_recipe
from equiav.config.loading import RECIPES
from equiav.errors import ConfigError


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_shipped_recipe_is_valid_and_survives_a_round_trip(name, tmp_path):
    load = load_finetune_recipe if name.startswith("finetune") else load_recipe
    recipe = load(name)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load(tmp_path / "again.yaml") == recipe


def test_base_is_the_paper():
    recipe = load_recipe("base")
    assert (recipe.model.width, recipe.model.depth, recipe.model.heads) == (768, 12, 12)
    assert (recipe.features.time_frames, recipe.features.mel_bins, recipe.model.image_side) == (1024, 128, 224)
    assert (recipe.optim.lr, recipe.optim.betas, recipe.optim.weight_decay, recipe.optim.clip_norm) == (
        1e-4,
        (0.9, 0.95),
        1e-5,
        0.01,
    )
    assert (recipe.train.epochs, recipe.train.global_batch, recipe.model.centroid_samples) == (20, 128, 16)
    assert (recipe.loss.temperature, recipe.loss.inter) == (0.07, 1 / 3)


@pytest.mark.parametrize(
    ("override", "value"), [("optim.lr=3e-4", 3e-4), ("optim.lr=0.001", 1e-3), ("optim.lr=1.5E-4", 1.5e-4)]
)
def test_an_override_reaches_its_field(override, value):
    assert load_recipe("toy", [override]).optim.lr == value


def test_an_override_may_be_a_list_or_a_mapping():
    recipe = load_recipe("toy", ["optim.betas=[0.8, 0.99]", "augment.visual.crop={p: 0.5}"])
    assert recipe.optim.betas == (0.8, 0.99)
    assert recipe.augment.visual["crop"] == {"p": 0.5}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", r"optim.lrr is not a key of Optim \(did you mean lr\?\)"),
        ("optm.lr=1", r"optm is not a key of Recipe \(did you mean optim\?\)"),
        ("train.epochs=0", "train.epochs: .* found 0"),
        ("train.epochs=many", "train.epochs: .* found 'many'"),
        ("model.share=both", "model.share: .* found 'both'"),
        ("model.heads=5", "must be a multiple of heads 5"),
        ("optim.lr", "not of the form key=value"),
        ("optim.lr.x=1", "lr is not a section"),
        ("optim.betas=[1", "not YAML"),
        ("features.hop_s=1e-300", "features.hop_s: .* found 1e-300"),
        ("features.hop_s=.inf", "features.hop_s: .* found inf"),
        ("features.clip_s=.nan", "features.clip_s: .* found nan"),
        ("features.sample_rate=1", "features.sample_rate: .* found 1"),
        ("features.mel_bins=1000000", "features.mel_bins: .* found 1000000"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("toy", [override])


def test_an_unknown_recipe_names_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"no recipe 'tooy'.*base, .*toy"):
        load_recipe("tooy")


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n", "a mapping of sections, found list"), ("a: [\n", "not a YAML")]
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.label=single-label", r"task.label is not a key of Task \(did you mean labels\?\)"),
        ("task.modalities=sound", "task.modalities: .* found .sound."),
        ("optim.head_lr=50", r"optim.head_lr is not a key of FinetuneOptim \(did you mean head_lr_ratio\?\)"),
        ("data.validation=train", "validation and training split are both 'train'"),
        ("data.validation=val", "chooses among whole weights of single epochs"),
        ("train.ema=0.9", "two ways to average"),
    ],
)
def test_a_wrong_setting_of_fine_tuning_says_what_is_wrong(override, message):
    with pytest.raises(ConfigError, match=message):
        load_finetune_recipe("finetune-audioset2m", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", r"^optim\.lrr=1: optim\.lrr is not a key of Optim \(did you mean lr\?\)"),
        ("optim.lr=-1", r"^optim\.lr=-1: optim\.lr: .*found -1"),
        ("optim=3", r"^optim=3: optim: "),
        ("optmi.lr=1", r"^optmi\.lr=1: optmi is not a key of Recipe \(did you mean optim\?\)"),
    ],
)
def test_a_problem_with_an_override_names_it_and_not_the_recipes_file(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("toy", ["train.epochs=2", override])


def test_a_problem_of_the_file_names_the_file_whatever_is_overridden(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optim: {lrr: 1}")
    with pytest.raises(ConfigError, match=r"^.*mine\.yaml: optim\.lrr is not a key"):
        load_recipe(str(path), ["optim.lr=1e-4"])
