"""The controller on a vehicle of the catalogue."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from apps.driving.world.calls.ackermann import Ackermann, Gains
from apps.driving.world.geometry import Transform
from apps.driving.world.motion.catalogue import DEFAULT
from apps.driving.world.motion.vehicles import Fleet

STEP = 0.05


def drive(controller: Ackermann, seconds: float, fleet: Fleet) -> list[float]:
    speeds = []
    for _ in range(round(seconds / STEP)):
        throttle, steer, brake, back = controller.pedals(
            float(fleet.speed[0]), float(fleet.ax[0]), math.radians(70), STEP
        )
        assert 0 <= throttle <= 1
        assert 0 <= brake <= 1
        assert not (throttle and brake)
        fleet.set_control(1, throttle, steer, brake, reverse=back)
        fleet.step(STEP)
        speeds.append(float(fleet.speed[0]))
    return speeds


@pytest.fixture
def fleet() -> Fleet:
    found = Fleet()
    found.add(1, DEFAULT, Transform())
    return found


def test_reaches_and_holds_a_speed(fleet: Fleet) -> None:
    speeds = drive(Ackermann(speed=8.0), 40.0, fleet)
    assert speeds[-200:] == pytest.approx([8.0] * 200, abs=0.5)


def test_keeps_to_the_wanted_acceleration(fleet: Fleet) -> None:
    speeds = drive(Ackermann(speed=15.0, acceleration=1.0), 10.0, fleet)
    gained = [(b - a) / STEP for a, b in pairwise(speeds[40:])]
    assert max(gained) < 2.0
    assert speeds[-1] > 4.0


def test_stops_and_stays(fleet: Fleet) -> None:
    drive(Ackermann(speed=8.0), 20.0, fleet)
    speeds = drive(Ackermann(speed=0.0), 20.0, fleet)
    assert speeds[-20:] == pytest.approx([0.0] * 20, abs=0.15)


def test_drives_back(fleet: Fleet) -> None:
    assert drive(Ackermann(speed=-3.0), 30.0, fleet)[-1] == pytest.approx(-3.0, abs=0.5)


def test_steers_no_faster_than_asked() -> None:
    controller = Ackermann(steer=0.6, steer_speed=0.2)
    shares = [controller.pedals(0.0, 0.0, 1.0, 0.1)[1] for _ in range(40)]
    assert shares[0] == pytest.approx(0.02)
    assert shares[9] == pytest.approx(0.2)
    assert shares[-1] == pytest.approx(0.6)


def test_gains_in_the_order_of_the_wire() -> None:
    assert Gains(1, 2, 3, 4, 5, 6).values() == (1, 2, 3, 4, 5, 6)
