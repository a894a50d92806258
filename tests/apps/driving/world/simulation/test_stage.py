"""Boxes of what moves, and what scenes are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.actors import Actor
from apps.driving.world.simulation.stage import colour
from apps.driving.world.simulation.world import World

OPEN = Transform(4000.0, 4000.0, 0.0, 0.0, 30.0, 0.0)


def test_boxes_lie_about_their_actors(world: World) -> None:
    bus = world.spawn("vehicle.mitsubishi.fusorosa", {"color": "10,20,30"}, OPEN)
    walker = world.spawn("walker.pedestrian.0002", {}, OPEN.then(Transform(12.0)))
    cone = world.spawn("static.prop.trafficcone01", {}, OPEN.then(Transform(-9.0)))
    boxes = world.boxes()
    assert boxes.instance.tolist() == [bus.id, walker.id, cone.id]
    assert boxes.tag.tolist() == [bus.tags[0], walker.tags[0], cone.tags[0]]
    for row, actor in enumerate((bus, walker, cone)):
        middle = world.transform(actor.id).apply(np.array(actor.box.centre))
        assert boxes.centre[row] == pytest.approx(middle, abs=1e-3)
        assert boxes.half[row] == pytest.approx(actor.box.half)
        assert boxes.yaw[row] == pytest.approx(math.radians(30.0), abs=1e-6)
    assert boxes.rgb[0].tolist() == [10, 20, 30]


def test_a_scene_follows_what_moves(world: World) -> None:
    car = world.spawn("vehicle.tesla.model3", {}, OPEN)
    world.bodies.set_target_velocity(car.id, (10.0, 0.0, 0.0))
    before = world.scene()
    assert world.scene() is before
    world.tick()
    after = world.scene()
    assert after.fixed is before.fixed  # renderers keep what they made of it
    assert after.ground is before.ground
    assert after.moving.centre[0, 0] - before.moving.centre[0, 0] == pytest.approx(0.5, abs=0.1)


def test_walkers_are_dressed_by_their_number() -> None:
    crowd = [Actor(i, "walker.pedestrian.0001", 1, "walker", {}, Transform()) for i in range(1, 20)]
    assert len({colour(a) for a in crowd}) > 3
    assert colour(crowd[0]) == colour(crowd[0])
