"""Patches of road with a friction of their own."""

from __future__ import annotations

import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.friction import TRIGGER
from apps.driving.world.simulation.world import World

CAR = "vehicle.tesla.model3"
OPEN = Transform(4000.0, 4000.0, 0.0)
PATCH = {"friction": "0.35", "extent_x": "10000", "extent_y": "500", "extent_z": "500"}


def braking(world: World) -> float:
    """m from 15 m/s to rest."""
    car = world.spawn(CAR, {}, OPEN)
    world.bodies.set_target_velocity(car.id, (15.0, 0.0, 0.0))
    for _ in range(600):
        world.vehicles.apply_control(car.id, 0.0, 0.0, 1.0)
        world.tick()
    way = world.transform(car.id).x - OPEN.x
    assert world.fleet.speed[0] == pytest.approx(0.0, abs=1e-6)
    world.destroy(car.id)
    return way


def test_brakes_hold_less_on_a_patch_and_as_before_without_it(world: World) -> None:
    dry = braking(world)
    patch = world.spawn(TRIGGER, PATCH, OPEN.then(Transform(yaw=0.0)))
    slick = braking(world)
    assert slick > 3.0 * dry
    assert world.destroy(patch.id)
    assert braking(world) == pytest.approx(dry)


def test_beside_the_patch_nothing_changes(world: World) -> None:
    dry = braking(world)
    world.spawn(TRIGGER, PATCH, OPEN.then(Transform(y=20.0)))
    assert braking(world) == pytest.approx(dry)


def test_a_patch_is_turned_with_its_actor_and_moves_with_it(world: World) -> None:
    dry = braking(world)
    patch = world.spawn(TRIGGER, PATCH, OPEN.then(Transform(x=30.0, yaw=90.0)))
    assert braking(world) == pytest.approx(dry)  # it lies across, 30 m ahead
    world.bodies.set_transform(patch.id, OPEN)
    assert braking(world) > 3.0 * dry


def test_it_is_neither_seen_nor_in_the_way(world: World) -> None:
    world.spawn(TRIGGER, PATCH, OPEN)
    assert len(world.boxes()) == 0
    car = world.spawn(CAR, {}, OPEN)
    for _ in range(5):
        world.tick()
        assert not world.collisions
    assert world.boxes().instance.tolist() == [car.id]


def test_the_wheels_tell_of_the_patch(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN)
    patch = world.spawn(TRIGGER, PATCH, OPEN)

    def told() -> set[float]:
        return {wheel[0] for wheel in world.vehicles.physics(car.id)[15]}

    world.tick()
    assert told() == {0.35}
    world.destroy(patch.id)
    world.tick()
    assert told() == {3.5}
