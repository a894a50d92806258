"""Calls on walkers."""

from __future__ import annotations

import math

import pytest

from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.world import World

OPEN = Transform(4000.0, 4000.0, 0.0)


@pytest.fixture
def walker(world: World) -> int:
    return world.spawn("walker.pedestrian.0001", {}, OPEN).id


def test_spawned_on_the_ground_it_stands_on_it(world: World, walker: int) -> None:
    tall = world.actor(walker).box.half[2]
    assert world.transform(walker).z == pytest.approx(tall)
    world.tick()
    boxes = world.boxes()
    assert boxes.centre[0, 2] == pytest.approx(boxes.half[0, 2], abs=0.01)


def test_walks_where_it_is_told(world: World, walker: int) -> None:
    world.people.apply_control(walker, (0.0, 3.0, 0.0), 1.5, False)
    for _ in range(40):
        world.tick()
    here = world.transform(walker)
    assert here.x == pytest.approx(OPEN.x, abs=0.01)
    assert here.y - OPEN.y == pytest.approx(1.5 * 2.0, abs=0.2)
    rows = world.snapshot()
    row = rows[rows["id"] == walker][0]
    assert row["walker_speed"] == pytest.approx(1.5)
    assert row["walker_direction"] == pytest.approx((0, 1, 0))
    assert row["velocity"] == pytest.approx((0, 1.5, 0), abs=1e-5)


def test_jumps_and_lands(world: World, walker: int) -> None:
    ground = world.transform(walker).z
    world.people.apply_control(walker, (1.0, 0.0, 0.0), 0.0, True)
    heights = []
    for _ in range(40):
        world.tick()
        heights.append(world.transform(walker).z - ground)
    assert 0.5 < max(heights) < 1.5
    assert heights[-1] == pytest.approx(0.0, abs=1e-6)


def test_state_from_the_clients_navigation_is_of_the_feet(world: World, walker: int) -> None:
    tall = world.actor(walker).box.half[2]
    world.people.set_state(walker, Transform(4003.0, 4001.0, 0.0, 0.0, 90.0), 1.2)
    assert world.transform(walker) == pytest.approx((4003, 4001, tall, 0, 90, 0))
    world.tick()
    here = world.transform(walker)
    assert (here.x, here.z) == pytest.approx((4003, tall))
    assert here.y == pytest.approx(4001, abs=0.1)


@pytest.mark.parametrize(
    ("direction", "speed"), [((math.nan, 0, 0), 1.0), ((1, 0, 0), math.inf), ((1, 0), 1.0)]
)
def test_bad_numbers(world: World, walker: int, direction: tuple[float, ...], speed: float) -> None:
    with pytest.raises(SimulationError):
        world.people.apply_control(walker, direction, speed, False)
    with pytest.raises(SimulationError):
        world.people.set_state(walker, Transform(x=math.nan), 1.0)
    world.tick()
    assert world.transform(walker)[:2] == pytest.approx(OPEN[:2])


def test_a_car_that_runs_into_somebody_tells(world: World, walker: int) -> None:
    car = world.spawn("vehicle.tesla.model3", {}, OPEN.then(Transform(-8.0)))
    world.bodies.set_target_velocity(car.id, (8.0, 0.0, 0.0))
    pairs = set()
    for _ in range(40):
        world.tick()
        pairs |= {(c.actor.id, c.other.id) for c in world.collisions}
    assert (car.id, walker) in pairs
    assert (walker, car.id) in pairs
    assert world.transform(walker).x > OPEN.x + 0.5


def test_whom_nobody_leads_any_more_stands(world: World, walker: int) -> None:
    for i in range(20):
        world.people.set_state(walker, Transform(4003.0 + 0.06 * i, 4001.0), 1.2)
        world.tick()
        rows = world.snapshot()
        assert rows["walker_speed"][rows["id"] == walker][0] == pytest.approx(1.2)
    there = world.transform(walker).x
    for _ in range(40):
        world.tick()
    assert world.transform(walker).x - there < 0.3
    world.people.apply_control(walker, (1, 0, 0), 1.2, False)
    for _ in range(40):
        world.tick()
    assert world.transform(walker).x - there > 2.0
