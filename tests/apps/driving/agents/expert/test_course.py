"""Places and speeds along a plan."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.agents.expert.course import GENTLE, SIDEWAYS, SLOWEST


def arc(radius: float, angle: float, step: float = 1.0) -> np.ndarray:
    """Straight on for 60 m, then to the right."""
    turn = np.arange(step / radius, np.radians(angle), step / radius)
    bend = np.stack([60 + radius * np.sin(turn), radius - radius * np.cos(turn)], 1)
    return np.concatenate([np.stack([np.arange(0.0, 61.0), np.zeros(61)], 1), bend])


@pytest.mark.parametrize("radius", [8.0, 20.0, 50.0])
def test_bends(course, radius: float) -> None:
    way = course(arc(radius, 90), limit=30.0)
    middle = len(way.s) - int(radius * 0.7)
    assert way.curvature[middle] == pytest.approx(1 / radius, rel=0.03)
    way.locate(way.xy[middle])
    speed = way.allowed()
    assert speed**2 / radius <= SIDEWAYS * 1.05
    assert speed == pytest.approx(np.sqrt(SIDEWAYS * radius), rel=0.05)


def test_a_left_bend_is_negative(course) -> None:
    way = course(arc(20.0, 90) * [1, -1])
    assert way.curvature[-12] == pytest.approx(-1 / 20, rel=0.03)


def test_speeds_never_need_more_than_gentle_braking(course) -> None:
    way = course(arc(6.0, 90), limit=25.0)
    need = (way.speed[:-1] ** 2 - way.speed[1:] ** 2) / (2 * np.diff(way.s))
    assert need.max() <= GENTLE + 1e-9
    assert way.speed.min() >= SLOWEST
    assert way.speed[0] == pytest.approx(np.sqrt(way.speed[60] ** 2 + 2 * GENTLE * 60), rel=0.05)


def test_limits(course, straight) -> None:
    straight.locate(np.array([150.0, 0.0]))
    assert straight.allowed(60.0) == 10.0
    assert course(straight.xy, limit=10.0, most=6.0).allowed(50.0) == 6.0
    straight.locate(np.array([202.0, 0.0]))
    assert straight.allowed() == 0.0  # the way has ended


def test_places(straight) -> None:
    straight.locate(np.array([10.3, 1.5]))
    assert straight.own == pytest.approx(10.3)
    assert straight.offset == pytest.approx(1.5)
    assert straight.at(12.25) == pytest.approx([12.25, 0.0])
    assert straight.at(np.array([0.5, 210.0])) == pytest.approx(np.array([[0.5, 0], [210, 0]]))


def test_where_the_way_crosses_itself_the_car_goes_on(course) -> None:
    """An eight: the crossing is met twice, 15 m and 105 m on."""
    t = np.linspace(0.0, 2 * np.pi, 240)[10:-10]
    way = course(np.stack([30 * np.sin(t), 15 * np.sin(2 * t)], 1))
    last = 0.0
    for place in way.xy:
        way.locate(place)
        assert abs(way.own - last) < 2.0
        last = way.own


def test_the_next_junction(course) -> None:
    inside = np.zeros(201, bool)
    inside[50:60] = inside[100:120] = True
    way = course(np.stack([np.arange(201.0), np.zeros(201)], 1), junction=inside)
    assert way.junction_after(10.0) == (50.0, 60.0)
    assert way.junction_after(55.0) == (100.0, 120.0)
    assert way.junction_after(150.0) == (np.inf, np.inf)
