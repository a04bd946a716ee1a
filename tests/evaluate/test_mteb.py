"""The model as an mteb encoder: mteb's own mock tasks, its VGGSound tasks on clips made here, our metrics beside."""

import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from equiav.errors import ConfigError
from equiav.media.mux import wav_file
from equiav.metrics.directions import mean_direction
from equiav.metrics.retrieval import retrieval_metrics
from equiav.model.equiav import EquiAV
from samples import TINY, pictures, tone, write_media

# one process imports mteb, which takes ten seconds
pytestmark = pytest.mark.xdist_group("mteb")
CLIPS = 12
SIZES = {"width": 24, "depth": 1, "heads": 3, "image_side": 32, "head_hidden": 16, "embedding": 12}


@pytest.fixture(scope="module")
def ours():
    pytest.importorskip("mteb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield importlib.import_module("equiav.evaluate.mteb")


@pytest.fixture(scope="module")
def model():
    return EquiAV({"architecture": SIZES, "features": TINY.model_dump()}, seed=0).eval()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Bytes of CLIPS videos and of their sounds, each of a rate and length of its own."""
    folder = tmp_path_factory.mktemp("clips")
    files = [write_media(folder / f"{i}.mp4", frames=pictures(10, seed=i)) for i in range(CLIPS)]
    rates = [16_000 if i % 2 else 44_100 for i in range(CLIPS)]
    sounds = [wav_file(tone(0.5 + 0.1 * i, 200 + 90 * i, rate), rate) for i, rate in enumerate(rates)]
    return [file.read_bytes() for file in files], sounds


def dataset(**columns):
    from datasets import Audio, Dataset, Video

    made = Dataset.from_dict(columns)
    for name, feature in (("audio", Audio()), ("video", Video())):
        if name in columns:
            made = made.cast_column(name, feature)
    return made


@pytest.mark.parametrize(
    "name",
    [
        "MockAudioClassificationCrossVal",
        "MockAudioReranking",
        "MockAny2AnyRetrievalA2ATask",
        "MockVideoClassification",
        "MockVideoAudioClassification",
        "MockVideoAudioMultilabelClassificationTask",
        "MockVideoAudioClusteringTask",
        "MockAsymVideoAudioPairClassificationTask",
        "MockImageClassificationTask",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_mtebs_own_mock_tasks_run_to_a_score(ours, model, name, tmp_path, monkeypatch):
    import datasets
    import mteb.mocks.mock_tasks as mocks

    # the mocks store arrays, which datasets leaves to torchcodec
    def stored(_, sound):
        return {"bytes": wav_file(np.asarray(sound["array"]), sound["sampling_rate"]), "path": None}

    monkeypatch.setattr(datasets.Audio, "encode_example", stored)
    (score,) = ours.run_tasks(model, [getattr(mocks, name)()], tmp_path)
    assert 0 < score.value <= 1
    assert json.loads(score.file.read_text())["scores"]["test" if score.split == "test" else "train"]


def test_it_is_an_encoder_as_mteb_defines_it(ours, model):
    from mteb.models.models_protocols import EncoderProtocol

    encoder = ours.MtebEncoder(model)
    assert isinstance(encoder, EncoderProtocol)
    about = encoder.mteb_model_meta
    assert (about.name, about.revision, about.license) == ("equiav/model", model.fingerprint(), "apache-2.0")
    assert set(about.modalities) == {"audio", "image", "video"}
    assert about.embed_dim == model.config.architecture.embedding


def test_results_of_another_precision_are_not_taken_from_the_cache(ours, model, monkeypatch):
    monkeypatch.setattr(model, "precision", "bf16")
    assert ours.MtebEncoder(model).mteb_model_meta.revision == f"{model.fingerprint()}-bf16"


@pytest.mark.filterwarnings("ignore")
def test_vggsound_retrieval_both_ways_has_the_figures_of_our_own_metrics(
    ours, model, clips, equiav, tmp_path, monkeypatch
):
    videos, sounds = clips
    texts = ["a", "b", "c", "d"] * (CLIPS // 4)
    whole = dataset(video=videos, audio=sounds, video_caption=texts, audio_caption=texts)
    place = "mteb.tasks.retrieval.eng.vggsound_av_retrieval.load_dataset"
    monkeypatch.setattr(place, lambda *_, **__: whole)
    model.save_pretrained(tmp_path / "run" / "model")
    names = ["VGGSoundAVA2VRetrieval", "VGGSoundAVV2ARetrieval"]
    code, out, _ = equiav("evaluate", "mteb", "--run", tmp_path / "run", "--tasks", ",".join(names), "--json")
    heard, seen = model.encode(audio=sounds), model.encode(image=videos)
    assert code == 0
    for name, score, pair in zip(names, json.loads(out)["scores"], [(heard, seen), (seen, heard)], strict=True):
        expected = retrieval_metrics(*pair)
        assert score["main"] == "ndcg_at_10"
        assert score["value"] == pytest.approx(expected.ndcg_at_10.value, abs=1e-5)
        assert score["scores"]["recall_at_1"] == pytest.approx(expected.recall_at_1.value, abs=1e-5)
        file = tmp_path / "run" / "mteb" / "results" / "equiav__run" / model.fingerprint() / f"{name}.json"
        assert json.loads(file.read_text())["task_name"] == name
    again = equiav("evaluate", "mteb", "--run", tmp_path / "run", "--tasks", names[0])
    assert again[0] == 0
    assert "ndcg_at_10" in again[1]


@pytest.mark.filterwarnings("ignore")
def test_audio_visual_classification_is_that_of_mean_directions(ours, model, clips, tmp_path):
    import mteb
    from datasets import DatasetDict
    from sklearn.linear_model import LogisticRegression

    videos, sounds = clips
    labels = [i % 3 for i in range(CLIPS)]
    half = CLIPS // 2

    class Small(type(mteb.get_task("AVEDatasetClassification"))):
        samples_per_label, n_experiments = CLIPS, 1

        def load_data(self, **_):
            whole = dataset(video=videos, audio=sounds, label=labels)
            self.dataset = DatasetDict(train=whole.select(range(half)), test=whole.select(range(half, CLIPS)))
            self.data_loaded = True

    (score,) = ours.run_tasks(model, [Small()], tmp_path)
    vectors = mean_direction(model.encode(audio=sounds), model.encode(image=videos))
    fitted = LogisticRegression(max_iter=100).fit(vectors[:half], labels[:half])
    assert score.main == "accuracy"
    assert score.value == pytest.approx(fitted.score(vectors[half:], labels[half:]))


def embedded(ours, model, **columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    about = SimpleNamespace(name="Made")
    return ours.MtebEncoder(model).encode(SimpleNamespace(dataset=rows), task_metadata=about, batch_size=2)


def test_a_sound_is_the_same_as_bytes_as_array_of_two_channels_and_from_a_decoder(ours, model):
    wave = tone(1.0, rate=22_050)
    samples = SimpleNamespace(data=torch.from_numpy(np.stack([wave, wave])), sample_rate=22_050)
    decoder = SimpleNamespace(get_all_samples=lambda: samples)
    array = {"array": np.stack([wave, wave]), "sampling_rate": 22_050}
    found = embedded(ours, model, audio=[{"bytes": wav_file(wave, 22_050), "path": None}, array, decoder])
    expected = model.encode(audio=[wave], sample_rate=22_050)
    np.testing.assert_allclose(found, np.repeat(expected, 3, axis=0), atol=1e-6)


def test_of_a_video_the_middle_frame_counts_as_frames_and_from_a_decoder(ours, model):
    class Decoder:
        def __len__(self):
            return len(shown)

        def get_frame_at(self, index):
            return SimpleNamespace(data=frames[index])

    shown = pictures(5)
    frames = torch.from_numpy(shown).permute(0, 3, 1, 2)
    found = embedded(ours, model, video=[frames, Decoder()])
    np.testing.assert_allclose(found, np.repeat(model.encode(image=[shown[2]]), 2, axis=0), atol=1e-6)


def test_a_picture_as_an_array_is_that_picture(ours, model):
    shown = pictures(2)
    found = embedded(ours, model, image=[shown[0], torch.from_numpy(shown[1])])
    np.testing.assert_allclose(found, model.encode(image=list(shown)), atol=1e-6)


def test_items_that_hold_nothing_are_named(ours, model):
    with pytest.raises(ConfigError, match="Made: its split '' has no rows"):
        ours.MtebEncoder(model).encode(SimpleNamespace(dataset=[]), task_metadata=SimpleNamespace(name="Made"))
    with pytest.raises(ConfigError, match="need their sample_rate"):
        embedded(ours, model, audio=[{"array": tone(1.0)}])
    with pytest.raises(ConfigError, match=r"found uint8 of \(0, 3, 8, 8\)"):
        embedded(ours, model, video=[np.zeros((0, 3, 8, 8), np.uint8)])


def test_text_is_refused_before_anything_is_loaded(ours, model, tmp_path):
    with pytest.raises(
        ConfigError, match="VGGSoundAVT2VRetrieval: needs text queries, and the model has no text tower"
    ):
        ours.evaluate_mteb(model, ["VGGSoundAVT2VRetrieval"], tmp_path)
    with pytest.raises(ConfigError, match="Made: needs text queries"):
        embedded(ours, model, text=["a dog"])


def test_the_error_of_an_unknown_task_lists_the_near_ones(ours, model, tmp_path):
    with pytest.raises(ConfigError, match=r"no task 'VGGSoundA2V'; near: .*VGGSoundAVA2VRetrieval"):
        ours.evaluate_mteb(model, ["VGGSoundA2V"], tmp_path)
    with pytest.raises(ConfigError, match="no task was named"):
        ours.evaluate_mteb(model, [], tmp_path)


def test_data_that_cannot_be_had_is_an_error_that_says_where_it_should_be(ours, model, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no way to the Hub")

    monkeypatch.setattr("mteb.tasks.retrieval.eng.vggsound_av_retrieval.load_dataset", unreachable)
    with pytest.raises(ConfigError, match=r"no way to the Hub. Its data is mteb/VGGSound_AV_RETRIEVAL on the Hub"):
        ours.evaluate_mteb(model, ["VGGSoundAVA2VRetrieval"], tmp_path)


def test_without_the_extra_the_verb_says_how_to_install_it(equiav, tmp_path, monkeypatch, model):
    model.save_pretrained(tmp_path / "model")
    monkeypatch.delitem(sys.modules, "equiav.evaluate.mteb", raising=False)
    monkeypatch.setitem(sys.modules, "mteb", None)
    code, _, err = equiav("evaluate", "mteb", "--run", tmp_path, "--tasks", "VGGSoundAVA2VRetrieval")
    assert code == 1
    assert "pip install 'equiav[mteb]'" in err
