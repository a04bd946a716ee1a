"""A file is whole or as it was before."""

import sys

import pytest

from equiav.errors import ConfigError
from equiav.files import whole_file, write_text
from power import Disk, cut_at_every_flush


def write_half(path, fault):
    with whole_file(path, ConfigError, ValueError) as beside:
        beside.write_text("half")
        raise fault


def test_a_file_that_cannot_be_finished_stays_as_it_was_with_nothing_beside(tmp_path):
    path, full = tmp_path / "a.json", "No space left on device"
    write_text(path, "before", ConfigError)
    for fault in (OSError(28, full), ValueError(full)):
        with pytest.raises(ConfigError, match=rf"a\.json cannot be written: {full}$"):
            write_half(path, fault)
    with pytest.raises(KeyError):
        write_half(path, KeyError())
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])


def test_a_folder_is_made_for_text_alone_and_never_of_a_file(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "ä", ConfigError)
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "ä"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_text(tmp_path / "new" / "a.txt" / "b.txt", "", ConfigError)
    with pytest.raises(ConfigError, match="No such file"):
        write_half(tmp_path / "gone" / "a.txt", KeyError())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/fd names what is flushed")
def test_what_was_written_whole_survives_a_power_cut_at_any_moment(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk", monkeypatch)
    path = disk.root / "new" / "folder" / "a.json"
    with cut_at_every_flush(disk) as cuts:
        write_text(path, "first", ConfigError)
    assert [(left / "new" / "folder" / "a.json").read_text() for left in disk.cut()] == ["first", "first"]
    assert {(left / "new" / "folder" / "a.json").exists() for left in cuts} == {False, True}
    with cut_at_every_flush(disk) as cuts:
        write_text(path, "second", ConfigError)
    assert {(left / "new" / "folder" / "a.json").read_text() for left in cuts} == {"first", "second"}
    assert [(left / "new" / "folder" / "a.json").read_text() for left in disk.cut()] == ["second", "second"]
