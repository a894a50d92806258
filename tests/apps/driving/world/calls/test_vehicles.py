"""Calls on vehicles."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

from apps.driving.world.calls.vehicles import HIGH_BEAM, LOW_BEAM
from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform
from apps.driving.world.motion.catalogue import VEHICLES
from apps.driving.world.simulation.world import World

CAR = "vehicle.tesla.model3"
OPEN = Transform(4000.0, 4000.0, 0.0)
MASS, WHEELS = 11, 15


@pytest.fixture
def car(world: World) -> int:
    return world.spawn(CAR, {}, OPEN).id


def run(world: World, car: int, ticks: int, **control: Any) -> float:
    for _ in range(ticks):
        world.vehicles.apply_control(
            car, **{"throttle": 0.0, "steer": 0.0, "brake": 0.0, **control}
        )
        world.tick()
    return float(world.fleet.speed[world.fleet.row(car)])


def test_control_shows_in_the_snapshot(world: World, car: int) -> None:
    world.vehicles.apply_control(car, 2.0, -0.25, 0.5, True, False, True, 2)
    rows = world.snapshot()
    row = rows[rows["id"] == car][0]
    assert (row["throttle"], row["steer"], row["brake"]) == (1.0, -0.25, 0.5)  # clipped
    assert (row["hand_brake"], row["reverse"], row["manual_gear_shift"]) == (True, False, True)


def test_reverse_drives_back(world: World, car: int) -> None:
    assert run(world, car, 40, throttle=0.5, reverse=True) < -1.0


def test_every_number_of_the_physics_comes_back(world: World) -> None:
    car = world.spawn("vehicle.tesla.model3", {}, OPEN).id
    control = copy.deepcopy(world.vehicles.physics(car))
    control[1], control[2], control[11] = 4321.0, 1.25, 1500.0
    for i, wheel in enumerate(control[WHEELS]):
        wheel[:9] = [0.0, 0.5, 0.0, 31.0 + i, 700.0, 10.0 * i, 2.5, 15.0, 987.0]
    world.vehicles.set_physics(car, control)
    found = world.vehicles.physics(car)
    assert [w[:9] for w in found[WHEELS]] == [w[:9] for w in control[WHEELS]]
    assert found[:15] == control[:15]
    # From no friction and no lock the way back is open.
    for wheel in control[WHEELS]:
        wheel[0], wheel[2] = 3.5, 70.0
    world.vehicles.set_physics(car, control)
    spec = world.fleet.specs[world.fleet.row(car)]
    assert spec.grip == pytest.approx(VEHICLES[spec.id].grip)
    assert spec.lock == pytest.approx(VEHICLES[spec.id].lock)


def test_a_control_that_does_not_stick_holds_for_one_tick(world: World) -> None:
    loose = world.spawn(CAR, {"sticky_control": "false"}, OPEN).id
    world.vehicles.apply_control(loose, 1.0, 0.0, 0.0)
    world.tick()
    row = world.fleet.row(loose)
    assert world.fleet.speed[row] > 0.0
    assert world.fleet.throttle[row] == 0.0


def test_nothing_slows_a_car_without_grip_and_air(world: World) -> None:
    car = world.spawn("vehicle.tesla.model3", {}, OPEN).id
    control = copy.deepcopy(world.vehicles.physics(car))
    control[12] = 0.0
    for wheel in control[WHEELS]:
        wheel[0] = 0.0
    world.vehicles.set_physics(car, control)
    world.bodies.set_target_velocity(car, (20.0, 0.0, 0.0))
    speeds = []
    for _ in range(20):
        world.tick()
        speeds.append(abs(float(world.fleet.speed[world.fleet.row(car)])))
    assert speeds == pytest.approx([speeds[0]] * 20, abs=1e-6)


@pytest.mark.parametrize("name", ["vehicle.tesla.model3", "vehicle.vespa.zx125"])
def test_physics_go_and_come_back(world: World, name: str) -> None:
    car = world.spawn(name, {}, OPEN).id
    before = copy.deepcopy(world.vehicles.physics(car))
    assert len(before) == 17
    assert len(before[WHEELS]) == 4
    world.vehicles.set_physics(car, before)
    assert world.vehicles.physics(car) == before
    spec = world.fleet.specs[world.fleet.row(car)]
    assert spec.grip == pytest.approx(VEHICLES[name].grip)
    assert spec.lock == pytest.approx(VEHICLES[name].lock)


def test_wheels_stand_at_the_corners(world: World) -> None:
    car = world.spawn(CAR, {}, OPEN._replace(yaw=90.0)).id
    spec = VEHICLES[CAR]
    places = np.array([wheel[9] for wheel in world.vehicles.physics(car)[WHEELS]]) / 100.0
    assert places[:, :2].mean(0) == pytest.approx(OPEN[:2])
    assert places[0, 1] - places[2, 1] == pytest.approx(spec.wheelbase)
    assert places[0, 0] - places[1, 0] == pytest.approx(spec.track)  # left is +x, facing +y
    assert places[:, 2] == pytest.approx(spec.wheel_radius)


def test_a_heavier_car_is_slower(world: World, car: int) -> None:
    light = run(world, car, 40, throttle=1.0)
    world.bodies.set_transform(car, OPEN)
    world.bodies.set_target_velocity(car, (0, 0, 0))
    control = world.vehicles.physics(car)
    control[MASS] *= 3
    world.vehicles.set_physics(car, control)
    assert run(world, car, 40, throttle=1.0) < 0.6 * light


def test_slick_tyres_brake_worse(world: World, car: int) -> None:
    def braking() -> float:
        world.bodies.set_target_velocity(car, (15.0, 0.0, 0.0))
        start = world.transform(car).x
        run(world, car, 150, brake=1.0)
        return world.transform(car).x - start

    dry = braking()
    control = world.vehicles.physics(car)
    for wheel in control[WHEELS]:
        wheel[0] *= 0.25
    world.vehicles.set_physics(car, control)
    assert braking() > 1.5 * dry


@pytest.mark.parametrize(
    ("index", "value"),
    [(MASS, -1.0), (MASS, math.nan), (0, []), (10, []), (13, [0.0]), (15, [[1.0]]), (1, "fast")],
)
def test_impossible_physics_change_nothing(
    world: World, car: int, index: int, value: object
) -> None:
    before = copy.deepcopy(world.vehicles.physics(car))
    wrong = copy.deepcopy(before)
    wrong[index] = value
    with pytest.raises(SimulationError):
        world.vehicles.set_physics(car, wrong)
    with pytest.raises(SimulationError):
        world.vehicles.set_physics(car, before[:5])
    assert world.vehicles.physics(car) == before


def test_ackermann_holds_a_speed_until_pedals_take_over(world: World, car: int) -> None:
    world.vehicles.apply_ackermann(car, 0.1, 0.0, 6.0, 2.0, 0.0)
    for _ in range(300):
        world.tick()
    assert world.fleet.speed[0] == pytest.approx(6.0, abs=0.5)
    assert world.transform(car).yaw != pytest.approx(0.0, abs=5)
    assert run(world, car, 100, brake=1.0) == pytest.approx(0.0, abs=0.01)


def test_ackermann_settings(world: World, car: int) -> None:
    assert world.vehicles.ackermann_settings(car) == (0.15, 0.0, 0.25, 0.01, 0.0, 0.01)
    world.vehicles.set_ackermann_settings(car, (1, 2, 3, 4, 5, 6))
    assert world.vehicles.ackermann_settings(car) == (1, 2, 3, 4, 5, 6)


def test_lamps(world: World, car: int) -> None:
    other = world.spawn(CAR, {}, OPEN.then(Transform(10.0))).id
    world.vehicles.set_light_state(car, LOW_BEAM | 0x20)
    assert world.vehicles.light_state(car) == LOW_BEAM | 0x20
    assert world.vehicles.light_states() == [(car, LOW_BEAM | 0x20), (other, 0)]
    lamps = world.scene().headlights
    assert len(lamps) == 1
    nose = VEHICLES[CAR].centre[0] + VEHICLES[CAR].half[0]
    assert lamps[0, :2] == pytest.approx((OPEN.x + nose, OPEN.y))
    world.vehicles.set_light_state(other, HIGH_BEAM)
    assert len(world.scene().headlights) == 2
    world.destroy(car)
    assert world.vehicles.light_states() == [(other, HIGH_BEAM)]


def test_wheels_turn_with_the_steering_or_as_they_are_told(world: World, car: int) -> None:
    run(world, car, 40, steer=0.5)
    angle = world.vehicles.wheel_steer_angle(car, 0)
    assert 10 < angle < 70
    assert world.vehicles.wheel_steer_angle(car, 2) == 0.0
    world.vehicles.set_wheel_steer(car, 0, -12.5)
    assert world.vehicles.wheel_steer_angle(car, 0) == -12.5


def test_telemetry(world: World, car: int) -> None:
    run(world, car, 40, throttle=0.8)
    speed, steer, throttle, brake, rpm, gear, drag, wheels = world.vehicles.telemetry(car)
    assert speed == pytest.approx(world.fleet.speed[0])
    assert (steer, throttle, brake, gear) == (0.0, 0.8, 0.0, 1)
    assert rpm > 500
    assert drag > 0
    assert len(wheels) == 4
    assert all(len(wheel) == 11 for wheel in wheels)
    assert sum(wheel[4] for wheel in wheels) == pytest.approx(VEHICLES[CAR].mass * 9.81)
    assert wheels[0][3] * VEHICLES[CAR].wheel_radius == pytest.approx(speed)
    assert 4 * wheels[0][7] == pytest.approx(VEHICLES[CAR].mass * world.fleet.ax[0], rel=1e-3)


def test_only_vehicles(world: World) -> None:
    for call in (world.vehicles.physics, world.vehicles.light_state, world.vehicles.telemetry):
        with pytest.raises(SimulationError, match="want a vehicle"):
            call(world.spectator.id)
