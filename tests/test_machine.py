"""Heaps shared by threads, cores that may be used."""

import os
import platform
import subprocess
import sys

import pytest

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
