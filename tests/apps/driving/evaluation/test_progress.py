"""Completion and what ends a route, with cars that are moved by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from apps.driving.evaluation.progress import (
    Blocked,
    Deviation,
    MinimumSpeed,
    Progress,
    Timeout,
)
from apps.driving.evaluation.state import EgoState
from apps.driving.routes.plan import Plan

STEP = 0.05


def plan_of(xy: np.ndarray, limit: float = 10.0) -> Plan:
    along = np.gradient(xy, axis=0)
    n = len(xy)
    return Plan(
        town="Nowhere",
        xy=xy,
        yaw=np.degrees(np.arctan2(along[:, 1], along[:, 0])),
        command=np.full(n, 4),
        junction=np.zeros(n, bool),
        speed_limit=np.full(n, limit),
        s=np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))]),
    )


def straight(length: int = 100, limit: float = 10.0) -> Plan:
    return plan_of(np.stack([np.arange(length + 1.0), np.zeros(length + 1)], axis=1), limit)


def at(x: float, y: float = 0.0, *, tick: int = 0, speed: float = 5.0) -> EgoState:
    return EgoState(tick, tick * STEP, x, y, 0.0, 0.0, speed, 0.0, speed)


def test_completion_is_the_part_of_the_length_that_was_passed():
    progress = Progress(straight())
    for x in np.arange(0.0, 50.6, 0.5):
        progress.update(at(float(x)))
    assert progress.completion == pytest.approx(50)
    assert progress.distance == 50
    assert not progress.arrived


def test_arrival_needs_99_percent_and_10_metres_and_counts_as_all():
    progress = Progress(straight(200))
    for x in np.arange(0.0, 197.9, 0.5):
        progress.update(at(float(x)))
        assert not progress.arrived  # 99 % of 200 m are 198 m
    assert progress.completion == pytest.approx(98.5)
    for x in (198.2, 199.1):
        progress.update(at(x))
    assert progress.arrived
    assert progress.completion == 100


def test_arrival_far_beside_the_end_is_none():
    progress = Progress(straight())
    for x in np.arange(0.0, 110.0, 0.5):
        progress.update(at(float(x), 11.0))
    assert progress.completion > 99
    assert not progress.arrived


def test_standing_and_driving_back_lose_and_win_nothing():
    progress = Progress(straight())
    for x in (0.5, 1.5, 2.5, 2.5, 1.0, 0.2):
        progress.update(at(x))
    assert progress.distance == 2
    progress.update(at(0.0))
    assert progress.step == 0


def test_a_loop_is_driven_once_not_taken_as_done_at_its_start():
    angle = np.linspace(0, 2 * math.pi, 315)
    loop = plan_of(50 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    progress = Progress(loop)
    progress.update(at(50.0, 0.0))
    assert progress.completion < 2
    for a in np.linspace(0, 2 * math.pi, 1000):
        progress.update(at(50 * math.cos(a), 50 * math.sin(a)))
    assert progress.arrived


def test_thirty_metres_beside_the_route_end_it():
    deviation = Deviation(Progress(straight()))
    assert deviation.update(at(0.0, 29.9)) == []
    (found,) = deviation.update(at(0.0, 30.1))
    assert found.kind == "route_dev"
    assert "30.1 m" in found.message


def test_fifteen_metres_beside_it_may_last_for_30_percent():
    deviation = Deviation(Progress(straight()))
    found = [(x, deviation.update(at(float(x), 20.0))) for x in np.arange(0.0, 60.0, 0.5)]
    ended = [x for x, infractions in found if infractions]
    assert 30 <= ended[0] <= 32
    deviation = Deviation(Progress(straight()))
    assert not any(deviation.update(at(float(x), 14.0)) for x in np.arange(0.0, 100.0, 0.5))


def test_blocked_after_180_seconds_in_one_place():
    blocked = Blocked()
    assert not any(blocked.update(at(0.0, tick=i, speed=0.05)) for i in range(3600))
    assert blocked.update(at(0.0, tick=3601, speed=0.05))[0].kind == "vehicle_blocked"


def test_moving_now_and_then_is_not_blocked():
    blocked = Blocked(10.0)
    for i in range(2000):
        speed = 0.2 if i % 150 == 0 else 0.0
        assert blocked.update(at(0.0, tick=i, speed=speed)) == []


def test_the_time_is_300_seconds_and_what_the_metres_take_at_a_tenth_of_the_limit():
    plan = straight(limit=10.0)
    progress = Progress(plan)
    timeout = Timeout(plan, progress)

    def ended(x: float, time: float) -> list[str]:
        state = at(x, tick=round(time / STEP))
        progress.update(state)
        return [infraction.kind for infraction in timeout.update(state)]

    for i, x in enumerate(np.arange(0.0, 20.6, 0.5)):
        assert ended(float(x), i * STEP) == []
    assert timeout.allowed == pytest.approx(320)
    assert ended(20.5, 319.9) == []
    assert ended(20.5, 320.2) == ["route_timeout"]


def test_whoever_waits_may_give_it_less_time():
    plan = straight(limit=10.0)
    progress = Progress(plan)
    timeout = Timeout(plan, progress, longest=20.0)
    assert timeout.update(at(0.0, tick=round(19.9 / STEP))) == []
    ended = timeout.update(at(0.0, tick=round(20.2 / STEP)))
    assert [(found.kind, found.message) for found in ended] == [
        ("route_timeout", "not there after 20 s")
    ]


class Vehicles:
    """A world of vehicles at fixed places and speeds, as the client shows it."""

    def __init__(self, **vehicles: tuple[float, float]) -> None:
        self.found = {int(name[1:]): value for name, value in vehicles.items()}

    def get_actors(self) -> Vehicles:
        return self

    def filter(self, pattern: str) -> list[SimpleNamespace]:
        assert pattern == "vehicle.*"
        return [SimpleNamespace(id=number) for number in (*self.found, 1)]

    def find(self, number: int) -> SimpleNamespace:
        x, speed = self.found[number]
        location = SimpleNamespace(x=x, y=0.0)
        return SimpleNamespace(
            get_transform=lambda: SimpleNamespace(location=location),
            get_velocity=lambda: SimpleNamespace(x=speed, y=0.0),
        )


def driven(world: Vehicles, speed: float, metres: float = 101) -> tuple[MinimumSpeed, list]:
    plan = straight()
    progress = Progress(plan)
    slow = MinimumSpeed(world, SimpleNamespace(id=1), progress)
    found = []
    ticks = int(metres / speed / STEP)
    for i in range(ticks):
        state = at(i * speed * STEP, tick=i, speed=speed)
        progress.update(state)
        found += slow.update(state, world)
    return slow, found + slow.finish(state)


def test_half_the_speed_of_the_traffic_is_held_against_each_quarter():
    slow, found = driven(Vehicles(_2=(50.0, 8.0), _3=(60.0, 12.0)), speed=5.0)
    assert [round(infraction.percentage) for infraction in found] == [50] * 4
    assert slow.percentages == pytest.approx([50] * 4)


def test_as_fast_as_the_traffic_and_alone_are_no_infractions():
    assert driven(Vehicles(_2=(50.0, 5.0)), speed=5.0)[1] == []
    slow, found = driven(Vehicles(), speed=5.0)
    assert found == []
    assert slow.percentages == [100.0] * 4


def test_traffic_far_away_does_not_count():
    assert driven(Vehicles(_2=(5000.0, 30.0)), speed=5.0)[1] == []


def test_the_last_quarter_of_a_route_that_ended_early_does_not_count():
    slow, _ = driven(Vehicles(_2=(50.0, 10.0)), speed=5.0, metres=90)
    assert len(slow.percentages) == 3
