"""Lanes against carla.Map and against the embedded world's own reading of the same file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apps.driving.routes.lanes import LEFT, RIGHT, Lanes

carla = pytest.importorskip("carla")


def turned(a: Any, b: Any) -> Any:
    return np.abs((np.asarray(a) - b + 180) % 360 - 180)


@pytest.fixture(scope="module")
def lanes01(town01):
    return Lanes(town01)


@pytest.fixture(params=["Town01", "procedural:3"], scope="module")
def town(request, town01, load):
    return town01 if request.param == "Town01" else load(request.param)


@pytest.fixture(scope="module")
def lanes(town):
    return Lanes(town)


def test_points_lie_on_their_lanes_in_the_direction_of_travel(town, lanes):
    rng = np.random.default_rng(0)
    every = list(lanes.lanes.values())
    for lane in (every[i] for i in rng.choice(len(every), 40, replace=False)):
        for i in rng.integers(1, len(lane.s) - 1, 4).tolist():
            way = town.get_waypoint_xodr(lane.key[0], lane.key[2], float(lane.road_s[i]))
            there = way.transform.location
            assert np.hypot(there.x - lane.xy[i, 0], there.y - lane.xy[i, 1]) < 0.05
            assert way.is_junction == (lane.junction >= 0)
            along = np.degrees(np.arctan2(*(lane.xy[i + 1] - lane.xy[i])[::-1]))
            assert turned(along, way.transform.rotation.yaw) < 15
            assert turned(lane.yaw[i], way.transform.rotation.yaw) < 0.1


def test_lanes_meet_where_one_follows_the_other(lanes):
    for before, after, side in lanes.graph.edges(data="side"):
        a, b = lanes.lanes[before], lanes.lanes[after]
        if side == 0:
            assert np.hypot(*(b.xy[0] - a.xy[-1])) < 0.05
            assert turned(a.yaw[-1], b.yaw[0]) < 20
        else:
            assert before[:2] == after[:2]
            assert abs(before[2] - after[2]) == 1


def test_every_driving_lane_is_there_and_leads_on(town, lanes):
    keys = {(w.road_id, w.section_id, w.lane_id) for w in town.generate_waypoints(3.0)}
    assert keys == set(lanes.lanes)
    assert all(lanes.following(key) for key in keys)


def test_links_that_the_topology_has_wrong_are_left_out(load):
    """Road 5 of this town leaves a junction and returns to it; carla.Map joins its wrong ends."""
    town = load("procedural:1")
    lanes = Lanes(town)

    def key(way: Any) -> Any:
        return (way.road_id, way.section_id, way.lane_id)

    wrong = [
        (key(a), key(b)) for a, b in town.get_topology() if key(b) not in lanes.following(key(a))
    ]
    assert wrong, "the map no longer has such a road: the filter can go"
    for a, b in wrong:
        gap = np.hypot(*(lanes.lanes[b].xy[0] - lanes.lanes[a].xy[-1]))
        heading = turned(lanes.lanes[a].yaw[-1], lanes.lanes[b].yaw[0])
        assert gap > 2 or heading > 45


def test_beside_is_in_the_direction_of_travel(load):
    town = load("procedural:3")
    lanes = Lanes(town)
    found = 0
    for lane in lanes.lanes.values():
        for side, sign in ((RIGHT, 1), (LEFT, -1)):
            other = lanes.lanes.get(lane.beside(side))
            if other is None or lane.junction >= 0:
                continue
            found += 1
            i = len(lane.s) // 2
            yaw = np.radians(lane.yaw[i])
            across = np.array([-np.sin(yaw), np.cos(yaw)])
            nearest = other.xy[np.argmin(np.hypot(*(other.xy - lane.xy[i]).T))]
            assert sign * float(across @ (nearest - lane.xy[i])) == pytest.approx(3.5, abs=1.0)
    assert found > 10


def test_stretch_is_where_the_mark_may_be_crossed(lanes01):
    lane = next(lane for lane in lanes01.lanes.values() if len(lane.s) > 70)
    lane = type(lane)(**vars(lane))
    lane.change = np.zeros(len(lane.s), np.int8)
    lane.change[5:20] = RIGHT
    lane.change[30:60] = RIGHT | LEFT
    at = lane.s
    assert lane.stretch(RIGHT) == (at[30], at[59])
    assert lane.stretch(RIGHT, 0.0, float(at[25])) == (at[5], at[19])
    assert lane.stretch(LEFT, float(at[40])) == (at[40], at[59])
    assert lane.stretch(LEFT, float(at[61])) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["Town01", "procedural:3"])
def test_speed_limits_are_those_that_the_embedded_world_drives_by(name, town01, load, samples):
    """Two readings of one rule: the world's is from the text, this one through CARLA's client."""
    from apps.driving.world.maps.network import Network
    from apps.driving.world.maps.procedural import generate

    if name == "Town01":
        town, text = town01, (samples / "Town01.xodr").read_text()
    else:
        town, text = load(name), generate(3)
    network, lanes = Network(town, text), Lanes(town)
    rows: dict[Any, list[int]] = {}
    for i, key in enumerate(zip(network.road, network.section, network.lane)):
        rows.setdefault(tuple(int(k) for k in key), []).append(i)
    same = []
    for key, lane in lanes.lanes.items():
        nodes = np.array(rows[key])
        apart = np.hypot(*(network.position[nodes][None] - lane.xy[:, None]).transpose(2, 0, 1))
        wanted = network.speed_limit[nodes[np.argmin(apart, axis=1)]]
        same.append(np.abs(wanted - lane.limit) < 0.05)
    assert np.mean(np.concatenate(same)) > 0.98
    assert len({round(v, 2) for lane in lanes.lanes.values() for v in lane.limit.tolist()}) > 1


def test_without_signs_the_records_of_the_roads_hold_and_then_30(one_road):
    default = Lanes(carla.Map("Town", one_road))
    assert {v for lane in default.lanes.values() for v in lane.limit} == {30 / 3.6}
    record = '<type s="0" type="town"><speed max="40" unit="mph"/></type><planView>'
    told = Lanes(carla.Map("Town", one_road.replace("<planView>", record)))
    for lane in told.lanes.values():
        assert lane.limit == pytest.approx(40 * 0.44704)
