"""Traffic lights and signs: where they stand, whom they stop, what is green together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import carla
import numpy as np
import pytest

from apps.driving.world.maps.network import Network
from apps.driving.world.maps.procedural import generate
from apps.driving.world.maps.sites import LightSite


def controlled(network: Network, light: LightSite) -> set[int]:
    """Roads through the junction that the lanes it stops lead to."""
    after = [k for node in light.stop_nodes for k in network.next.of(node)]
    return {int(network.road[k]) for k in after}


def test_lights_stop_those_who_come_to_their_junction(network: Network) -> None:
    assert len(network.lights) > 10
    for light in network.lights:
        assert light.stop_nodes
        for node in light.stop_nodes:
            assert network.junction[node] == -1
            assert {int(network.junction[k]) for k in network.next.of(node)} == {light.junction}
            turned = network.yaw_rad[node] - math.radians(light.heading)
            assert math.cos(turned) > 0.9
            centre, half = light.trigger
            local = centre.inverse_apply(np.array([*network.position[node], 1.0]))
            assert (np.abs(local) <= np.array(half) + 1e-6).all()


def test_no_lane_obeys_two_lights(network: Network) -> None:
    stops = [node for light in network.lights for node in light.stop_nodes]
    assert len(stops) == len(set(stops))


def test_lights_control_the_ways_that_refer_to_them(network: Network) -> None:
    for light in network.lights:
        named = {
            r.road
            for r in network.roads.references
            if r.signal == light.sign_id and r.lanes and not r.primary
        }
        assert named == controlled(network, light)


def test_actors_stand_where_the_landmarks_are(towns: tuple[Network, carla.Map]) -> None:
    network, seen = towns
    marks = {mark.id: mark.transform for mark in seen.get_all_landmarks()}
    for site in [*network.lights, *network.signs]:
        at = marks[site.sign_id]
        assert (site.transform.x, site.transform.y) == pytest.approx(
            (at.location.x, at.location.y), abs=1e-4
        )
        turned = math.radians(site.transform.yaw - at.rotation.yaw - 90)
        assert math.cos(turned) == pytest.approx(1.0)
        assert site.transform.z == 0


def test_phases_of_a_junction_are_counted_from_0(network: Network) -> None:
    for junction in {light.junction for light in network.lights}:
        groups = {light.group for light in network.lights if light.junction == junction}
        assert groups == set(range(len(groups)))
        assert len(groups) > 1


def test_town01_has_the_lights_and_signs_that_carla_has(
    samples: Path, build: Callable[[str], tuple[Network, carla.Map]]
) -> None:
    network, seen = build((samples / "Town01.xodr").read_text())
    assert {x.sign_id for x in network.lights} == {
        mark.id for mark in seen.get_all_landmarks_of_type("1000001")
    }
    assert len(network.lights) == 36
    assert len({x.junction for x in network.lights}) == 12
    assert [s.kind for s in network.signs] == ["speed_limit"] * 22


def test_lights_without_controllers_are_phased_by_their_axis(
    build: Callable[[str], tuple[Network, carla.Map]],
) -> None:
    text = generate(8)
    bare = re.sub(r"<controller [^>]*/>|<controller [^>]*[^/]>.*?</controller>", "", text)
    (with_them, _), (without, _) = build(text), build(bare)
    pairs = list(zip(with_them.lights, without.lights, strict=True))
    assert pairs
    assert all(a.junction == b.junction for a, b in pairs)
    for a, b in pairs:
        for c, d in pairs:
            if a.junction == c.junction:
                assert (a.group == c.group) == (b.group == d.group)


def test_a_stop_sign_stops_at_the_junction(
    build: Callable[[str], tuple[Network, carla.Map]],
) -> None:
    network, _ = build(generate(8))
    signs = [sign for sign in network.signs if sign.kind == "stop"]
    assert signs
    for sign in signs:
        for node in sign.stop_nodes:
            assert network.junction[node] == -1
            assert (network.junction[network.next.of(node)] != -1).all()


def test_a_light_on_the_approach_itself_stops_where_its_road_ends(
    build: Callable[[str], tuple[Network, carla.Map]],
) -> None:
    """Other tools write the lanes into the signal, without references in the junction."""
    text = generate(8)
    network, _ = build(text)
    light = network.lights[0]
    node = light.stop_nodes[0]
    lane = int(network.lane[node])
    bare = re.sub(rf'<signalReference id="{light.sign_id}".*?</signalReference>', "", text)
    before = rf'(<signal [^>]*id="{light.sign_id}"[^>]*>)<validity[^>]*/>'
    same, _ = build(re.sub(before, rf'\1<validity fromLane="{lane}" toLane="{lane}"/>', bare))
    found = next(x for x in same.lights if x.sign_id == light.sign_id)
    assert found.stop_nodes == [node]
    assert (found.junction, found.group) == (light.junction, light.group)


def test_a_signal_that_addresses_nobody_still_stands(
    build: Callable[[str], tuple[Network, carla.Map]],
) -> None:
    text = generate(8)
    light = build(text)[0].lights[0]
    bare = re.sub(rf'<signalReference id="{light.sign_id}".*?</signalReference>', "", text)
    found = next(x for x in build(bare)[0].lights if x.sign_id == light.sign_id)
    assert found.stop_nodes == []
    assert (found.transform.x, found.transform.y) == pytest.approx(
        (light.transform.x, light.transform.y), abs=0.5
    )
    assert abs(math.remainder(found.heading - light.heading, 360)) < 10
