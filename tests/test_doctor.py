"""The doctor says what is wrong in words, and nothing is wrong with what is right."""

import importlib.metadata
from pathlib import Path

import pytest

from equiav import doctor
from equiav.errors import MediaError


@pytest.fixture(autouse=True)
def rates(monkeypatch):
    """GFLOP/s of the machine at hand."""
    rates = {"fp32": 60e9, "bf16": 120e9}
    monkeypatch.setattr(doctor, "matmul_rate", lambda _device, kind, _side=None: rates[kind])
    return rates


def checks(folder):
    return {check.name: check for check in doctor.examine(folder)}


def test_a_sound_machine_has_nothing_broken(tmp_path):
    found = checks(tmp_path / "to" / "come")
    assert not [check for check in found.values() if check.state == "broken"]
    assert found["codecs"].state == found["matrix products"].state == "ok"
    assert "60 GFLOP/s, bf16 120 GFLOP/s" in found["matrix products"].found
    assert str(tmp_path) in found["disk"].found
    assert not (tmp_path / "to").exists()


def test_slow_bf16_is_noted_with_what_to_do(tmp_path, rates):
    rates["bf16"] = 1e9
    check = checks(tmp_path)["matrix products"]
    assert (check.state, "train with train.precision=fp32" in check.advice) == ("note", True)


def test_a_clip_that_cannot_be_read_back_is_broken(tmp_path, monkeypatch):
    def fail(_folder):
        raise MediaError("corrupt", "no decoder")

    monkeypatch.setattr(doctor, "_decode_a_made_clip", fail)
    assert (checks(tmp_path)["a made clip"].state, checks(tmp_path)["a made clip"].found) == (
        "broken",
        "corrupt: no decoder",
    )
    monkeypatch.setattr(doctor, "_decode_a_made_clip", lambda _folder: 0.3)
    assert checks(tmp_path)["a made clip"].state == "broken"


def test_the_made_clips_click_and_flash_come_together(tmp_path):
    assert doctor._decode_a_made_clip(tmp_path) <= doctor.APART_S


def test_a_missing_decoder_and_a_missing_extra_are_notes_that_say_how_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "CODECS", ("h264", "nosuchcodec"))
    real = importlib.metadata.version

    def version(package):
        if package == "onnx":
            raise importlib.metadata.PackageNotFoundError
        return real(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = checks(tmp_path)
    assert "files in nosuchcodec will be rejected" in found["codecs"].advice
    assert found["extra export"].state == "note"
    assert "pip install 'equiav[export]'" in found["extra export"].advice


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_broken(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
        check = doctor._disk("disk", tmp_path)
        assert (check.state, check.found) == ("broken", f"{tmp_path} cannot be written: Permission denied")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _place: type("Usage", (), {"free": 1e8}))
    assert doctor._disk("disk", tmp_path).state == "broken"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _place: type("Usage", (), {"free": 5e9}))
    assert doctor._disk("disk", tmp_path).state == "note"


def test_a_folder_below_a_file_is_broken(tmp_path):
    (tmp_path / "file").touch()
    check = doctor._disk("disk", tmp_path / "file" / "L")
    assert (check.state, check.found) == ("broken", f"{tmp_path / 'file'} is a file")


def test_a_package_that_is_not_there_is_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    check = checks(Path(tmp_path))["packages"]
    assert (check.state, "not installed: no-such-package" in check.advice) == ("broken", True)
