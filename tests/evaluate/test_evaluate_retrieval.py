"""Retrieval on a library: both directions, the same at every batch size, and honest about doubles."""

import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from equiav.config import Architecture, Features, ModelConfig
from equiav.errors import LibraryError
from equiav.evaluate.leaks import seen_in_training
from equiav.evaluate.results import Result, compare_results
from equiav.evaluate.retrieval import RetrievalReport, evaluate_retrieval, retrieval_result
from equiav.library.records import Clip
from equiav.library.table import Library
from equiav.metrics.retrieval import retrieval_metrics
from equiav.model.encode import embed_log_mels
from equiav.model.equiav import EquiAV
from equiav.search.embed import embed_library
from equiav.train.trained_on import about_to_train, load_trained_on

FEATURES = Features(mel_bins=16, time_frames=32, clip_s=0.35, frame_side=24, frames_per_clip=1)
SIZES = Architecture(
    width=24,
    depth=1,
    heads=3,
    image_side=32,
    parameter_width=8,
    predictor_heads=2,
    predictor_head_width=8,
    head_hidden=16,
    embedding=12,
    centroid_samples=3,
)


def png(picture):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(picture).integers(0, 256, (24, 24 + 3 * (picture % 2), 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def clip(i, *, sound, picture, split, source, frames=1):
    return Clip(
        clip_id=f"clip{i:02d}",
        item=f"item{i}",
        source=source,
        start_s=0.0,
        end_s=0.35,
        labels=[f"class{i % 2}"],
        split=split,
        status="ok",
        fbank=np.random.default_rng([1, sound]).normal(-4, 4, (32, 16)).astype(np.float16),
        fbank_frames=32,
        fbank_mean=-4.0,
        fbank_square=32.0,
        frames=[png(picture + 1000 * place) for place in range(frames)],
        frame_times_s=[0.1] * frames,
        file_size=1,
        file_mtime_ns=1,
    )


@pytest.fixture(scope="module")
def model():
    return EquiAV(ModelConfig(architecture=SIZES, features=FEATURES), seed=0).eval()


@pytest.fixture
def library(tmp_path):
    made = Library.create(tmp_path / "library", FEATURES)
    test = [clip(i, sound=i, picture=i, split="test", source=f"{i}.mp4") for i in range(10)]
    # the sound of clip 1 once more, the picture of clip 2 twice more
    test += [
        clip(10, sound=1, picture=10, split="test", source="10.mp4"),
        clip(11, sound=11, picture=2, split="test", source="11.mp4"),
        clip(12, sound=12, picture=2, split="test", source="12.mp4"),
    ]
    train = [clip(20 + i, sound=20 + i, picture=20 + i, split="train", source=f"{i}.mp4") for i in (3, 4, 70)]
    made.append(test + train)
    return made


def test_both_directions_equal_the_metrics_of_the_stored_embeddings(library, model):
    report = evaluate_retrieval(library, model, split="test")
    table = embed_library(library, model)
    keep = [i for i, clip_id in enumerate(table.clip_ids()) if int(clip_id[4:]) < 20]
    sound, picture = table.vectors("audio")[keep], table.vectors("visual")[keep]
    labels = [[f"class{i % 2}"] for i in range(13)]
    assert report.clips == report.audio_to_visual.gallery_size == 13
    assert report.audio_to_visual == retrieval_metrics(sound, picture, labels=labels)
    assert report.visual_to_audio == retrieval_metrics(picture, sound, labels=labels)
    assert report.audio_to_visual != report.visual_to_audio


def test_batch_size_does_not_change_the_report(library, model):
    alone, together = (evaluate_retrieval(library, model, batch_size=size) for size in (1, 13))
    assert alone == together


def test_the_order_in_which_clips_were_written_changes_nothing(model, tmp_path):
    clips = [clip(i, sound=i, picture=i + 100, split="test", source=f"/v/{i // 2}.mp4") for i in range(12)]
    reports = []
    for name, order in (("one", clips), ("other", clips[::-1])):
        made = Library.create(tmp_path / name, FEATURES)
        made.append(order)
        reports.append(evaluate_retrieval(made, model))
    assert reports[0] == reports[1]


def test_doubles_and_shared_files_are_counted(library, model):
    report = evaluate_retrieval(library, model, split="test", batch_size=4)
    assert (report.equal_sounds, report.equal_pictures, report.shared_sources) == (1, 2, 2)
    assert report.audio_to_visual.gallery_duplicates == 2
    assert report.visual_to_audio.gallery_duplicates == 1
    assert "2 of 13 clips come from files that also gave clips to another split" in report.warnings
    assert report.audio_to_visual.ties is not None
    assert report.audio_to_visual.ties.queries == 3
    assert RetrievalReport.model_validate_json(report.model_dump_json()) == report


def test_an_empty_split_or_foreign_features_are_clear_errors(library, model, tmp_path):
    with pytest.raises(LibraryError, match="split 'valid' has no clips"):
        evaluate_retrieval(library, model, split="valid")
    other = Library.create(tmp_path / "other", FEATURES.model_copy(update={"sample_rate": 8000}))
    with pytest.raises(LibraryError, match="sample_rate is 8000, the model's 16000"):
        evaluate_retrieval(other, model)


def test_a_stored_result_holds_the_reports_figures_and_compares_with_itself(library, model):
    report = evaluate_retrieval(library, model, split="test", resamples=50)
    stored = retrieval_result(report, library, model)
    assert stored.figures["audio_to_visual.recall_at_5"].value == report.audio_to_visual.recall_at_5.value
    assert stored.about.model == model.fingerprint()
    for name, values in stored.per_item.items():
        assert np.mean(values) == pytest.approx(stored.figures[name].value), name
    found = compare_results(stored, stored)
    assert found.settings == {}
    assert not any(difference.beyond_chance for difference in found.differences)
    assert any(difference.paired for difference in found.differences)
    assert "audio_to_visual.class_level.precision_at_1" in stored.figures
    assert "ranks" not in stored.details["audio_to_visual"]


def test_the_n_of_a_figure_is_the_number_of_its_queries(library, model):
    library.update([{"clip_id": f"clip{i:02d}", "labels": [], "split": "test"} for i in range(4)])
    figures = retrieval_result(evaluate_retrieval(library, model, resamples=50), library, model).figures
    assert figures["audio_to_visual.recall_at_1"].n == figures["visual_to_audio.median_rank"].n == 13
    assert figures["audio_to_visual.class_level.precision_at_1"].n == 9
    assert figures["visual_to_audio.class_level_others.mean_average_precision"].n == 9


def test_the_diagonal_score_is_the_mean_cosine_of_equal_places(model, tmp_path):
    """Against places embedded one by one; the sound around place k of K is 13/32 of the clip, kept inside it."""
    places = 3
    library = Library.create(tmp_path / "many", FEATURES.model_copy(update={"frames_per_clip": places}))
    clips = [clip(i, sound=i, picture=i, split="test", source=f"{i}.mp4", frames=places) for i in range(6)]
    library.append(clips)
    scores = np.zeros((6, 6))
    for place, start in enumerate([0, 8, 16]):  # of 32 spectrogram frames, 16 around 5.3, 16 and 26.7
        sounds = torch.from_numpy(np.stack([found.fbank[start : start + 16] for found in clips]).astype(np.float32))
        pictures = [np.asarray(Image.open(io.BytesIO(found.frames[place]))) for found in clips]
        scores += embed_log_mels(model, sounds) @ model.encode(image=pictures).T / places
    expected = [1 + int((scores[i] > scores[i, i]).sum()) for i in range(6)]
    alone, together = (
        evaluate_retrieval(library, model, scoring="diagonal", batch_size=size, resamples=50) for size in (1, 6)
    )
    assert alone == together
    assert alone.audio_to_visual.ranks == expected
    assert alone.visual_to_audio.ranks == [1 + int((scores[:, i] > scores[i, i]).sum()) for i in range(6)]
    assert alone.audio_to_visual.ranks != evaluate_retrieval(library, model, resamples=50).audio_to_visual.ranks


def test_a_list_of_ids_chooses_the_gallery_and_says_how_many_it_found(library, model, tmp_path):
    ids = tmp_path / "ids.csv"
    ids.write_text("video_id,class\n3,bell\n5,drum\n8,horn\nnot_there,horn\n")
    report = evaluate_retrieval(library, model, subset=ids, resamples=50)
    assert report.clip_ids == ["clip03", "clip05", "clip08"]
    assert (report.clips, report.listed, report.found) == (3, 4, 3)
    assert "3 of 4 listed ids found" in report.warnings
    assert "3 of 4 listed ids" in retrieval_result(report, library, model).about.protocol
    ids.write_text("zebra\n")
    with pytest.raises(LibraryError, match=r"none of the 1 ids .* files such as '0.mp4'"):
        evaluate_retrieval(library, model, subset=ids)


def test_clips_that_the_model_was_trained_on_are_counted(library, model, tmp_path):
    other = Library.create(tmp_path / "training", FEATURES)
    other.append([clip(i, sound=i, picture=i, split="train", source=f"elsewhere{i}.mp4") for i in (2, 7, 40)])
    report = evaluate_retrieval(library, model, training=other, resamples=50)
    assert report.trained_on == 2
    assert any("2 of 13 clips are among those that the model was trained on" in line for line in report.warnings)
    own = evaluate_retrieval(library, model, training=library, resamples=50)
    assert own.trained_on == 2, "other windows of 3.mp4 and 4.mp4 were trained on"
    assert evaluate_retrieval(library, model, resamples=50).trained_on is None
    with pytest.raises(LibraryError, match=r"split 'fold1' has no clips .* \(splits: train\)"):
        evaluate_retrieval(library, model, training=other, training_split="fold1", resamples=50)


def windows(library, count=44, sources=9, split="test", name="film{}.mp4", first=100):
    """Clips of few recordings: their windows one behind the other."""
    library.append(
        [
            dataclasses.replace(
                clip(first + i, sound=first + i, picture=first + i, split=split, source=name.format(i % sources)),
                start_s=0.35 * (i // sources),
                end_s=0.35 * (i // sources + 1),
            )
            for i in range(count)
        ]
    )
    return library


@pytest.fixture
def films(tmp_path):
    return windows(Library.create(tmp_path / "films", FEATURES))


def test_windows_of_few_files_are_drawn_file_by_file_with_a_warning(films, model):
    report = evaluate_retrieval(films, model, resamples=100)
    assert (report.clips, report.audio_to_visual.sources) == (44, 9)
    assert report.clip_sources == [i % 9 for i in range(44)]
    assert "the clips are of 9 sources: with fewer than 20 the intervals are rough" in report.warnings[0]
    assert "44 clips of 9 sources" in report.to_table().title
    table = embed_library(films, model)
    labels = [[f"class{i % 2}"] for i in range(44)]
    vectors = table.vectors("audio"), table.vectors("visual")
    sources = [i % 9 for i in range(44)]
    assert report.audio_to_visual == retrieval_metrics(*vectors, labels=labels, sources=sources, resamples=100)
    alone = retrieval_metrics(*vectors, labels=labels, resamples=100)
    assert alone.mean_rank.low != report.audio_to_visual.mean_rank.low
    stored = retrieval_result(report, films, model)
    assert stored.sources == sources
    assert {figure.sources for figure in stored.figures.values()} == {9}
    assert "clip_sources" not in stored.details


def test_one_file_alone_has_figures_and_no_interval(tmp_path, model):
    library = windows(Library.create(tmp_path / "one", FEATURES), count=6, sources=1)
    report = evaluate_retrieval(library, model, resamples=20)
    assert "all clips are of 1 source" in report.warnings[0]
    assert (report.visual_to_audio.median_rank.low, report.visual_to_audio.recall_at_1.high) == (None, None)
    assert report.to_table().row_count > 5
    stored = retrieval_result(report, library, model)
    stored.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json") == stored
    assert not any(found.beyond_chance for found in compare_results(stored, stored).differences)


def test_twenty_files_are_enough_not_to_be_warned(tmp_path, model):
    for sources, warned in ((19, True), (20, False)):
        library = windows(Library.create(tmp_path / f"{sources}", FEATURES), count=sources, sources=sources)
        said = evaluate_retrieval(library, model, resamples=20).warnings
        assert any("intervals are rough" in text for text in said) is warned


def run_of(library, folder, split="train", start=None):
    folder.mkdir(parents=True)
    about_to_train(library, {"train": split}, start=start and str(start)).save(folder)
    return load_trained_on(folder)


def test_all_windows_of_a_file_that_was_trained_on_count_as_trained_on(films, model, tmp_path):
    """Of film0 to film8 the training had one other window of film1, and the content of a window of film2 elsewhere."""
    trained = Library.create(tmp_path / "trained", FEATURES)
    trained.append(
        [
            clip(3, sound=3, picture=3, split="train", source="film1.mp4"),
            clip(102, sound=102, picture=102, split="train", source="moved/elsewhere.mp4"),
            clip(4, sound=4, picture=4, split="val", source="film3.mp4"),
        ]
    )
    learned = run_of(trained, tmp_path / "run")
    report = evaluate_retrieval(films, model, learned=learned, resamples=20)
    assert report.trained_on == 5 + 5, "films 1 and 2 have 5 windows each"
    said = "10 of 44 clips are among those that the model was trained on, or windows of the same sources"
    assert said in report.warnings
    assert evaluate_retrieval(films, model, training=trained, resamples=20).trained_on == 10
    earlier = run_of(trained, tmp_path / "base", split="val")
    other = windows(Library.create(tmp_path / "other", FEATURES), split="train", name="x{}.mp4", first=300)
    assert seen_in_training(films, report.clip_ids, run_of(other, tmp_path / "new")) == 0
    later = run_of(trained, tmp_path / "later", start=tmp_path / "base")
    assert earlier.clip_ids < later.clip_ids
    assert seen_in_training(films, report.clip_ids, later) == 15, "what the first model had learned from counts too"
    assert seen_in_training(films, report.clip_ids, None) is None


def test_segments_of_one_youtube_video_are_one_source_for_intervals_and_leaks(model, tmp_path):
    library = Library.create(tmp_path / "segments", FEATURES)
    names = ["/v/dQw4w9WgXcQ_000010.mp4", "/v/dQw4w9WgXcQ_000020.mp4", "/v/-0jeONf82dE_000010.mp4"]
    library.append([clip(i, sound=i, picture=i, split="test", source=name) for i, name in enumerate(names)])
    library.append([clip(9, sound=9, picture=9, split="train", source="/w/dQw4w9WgXcQ.webm")])
    report = evaluate_retrieval(library, model, learned=run_of(library, tmp_path / "run"), resamples=20)
    assert report.clip_sources == [0, 0, 1]
    assert (report.trained_on, report.shared_sources) == (2, 2)


def test_the_command_line_knows_what_its_run_was_trained_on(films, model, tmp_path, equiav):
    windows(films, count=20, sources=4, split="train", first=300)
    model.save_pretrained(tmp_path / "run" / "model")
    about_to_train(films, {"train": "train"}).save(tmp_path / "run")
    common = ("evaluate", "retrieval", "--library", films.path, "--run")
    code, out, err = equiav(*common, tmp_path / "run")
    assert code == 0, err
    assert "20 of 44 clips are among those that the model was trained on" in " ".join(out.split())
    code, out, _ = equiav(*common, tmp_path / "run" / "model", "--json")
    assert json.loads(out)["trained_on"] == 20


def test_a_list_says_where_its_other_ids_are(library, model, tmp_path):
    silent = dataclasses.replace(clip(50, sound=50, picture=50, split="test", source="s.mp4"), status="silent")
    library.append([silent])
    ids = tmp_path / "ids.csv"
    ids.write_text("video_id\n5\n8\nclip23\n70\ns\nnowhere\n")
    report = evaluate_retrieval(library, model, subset=ids, resamples=20)
    assert (report.listed, report.found) == (6, 2)
    assert report.warnings[1] == "2 of 6 listed ids found"
    assert "2 of these ids are in split train, not test" in report.warnings
    assert "1 of these ids cannot be ranked: they lack sound or moving pictures (silent 1)" in report.warnings
    ids.write_text("70\n")
    with pytest.raises(LibraryError, match="1 of these ids is in split train, not test"):
        evaluate_retrieval(library, model, subset=ids)
