"""Every setting, as frozen pydantic models with one sentence and the unit per field; shipped recipes.

`equiav` never reads a setting from anywhere else.
"""

from equiav.config.architecture import Architecture, Augment, ModelConfig
from equiav.config.features import MODALITIES, Features, Modalities, Modality, check_features, covers, stored_modalities
from equiav.config.finetuning import FinetuneRecipe, load_finetune_recipe
from equiav.config.loading import nearest, parse_settings
from equiav.config.training import Data, Init, Loss, Optim, Recipe, Train, load_recipe, recipes_for

__all__ = [
    "MODALITIES",
    "Architecture",
    "Augment",
    "Data",
    "Features",
    "FinetuneRecipe",
    "Init",
    "Loss",
    "Modalities",
    "Modality",
    "ModelConfig",
    "Optim",
    "Recipe",
    "Train",
    "check_features",
    "covers",
    "load_finetune_recipe",
    "load_recipe",
    "nearest",
    "parse_settings",
    "recipes_for",
    "stored_modalities",
]
