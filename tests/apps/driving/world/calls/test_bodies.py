"""Calls on any actor."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.world import World

CAR = "vehicle.tesla.model3"
OPEN = Transform(4000.0, 4000.0, 0.0)


def velocity(world: World, actor_id: int) -> np.ndarray:
    rows = world.snapshot()
    found: np.ndarray = rows["velocity"][rows["id"] == actor_id][0]
    return found


def test_transforms_of_every_kind_can_be_set(world: World) -> None:
    there = Transform(4100.0, 3900.0, 2.0, 0.0, 30.0, 0.0)
    car = world.spawn(CAR, {}, OPEN)
    walker = world.spawn("walker.pedestrian.0001", {}, OPEN.then(Transform(0, 9, 1)))
    prop = world.spawn("static.prop.bin", {}, OPEN.then(Transform(0, -9, 0)))
    imu = world.spawn("sensor.other.imu", {}, Transform(1, 2, 3), car.id)
    for actor in (car.id, walker.id, prop.id, world.spectator.id, world.signals.light_ids[0]):
        world.bodies.set_transform(actor, there)
        assert world.transform(actor) == pytest.approx(there)
        world.bodies.set_location(actor, (1.0, 2.0, 3.0))
        assert world.transform(actor) == pytest.approx((1, 2, 3, 0, 30, 0))
        world.bodies.set_transform(actor, OPEN.then(Transform(0, actor, 0)))
    world.bodies.set_transform(imu.id, there)  # of the world, and rigid from then on
    assert np.allclose(world.transform(imu.id).matrix(), there.matrix(), atol=1e-6)
    world.bodies.set_transform(car.id, OPEN)
    assert not np.allclose(world.transform(imu.id).matrix(), there.matrix(), atol=1.0)
    rows = world.snapshot()
    assert rows["transform"][rows["id"] == prop.id][0][:2] == pytest.approx(
        world.transform(prop.id)[:2]
    )


BAD: list[tuple[str, Callable[[World, int], None]]] = [
    ("nan transform", lambda w, i: w.bodies.set_transform(i, Transform(x=math.nan))),
    ("far transform", lambda w, i: w.bodies.set_transform(i, Transform(y=1e12))),
    ("short transform", lambda w, i: w.bodies.set_transform(i, (1.0, 2.0))),
    ("inf location", lambda w, i: w.bodies.set_location(i, (math.inf, 0, 0))),
    ("nan velocity", lambda w, i: w.bodies.set_target_velocity(i, (0, math.nan, 0))),
    ("nan turn", lambda w, i: w.bodies.set_target_angular_velocity(i, (0, 0, math.nan))),
    ("nan constant", lambda w, i: w.bodies.enable_constant_velocity(i, (math.nan, 0, 0))),
    ("nan impulse", lambda w, i: w.bodies.add_impulse(i, (math.nan, 0, 0))),
    ("nan place", lambda w, i: w.bodies.add_impulse(i, (1, 0, 0), (math.nan, 0, 0))),
    ("nan force", lambda w, i: w.bodies.add_force(i, (0, 0, -math.inf))),
    ("nan twist", lambda w, i: w.bodies.add_angular_impulse(i, (0, 0, math.nan))),
    ("nan torque", lambda w, i: w.bodies.add_torque(i, (0, 0, math.nan))),
    ("nan throttle", lambda w, i: w.vehicles.apply_control(i, math.nan, 0, 0)),
    ("nan steer", lambda w, i: w.vehicles.apply_control(i, 0, math.nan, 0)),
    ("nan brake", lambda w, i: w.vehicles.apply_control(i, 0, 0, math.inf)),
    ("nan ackermann", lambda w, i: w.vehicles.apply_ackermann(i, 0, 0, math.nan, 0, 0)),
    ("nan gain", lambda w, i: w.vehicles.set_ackermann_settings(i, (math.nan,) * 6)),
    ("five gains", lambda w, i: w.vehicles.set_ackermann_settings(i, (1.0,) * 5)),
    ("nan wheel", lambda w, i: w.vehicles.set_wheel_steer(i, 0, math.nan)),
    ("no wheel", lambda w, i: w.vehicles.set_wheel_steer(i, 17, 0.0)),
    ("no door", lambda w, i: w.vehicles.open_door(i, 9)),
    ("nobody", lambda w, i: w.bodies.set_transform(10**6, OPEN)),
    ("no walker", lambda w, i: w.people.apply_control(i, (1, 0, 0), 1.0, False)),
    ("no light", lambda w, i: w.signals.set_state(i, 0)),
]


@pytest.mark.parametrize(("what", "call"), BAD, ids=[name for name, _ in BAD])
def test_bad_numbers_change_nothing(
    new_world: Callable[..., World], what: str, call: Callable[[World, int], None]
) -> None:
    world, twin = new_world(), new_world()
    for one in (world, twin):
        car = one.spawn(CAR, {}, OPEN)
        one.vehicles.apply_control(car.id, 0.5, 0.1, 0.0)
    with pytest.raises(SimulationError) as caught:
        call(world, car.id)
    assert "\n" not in str(caught.value)
    for _ in range(3):
        world.tick()
        twin.tick()
    assert world.snapshot().tobytes() == twin.snapshot().tobytes()


def test_target_velocity_is_the_worlds(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN._replace(yaw=90.0))
    world.bodies.set_target_velocity(car.id, (0.0, 7.0, 0.0))
    world.tick()
    assert velocity(world, car.id)[1] == pytest.approx(7.0, abs=0.4)


def test_constant_velocity_is_the_bodys_until_it_ends(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN._replace(yaw=90.0))
    world.bodies.enable_constant_velocity(car.id, (5.0, 0.0, 0.0))
    for _ in range(20):
        world.vehicles.apply_control(car.id, 0.0, 0.0, 1.0)
        world.tick()
        assert velocity(world, car.id) == pytest.approx((0.0, 5.0, 0.0), abs=1e-5)
    world.bodies.disable_constant_velocity(car.id)
    for _ in range(40):
        world.tick()
    assert velocity(world, car.id) == pytest.approx((0, 0, 0), abs=1e-3)


def test_an_impulse_is_mass_times_velocity(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN)
    mass = world.vehicles.physics(car.id)[11]
    world.bodies.add_impulse(car.id, (3.0 * mass, 0.0, 0.0))
    world.tick()
    assert velocity(world, car.id)[0] == pytest.approx(3.0, abs=0.3)


def test_a_force_acts_for_one_tick(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN)
    mass = world.vehicles.physics(car.id)[11]
    world.bodies.add_force(car.id, (mass * 20.0, 0.0, 0.0))
    world.tick()
    first = velocity(world, car.id)[0]
    assert first == pytest.approx(20.0 * 0.05, rel=0.2)
    world.tick()
    assert velocity(world, car.id)[0] <= first


def test_twists_turn_and_end(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN)
    world.bodies.add_angular_impulse(car.id, (0.0, 0.0, 200_000.0))
    world.bodies.add_torque(car.id, (0.0, 0.0, 200_000.0))
    world.tick()
    world.tick()
    turned = world.transform(car.id).yaw
    assert turned > 0.3
    for _ in range(60):
        world.tick()
    at_rest = world.transform(car.id).yaw
    world.tick()
    assert world.transform(car.id).yaw == pytest.approx(at_rest, abs=1e-6)


def test_without_physics_a_car_stands_in_the_air(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN._replace(z=5.0))
    world.bodies.set_simulate_physics(car.id, False)
    world.vehicles.apply_control(car.id, 1.0, 0.0, 0.0)
    for _ in range(20):
        world.tick()
    assert world.transform(car.id) == pytest.approx(OPEN._replace(z=5.0))
    world.bodies.set_simulate_physics(car.id, True)
    for _ in range(40):
        world.tick()
    assert world.transform(car.id).z == pytest.approx(0.0)
    assert velocity(world, car.id)[0] > 5


def test_without_gravity_it_hangs(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN._replace(z=5.0))
    world.bodies.set_enable_gravity(car.id, False)
    for _ in range(20):
        world.tick()
    assert world.transform(car.id).z == pytest.approx(5.0)


def test_ghosts_meet_nothing_and_take_no_room(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN)
    world.bodies.set_collisions(car.id, False)
    other = world.spawn(CAR, {}, OPEN)
    for _ in range(5):
        world.tick()
        assert not world.collisions
    assert world.transform(other.id)[:2] == pytest.approx(OPEN[:2])


@pytest.mark.parametrize("invincible", [True, False])
def test_who_is_not_invincible_is_run_into_though_a_client_leads_him(
    world: World, invincible: bool
) -> None:
    given = {"is_invincible": str(invincible).lower()}
    walker = world.spawn("walker.pedestrian.0001", given, OPEN)
    world.bodies.set_collisions(walker.id, False)
    car = world.spawn(CAR, {}, OPEN.then(Transform(-8.0)))
    world.bodies.set_target_velocity(car.id, (8.0, 0.0, 0.0))
    hits = 0
    for _ in range(40):
        world.tick()
        hits += len(world.collisions)
    assert bool(hits) != invincible


def test_what_does_not_move_is_not_pushed(world: World) -> None:
    with pytest.raises(SimulationError, match="want a vehicle or a walker"):
        world.bodies.add_impulse(world.signals.light_ids[0], (1.0, 0.0, 0.0))


def test_the_dead_do_nothing(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN)
    world.vehicles.apply_control(car.id, 1.0, 0.0, 0.0)
    for _ in range(40):
        world.tick()
    world.bodies.set_dead(car.id)
    for _ in range(100):
        world.tick()
    assert velocity(world, car.id) == pytest.approx((0, 0, 0), abs=1e-3)


def test_forces_on_a_car_that_goes_are_forgotten(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN)
    world.bodies.add_force(car.id, (1e5, 0, 0))
    world.bodies.add_torque(car.id, (0, 0, 1e5))
    world.destroy(car.id)
    world.tick()
    assert not world.bodies.forces
    assert not world.bodies.torques
