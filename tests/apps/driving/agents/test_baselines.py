"""The floors drive a car of two numbers (a kinematic bicycle) round plans drawn by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from apps.driving.agents.base import Command, Decision, Drive, Observation
from apps.driving.agents.baselines import LATERAL_M_S2, Blind, Constant, smooth, speed_profile
from apps.driving.rig import LETFUSER
from apps.driving.routes.plan import Navigator, Plan, to_ego
from core.errors import UsageError


def corner(side: int, radius: float = 8.0, straight: float = 60.0, limit: float = 8.33) -> Plan:
    """Straight on, a quarter turn (side 1 right, -1 left), straight on; a point every metre."""
    s = np.arange(0.0, 2 * straight + radius * math.pi / 2, 1.0)
    angle = np.clip((s - straight) / radius, 0, math.pi / 2)
    beyond = np.clip(s - straight - radius * math.pi / 2, 0, None)
    x = np.minimum(s, straight) + radius * np.sin(angle)
    y = side * (radius * (1 - np.cos(angle)) + beyond)
    turning = (s >= straight) & (angle < math.pi / 2)
    turn = Command.RIGHT if side > 0 else Command.LEFT
    return Plan(
        town="hand",
        xy=np.stack([x, y], axis=1),
        yaw=np.degrees(side * angle),
        command=np.where(turning, turn, Command.LANE_FOLLOW),
        junction=turning,
        speed_limit=np.full(len(s), limit),
        s=s,
    )


def drive(plan: Plan) -> Drive:
    return Drive(None, None, None, None, plan, LETFUSER)


def follow(agent: Any, plan: Plan, seconds: float) -> tuple[np.ndarray, np.ndarray, list[Decision]]:
    """(n, 2) places and (n,) speeds of a car under ``agent``."""
    navigator = Navigator(*plan.sparse())
    agent.begin(drive(plan))
    x, y, yaw, speed = 0.0, 0.0, 0.0, 0.0
    places, speeds, decisions = [], [], []
    for k in range(round(seconds / 0.1)):
        position = np.array([x, y])
        point, command = navigator.update(position)
        target = to_ego(point, position, math.degrees(yaw)).astype(np.float32)
        seen = Observation(k, 0.1 * k, speed, position, math.degrees(yaw), target, command)
        decision = agent.act(seen)
        for _ in range(2):  # two steps of the simulation to a decision
            speed = max(
                0.0, speed + 0.05 * (5 * decision.throttle - 8 * decision.brake - 0.03 * speed)
            )
            x, y = x + 0.05 * speed * math.cos(yaw), y + 0.05 * speed * math.sin(yaw)
            yaw += 0.05 * speed * 0.27 * decision.steer
        places.append((x, y))
        speeds.append(speed)
        decisions.append(decision)
    agent.end()
    return np.array(places), np.array(speeds), decisions


@pytest.mark.parametrize("side", [1, -1])
def test_blind_goes_round_the_corner_to_the_end(side: int) -> None:
    plan = corner(side)
    places, speeds, _ = follow(Blind(), plan, 40.0)
    away = np.hypot(*(places[:, None] - plan.xy[None]).transpose(2, 0, 1)).min(axis=1)
    assert away.max() < 2.0
    assert np.hypot(*(places[-1] - plan.xy[-1])) < 10.0
    assert speeds.max() < 8.33 * 1.1
    assert speeds[np.argmin(np.abs(places[:, 0] - 63.0))] < 6.0  # slower in the bend


def test_blind_obeys_limits() -> None:
    _, speeds, decisions = follow(Blind(), corner(1, limit=4.0), 15.0)
    assert 3.0 < speeds[50:].max() < 4.6
    assert max(decision.target_speed or 0 for decision in decisions) <= 4.0


def test_constant_holds_its_speed_and_turns_to_the_target() -> None:
    plan = corner(1)
    places, speeds, _ = follow(Constant(5.0), plan, 20.0)
    assert np.abs(speeds[40:] - 5.0).max() < 1.0
    assert places[-1, 1] > 10.0  # it went round
    agent = Constant()
    agent.begin(drive(plan))
    for y, sign in ((10.0, 1), (-10.0, -1)):
        target = np.array([20.0, y], np.float32)
        seen = Observation(0, 0.0, 5.0, np.zeros(2), 0.0, target, Command.LANE_FOLLOW)
        agent.begin(drive(plan))
        assert agent.act(seen).steer * sign > 0


def test_constant_goes_straight_on_past_its_target() -> None:
    agent = Constant()
    agent.begin(drive(corner(1)))
    for target in ([-20.0, 5.0], [0.2, 0.3]):
        goal = np.array(target, np.float32)
        seen = Observation(0, 0.0, 5.0, np.zeros(2), 0.0, goal, Command.LANE_FOLLOW)
        assert agent.act(seen).steer == 0.0


def test_same_plan_same_drive() -> None:
    agent = Blind()
    first, _, _ = follow(agent, corner(1), 10.0)
    follow(agent, corner(-1), 3.0)
    again, _, _ = follow(agent, corner(1), 10.0)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("spacing", [50.0, 10.0])
def test_smooth_line_meets_its_points_and_bends_like_the_road(spacing: float) -> None:
    plan = corner(1, radius=10.0)
    points, commands = plan.sparse(spacing)
    line = smooth(points, commands)
    for point in points:
        assert np.hypot(*(line - point).T).min() < 0.2
    s = np.arange(0, plan.length, 0.1)
    road = np.stack([np.interp(s, plan.s, axis) for axis in plan.xy.T], axis=1)
    away = np.hypot(*(line[:, None] - road[None]).transpose(2, 0, 1)).min(axis=1)
    assert away[:-24].max() < 0.75  # the last 5 m lead beyond the route's end
    steps = np.hypot(*np.diff(line, axis=0).T)
    np.testing.assert_allclose(steps, 0.25, atol=0.02)


def test_points_on_one_line_give_that_line() -> None:
    follow = np.full(4, Command.LANE_FOLLOW)
    line = smooth(np.array([[0.0, 0.0], [0.1, 0.0], [50.0, 0.0], [60.0, 0.0]]), follow)
    np.testing.assert_allclose(line[:, 1], 0.0, atol=1e-12)
    assert line[-1, 0] == pytest.approx(65.0, abs=0.3)
    with pytest.raises(UsageError, match="one point"):
        smooth(np.zeros((2, 2)), follow[:2])


def test_speed_in_a_circle_is_that_of_the_sideways_acceleration() -> None:
    angle = np.arange(0, math.pi, 0.25 / 20)
    line = 20 * np.stack([np.sin(angle), 1 - np.cos(angle)], axis=1)
    speed = speed_profile(line, np.full(len(line), 30.0))
    assert speed[20:-100] == pytest.approx(math.sqrt(20 * LATERAL_M_S2), rel=0.01)
    straight = np.stack([np.arange(0, 100, 0.25), np.zeros(400)], axis=1)
    limit = np.where(straight[:, 0] < 50, 10.0, 2.0)
    assert speed_profile(straight, limit)[0] == 10.0
    assert speed_profile(straight, limit)[199] == pytest.approx(math.sqrt(4 + 2 * 2 * 0.25))


@pytest.mark.parametrize("speed", [0.0, -3.0, 99.0, float("nan")])
def test_speeds_that_are_none(speed: float) -> None:
    with pytest.raises(UsageError, match="constant speed"):
        Constant(speed)
