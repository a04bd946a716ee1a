"""The losses against naive loops over the equations, and against themselves with the batch split over processes."""

from __future__ import annotations

import math
import socket
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from equiav.config import Loss
from equiav.errors import ModelError
from equiav.model.equiav import EquiAVOutput
from equiav.train.loss import equiav_loss, info_nce, nt_xent


def embeddings(n: int, count: int, dim: int = 5, seed: int = 0) -> list[Tensor]:
    return list(torch.randn(count, n, dim, generator=torch.Generator().manual_seed(seed)).double())


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def naive_intra(p: Tensor, u: Tensor, t: float) -> float:
    """NT-Xent, term by term."""
    total = 0.0
    for anchors, others in ((p, u), (u, p)):
        for i in range(len(p)):
            positive = math.exp(cosine(anchors[i], others[i]) / t)
            negatives = sum(
                math.exp(cosine(anchors[i], others[j]) / t) + math.exp(cosine(anchors[i], anchors[j]) / t)
                for j in range(len(p))
                if j != i
            )
            total += -math.log(positive / (positive + negatives)) / len(p)
    return total / 2


def naive_inter(a: Tensor, v: Tensor, t: float) -> float:
    total = 0.0
    for x, y in ((a, v), (v, a)):
        for i in range(len(x)):
            total += -math.log(
                math.exp(cosine(x[i], y[i]) / t) / sum(math.exp(cosine(x[i], y[j]) / t) for j in range(len(x)))
            )
    return total / (2 * len(a))


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_losses_equal_a_loop_over_the_equations(n, temperature):
    a, b = embeddings(n, 2)
    assert float(nt_xent(a, b, temperature)[0]) == pytest.approx(naive_intra(a, b, temperature), rel=1e-5)
    assert float(info_nce(a, b, temperature)[0]) == pytest.approx(naive_inter(a, b, temperature), rel=1e-5)


def test_embeddings_that_are_all_alike_give_the_logarithm_of_the_number_of_candidates():
    same = torch.ones(6, 4)
    assert float(nt_xent(same, same, 0.07)[0]) == pytest.approx(math.log(11), rel=1e-6)
    assert float(info_nce(same, same, 0.07)[0]) == pytest.approx(math.log(6), rel=1e-6)


def test_accuracy_counts_the_anchors_whose_positive_is_nearest():
    a = torch.eye(4)
    swapped = a[[1, 0, 2, 3]]
    assert float(info_nce(a, a, 0.07)[1]) == 1
    assert float(info_nce(a, swapped, 0.07)[1]) == 0.5
    assert float(nt_xent(a, a, 0.07)[1]) == 1
    assert float(nt_xent(a, swapped, 0.07)[1]) == 0.5


def test_length_of_embeddings_does_not_matter():
    a, b = embeddings(4, 2)
    torch.testing.assert_close(nt_xent(a, b, 0.07)[0], nt_xent(a * 9, b * 0.1, 0.07)[0])


def test_total_is_the_weighted_sum_of_the_parts():
    output = EquiAVOutput(*embeddings(4, 6))
    found = equiav_loss(output, Loss(inter=0.5, intra_audio=0.2, intra_visual=0.1))
    parts = 0.5 * found["loss_inter"] + 0.2 * found["loss_intra_audio"] + 0.1 * found["loss_intra_visual"]
    torch.testing.assert_close(found["loss"], parts)
    assert float(found["loss_intra_visual"]) == pytest.approx(naive_intra(output[3], output[5], 0.07), rel=1e-5)
    assert float(found["loss_intra_audio"]) == pytest.approx(naive_intra(output[2], output[4], 0.07), rel=1e-5)


def test_plain_method_has_the_inter_modal_loss_alone():
    a, v = embeddings(4, 2)
    found = equiav_loss(EquiAVOutput(a, v, None, None, None, None), Loss())
    assert set(found) == {"loss", "loss_inter", "accuracy_inter", "alignment", "uniformity"}
    torch.testing.assert_close(found["loss"], found["loss_inter"] / 3)


def test_half_precision_embeddings_are_compared_in_float32():
    output = EquiAVOutput(*(x.bfloat16() for x in embeddings(8, 6)))
    exact = equiav_loss(EquiAVOutput(*(x.float() for x in output)), Loss())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = equiav_loss(output, Loss())
    assert found["loss"].dtype == torch.float32
    assert float(found["loss"]) == float(exact["loss"])


def test_a_batch_of_one_is_refused():
    with pytest.raises(ModelError, match="2 or more, found 1"):
        equiav_loss(EquiAVOutput(*embeddings(1, 6)), Loss())


def _gradient(rank: int, world: int, port: int, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    mine = [x.float().chunk(world)[rank].clone().requires_grad_() for x in embeddings(6, 6)]
    loss = equiav_loss(EquiAVOutput(*mine), Loss())["loss"]
    loss.backward()
    # what DDP does: the mean of the gradients over processes
    queue.put((rank, float(loss.detach()), [(x.grad / world).tolist() for x in mine if x.grad is not None]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_the_gradient_of_one():
    whole = [x.float().requires_grad_() for x in embeddings(6, 6)]
    loss = equiav_loss(EquiAVOutput(*whole), Loss())["loss"]
    loss.backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    workers = mp.spawn(_gradient, args=(2, port, queue), nprocs=2, join=False)
    while not workers.join():
        pass
    found = sorted(queue.get() for _ in range(2))
    for _, value, _ in found:
        assert value == pytest.approx(loss.item(), rel=1e-6)
    for i, x in enumerate(whole):
        torch.testing.assert_close(torch.tensor(found[0][2][i] + found[1][2][i]), x.grad)
