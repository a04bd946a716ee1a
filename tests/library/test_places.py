"""Libraries on an object store: as in a folder, with one writer at a time that the store itself tells apart."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from equiav.errors import ConfigError, LibraryError
from equiav.library import lease
from equiav.library.places import BucketPath, place_of
from equiav.library.records import STATUSES, Reject
from equiav.library.table import Library
from equiav.search.table import EmbeddingsTable
from tiny_library import FEATURES, make_clip

WRITER = """
import sys, time
sys.path[:0] = [sys.argv[2]]
from tiny_library import FEATURES, make_clip
from equiav.library.table import Library
from equiav.search.table import EmbeddingsTable
library = Library.create(sys.argv[1], FEATURES)
with library.locked():
    library.append([make_clip(0)])
    print("writing", flush=True)
    sys.stdin.readline()
    library.append([make_clip(1)])
print("done", flush=True)
"""


@pytest.fixture
def writer(bucket):
    """Another process, in the middle of writing the library."""
    command = [sys.executable, "-c", WRITER, bucket, str(Path(__file__).parent.parent)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.communicate()


def test_a_library_in_a_bucket_is_one_in_a_folder(bucket, tmp_path):
    found = []
    for place in (bucket, tmp_path / "L"):
        library = Library.create(place, FEATURES)
        with library.locked():
            library.append([make_clip(i) for i in range(3)])
            library.update([{"clip_id": "clip1", "labels": ["cat"]}])
            library.remove(["clip0"])
            library.reject([Reject("a", "a.mp4", "probe", "corrupt", "cut", 1, 1)])
            library.tidy()
            library.forget_old_versions()
        opened = Library(place)
        rows = opened.clips(statuses=STATUSES).sort_by("clip_id").to_pylist()
        found.append((rows, opened.rejects(), opened.fingerprint(), opened.take([1], ["clip_id"]).to_pylist()))
        assert opened.is_newest()
        library.append([make_clip(9)])
        assert not opened.is_newest()
    assert found[0] == found[1]
    assert not (BucketPath(bucket) / ".lock").entries()
    with pytest.raises(LibraryError, match="made with other features"):
        Library.create(bucket, FEATURES.model_copy(update={"mel_bins": 16}))


def test_of_two_writers_one_works_and_the_other_is_told_who_does(bucket, writer):
    library = Library(bucket)
    with (
        pytest.raises(LibraryError, match=rf"another process is writing.*process {writer.pid} on .*60 s"),
        library.locked(),
    ):
        pass
    writer.communicate("\n")
    with Library(bucket).locked():  # a lease that was given back
        assert sorted(Library(bucket).all_ids()) == ["clip0", "clip1"]


def test_the_lease_of_a_killed_writer_ends_and_one_may_take_its_place(bucket, writer, monkeypatch):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with pytest.raises(LibraryError, match="another process is writing"), Library(bucket).locked():
        pass
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    time.sleep(2.5)  # the store's clock counts whole seconds
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    with Library(bucket).locked():
        assert json.loads((BucketPath(bucket) / ".lock").read_text())["process"] == os.getpid()
    with Library(bucket).locked():
        pass


def test_a_writer_renews_its_lease_and_without_it_writes_nothing(bucket, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    library, held = Library.create(bucket, FEATURES), BucketPath(bucket) / ".lock"
    with library.locked():
        first = held.read_with_tag()[1]
        time.sleep(0.5)
        assert held.read_with_tag()[1] != first
        held.write(json.dumps({"id": "another"}).encode())  # as one that found it ended
        time.sleep(0.5)
        with pytest.raises(LibraryError, match="may not write any more, another process took it over"):
            library.append([make_clip(0)])
    assert held.read_text() == '{"id": "another"}', "another's lease stays"
    assert Library(bucket).all_ids() == []


def test_a_writer_that_could_not_renew_its_lease_writes_nothing(bucket, monkeypatch):
    library = Library.create(bucket, FEATURES)
    with library.locked():
        monkeypatch.setattr(lease, "_now", lambda: (time.monotonic(), time.time() + 55))  # it slept
        with pytest.raises(LibraryError, match="could not be renewed for 5"):
            library.append([make_clip(0)])


def test_of_two_embeds_into_a_bucket_one_works(bucket):
    library = Library.create(bucket, FEATURES)
    with EmbeddingsTable.for_writing(bucket, "model-a", 8, FEATURES):
        with (
            pytest.raises(LibraryError, match="another process is embedding with this model"),
            EmbeddingsTable.for_writing(bucket, "model-a", 8, FEATURES),
        ):
            pass
        with EmbeddingsTable.for_writing(bucket, "model-b", 8, FEATURES), library.locked():
            library.append([make_clip(0)])
    with pytest.raises(
        LibraryError, match=r"no embeddings of model model-c .*found those of other models: model-a, model-b"
    ):
        EmbeddingsTable.open(bucket, "model-c")


def test_a_store_that_overwrites_what_it_must_not_is_refused(bucket, monkeypatch):
    library, write = Library.create(bucket, FEATURES), BucketPath.write
    monkeypatch.setattr(BucketPath, "write", lambda self, content, *, over=None: write(self, content))
    with pytest.raises(LibraryError, match="does not keep two writers apart"), library.locked():
        pass


@pytest.mark.parametrize("url", ["http://host/L", "sftp://host/L", "memory://L", "ftp://host/L", "hdfs://host/L"])
def test_a_place_that_cannot_keep_writers_apart_is_refused(url):
    with pytest.raises(ConfigError, match=r"found the protocol .*; expected a folder, or s3://, gs:// or az://"):
        Library(url)


def test_places_are_folders_or_urls(tmp_path):
    assert place_of("videos/a") == Path("videos/a")
    assert place_of(Path("s3://bucket/a/b")) == place_of("s3://bucket/a/b/") == BucketPath("s3://bucket/a/b")
    assert str(place_of("gs://bucket//a") / "c.mp4") == "gs://bucket/a/c.mp4"
    with pytest.raises(ConfigError, match="expected s3://BUCKET/FOLDER"):
        place_of("s3://")


def test_a_store_that_does_not_answer_is_one_line(bucket):
    with pytest.raises(LibraryError, match=r"s3://no-such-bucket/L.*object store refused") as error:
        Library("s3://no-such-bucket/L")
    assert "nothing" not in str(error.value), "credentials are not shown"


def test_what_is_not_there_is_no_library(bucket):
    with pytest.raises(LibraryError, match="holds no library"):
        Library(bucket)
