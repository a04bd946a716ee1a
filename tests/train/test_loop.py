"""The loop: exact to resume, bad steps skipped and named, schedule as written."""

import json
import math
from dataclasses import dataclass

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from equiav.config import Optim, Train
from equiav.errors import TrainingError
from equiav.train import throughput
from equiav.train.loop import train
from equiav.train.optim import learning_rate, make_optimizer
from equiav.train.throughput import choose_precision

OPTIM = Optim(lr=1e-2, warmup_epochs=1, clip_norm=1.0)


@dataclass
class Rows:
    x: torch.Tensor
    clip_ids: list[str]

    def split(self, size):
        parts = range(0, len(self.clip_ids), size)
        return [Rows(self.x[i : i + size], self.clip_ids[i : i + size]) for i in parts]


class SumOfRow:
    """Predict the sum of a row; a random noise that follows from the epoch and the rows blurs the target."""

    def inputs(self, batch, epoch):
        return (batch.x, 0.1 * torch.sin(1e3 * (epoch + 1) * batch.x[:, :1]))

    def losses(self, output, batch):
        return {"loss": output.square().mean()}

    def health(self, batch, epoch):
        return {}


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x, noise):
        return self.layers(x) - x.sum(1, keepdim=True) - noise


class Loader:
    """Six batches of four rows; the order depends on the epoch alone."""

    def __init__(self, poison=()):
        self.rows = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
        self.poison = poison

    def __len__(self):
        return 6

    def epoch(self, epoch, start_batch=0):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(epoch)).view(6, 4)
        for number in range(start_batch, 6):
            x = self.rows[order[number]].clone()
            if epoch * 6 + number in self.poison:
                x[0, 0] = math.nan
            yield Rows(x, [f"clip{i}" for i in order[number].tolist()])


def run(folder, *, stop_after=None, poison=(), epochs=3, flops_per_clip=None, objective=None, **settings):
    torch.manual_seed(0)
    model = Regression()
    folder.mkdir(exist_ok=True)
    done = []

    progress, _ = train(
        model,
        Loader(poison),
        objective or SumOfRow(),
        folder,
        settings=Train(epochs=epochs, global_batch=4, precision="fp32", log_every=1, **settings),
        optim=OPTIM,
        flops_per_clip=flops_per_clip,
        on_step=done.append,
        should_stop=lambda: stop_after is not None and len(done) >= stop_after,
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return progress.step, model.state_dict(), lines


def test_no_step_uses_more_than_all_of_the_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "matmul_rate", lambda *_: 1.0)
    _, _, lines = run(tmp_path / "r", flops_per_clip=1e6)
    assert all(0 < line["mfu"] <= 1 for line in lines)
    assert max(lines, key=lambda line: line["clips_per_s"])["mfu"] == 1


def test_memory_is_reported_at_its_peak(tmp_path):
    class Large(SumOfRow):
        def losses(self, output, batch):
            torch.ones(50_000_000)  # 0.2 GB that are gone when the step is done
            return super().losses(output, batch)

    before = psutil.Process().memory_info().rss / 1e9
    _, _, lines = run(tmp_path / "r", epochs=1, objective=Large())
    assert lines[-1]["memory_gb"] > before + 0.19


@pytest.mark.parametrize("stop_after", [1, 5, 6, 7, 13, 17])
def test_a_stopped_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, stop_after):
    _, whole, lines = run(tmp_path / "whole")
    step, _, _ = run(tmp_path / "parts", stop_after=stop_after)
    assert step == stop_after
    step, parts, again = run(tmp_path / "parts")
    assert step == 18
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [(line["step"], line["loss"], line["lr"]) for line in again] == [
        (line["step"], line["loss"], line["lr"]) for line in lines
    ]


def test_a_run_killed_between_checkpoints_repeats_its_steps_and_logs_none_twice(tmp_path):
    _, whole, lines = run(tmp_path / "whole")
    run(tmp_path / "killed", stop_after=8)
    newest = max((tmp_path / "killed" / "state").glob("step-*"))
    assert newest.name == "step-00000008"
    for file in newest.iterdir():  # as if the kill had come before this checkpoint was renamed into place
        file.unlink()
    newest.rmdir()
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "half a li')
    _, parts, again = run(tmp_path / "killed")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [line["step"] for line in again] == [line["step"] for line in lines]


def test_a_state_of_an_earlier_version_is_gone_on_from(tmp_path):
    _, whole, _ = run(tmp_path / "whole")
    run(tmp_path / "old", stop_after=8)
    (file,) = (tmp_path / "old" / "state").glob("*8/state.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"epoch_loss": 2.5, "epoch_steps": 2, "best_step": 6}))
    _, parts, _ = run(tmp_path / "old")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_training_lowers_the_loss_and_keeps_the_last_two_states(tmp_path):
    _, weights, lines = run(tmp_path / "r", epochs=30)
    assert lines[-1]["loss"] < 0.2 * lines[0]["loss"]
    kept = [p.name for p in sorted((tmp_path / "r/state").iterdir())]
    assert kept == ["step-00000174", "step-00000180"]
    saved = load_file(tmp_path / "r/state/step-00000180/model.safetensors")
    assert all(torch.equal(saved[name], weights[name]) for name in weights)


def test_all_files_of_a_state_have_the_same_permissions(tmp_path):
    run(tmp_path / "r", epochs=1, ema=0.9)
    (state,) = (tmp_path / "r" / "state").iterdir()
    usual = (tmp_path / "r" / "metrics.jsonl").stat().st_mode
    names = ("average.safetensors", "model.safetensors", "optimizer.safetensors", "state.json")
    assert {path.name: path.stat().st_mode for path in state.iterdir()} == dict.fromkeys(names, usual)


def test_a_run_saves_between_epochs_as_often_as_is_set(tmp_path):
    run(tmp_path / "r", epochs=1, stop_after=5, save_every=2)
    assert {p.name for p in (tmp_path / "r/state").iterdir()} == {"step-00000004", "step-00000005"}


def averaged(folder, *, stop_after=None, poison=(), epochs=3, **settings):
    """The loop's average, where it began, and the weights after every step."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    model = Regression()
    start = weights_of(model)
    after = []
    _, average = train(
        model,
        Loader(poison),
        SumOfRow(),
        folder,
        settings=Train(epochs=epochs, global_batch=4, precision="fp32", **settings),
        optim=OPTIM,
        on_step=lambda step: after.append(weights_of(model)),
        should_stop=lambda: stop_after is not None and len(after) >= stop_after,
    )
    return average, start, after


def weights_of(model):
    return {name: weight.detach().double() for name, weight in model.named_parameters()}


def assert_average(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-7)


def naive_ema(start, after, decay, poison=()):
    found = start
    for step, weights in enumerate(after):
        if step not in poison:
            kept = min(decay, (1 + step) / (10 + step))
            found = {name: kept * found[name] + (1 - kept) * weights[name] for name in found}
    return found


@pytest.mark.parametrize("decay", [0.15, 0.999])
def test_the_average_of_steps_is_the_exponential_one_of_the_weights_after_each(tmp_path, decay):
    average, start, after = averaged(tmp_path, ema=decay)
    assert len(after) == 18
    assert_average(average, naive_ema(start, after, decay))


def test_a_skipped_step_does_not_enter_the_average(tmp_path):
    average, start, after = averaged(tmp_path, ema=0.9, poison={7})
    assert_average(average, naive_ema(start, after, 0.9, poison={7}))


@pytest.mark.parametrize(("last", "epochs"), [(1, 3), (2, 4), (3, 3), (5, 3)])
def test_the_average_of_epochs_is_the_mean_of_the_weights_after_the_last_ones(tmp_path, last, epochs):
    average, _, after = averaged(tmp_path, average_last=last, epochs=epochs)
    ends = after[5::6][-last:]
    assert_average(average, {name: torch.stack([end[name] for end in ends]).mean(0) for name in average})


@pytest.mark.parametrize("settings", [{"ema": 0.9}, {"average_last": 2}], ids=str)
def test_a_stopped_run_averages_as_an_uninterrupted_one(tmp_path, settings):
    whole, _, _ = averaged(tmp_path / "whole", **settings)
    averaged(tmp_path / "parts", stop_after=13, **settings)
    parts, _, _ = averaged(tmp_path / "parts", **settings)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_non_finite_step_is_skipped_counted_and_its_clips_named(tmp_path):
    _, weights, lines = run(tmp_path / "r", poison={4})
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert lines[-1]["skipped"] == 1
    assert lines[4]["loss"] is None
    note = json.loads((tmp_path / "r/skipped.jsonl").read_text())
    assert note["step"] == 4
    assert len(note["clip_ids"]) == 4


def test_the_count_of_skipped_steps_survives_a_stop(tmp_path):
    whole = run(tmp_path / "whole", poison={2, 4})[2]
    run(tmp_path / "parts", poison={2, 4}, stop_after=3)
    parts = run(tmp_path / "parts", poison={2, 4})[2]
    assert [line["skipped"] for line in parts] == [line["skipped"] for line in whole]
    assert whole[-1]["skipped"] == 2
    run(tmp_path / "bad", poison={6, 7, 8}, stop_after=8)
    with pytest.raises(TrainingError, match="3 steps in a row"):
        run(tmp_path / "bad", poison={6, 7, 8})


def test_three_non_finite_steps_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"step 8: .*3 steps in a row.*clip\d+, .*lower optim.lr"):
        run(tmp_path / "r", poison={6, 7, 8})


def test_weights_of_another_model_are_refused(tmp_path):
    run(tmp_path / "r", stop_after=2)
    with pytest.raises(TrainingError, match="belong to another model"):
        train(
            nn.Linear(3, 2),
            Loader(),
            SumOfRow(),
            tmp_path / "r",
            settings=Train(epochs=1, precision="fp32"),
            optim=OPTIM,
        )


def test_the_learning_rate_warms_up_linearly_and_ends_on_the_cosine():
    def lr(step):
        return learning_rate(step, steps_per_epoch=10, epochs=20, settings=Optim())

    assert lr(0) == 2e-7
    assert lr(10) == pytest.approx(2e-7 + (1e-4 - 2e-7) / 2)
    assert lr(20) == 1e-4
    assert lr(110) == pytest.approx((1e-4 + 1e-6) / 2)
    assert lr(200) == pytest.approx(1e-6)


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model.token = nn.Parameter(torch.zeros(1, 1, 4))
    decay, plain = make_optimizer(model, Optim()).param_groups
    assert [p.shape for p in decay["params"]] == [(4, 4)]
    assert plain["weight_decay"] == 0
    assert len(plain["params"]) == 4


def test_precision_auto_is_one_of_the_two_and_a_wish_is_kept():
    assert choose_precision("auto") in {"bf16", "fp32"}
    assert choose_precision("bf16") == "bf16"
