"""Many files at once: read ahead in worker processes where it pays, with the vectors that each has alone."""

import io
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from equiav.errors import ConfigError, MediaError, ModelError, WorkerError
from equiav.media import inputs, sandbox
from equiav.media.mux import wav_file, write_clip
from equiav.model.encode import Embeddings, Encoded, encode
from tiny_library import FEATURES, make_model

RATE = FEATURES.sample_rate


@pytest.fixture(scope="module")
def model():
    return make_model()


def noise(seed, seconds=0.4):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def pixels(seed, wide=50):
    return np.random.default_rng(seed).integers(0, 256, (40, wide, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(10):
        (folder / f"{i}.wav").write_bytes(wav_file(noise(i, 0.3 + 0.2 * (i % 4)), RATE))
    (folder / "broken.wav").write_bytes(b"no sound at all")
    return folder


@pytest.fixture
def pools(monkeypatch):
    """Sizes of the pools that are started."""
    sizes = []

    class Seen(sandbox.Sandbox):
        def __init__(self, function, workers, limit_s):
            sizes.append(workers)
            super().__init__(function, workers, limit_s)

    monkeypatch.setattr(inputs, "Sandbox", Seen)
    return sizes


def test_workers_give_the_vectors_of_reading_here_bit_for_bit(sounds, model, tmp_path):
    files = sorted(sounds.glob("[0-9].wav"))
    (tmp_path / "long.wav").write_bytes(wav_file(noise(9, 0.4 * (inputs.AT_ONCE + 3)), RATE))
    write_clip(tmp_path / "v.mp4", np.stack([pixels(i, 48) for i in range(8)]), 10, noise(1, 0.8), RATE)
    pictures = [tmp_path / f"{i}.png" for i in range(2)]
    for i, path in enumerate(pictures):
        Image.fromarray(pixels(i, 50 + 9 * i)).save(path)

    def lists():
        opened = io.BytesIO(files[1].read_bytes())
        mixed = [files[0].read_bytes(), opened, noise(1), (noise(2), 2 * RATE), torch.from_numpy(noise(3))]
        yield {"audio": [tmp_path / "long.wav", *files, str(files[2]), *mixed], "sample_rate": RATE}
        yield {
            "image": [*pictures, pictures[0].read_bytes(), Image.open(pictures[1]), pixels(5, 70), tmp_path / "v.mp4"]
        }
        yield {"video": [tmp_path / "v.mp4", (tmp_path / "v.mp4").read_bytes()]}

    for here, there in zip(lists(), lists(), strict=True):
        expected = encode(model, **here, workers=0, batch_size=4)
        for found, own in zip(
            np.atleast_3d(encode(model, **there, workers=2, batch_size=4)), np.atleast_3d(expected), strict=True
        ):
            np.testing.assert_array_equal(found, own)
        (items,) = (items for items in here.values() if isinstance(items, list))
        assert np.shape(expected)[-2] == len(items)


def test_a_file_has_one_vector_bit_for_bit_in_all_lists_longer_than_a_batch(sounds, model):
    files = sorted(sounds.glob("[0-9].wav"))
    lists = [files, files[::-1], files[:7], [files[i] for i in (3, 1, 4, 1, 5, 9, 2, 6)]]
    found = [dict(zip(order, encode(model, audio=order, batch_size=4), strict=True)) for order in lists]
    pictures = [pixels(i, 40 + 11 * (i % 5)) for i in range(9)]
    seen = [encode(model, image=[pictures[i] for i in order], batch_size=4) for order in (range(9), range(8, 2, -1))]
    for other in found[1:]:
        assert all(np.array_equal(vector, found[0][file]) for file, vector in other.items())
    np.testing.assert_array_equal(seen[1], seen[0][8:2:-1])
    alone = np.concatenate([encode(model, audio=file) for file in files])
    assert (alone * np.stack(list(found[0].values()))).sum(1).min() > 0.99999


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_an_error_or_is_named(sounds, model, workers):
    good = sorted(sounds.glob("[0-9].wav"))[:3]
    files = [good[0], sounds / "broken.wav", good[1], sounds / "absent.wav", good[2]]
    with pytest.raises(MediaError, match=r"broken\.wav"):
        encode(model, audio=files, workers=workers, batch_size=2)
    found = encode(model, audio=files, workers=workers, on_error="skip")
    assert isinstance(found, Encoded)
    assert found.indices == [0, 2, 4]
    assert list(found.skipped) == [1, 3]
    assert "broken.wav" in found.skipped[1]
    assert found.skipped[3].startswith("missing")
    np.testing.assert_allclose(found.embeddings, encode(model, audio=good), atol=1e-6)
    with pytest.raises(ConfigError, match="path or the bytes of a file, found int"):  # no fault of a file
        encode(model, audio=[good[0], 3], workers=workers, on_error="skip")


def test_a_file_that_breaks_off_is_skipped_as_a_whole(sounds, model, tmp_path):
    whole = wav_file(noise(0, 4.0), RATE)
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    found = encode(model, audio=[tmp_path / "cut.wav", sounds / "0.wav"], on_error="skip", batch_size=2)
    assert found.indices == [1]
    assert found.skipped[0].startswith("truncated")


def test_where_all_is_skipped_there_are_no_rows(sounds, model):
    found = encode(model, audio=[sounds / "broken.wav"], on_error="skip")
    assert (found.embeddings.shape, found.indices, list(found.skipped)) == ((0, 12), [], [0])
    both = encode(model, video=[sounds / "broken.wav", sounds / "0.wav"], on_error="skip").embeddings
    assert isinstance(both, Embeddings)
    assert both.audio.shape == both.visual.shape == (0, 12)


def test_vectors_that_cancel_have_no_direction_and_a_mean_of_length_nought(model, monkeypatch):
    ends = np.eye(12, dtype=np.float32)[:1] * np.array([[1], [-1]], np.float32)
    monkeypatch.setattr("equiav.model.encode.embed_log_mels", lambda *_: ends)
    sound = (noise(0, 0.8), RATE)
    with pytest.raises(ModelError, match="opposite directions"):
        encode(model, audio=[sound])
    np.testing.assert_array_equal(encode(model, audio=[sound], normalize=False), np.zeros((1, 12)))
    assert "opposite directions" in encode(model, audio=[sound], on_error="skip").skipped[0]


def test_without_normalising_a_vector_is_the_mean_of_its_windows_unit_vectors(model):
    sound = noise(0, 1.2)
    parts = encode(model, audio=[(part, RATE) for part in np.split(sound, 3)])
    np.testing.assert_allclose(encode(model, audio=(sound, RATE), normalize=False)[0], parts.mean(0), atol=1e-5)
    assert np.linalg.norm(parts.mean(0)) < 0.9999


def test_tensors_instead_of_arrays(sounds, model):
    files = [sounds / "0.wav", sounds / "1.wav"]
    found = encode(model, audio=files, convert_to_tensor=True)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found, encode(model, audio=files))
    skipped = encode(model, audio=[*files, sounds / "broken.wav"], on_error="skip", convert_to_tensor=True)
    assert torch.equal(skipped.embeddings, found)


def test_a_call_has_a_precision_and_a_device_of_its_own(sounds, model):
    files = [sounds / "0.wav", sounds / "1.wav"]
    expected = encode(model, audio=files)
    half = encode(model, audio=files, dtype="bf16", device="cpu")
    assert model.precision == "fp32"
    assert (half * expected).sum(1).min() > 0.999
    assert (half != expected).any()
    np.testing.assert_array_equal(model.encode(audio=files, dtype=torch.bfloat16), half)
    with pytest.raises(ConfigError, match="no device 'cuda:99' here"):
        encode(model, audio=files, device="cuda:99")
    with pytest.raises(ConfigError, match="no precision 'int8'"):
        encode(model, audio=files, dtype="int8")
    with pytest.raises(ConfigError, match="on_error='ignore': expected raise or skip"):
        encode(model, audio=files, on_error="ignore")


def test_progress_is_told_or_shown(sounds, model, capsys):
    told = []
    files = sorted(sounds.glob("[0-9].wav"))
    encode(model, audio=files, batch_size=4, progress=lambda done, count: told.append((done, count)))
    assert told == sorted(told)
    assert told[-1] == (10, 10)
    assert len(told) > 3
    encode(model, audio=files, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "10/10" in shown.err
    assert "file/s" in shown.err


def test_a_short_list_starts_no_workers_and_one_that_takes_long_does(sounds, model, pools, monkeypatch):
    files = sorted(sounds.glob("[0-9].wav"))
    expected = encode(model, audio=files, batch_size=4)
    assert pools == []
    monkeypatch.setattr(inputs, "LOOK_S", 0.0)
    monkeypatch.setattr(inputs, "PAYS_S", 0.0)
    monkeypatch.setattr(inputs, "usable_cores", lambda: 1)
    encode(model, audio=files[:1])
    assert pools == []
    np.testing.assert_array_equal(encode(model, audio=files, batch_size=4), expected)
    assert pools == [1]


def test_workers_that_cannot_start_are_an_error_where_they_were_asked_for(sounds, model, monkeypatch):
    def refuse():
        raise WorkerError("worker processes cannot be started: no Python")

    files = sorted(sounds.glob("[0-9].wav"))
    expected = encode(model, audio=files)
    monkeypatch.setattr(sandbox, "_python", refuse)
    monkeypatch.setattr(inputs, "LOOK_S", 0.0)
    monkeypatch.setattr(inputs, "PAYS_S", 0.0)
    with pytest.raises(WorkerError, match="no Python"):
        encode(model, audio=files, workers=1)
    np.testing.assert_array_equal(encode(model, audio=files), expected)


def test_an_error_leaves_neither_thread_nor_process_behind(sounds, model):
    files = [sounds / "broken.wav", *sorted(sounds.glob("[0-9].wav")) * 5]
    threads, children = threading.active_count(), psutil.Process().children()
    with pytest.raises(MediaError, match=r"broken\.wav"):
        encode(model, audio=files, workers=2, batch_size=2)
    assert threading.active_count() == threads
    assert psutil.Process().children() == children


def test_a_script_without_a_main_guard_reads_with_workers(sounds, model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(
        "from equiav import EquiAV\n"
        f"model = EquiAV.from_pretrained({str(tmp_path / 'model')!r})\n"
        f"print(model.encode(audio=[{str(sounds / '0.wav')!r}] * 3, workers=1).shape)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "(3, 12)\n"
