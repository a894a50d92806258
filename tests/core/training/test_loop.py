from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import DataError, TriptychError
from core.progress import Event, Progress, Task
from core.training import FitResult, TrainConfig, fit, load_weights
from core.training.checkpoint import load_checkpoint
from core.training.precision import Autocast

ROOT = Path(__file__).parents[3]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [event for event in found if event["event"] == kind]


def train(toy: ModuleType, run: Path, task: Any = None, **settings: Any) -> FitResult:
    config = TrainConfig(**{"max_steps": 12, "lr": 0.01, **settings})
    return fit(toy.network(), task or toy.Task(), toy.Batches(), config, run)


def test_learns_and_leaves_a_run_folder(toy: ModuleType, tmp_path: Path) -> None:
    result = train(toy, tmp_path, max_steps=300, val_every=100, ema_decay=0.95)
    error = result.metrics["error"]
    assert error is not None
    assert error < 0.4  # predicting zero scores 4
    assert result.stopped_because == "max_steps"
    for name in ("config.yaml", "env.json", "log.jsonl", "metrics.csv"):
        assert (tmp_path / name).stat().st_size > 0
    # The kept weights are the ones that scored: measured anew they score the same.
    network = toy.network(seed=1)
    network.load_state_dict(load_weights(result.best))
    with torch.no_grad():
        assert toy.Task().validate(network.eval()) == result.metrics


def test_same_result_for_any_number_of_workers(toy: ModuleType, tmp_path: Path) -> None:
    runs = []
    for workers in (0, 2):
        task = toy.Task()
        result = train(toy, tmp_path / str(workers), task, workers=workers)
        assert task.seen == list(range(12))
        runs.append(load_checkpoint(result.last)[1]["network"])
    for name, tensor in runs[0].items():
        assert torch.equal(tensor, runs[1][name])


def test_seed_decides(toy: ModuleType, tmp_path: Path) -> None:
    weights = [
        load_weights(train(toy, tmp_path / str(i), seed=seed).last)["0.weight"]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_validation_does_not_disturb_training(toy: ModuleType, tmp_path: Path) -> None:
    often = load_checkpoint(train(toy, tmp_path / "a", val_every=1).last)[1]
    never = load_checkpoint(train(toy, tmp_path / "b").last)[1]
    for name, tensor in never["network"].items():
        assert torch.equal(often["network"][name], tensor)


def test_average_follows_the_formula(toy: ModuleType, tmp_path: Path) -> None:
    result = train(toy, tmp_path, max_steps=6, ema_decay=0.4, accumulate=2)
    # Replay: the weights after every step, from runs that stop there (constant rate, so equal).
    expected = {k: v.clone() for k, v in toy.network().state_dict().items()}
    for step in range(1, 7):
        run = tmp_path / str(step)
        config = TrainConfig(max_steps=6, lr=0.01, accumulate=2, val_every=1, ema_decay=0.4)
        task = toy.Task()
        if step < 6:
            task.at[2 * step + 1] = stop
            with pytest.raises(Stop):
                fit(toy.network(), task, toy.Batches(), config, run)
        else:
            fit(toy.network(), task, toy.Batches(), config, run)
        current = load_checkpoint(run / "checkpoints" / "last")[1]["network"]
        decay = min(0.4, (1 + step) / (10 + step))
        for name, value in current.items():
            if "running" in name or "num_batches" in name:
                expected[name] = value
            else:
                expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in load_checkpoint(result.last)[1]["ema"].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)


class Stop(Exception):
    pass


def stop(_: Tensor) -> Tensor:
    raise Stop


def test_without_average_the_network_is_kept(toy: ModuleType, tmp_path: Path) -> None:
    result = train(toy, tmp_path, ema_decay=None)
    _, parts = load_checkpoint(result.last)
    assert set(parts) == {"network", "optimizer"}
    assert torch.equal(load_weights(result.best)["0.weight"], parts["network"]["0.weight"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_step_is_the_textbook_one(toy: ModuleType, tmp_path: Path, optimizer: str) -> None:
    clip, lr, weight_decay = 0.05, 0.1, 0.2
    network = toy.plain_network()
    start = {name: value.clone() for name, value in network.named_parameters()}
    config = TrainConfig(
        max_steps=1, optimizer=optimizer, lr=lr, weight_decay=weight_decay, grad_clip=clip,
        ema_decay=None, log_every=1, momentum=0.0,
    )  # fmt: skip
    seen: list[Any] = []
    task = toy.Task()
    loss = task.loss
    task.loss = lambda net, batch: seen.append(batch) or loss(net, batch)
    fit(network, task, toy.Batches(), config, tmp_path)

    again = toy.plain_network()
    error = (again(seen[0]["x"]) - seen[0]["y"]).square().mean()
    gradients = dict(zip(start, torch.autograd.grad(error, list(again.parameters())), strict=True))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    assert norm > 10 * clip
    assert events(tmp_path, "train")[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    for name, parameter in network.named_parameters():
        gradient = gradients[name] * clip / norm
        decay = weight_decay if parameter.ndim > 1 else 0.0  # none on biases
        if optimizer == "sgd":
            expected = start[name] - lr * (gradient + decay * start[name])
        else:
            update = gradient / (gradient.abs() + 1e-8)  # Adam's first step
            expected = start[name] * (1 - lr * decay) - lr * update
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6)


def test_accumulated_batches_make_one_step(toy: ModuleType, tmp_path: Path) -> None:
    """Two batches of 16 accumulated are one batch of 32."""

    class Pairs:
        def batch_at(self, index: int) -> dict[str, Tensor]:
            x = torch.arange(128.0).reshape(32, 4).sin() + index
            return {"x": x, "y": x.sum(1, keepdim=True), "index": torch.tensor(index)}

    class Halves:
        def batch_at(self, index: int) -> dict[str, Tensor]:
            whole, part = (
                Pairs().batch_at(index // 2),
                slice(16 * (index % 2), 16 * (index % 2) + 16),
            )
            return {"x": whole["x"][part], "y": whole["y"][part], "index": torch.tensor(index)}

    networks = []
    for accumulate, batches in ((1, Pairs()), (2, Halves())):
        network = toy.plain_network()
        config = TrainConfig(max_steps=5, lr=0.01, accumulate=accumulate)
        fit(network, toy.Task(), batches, config, tmp_path / str(accumulate))
        networks.append(network)
    for one, two in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_there_and_returns_float32(toy: ModuleType, tmp_path: Path) -> None:
    inside: list[torch.dtype] = []
    received: list[torch.dtype] = []

    class Probe(nn.Module):
        note = "mine"

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            received.append(x.dtype)
            y: Tensor = self.layer(x)
            inside.append(y.dtype)
            return y

    class Checked(toy.Task):
        def loss(self, network: Any, batch: Any) -> Any:
            assert network(batch["x"]).dtype == torch.float32
            assert network.note == "mine"
            return super().loss(network, batch)

        def validate(self, network: Any) -> dict[str, float]:
            assert not network.training
            assert network(self.x).dtype == torch.float32
            return super().validate(network)

    config = TrainConfig(max_steps=50, lr=0.05, precision="bf16", ema_decay=0.5)
    network = Probe()
    result = fit(network, Checked(), toy.Batches(), config, tmp_path)
    assert set(inside) == {torch.bfloat16}
    assert set(received) == {torch.float32}
    assert network.layer.weight.dtype == torch.float32
    error = result.metrics["error"]
    assert error is not None
    assert error < 0.1


def test_early_stopping(toy: ModuleType, tmp_path: Path) -> None:
    scores = iter([3.0, 1.0, 2.0, float("nan"), 1.5, 9.0])
    task = toy.Task()
    task.validate = lambda network: {"error": next(scores)}
    result = train(toy, tmp_path, task, max_steps=100, val_every=2, patience=3)
    assert result.stopped_because == "patience"
    assert result.steps == 10
    assert result.metrics == {"error": 1.0}
    assert load_checkpoint(result.best)[0].step == 4
    assert events(tmp_path, "validation")[3]["error"] is None


def test_one_bad_batch_is_skipped(toy: ModuleType, tmp_path: Path) -> None:
    task = toy.Task()
    task.at[5] = lambda error: error * float("nan")
    result = train(toy, tmp_path, task, ema_decay=None)
    state, parts = load_checkpoint(result.last)
    assert (state.step, state.updates) == (12, 11)
    assert [event["step"] for event in events(tmp_path, "skipped")] == [5]
    assert all(torch.isfinite(value).all() for value in parts["network"].values())


def test_poisoned_batch_leaves_no_trace(toy: ModuleType, tmp_path: Path) -> None:
    """NaN inputs reach the running statistics in the forward pass, before any loss is seen."""

    class Poisoned(toy.Batches):
        def batch_at(self, index: int) -> dict[str, Tensor]:
            batch: dict[str, Tensor] = super().batch_at(index)
            if index == 4:
                batch["x"][0, 0] = float("nan")
            return batch

    config = TrainConfig(max_steps=8)
    result = fit(toy.network(), toy.Task(), Poisoned(), config, tmp_path)
    assert [event["step"] for event in events(tmp_path, "skipped")] == [5]
    assert all(torch.isfinite(value).all() for value in load_weights(result.last).values())


def test_divergence_stops_and_keeps_the_last_good_checkpoint(
    toy: ModuleType, tmp_path: Path
) -> None:
    task = toy.Task()
    for call in range(9, 30):
        task.at[call] = lambda error: error * float("inf")
    with pytest.raises(TriptychError, match=r"steps \[9, 10, 11, 12, 13\].*of step 8 is kept"):
        train(toy, tmp_path, task, max_steps=100, save_every=2)
    state, parts = load_checkpoint(tmp_path / "checkpoints" / "last")
    assert state.step == 8
    assert all(torch.isfinite(value).all() for value in parts["network"].values())


def test_time_budget_stops_and_its_rest_is_used_on_resume(toy: ModuleType, tmp_path: Path) -> None:
    class Slow(toy.Task):
        def loss(self, network: Any, batch: Any) -> Any:
            time.sleep(0.01)
            return super().loss(network, batch)

    config = TrainConfig(max_minutes=1.2 / 60, lr=0.01, log_every=1, ema_decay=None)
    task = Slow()
    task.at[20] = stop
    half = config.model_copy(update={"save_every": 1})
    with pytest.raises(Stop):
        fit(toy.network(), task, toy.Batches(), half, tmp_path)
    used = load_checkpoint(tmp_path / "checkpoints" / "last")[0].seconds
    assert 0.19 < used < 1.2
    time.sleep(0.3)  # the clock stands still while nobody trains
    result = fit(toy.network(), Slow(), toy.Batches(), config, tmp_path, resume=True)
    assert result.stopped_because == "max_minutes"
    assert result.steps > 20
    assert 1.1 < result.seconds < 5  # the last step may be slow on a busy machine
    rates = [event["lr"] for event in events(tmp_path, "train")]
    assert rates == sorted(rates, reverse=True)  # one cosine through both halves
    assert rates[0] > 0.0099
    assert rates[-1] < 0.005


def test_errors_in_data_come_through_loader_workers(toy: ModuleType, tmp_path: Path) -> None:
    class Broken:
        def batch_at(self, index: int) -> Any:
            raise DataError(f"case_{index}.nii.gz: is truncated; copy it again")

    for workers in (0, 1):
        config = TrainConfig(max_steps=2, workers=workers)
        with pytest.raises(DataError, match=r"^case_0.nii.gz: is truncated; copy it again$"):
            fit(toy.network(), toy.Task(), Broken(), config, tmp_path / str(workers))


def test_progress_counts_to_the_end(toy: ModuleType, tmp_path: Path) -> None:
    class Recorder(Progress):
        def __init__(self) -> None:
            self.seen: list[tuple[float, float | None, str]] = []

        def show(self, task: Task, event: Event) -> None:
            self.seen.append((task.done, task.total, event))

    recorder = Recorder()
    config = TrainConfig(max_steps=7, val_every=3)
    fit(toy.network(), toy.Task(), toy.Batches(), config, tmp_path, progress=recorder)
    assert recorder.seen[0] == (0, 7, "start")
    assert recorder.seen[-1] == (7, 7, "done")


def test_settings_need_no_torch() -> None:
    code = (
        "import sys, core.training as t; t.TrainConfig(max_steps=1); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_two_processes_share_the_work(toy: ModuleType, tmp_path: Path) -> None:
    """DDP on two processes takes the batches, and the steps, of one that accumulates two."""
    script = tmp_path / "ddp.py"
    script.write_text(
        "import importlib.util, sys\n"
        "from pathlib import Path\n"
        "from core.training import TrainConfig, fit\n"
        f"spec = importlib.util.spec_from_file_location('toy', {str(Path(__file__).with_name('toy.py'))!r})\n"
        "toy = importlib.util.module_from_spec(spec); spec.loader.exec_module(toy)\n"
        "config = TrainConfig(max_steps=6, lr=0.01, val_every=3)\n"
        f"fit(toy.plain_network(), toy.Task(), toy.Batches(), config, Path({str(tmp_path / 'two')!r}))\n"
        # Left to the interpreter's end, gloo's threads at times outlive it and abort the process.
        "import torch.distributed as group; group.barrier(); group.destroy_process_group()\n"
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            script,
        ],
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    config = TrainConfig(max_steps=6, lr=0.01, val_every=3, accumulate=2)
    one = fit(toy.plain_network(), toy.Task(), toy.Batches(), config, tmp_path / "one")
    two = load_checkpoint(tmp_path / "two" / "checkpoints" / "last")[1]
    for name, value in load_checkpoint(one.last)[1]["network"].items():
        torch.testing.assert_close(two["network"][name], value, rtol=1e-4, atol=1e-5)


def test_a_method_that_a_network_names_runs_in_the_run_s_precision() -> None:
    class Network(torch.nn.Linear):
        forward_methods = ("own_loss",)

        def own_loss(self, x: torch.Tensor) -> torch.Tensor:
            y = self(x)
            assert y.dtype == torch.bfloat16
            return y.float().sum()

        def other(self, x: torch.Tensor) -> torch.Tensor:
            return self(x)

    wrapped = Autocast(Network(4, 4), "cpu", torch.bfloat16)
    assert wrapped.own_loss(torch.ones(2, 4)).dtype == torch.float32
    assert wrapped.other(torch.ones(2, 4)).dtype == torch.float32
    assert wrapped(torch.ones(2, 4)).dtype == torch.float32
