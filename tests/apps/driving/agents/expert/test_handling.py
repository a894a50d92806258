"""Pedals and wheel for a car whose physics are known, and for one that differs from what it says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from apps.driving.agents.expert.handling import HOLD, Handling

MASS, RADIUS, RATIO, TORQUE, BRAKE = 1800.0, 0.35, 9.0, 700.0, 1500.0


def vector(x: float, y: float) -> Any:
    return SimpleNamespace(x=x, y=y)


def car(base: float = 2.875) -> Any:
    """A stand-in for carla.Vehicle with one gear and 0.35 m wheels; wheel positions in cm."""
    wheels = [
        SimpleNamespace(
            radius=100 * RADIUS, max_steer_angle=lock, max_brake_torque=BRAKE,
            position=vector(100 * x, 100 * y),
        )
        for x, y, lock in [(base, -0.8, 70.0), (base, 0.8, 70.0), (0, -0.8, 0.0), (0, 0.8, 0.0)]
    ]  # fmt: skip
    physics = SimpleNamespace(
        wheels=wheels,
        steering_curve=[vector(0, 1.0), vector(120, 0.7)],
        torque_curve=[vector(0, TORQUE), vector(15000, TORQUE)],
        forward_gears=[SimpleNamespace(ratio=1.0)],
        final_ratio=RATIO, clutch_strength=10.0, mass=MASS, moi=1.0, drag_coefficient=0.3,
        damping_rate_zero_throttle_clutch_engaged=2.0, damping_rate_full_throttle=0.15,
    )  # fmt: skip
    box = SimpleNamespace(extent=SimpleNamespace(x=2.4, y=1.0, z=0.7))
    return SimpleNamespace(get_physics_control=lambda: physics, bounding_box=box)


def plant(throttle: float, brake: float, speed: float, strength: float = 1.0) -> float:
    """Acceleration of such a car; ``strength`` of its engine and brakes against what is said."""
    pull = RATIO / RADIUS
    idle = 2.0 * 10 / 12 * pull * pull * speed * (1 - throttle) * (brake == 0)
    force = strength * (throttle * TORQUE * pull - brake * 4 * BRAKE / RADIUS) - idle
    return force / MASS


def settle(wanted: float, speed: float, strength: float, dt: float = 0.1) -> float:
    """The acceleration after 4 s of wanting one, the speed kept near its start."""
    handling = Handling(car())
    now = speed
    rate = 0.0
    for _ in range(round(4 / dt)):
        throttle, brake = handling.pedals(wanted, now, 1, dt)
        rate = plant(throttle, brake, now, strength)
        now += rate * dt
    return rate


@pytest.mark.parametrize(("wanted", "speed"), [(2.0, 3.0), (0.0, 8.0), (-1.5, 12.0), (-3.0, 20.0)])
def test_the_wanted_acceleration(wanted: float, speed: float) -> None:
    assert settle(wanted, speed, 1.0) == pytest.approx(wanted, abs=0.35)


@pytest.mark.parametrize("strength", [0.7, 1.3])
def test_a_car_that_is_not_as_it_says(strength: float) -> None:
    """The integral makes up for most of what the model gets wrong."""
    assert settle(1.5, 3.0, strength) == pytest.approx(1.5, abs=0.3)


def test_one_pedal_at_a_time_and_within_bounds() -> None:
    handling = Handling(car())
    for wanted in (-30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0):
        for speed in (0.0, 0.3, 5.0, 30.0):
            throttle, brake = handling.pedals(wanted, speed, 1, 0.1)
            assert 0.0 <= throttle <= 1.0
            assert 0.0 <= brake <= 1.0
            assert throttle * brake == 0.0


def test_it_is_held_where_it_stands() -> None:
    assert Handling(car()).pedals(-0.5, 0.02, 1, 0.1) == (0.0, HOLD)
    throttle, _ = Handling(car()).pedals(1.0, 0.0, 1, 0.1)
    assert throttle > 0.05


def test_the_wheel_follows_the_curvature() -> None:
    handling = Handling(car())
    assert handling.base == pytest.approx(2.875)
    right = handling.wheel(0.1, 5.0, 0.0, 0.0, 0.1)
    assert right == pytest.approx(0.1 / 0.324, rel=0.15)
    assert Handling(car()).wheel(-0.1, 5.0, 0.0, 0.0, 0.1) == -right
    assert Handling(car()).wheel(5.0, 5.0, 0.0, 0.0, 0.1) == 1.0
    assert Handling(car(base=4.0)).wheel(0.1, 5.0, 0.0, 0.0, 0.1) > right


def test_a_car_that_turns_less_is_steered_more() -> None:
    handling = Handling(car())
    first = steer = handling.wheel(0.1, 5.0, 0.0, 0.0, 0.1)
    for _ in range(60):
        steer = handling.wheel(0.1, 5.0, 0.7 * 0.324 * 0.96 * steer * 5.0, steer, 0.1)
    assert steer / first == pytest.approx(1 / 0.7, rel=0.15)


def test_a_hand_on_the_wheel_teaches_nothing_wrong() -> None:
    """Another steers to the left meanwhile, and the car does as it is told."""
    handling = Handling(car())
    first = handling.wheel(0.1, 5.0, 0.0, 0.0, 0.1)
    for _ in range(60):
        last = handling.wheel(0.1, 5.0, -0.3 * 0.324 * 0.93 * 5.0, -0.3, 0.1)
    assert last == pytest.approx(first, rel=0.1)


def test_a_car_that_tells_nothing_of_itself() -> None:
    """Empty curves and no wheels' positions: defaults, no error."""
    bare = car()
    physics = bare.get_physics_control()
    physics.steering_curve = physics.torque_curve = []
    physics.forward_gears = []
    for wheel in physics.wheels:
        wheel.position = vector(0.0, 0.0)
    handling = Handling(bare)
    assert 2.0 < handling.base < 4.0
    assert 0.0 < handling.pedals(2.0, 5.0, 1, 0.1)[0] < 1.0
