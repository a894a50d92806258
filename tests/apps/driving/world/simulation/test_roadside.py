"""Speed limits and lights against the map, one vehicle at a time."""

from __future__ import annotations

import numpy as np
import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.motion.catalogue import VEHICLES
from apps.driving.world.simulation.world import World

SPEC = VEHICLES["vehicle.tesla.model3"]


def test_limits_are_those_of_the_lane(world: World) -> None:
    network = world.town.network
    rng = np.random.default_rng(0)
    nodes = rng.choice(len(network), 40, replace=False)
    for node in nodes:
        world.fleet.add(1000 + int(node), SPEC, network.place(int(node)))
    assert world.roadside.limits().tolist() == (network.speed_limit[nodes] * 3.6).tolist()


def test_every_light_holds_for_who_stops_there_and_not_for_who_comes_back(world: World) -> None:
    network = world.town.network
    stops = [(i, node) for i, site in enumerate(network.lights) for node in site.stop_nodes]
    assert len(stops) >= len(network.lights)
    for k, (_, node) in enumerate(stops):
        world.fleet.add(k + 1, SPEC, network.place(node))
    ahead = world.roadside.lights()
    here = [(i, node) for (i, node), light in zip(stops, ahead, strict=True) if light == i]
    assert len(here) > 0.9 * len(stops)  # triggers of two lights of one lane may overlap
    for k, (_, node) in enumerate(stops):
        place = network.place(node)
        world.fleet.place(k + 1, place._replace(yaw=place.yaw + 180.0))
    assert (world.roadside.lights() == -1).mean() > 0.9


def test_nobody_there(world: World) -> None:
    assert len(world.roadside.limits()) == len(world.roadside.lights()) == 0


def test_one_light_is_seen_from_its_box_alone(world: World) -> None:
    centre, half = world.town.network.lights[0].trigger
    heading = world.town.network.lights[0].heading
    world.fleet.add(1, SPEC, Transform(centre.x, centre.y, 0.0, 0.0, heading))
    assert world.roadside.lights()[0] == 0
    away = Transform(centre.x, centre.y, 0.0, 0.0, heading).then(Transform(-half[1] - 12.0))
    world.fleet.place(1, away)
    assert world.roadside.lights()[0] != 0


def test_a_light_holds_from_the_nose_at_the_line_until_the_middle_is_over_it(world: World) -> None:
    site = world.town.network.lights[0]
    centre, half = site.trigger
    start = Transform(centre.x, centre.y, 0.0, 0.0, site.heading)
    world.fleet.add(1, SPEC, start)
    nose = SPEC.half[0] + SPEC.centre[0]
    held = []
    for at in np.arange(-nose - half[1] - 1.0, half[1] + 1.0, 0.05):
        world.fleet.place(1, start.then(Transform(float(at))))
        held.append((float(at), world.roadside.lights()[0] == 0))
    inside = [at for at, there in held if there]
    assert inside[0] == pytest.approx(-nose - half[1], abs=0.06)
    assert inside[-1] == pytest.approx(half[1], abs=0.06)
    assert [at for at, _ in held if inside[0] <= at <= inside[-1]] == inside  # without a gap
