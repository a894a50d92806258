"""The controllers against their formulas, and against a car that follows them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apps.driving.control.pid import PID, PedalLimits, Pedals, WaypointController
from core.errors import UsageError


def test_the_first_step_has_the_proportional_part_only() -> None:
    assert PID(2.0, 5.0, 7.0).step(0.5) == 1.0


def test_the_parts_of_a_step() -> None:
    pid = PID(2.0, 3.0, 5.0, window=3)
    for error in (1.0, 2.0, 4.0):
        pid.step(error)
    # the window holds 2, 4 and 1
    assert pid.step(1.0) == pytest.approx(2.0 * 1 + 3.0 * 7 / 3 + 5.0 * (1 - 4))
    pid.reset()
    assert pid.step(1.0) == 2.0


def test_a_ramp_asks_for_the_same_at_either_interval() -> None:
    fine, coarse = PID(0.0, 1.0, 1.0, 40, 0.05), PID(0.0, 1.0, 1.0, 40, 0.1)
    a = b = 0.0
    for i in range(200):
        a = fine.step(0.01 * i)
        if i % 2 == 0:
            b = coarse.step(0.01 * i)
    # means over the same two seconds differ by the spacing of their samples only
    assert b == pytest.approx(a, abs=0.03)


def test_pedals() -> None:
    assert Pedals().step(0.3, 0.0) == (0.0, 1.0)  # a wish so slow is a stop
    assert Pedals().step(5.0, 6.0) == (0.0, 1.0)
    assert Pedals().step(5.0, 5.4) == (0.0, 0.0)  # within the ratio it rolls
    assert Pedals().step(5.0, 0.0) == (0.75, 0.0)
    throttle, brake = Pedals(limits=PedalLimits(clip_delta=0.1)).step(5.0, 4.0)
    assert (throttle, brake) == (pytest.approx(0.5), 0.0)


def test_the_wheel_turns_toward_the_aim() -> None:
    _, right, _ = WaypointController().step(np.array([[2.0, 1.0], [4.0, 2.0]]), 4.0)
    _, left, _ = WaypointController().step(np.array([[2.0, -1.0], [4.0, -2.0]]), 4.0)
    angle = math.degrees(math.atan2(1.5, 3.0)) / 90.0
    assert right == pytest.approx(1.25 * angle)
    assert left == -right
    assert WaypointController().step(np.array([[2.0, 1.0], [4.0, 2.0]]), 0.0)[1] == 0.0


@pytest.mark.parametrize("dt", [0.05, 0.1])
def test_a_car_comes_back_to_its_line_and_keeps_its_speed(dt: float) -> None:
    """A bicycle 1 m beside a straight line, waypoints on the line ahead at 5 m/s."""
    controller = WaypointController(dt)
    x, y, yaw, speed = 0.0, 1.0, 0.0, 0.0
    for _ in range(round(30 / dt)):
        c, s = math.cos(yaw), math.sin(yaw)
        away = np.stack([np.array([2.5, 5.0]), np.full(2, -y)], 1)
        points = np.stack(
            [c * away[:, 0] + s * away[:, 1], c * away[:, 1] - s * away[:, 0]], axis=1
        )
        throttle, steer, brake = controller.step(points, speed)
        speed = max(speed + dt * (4.0 * throttle - 8.0 * brake - 0.1 * speed), 0.0)
        yaw += dt * speed * 0.3 * steer
        x, y = x + dt * speed * math.cos(yaw), y + dt * speed * math.sin(yaw)
    assert abs(y) < 0.1
    assert speed == pytest.approx(5.0, abs=0.5)


@pytest.mark.parametrize(
    "points", [np.zeros((1, 2)), np.zeros((4, 3)), np.array([[1.0, math.nan], [2.0, 0.0]])]
)
def test_waypoints_that_are_none(points: np.ndarray) -> None:
    with pytest.raises(UsageError, match="waypoints"):
        WaypointController().step(points, 1.0)


def test_an_interval_that_is_none() -> None:
    with pytest.raises(UsageError, match="dt"):
        PID(1.0, 0.0, 0.0, dt=0.0)
