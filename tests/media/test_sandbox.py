"""A task that kills or holds up its process costs itself only."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from equiav.errors import MediaError
from equiav.media.sandbox import Sandbox


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
    if kind == "refuse":
        raise MediaError("no_audio", value)
    return kind, value, os.getpid()


def run_all(tasks, workers=2, limit_s=60.0):
    done, waiting = [], list(tasks)
    with Sandbox(perform, workers, limit_s) as sandbox:
        while waiting or sandbox.busy:
            while waiting and sandbox.has_room():
                sandbox.submit(waiting.pop(0))
            done += sandbox.wait()
    return done


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
        deadline = time.monotonic() + 30
        while not (said.exists() and said.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
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
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from equiav.media.sandbox import Sandbox\n"
        "def perform(task):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return task\n"
        "if __name__ == '__main__':\n"
        "    with Sandbox(perform, 1, 60.0) as sandbox:\n"
        "        sandbox.submit(1)\n"
        "        print(sandbox.wait())\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "else:\n"  # a worker, before it serves
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[(1, 1)]\n"
    assert done.stderr.count("KeyboardInterrupt") == 1, "our own, which is heard again"


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
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _runs(worker):
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid):
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
