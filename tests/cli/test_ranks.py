"""Of processes that were started together, the failure of one ends all, with its message and its rank."""

import errno
import os
import signal
import socket
import subprocess
import sys

import pytest

from equiav.cli.ranks import end_together
from train.small_library import SMALL, make_library

# Two processes that meet and then wait for each other, as in a collective that never ends; what rank {fails} does.
MEET = """
import os, sys, time
import torch.distributed as dist
from equiav.errors import TrainingError
from equiav.cli.ranks import end_together
from equiav.cli.terminal import stop_on_signal

rank = int(os.environ["RANK"])
with end_together(), stop_on_signal():
    dist.init_process_group("gloo")
    print("met", flush=True)
    if rank == {fails}:
        {does}
    dist.barrier()
    print("over", flush=True)
"""
# The command line, with a fault in it on one rank.
TRAIN = """
import errno, os, sys
from equiav import cli
from equiav.train import checkpoint, loop

rank, real, calls = int(os.environ["RANK"]), loop.backward, []

def backward(*args, **options):
    calls.append(1)
    if len(calls) == 3:
        raise ValueError("a fault in step 3")
    return real(*args, **options)

def write_weights(tensors, path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

if rank == {fails}:
    {does}
cli.main()
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(code, *arguments):
    """Two processes without a launcher that would end one when the other has failed."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def ends(processes):
    """Exit code, standard output and error of each."""
    try:
        printed = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *both) for process, both in zip(processes, printed, strict=True)]


@pytest.mark.parametrize("fails", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_error_on_one_rank_ends_both_and_is_printed_by_it_and_by_the_first(fails):
    found = ends(start(MEET.format(fails=fails, does="raise TrainingError('nothing to train on')")))
    line = f"error: rank {fails}: nothing to train on\n"
    assert [code for code, _, _ in found] == [1, 1]
    assert [out for _, out, _ in found] == ["met\n", "met\n"]
    assert [err.count(line) for _, _, err in found] == [1, fails]
    assert all(err.count("\n") <= 1 for _, _, err in found)


@pytest.mark.slow
def test_an_error_that_all_have_is_printed_once():
    found = ends(start(MEET.format(fails="rank", does="raise TrainingError('nothing to train on')")))
    assert [code for code, _, _ in found] == [1, 1]
    assert [err.count("error: rank 0: nothing to train on\n") for _, _, err in found] == [1, 0]
    assert "rank 1" not in found[0][2] + found[1][2]


@pytest.mark.slow
def test_an_unexpected_error_is_printed_with_its_place_and_a_verb_that_succeeds_prints_nothing():
    found = ends(start(MEET.format(fails=1, does="[][rank]")))
    assert [code for code, _, _ in found] == [1, 1]
    assert "Traceback" in found[1][2]
    assert "error: rank 1: IndexError: list index out of range\n" in found[0][2]
    assert ends(start(MEET.format(fails=None, does="pass"))) == [(0, "met\nover\n", "")] * 2


def test_a_rank_that_is_stopping_and_waits_for_one_that_failed_ends_too():
    first, second = start(MEET.format(fails=1, does="time.sleep(2); raise OSError(28, 'No space left', 'state')"))
    line = "error: rank 1: state: No space left\n"
    assert [next(iter(process.stdout or ())) for process in (first, second)] == ["met\n"] * 2
    first.send_signal(signal.SIGTERM)  # as a launcher does
    assert next(iter(second.stderr or ())) == line
    second.send_signal(signal.SIGTERM)
    (code, _, err), other = ends([first, second])
    assert (code, err.splitlines(keepends=True)[-1]) == (1, line)
    assert other == (1, "", "")


def test_exits_and_interrupts_are_no_failures(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr("equiav.cli.ranks.POLL_S", 0.01)
    for leaving in (SystemExit(3), KeyboardInterrupt(), BrokenPipeError()):
        with pytest.raises(type(leaving)), end_together():
            raise leaving


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "does", "line"),
    [
        (1, "loop.backward = backward", "error: rank 1: ValueError: a fault in step 3\n"),
        (0, "checkpoint.write_weights = write_weights", os.strerror(errno.ENOSPC)),
    ],
)
def test_a_fault_in_a_step_and_a_full_disk_end_a_training_of_two(tmp_path, fails, does, line):
    library = make_library(tmp_path)
    overrides = [*SMALL[:-1], "train.epochs=4", "train.save_every=1"]
    arguments = ["pretrain", "toy", "-L", str(library.path), "-R", str(tmp_path / "run"), *overrides]
    found = ends(start(TRAIN.format(fails=fails, does=does), *arguments))
    assert [code for code, _, _ in found] == [1, 1]
    assert line in found[0][2]
    assert f"error: rank {fails}: " in found[fails][2]
