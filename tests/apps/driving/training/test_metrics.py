"""Open-loop metrics against hand-computed ones."""

from __future__ import annotations

import math

import pytest
import torch

from apps.driving.training.metrics import Metrics


def _frame(**changes: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    truth = {
        "semantics": torch.tensor([[[0, 0], [1, 1]]]),
        "waypoints": torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]),
        "control": torch.tensor([[0.1, 0.0, 1.0]]),
        "red_light": torch.tensor([1.0]),
        "stop_sign": torch.tensor([0.0]),
        "speed": torch.tensor([2.0]),
    }
    outputs = {
        # Three of four pixels right: class 0 is found at one of its two, class 1 at both.
        "semantics": torch.tensor([[[[2.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [1.0, 1.0]]]]),
        "waypoints": torch.tensor([[[1.0, 1.0], [5.0, 4.0]]]),
        "control": torch.tensor([[0.3, 0.5, 0.9]]),
        "red_light": torch.tensor([2.0]),
        "stop_sign": torch.tensor([-1.0]),
        "speed": torch.tensor([2.5]),
    }
    return outputs, truth | changes


def _metrics() -> Metrics:
    return Metrics(["ground", "thing"])


def test_one_frame_by_hand() -> None:
    metrics = _metrics()
    metrics.add(*_frame())
    found = metrics.result()
    assert found["iou"] == pytest.approx({"ground": 1 / 2, "thing": 2 / 3})
    assert found["miou"] == pytest.approx(7 / 12)
    assert found["waypoints"] == pytest.approx({"ade": 3.0, "fde": 5.0, "0.5s": 1.0, "1s": 5.0})
    assert found["waypoints_constant_speed"]["ade"] == 0
    assert found["red_light"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "frames": 1}
    assert found["stop_sign"]["f1"] is None
    assert found["steer_mae"] == pytest.approx(0.2)
    assert found["brake"]["mae"] == pytest.approx(0.1)
    assert found["speed_mae"] == pytest.approx(0.5)


def test_batches_add_up() -> None:
    one, whole = _metrics(), _metrics()
    frames = [_frame(), _frame(red_light=torch.tensor([0.0])), _frame(speed=torch.tensor([7.0]))]
    for outputs, truth in frames:
        one.add(outputs, truth)
    outputs, truth = (
        {key: torch.cat([frame[i][key] for frame in frames]) for key in frames[0][i]}
        for i in (0, 1)
    )
    whole.add(outputs, truth)
    for key, value in whole.brief().items():
        assert one.brief()[key] == pytest.approx(value, nan_ok=True), key
    assert one.result()["frames"] == 3
    assert one.result()["red_light"] == {
        "f1": pytest.approx(0.8),
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "frames": 2,
    }


def test_unknown_pixels_and_points_are_left_out() -> None:
    points = torch.tensor([[[1.0, 0.0], [math.nan, math.nan]]])
    labels = torch.tensor([[[0, 255], [1, 1]]])
    metrics = _metrics()
    metrics.add(*_frame(waypoints=points, semantics=labels))
    found = metrics.result()
    assert found["miou"] == 1.0
    assert found["waypoints"] == {"ade": 1.0, "fde": None, "0.5s": 1.0, "1s": None}
    assert math.isnan(metrics.brief()["fde"])


def test_no_frame_is_no_metric() -> None:
    with pytest.raises(ValueError, match="no frame"):
        _metrics().result()
