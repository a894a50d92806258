"""The lanes of Town01 and the ways on them, against what carla's own waypoints say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.driving.agents.expert.lanes import STEP, Lanes, _to_the_end
from apps.driving.world.maps.procedural import generate

carla = pytest.importorskip("carla")
ROOT = Path(__file__).resolve().parents[5]


@pytest.fixture(scope="module")
def town() -> Any:
    return carla.Map("Town01", (ROOT / "samples" / "Town01.xodr").read_text())


@pytest.fixture(scope="module")
def lanes(town: Any) -> Lanes:
    return Lanes(town)


@pytest.fixture(scope="module")
def places(town: Any) -> list[Any]:
    every = town.generate_waypoints(2.0)
    picked = np.random.default_rng([3, 1]).permutation(len(every))[:60]
    return [every[i] for i in picked.tolist()]


def ways(lanes: Lanes, waypoint: Any, length: float) -> list[Any]:
    at = waypoint.transform
    place = np.array([at.location.x, at.location.y])
    return lanes.ways(place, np.radians(at.rotation.yaw), length)


def test_ways_begin_here_and_go_on_without_a_jump(lanes: Lanes, places: list[Any]) -> None:
    for waypoint in places:
        found = ways(lanes, waypoint, 40.0)
        assert found
        at = waypoint.transform.location
        for way, _ in found:
            assert np.hypot(way[0, 0] - at.x, way[0, 1] - at.y) < 1.7
            assert np.hypot(*np.diff(way[:, :2], axis=0).T).max() < 2.6
            turn = (np.diff(way[:, 2]) + np.pi) % (2 * np.pi) - np.pi
            assert np.abs(turn).max() < 0.5


def test_every_way_that_carla_goes_is_among_them(lanes: Lanes, places: list[Any]) -> None:
    for waypoint in places:
        found = [way for way, _ in ways(lanes, waypoint, 40.0)]
        for end in waypoint.next(25.0):
            at = end.transform.location
            away = min(np.hypot(way[:, 0] - at.x, way[:, 1] - at.y).min() for way in found)
            assert away < 1.0


def test_who_is_in_a_junction_is_said_to_be(lanes: Lanes, places: list[Any]) -> None:
    for waypoint in places:
        assert any(here == waypoint.is_junction for _, here in ways(lanes, waypoint, 10.0))


def test_nothing_for_one_who_is_on_no_lane_or_drives_across(lanes: Lanes, places: list) -> None:
    assert lanes.ways(np.array([-900.0, 0.0]), 0.0, 30.0) == []
    waypoint = next(place for place in places if not place.is_junction)
    at = waypoint.transform
    place = np.array([at.location.x, at.location.y])
    assert lanes.ways(place, np.radians(at.rotation.yaw + 90), 30.0) == []


def test_lanes_of_whole_metres_have_an_end() -> None:
    """CARLA's library raises where a step falls on a lane's end; the lane is followed all the same."""
    town = carla.Map("Procedural30", generate(30))
    raised = 0
    for waypoint in town.generate_waypoints(2.0):
        try:
            waypoint.next_until_lane_end(STEP)
        except RuntimeError:
            raised += 1
            rest = _to_the_end(waypoint)
            assert _left(waypoint) - 2.5 * STEP < STEP * len(rest) < _left(waypoint) + STEP
    assert raised


def _left(waypoint: Any) -> float:
    """Metres to the end of the waypoint's lane, to half a metre."""
    here, far = (waypoint.road_id, waypoint.section_id, waypoint.lane_id), 0.5
    while any((w.road_id, w.section_id, w.lane_id) == here for w in waypoint.next(far)):
        far += 0.5
    return far
