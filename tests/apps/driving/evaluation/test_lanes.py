"""Outside the lanes, on Town01's map, without a simulator."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import carla
import numpy as np
import pytest

from apps.driving.evaluation.lanes import OutsideLanes
from apps.driving.evaluation.progress import Progress
from apps.driving.evaluation.state import EgoState
from apps.driving.routes.plan import Plan

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def town() -> carla.Map:
    file = ROOT / "samples" / "Town01.xodr"
    if not file.exists():
        pytest.skip("samples/ is not part of this copy")
    return carla.Map("Town01", file.read_text())


@pytest.fixture(scope="module")
def lane(town) -> list[carla.Waypoint]:
    """100 m of a lane without a junction."""
    for start in town.generate_waypoints(20.0):
        found = [start]
        while len(found) < 101 and not found[-1].is_junction:
            following = found[-1].next(1.0)
            if not following:
                break
            found.append(following[0])
        if len(found) == 101 and not any(waypoint.is_junction for waypoint in found):
            return found
    raise AssertionError("no such lane in Town01")


def plan_of(lane: list[carla.Waypoint]) -> Plan:
    n = len(lane)
    poses = [waypoint.transform for waypoint in lane]
    return Plan(
        town="Town01",
        xy=np.array([(p.location.x, p.location.y) for p in poses]),
        yaw=np.array([p.rotation.yaw for p in poses]),
        command=np.full(n, 4),
        junction=np.zeros(n, bool),
        speed_limit=np.full(n, 8.0),
        s=np.arange(float(n)),
    )


def share(town: carla.Map, lane: list[carla.Waypoint], right: list[float]) -> float:
    """Percentage outside of a drive along the lane, ``right`` metres beside it at each waypoint."""
    start = lane[0].transform.location
    progress = Progress(plan_of(lane))
    outside = OutsideLanes(town, SimpleNamespace(get_location=lambda: start), progress)
    for i, (waypoint, aside) in enumerate(zip(lane, right, strict=True)):
        pose = waypoint.transform
        side = pose.get_right_vector()
        ahead = pose.get_forward_vector()
        x = pose.location.x + aside * side.x + 0.2 * ahead.x
        y = pose.location.y + aside * side.y + 0.2 * ahead.y
        state = EgoState(i, 0.1 * i, x, y, 0.0, pose.rotation.yaw, 5 * ahead.x, 5 * ahead.y, 5.0)
        progress.update(state)
        outside.update(state)
    found = outside.infractions()
    assert len(found) <= 1
    return found[0].percentage if found else 0.0


def test_in_the_lane_nothing_is_outside(town, lane):
    assert share(town, lane, [0.0] * 101) == 0
    assert share(town, lane, [0.8] * 101) == 0


def test_beyond_the_edge_of_the_road_by_more_than_half_a_metre(town, lane):
    edge = lane[0].lane_width / 2
    # there may be a lane on the right; the road's own edge is looked for
    rightmost = lane[0].get_right_lane()
    assert rightmost is None or rightmost.lane_type != carla.LaneType.Driving
    assert share(town, lane, [edge + 0.4] * 101) == 0
    assert share(town, lane, [0.0] * 50 + [edge + 0.7] * 51) == pytest.approx(51, abs=1.5)


def test_the_oncoming_lane_is_outside_until_the_car_comes_back(town, lane):
    width = lane[0].lane_width
    assert math.copysign(1, lane[0].lane_id) != math.copysign(1, lane[0].get_left_lane().lane_id)
    right = [0.0] * 20 + [-width] * 30 + [0.0] * 51
    assert share(town, lane, right) == pytest.approx(30, abs=1.5)


def test_standing_outside_adds_nothing(town, lane):
    progress = Progress(plan_of(lane))
    start = lane[0].transform.location
    outside = OutsideLanes(town, SimpleNamespace(get_location=lambda: start), progress)
    for i in range(50):
        state = EgoState(i, 0.1 * i, start.x + 500, start.y, 0, 0, 0, 0, 0)
        progress.step = 0.0
        outside.update(state)
    assert outside.off_road
    assert outside.infractions() == []
