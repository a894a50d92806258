"""A whole training on a drawn toy world: what it leaves, what it resumes, what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apps.driving.models.base import Inputs
from apps.driving.models.config import PRESETS
from apps.driving.models.store import load_driver
from apps.driving.recordings.layout import Measurement
from apps.driving.recordings.reader import open_dataset
from apps.driving.recordings.tags import GROUPS
from apps.driving.recordings.writer import Recorder
from apps.driving.rig import Camera, Rig
from apps.driving.training import train as module
from apps.driving.training.balance import make_balance
from apps.driving.training.batches import Frames, in_batches
from apps.driving.training.config import TASKS, Recipe, read_options
from apps.driving.training.learning import DrivingTask, Trainee
from apps.driving.training.losses import CLASSIFICATION, Losses
from apps.driving.training.train import train
from core.errors import DataError, UsageError

RIG = Rig(
    (
        Camera("left", -60.0, width=64, height=32),
        Camera("front", width=64, height=32),
        Camera("right", 60.0, width=64, height=32),
    )
)
FRAMES = 14  # 10 samples: the last four are only waypoints

# Enough of a network to have every part, small enough for a second a run.
TINY = [
    f"model.rig={json.dumps(RIG.as_dict())}",
    "model.width=192",
    "model.stem=[8, 8]",
    "model.neck=16",
    "model.hidden=104",
    "model.decoder.widths=[16, 12, 8]",
    "model.birdseye=[8, 8]",
    "model.backbone.options={dims: [8, 12, 16], depths: [1, 1, 1], heads: [1, 1, 1], patch: 2, class_token: false}",
    "batch=2",
    "val_every=3",
    "val_frames=4",
    "test_frames=6",
    "warmup_steps=0",
    "gradnorm.warmup=2",
]


def _route(folder: Path, town: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with Recorder(folder, RIG, about={"town": town}) as recorder:
        at, speed = 0.0, 5.0
        for tick in range(FRAMES):
            red = (tick // 4) % 2 == 1
            tags = np.full((3, 32, 64), 11, np.uint8)
            tags[:, 16:] = 1
            rgb = rng.integers(0, 60, (3, 32, 64, 3), dtype=np.uint8)
            rgb[1, 4:12, 24:40] = (255, 0, 0) if red else (0, 255, 0)
            depth = np.full((3, 32, 64), 50.0)
            depth[:, 16:] = (2.3 * 55 / np.arange(1, 17))[:, None]
            speed = max(0.0, speed - 2.0) if red else min(6.0, speed + 2.0)
            at += 0.5 * speed
            recorder.add(
                rgb,
                depth,
                tags,
                Measurement(
                    position=np.array([at, 0.0]),
                    heading=0.0,
                    speed=speed,
                    target=np.array([at + 20, 1.0]),
                    command=4,
                    steer=float(rng.normal() * 0.05),
                    throttle=0.0 if red else 0.7,
                    brake=1.0 if red else 0.0,
                    hazards={"light": red},
                    tick=tick,
                    red_light=red,
                ),
            )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two towns of three routes each."""
    root = tmp_path_factory.mktemp("drives")
    for number in range(6):
        town = f"Town0{1 + number % 2}"
        _route(root / "Scenario" / town / f"route_{number:04d}", town, number)
    return root


def _train(data: Path, out: Path, **changes: Any) -> module.TrainReport:
    given: dict[str, Any] = {"max_steps": 6, "threads": 1, "options": TINY}
    return train([data], out=out, **(given | changes))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> module.TrainReport:
    """A run without an interruption."""
    return _train(data, tmp_path_factory.mktemp("whole") / "model")


def _tensors(report: module.TrainReport) -> dict[str, torch.Tensor]:
    return dict(load_driver(report.folder).network.state_dict())


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# ---- what it leaves ------------------------------------------------------------------------


def test_a_model_folder_with_what_it_learnt_from(whole: module.TrainReport, data: Path) -> None:
    loaded = load_driver(whole.folder, rig=RIG)
    about = loaded.spec.training
    assert about["data"]["digest"] == open_dataset([data], rig=RIG).digest
    assert about["data"]["frames"] == {"train": 50, "val": 10}
    assert about["data"]["routes"] == {"train": 5, "val": 1}
    assert about["recipe"]["batch"] == 2
    assert set(about["weights"]) == set(TASKS)
    metrics = loaded.spec.metrics["validation"]
    assert metrics["frames"] == 6
    assert set(metrics["waypoints"]) == {"ade", "fde", "0.5s", "1s", "1.5s", "2s"}
    assert metrics["waypoints_constant_speed"]["ade"] > 0
    assert "6 frames" in whole.text()
    assert json.loads(json.dumps(whole.report()))["steps"] == 6
    rows = (whole.folder / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3  # validated at 3 and 6


def test_the_metrics_are_those_of_the_saved_weights(whole: module.TrainReport, data: Path) -> None:
    network = load_driver(whole.folder).network
    held = open_dataset([data], rig=RIG).recordings
    names = {r.name for r in held} - _names(whole, data)
    frames = Frames([r for r in held if r.name in names], GROUPS, 4)
    chosen = module.evenly(frames, 6)
    found = []
    with torch.no_grad():
        for batch in in_batches(frames, chosen, 1):  # one by one: a frame has no batch mates
            inputs = (batch[k] for k in ("rgb", "depth", "speed", "target", "command"))
            points = network(Inputs(*inputs)).waypoints
            found.append(torch.linalg.vector_norm(points - batch["waypoints"], dim=-1).mean())
    wanted = whole.metrics["validation"]["waypoints"]["ade"]
    assert float(torch.stack(found).mean()) == pytest.approx(wanted, rel=1e-4)


def _names(report: module.TrainReport, data: Path) -> set[str]:
    """Names of the routes that were learnt from."""
    split = module.split_routes(open_dataset([data], rig=RIG).recordings, None, 0.1, 0)
    assert {r.town for r in split.val} == set(report.training["data"]["towns"]["val"])
    return {r.name for r in split.train}


def test_gradnorm_moved_the_weights_and_kept_their_sum(whole: module.TrainReport) -> None:
    weights, start = whole.training["weights"], Recipe().weights
    assert any(abs(weights[name] - getattr(start, name)) > 1e-4 for name in TASKS)
    assert sum(weights.values()) == pytest.approx(sum(start.vector), rel=1e-4)


# ---- killed and resumed --------------------------------------------------------------------


def test_a_killed_run_resumes_to_the_same_bits(
    whole: module.TrainReport, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed by an error from the data at step 4, after the checkpoint of step 3."""
    load = Frames.load
    loads = 0

    def failing(self: Frames, index: int) -> dict[str, np.ndarray]:
        nonlocal loads
        loads += 1
        # One look at the classes (50), 3 steps of 2, a validation of 4, then one more step.
        if loads > 50 + 6 + 4 + 2:
            raise KeyboardInterrupt
        return load(self, index)

    monkeypatch.setattr(Frames, "load", failing)
    with pytest.raises(KeyboardInterrupt):
        _train(data, tmp_path / "model")
    monkeypatch.undo()
    assert not (tmp_path / "model" / "model.json").exists()
    state = json.loads((tmp_path / "model/run/checkpoints/last/state.json").read_text())
    assert state["step"] == 3
    resumed = _train(data, tmp_path / "model", resume=True)
    assert _same(_tensors(resumed), _tensors(whole))
    assert resumed.training["weights"] == whole.training["weights"]
    assert resumed.metrics == whole.metrics


def test_workers_change_no_bit(whole: module.TrainReport, data: Path, tmp_path: Path) -> None:
    assert _same(_tensors(_train(data, tmp_path / "model", workers=2)), _tensors(whole))


def test_another_seed_is_another_model(
    whole: module.TrainReport, data: Path, tmp_path: Path
) -> None:
    other = _train(data, tmp_path / "model", seed=1, max_steps=1)
    assert not _same(_tensors(other), _tensors(whole))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 5}, "seed"),
        ({"balance": "fixed"}, "balance"),
        ({"val_towns": ["Town01"]}, "validation_"),
        ({"options": [*TINY, "dice=0"]}, r"recipe\.dice=0\.5"),
        ({"options": [*TINY, "lr=0.1"]}, r"recipe\.lr"),
    ],
)
def test_resuming_something_else_is_refused(
    whole: module.TrainReport, data: Path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        _train(data, whole.folder, resume=True, **changes)


@pytest.mark.slow
def test_two_processes_agree_on_the_weights(data: Path, tmp_path: Path) -> None:
    """Each sees every second batch; weights of tasks are of the mean of both."""
    script = tmp_path / "run.py"
    script.write_text(
        "import json, os, sys\n"
        "from apps.driving.training.train import train\n"
        "given = json.loads(sys.argv[1])\n"
        "report = train(given['data'], out=given['out'], max_steps=5, threads=1,"
        " options=given['options'])\n"
        "text = json.dumps([report.training['weights'], bool(report.metrics)])\n"
        "open(given['out'] + os.environ['RANK'] + '.json', 'w').write(text)\n"
    )
    out = tmp_path / "model"
    given = json.dumps({"data": [str(data)], "out": str(out), "options": TINY})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    root = Path(module.__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, str(script), given], check=True, env=environment, timeout=300)
    first, second = (json.loads(Path(f"{out}{rank}.json").read_text()) for rank in (0, 1))
    assert first[0] == second[0]
    assert first[0] != Recipe().weights.model_dump()
    assert first[1]
    assert not second[1]  # the first process measures and writes
    assert load_driver(out).spec.training["weights"] == first[0]


# ---- choices -------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["fixed", "uncertainty"])
def test_other_balances_train_too(data: Path, tmp_path: Path, balance: Any) -> None:
    report = _train(data, tmp_path / "model", balance=balance, max_steps=2)
    moved = {k: v != getattr(Recipe().weights, k) for k, v in report.training["weights"].items()}
    assert report.training["balance"] == balance
    assert any(moved.values()) == (balance == "uncertainty")


def test_held_out_towns_are_measured_and_not_learnt(data: Path, tmp_path: Path) -> None:
    report = _train(data, tmp_path / "model", val_towns=["Town02"], max_steps=1)
    assert report.training["data"]["towns"] == {"train": ["Town01"], "val": ["Town02"]}
    assert report.training["data"]["frames"] == {"train": 30, "val": 30}


def test_a_trained_driver_goes_on(whole: module.TrainReport, data: Path, tmp_path: Path) -> None:
    options = [text for text in TINY if not text.startswith("model.")]
    report = _train(
        data,
        tmp_path / "model",
        model=str(whole.folder),
        max_steps=1,
        options=[*options, "lr=1e-9", "ema_decay=null", "weight_decay=0"],
    )
    before, after = _tensors(whole), _tensors(report)
    for name, tensor in before.items():
        if "running" not in name and tensor.is_floating_point():
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=1e-4)
    assert report.training["origin"] is not None


def test_every_parameter_learns(data: Path) -> None:
    _, changes = read_options(TINY)
    driver, _ = module._network("small", changes, 0)
    recipe = Recipe()
    balance = make_balance("gradnorm", recipe.weights.vector, CLASSIFICATION)
    trainee = Trainee(driver, balance)
    task = DrivingTask(trainee, Losses([1.0] * 13), recipe.weights.vector, lambda: iter(()))
    frames = Frames(open_dataset([data], rig=RIG).recordings, GROUPS, 4)
    (batch,) = in_batches(frames, [0, 5, 9, 14], 4)
    total, parts = task.loss(trainee, batch)
    total.backward()
    still = [n for n, p in trainee.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert set(TASKS) <= set(parts)


# ---- refused -------------------------------------------------------------------------------


def test_a_model_is_not_overwritten(whole: module.TrainReport, data: Path) -> None:
    with pytest.raises(UsageError, match="already exists"):
        _train(data, whole.folder)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "smal"}, UsageError, "small"),
        ({"options": ["bacth=2"]}, UsageError, "batch"),
        ({"options": ["model.stepz=4"]}, UsageError, "steps"),
        ({"options": ["model.classes=[road, sky]"]}, UsageError, "classes"),
        ({"balance": "grad"}, UsageError, "gradnorm"),
        ({"val_fraction": 1.5}, UsageError, "fraction"),
        ({"val_towns": ["Town09"]}, DataError, "Town09"),
        ({"options": []}, DataError, "camera"),
    ],
)
def test_wrong_settings_are_named(
    data: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        _train(data, tmp_path / "model", **changes)
    assert not (tmp_path / "model").exists()


def test_a_damaged_picture_is_named(data: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for picture in copy.glob("*/*/*/rgb/*.png"):
        picture.write_bytes(picture.read_bytes()[:300])
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"rgb.*\.png"):
            _train(copy, tmp_path / "model", workers=workers, force=True)


def test_the_recipe_is_known_without_torch() -> None:
    code = "import sys; import apps.driving.training.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_preset_can_be_asked_for() -> None:
    assert {"small", "cvt13", "late-fusion"} <= set(PRESETS)
