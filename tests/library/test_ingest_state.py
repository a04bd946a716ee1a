"""What an ingest decides while items are examined and read at the same time."""

from equiav.errors import MediaError
from equiav.library import ingest as ingest_module
from equiav.library.ingest import ingest
from equiav.library.items import Item, Listing
from equiav.library.windows import ClipWindow, Examined, Read, stamp_of
from equiav.media.probe import MediaInfo
from equiav.media.windows import Window
from in_process import InProcess
from samples import TINY


class Pool(InProcess):
    """One file is examined when nothing else is left to do; of a film no window can be read."""

    def __init__(self, slow):
        super().__init__(do=self.result)
        self.slow, self.examined = slow, []

    def has_room(self):
        return len(self.held) < 8

    def wait(self):
        self.held.sort(key=lambda task: task.item.path == self.slow)
        task = self.held.pop(0)
        return [(task, self.do(task))]

    def result(self, task):
        if task.examined:
            return Read((), MediaError("gap", "nothing there"), "decode")
        self.examined.append(task.item.path.name)
        if task.item.path == self.slow:
            return MediaError("not_media", "a text")
        first, last = int(task.item.start_s or 0), int(task.item.end_s or 2)
        windows = tuple(ClipWindow(Window(float(i), i + 1.0), f"{i:024x}") for i in range(first, last))
        info = MediaInfo(2.0, 2.0, None, 16_000, 1, None, None, None)
        return Examined(stamp_of(task.item.path), info, windows, len(windows))


def test_a_copy_of_two_items_that_fail_is_examined_once_more_and_all_are_recorded(tmp_path, monkeypatch):
    """Two parts of a film fail while the film and its copy, which hold both, wait for a slow file before them."""
    x, film, copy, slow = (tmp_path / f"{name}.wav" for name in ("x", "film", "copy", "slow"))
    for path in (x, film, copy, slow):
        path.write_text("it is not read")
    parts = [Item(x, start_s=float(i), end_s=i + 1.0) for i in range(2)]
    pool = Pool(slow)
    monkeypatch.setattr(ingest_module, "_pool", lambda *_: pool)
    report = ingest(Listing(tmp_path, [*parts, Item(film), Item(copy), Item(slow)]), tmp_path / "L", TINY)
    assert sorted(reject.item for reject in report.rejects) == sorted(
        item.key for item in (*parts, Item(film), Item(copy), Item(slow))
    )
    assert report.duplicates == 0
    assert max(map(pool.examined.count, ("film.wav", "copy.wav"))) <= 3, pool.examined
