"""The scenery as clients ask for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.world import World
from apps.driving.world.tags import Tag


def test_boxes_by_tag(world: World) -> None:
    boxes = world.town.scenery.boxes
    houses = world.surroundings.level_boxes(Tag.BUILDINGS)
    assert len(houses) == (boxes.tag == Tag.BUILDINGS).sum() > 0
    assert len(world.surroundings.level_boxes()) == len(boxes)
    first = houses[0]
    assert boxes.centre[first.id - 1] == pytest.approx(first.transform[:3])
    assert boxes.half[first.id - 1] == pytest.approx(first.half)
    assert math.radians(first.transform.yaw) == pytest.approx(boxes.yaw[first.id - 1])


def test_what_is_hidden_is_neither_seen_nor_met(world: World) -> None:
    house = world.surroundings.environment_objects(Tag.BUILDINGS)[0]
    place = house.transform._replace(z=0.3, yaw=0.0)
    with pytest.raises(SimulationError, match="collision"):
        world.spawn("vehicle.tesla.model3", {}, place)
    count = len(world.scene().fixed)
    near = world.surroundings.environment_objects()
    inside = [b.id for b in near if math.dist(b.transform[:2], place[:2]) < 20]
    world.surroundings.enable_environment_objects(inside, False)
    assert len(world.scene().fixed) == count - len(inside)
    car = world.spawn("vehicle.tesla.model3", {}, place)
    world.tick()
    assert not world.collisions
    world.surroundings.enable_environment_objects(inside, True)
    assert len(world.scene().fixed) == count
    world.destroy(car.id)
    with pytest.raises(SimulationError, match="collision"):
        world.spawn("vehicle.tesla.model3", {}, place)


def test_no_such_object(world: World) -> None:
    with pytest.raises(SimulationError, match="no environment object 0"):
        world.surroundings.enable_environment_objects([0], False)


def test_a_ray_down_meets_the_ground(world: World) -> None:
    found = world.surroundings.project_point((4000.0, 4000.0, 5.0), (0.0, 0.0, -2.0), 10.0)
    assert found is not None
    (x, y, z), tag = found
    assert (x, y, z) == pytest.approx((4000.0, 4000.0, 0.0), abs=1e-3)
    assert tag in (Tag.TERRAIN, Tag.GROUND, Tag.VEGETATION)
    assert world.surroundings.project_point((0.0, 0.0, 5.0), (0.0, 0.0, -1.0), 4.0) is None
    assert world.surroundings.project_point((0.0, 0.0, 5.0), (0.0, 0.0, 0.0), 4.0) is None


def test_a_ray_goes_through_what_it_meets(world: World) -> None:
    for i in range(3):
        world.spawn("static.prop.vendingmachine", {}, Transform(4000.0 + 5 * i, 4000.0, 0.0))
    found = world.surroundings.cast_ray((3995.0, 4000.0, 1.0), (4020.0, 4000.0, 1.0))
    front = [x for (x, _, _), tag in found if tag == Tag.DYNAMIC]
    assert np.allclose(np.array(front)[:1], [3999.55], atol=0.01)
    assert {round((x - 4000) / 5) for x in front} == {0, 1, 2}
    assert world.surroundings.cast_ray((0, 0, 1), (0, 0, 1)) == []


def test_rays_of_no_number(world: World) -> None:
    with pytest.raises(SimulationError):
        world.surroundings.cast_ray((math.nan, 0, 0), (1, 0, 0))
    with pytest.raises(SimulationError):
        world.surroundings.project_point((0, 0, 0), (0, 0, 1), math.nan)
