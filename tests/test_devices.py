"""Verbs that run a model run it on the GPU if there is one: inputs go there, results come back, and are the same.

Where there is no GPU, a made-up device stands for one (`another_device.py`); where there is, both are tried.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import typer

from another_device import ELSEWHERE, another_device
from equiav.augment import audio, visual
from equiav.cli import app as cli
from equiav.cli.options import load_model
from equiav.config import Augment
from equiav.diagnose import cost, unseen
from equiav.diagnose.branch import Branch, Effort, read_clips
from equiav.diagnose.diagnosis import diagnose
from equiav.errors import ConfigError
from equiav.evaluate import classifiers
from equiav.evaluate import classify as classification
from equiav.evaluate.localise import localise
from equiav.evaluate.probe import probe
from equiav.evaluate.results import Result
from equiav.evaluate.retrieval import evaluate_retrieval
from equiav.library.table import Library
from equiav.machine import pick_device, pick_precision
from equiav.model.classifier import Classifier
from equiav.model.encode import embed_log_mels, embed_pictures
from equiav.model.equiav import EquiAV
from equiav.model.vit import Block
from equiav.search.embed import embed_library
from equiav.search.index import SearchIndex
from tiny_library import FEATURES, make_clip, make_model

CLIPS = 12
LITTLE = Effort(
    views=4, curve_clips=3, curve_points=2, focus_sets=3, focus_clips=3, composed_clips=3, composed_draws=2,
    centroid_clips=4, counts=(1, 2, 16, 32), draws=2, dense=32, real=8, real_clips=2, unseen_clips=3, pool=8, repeats=1,
)  # fmt: skip
FEW_SOUNDS = {"shift": {}, "gain": {}}
FEW_PICTURES = {"crop": {"p": 1.0}, "flip": {}}
TRAINS = {"pretrain", "finetune", "compare"}  # where is Accelerate's business
ON_THE_PROCESSOR = {"export"}


def make_library(path):
    made = Library.create(path, FEATURES)
    made.append([make_clip(i, split="test" if i % 2 else "train") for i in range(CLIPS)])
    return made


@pytest.fixture
def library(tmp_path):
    return make_library(tmp_path / "L")


@pytest.fixture(params=["another", "cuda"])
def elsewhere(request, monkeypatch):
    """To be entered: a device that is not the processor."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return another_device() if request.param == "another" else nullcontext(torch.device("cuda"))


def close(device):
    """How near figures must be: on a GPU equal scores can change places."""
    return {"abs": 1e-5, "rel": 1e-4} if device == ELSEWHERE else {"abs": 0.1, "rel": 0.1}


def flat(tree, name=""):
    """Numbers of a JSON tree by their place."""
    if isinstance(tree, dict):
        return {k: v for key, part in tree.items() for k, v in flat(part, f"{name}.{key}").items()}
    if isinstance(tree, list):
        return {k: v for i, part in enumerate(tree) for k, v in flat(part, f"{name}.{i}").items()}
    return {name: tree} if isinstance(tree, (int, float)) else {}


def commands():
    """Path and options of each verb."""
    todo = [((), typer.main.get_command(cli.app))]
    for path, command in todo:
        todo += [((*path, name), sub) for name, sub in getattr(command, "commands", {}).items()]
    return {path: {option for one in command.params for option in one.opts} for path, command in todo if path}


def test_every_verb_that_runs_a_model_takes_a_device():
    with_run = {path[-1] for path, options in commands().items() if "--run" in options}
    with_device = {path[-1] for path, options in commands().items() if "--device" in options}
    assert with_device == with_run - TRAINS - ON_THE_PROCESSOR
    with_precision = {path[-1] for path, options in commands().items() if "--precision" in options}
    assert with_precision == with_device
    assert {"embed", "search", "diagnose", "retrieval", "probe", "knn", "classify", "localise"} <= with_device


@pytest.mark.parametrize(
    "verb",
    [
        ["embed"],
        ["search", "--clip", "clip1"],
        ["diagnose"],
        ["evaluate", "retrieval"],
        ["evaluate", "probe"],
        ["evaluate", "knn"],
        ["evaluate", "localise"],
        ["evaluate", "classify"],
    ],
    ids=" ".join,
)
def test_a_device_that_is_not_there_is_an_error_that_names_those_that_are(verb, equiav, library, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    run = tmp_path / "R" / "model"
    if "classify" in verb:
        Classifier(make_model().config, ["class0", "class1", "class2"], labels="single-label").save_pretrained(run)
    else:
        make_model().save_pretrained(run)
    code, out, said = equiav(*verb, "--library", library.path, "--run", tmp_path / "R", "--device", "cuda")
    assert (code, out) == (1, "")
    assert "no device 'cuda' here: found cpu" in said


@pytest.mark.xdist_group("mteb")
def test_mteb_takes_the_device(monkeypatch, equiav, tmp_path):
    pytest.importorskip("mteb")
    make_model().save_pretrained(tmp_path / "R" / "model")
    code, _, said = equiav("evaluate", "mteb", "--run", tmp_path / "R", "--tasks", "x", "--device", "cuda:99")
    assert code == 1
    assert "no device 'cuda:99' here" in said


def test_a_model_goes_to_the_device_of_the_verb_and_stays_on_the_processor_in_python(tmp_path, monkeypatch):
    model = make_model()
    model.save_pretrained(tmp_path / "R" / "model")
    moves = []
    real = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *a, **k: (moves.append(a[0].type), real(self, "cpu"))[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert EquiAV.from_pretrained(tmp_path / "R").fingerprint() == model.fingerprint()
    assert moves == []
    assert not load_model(tmp_path / "R").training
    load_model(tmp_path / "R", "cpu")
    EquiAV.from_pretrained(tmp_path / "R", device="auto")
    assert moves == ["cuda", "cpu", "cuda"]


def test_a_gpu_without_memory_left_is_an_error_and_no_trace(equiav, library, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    make_model().save_pretrained(tmp_path / "R" / "model")
    monkeypatch.setattr("equiav.search.embed.embed_library", full)
    code, _, said = equiav("embed", "--library", library.path, "--run", tmp_path / "R")
    assert code == 1
    assert said.count("\n") == 1
    assert "CUDA out of memory. Tried to allocate 2 GiB." in said
    assert "--device cpu" in said


def test_embeddings_made_elsewhere_are_those_of_the_processor(library, elsewhere, tmp_path):
    model = make_model()
    expected = embed_library(library, model)
    sound = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    picture = np.random.default_rng(1).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    queries = ({"audio": (sound, 8000)}, {"image": picture}, {"clip": "clip3"})
    hits = [SearchIndex(library.path, model).search(**query) for query in queries]
    other = make_library(tmp_path / "L2")
    with elsewhere as device:
        moved = make_model().to(device)
        assert moved.fingerprint() == model.fingerprint()
        made = embed_library(other, moved)
        found = [SearchIndex(other.path, moved).search(**query) for query in queries]
    for modality in ("audio", "visual"):
        np.testing.assert_allclose(made.vectors(modality), expected.vectors(modality), atol=1e-4)
    for here, there in zip(hits, found, strict=True):
        assert [hit.score for hit in there] == pytest.approx([hit.score for hit in here], abs=1e-4)


@pytest.mark.parametrize("scoring", ["middle", "diagonal"])
def test_retrieval_elsewhere(library, elsewhere, scoring):
    here = evaluate_retrieval(library, make_model(), scoring=scoring).to_dict()
    with elsewhere as device:
        there = evaluate_retrieval(library, make_model().to(device), scoring=scoring).to_dict()
    assert flat(there) == pytest.approx(flat(here), **close(device))


@pytest.mark.parametrize(
    ("kind", "feature"),
    [("linear", "pooled"), ("linear", "embedding"), ("sgd", "pooled"), ("knn", "pooled"), ("attentive", "pooled")],
)
def test_probes_elsewhere(library, elsewhere, kind, feature, monkeypatch):
    monkeypatch.setattr(classifiers, "FEWEST_STEPS", 2)
    monkeypatch.setattr(classifiers, "EPOCHS", {"attentive": 2, "sgd": 2})
    here = probe(library, make_model(), kind=kind, feature=feature).to_dict()
    with elsewhere as device:
        there = probe(library, make_model().to(device), kind=kind, feature=feature).to_dict()
    assert flat(there) == pytest.approx(flat(here), **close(device))


def test_maps_elsewhere(library, elsewhere):
    expected = localise(library, make_model())
    with elsewhere as device:
        found = localise(library, make_model().to(device))
    assert len(found.shown) == CLIPS // 2
    for here, there in zip(expected.shown, found.shown, strict=True):
        for kind, values in here.maps.items():
            np.testing.assert_allclose(there.maps[kind], values, atol=1e-4)


def test_the_report_elsewhere(library, elsewhere, monkeypatch):
    monkeypatch.setattr(unseen, "REACHES", (1.5,))
    monkeypatch.setattr(unseen, "SHARES", (0.5,))
    config = make_model().config.model_copy(update={"augment": Augment(audio=FEW_SOUNDS, visual=FEW_PICTURES)})
    options = {"split": None, "clips": 8, "effort": LITTLE}
    model = EquiAV(config).eval()
    here = diagnose(library, model, **options)
    monkeypatch.setattr(cost, "_saved_bytes", lambda step: step().backward() or 0)
    with elsewhere as device:
        model = EquiAV(config).eval().to(device)
        there = diagnose(library, model, **options)
    for name, branch in there.branches.items():
        assert [one.caption for one in branch.maps] == [one.caption for one in here.branches[name].maps]
        assert all(x.device.type == "cpu" for one in branch.maps for x in (one.view, one.weights))
    values = [{name: getattr(one, "value", one) for name, one in report.figures().items()} for report in (here, there)]
    assert len(values[0]) > 50
    assert values[1].keys() == values[0].keys()
    if device == ELSEWHERE:  # a GPU's rounding is not the processor's, and some figures are ratios of it
        assert values[1] == pytest.approx(values[0], rel=1e-3, abs=1e-3)
    assert there.costs[-1].step_ms > 0


@pytest.mark.parametrize(("device", "waits"), [("cuda", "torch.cuda"), ("mps", "torch.mps"), ("cpu", None)])
def test_the_time_of_a_step_is_read_when_the_device_is_done(monkeypatch, device, waits):
    told = []
    for module in ("torch.cuda", "torch.mps"):
        monkeypatch.setattr(f"{module}.synchronize", lambda *_, module=module: told.append(module))

    def step():
        told.append("step")
        return torch.ones(1, requires_grad=True).sum()

    cost._seconds(step, torch.device(device))
    assert told == [waits, "step", waits] if waits else told == ["step"]


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_every_transformation_elsewhere(library, elsewhere, modality):
    known = (audio if modality == "audio" else visual).KNOWN
    known = {name: {"p": 1.0} for name in sorted(known, key="crop".__ne__)}  # a crop comes first
    config = make_model().config.model_copy(update={"augment": Augment(**{modality: known})})
    model = EquiAV(config).eval()
    clips = read_clips(library, model, None, 6)
    rows = torch.arange(len(clips))
    params = Branch(model, modality, clips).space.sample(len(clips), torch.Generator().manual_seed(0))
    expected = Branch(model, modality, clips).view(rows, params)
    with elsewhere as device:
        found = Branch(model.to(device), modality, clips).view(rows, params)
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("modalities", ["audio", "visual", "both"])
def test_a_classifier_elsewhere(library, elsewhere, modalities, monkeypatch):
    monkeypatch.setattr(classification, "pick_device", torch.device)
    classifier = Classifier(make_model().config, ["class0", "class1", "class2"], modalities, "single-label").eval()
    here = classification.classify(library, classifier, device="cpu").to_dict()
    with elsewhere as device:
        there = classification.classify(library, classifier, device=str(device)).to_dict()
        assert next(classifier.parameters()).device.type == device.type
    assert flat(there) == pytest.approx(flat(here), **close(device))


def test_a_precision_is_decided_by_wish_and_device(monkeypatch):
    assert pick_precision() == pick_precision("auto", "mps") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, including_emulation=True: including_emulation)
    assert pick_precision("auto", "cuda:1") == "fp16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    assert pick_precision("auto", torch.device("cuda")) == "bf16"
    wishes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for name, dtype in wishes.items():
        assert pick_precision(name, "cpu") == pick_precision(dtype, "cpu") == name
    for wrong in ("float64", torch.float64, torch.int8, ""):
        with pytest.raises(ConfigError, match=r"no precision .*: expected auto, fp32, bf16, fp16"):
            pick_precision(wrong)
    assert pick_precision("fp32", ELSEWHERE) == "fp32"
    with pytest.raises(ConfigError, match=f"computes on {ELSEWHERE.type} in fp32 alone, not in bf16"):
        pick_precision("bf16", ELSEWHERE)


def vectors(device, precision):
    """Those of twelve inputs, all at once."""
    model = make_model(depth=3, width=48).to(device)
    rng = np.random.default_rng(0)
    mels = torch.from_numpy(rng.normal(-6, 4, (CLIPS, FEATURES.time_frames, FEATURES.mel_bins)).astype(np.float32))
    frames = torch.from_numpy(rng.integers(0, 256, (CLIPS, 3, 40, 54), dtype=np.uint8))
    sizes = torch.tensor([[40, 40 + 7 * (i % 3)] for i in range(CLIPS)])
    return np.stack([embed_log_mels(model, mels, precision), embed_pictures(model, frames, sizes, precision)])


def there(kind):
    """A device of this kind, to be entered."""
    if kind == "another":
        return another_device()
    try:
        return nullcontext(pick_device(kind))
    except ConfigError:
        return pytest.skip(f"there is no {kind} here")


@pytest.mark.parametrize("kind", ["cpu", "another", "cuda", "mps"])
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.999), ("fp16", 0.999)])
def test_vectors_of_every_device_and_precision_are_comparable(kind, precision, least):
    expected = vectors("cpu", "fp32")
    with there(kind) as device:
        if kind == "another" and precision != "fp32":
            with pytest.raises(ConfigError, match="in fp32 alone"):
                vectors(device, precision)
            return
        found = vectors(device, precision)
        np.testing.assert_array_equal(found, vectors(device, precision))
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    assert np.sum(found * expected, axis=-1).min() >= least
    assert (found == expected).all() == (kind in ("cpu", "another") and precision == "fp32")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_changes_neither_weights_nor_fingerprint(tmp_path, precision):
    model = make_model()
    model.save_pretrained(tmp_path / "R" / "model")
    half = EquiAV.from_pretrained(tmp_path / "R", dtype=precision)
    assert (half.precision, half.fingerprint()) == (precision, model.fingerprint())
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}
    with half.computing():
        assert (half.audio_tower.encoder.blocks[0].mlp(torch.randn(1, 24))).dtype != torch.float32
        assert half.audio_tokens(torch.randn(1, 32, 32)).dtype == torch.float32


def test_a_table_of_two_precisions_says_so_and_is_searched_as_one(library, equiav, tmp_path):
    make_model().save_pretrained(tmp_path / "R" / "model")
    run = ["--library", library.path, "--run", tmp_path / "R"]
    _, out, _ = equiav("embed", *run, "--precision", "bf16")
    assert f"{CLIPS} clips embedded, bf16 on cpu: " in out
    library.append([make_clip(i) for i in range(CLIPS, CLIPS + 2)])
    _, out, _ = equiav("embed", *run, "--precision", "fp32")
    assert f"{CLIPS + 2} clips embedded, bf16 on cpu and fp32 on cpu: " in out
    equiav("embed", *run, "--precision", "fp16")  # nothing was left to do
    table = SearchIndex(library.path, make_model())._now.table
    assert table.made_with() == ["bf16 on cpu", "fp32 on cpu"]
    for precision in ("fp32", "bf16", "fp16"):
        code, out, _ = equiav("search", *run, "--clip", "clip1", "-k", "13", "--precision", precision, "--json")
        assert (code, out.count("clip_id")) == (0, 13)


def test_an_evaluation_says_what_it_was_computed_with(library, equiav, tmp_path):
    make_model().save_pretrained(tmp_path / "R" / "model")
    found = {}
    for precision in ("fp32", "bf16"):
        file = tmp_path / f"{precision}.json"
        run = ["--library", library.path, "--run", tmp_path / "R", "--out", file, "--precision", precision]
        code, _, said = equiav("evaluate", "retrieval", *run)
        assert code == 0, said
        found[precision] = Result.load(file)
        assert found[precision].about.precision == precision
        assert found[precision].about.hardware["kind"] == "cpu"
    values = [{name: figure.value for name, figure in one.figures.items()} for one in found.values()]
    assert values[0] == pytest.approx(values[1], abs=0.2)


def test_every_pass_of_an_evaluation_is_in_the_models_precision(library, monkeypatch):
    seen = []
    forward = Block.forward
    monkeypatch.setattr(
        Block, "forward", lambda self, x: (seen.append(torch.is_autocast_enabled("cpu")), forward(self, x))[1]
    )
    monkeypatch.setattr(classifiers, "FEWEST_STEPS", 2)
    monkeypatch.setattr(classifiers, "EPOCHS", {"attentive": 2})
    model, half = make_model(), make_model()
    half.precision = "bf16"
    classes = Classifier(half.config, ["class0", "class1", "class2"], labels="single-label").eval()
    branch = Branch(half, "audio", read_clips(library, half, None, 6))
    rows = torch.arange(6)
    views = branch.view(rows, branch.space.identity(6)).to(branch.device)
    passes = {
        "retrieval": lambda: evaluate_retrieval(library, half, scoring="diagonal"),
        "linear": lambda: probe(library, half, kind="linear"),
        "attentive": lambda: probe(library, half, kind="attentive"),
        "localise": lambda: localise(library, half),
        "classify": lambda: classification.classify(library, classes, device="cpu", precision="bf16"),
        "diagnose": lambda: (branch.tokens(rows), branch.latent(views), branch.embed_inputs(views)),
    }
    for name, run in passes.items():
        seen.clear()
        run()
        assert set(seen) == {True}, name
    tokens = branch.tokens(rows)
    for found in (branch.predict(tokens, branch.space.encode(branch.space.identity(6))[:, None]), branch.latent(views)):
        assert found.dtype == torch.float32
        assert (branch.embed(found) != Branch(model, "audio", branch.clips).embed(found)).any()
    for here, other in zip(*(localise(library, one).shown for one in (model, half)), strict=True):
        for name, values in here.maps.items():
            np.testing.assert_allclose(other.maps[name], values, atol=0.03)
