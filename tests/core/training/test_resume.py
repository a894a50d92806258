"""Killed at any moment and resumed in another process, a run ends with the same bits."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from core.errors import DataError, UsageError
from core.training import Interrupted, TrainConfig, fit, load_weights
from core.training.checkpoint import load_checkpoint

CONFIG: dict[str, Any] = {
    "max_steps": 20,
    "val_every": 6,
    "save_every": 4,
    "log_every": 2,
    "lr": 0.05,
    "warmup_steps": 5,
    "weight_decay": 0.1,
    "ema_decay": 0.9,
    "accumulate": 2,
    "threads": 1,
}


def logged(run: Path, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k != "seconds"} for e in events if e["event"] == kind]


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def assert_same_run(run: Path, reference: Path) -> None:
    for which in ("last", "best"):
        state, parts = load_checkpoint(run / "checkpoints" / which)
        expected, expected_parts = load_checkpoint(reference / "checkpoints" / which)
        assert parts.keys() == expected_parts.keys()
        for part, tensors in expected_parts.items():
            assert parts[part].keys() == tensors.keys()
            for name, tensor in tensors.items():
                assert torch.equal(parts[part][name], tensor), f"{which}/{part}/{name}"
        same = ("step", "updates", "best", "metrics", "waited", "loss_sum", "stopped_because")
        for field in same:
            assert getattr(state, field) == getattr(expected, field), field
        assert len(list((run / "checkpoints" / which).iterdir())) == 2  # nothing left over
    assert rows(run) == rows(reference)
    for kind in ("start", "train", "validation"):
        assert logged(run, kind) == logged(reference, kind)


@pytest.fixture(scope="module")
def reference(in_process: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    assert in_process(run=str(run), config=CONFIG) == 0
    return run


# Checkpoints are written at steps 4, 6 (last, then best), 8, 12 (and again after validating) ...
@pytest.mark.parametrize(
    ("kill", "at", "resumes_at"),
    [
        ("step", 3, None),  # before there is any checkpoint
        ("step", 19, 8),  # in the first of two batches of step 10
        ("step", 26, 12),  # in the second batch of step 13: half a gradient is lost
        ("tensors", 1, None),  # half of the very first checkpoint is written
        ("tensors", 4, 6),  # half of a later one
        ("commit", 4, 6),  # whole, but not committed
        ("tensors", 3, 6),  # between the last and the best checkpoint of one validation
        ("commit", 3, 6),
    ],
)
def test_same_bits_after_sigkill(
    in_process: Callable[..., int],
    reference: Path,
    tmp_path: Path,
    kill: str,
    at: int,
    resumes_at: int | None,
) -> None:
    run = tmp_path / "run"
    assert in_process(run=str(run), config=CONFIG, kill=kill, at=at) == signal.SIGKILL
    if resumes_at is None:
        assert not (run / "checkpoints" / "last" / "state.json").exists()
    else:
        assert load_checkpoint(run / "checkpoints" / "last")[0].step == resumes_at
    assert in_process(run=str(run), config=CONFIG, resume=True) == 0
    assert_same_run(run, reference)


def test_same_bits_after_three_kills_and_with_loader_workers(
    in_process: Callable[..., int], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for at in (11, 9, 7):
        status = in_process(
            run=str(run), config=CONFIG | {"workers": 2}, kill="step", at=at, resume=True
        )
        assert status == signal.SIGKILL
    assert in_process(run=str(run), config=CONFIG | {"workers": 1}, resume=True) == 0
    assert_same_run(run, reference)


@pytest.mark.parametrize("where", ["step", "validation"])
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_names_the_way_on(
    toy: ModuleType, reference: Path, tmp_path: Path, where: str, which: signal.Signals
) -> None:
    run, task, handlers = tmp_path / "run", toy.Task(), signal.getsignal(which)

    def interrupt(error: Any = None) -> Any:
        os.kill(os.getpid(), which)
        return error

    if where == "step":
        task.at[21] = interrupt  # in the middle of step 11
    else:
        task.validate = lambda network: interrupt() or {"error": 0.0}
    with pytest.raises(Interrupted, match=rf"{which.name} at step .*--resume") as caught:
        fit(toy.network(), task, toy.Batches(), TrainConfig(**CONFIG), run)
    assert caught.value.exit_code == 130
    assert signal.getsignal(which) is handlers
    step = load_checkpoint(run / "checkpoints" / "last")[0].step
    assert step == (11 if where == "step" else 6)
    fit(toy.network(), toy.Task(), toy.Batches(), TrainConfig(**CONFIG), run, resume=True)
    assert_same_run(run, reference)


def test_longer_budget_continues(toy: ModuleType, tmp_path: Path) -> None:
    config = TrainConfig(**CONFIG | {"schedule": "constant"})
    short = config.model_copy(update={"max_steps": 12})
    whole = fit(toy.network(), toy.Task(), toy.Batches(), config, tmp_path / "whole")
    assert (whole.earlier_seconds, whole.earlier_cpu_seconds) == (0, 0)
    first = fit(toy.network(), toy.Task(), toy.Batches(), short, tmp_path / "run")
    spent = load_checkpoint(first.last)[0].cpu_seconds
    ended = fit(toy.network(), toy.Task(), toy.Batches(), config, tmp_path / "run", resume=True)
    assert ended.steps == 20
    assert (ended.earlier_seconds, ended.earlier_cpu_seconds) == (first.seconds, spent)
    assert 0 < spent < load_checkpoint(ended.last)[0].cpu_seconds
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    # A finished run stays as it is.
    again = fit(toy.network(), toy.Task(), toy.Batches(), config, tmp_path / "run", resume=True)
    assert (again.metrics, again.steps) == (whole.metrics, 20)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_resume_refuses_another_run(toy: ModuleType, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)

    def resume(network: Any = None, context: Any = None, **changes: Any) -> None:
        config = TrainConfig(**CONFIG | changes)
        network = network or toy.network()
        fit(network, toy.Task(), toy.Batches(), config, run, resume=True, context=context)

    with pytest.raises(UsageError, match=r"started with lr=0\.05, now it is 0\.1"):
        resume(lr=0.1)
    with pytest.raises(UsageError, match="started with fold=None, now it is 3"):
        resume(context={"fold": 3})
    with pytest.raises(DataError, match=r"another architecture.*of another shape: 0\.weight"):
        resume(network=toy.network(width=9))
    assert_same_run(run, reference)  # a refusal changes nothing
    resume(max_steps=21, log_every=3)


def test_existing_run_is_kept_unless_forced(
    toy: ModuleType, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    (run / "notes.txt").write_text("mine")
    config = TrainConfig(max_steps=2)
    with pytest.raises(UsageError, match="--resume"):
        fit(toy.network(), toy.Task(), toy.Batches(), config, run)
    assert_same_run(run, reference)
    with pytest.raises(UsageError, match="one of them"):
        fit(toy.network(), toy.Task(), toy.Batches(), config, run, resume=True, force=True)
    assert fit(toy.network(), toy.Task(), toy.Batches(), config, run, force=True).steps == 2
    assert [row["step"] for row in rows(run)] == ["2"]
    assert (run / "notes.txt").read_text() == "mine"


def test_damaged_checkpoint_is_named(toy: ModuleType, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    (tensors,) = (run / "checkpoints" / "last").glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"safetensors: is damaged"):
        fit(toy.network(), toy.Task(), toy.Batches(), TrainConfig(**CONFIG), run, resume=True)
    assert load_weights(run / "checkpoints" / "best")  # the other one is untouched


def test_best_is_made_good_after_a_death_before_it(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint knows of a best one that never got written, and holds its weights."""
    import core.training.loop as loop

    class Died(Exception):
        pass

    def save(folder: Path, *arguments: Any) -> None:
        if folder.name == "best" and arguments[0].step == 12:
            raise Died
        checkpoint(folder, *arguments)

    checkpoint = loop.save_checkpoint
    scores = {6: 5.0, 12: 1.0, 18: 7.0, 20: 7.0}

    def task() -> Any:
        made = toy.Task()
        made.validate = lambda network: {"error": scores[made.step()]}
        made.step = lambda: started + made.calls // 2
        return made

    run, config, started = tmp_path / "run", TrainConfig(**CONFIG), 0
    monkeypatch.setattr(loop, "save_checkpoint", save)
    with pytest.raises(Died):
        fit(toy.network(), task(), toy.Batches(), config, run)
    monkeypatch.undo()
    started = 12
    expected = load_weights(run / "checkpoints" / "last")
    assert load_checkpoint(run / "checkpoints" / "best")[0].step == 6
    result = fit(toy.network(), task(), toy.Batches(), config, run, resume=True)
    assert result.metrics == {"error": 1.0}
    assert load_checkpoint(result.best)[0].step == 12
    for name, value in load_weights(result.best).items():
        assert torch.equal(value, expected[name])
