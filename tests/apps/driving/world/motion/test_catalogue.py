"""The catalogue against what CARLA 0.9.16 documents of it."""

from __future__ import annotations

import carla
import pytest

from apps.driving.world.motion.catalogue import DEFAULT, VEHICLES, WALKERS
from apps.driving.world.tags import Tag

# The boxes of a CARLA server, full length, width, height (Scenic's blueprint data, "0.9.15").
SIZES = {
    "vehicle.tesla.model3": (4.79178, 2.16345, 1.48766),
    "vehicle.lincoln.mkz_2020": (4.89238, 1.83671, 1.49028),
    "vehicle.carlamotors.firetruck": (8.46804, 2.89109, 3.82741),
    "vehicle.gazelle.omafiets": (1.84344, 0.65904, 1.77583),
}


def test_counts_are_those_of_the_documentation() -> None:
    count: dict[str, int] = {}
    for spec in VEHICLES.values():
        count[spec.base_type] = count.get(spec.base_type, 0) + 1
    assert count == {"car": 25, "truck": 4, "van": 4, "bus": 1, "motorcycle": 4, "bicycle": 3}
    assert list(WALKERS) == [f"walker.pedestrian.{i:04d}" for i in range(1, 53)]
    assert DEFAULT.id == "vehicle.tesla.model3"


@pytest.mark.parametrize("name", SIZES)
def test_boxes_are_carlas(name: str) -> None:
    assert tuple(2 * h for h in VEHICLES[name].half) == pytest.approx(SIZES[name], abs=2e-4)


@pytest.mark.parametrize("name", VEHICLES)
def test_every_vehicle_is_of_one_piece(name: str) -> None:
    spec = VEHICLES[name]
    assert spec.id == name
    assert spec.wheels == (2 if spec.base_type in ("motorcycle", "bicycle") else 4)
    assert spec.wheelbase < 2 * spec.half[0]
    assert spec.track < 2 * spec.half[1]
    assert abs(spec.centre[2] - spec.half[2]) < 0.16  # on the ground, mirrors and all
    assert spec.colours
    assert all(0 <= c <= 255 for colour in spec.colours for c in colour)
    assert spec.tag in (Tag.CAR, Tag.TRUCK, Tag.BUS, Tag.MOTORCYCLE, Tag.BICYCLE)


def test_defaults_are_those_that_the_client_prints() -> None:
    spec, wheel = VEHICLES["vehicle.lincoln.mkz_2020"], carla.WheelPhysicsControl()
    physics = carla.VehiclePhysicsControl()
    assert [(p.x, p.y) for p in physics.torque_curve] == list(spec.torque_curve)
    assert physics.max_rpm == spec.max_rpm
    assert physics.moi == spec.moi
    assert physics.final_ratio == spec.final_ratio
    assert physics.clutch_strength == spec.clutch_strength
    assert physics.damping_rate_full_throttle == pytest.approx(spec.damping_full)
    assert physics.damping_rate_zero_throttle_clutch_engaged == spec.damping_engaged
    assert physics.damping_rate_zero_throttle_clutch_disengaged == pytest.approx(spec.damping_free)
    assert wheel.max_brake_torque == DEFAULT.brake_torque
    assert wheel.max_handbrake_torque == DEFAULT.hand_brake_torque
    assert wheel.max_steer_angle == DEFAULT.max_steer
    assert wheel.damping_rate == DEFAULT.wheel_damping


def test_children_are_small() -> None:
    assert {w.age for w in WALKERS.values()} == {"adult", "child"}
    for walker in WALKERS.values():
        assert (walker.half[2] < 0.7) == (walker.age == "child")
