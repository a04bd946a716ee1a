"""A small library with labels and splits, and recipes that fine-tune on it in a second."""

from equiav.config.finetuning import load_finetune_recipe
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.train.pretrain import model_config, resolve
from train.small_library import SMALL, make_library, small_recipe

MODEL = [text for text in SMALL if text.startswith("model.")]
SPLITS = ["train"] * 6 + ["val"] * 2 + ["test"] * 3
LABELS = [[f"class{i % 3}"] for i in range(len(SPLITS))]


def make_labelled_library(folder):
    return label(make_library(folder, clips=len(SPLITS)))


def label(library, labels=LABELS, splits=SPLITS):
    """Give the library's clips labels and splits."""
    rows = zip(library.all_ids(), labels, splits, strict=True)
    library.update([{"clip_id": clip_id, "labels": own, "split": split} for clip_id, own, split in rows])
    return Library(library.path)


def save_pretrained(library, folder):
    EquiAV(model_config(resolve(small_recipe(), library))).save_pretrained(folder)
    return folder


def tiny_recipe(*overrides, source=None, name="finetune-toy"):
    settings = ["train.global_batch=4", "train.epochs=3", "optim.warmup_epochs=0", "train.trackers=[]"]
    return load_finetune_recipe(name, [*([] if source else MODEL), *settings, *overrides], source=source)
