"""Whoever embeds, the table is the same to the last bit: one process, several, or actors; also when some are killed."""

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import lance
import numpy as np
import psutil
import pytest
import torch

from cli.test_ranks import ends, start
from equiav.errors import ConfigError
from equiav.library.table import Library
from equiav.search.embed import embed_library
from equiav.search.engines import EARLY, Rows, _in_order, in_process, on_ray
from equiav.search.table import table_path
from tiny_library import FEATURES, make_clip, make_model

CLIPS = 101
STATUSES = ("ok", "silent", "no_audio", "ok", "no_video")
TESTS = Path(__file__).parent.parent

# The command line with small batches and commits; process {rank} kills itself when it is to embed its {when}th batch.
EMBED = """
import os, signal, sys
from functools import partial
from equiav.cli.app import main
from equiav.search import embed, engines

rank, left = sys.argv.pop(1), [int(sys.argv.pop(1))]
real = engines._embed

def fragile(model, read):
    left[0] -= 1
    if os.environ["RANK"] == rank and not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(model, read)

engines._embed, embed.COMMIT_CLIPS = fragile, 4
embed.embed_library = partial(embed.embed_library, batch_size=2)
main()
"""
# A driver that tells after each batch how far it is, and goes on when it is told to.
DRIVE = """
import sys
from equiav.library.table import Library
from equiav.search import embed
from equiav.search.engines import on_ray
from tiny_library import make_model

def tell(done, total):
    print('done', done, flush=True)
    sys.stdin.readline()

embed.COMMIT_CLIPS = 4
engine = on_ray("local", workers=2)
embed.embed_library(Library(sys.argv[1]), make_model(), batch_size=2, engine=engine, on_progress=tell)
"""


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes have that are compared: a sum over other numbers of threads is rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def libraries(tmp_path, model):
    """One that is embedded without any trouble, and one that is not embedded, of the same clips."""
    model.save_pretrained(tmp_path / "R")
    for name in ("undisturbed", "L"):
        made = Library.create(tmp_path / name, FEATURES)
        made.append([make_clip(i, status=STATUSES[i % len(STATUSES)]) for i in range(CLIPS)])
    embed_library(Library(tmp_path / "undisturbed"), model, batch_size=2)
    return tmp_path / "undisturbed", tmp_path / "L"


def stored(library, model):
    return lance.dataset(table_path(library, model.fingerprint())).to_table()


def same(libraries, model):
    """Rows, their order, thumbnails, and each bit of each vector."""
    first, second = (stored(library, model) for library in libraries)
    assert len(first) == CLIPS
    return first.equals(second)


def arguments(library):
    return ["embed", "-L", str(library), "-R", str(library.parent / "R"), "--device", "cpu"]


def test_one_process_goes_on_where_several_were_killed(libraries, model):
    library = libraries[1]
    killed = ends(start(EMBED, "1", "4", *arguments(library)))
    assert [code for code, _, _ in killed] == [1, -signal.SIGKILL]
    assert 0 < len(stored(library, model)) < CLIPS
    embed_library(Library(library), model, batch_size=2)
    assert same(libraries, model)


@pytest.mark.slow
@pytest.mark.gate
def test_several_processes_make_the_table_of_one(libraries, model):
    (code, printed, _), other = ends(start(EMBED, "nobody", "1", *arguments(libraries[1])))
    assert (code, *other[:2]) == (0, 0, "")
    assert f"{CLIPS} clips embedded" in printed
    assert same(libraries, model)


@pytest.mark.slow
def test_processes_of_torchrun_that_are_killed_again_and_again_make_the_table_of_one(libraries, model, tmp_path):
    library, rng, kills = libraries[1], random.Random(0), 0
    (tmp_path / "fragile.py").write_text(EMBED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "fragile.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    # at their second batch: each time one round more is stored at most
    fates = [(str(rng.randrange(2)), str(rng.choice((1, 2, 2)))) for _ in range(10)]
    for rank, when in [*fates, ("nobody", "1")]:
        run = subprocess.run(
            [*torchrun, rank, when, *arguments(library)], env=environment, capture_output=True, text=True, timeout=120
        )
        kills += "SIGKILL" in run.stderr or "exitcode: -9" in run.stderr.replace(" ", "")
        assert (run.returncode == 0) == (rank == "nobody"), run.stderr
    assert kills == len(fates)
    assert same(libraries, model)


@pytest.mark.slow
def test_a_process_with_another_model_ends_all_of_them(libraries, model, tmp_path):
    make_model(seed=1).save_pretrained(tmp_path / "R1")
    other = "sys.argv[-3] += '1' * (os.environ['RANK'] == '1')\nmain()"
    found = ends(start(EMBED.replace("main()", other), "nobody", "1", *arguments(libraries[1])))
    assert [code for code, _, _ in found] == [1, 1]
    assert f"rank 1: this process has the model {make_model(seed=1).fingerprint()}" in found[0][2]


class Drive:
    """A driver in a process of its own."""

    def __init__(self, library):
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVE, str(library)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def steps(self):
        """Clips done so far, after each batch; it goes on when the next is asked for."""
        for line in self.process.stdout:
            if not line.startswith("done"):  # Ray has its own to say
                continue
            yield int(line.split()[1])
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def ends(self):
        """Its exit code."""
        self.process.communicate()
        return self.process.returncode

    def actors(self):
        others = psutil.Process(self.process.pid).children(recursive=True)
        return [other for other in others if "_Actor" in title(other)]


def title(process):
    with suppress(psutil.Error):  # it has just ended
        return " ".join(process.cmdline())
    return ""


@pytest.mark.slow
def test_a_driver_and_actors_of_ray_that_are_killed_again_and_again_make_the_table_of_one_process(libraries, model):
    library, rng, kills = libraries[1], random.Random(0), 0
    for _ in range(4):  # the driver, at some moment
        drive, when = Drive(library), rng.randrange(1, 5)
        for step, _ in enumerate(drive.steps(), 1):
            if step == when:
                left = drive.actors()
                drive.process.kill()
                break
        kills += drive.ends() == -signal.SIGKILL
        assert psutil.wait_procs(left, timeout=30)[1] == []  # nobody works for nobody
    assert len(stored(library, model)) < CLIPS
    drive = Drive(library)
    for step, _ in enumerate(drive.steps()):
        if step % 2 == 0 and (actors := drive.actors()):
            with suppress(psutil.NoSuchProcess):
                rng.choice(actors).kill()
                kills += 1
    assert drive.ends() == 0
    assert kills >= 10
    assert same(libraries, model)


class Early:
    """Two actors whose results come back in any order, or the first of them at last."""

    size, QUEUE = 2, 4

    def __init__(self, last):
        self.held, self.most, self.random, self.last = [], 0, random.Random(0), last

    def has_room(self):
        return len(self.held) < self.QUEUE

    def submit(self, task):
        self.held.append(task)
        self.most = max(self.most, task[0])

    def wait(self):
        others = [task for task in self.held if task[0] not in self.last] or self.held
        task = self.random.choice(others)
        self.held.remove(task)
        return [(task, task[1])]


@pytest.mark.parametrize("last", [(), (0,), (7, 8, 9)])
def test_results_keep_the_order_of_the_batches_and_few_wait_for_one_in_front(last):
    batches, ahead = [object() for _ in range(50)], []
    actors = Early(last)
    for number, found in enumerate(_in_order(actors, batches)):
        assert found is batches[number]
        ahead.append(actors.most - number)
    assert len(ahead) == 50
    assert max(ahead) < EARLY * actors.size
    if last:
        assert max(ahead) == EARLY * actors.size - 1  # the others went on, to the limit


def test_a_device_of_one_machine_is_nothing_for_a_cluster():
    with pytest.raises(ConfigError, match="a device is auto, cpu or cuda, found 'cuda:1'"):
        on_ray("auto", "cuda:1")


def test_rows_are_those_of_the_version_that_was_planned_on(library, model):
    version = library.version
    library.remove(["clip0"])
    library.append([make_clip(20)])
    (old,) = in_process(Library(library.path, version), model, [Rows("both", np.arange(3))])
    (new,) = in_process(Library(library.path), model, [Rows("both", np.arange(3))])
    assert old.clip_id == ["clip0", "clip1", "clip2"]
    assert new.clip_id == ["clip1", "clip2", "clip3"]
