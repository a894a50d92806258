"""Walkers: control, blows, ways over footways, kerbs."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.motion.catalogue import DEFAULT, WALKERS
from apps.driving.world.motion.vehicles import Fleet
from apps.driving.world.motion.walkers import Walkers

ADULT = WALKERS["walker.pedestrian.0001"]
# Two sidewalks, 100 m long and 10 m apart, with a crossing between their far ends.
NODES = np.array([[10.0 * i, y] for y in (0.0, 10.0) for i in range(11)])
EDGES = [(i, i + 1) for i in range(10)] + [(i, i + 1) for i in range(11, 21)] + [(10, 21)]
TOWN: Any = SimpleNamespace(
    sidewalk=(NODES, np.array(EDGES, np.int32), np.array([False] * 20 + [True]))
)
NOWHERE: Any = SimpleNamespace(
    sidewalk=(np.zeros((0, 2)), np.zeros((0, 2), np.int32), np.zeros(0, bool))
)


def alone(at: Transform = Transform(z=0.93), seed: int = 0) -> Walkers:  # noqa: B008
    walkers = Walkers(TOWN, seed)
    walkers.add(5, ADULT, at)
    return walkers


def run(walkers: Walkers, seconds: float, dt: float = 0.05) -> None:
    for _ in range(round(seconds / dt)):
        walkers.step(dt)


@pytest.mark.parametrize("dt", [0.01, 0.05, 0.1])
def test_walks_where_it_is_told(dt: float) -> None:
    walkers = alone()
    walkers.set_control(5, (3.0, 4.0, 0.0), 2.0)
    run(walkers, 5.0, dt)
    assert (walkers.vx[0], walkers.vy[0]) == pytest.approx((1.2, 1.6))
    assert math.hypot(walkers.x[0], walkers.y[0]) == pytest.approx(10.0, abs=0.15)
    assert walkers.yaw[0] == pytest.approx(math.degrees(math.atan2(4, 3)))
    walkers.set_control(5, (1.0, 0.0, 0.0), 0.0)
    run(walkers, 1.0, dt)
    assert (walkers.vx[0], walkers.vy[0]) == (0.0, 0.0)
    assert walkers.yaw[0] == pytest.approx(math.degrees(math.atan2(4, 3)))  # does not turn standing


def test_jumps_and_lands() -> None:
    walkers = alone()
    walkers.set_control(5, (1.0, 0.0, 0.0), 0.0, jump=True)
    heights = []
    for _ in range(40):
        walkers.step(0.05)
        heights.append(float(walkers.z[0]) - 0.93)
    assert max(heights) == pytest.approx(4.2**2 / 2 / 9.81, abs=0.02)
    assert heights[-1] == 0.0


def test_a_blow_throws_and_stuns() -> None:
    walkers = alone()
    walkers.set_control(5, (0.0, 1.0, 0.0), 1.4)
    walkers.push(5, (700.0, 0.0, 0.0))
    run(walkers, 1.9)
    assert walkers.x[0] == pytest.approx(10.0, abs=1.0)  # 10 m/s at 5 m/s^2, not stopped yet
    assert walkers.y[0] < 0.3
    run(walkers, 3.0)
    assert walkers.vy[0] == pytest.approx(1.4)


@pytest.mark.parametrize("speed", [math.nan, math.inf, -1.0])
def test_bad_controls_are_refused(speed: float) -> None:
    walkers = alone()
    with pytest.raises(ValueError):
        walkers.set_control(5, (1.0, 0.0, 0.0), speed)
    with pytest.raises(ValueError):
        walkers.set_control(5, (math.nan, 0.0, 0.0), 1.0)
    with pytest.raises(ValueError):
        walkers.set_max_speed(5, speed)


def test_goes_around_by_the_crossing_when_it_may() -> None:
    walkers = alone()
    walkers.cross_factor = 1.0
    walkers.start(5)
    assert walkers.go_to(5, (0.0, 10.0, 0.0))
    walkers.set_max_speed(5, 3.0)
    far = 0.0
    for _ in range(2400):
        walkers.step(0.05)
        far = max(far, float(walkers.x[0]))
    assert far == pytest.approx(100.0, abs=1.0)
    assert math.hypot(walkers.x[0], walkers.y[0] - 10.0) < 0.5
    assert walkers.vx[0] == 0.0
    walkers.cross_factor = 0.0
    assert not walkers.go_to(5, (0.0, 0.0, 0.0))


def test_waits_for_vehicles_at_the_kerb() -> None:
    fleet = Fleet()
    fleet.add(1, DEFAULT, Transform(x=40.0, y=5.0))
    fleet.hold_velocity(1, (8.0, 0.0, 0.0))
    walkers = alone(Transform(x=98.0, z=0.93))
    walkers.fleet, walkers.cross_factor = fleet, 1.0
    walkers.start(5)
    walkers.go_to(5, (80.0, 10.0, 0.0))
    for _ in range(600):
        fleet.step(0.05)
        walkers.step(0.05)
        if fleet.x[0] < 100.0:
            assert walkers.y[0] < 0.5
    assert walkers.y[0] > 9.0
    assert fleet.x[0] > 200.0


def test_wanderers_keep_to_footways() -> None:
    walkers = Walkers(TOWN, 3)
    for i, (spec, place) in enumerate(walkers.populate(15)):
        walkers.add(i, spec, place)
        walkers.wander(i)
    start = walkers.x.copy(), walkers.y.copy()
    walked = np.zeros(15)
    for _ in range(2400):
        walkers.step(0.05)
        walked += np.hypot(walkers.vx, walkers.vy) * 0.05
        near_a, near_b = np.abs(walkers.y) < 1.0, np.abs(walkers.y - 10.0) < 1.0
        assert (near_a | near_b | (np.abs(walkers.x - 100.0) < 1.5)).all()
    assert walked.min() > 60.0
    assert np.hypot(walkers.x - start[0], walkers.y - start[1]).max() > 20.0


def test_random_places_are_on_footways_and_repeat() -> None:
    places = [Walkers(TOWN, 4).random_location() for _ in range(2)]
    assert places[0] == places[1]
    walkers = Walkers(TOWN, 4)
    spread = np.array([walkers.random_location() for _ in range(400)])
    assert np.isin(spread[:, 1], (0.0, 10.0)).all()
    assert spread[:, 0].std() == pytest.approx(100 / math.sqrt(12), rel=0.1)
    assert Walkers(NOWHERE, 0).random_location() is None
    assert Walkers(NOWHERE, 0).populate(3) == []


def test_the_same_seed_walks_the_same_ways() -> None:
    def walk() -> bytes:
        walkers = Walkers(TOWN, 9)
        for i, (spec, place) in enumerate(walkers.populate(8)):
            walkers.add(i, spec, place)
            walkers.wander(i)
        run(walkers, 60.0)
        return walkers.x.tobytes() + walkers.y.tobytes() + walkers.yaw.tobytes()

    assert walk() == walk()


def test_rows_follow_their_ids() -> None:
    walkers = alone()
    walkers.add(8, ADULT, Transform(x=8.0, z=0.93))
    walkers.wander(8)
    walkers.remove(5)
    assert walkers.row(8) == 0
    assert walkers.x[0] == 8.0
    run(walkers, 1.0)
    assert 5 not in walkers
    with pytest.raises(ValueError, match="there already"):
        walkers.add(8, ADULT, Transform())
    walkers.stop(8)
    run(walkers, 1.0)
    assert walkers.vx[0] == 0.0


def test_fifty_walkers_are_quick() -> None:
    walkers = Walkers(TOWN, 1)
    for i, (spec, place) in enumerate(walkers.populate(50)):
        walkers.add(i, spec, place)
        walkers.wander(i)
    start = time.process_time()
    run(walkers, 50.0)
    assert (time.process_time() - start) / 1000 < 0.8e-3  # 0.15 ms measured
