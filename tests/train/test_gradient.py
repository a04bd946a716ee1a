"""The gradient of a batch is the same whole, in parts, on one process, on two, and with the weights in shards."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from equiav.config import Loss
from equiav.train import loss as loss_module
from equiav.train.gradient import backward
from equiav.train.loss import equiav_loss, info_nce, nt_xent
from equiav.train.processes import agreed, from_main, is_sharded, make_accelerator, spread, whole
from model.small_models import batch_for, small_model

CLIPS = 8


class Rows:
    """Clips that are their model inputs."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    @property
    def clip_ids(self) -> list[str]:
        return ["0"] * len(self.tensors[0])

    def split(self, size: int) -> list[Rows]:
        return [Rows(list(part)) for part in zip(*(x.split(size) for x in self.tensors), strict=True)]


class AsTheyAre:
    def inputs(self, batch: Rows, epoch: int) -> tuple[Tensor, ...]:
        return tuple(batch.tensors)

    def losses(self, output: Any, batch: Rows) -> dict[str, Tensor]:
        return equiav_loss(output, Loss())

    def health(self, batch: Rows, epoch: int) -> dict[str, float]:
        return {}


def gradients(
    *,
    clips: int = CLIPS,
    micro_batch: int = CLIPS,
    parallel: str = "ddp",
    method: str = "equiav",
    checkpointing: bool = False,
):
    """(loss, gradient of each weight) of this process's share of some clips."""
    model = small_model(method=method, checkpointing=checkpointing)
    accelerator = make_accelerator()
    inputs = list(batch_for(model, clips).values())
    called = spread(model, accelerator, parallel)
    assert is_sharded(model) == (parallel == "fsdp" and accelerator.num_processes > 1)
    share = -(-clips // accelerator.num_processes)
    mine = Rows(inputs).split(share)[accelerator.process_index]
    losses = backward(called, AsTheyAre(), mine, 0, accelerator, micro_batch=min(micro_batch, share))
    return float(losses["loss"]), {n: whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}


def differ(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest entry of the gradient of the same weight."""
    assert found[1].keys() == expected[1].keys()
    relative = [float((found[1][n] - g).abs().max() / g.abs().max().clamp(min=1e-6)) for n, g in expected[1].items()]
    return max(abs(found[0] / expected[0] - 1), *relative)


@pytest.mark.parametrize("method", ["equiav", "invariant", "plain"])
@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_parts_have_the_gradient_of_the_whole(method, micro_batch):
    assert differ(gradients(micro_batch=micro_batch, method=method), gradients(method=method)) < 1e-5


def test_recomputed_activations_have_the_gradient_of_kept_ones():
    assert differ(gradients(micro_batch=3, checkpointing=True), gradients()) < 1e-5


CASES = (
    *({}, {"micro_batch": 2}, {"parallel": "fsdp"}, {"parallel": "fsdp", "micro_batch": 2}),
    *({"clips": 7}, {"clips": 7, "micro_batch": 2}, {"clips": 7, "parallel": "fsdp", "micro_batch": 2}),
)


def _worker(rank: int, world: int, port: int, queue: Any) -> None:
    import os

    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    found = [gradients(**case) for case in CASES]
    accelerator = make_accelerator()
    votes = agreed(accelerator, rank == 1), agreed(accelerator, False), from_main(accelerator, lambda: f"by {rank}")
    if rank == 0:
        queue.put(([(loss, {n: g.numpy() for n, g in grads.items()}) for loss, grads in found], votes))
    accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_one_with_whole_weights_and_with_shards():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = mp.get_context("spawn").Queue()
    workers = mp.spawn(_worker, args=(2, port, queue), nprocs=2, join=False)
    results, votes = queue.get(timeout=300)
    while not workers.join():
        pass
    expected = {clips: gradients(clips=clips) for clips in (7, CLIPS)}
    for case, (loss, grads) in zip(CASES, results, strict=True):
        assert (
            differ((loss, {n: torch.from_numpy(g) for n, g in grads.items()}), expected[case.get("clips", CLIPS)])
            < 1e-5
        ), case
    assert votes == (True, False, "by 0")


@pytest.mark.parametrize("loss", [nt_xent, info_nce])
def test_a_loss_in_chunks_has_value_gradient_and_accuracy_of_the_whole(loss, monkeypatch):
    def found():
        a, b = (torch.randn(11, 6, generator=torch.Generator().manual_seed(i)).double() for i in (1, 2))
        a, b = (0.5 * a + b).requires_grad_(), b.requires_grad_()
        value, accuracy = loss(a, b, 0.3)
        value.backward()
        return value.detach(), accuracy, a.grad, b.grad

    expected = found()
    monkeypatch.setattr(loss_module, "CHUNK_ENTRIES", 70)
    for x, y in zip(found(), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-8)


def test_no_matrix_of_all_similarities_is_ever_in_memory(monkeypatch):
    largest = 0
    real = torch.nn.functional.cross_entropy

    def watched(logits, *args, **options):
        nonlocal largest
        largest = max(largest, logits.numel())
        return real(logits, *args, **options)

    monkeypatch.setattr(loss_module.F, "cross_entropy", watched)
    assert loss_module.CHUNK_ENTRIES < (2 * 8192) ** 2 / 10
    monkeypatch.setattr(loss_module, "CHUNK_ENTRIES", 1 << 16)
    embeddings = torch.randn(1024, 2, requires_grad=True)
    nt_xent(embeddings, embeddings.detach().roll(1, 0), 0.07)[0].backward()
    assert 2048 <= largest <= 1 << 16
    assert embeddings.grad is not None


def test_the_second_pass_drops_what_the_first_dropped():
    kept = []

    class Dropping(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Any:
            mask = torch.rand(len(x), 1) > 0.5
            kept.append(mask)
            return Out(x * self.weight * mask)

    class Out(tuple):
        def __new__(cls, *columns: Tensor) -> Any:
            return super().__new__(cls, columns)

    class Squares(AsTheyAre):
        def losses(self, output: Any, batch: Rows) -> dict[str, Tensor]:
            return {"loss": output[0].square().sum()}

    batch = Rows([torch.randn(8, 3, generator=torch.Generator().manual_seed(0))])
    backward(Dropping(), Squares(), batch, 0, make_accelerator(), micro_batch=3)
    first, second = kept[:3], kept[3:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(mask.any() for mask in first)
