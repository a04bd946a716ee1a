"""Memory of a training: the peak, begun anew for each measurement; what is free counts what is taken already."""

import sys

import pytest
import torch

from equiav.train import memory
from equiav.train.dry_run import measured
from equiav.train.memory import available_gb, is_out_of_memory, peak_gb, reset_peak, used_gb

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux begins a peak anew")
def test_the_peak_holds_what_is_gone_until_it_is_begun_anew():
    reset_peak(CPU)
    before = used_gb(CPU)
    torch.ones(50_000_000)
    assert before + 0.19 < peak_gb(CPU) < before + 0.25
    reset_peak(CPU)
    assert peak_gb(CPU) < before + 0.05


def test_where_a_peak_cannot_be_begun_anew_it_is_that_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    reset_peak(CPU)
    if sys.platform != "win32":
        assert peak_gb(CPU) >= 0.9 * used_gb(CPU)
    (tmp_path / "status").write_text("VmPeak:\t  900 kB\nVmHWM:\t  500000 kB\nVmRSS:\t  1 kB\n")
    assert peak_gb(CPU) == 0.512


def test_processes_share_what_is_free_and_keep_what_they_have(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 8_000_000_000)
    monkeypatch.setattr(memory, "used_gb", lambda _: 0.5)
    assert available_gb(CPU, 1) == 8.5
    assert available_gb(CPU, 4) == 2.5


def test_what_the_allocator_of_a_gpu_keeps_is_free_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {GPU: (5_000_000_000, 80_000_000_000)}[device])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: {GPU: 2_000_000_000}[device])
    assert available_gb(GPU, 8) == 7.0


def test_on_a_gpu_the_peak_is_begun_anew_and_the_clock_waits_for_the_work(monkeypatch):
    calls, clock = [], iter([10.0, 12.5])

    def note(name, value=None):
        def call(device):
            assert device == GPU
            calls.append(name)
            return value

        return call

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", note("reset"))
    monkeypatch.setattr(torch.cuda, "synchronize", note("synchronize"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", note("peak", 3_000_000_000))
    monkeypatch.setattr("time.perf_counter", lambda: calls.append("clock") or next(clock))
    assert measured(GPU, lambda: calls.append("work")) == (2.5, 3.0)
    assert calls == ["reset", "synchronize", "clock", "work", "synchronize", "clock", "peak"]


def test_a_failed_allocation_is_distinguished_from_other_errors():
    with pytest.raises(RuntimeError) as failed:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
