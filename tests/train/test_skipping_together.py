"""With scaled gradients (fp16) all processes skip the same steps, whichever of them met what is not finite."""

import json
import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from equiav.config import Optim, Train
from equiav.train.loop import train
from equiav.train.processes import leave, make_accelerator, whole
from train.test_loop import Loader, Regression, SumOfRow

SCALE = 1024.0
BAD = 3  # the step, counted from 0, in which one process meets it


class Poisoned(SumOfRow):
    """The loss, or the gradient of the last hidden unit alone, is infinite on rank 1 in one step."""

    def __init__(self, rank: int, kind: str) -> None:
        self.rank, self.kind, self.calls = rank, kind, 0

    def hidden(self, _module: object, _inputs: object, output: torch.Tensor) -> None:
        if self.rank == 1 and self.calls == BAD and self.kind == "gradient":
            output.register_hook(lambda gradient: gradient * gradient.new_tensor([1.0] * 7 + [math.inf]))

    def losses(self, output: torch.Tensor, batch: Any) -> dict[str, torch.Tensor]:
        self.calls += 1
        bad = self.rank == 1 and self.calls == BAD + 1 and self.kind == "loss"
        return {"loss": output.square().mean() * (math.inf if bad else 1.0)}


class Half(Loader):
    """The share of one of two processes."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def epoch(self, epoch: int, start_batch: int = 0) -> Any:
        for batch in super().epoch(epoch, start_batch):
            yield batch.split(2)[self.rank]


def _worker(rank: int, port: int, folder: str, kind: str, parallel: str) -> None:
    torch.set_num_threads(1)
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
    accelerator = make_accelerator()
    # what precision=fp16 makes on a GPU
    accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=10**6)
    torch.manual_seed(0)
    model, run = Regression(), Path(folder, "run")
    run.mkdir(exist_ok=True)
    objective = Poisoned(rank, kind)
    model.layers[1].register_forward_hook(objective.hidden)
    settings = Train(epochs=1, global_batch=4, log_every=1, parallel=parallel)
    progress, _ = train(
        *(model, Half(rank), objective, run),
        settings=settings,
        optim=Optim(lr=1e-2, warmup_epochs=0),
        accelerator=accelerator,
    )
    moments = load_file(max((run / "state").glob("step-*")) / "optimizer.safetensors")
    found = {
        "weights": [whole(weight.detach()).tolist() for weight in model.parameters()],
        "scale": accelerator.scaler.get_scale(),
        "progress": [progress.step, progress.bad, progress.skipped],
        "steps": sorted({float(value) for name, value in moments.items() if name.endswith(".step")}),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


@pytest.mark.parametrize(
    ("kind", "parallel", "skipped"),
    [
        (
            "gradient",
            "fsdp",
            0,
        ),  # in the shard of rank 1 alone: the scale was too large, which is no fault of the clips
        ("loss", "ddp", 1),
    ],
)
def test_a_step_that_is_not_finite_on_one_process_is_skipped_by_both(tmp_path, kind, parallel, skipped):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(port, str(tmp_path), kind, parallel), nprocs=2)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one == two
    assert all(math.isfinite(value) for weight in one["weights"] for value in torch.tensor(weight).flatten().tolist())
    assert one["scale"] == SCALE / 2
    assert one["progress"] == [6, 0, skipped]
    assert one["steps"] == [5.0]
