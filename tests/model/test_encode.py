"""Queries take the way of ingest: the same file gives the same vector, as path, as bytes, as array, in any batch."""

import io
import tracemalloc
import wave
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from equiav.errors import ConfigError, MediaError
from equiav.library.ingest import ingest
from equiav.library.table import Library
from equiav.media import decode
from equiav.media.decode import decode_audio, load_waveform, stream_windows
from equiav.media.fbank import fit_frames, log_mel
from equiav.media.mux import wav_file, write_clip
from equiav.metrics.directions import mean_direction
from equiav.model.encode import Embeddings, embed_log_mels, encode
from equiav.model.equiav import EquiAV
from equiav.search.embed import embed_library
from equiav.search.index import SearchIndex
from samples import write_media
from tiny_library import FEATURES, make_model

RATE = FEATURES.sample_rate


@pytest.fixture(scope="module")
def model():
    return make_model()


def tone(hertz, seconds, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * hertz * time) * np.exp(-2 * (time % 0.3))).astype(np.float32)


def write_wav(path, samples, rate=RATE):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1] if samples.ndim > 1 else 1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples * 32768).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i, (hertz, seconds) in enumerate([(300, 0.5), (900, 0.5), (2000, 1.3)]):
        rng = np.random.default_rng(i)
        picture = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        frames = np.repeat(picture[None], round(seconds * 10), axis=0)
        frames[::2, :8, :8] ^= 64  # a lamp that blinks: no still
        write_clip(folder / f"{i}.mp4", frames, 10, tone(hertz, seconds, 24_000), 24_000)
    return folder


@pytest.fixture(scope="module")
def embedded(videos, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("embedded") / "library"
    report = ingest(videos, path, FEATURES, workers=1)
    assert not report.rejects
    library = Library(path)
    embed_library(library, model)
    return library


def test_path_bytes_and_array_give_one_vector(tmp_path, model):
    samples = np.round(tone(440, 0.4) * 32768).astype(np.float32) / 32768
    path = write_wav(tmp_path / "a.wav", samples)
    expected = encode(model, audio=[path])
    assert expected.shape == (1, 12)
    assert expected.dtype == np.float32
    for same in (str(path), path.read_bytes(), [path.read_bytes()]):
        np.testing.assert_array_equal(encode(model, audio=same), expected)
    np.testing.assert_allclose(encode(model, audio=samples, sample_rate=RATE), expected, atol=1e-6)
    np.testing.assert_allclose(encode(model, audio=torch.from_numpy(samples), sample_rate=RATE), expected, atol=1e-6)


def test_arrays_of_another_rate_are_resampled(model):
    slow, fast = (encode(model, audio=tone(440, 0.4, rate), sample_rate=rate)[0] for rate in (RATE, 48_000))
    other = encode(model, audio=tone(1500, 0.4), sample_rate=RATE)[0]
    assert slow @ fast > 0.99
    assert 1 - slow @ fast < 0.2 * (1 - slow @ other)


def test_a_long_sound_is_the_mean_direction_of_its_windows(tmp_path, model):
    samples = np.concatenate([tone(300, 0.4), tone(1500, 0.4), tone(700, 0.3)])
    path = write_wav(tmp_path / "long.wav", samples)
    quantised = np.round(samples * 32768).astype(np.float32) / 32768
    windows = [quantised[:3200], quantised[3200:6400], quantised[6400:]]
    mels = np.stack([fit_frames(log_mel(window, FEATURES), FEATURES.time_frames) for window in windows])
    total = embed_log_mels(model, torch.from_numpy(mels)).sum(axis=0)
    np.testing.assert_allclose(encode(model, audio=path)[0], total / np.linalg.norm(total), atol=1e-5)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
@pytest.mark.parametrize("suffix", [".wav", ".mkv", ".mp4"])
def test_windows_of_a_sound_that_streams_are_parts_of_the_whole_bit_for_bit(tmp_path, rate, suffix):
    sound = np.cumsum(np.random.default_rng(rate).normal(0, 0.02, 5 * rate)).astype(np.float32)
    sound /= 2 * np.abs(sound).max()
    path = tmp_path / f"x{suffix}"
    if suffix == ".wav":
        path.write_bytes(wav_file(sound, rate))
    else:
        write_media(path, sound=sound, rate=rate, audio_start_s=0.3)
    whole = load_waveform(path, RATE)
    for length_s, hop_s in ((0.7, 0.7), (1.0, 0.3)):

        def plan(end_s, length_s=length_s, hop_s=hop_s):
            starts = np.arange(0, end_s - 0.2, hop_s).tolist()
            return [(start_s, min(start_s + length_s, end_s)) for start_s in starts]

        parts = list(stream_windows(path, plan, RATE))
        expected = [whole[round(start * RATE) : round(end * RATE)] for start, end in plan(len(whole) / RATE)]
        assert len(parts) == len(expected)
        for part, asked in zip(parts, expected, strict=True):
            np.testing.assert_array_equal(part, asked)


def test_a_sound_that_streams_needs_no_more_memory_when_it_is_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "PLACED_S", 5.0)
    sound = np.random.default_rng(0).normal(0, 0.1, 600 * 8000).astype(np.float32)
    path = tmp_path / "long.wav"
    path.write_bytes(wav_file(sound, 8000))

    def plan(end_s):
        return [(start_s, min(start_s + 10.0, end_s)) for start_s in np.arange(0, end_s, 10.0).tolist()]

    tracemalloc.start()  # NumPy tells it of its arrays
    try:
        assert sum(len(part) for part in stream_windows(path, plan, RATE)) == 600 * RATE
        streamed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        whole = load_waveform(path, RATE)
        loaded = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert streamed < whole.nbytes / 5
    assert loaded < 1.5 * whole.nbytes


def test_windows_whose_channels_cancel_stream_as_ingest_reads_them(tmp_path):
    wave = tone(440, 3.0)
    turns = np.where(np.arange(len(wave)) < RATE, 1, -1).astype(np.float32)
    path = write_wav(tmp_path / "x.wav", np.stack([wave, turns * wave], axis=1))
    windows = [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (2.0, 3.0)]
    parts = list(stream_windows(path, lambda _: windows, RATE))
    for (start_s, end_s), part in zip(windows, parts, strict=True):
        np.testing.assert_array_equal(part, decode_audio(path, start_s, end_s, RATE))
        assert np.ptp(part[-RATE // 4 :]) > 0.01 or start_s == 0.5  # half of that one is in phase


def test_a_cut_sound_as_a_query_is_an_error_although_it_streams(tmp_path, model):
    path = write_wav(tmp_path / "cut.wav", tone(440, 3.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="truncated"):
        encode(model, audio=path)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batches_do_not_change_a_vector(tmp_path, model, batch_size):
    paths = [write_wav(tmp_path / f"{i}.wav", tone(200 + 300 * i, 0.3 + 0.3 * i)) for i in range(4)]
    together = encode(model, audio=paths, batch_size=batch_size)
    alone = np.concatenate([encode(model, audio=path) for path in paths])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    pictures = [np.random.default_rng(i).integers(0, 256, (33 + 9 * i, 50, 3), dtype=np.uint8) for i in range(4)]
    together = encode(model, image=pictures, batch_size=batch_size)
    np.testing.assert_allclose(together, np.concatenate([encode(model, image=p) for p in pictures]), atol=2e-6)


def test_pictures_as_path_bytes_pil_and_array_give_one_vector(tmp_path, model):
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    expected = encode(model, image=picture)
    for same in (path, str(path), buffer.getvalue(), Image.open(path), [Image.open(path)], torch.from_numpy(picture)):
        np.testing.assert_array_equal(encode(model, image=same), expected)


def test_a_pillow_picture_is_seen_as_its_file_is(tmp_path, model):
    turned = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # a camera held upright
    turned.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(encode(model, image=opened), encode(model, image=tmp_path / "a.png"))
    deep = Image.fromarray(np.full((40, 40), 30_000, dtype=np.uint16))
    with pytest.raises(MediaError, match="mode I;16, expected 8 bits"):
        encode(model, image=deep)


def test_a_video_gives_what_embedding_the_library_stored(videos, embedded, model):
    found = encode(model, video=[videos / "0.mp4", (videos / "1.mp4").read_bytes()])
    assert isinstance(found, Embeddings)
    index = SearchIndex(embedded.path, model)
    rows = embedded.clips(columns=["clip_id", "source"]).to_pylist()
    for i in range(2):
        clip_id = next(row["clip_id"] for row in rows if Path(row["source"]).name == f"{i}.mp4")
        # the library stores the log-mel in half precision
        assert found.audio[i] @ index.clip_vector(clip_id, "audio") > 0.9999
        assert found.visual[i] @ index.clip_vector(clip_id, "visual") > 0.9999


@pytest.mark.parametrize("pick", ["exact", "key"])
def test_a_query_has_the_picture_that_ingest_takes_of_each_window(tmp_path, model, pick):
    features = FEATURES.model_copy(update={"frame_pick": pick})
    asking = EquiAV(model.config.model_copy(update={"features": features}), seed=0).eval()
    path = tmp_path / "v" / "x.mp4"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 190, (1, 6, 8, 3)) + rng.integers(0, 60, (72, 6, 8, 3))  # alike: no more key frames
    frames = np.kron(blocks, np.ones((1, 8, 8, 1))).astype(np.uint8)
    write_media(path, frames=frames, sound=tone(500, 1.2, 16_000), fps=60)  # a key frame each 0.17 s
    ingest(path.parent, tmp_path / "L", features, workers=1)
    library = Library(tmp_path / "L")
    embed_library(library, asking)
    rows = sorted(library.clips(columns=["clip_id", "start_s", "frame_times_s"]).to_pylist(), key=itemgetter("start_s"))
    assert [row["start_s"] for row in rows] == pytest.approx([0.0, 0.4, 0.8])
    middles = [row["frame_times_s"][len(row["frame_times_s"]) // 2] for row in rows]
    assert middles == pytest.approx({"exact": [0.2, 0.6, 1.0], "key": [1 / 6, 4 / 6, 1.0]}[pick], abs=1e-3)
    index = SearchIndex(library.path, asking)
    stored = [
        {modality: index.clip_vector(row["clip_id"], modality) for modality in ("audio", "visual")} for row in rows
    ]
    # the library stores the log-mel in half precision
    found = encode(asking, video=path)
    assert found.audio[0] @ mean_direction(*(one["audio"] for one in stored)) > 0.9999
    np.testing.assert_allclose(found.visual[0], mean_direction(*(one["visual"] for one in stored)), atol=1e-5)
    np.testing.assert_allclose(encode(asking, image=path)[0], stored[1]["visual"], atol=1e-5)
    np.testing.assert_allclose(encode(asking, image=path.read_bytes())[0], stored[1]["visual"], atol=1e-5)


def test_search_finds_the_clip_a_file_became(videos, embedded, model):
    index = SearchIndex(embedded.path, model)
    for i in range(2):
        for query in ({"audio": videos / f"{i}.mp4"}, {"image": videos / f"{i}.mp4"}):
            by = "audio" if "audio" in query else "visual"
            hit = index.search(**query, by=by, k=1)[0]
            assert (Path(hit.source).name, hit.score) == (f"{i}.mp4", pytest.approx(1, abs=2e-2))


def test_without_by_the_other_modality_is_searched(videos, embedded, model):
    sound, picture = videos / "0.mp4", videos / "1.mp4"
    index, n = SearchIndex(embedded.path, model), embedded.count()
    assert index.search(audio=sound, k=n) == index.search(audio=sound, by="visual", k=n)
    assert index.search(image=picture, k=n) == index.search(image=picture, by="audio", k=n)
    assert index.search(video=picture, k=n) == index.search(video=picture, by="both", k=n)


def test_one_query_at_a_time(videos, embedded, model):
    index, sound = SearchIndex(embedded.path, model), videos / "0.mp4"
    assert index.search(audio=[sound]) == index.search(audio=sound)
    with pytest.raises(ConfigError, match="one query at a time, found 2"):
        index.search(audio=[sound, sound])


def test_a_clip_does_not_find_itself(embedded, model):
    ids = embedded.clips(columns=["clip_id"])["clip_id"].to_pylist()
    found = SearchIndex(embedded.path, model).search(clip=ids[0], k=len(ids) - 1)
    assert sorted(hit.clip_id for hit in found) == sorted(ids[1:])


def test_the_models_mode_is_left_as_it_was(model):
    for training in (True, False):
        model.train(training)
        encode(model, image=np.zeros((40, 40, 3), np.uint8))
        assert model.training is training


def test_what_cannot_be_encoded_is_a_clear_error(tmp_path, model):
    samples = tone(440, 0.4)
    with pytest.raises(ConfigError, match="exactly one of audio, image and video, found none"):
        encode(model)
    with pytest.raises(ConfigError, match="found \\['audio', 'image'\\]"):
        encode(model, audio="a", image="b")
    with pytest.raises(ConfigError, match="the list is empty"):
        encode(model, image=[])
    with pytest.raises(ConfigError, match="sample_rate"):
        encode(model, audio=samples)
    with pytest.raises(ConfigError, match=r"float, shape \(S,\).*int64 of shape \(5,\)"):
        encode(model, audio=np.arange(5), sample_rate=RATE)
    with pytest.raises(ConfigError, match="path or the bytes of a file, found int"):
        encode(model, audio=[3])
    with pytest.raises(ConfigError, match=r"uint8 RGB, .*float64 of \(4, 4, 3\)"):
        encode(model, image=np.zeros((4, 4, 3)))
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        encode(model, image=np.zeros((40, 40, 3), np.uint8), batch_size=0)
    with pytest.raises(MediaError, match="missing"):
        encode(model, audio=tmp_path / "nothing.wav")
    with pytest.raises(MediaError, match="too_short"):
        encode(model, audio=tone(440, 0.01), sample_rate=RATE)


def test_a_sound_is_the_same_as_path_file_object_bytes_pair_and_tensor(model, tmp_path):
    sound = tone(700, 0.4)
    path = write_wav(tmp_path / "a.wav", sound)
    exact = wav_file(sound, RATE)
    with path.open("rb") as file:
        mixed = encode(model, audio=[path, file, io.BytesIO(path.read_bytes()), bytearray(path.read_bytes())])
    assert all(np.array_equal(vector, mixed[0]) for vector in mixed)
    kinds = [exact, memoryview(exact), (sound, RATE), (torch.from_numpy(sound), RATE), torch.from_numpy(sound)]
    found = encode(model, audio=kinds, sample_rate=RATE)
    assert all(np.array_equal(vector, found[0]) for vector in found)
    alone = encode(model, audio=(sound, RATE))
    np.testing.assert_allclose(alone, found[:1], atol=1e-6, err_msg="a pair is one sound, not a list of two")
    half = torch.from_numpy(sound).bfloat16()
    same = encode(model, audio=[half, half.float().numpy()], sample_rate=RATE)
    assert np.array_equal(same[0], same[1])


def test_a_picture_is_the_same_as_file_object_and_tensor(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        found = encode(model, image=[pixels, torch.from_numpy(pixels), file])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_what_encode_does_not_take_is_an_error(model, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match="expected paths, files, bytes or arrays, or a list of them; found int"):
        encode(model, audio=3)
    with (tmp_path / "a.txt").open() as file, pytest.raises(ConfigError, match="opened for bytes"):
        encode(model, audio=[file])
    with pytest.raises(ConfigError, match="16-bit samples: divide by 32768"):
        encode(model, audio=[np.zeros(800, np.int16)], sample_rate=RATE)


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.bfloat16, 0.999), (torch.float16, 0.9999), (torch.float64, 0.999999)]
)
def test_a_model_of_another_precision_embeds_nearly_the_same(model, dtype, least, videos):
    other = type(model)(model.config, seed=0)
    other.load_state_dict(model.state_dict())
    other.to(dtype)
    files = sorted(videos.glob("*.mp4"))
    for found, expected in zip(encode(other, video=files), encode(model, video=files), strict=True):
        assert found.dtype == np.float32
        assert (np.sum(found * expected, axis=1) > least).all()
