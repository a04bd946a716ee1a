"""Heaps shared by threads, cores and memory that may be used, devices."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from equiav.errors import ConfigError
from equiav.machine import free_memory, pick_device

# glibc says itself how many heaps there are (malloc_info); the threads live at the same time
CODE = """
import ctypes, sys, tempfile, threading
from equiav.machine import share_heaps
if sys.argv[1] == "shared":
    assert share_heaps()
together, done = threading.Barrier(6), threading.Event()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def use():
    together.wait()
    libc.malloc(50_000)
    together.wait()
    done.wait()

threads = [threading.Thread(target=use) for _ in range(5)]
[thread.start() for thread in threads]
together.wait()
together.wait()
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    out = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, out)
    libc.fclose(out)
    print(file.read().count(b"<heap nr="))
done.set()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there are no such heaps")
def test_threads_share_two_heaps_instead_of_one_each():
    def heaps(how):
        out = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
        return int(out.stdout)

    assert heaps("shared") <= 2 < heaps("apart")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be kept to some cores here")
def test_only_the_cores_that_are_left_to_the_process_count():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    code += "from equiav.machine import usable_cores; print(usable_cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many CUDA devices and Apple's or not, as torch tells it."""

    def make(cuda, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(2, True, "cuda"), (1, False, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_auto_takes_the_best_device_that_is_there(machine, cuda, mps, best):
    machine(cuda, mps)
    assert pick_device() == pick_device("auto") == torch.device(best)


def test_a_named_device_is_taken_where_it_is_there(machine):
    machine(cuda=2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert pick_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "cuda", "found"),
    [
        ("banana", 0, "found cpu;"),
        ("", 0, "found cpu;"),
        ("meta", 0, "found cpu;"),
        ("cuda:2", 2, "found cuda, cpu, cuda:0, cuda:1"),
        ("mps", 1, "found cuda, cpu, cuda:0;"),
        ("cuda", 0, "found cpu"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_with_those_that_are(machine, name, cuda, found):
    machine(cuda)
    with pytest.raises(ConfigError, match=f"no device {name!r} here: {found}.*take one of these, or auto"):
        pick_device(name)


def test_a_pytorch_without_cuda_is_named_where_cuda_is_requested(machine, monkeypatch):
    machine(cuda=0)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(ConfigError, match="was built without CUDA"):
        pick_device("cuda")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups as the kernel shows them: path below the mount point → content."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8_000))

    def free(own, files):
        for name, content in files.items():
            (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cgroup" / name).write_text(content)
        (tmp_path / "own").write_text(own)
        return free_memory(tmp_path / "cgroup", tmp_path / "own")

    return free


def group(name, limit, used, cache, version=2):
    names = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
    stat = "total_inactive_file" if version == 1 else "inactive_file"
    files = zip(names, (limit, used), strict=True)
    return {f"{name}memory.{file}": f"{value}\n" for file, value in files} | {
        f"{name}memory.stat": f"anon 1\n{stat} {cache}\n"
    }


def test_without_control_groups_the_machine_says_what_is_free(groups, tmp_path):
    assert free_memory(tmp_path / "none", tmp_path / "none") == 8_000
    assert groups("0::/\n", {}) == 8_000


def test_the_limit_of_a_container_counts_and_its_cache_of_files_is_free(groups):
    assert groups("0::/\n", group("", 3_000, 2_000, 500)) == 1_500


def test_the_limit_of_a_group_above_counts_too(groups):
    files = group("job/", 4_000, 1_000, 0) | group("job/step/", "max", 900, 0)
    assert groups("0::/job/step\n", files) == 3_000


def test_groups_of_the_first_version_count(groups):
    own = "5:cpu:/x\n4:memory:/docker/a\n0::/\n"
    assert groups(own, group("memory/", 2_000, 500, 0, version=1)) == 1_500


def test_a_limit_above_what_the_machine_has_gives_no_more(groups):
    assert groups("0::/\n", group("", 10**18, 0, 0)) == 8_000
    assert groups("0::/\n", group("", 1_000, 2_000, 0)) == 0
