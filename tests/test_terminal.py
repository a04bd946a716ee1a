"""The progress bar: what matters stays readable in a narrow terminal, and without one."""

import io

from rich.console import Console

from equiav import terminal

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


def test_without_a_terminal_the_end_is_told_once_whatever_comes_after_it(monkeypatch):
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
