from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from core.training.budget import (
    is_better,
    percent_done,
    schedule_fraction,
    stop_reason,
    usable_seconds,
)
from core.training.config import TrainConfig, decay, learning_rate


def test_a_run_needs_an_end() -> None:
    with pytest.raises(ValidationError, match="max_steps, max_minutes or both"):
        TrainConfig()


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("cosine", [1.0, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2, 0.0]),
        ("poly", [1.0, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0.0]),
        ("constant", [1.0] * 5),
    ],
)
def test_schedules(schedule: str, values: list[float]) -> None:
    for fraction, value in zip((0, 0.25, 0.5, 0.75, 1), values, strict=True):
        assert decay(schedule, fraction) == pytest.approx(value, abs=1e-12)
    assert decay(schedule, 1.1) == decay(schedule, 1.0)
    assert decay(schedule, -0.1) == decay(schedule, 0.0)


def test_warm_up_is_linear() -> None:
    config = TrainConfig(max_steps=100, lr=2.0, warmup_steps=4, schedule="constant")
    rates = [learning_rate(config, step, 0.0) for step in range(6)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_schedule_follows_steps_else_time() -> None:
    steps = TrainConfig(max_steps=10, max_minutes=1)
    assert schedule_fraction(steps, 5, 59, 0) == 0.5
    minutes = TrainConfig(max_minutes=1)
    assert schedule_fraction(minutes, 5, 30, 0) == 0.5
    assert schedule_fraction(minutes, 5, 30, 20) == 0.75  # 20 of 60 seconds are for validating
    assert schedule_fraction(minutes, 5, 70, 0) == 1.0


def test_last_validation_fits_the_budget() -> None:
    config = TrainConfig(max_minutes=1)
    assert stop_reason(config, 0, 0, 49, slowest_validation=10) is None
    assert stop_reason(config, 0, 0, 50, slowest_validation=10) == "max_minutes"
    assert usable_seconds(config, 59) == 30  # but at least half of it is for steps
    assert usable_seconds(TrainConfig(max_steps=1), 5) == math.inf


def test_stop_reasons() -> None:
    config = TrainConfig(max_steps=10, max_minutes=1, patience=2)
    assert stop_reason(config, 9, 1, 59, 0) is None
    assert stop_reason(config, 10, 0, 0, 0) == "max_steps"
    assert stop_reason(config, 0, 0, 60, 0) == "max_minutes"
    assert stop_reason(config, 10, 2, 60, 0) == "patience"


def test_percent_is_of_the_nearer_limit() -> None:
    config = TrainConfig(max_steps=10, max_minutes=1)
    assert percent_done(config, 5, 6) == 50.0
    assert percent_done(config, 5, 45) == 75.0
    assert percent_done(config, 11, 0) == 100.0


@pytest.mark.parametrize(
    ("value", "best", "mode", "expected"),
    [
        (0.9, 0.8, "max", True),
        (0.8, 0.8, "max", False),
        (0.9, 0.8, "min", False),
        (0.7, 0.8, "min", True),
        (None, 0.8, "max", False),
        (0.1, None, "max", True),
        (None, None, "min", False),
    ],
)
def test_is_better(value: float | None, best: float | None, mode: str, expected: bool) -> None:
    assert is_better(value, best, mode) is expected


def test_halving_keeps_the_rate_for_two_spans() -> None:
    config = TrainConfig(max_steps=50, lr=1.0, schedule="halving", halve_every=10)
    rates = [learning_rate(config, step, 0.0) for step in (0, 9, 10, 19, 20, 29, 30, 49)]
    assert rates == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.125]
    for wrong in ({"schedule": "halving"}, {"halve_every": 10}):
        with pytest.raises(ValueError, match="go together"):
            TrainConfig(max_steps=50, **wrong)
