"""The ceiling of a step is the best that the device has shown: no share of it is above 1."""

import pytest
import torch

from equiav.train import throughput
from equiav.train.throughput import Ceiling, now

CPU = torch.device("cpu")


@pytest.fixture
def shows(monkeypatch):
    """Let matrix products run at these rates, one after the other; what is left of them."""

    def let(*rates):
        left = list(rates)
        monkeypatch.setattr(throughput, "matmul_rate", lambda *_: left.pop(0))
        return left

    return let


def test_a_step_faster_than_the_ceiling_measures_it_anew(shows):
    left = shows(100.0, 200.0)
    ceiling = Ceiling(CPU, "fp32")
    assert ceiling.share(50.0) == 0.5
    assert left == [200.0]
    assert ceiling.share(150.0) == 0.75
    assert ceiling.share(50.0) == 0.25


def test_a_step_faster_than_all_products_is_the_ceiling_itself(shows):
    shows(100.0, 80.0)
    ceiling = Ceiling(CPU, "fp32")
    assert ceiling.share(150.0) == 1.0
    assert ceiling.share(75.0) == 0.5


def test_the_ceiling_is_measured_again_over_the_run_and_never_falls(shows, monkeypatch):
    left = shows(100.0, 400.0, 50.0)
    ceiling = Ceiling(CPU, "fp32")
    monkeypatch.setattr(throughput, "AGAIN_S", -1.0)
    assert ceiling.share(40.0) == 0.1
    assert ceiling.share(40.0) == 0.1
    assert left == []


def test_the_clock_of_a_gpu_is_read_when_its_work_is_done(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append(("synchronize", device)))
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: calls.append("clock") or 7.0)
    gpu = torch.device("cuda", 1)
    assert now(gpu) == 7.0
    assert calls == [("synchronize", gpu), "clock"]


def test_the_rate_of_products_is_that_of_the_best_side(monkeypatch):
    seconds = {1024: 0.02, 2048: 0.1}
    monkeypatch.setattr(throughput, "_product_seconds", lambda _device, _dtype, side: seconds[side])
    assert throughput.matmul_rate(CPU, "fp32") == 2 * 2048**3 / 0.1
    assert throughput.matmul_rate(CPU, "fp32", 1024) == 2 * 1024**3 / 0.02


def test_where_products_are_slow_no_larger_ones_are_tried(monkeypatch):
    monkeypatch.setattr(throughput, "_product_seconds", lambda _device, _dtype, side: {1024: 2.0}[side])
    assert throughput.matmul_rate(CPU, "bf16") == 2 * 1024**3 / 2.0
