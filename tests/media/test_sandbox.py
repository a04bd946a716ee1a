"""A task that kills or holds up its process costs itself only."""

import gc
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from equiav.errors import MediaError, WorkerError
from equiav.media.sandbox import BEGIN, Sandbox


class Litter:
    alive = 0

    def __del__(self):
        Litter.alive -= 1


def perform(task):
    kind, value = task
    if kind == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "die once" and not Path(value).exists():
        Path(value).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "swell":
        bytearray(64 * 2**30)
    if kind == "hang":
        time.sleep(600)
    if kind == "fail":
        raise RuntimeError(value)
    if kind == "unpack":
        Path(value).write_text(tempfile.mkdtemp())
        time.sleep(600)
    if kind == "echo":
        return value
    if kind == "limit":
        import resource

        return [resource.getrlimit(limit)[1] for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS)]
    if kind == "litter":  # what is not freed with the last name for it
        litter = Litter()
        litter.itself = litter
        found = Litter.alive, gc.isenabled(), gc.get_freeze_count()
        Litter.alive += 1
        return found
    if kind == "refuse":
        raise MediaError("no_audio", value)
    return kind, value, os.getpid()


def run_all(tasks, workers=2, limit_s=60.0, function=perform):
    with Sandbox(function, workers, limit_s) as sandbox:
        return list(sandbox.run(tasks))


def test_every_task_comes_back_once_whatever_its_neighbours_do(tmp_path):
    tasks = [("work", i) for i in range(30)]
    tasks[5:5] = [("die", 0), ("refuse", "silent"), ("die once", str(tmp_path / "mark"))]
    done = run_all(tasks)
    assert sorted(map(str, (task for task, _ in done))) == sorted(map(str, tasks))
    results = {task: result for task, result in done if task[0] != "work"}
    assert (results["die", 0].reason, "SIGSEGV" in str(results["die", 0])) == ("crashed", True)
    assert str(results["refuse", "silent"]) == "no_audio: silent"
    assert results["die once", str(tmp_path / "mark")][0] == "die once"
    assert all(result[:2] == task for task, result in done if task[0] == "work")


def test_what_a_task_leaves_in_a_circle_is_freed_before_the_next_one():
    found = [result for _, result in run_all([("litter", i) for i in range(5)], workers=1)]
    assert [alive for alive, _, _ in found] == [0] * 5
    assert all(enabled for _, enabled, _ in found)
    counts = [count for _, _, count in found]
    assert counts[0] > 10_000  # the modules, which no collection looks at
    assert counts[1] >= counts[-1]  # what later tasks leave is not added


def test_workers_keep_their_heap_unless_the_environment_says_otherwise(monkeypatch):
    names = ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(names[1], "65536")
    ((_, found),) = run_all([names], workers=1, function=environment)
    assert found == ["67108864", "65536"]


def environment(names):
    return [os.environ.get(name) for name in names]


def test_a_task_that_hangs_is_given_up_and_the_one_behind_it_is_done():
    done = dict(run_all([("hang", 0), ("work", 1)], workers=1, limit_s=3.0))
    assert done["hang", 0].reason == "timeout"
    assert done["work", 1][:2] == ("work", 1)


def test_a_task_that_wants_too_much_memory_is_refused_and_the_worker_goes_on():
    done = dict(run_all([("swell", 0), ("work", 1)], workers=1))
    assert done["swell", 0].reason == "memory"
    assert done["work", 1][:2] == ("work", 1)


def test_tasks_and_results_that_no_pipe_holds_pass_each_other():
    tasks, done = [("echo", bytes([i]) * 2**21) for i in range(4)], []
    thread = threading.Thread(target=lambda: done.extend(run_all(tasks, workers=1)), daemon=True)
    thread.start()
    thread.join(60)
    assert done == [(task, task[1]) for task in tasks]


def test_an_error_nobody_thought_of_costs_its_task_alone(capfd):
    done = dict(run_all([("fail", "odd"), ("work", 1)], workers=1))
    assert done["fail", "odd"].reason == "crashed"
    assert "RuntimeError: odd (test_sandbox.py, line" in done["fail", "odd"].detail
    assert done["work", 1][:2] == ("work", 1)
    assert "Traceback" not in capfd.readouterr().err


def test_temporary_files_of_a_worker_that_is_ended_go_with_the_pool(tmp_path):
    said = tmp_path / "said"
    with Sandbox(perform, 1, 60.0) as sandbox:
        sandbox.submit(("unpack", str(said)))
        until(lambda: said.exists() and said.read_text())
        assert Path(said.read_text()).is_dir()
    assert not Path(said.read_text()).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's limits")
def test_where_the_system_allows_less_than_our_limits_its_own_hold(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from equiav.media.sandbox import Sandbox; from test_sandbox import perform\n"
        "if __name__ == '__main__':\n"
        "    for kind, most in ((resource.RLIMIT_CPU, 100), (resource.RLIMIT_AS, 3 << 30)):\n"
        "        resource.setrlimit(kind, (most, most))\n"
        "    with Sandbox(perform, 1, 600.0) as sandbox:\n"
        "        sandbox.submit(('limit', 0)); print(sandbox.wait()[0][1])\n"
    )
    command = [sys.executable, str(script), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == f"[100, {3 << 30}]\n", done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_workers_do_not_hear_an_interrupt_while_they_load_their_modules(tmp_path):
    (tmp_path / "loaded.py").write_text(
        "import os, signal\n"
        "def perform(task):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return task\n"
        "if os.getppid() == int(os.environ['PARENT']):\n"  # a worker, before it serves
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        # a shell ignores it for what runs in its background, and this test may run there
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.environ['PARENT'] = str(os.getpid())\n"
        "from equiav.media.sandbox import Sandbox; from loaded import perform\n"
        "with Sandbox(perform, 1, 60.0) as sandbox:\n"
        "    sandbox.submit(1)\n"
        "    print(sandbox.wait())\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[(1, 1)]\n", done.stderr
    assert done.stderr.count("KeyboardInterrupt") == 1, "our own, which is heard again"


# A program that would do harm, and fail, in a process that runs it a second time
UNGUARDED = """
from pathlib import Path
Path("mark").touch(exist_ok=False)
from equiav.media.sandbox import Sandbox
from test_sandbox import perform
with Sandbox(perform, 2, 60.0) as sandbox:
    for i in range(3):
        sandbox.submit(("echo", i))
    results = []
    while sandbox.busy:
        results += [result for _, result in sandbox.wait()]
print(sorted(results))
"""
CELL = "import sys; sys.modules['__main__'].__file__ = 'cell'; exec(sys.argv[1], vars(sys.modules['__main__']))"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["script.py"], None),
        (["-m", "script"], None),
        (["-m", "package"], None),
        (["-c", UNGUARDED], None),
        (["-"], UNGUARDED),
        (["-c", CELL, UNGUARDED], None),
    ],
    ids=["script", "module", "package", "command", "standard input", "a main of no file"],
)
def test_workers_never_run_the_main_module_whatever_it_is(tmp_path, arguments, text):
    (tmp_path / "package").mkdir()
    for name in ("script.py", "package/__main__.py"):
        (tmp_path / name).write_text(UNGUARDED)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("[0, 1, 2]\n", 0), done.stderr


def test_workers_find_modules_where_their_parent_does(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def perform(task):\n    return task + 1\n")
    # what lies in the working directory is not taken for a library of ours
    (tmp_path / "pickle.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    from only_here import perform as known_here

    with Sandbox(known_here, 1, 60.0) as sandbox:
        sandbox.submit(1)
        assert sandbox.wait() == [(1, 2)]


class Loaded:
    """A function that is loaded with a module."""

    def __init__(self, module):
        self.module = module

    def __reduce__(self):
        return importlib.import_module, (self.module,)

    def __call__(self, task):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("module", "said"),
    [("import os; os._exit(7)", r"ended before it began \(exit code 7\)"), ("import nothing_at_all", "nothing_at_all")],
)
def test_workers_that_cannot_begin_are_an_error_and_no_fault_of_a_task(tmp_path, monkeypatch, module, said):
    (tmp_path / "bad_start.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WorkerError, match=said):
        run_all([("echo", i) for i in range(3)], function=Loaded("bad_start"))


def test_one_worker_that_ended_before_it_began_is_replaced_by_another(tmp_path, monkeypatch):
    mark = str(tmp_path / "mark")
    (tmp_path / "bad_once.py").write_text(
        f"import os\nif not os.path.exists({mark!r}):\n    open({mark!r}, 'w').close()\n    os._exit(7)\n"
    )
    monkeypatch.setattr("equiav.media.sandbox.BEGIN", BEGIN.replace("from", "import bad_once; from", 1))
    monkeypatch.syspath_prepend(tmp_path)
    done = dict(run_all([("echo", i) for i in range(4)], workers=1))
    assert done == {("echo", i): i for i in range(4)}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("equiav.media.sandbox.get_executable", lambda: b"/no/python", "/no/python: No such file"),
        ("equiav.media.sandbox.get_executable", lambda: None, "set_executable"),
        ("sys.frozen", True, "set_executable"),
    ],
)
def test_where_there_is_no_python_to_run_the_error_says_so(monkeypatch, name, value, said):
    monkeypatch.setattr(name, value, raising=False)
    with Sandbox(perform, 1, 60.0) as sandbox, pytest.raises(WorkerError, match=said):
        sandbox.submit(("echo", 1))


def test_temporary_files_of_a_worker_go_when_its_parent_is_killed(tmp_path):
    said, script = tmp_path / "said", tmp_path / "parent.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from equiav.media.sandbox import Sandbox; from test_sandbox import perform\n"
        "with Sandbox(perform, 1, 60.0) as sandbox:\n"
        "    sandbox.submit(('unpack', sys.argv[2])); sandbox.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, str(script), str(Path(__file__).parent), str(said)])
    try:
        assert until(lambda: said.exists() and said.read_text())
    finally:
        parent.kill()
        parent.wait()
    assert until(lambda: not Path(said.read_text()).parent.exists())


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from equiav.media.sandbox import Sandbox; from test_sandbox import perform\n"
        "if __name__ == '__main__':\n"
        "    sandbox = Sandbox(perform, 1, 60.0); sandbox.submit(('work', 0))\n"
        "    print(sandbox.wait()[0][1][2], flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script), str(Path(__file__).parent)], stdout=subprocess.PIPE)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert until(lambda: not _runs(worker))


def until(holds, most_s=60.0):
    """Whether it holds, in the end."""
    deadline = time.monotonic() + most_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def _runs(pid):
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
