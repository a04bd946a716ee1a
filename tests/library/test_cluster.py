"""On a Ray cluster an ingest does the same work: the same rows, the same rejects, the same fate of poisonous files."""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.spawn import get_executable
from pathlib import Path
from types import SimpleNamespace

import pytest

from equiav.errors import ConfigError, WorkerError
from equiav.library.cluster import RayActors, RayPool
from equiav.library.ingest import ingest
from equiav.library.table import Library
from samples import BAD, TINY, pictures, tone, write_media

pytest.importorskip("ray")
TESTS = Path(__file__).parent.parent


def rows(library):
    return sorted(map(str, Library(library)._clips.to_table().to_pylist()))


class Lost:
    """A task that loses its actor so many times."""

    def __init__(self, name, times):
        self.name, self.times = name, times


class Actor:
    def __init__(self):
        self.given = []
        self.perform = SimpleNamespace(remote=self.take)
        self.ready = SimpleNamespace(remote=lambda: (Lost("ready", 0), self))
        self.close = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=object))

    def take(self, task):
        self.given.append(task.name)
        return task, self, object()


class TaskError(Exception):
    cause = WorkerError("no Python")


class LosingRay:
    """What we use of Ray, with one machine of two cores, or others."""

    exceptions = SimpleNamespace(RayError=ConnectionResetError, RayTaskError=TaskError)

    def __init__(self, *machines):
        self.actors, self.killed, self.options = [], [], {}
        self.machines = machines or ({"CPU": 2.0},)

    def is_initialized(self):
        return True

    def nodes(self):
        return [{"Alive": True, "Resources": machine} for machine in self.machines] + [
            {"Alive": False, "Resources": {}}
        ]

    def put(self, value):
        return value

    def remote(self, **options):
        self.options = options
        return lambda _worker: SimpleNamespace(remote=self.start)

    def start(self, *_):
        self.actors.append(Actor())
        return self.actors[-1]

    def wait(self, references, **_):
        return references[:1], []

    def get(self, reference):
        task = reference[0]
        if task.times:
            task.times -= 1
            if task.name == "not begun":
                raise TaskError
            raise self.exceptions.RayError("node died")
        return f"{task.name} done"

    def kill(self, actor):
        self.killed.append(actor)


def test_tasks_lost_with_their_machine_are_tried_once_more_on_no_more_actors_than_cores(monkeypatch):
    losing = LosingRay()
    monkeypatch.setitem(sys.modules, "ray", losing)
    once, twice, fine = (Lost(name, times) for name, times in (("once", 1), ("twice", 2), ("fine", 0)))
    done = {}
    with RayPool(str, 100, 60.0, "auto") as pool:
        first = list(losing.actors)
        assert len(first) == pool.size == 2
        for task in (once, twice, fine):
            assert pool.has_room()
            pool.submit(task)
        while pool.busy:
            done |= {task.name: result for task, result in pool.wait()}
    assert losing.actors[:2] == first
    assert set(first) & set(losing.killed)  # who lost a task is ended
    assert all(len(set(actor.given)) == len(actor.given) for actor in losing.actors)  # and does not get it again
    assert (done["once"], done["fine"]) == ("once done", "fine done")
    assert done["twice"].reason == "crashed"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("not begun", "^on a machine of the cluster: no Python$"),
        ("lost", "cannot begin"),
    ],
)
def test_actors_that_never_begin_are_an_error_and_no_fault_of_the_first_file(monkeypatch, name, said):
    monkeypatch.setitem(sys.modules, "ray", LosingRay())
    with RayPool(str, 1, 60.0, "auto") as pool:
        pool.submit(Lost(name, 2))
        with pytest.raises(WorkerError, match=said):
            pool.wait()


GPUS = ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 5.0}, {"memory": 1.0})


@pytest.mark.parametrize(
    ("machines", "wish", "size", "device", "room"),
    [
        (GPUS, {"device": "auto"}, 2, "cuda", {"num_cpus": 1, "num_gpus": 1}),
        (GPUS, {"device": "cuda", "workers": 1}, 1, "cuda", {"num_cpus": 1, "num_gpus": 1}),
        (GPUS, {"device": "cpu"}, 3, "cpu", {"num_cpus": 4}),
        (GPUS, {"device": "cpu", "workers": 5}, 5, "cpu", {"num_cpus": 2}),
        (GPUS, {"device": "cpu", "workers": 99}, 13, "cpu", {"num_cpus": 1}),
        (GPUS[1:], {"device": "auto"}, 1, "cpu", {"num_cpus": 4}),
        (({"CPU": 8.0}, {"CPU": 2.0}), {"device": "auto"}, 5, "cpu", {"num_cpus": 2}),
    ],
)
def test_each_actor_has_a_gpu_where_there_are_some_or_a_few_cores_of_one_machine(
    monkeypatch, machines, wish, size, device, room
):
    losing, given = LosingRay(*machines), []
    monkeypatch.setitem(sys.modules, "ray", losing)
    monkeypatch.setattr(losing, "start", lambda *values: given.append(values) or Actor())
    with RayActors("auto", **{"workers": None, "group": 4, **wish}) as actors:
        actors.start(Actor, "model")
        assert actors.size == size
    assert given == [(device, "model")] * size
    assert {name: number for name, number in losing.options.items() if name in ("num_cpus", "num_gpus")} == room


def test_a_gpu_that_the_cluster_does_not_have_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", LosingRay())
    with RayActors("auto", None, device="cuda") as actors, pytest.raises(ConfigError, match=r"no GPU .* found 2 cores"):
        actors.start(Actor)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_actors_leave_no_files_behind_and_say_what_they_cannot_start(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(TESTS / "media")]))
    monkeypatch.syspath_prepend(TESTS / "media")
    monkeypatch.syspath_prepend(tmp_path)
    from test_sandbox import perform

    with RayPool(tempfile.mkdtemp, 2, 60.0, "local") as pool:
        pool.submit("idle")
        ((_, idle),) = pool.wait()
        assert Path(str(idle)).is_dir()
    mark = tmp_path / "mark"
    with RayPool(perform, 1, 600.0, "local") as pool:
        pool.submit(("unpack", str(mark)))
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.05)
        busy = mark.read_text()
        assert Path(busy).is_dir()
    assert [Path(str(folder)).parent.exists() for folder in (idle, busy)] == [False, False]

    # where it is imported, no process can be started any more
    (tmp_path / "no_python.py").write_text(
        "import multiprocessing\nmultiprocessing.set_executable('/nowhere/python')\ndef perform(task): return task\n"
    )
    python = get_executable()
    nowhere = importlib.import_module("no_python")
    multiprocessing.set_executable(python)
    with RayPool(nowhere.perform, 1, 60.0, "local") as pool:
        pool.submit("x")
        with pytest.raises(
            WorkerError, match="on a machine of the cluster: worker processes cannot be started: /nowhere"
        ):
            pool.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Ray's own
def test_a_local_ray_gives_the_library_that_local_processes_give(tmp_path, bad_videos, monkeypatch):
    """One Ray for both halves of the test: it takes its time to start."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(6):
        write_media(folder / f"{i}.mp4", frames=pictures(14, seed=i), sound=tone(1.4, 200 + 50 * i))
        (folder / f"copy of {i}.mp4").write_bytes((folder / f"{i}.mp4").read_bytes())
    for kind in set(BAD) - {"folder"}:
        (folder / f"{kind}.mp4").write_bytes(bad_videos[kind].read_bytes())
    local = ingest(folder, tmp_path / "pool", TINY, workers=2)
    ray = ingest(folder, tmp_path / "ray", TINY, workers=2, ray="local")
    assert rows(tmp_path / "ray") == rows(tmp_path / "pool")
    assert ray.rejects == local.rejects
    assert (ray.clips_added, ray.duplicates, ray.statuses) == (local.clips_added, local.duplicates, local.statuses)

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(TESTS / "media")]))
    monkeypatch.syspath_prepend(TESTS / "media")
    from test_sandbox import perform

    tasks = [("work", 0), ("die", 0), ("work", 1), ("die once", str(tmp_path / "mark")), ("refuse", "x"), ("work", 2)]
    done = {}
    with RayPool(perform, 2, 60.0, "local") as pool:
        waiting = list(tasks)
        while waiting or pool.busy:
            while waiting and pool.has_room():
                pool.submit(waiting.pop(0))
            done |= dict(pool.wait())
    assert set(done) == set(tasks)
    assert (done["die", 0].reason, done["refuse", "x"].reason) == ("crashed", "no_audio")
    assert all(done[task][:2] == task for task in tasks if task[0] in ("work", "die once"))


@pytest.mark.filterwarnings("default")
def test_an_address_without_a_cluster_is_an_error_that_names_it(tmp_path, good_video, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)  # a local Ray of another test leaves it
    with pytest.raises(ConfigError, match=r"no Ray cluster at 'auto'.* set RAY_AUTH_MODE=token here"):
        ingest(good_video, tmp_path / "L", TINY, ray="auto")


@pytest.mark.filterwarnings("default")
def test_a_missing_token_is_an_error_that_says_where_to_put_it(good_video, tmp_path):
    """In a process of its own: Ray reads its settings once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    found = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "equiav",
                "ingest",
                str(good_video),
                "-L",
                str(tmp_path / "L"),
                "--ray",
                "127.0.0.1:1",
            )
        ],
        env={**environment, "RAY_AUTH_MODE": "token", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, "Traceback" in found.stderr) == (1, False)
    assert "is the token that of the cluster (`ray get-auth-token` on its head prints it" in found.stderr
