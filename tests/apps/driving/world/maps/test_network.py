"""Lane nodes against ``carla.Map``: places, links, lane changes; limits and spawn points."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import process_time

import carla
import numpy as np
import pytest

from apps.driving.world.maps.network import Csr, Network
from apps.driving.world.maps.procedural import generate


def waypoint(seen: carla.Map, network: Network, node: int, back: float = 0.0) -> carla.Waypoint:
    s = network.s[node] - back * (1 if network.lane[node] < 0 else -1)
    return seen.get_waypoint_xodr(int(network.road[node]), int(network.lane[node]), float(s))


def test_town01_is_read_in_under_a_second(samples: Path) -> None:
    text = (samples / "Town01.xodr").read_text()
    seen = carla.Map("Town01", text)
    start = process_time()
    assert len(Network(seen, text)) == pytest.approx(3266, abs=20)
    assert process_time() - start < 1.0


def test_nodes_are_waypoints(towns: tuple[Network, carla.Map]) -> None:
    network, seen = towns
    for node in range(0, len(network), 13):
        there = waypoint(seen, network, node)
        at = there.transform
        assert network.position[node] == pytest.approx((at.location.x, at.location.y), abs=1e-3)
        turned = network.yaw_rad[node] - math.radians(at.rotation.yaw)
        assert math.cos(turned) > 0.9998
        assert network.width[node] == pytest.approx(there.lane_width, abs=1e-5)
        assert (network.junction[node] != -1) == there.is_junction
        if there.is_junction:
            assert network.junction[node] == there.junction_id


def test_links_are_those_of_waypoints(towns: tuple[Network, carla.Map]) -> None:
    network, seen = towns
    forks = 0
    for node in range(len(network)):
        after = network.next.of(node)
        if len(after) == 1 and after[0] == node + 1 and node % 29:
            continue
        reach = 0.5 * network.length[node] + 0.5
        theirs = {(w.road_id, w.lane_id) for w in waypoint(seen, network, node).next(reach)}
        if len(after) == 1 and after[0] == node + 1:
            assert len(theirs) == 1
            continue
        assert {(int(network.road[k]), int(network.lane[k])) for k in after} == theirs
        forks += len(after) > 1
    assert forks > 10


def test_lane_changes_are_those_of_waypoints(towns: tuple[Network, carla.Map]) -> None:
    network, seen = towns
    for node in range(0, len(network), 7):
        allowed = int(waypoint(seen, network, node).lane_change)  # 1: right, 2: left
        for beside, bit in ((network.right[node], 1), (network.left[node], 2)):
            if beside != -1:
                assert allowed & bit
                assert network.s[beside] == network.s[node]
                assert abs(abs(network.lane[beside]) - abs(network.lane[node])) == 1
            elif allowed & bit:  # CARLA allows it into a lane that is not there, or too narrow
                there = waypoint(seen, network, node)
                side = there.get_right_lane() if bit == 1 else there.get_left_lane()
                gone = side is None or side.lane_type != carla.LaneType.Driving
                assert (
                    gone
                    or min(side.lane_width, there.lane_width) < 2.4
                    or (side.lane_id * there.lane_id < 0)
                )


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "<roadMark/>",
        '<roadMark sOffset="0" type="solid"/>',
        *(
            f'<roadMark sOffset="0" type="broken" laneChange="{change}"/>'
            for change in ("increase", "decrease", "both", "none")
        ),
        '<roadMark sOffset="0" laneChange="both"/><roadMark sOffset="50" laneChange="none"/>',
        '<roadMark sOffset="50" laneChange="none"/>',
    ],
)
def test_every_mark_allows_what_carla_says(
    mark: str, build: Callable[[str], tuple[Network, carla.Map]]
) -> None:
    width = '<width sOffset="0" a="3.5" b="0" c="0" d="0"/>'
    lane = {
        k: f'<lane id="{k}" type="driving">{width}{mark if abs(k) == 1 else ""}</lane>'
        for k in (2, 1, -1, -2)
    }
    text = (
        '<OpenDRIVE><header/><road name="r" length="100" id="0" junction="-1"><link/><planView>'
        '<geometry s="0" x="0" y="0" hdg="0.3" length="100"><line/></geometry></planView><lanes>'
        f'<laneSection s="0"><left>{lane[2]}{lane[1]}</left><center><lane id="0" type="none"/>'
        f"</center><right>{lane[-1]}{lane[-2]}</right></laneSection></lanes></road></OpenDRIVE>"
    )
    network, seen = build(text)
    for s in (20.0, 70.0):
        for inner, outer in ((1, 2), (-1, -2)):
            a, b = network.node_at(0, inner, s), network.node_at(0, outer, s)
            out = bool(int(seen.get_waypoint_xodr(0, inner, s).lane_change) & 1)
            back = bool(int(seen.get_waypoint_xodr(0, outer, s).lane_change) & 2)
            assert (network.right[a] == b) == out
            assert (network.left[b] == a) == back
            assert network.left[a] == network.right[b] == -1


def test_left_is_left(network: Network) -> None:
    nodes = np.flatnonzero(network.left >= 0)
    offset = network.position[network.left[nodes]] - network.position[nodes]
    yaw = network.yaw_rad[nodes]
    aside = -offset[:, 0] * np.sin(yaw) + offset[:, 1] * np.cos(yaw)
    assert (aside < -2).all()  # y points to the right
    assert (network.right[network.left[nodes]] == nodes).all()


def test_next_and_previous_are_each_other_turned_round(network: Network) -> None:
    n = len(network)
    forth = {(a, int(b)) for a in range(n) for b in network.next.of(a)}
    back = {(int(a), b) for b in range(n) for a in network.previous.of(b)}
    assert forth == back


def test_csr_keeps_the_order_of_pairs() -> None:
    lists = Csr.build(4, np.array([2, 0, 2, 3, 2]), np.array([7, 1, 5, 2, 9]))
    assert [lists.of(i).tolist() for i in range(4)] == [[1], [], [7, 5, 9], [2]]


def test_the_nearest_node_is_the_nearest(network: Network) -> None:
    rng = np.random.default_rng(4)
    low, high = network.position.min(0), network.position.max(0)
    places = rng.uniform(low, high, (50, 2))
    apart = np.hypot(*(network.position[None] - places[:, None]).transpose(2, 0, 1))
    found = network.nearest(places)
    np.testing.assert_allclose(apart[np.arange(50), found], apart.min(1))
    assert network.nearest(network.position[7]) == 7


def test_the_nearest_node_that_points_the_same_way(network: Network) -> None:
    """Half a metre over the centre line the oncoming lane is nearer, but not meant."""
    two_way = [r for r in network.roads.roads.values() if r.junction == -1 and r.length > 50]
    for road in two_way[:20]:
        at, yaw = road.place(np.array([25.0]), np.array([0.5]))
        plain, meant = int(network.nearest(at)[0]), int(network.nearest(at, yaw)[0])
        assert math.cos(network.yaw_rad[meant] - yaw[0]) > 0.9
        assert network.road[meant] == road.id
        assert network.lane[meant] < 0 < network.lane[plain]


def test_node_at_finds_each_node_by_its_own_numbers(network: Network) -> None:
    for node in range(0, len(network), 17):
        road, lane, s = (
            int(network.road[node]),
            int(network.lane[node]),
            float(network.s[node]),
        )
        assert network.node_at(road, lane, s) == node
    assert network.node_at(0, 99, 1.0) == network.node_at(10**6, -1, 1.0) == -1


def test_spawn_points_leave_room(network: Network) -> None:
    points = network.spawn_points
    assert 100 < len(points) <= 400
    xy = np.array([(p.x, p.y) for p in points])
    node = network.nearest(xy)
    np.testing.assert_allclose(network.position[node], xy, atol=1e-6)
    assert (network.junction[node] == -1).all()
    assert all(0.3 <= p.z <= 0.6 for p in points)
    offset = xy[None] - xy[:, None]
    yaw = network.yaw_rad[node]
    along = np.abs(offset[..., 0] * np.cos(yaw)[:, None] + offset[..., 1] * np.sin(yaw)[:, None])
    across = np.abs(offset[..., 1] * np.cos(yaw)[:, None] - offset[..., 0] * np.sin(yaw)[:, None])
    close = (along < 11.5) & (across < 2.8) & ~np.eye(len(points), dtype=bool)
    assert not close.any()


def test_limits_hold_from_their_sign_on(network: Network) -> None:
    for sign in network.signs:
        if sign.kind == "speed_limit":
            for node in sign.stop_nodes:
                assert network.speed_limit[node] == pytest.approx(sign.value / 3.6)
    starts = {n for sign in network.signs if sign.kind == "speed_limit" for n in sign.stop_nodes}
    for node in range(len(network)):
        for after in network.next.of(node).tolist():
            here = network.speed_limit[after]
            if here != network.speed_limit[node]:
                # At a sign, where ways join, or with the lane beside.
                beside = [network.left[after], network.right[after]]
                joined = len(network.previous.of(after)) > 1
                shared = any(k != -1 and network.speed_limit[k] == here for k in beside)
                assert after in starts or joined or shared


def test_limits_without_signs_are_those_of_the_file_and_go_on_through_junctions(
    build: Callable[[str], tuple[Network, carla.Map]],
) -> None:
    text = re.sub(r'<signal name="Speed_.*?</signal>', "", generate(8))
    ways = re.compile(r'(junction="\d+">.*?)<type .*?</type>', re.DOTALL)  # not junction="-1"
    network, _ = build(ways.sub(r"\1", text))
    assert not any(sign.kind == "speed_limit" for sign in network.signs)
    for road in network.roads.roads.values():
        limits = network.speed_limit[network.road == road.id]
        if road.junction == -1:
            np.testing.assert_allclose(limits, road.speeds[0][1])
    assert (np.round(network.speed_limit * 3.6, 6) % 10 == 0).all()
    for node in np.flatnonzero(network.junction != -1).tolist():
        before = network.previous.of(node)
        assert network.speed_limit[node] in network.speed_limit[before]


def test_nodes_share_out_the_length_of_their_lane(network: Network) -> None:
    for road in list(network.roads.roads.values())[::5]:
        for lane in (1, -1):
            nodes = np.flatnonzero((network.road == road.id) & (network.lane == lane))
            nodes = nodes[network.section[nodes] == 0]
            if len(nodes) > 2:
                section = road.sections[0]
                s = np.linspace(section.s, section.end, 500)
                line = road.lane_line(section, lane, s)[0]
                whole = np.hypot(*np.diff(line, axis=0).T).sum()
                assert network.length[nodes].sum() == pytest.approx(whole, rel=0.03)


def test_turns_are_named_by_their_side(network: Network) -> None:
    for road in network.roads.roads.values():
        nodes = np.flatnonzero(network.road == road.id)
        if not len(nodes):
            continue
        if road.junction == -1:
            assert not network.turn[nodes].any()
            continue
        run = nodes[network.lane[nodes] == network.lane[nodes[0]]]
        turned = sum(
            math.remainder(network.yaw_rad[b] - network.yaw_rad[a], math.tau)
            for a, b in pairwise(run.tolist())
        )
        if abs(turned) > math.radians(45):
            assert (network.turn[run] == np.sign(turned)).all()
