"""Random histories of a library, embedded and searched again and again, with failures: hits are those of a fresh embed.

A history is a list of plain tuples: what fails is shrunk to a short one, which belongs into test_embed.py.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lance.dataset import DatasetOptimizer

from equiav.config import ModelConfig
from equiav.errors import ConfigError, LibraryError
from equiav.library import ingest as ingest_module
from equiav.library import versions
from equiav.library.ingest import ingest
from equiav.library.manifests import read_source
from equiav.library.table import Library
from equiav.model.equiav import EquiAV
from equiav.search import approximate, exact, indexing
from equiav.search import embed as embed_module
from equiav.search import table as table_module
from equiav.search.embed import embed_library
from equiav.search.index import SearchIndex
from equiav.search.table import EmbeddingsTable, table_path
from in_process import InProcess
from samples import TINY, pictures, tone, write_media
from tiny_library import FEATURES, SIZES, make_clip, make_model

KEY = FEATURES.model_copy(update={"frame_pick": "key"})
EVERYTHING = 99
# Whatever changes a table on disk
WRITES = {
    lance: ("write_dataset",),
    lance.LanceDataset: (
        "delete",
        "drop_columns",
        "update_schema_metadata",
        "cleanup_old_versions",
        "create_index",
        "create_scalar_index",
    ),
    DatasetOptimizer: ("compact_files", "optimize_indices"),
}

number, statuses = st.integers(0, 7), st.sampled_from(("ok", "ok", "silent", "still", "no_audio", "no_video"))
failure = st.none() | st.tuples(st.integers(1, 6), st.booleans())  # at which write, and whether it was done
change = st.one_of(
    st.tuples(st.just("add"), number, statuses),
    st.tuples(st.just("change"), number, number),  # of another content: another id
    st.tuples(st.just("again"), number, statuses),
    st.tuples(st.just("again"), number, statuses),  # the same content, which gives other modalities now
    st.tuples(st.just("rename"), number, st.sampled_from(("a.mp4", "sub/b.mp4"))),
    st.tuples(st.just("relabel"), number, st.sampled_from(("dog", "cat")), st.sampled_from(("train", "test"))),
    st.tuples(st.just("remove"), number),
    st.tuples(st.just("tidy")),
)
embed = st.tuples(st.just("embed"), failure)
step = st.one_of(
    change,
    change,
    st.tuples(st.just("meanwhile"), st.integers(1, 3), change),  # an ingest and another embed, while one is at work
    st.tuples(st.sampled_from(("double", "anew"))),
    embed,
    embed,
)
start = st.lists(st.tuples(st.just("add"), number, statuses), min_size=3, max_size=6).map(
    lambda clips: [*clips, ("embed", None)]
)


@pytest.fixture(scope="module")
def model():
    return make_model()


class World:
    """A library made by hand, its embeddings, and an index that is kept open."""

    ks = ()  # also asked for

    def __init__(self, root, model):
        self.path, self.model, self.index = root / "L", model, None
        self.root, self.features, self.there = root, FEATURES, {}
        Library.create(self.path, self.features)

    @property
    def library(self):
        return Library(self.path)

    def clip(self, clip_id, status):
        i = int(clip_id.removeprefix("clip"))
        self.there[clip_id] = status
        # other features, other content under the same id
        return make_clip(i, seed=int(self.features == KEY), clip_id=clip_id, status=status)

    def named(self, i):
        return sorted(self.there)[i % len(self.there)] if self.there else None

    def add(self, i, status):
        if f"clip{i}" not in self.there:
            self.library.append([self.clip(f"clip{i}", status)])

    def again(self, i, status):
        if clip_id := self.named(i):
            self.library.remove([clip_id])
            self.library.append([self.clip(clip_id, status)])

    def change(self, i, other):
        if clip_id := self.named(i):
            self.remove(i)
            self.add(10 + int(clip_id.removeprefix("clip")) % 10 + other, "ok")

    def rename(self, i, name):
        if clip_id := self.named(i):
            self.library.update([{"clip_id": clip_id, "source": name}])

    def relabel(self, i, label, split):
        if clip_id := self.named(i):
            self.library.update([{"clip_id": clip_id, "labels": [label], "split": split}])

    def remove(self, i):
        if clip_id := self.named(i):
            self.library.remove([clip_id])
            del self.there[clip_id]

    def tidy(self):
        self.library.tidy()

    def anew(self):
        """The library is thrown away and made again, with other features."""
        shutil.rmtree(self.path / "clips.lance")
        self.features = FEATURES if self.features == KEY else KEY
        Library.create(self.path, self.features)
        self.library.append([self.clip(clip_id, status) for clip_id, status in list(self.there.items())])

    def double(self):
        """What two embeds at once did before there was a lock."""
        path = table_path(self.path, self.model.fingerprint())
        if path.exists():
            lance.write_dataset(lance.dataset(path).to_table(), path, mode="append")

    def embed(self, fail, on_progress=None):
        if fail:
            interrupted(lambda: embed_library(self.library, self.model, batch_size=1), *fail)
            self.look()
        try:
            embed_library(self.library, self.model, batch_size=1, on_progress=on_progress)
        except LibraryError as error:
            assert "holds no clips to embed" in str(error)  # noqa: PT017
            assert not self.library.all_ids()
            return
        if on_progress is None:
            stored = EmbeddingsTable.open(self.path, self.model.fingerprint()).clip_ids()
            assert sorted(stored) == sorted(self.library.all_ids())
            self.look(whole=True)

    def meanwhile(self, when, changed):
        """While an embed is at work, the library is written to and another embed is started."""

        def other(done, _total):
            if next(count) == when:
                name, *values = changed
                getattr(self, name)(*values)
                with pytest.raises(LibraryError, match="another process is embedding"):
                    embed_library(self.library, self.model)
                self.look()

        count = itertools.count(1)
        self.embed(None, other)

    def look(self, whole=False):
        """The laws: every hit is one of a fresh embed, in its order; of an embed that ended, all of them are."""
        fresh = fresh_hits(self)
        for kept, index in enumerate((self.kept(), self.opened())):
            if index is None:
                continue
            assert (index.missing == 0) or not whole
            for asked, wanted in fresh.items():
                found = hits(index, asked)
                for k in self.ks:
                    assert hits(index, asked, k) == found[:k], "the first ones are those of all"
                assert not (whole and wanted and not found), "nothing is found"
                ids = {hit.clip_id for hit in found}
                assert len(ids) == len(found), "a clip is shown twice"
                if not whole:  # not all is embedded: as it was, or not found
                    wanted = [replace(hit, thumbnail=b"", percentile=None) for hit in wanted if hit.clip_id in ids]
                    found = [replace(hit, thumbnail=b"", percentile=None) for hit in found]
                assert found == wanted, (kept, asked)

    def opened(self):
        try:
            return SearchIndex(self.path, self.model)
        except LibraryError as error:
            assert "no embeddings of model" in str(error)  # noqa: PT017
            return None

    def kept(self):
        self.index = self.index or self.opened()
        return self.index


def asked_of(ids, width):
    rng = np.random.default_rng(0)
    vectors = [("vector", by, tuple(rng.normal(size=width))) for by in ("audio", "visual", "both")]
    return vectors + [("clip", "both", clip_id) for clip_id in sorted(ids)[:1]]


def hits(index, asked, k=EVERYTHING):
    kind, by, query = asked
    try:
        return index.search(**{kind: query}, by=by, k=k)
    except LibraryError as error:
        assert any(said in str(error) for said in ("not embedded", "without", "holds no clip"))  # noqa: PT017
        return []


def fresh_hits(world):
    """What a new copy of the library gives, embedded into a new table."""
    copy = world.root / "fresh"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    shutil.copytree(world.path / "clips.lance", copy / "clips.lance")
    ids, width = Library(copy).all_ids(), world.model.config.architecture.embedding
    if not ids:
        return {asked: [] for asked in asked_of(ids, width)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "EXACT_ROWS", 1000)
        embed_library(Library(copy), world.model, batch_size=1)
    index = SearchIndex(copy, world.model)
    return {asked: hits(index, asked) for asked in asked_of(ids, width)}


def interrupted(work, number, done):
    """Do something that ends at its `number`-th write, before or after that is done."""
    left = [number]

    def fragile(write):
        def call(*given, **options):
            left[0] -= 1
            if not left[0] and not done:
                raise KeyboardInterrupt
            found = write(*given, **options)
            if not left[0]:
                raise KeyboardInterrupt
            return found

        return call

    with pytest.MonkeyPatch.context() as patch:
        for place, names in WRITES.items():
            for name in names:
                patch.setattr(place, name, fragile(getattr(place, name)))
        try:
            work()
        except (KeyboardInterrupt, LibraryError):
            return
    assert left[0] > 0, "an interrupt was lost"


def run(history, make):
    root = Path(tempfile.mkdtemp())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embed_module, "COMMIT_CLIPS", 2)
            patch.setattr(table_module, "FRAGMENTS", 2)
            world = make(root, patch)
            for name, *values in history:
                getattr(world, name)(*values)
                if name not in ("add", "embed"):
                    world.look()
            world.embed(None)
    finally:
        shutil.rmtree(root)


def histories(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, print_blob=False)


@histories(30)
@given(start, st.lists(step, min_size=2, max_size=6))
def test_any_history_finds_what_a_fresh_embed_finds(model, first, history):
    run([*first, *history], lambda root, _: World(root, model))


@pytest.mark.slow
@histories(300)
@given(start, st.lists(step, min_size=4, max_size=14))
def test_any_longer_history_finds_what_a_fresh_embed_finds(model, first, history):
    run([*first, *history], lambda root, _: World(root, model))


# -- large tables: their vectors are in an index of Lance, of which parts are read --


@pytest.fixture(scope="module")
def wide_model():
    return make_model(embedding=16)


class Large(World):
    ks = (1, 2)

    def __init__(self, root, model, patch):
        super().__init__(root, model)
        patch.setattr(indexing, "EXACT_ROWS", 4)
        patch.setattr(indexing, "TAIL_ROWS", 2)
        patch.setattr(indexing, "FRAGMENTS", 2)
        patch.setattr(versions, "OUTSIDE_ROWS", 2)
        patch.setattr(approximate, "CANDIDATES", 3)
        patch.setattr(approximate, "FEWEST", 1)
        patch.setattr(exact, "FEW", 3)


large_start = st.lists(st.tuples(st.just("add"), number, statuses), min_size=6, max_size=12).map(
    lambda clips: [*clips, ("embed", None)]
)


@histories(4)
@given(large_start, st.lists(step, min_size=2, max_size=6))
def test_any_history_of_a_large_table_finds_what_a_fresh_embed_finds(wide_model, first, history):
    run([*first, *history], lambda root, patch: Large(root, wide_model, patch))


@pytest.mark.slow
@histories(100)
@given(large_start, st.lists(step, min_size=4, max_size=14))
def test_any_longer_history_of_a_large_table_finds_what_a_fresh_embed_finds(wide_model, first, history):
    run([*first, *history], lambda root, patch: Large(root, wide_model, patch))


# -- of real files --

PATHS = ("a.wav", "b.wav", "sub/c.wav", "d.mp4")
path, content = st.sampled_from(PATHS), st.sampled_from(("low", "high", "long", "video"))
line = st.tuples(path, st.sampled_from(("dog", "cat")), st.sampled_from(("train", "test")))
look_at = st.tuples(st.just("ingest"), st.sampled_from(("folder", "list")), st.booleans())
file_step = st.one_of(
    st.tuples(st.just("put"), path, content),
    st.tuples(st.just("move"), path, path),
    st.tuples(st.just("delete"), path),
    st.tuples(st.just("list"), st.lists(line, min_size=1, max_size=4)),
    look_at,
    look_at,
    embed,
)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contents")
    sounds = {"low": tone(0.6), "high": tone(0.6, 2000), "long": tone(1.9, 900)}
    files = {name: write_wav(folder / f"{name}.wav", sound) for name, sound in sounds.items()}
    return files | {"video": write_media(folder / "video.mp4", frames=pictures(7), sound=tone(0.7))}


def write_wav(path, sound):
    from equiav.media.mux import wav_file

    path.write_bytes(wav_file(sound, 16_000))
    return path


@pytest.fixture(scope="module")
def tiny_model():
    return EquiAV(ModelConfig(architecture=SIZES, features=TINY, audio_mean=-6.0, audio_std=4.0), seed=0).eval()


class Files(World):
    """A folder and a list of files, the library of them, and its embeddings."""

    def __init__(self, root, model, contents, patch):
        self.path, self.model, self.index, self.root, self.contents = root / "L", model, None, root, contents
        self.folder, self.table, self.clock = root / "v", root / "l.csv", 0
        self.folder.mkdir()
        patch.setattr(ingest_module, "_pool", lambda *_: InProcess())
        Library.create(self.path, TINY)

    def put(self, name, content):
        place = self.folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(self.contents[content].read_bytes())
        self.clock += 1
        os.utime(place, ns=(self.clock, self.clock))

    def move(self, name, other):
        if (self.folder / name).exists():
            (self.folder / other).parent.mkdir(exist_ok=True)
            (self.folder / name).replace(self.folder / other)

    def delete(self, name):
        (self.folder / name).unlink(missing_ok=True)

    def list(self, lines):
        said = {name: (label, split) for name, label, split in lines}  # no file in two splits
        text = "".join(f"v/{name},{label},{split}\n" for name, (label, split) in said.items())
        self.table.write_text("path,label,split\n" + text)

    def ingest(self, source, prune):
        try:
            ingest(read_source(self.folder if source == "folder" else self.table), self.path, TINY, prune=prune)
        except ConfigError:  # nothing there
            return


def run_files(first, history, model, contents):
    start = [("put", "a.wav", first), ("put", "d.mp4", "video"), ("list", [("a.wav", "dog", "test")])]
    run(
        [*start, ("ingest", "folder", False), ("embed", None), *history],
        lambda root, patch: Files(root, model, contents, patch),
    )


@histories(10)
@given(content, st.lists(file_step, min_size=2, max_size=6))
def test_any_history_of_files_finds_what_a_fresh_embed_finds(tiny_model, contents, first, history):
    run_files(first, history, tiny_model, contents)


@pytest.mark.slow
@histories(60)
@given(content, st.lists(file_step, min_size=4, max_size=12))
def test_any_longer_history_of_files_finds_what_a_fresh_embed_finds(tiny_model, contents, first, history):
    run_files(first, history, tiny_model, contents)


# -- killed for good --

KILLED = """
import os, sys
from test_embed_histories import WRITES
from equiav.library.table import Library
from equiav.search import embed, table
from tiny_library import make_model
left, done = [int(sys.argv[2])], sys.argv[3] == "True"

def fragile(write):
    def call(*given, **options):
        left[0] -= 1
        if not left[0] and not done:
            os.kill(os.getpid(), 9)
        found = write(*given, **options)
        if not left[0]:
            os.kill(os.getpid(), 9)
        return found
    return call

for place, names in WRITES.items():
    for name in names:
        setattr(place, name, fragile(getattr(place, name)))
embed.COMMIT_CLIPS, table.FRAGMENTS = 2, 2
embed.embed_library(Library(sys.argv[1]), make_model(), batch_size=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("write", range(1, 8))
def test_a_kill_at_any_write_loses_nothing(tmp_path, model, write, done):
    world = World(tmp_path, model)
    for i in range(7):
        world.add(i, "ok" if i % 3 else "no_audio")
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(world.path), str(write), str(done)], env=environment, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    world.look()
    world.embed(None)
    assert EmbeddingsTable.open(world.path, model.fingerprint()).count() == 7
