"""Red lights and stop signs: geometry by hand, and the embedded world's own lights and signs."""

from __future__ import annotations

from pathlib import Path

import carla
import numpy as np
import pytest

from apps.driving.evaluation.criteria import Criteria
from apps.driving.evaluation.signals import crosses, stop_lines
from apps.driving.routes.plan import Plan
from apps.driving.simulator.session import open_session

ROOT = Path(__file__).resolve().parents[4]
SPEED = 6.0


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "wanted"),
    [
        ((0, 0), (2, 0), (1, -1), (1, 1), True),
        ((0, 0), (0.9, 0), (1, -1), (1, 1), False),
        ((0, 0), (1, 0), (1, -1), (1, 1), True),  # touches
        ((0, 0), (2, 0), (1, 0.1), (1, 1), False),
        ((0, 0), (2, 0), (0, 1), (2, 1), False),  # parallel
        ((0, 0), (0, 0), (1, 1), (2, 2), False),  # a point
    ],
)
def test_segments_cross(a, b, c, d, wanted):
    assert crosses(a, b, c, d) is wanted
    assert crosses(c, d, b, a) is wanted


def approach(waypoint: carla.Waypoint, before: float, after: float) -> list[carla.Transform]:
    """Poses along the lane, 0.3 m apart, from ``before`` m before a waypoint to ``after`` after."""
    poses, at = [], waypoint
    for _ in range(int(before / 2)):
        previous = at.previous(2.0)
        if not previous:
            break
        at = previous[0]
    while at.transform.location.distance(waypoint.transform.location) > 2.1:
        poses.append(at.transform)
        at = at.next(0.3)[0]
    end = poses[-1]
    ahead = end.get_forward_vector()
    for k in range(int((after + 2) / 0.3)):
        place = end.location + carla.Location(ahead.x * 0.3 * (k + 1), ahead.y * 0.3 * (k + 1), 0)
        poses.append(carla.Transform(place, end.rotation))
    return poses


def plan_of(poses: list[carla.Transform]) -> Plan:
    kept = poses[::3]
    n = len(kept)
    xy = np.array([(p.location.x, p.location.y) for p in kept])
    return Plan(
        town="",
        xy=xy,
        yaw=np.array([p.rotation.yaw for p in kept]),
        command=np.full(n, 4),
        junction=np.zeros(n, bool),
        speed_limit=np.full(n, 8.0),
        s=np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))]),
    )


def carried(session, poses: list[carla.Transform], stand_at: int | None = None) -> list[str]:
    """The infractions of a car that is carried along these poses, standing at one of them."""
    start = poses[0]
    ego = session.spawn_ego((start.location.x, start.location.y, 0.0, start.rotation.yaw))
    try:
        criteria = Criteria(session.world, session.map, ego, plan_of(poses))
        found = []
        for i, pose in enumerate(poses):
            ego.set_transform(pose)
            ahead = pose.get_forward_vector()
            ego.set_target_velocity(carla.Vector3D(SPEED * ahead.x, SPEED * ahead.y, 0))
            found += criteria.update(session.tick())
            if i == stand_at:
                ego.set_target_velocity(carla.Vector3D())
                for _ in range(3):
                    found += criteria.update(session.tick())
        criteria.finish()
    finally:
        session.destroy([ego])
    return [infraction.kind for infraction in found if infraction.kind != "route_dev"]


@pytest.fixture(scope="module")
def town01():
    file = ROOT / "samples" / "Town01.xodr"
    if not file.exists():
        pytest.skip("samples/ is not part of this copy")
    with open_session(str(file)) as session:
        yield session


@pytest.fixture(scope="module")
def village():
    with open_session("procedural:3") as session:
        session.tick()
        assert len(session.world.get_actors().filter("traffic.stop")) > 0
        yield session


def test_a_stop_line_lies_across_the_lane_at_its_end(town01):
    town01.tick()
    lights = list(town01.world.get_actors().filter("traffic.traffic_light"))
    assert lights
    for light in lights:
        for line in stop_lines(light, town01.map):
            across = np.subtract(line.right, line.left)
            assert np.hypot(*across) == pytest.approx(4.8, abs=0.3)  # 1.2 of Town01's 4 m
            assert across @ np.array(line.forward) == pytest.approx(0, abs=1e-4)
            middle = np.add(line.left, line.right) / 2
            found = town01.map.get_waypoint(carla.Location(*middle.tolist(), 0))
            assert (found.road_id, found.lane_id) == (line.road, line.lane)
            beyond = middle + 2.5 * np.array(line.forward)
            after = town01.map.get_waypoint(carla.Location(*beyond.tolist(), 0))
            assert after.is_junction


@pytest.mark.parametrize("state", ["Red", "Yellow", "Green"])
def test_only_a_red_light_is_run(town01, state):
    town01.tick()
    light = next(iter(town01.world.get_actors().filter("traffic.traffic_light")))
    light.set_state(getattr(carla.TrafficLightState, state))
    light.freeze(True)
    town01.tick()
    (stop, *_) = light.get_stop_waypoints()
    found = carried(town01, approach(stop, 30, 12))
    light.freeze(False)
    assert found == (["red_light"] if state == "Red" else [])


def test_waiting_before_a_red_light_is_no_infraction(town01):
    town01.tick()
    light = next(iter(town01.world.get_actors().filter("traffic.traffic_light")))
    light.set_state(carla.TrafficLightState.Red)
    light.freeze(True)
    town01.tick()
    (stop, *_) = light.get_stop_waypoints()
    found = carried(town01, approach(stop, 30, 0))
    light.freeze(False)
    assert found == []


@pytest.mark.parametrize("stands", [False, True])
def test_a_stop_sign_wants_the_car_to_stand(village, stands):
    sign = next(iter(village.world.get_actors().filter("traffic.stop")))
    place = sign.get_transform().transform(sign.trigger_volume.location)
    waypoint = village.map.get_waypoint(place)
    poses = approach(waypoint, 30, 10)
    nearest = min(
        range(len(poses)), key=lambda i: poses[i].location.distance(waypoint.transform.location)
    )
    found = carried(village, poses, stand_at=nearest - 6 if stands else None)
    assert found == ([] if stands else ["stop_infraction"])


def test_standing_long_before_the_sign_does_not_count(village):
    sign = next(iter(village.world.get_actors().filter("traffic.stop")))
    place = sign.get_transform().transform(sign.trigger_volume.location)
    poses = approach(village.map.get_waypoint(place), 30, 10)
    assert carried(village, poses, stand_at=20) == ["stop_infraction"]
