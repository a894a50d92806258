"""Lights and signs on a course, from actors made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.agents.expert.signals import AT_SIGN, Signals

carla = pytest.importorskip("carla")
RED, GREEN = carla.TrafficLightState.Red, carla.TrafficLightState.Green


class Actors(list):
    def filter(self, pattern: str) -> list[Any]:
        return [actor for actor in self if actor.type_id.startswith(pattern.rstrip("*"))]


def at(x: float, y: float, yaw: float) -> Any:
    return SimpleNamespace(transform=carla.Transform(carla.Location(x, y), carla.Rotation(yaw=yaw)))


def light(id: int, state: Any, *stops: Any) -> Any:
    return SimpleNamespace(
        id=id, type_id="traffic.traffic_light", state=state, get_stop_waypoints=lambda: stops
    )


def sign(id: int, x: float, y: float) -> Any:
    """Beside the road, its volume on the lane at x, y."""
    return SimpleNamespace(
        id=id,
        type_id="traffic.stop",
        get_transform=lambda: carla.Transform(carla.Location(x, y + 4.0)),
        trigger_volume=SimpleNamespace(location=carla.Location(0.0, -4.0, 0.0)),
    )


def signals(course, *actors: Any) -> Signals:
    return Signals(SimpleNamespace(get_actors=lambda: Actors(actors)), course, 2.4)


def test_lights_of_the_own_lane_and_direction_only(straight) -> None:
    found = signals(
        straight,
        light(1, RED, at(80.0, 0.2, 0.0)),
        light(2, RED, at(60.0, -3.5, 180.0)),  # oncoming
        light(3, RED, at(60.0, 0.0, 180.0)),  # the same place, the other way
        light(4, RED, at(90.0, 0.0, 90.0)),  # across
        light(5, RED, at(120.0, 3.5, 0.0), at(120.0, 0.0, 0.0)),
    )
    assert [(line.key, line.s) for line in found.lines] == [(1, 80.0), (5, 120.0)]


def test_a_stop_sign_is_obeyed_where_its_volume_is(straight) -> None:
    (line,) = signals(straight, sign(7, 70.0, 0.5), sign(8, 70.0, -4.0)).lines
    assert (line.key, line.light) == (7, None)
    assert line.s == pytest.approx(70.0 - AT_SIGN + 2.4)
    origin = line.s - 2.4
    assert 70.0 - origin < 4.0  # so near the criterion looks


def test_a_place_that_is_passed_twice(course) -> None:
    """Along x, around a circle, and along x again."""
    out = np.stack([np.arange(0.0, 60.0), np.zeros(60)], 1)
    t = np.linspace(0.0, 2 * np.pi, 126)[1:-1]
    loop = np.stack([60 + 20 * np.sin(t), 20 - 20 * np.cos(t)], 1)
    way = course(np.concatenate([out, loop, [[60.0, 0.0], [61.0, 0.0], [62.0, 0.0]]]))
    found = signals(way, light(1, RED, at(60.5, 0.0, 0.0)))
    assert len(found.lines) == 2
    assert found.lines[1].s - found.lines[0].s == pytest.approx(2 * np.pi * 20, abs=2.0)


def test_where_others_must_stop(straight) -> None:
    found = signals(
        straight,
        light(1, RED, at(80.0, 9.0, 90.0)),
        light(2, GREEN, at(60.0, 0.0, 0.0)),
        sign(3, 30.0, 1.0),
    )
    barred = found.barred()
    assert barred[0] == pytest.approx([80.0, 9.0, np.pi / 2])
    assert barred[1, :2] == pytest.approx([30.0, 1.0])
    assert np.isnan(barred[1, 2])
    assert len(found.barred(sign_too=False)) == 1


def test_a_town_without_any(straight) -> None:
    found = signals(straight)
    assert found.lines == []
    assert found.barred().shape == (0, 3)
