"""The demo: one command from nothing to a page that needs nothing."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from equiav import demo
from equiav.cli import app, use
from equiav.model.equiav import EquiAV
from equiav.serve.reports import Reports


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A demo that is done at once, in a folder whose name a shell would take apart."""
    folder = tmp_path / "my demo"
    monkeypatch.setattr(demo, "run_demo", lambda out, **_: out / "demo.html")
    return folder


def test_the_last_line_of_the_demo_opens_its_page_in_a_browser(equiav, made):
    code, said, _ = equiav("demo", "--out", made)
    path, command = said.splitlines()
    assert (code, path) == (0, str(made / "demo.html"))
    words = shlex.split(command, comments=True)
    assert words[-5:] == ["serve", "--library", str(made / "library"), "--run", str(made / "run")]
    assert "http://127.0.0.1:7860" in command
    code, said, _ = equiav("demo", "--out", made, "--json")
    assert shlex.split(json.loads(said)["serve"]) == words


def test_the_demo_says_what_its_last_line_needs(equiav, made, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(use, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    _, said, _ = equiav("demo", "--out", made)
    _, install, command = said.splitlines()
    assert shlex.split(install, comments=True) == ["pip", "install", "equiav[serve]"]
    assert "uvicorn" in install
    assert " serve --library " in command


def test_the_demo_names_a_program_that_a_shell_finds(equiav, made, monkeypatch):
    here = Path(sys.executable).parent
    for called, found, program in (
        ("/elsewhere/my venv/bin/equiav", None, "'/elsewhere/my venv/bin/equiav'"),
        (".venv/bin/equiav", "/usr/bin/equiav", ".venv/bin/equiav"),
        (str(here / "equiav"), str(here / "equiav"), "equiav"),
        ("src/equiav/__main__.py", None, f"{sys.executable} -m equiav"),
    ):
        monkeypatch.setattr(app.sys, "argv", [called])
        monkeypatch.setattr(app.shutil, "which", lambda _, found=found: found)
        assert app._program() == program


@pytest.mark.slow
def test_the_demo_writes_a_self_contained_page_and_prints_its_path_and_what_serves_it(tmp_path):
    command = [sys.executable, "-m", "equiav", "demo", "--fast", "--out", str(tmp_path / "demo")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    page = tmp_path / "demo" / "demo.html"
    path, serve = first.stdout.strip().splitlines()
    assert path == str(page)
    verb = f" serve --library {tmp_path / 'demo' / 'library'} --run {tmp_path / 'demo' / 'run'}"
    assert f"equiav{verb}  # " in serve
    assert "http://127.0.0.1:7860" in serve
    assert first.stderr.count("equiav ") >= 3  # the commands for one's own videos
    html = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', html)
    # every hit has its picture and its spectrogram, every query the one that it asked with: a sound, a picture, a sound
    assert html.count("data:image/jpeg;base64") == 3 * 5 + 1
    assert html.count("data:image/png;base64") == 3 * 5 + 2
    assert "<svg" in html
    report = json.loads((tmp_path / "demo" / "retrieval.json").read_text())
    assert report["clips"] == 20
    model = EquiAV.from_pretrained(tmp_path / "demo" / "run" / "model")
    shown = Reports(tmp_path / "demo" / "run", model.fingerprint()).get().retrieval
    assert shown is not None
    assert (shown.state, shown.clips) == ("current", 20)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout
