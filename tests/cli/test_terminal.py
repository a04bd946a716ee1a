"""The progress bar: what matters stays readable in a narrow terminal, and without one."""

import io
import os
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from equiav.cli import terminal

NOTE = "loss 2.43 inter 1.40 intra_audio 2.18 intra_visual 1.95 · acc 25% · align 2.09 uniform -0.07 · 77 clips/s"


def shown(monkeypatch, **options):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=out, width=80, **options))
    with terminal.Bar("training", "steps") as bar:
        for done in (3, 7):
            bar.update(done, 10, NOTE)
    return out.getvalue()


def test_count_time_left_and_the_whole_note_fit_a_terminal_of_80_columns(monkeypatch):
    text = shown(monkeypatch, force_terminal=True, no_color=True)
    for part in ("training", "━", "7/10", "left", "loss 2.43", "77 clips/s"):
        assert part in text


def test_without_a_terminal_there_are_plain_lines(monkeypatch):
    text = shown(monkeypatch, force_terminal=False)
    assert text.startswith("training: 3/10 loss 2.43")
    assert "\x1b" not in text


def test_without_a_terminal_the_end_is_printed_once_whatever_comes_after_it(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=out, width=80, force_terminal=False))
    with terminal.Bar("embedding", "clips") as bar:
        for done, note in ((1, ""), (2, ""), (2, "epoch 1 of 2"), (2, "epoch 2 of 2")):
            bar.update(done, 2, note)
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["1/2", "2/2"]


def test_a_plain_line_without_a_note_has_no_gap(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=out, width=80, force_terminal=False))
    with terminal.Bar("rendering", "videos") as bar:
        bar.update(10, 10)
    assert out.getvalue() == "rendering: 10/10\n"


def test_names_and_labels_are_shown_as_they_are(capsys):
    terminal.out.print("videos/12:100:30.mp4 :dog:")
    assert capsys.readouterr().out == "videos/12:100:30.mp4 :dog:\n"


CHILD = """
import hashlib, sys
from equiav.cli import terminal

with terminal.stop_on_signal() as should_stop:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"x", {rounds})  # one call, in which Python runs no handler
    print("over", should_stop(), flush=True)
sys.exit(terminal.stop_code())
"""


def started(rounds, *, environment=None):
    code = CHILD.format(rounds=rounds)
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize(("sent", "stopped"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_that_it_will_stop_is_printed_in_the_middle_of_a_long_step(sent, stopped):
    child = started(rounds=8_000_000)
    child.send_signal(sent)
    printed, _ = child.communicate(timeout=60)
    first, last = printed.splitlines()
    assert first == "stopping after this step; Ctrl-C again stops at once, without saving"
    assert (last, child.returncode) == ("over True", stopped)


def test_a_second_ctrl_c_ends_even_a_step_that_never_ends():
    child = started(rounds=2**31 - 1)
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline().startswith("stopping")
    child.send_signal(signal.SIGINT)
    printed, _ = child.communicate(timeout=60)
    assert (printed, child.returncode) == ("interrupted; run the same command again to go on\n", 130)


def test_the_ctrl_c_that_a_launcher_forwards_is_no_second_one():
    child = started(8_000_000, environment={**os.environ, "WORLD_SIZE": "2"})
    for _ in range(2):
        child.send_signal(signal.SIGINT)
    printed, _ = child.communicate(timeout=60)
    assert printed.splitlines()[-1] == "over True"
    assert printed.count("stopping") == 1


def test_handlers_are_what_they_were_once_the_work_is_over():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with terminal.stop_on_signal() as should_stop:
        assert not should_stop()
        signal.raise_signal(signal.SIGTERM)
        assert should_stop()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
