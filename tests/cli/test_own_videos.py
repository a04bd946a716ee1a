"""The two ways in that the README shows: a model of one's own videos, and the authors' checkpoint without training."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import click
import pytest
import torch
import typer
from PIL import Image

from cli.small_settings import SMALL, TINY
from equiav.cli.app import app
from equiav.config import Architecture, Augment, ModelConfig
from equiav.library.items import is_held_out
from equiav.library.table import Library
from equiav.media.mux import wav_file
from equiav.model.equiav import EquiAV
from equiav.model.vit import sincos_positions
from samples import pictures, tone, write_media

ROOT = Path(__file__).parents[2]
OFFICIAL = ROOT / "tests" / "golden" / "official.pth"


def make_videos(folder, train=4, test=2, share=0.3, seconds=0.7):
    """Videos of two kinds in folders of their names, of which so many are held out at this share."""
    wanted, seed = {False: train, True: test}, 0
    while any(wanted.values()):
        path = folder / ("dog", "cat")[seed % 2] / f"{seed}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_media(path, frames=pictures(round(10 * seconds), seed=seed), sound=tone(seconds, 200 + 37 * seed))
        held = is_held_out(hashlib.sha256(path.read_bytes()).hexdigest(), share)
        if not wanted[held]:
            path.unlink()
        wanted[held] = max(0, wanted[held] - 1)
        seed += 1


def test_one_folder_is_learned_from_and_measured_on(equiav, tmp_path):
    videos, library, run = tmp_path / "V", tmp_path / "L", tmp_path / "R"
    make_videos(videos)
    options = ("--hold-out", "30%", "--labels-from-folders")
    code, out, _ = equiav("ingest", videos, "--library", library, *options, *TINY)
    assert (code, "2 files held out in split test" in out) == (0, True)
    assert "next:" not in out, "no recipe has such features"
    code, out, _ = equiav("ingest", videos, "--library", library, "--hold-out", "0.3", "--json")
    report = json.loads(out)
    assert (report["clips_added"], report["clips_relabelled"], report["held_out"]) == (0, 0, 2)
    labels = {(Path(row["source"]).parent.name, *row["labels"]) for row in Library(library).clips().to_pylist()}
    assert labels == {("dog", "dog"), ("cat", "cat")}
    code, _, err = equiav("pretrain", "toy", "--library", library, "--run", run, *SMALL, "train.epochs=5")
    assert code == 0
    plan, estimate = err.splitlines()[:2]
    assert plan == "plan: 4 clips, 1 step of 4 in an epoch, 5 epochs: 5 steps"
    assert re.fullmatch(r"about .+ on \w+, \w+: estimated from its matrix products, measured after 3 steps", estimate)
    assert re.search(r"^about \d+ s for 5 epochs: measured over 3 steps$", err, re.MULTILINE)
    code, out, _ = equiav("evaluate", "retrieval", "--library", library, "--run", run, "--split", "test", "--json")
    assert (code, json.loads(out)["clips"]) == (0, 2)


def test_the_authors_checkpoint_searches_own_videos_without_training(equiav, tmp_path):
    """Random weights in the released format, of small sizes."""
    videos, library, model = tmp_path / "V", tmp_path / "L", tmp_path / "model"
    videos.mkdir()
    for i in range(3):
        write_media(videos / f"{i}.mp4", frames=pictures(7, seed=i), sound=tone(0.7, 200 + 150 * i))
    (tmp_path / "dog.wav").write_bytes(wav_file(tone(0.5, 350), 16_000))
    Image.fromarray(pictures(1)[0]).save(tmp_path / "dog.jpg")
    assert equiav("convert", OFFICIAL, model, "--heads", "3")[0] == 0
    code, out, _ = equiav("ingest", videos, "--library", library, "--like", model)
    assert (code, f"next: equiav embed --library {library} --run {model}" in out) == (0, True)
    assert equiav("embed", "--library", library, "--run", model)[0] == 0
    for query in (("--audio", tmp_path / "dog.wav"), ("--image", tmp_path / "dog.jpg"), ("--video", videos / "1.mp4")):
        code, out, _ = equiav("search", "--library", library, "--run", model, *query, "--json")
        hits = json.loads(out)["hits"]
        assert (code, {Path(hit["source"]).name for hit in hits}) == (0, {"0.mp4", "1.mp4", "2.mp4"})
    code, out, _ = equiav("search", "-L", library, "-R", model, "--audio", videos / "1.mp4", "--by", "audio", "--json")
    assert Path(json.loads(out)["hits"][0]["source"]).name == "1.mp4"


def test_a_library_like_a_model_has_its_features_and_others_are_refused(equiav, tmp_path):
    model, videos = tmp_path / "model", tmp_path / "V"
    make_videos(videos, test=0)
    equiav("convert", OFFICIAL, model, "--heads", "3")
    ours = equiav("ingest", videos, "--library", tmp_path / "A", "--like", model, "features.frame_side=40", "--json")
    assert ours[0] == 0
    assert Library(tmp_path / "A").features.frame_side == 40
    assert Library(tmp_path / "A").features.time_frames == 32

    def refused(*arguments):
        code, _, err = equiav("ingest", videos, "--library", tmp_path / "B", *arguments)
        assert code == 1
        return " ".join(err.split())

    assert "give one of them" in refused("--like", model, "--recipe", "toy")
    assert "could not embed such clips: mel_bins is 64" in refused("--like", model, "features.mel_bins=64")
    assert "no such folder; expected a model folder or a run" in refused("--like", tmp_path / "none")
    assert "is not a model folder: it has no config.json" in refused("--like", videos)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"hidden_size": 8}')
    assert "it has no features" in refused("--like", foreign)
    for share in ("ten", "10 percent", "50%", "0", "-1%", "0.1.2"):
        assert "--hold-out is a share" in refused("--hold-out", share)
    assert not (tmp_path / "B").exists()
    code, _, err = equiav("ingest", videos, "--library", tmp_path / "A", "--recipe", "toy")
    assert (code, "was made with other features" in err) == (1, True)


def test_ingest_and_pretrain_name_each_others_recipe(equiav, tmp_path):
    videos = tmp_path / "V"
    make_videos(videos, test=0, train=2)
    small, large = tmp_path / "small", tmp_path / "large"
    code, out, _ = equiav("ingest", videos, "--library", small, "--recipe", "laptop")
    assert (code, out.splitlines()[-1]) == (0, f"next: equiav pretrain laptop --library {small} --run R")
    code, out, _ = equiav("ingest", videos, "--library", large)
    assert code == 0
    assert f"next: equiav pretrain gpu --library {large} --run R (or base, audioset2m)" in out
    assert "--recipe laptop" in out.splitlines()[-1]

    def refused(recipe, library):
        code, _, err = equiav("pretrain", recipe, "--library", library, "--run", tmp_path / "R")
        assert (code, (tmp_path / "R").exists()) == (1, False)
        return err

    err = refused("toy", large)
    assert f"{large} was ingested for recipe gpu or base or audioset2m (clips of 10 s, 1024 × 128)" in err
    assert f"`equiav pretrain gpu --library {large}`" in err
    assert "`equiav ingest VIDEOS --library NEW --recipe toy`" in err
    err = refused("base", small)
    assert f"`equiav pretrain laptop --library {small}`" in err
    assert "--recipe gpu`" in err
    code, out, _ = equiav("ingest", videos, "-L", tmp_path / "toys", "--recipe", "toy", "features.clip_s=0.5")
    assert (code, out.splitlines()[-1]) == (0, f"next: equiav pretrain toy --library {tmp_path / 'toys'} --run R")
    code, _, err = equiav("ingest", videos, "--library", small, "--recipe", "gpu")
    assert (code, "it fits recipe laptop" in err) == (1, True)


def commands_of(page):
    """The lines of a page's code blocks that call equiav, without the remark behind them."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("equiav ")]


def test_the_readmes_commands_parse():
    command = typer.main.get_command(app)
    lines = commands_of(ROOT / "README.md")
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        group, context = command, None
        while isinstance(group, click.Group):
            context = click.Context(group, info_name=words[0], parent=context)
            _, group, words = group.resolve_command(context, words)
        try:
            group.make_context(group.name, words, parent=context)
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")


def test_the_readme_shows_both_ways_on_its_first_screen():
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:45])
    marks = (
        "<!-- own videos -->",
        "equiav pretrain laptop",
        "<!-- published checkpoint -->",
        "equiav convert",
        "--like",
    )
    places = [first.index(mark) for mark in marks]
    assert places == sorted(places)


@pytest.mark.slow
def test_weights_of_the_released_sizes_search_videos_of_a_plain_ingest(equiav, tmp_path):
    """ViT-B/16 with random weights. What is ingested for recipe gpu or base serves it too."""
    write_released(tmp_path / "released.pth")
    videos, library, model = tmp_path / "V", tmp_path / "L", tmp_path / "model"
    make_videos(videos, train=2, test=0, seconds=2.0)
    code, out, _ = equiav("convert", tmp_path / "released.pth", model, "--json")
    with torch.device("meta"):
        base = EquiAV(
            ModelConfig(architecture=Architecture(share="none"), augment=Augment(variant="released")), seed=None
        )
    assert (code, json.loads(out)["parameters"]) == (0, sum(weights.numel() for weights in base.parameters()))
    for arguments in (("--recipe", "gpu"), ("--like", model)):
        code, out, _ = equiav("ingest", videos, "--library", library, *arguments)
        assert code == 0
    assert "2 already there" in out
    assert equiav("embed", "--library", library, "--run", model)[0] == 0
    file = next(videos.rglob("*.mp4"))
    code, out, _ = equiav("search", "-L", library, "-R", model, "--audio", file, "--by", "audio", "--json")
    assert (code, json.loads(out)["hits"][0]["source"]) == (0, str(file))


def write_released(path):
    """Random weights in the released format and sizes, by the names of the small golden file."""
    sizes = {24: 768, 72: 2304, 96: 3072, 8: 256, 32: 2048, 16: 512}
    grids = {"pos_embed_a": (8, 64), "pos_embed_v": (14, 14)}
    random, tensors = torch.Generator().manual_seed(0), {}
    for name, small in torch.load(OFFICIAL, weights_only=True).items():
        short = name.rpartition("__M__.")[2]
        if short in grids:
            tensors[name] = sincos_positions(*map(torch.arange, grids[short]), 768)[None]
            continue
        shape = [sizes.get(size, size) for size in small.shape]
        if short.startswith("patch_embed"):
            shape[1:] = small.shape[1:]
        if re.fullmatch("aug_encoder_[av].0.weight", short):
            shape[1] = small.shape[1]
        for block in range(12) if ".0." in name and "blocks_" in name else (0,):
            values = torch.randn(shape, generator=random) * 0.02 + (short.endswith("weight") and len(shape) == 1)
            tensors[re.sub(r"(blocks_[av])\.0\.", rf"\1.{block}.", name)] = values
    torch.save(tensors, path)
