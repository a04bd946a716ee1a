"""The demo: one command from nothing to a page that needs nothing."""

import json
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demo_writes_a_self_contained_page_and_prints_its_path_last(tmp_path):
    command = [sys.executable, "-m", "equiav", "demo", "--fast", "--out", str(tmp_path / "demo")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    page = tmp_path / "demo" / "demo.html"
    assert first.stdout.strip().splitlines()[-1] == str(page)
    assert first.stderr.count("equiav ") >= 3  # the commands for one's own videos
    html = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', html)
    # every hit has its picture and its spectrogram, every query the one that it asked with: a sound, a picture, a sound
    assert html.count("data:image/jpeg;base64") == 3 * 5 + 1
    assert html.count("data:image/png;base64") == 3 * 5 + 2
    assert "<svg" in html
    report = json.loads((tmp_path / "demo" / "retrieval.json").read_text())
    assert report["clips"] == 20
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout
