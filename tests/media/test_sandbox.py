"""A task that kills or holds up its process costs itself only."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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
