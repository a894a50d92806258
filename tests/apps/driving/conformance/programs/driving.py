"""How the default car, vehicle.tesla.model3, answers its controls."""

from __future__ import annotations

import itertools
import math
from typing import Any

import carla
import numpy as np
from harness import (
    CAR,
    DT,
    EMBEDDED,
    KMH,
    Session,
    ahead,
    close_to,
    embedded_only,
    main,
    speed,
    turn,
    vector,
)

Control = carla.VehicleControl


def seconds_to(s: Session, car: Any, kmh: float, ticks: int = 240) -> float:
    """Full throttle until that speed; the time, interpolated between the two frames around it."""
    car.apply_control(Control(throttle=1.0))
    before, wanted = speed(car), kmh * KMH
    for i in range(ticks):
        s.tick()
        now = speed(car)
        if now >= wanted:
            return DT * (i + (wanted - before) / (now - before))
        before = now
    raise AssertionError(f"{kmh} km/h not reached within {ticks * DT:.0f} s, only {now / KMH:.0f}")


def metres_to_stop(s: Session, car: Any, kmh: float = 50, ticks: int = 400) -> tuple[float, float]:
    """(m, s) from that speed, given to the car as it stands, at full brake until below 0.1 m/s."""
    place = vector(car.get_location())
    car.set_target_velocity(car.get_transform().get_forward_vector() * (kmh * KMH))
    car.apply_control(Control(brake=1.0))
    for i in range(ticks):
        s.tick()
        if speed(car) < 0.1:
            return float(np.linalg.norm(vector(car.get_location()) - place)), (i + 1) * DT
    raise AssertionError(
        f"it still rolls at {speed(car):.1f} m/s after {ticks * DT:.0f} s of brake"
    )


def check_acceleration(s: Session) -> dict[str, Any]:
    """0 to 50 km/h at full throttle, straight on."""
    car = s.car(s.straight(80))
    start = car.get_transform()
    seconds = seconds_to(s, car, 50)
    local = start.inverse_transform(car.get_location())
    assert 1.5 < seconds < 8, f"0 to 50 km/h in {seconds:.2f} s"
    assert abs(local.y) < 0.5, f"it drifted {local.y:.2f} m sideways without steering"
    assert 8 < local.x < 70
    return {"seconds_0_50": seconds, "metres_0_50": local.x}


def check_braking(s: Session) -> dict[str, Any]:
    """50 km/h to a stand at full brake, in a straight line, and it stays there."""
    car = s.car(s.straight(60))
    start = car.get_transform()
    distance, seconds = metres_to_stop(s, car)
    assert 7 < distance < 25, f"{distance:.1f} m from 50 km/h"
    assert abs(start.inverse_transform(car.get_location()).y) < 0.5
    s.tick(20)
    close_to(speed(car), 0, 0.05, "speed of a car that has braked")
    return {"metres_50_0": distance, "seconds": seconds}


def check_turning_circle(s: Session) -> dict[str, Any]:
    """Full lock to the right at 20 km/h in a junction: the path of the car's origin."""
    middle = s.open_square()
    car = s.car(settle=5)
    car.set_transform(
        carla.Transform(middle + carla.Location(y=-5.0, z=0.3), carla.Rotation(yaw=0))
    )
    s.tick(20)
    path, headings = [], []
    car.enable_constant_velocity(carla.Vector3D(20 * KMH, 0, 0))
    car.apply_control(Control(steer=1.0))
    s.tick(40)
    while len(path) < 200:
        s.tick()
        path.append(vector(car.get_location())[:2])
        headings.append(car.get_transform().rotation.yaw)
        if len(path) > 1 and abs(sum(map(turn, headings, headings[1:]))) > 360:
            break
    car.disable_constant_velocity()
    turned = sum(map(turn, headings, headings[1:]))
    assert turned > 300, f"steer=1 turned it {turned:.0f} degrees; right is positive"
    points = np.array(path)
    # x^2 + y^2 = 2 a x + 2 b y + c: the circle of least squares, relative to its first point.
    p = points - points[0]
    a, b, c = np.linalg.lstsq(np.column_stack([2 * p, np.ones(len(p))]), (p**2).sum(1), rcond=None)[
        0
    ]
    diameter = 2 * math.sqrt(c + a * a + b * b)
    assert 5 < diameter < 16, f"turning circle {diameter:.1f} m"
    return {"turning_circle_m": diameter}


def check_steering_sides(s: Session) -> dict[str, Any]:
    """Negative steer turns left, positive right, none straight on; wheels show it."""
    turned = {}
    for steer in (-0.3, 0.0, 0.3):
        car = s.car(s.straight(60))
        start = car.get_transform().rotation.yaw
        car.apply_control(Control(throttle=0.6, steer=steer))
        s.tick(40)
        turned[steer] = turn(start, car.get_transform().rotation.yaw)
        angle = car.get_wheel_steer_angle(carla.VehicleWheelLocation.FL_Wheel)
        assert angle * steer > 0 or (steer == 0 and abs(angle) < 1), (steer, angle)
        assert car.destroy()
        s.tick()
    assert turned[-0.3] < -5
    assert turned[0.3] > 5
    close_to(turned[0.0], 0, 1.0, "turn without steering")
    close_to(turned[0.3], -turned[-0.3], 0.1 * abs(turned[0.3]) + 1, "turn to the other side")
    return {str(k): v for k, v in turned.items()}


def check_reverse(s: Session) -> dict[str, Any]:
    car = s.car(s.straight(40))
    start = car.get_transform()
    car.apply_control(Control(throttle=0.5, reverse=True))
    s.tick(60)
    local = start.inverse_transform(car.get_location())
    assert local.x < -1.0, f"it moved {local.x:.2f} m ahead in reverse"
    assert car.get_control().reverse
    return {"metres": local.x}


def check_hand_brake(s: Session) -> dict[str, Any]:
    """It stops a rolling car, much sooner than rolling out does."""
    place = s.straight(100)
    left = {}
    for hand_brake in (False, True):
        car = s.car(place)
        seconds_to(s, car, 30)
        car.apply_control(Control(hand_brake=hand_brake))
        before = speed(car)
        s.tick(20)
        left[hand_brake] = speed(car) / before
        assert car.destroy()
        s.tick()
    assert left[True] < left[False] - 0.15, left
    assert left[False] > 0.5, "a car rolls on without its pedals"
    return {"speed_left_after_1_s": left[True], "rolling": left[False]}


def check_throttle_levels(s: Session) -> dict[str, Any]:
    """More throttle, more speed after three seconds."""
    place = s.straight(80)
    reached = []
    for throttle in (0.3, 0.6, 1.0):
        car = s.car(place)
        car.apply_control(Control(throttle=throttle))
        s.tick(60)
        reached.append(speed(car))
        assert car.destroy()
        s.tick()
    assert reached == sorted(reached)
    assert reached[0] < 0.9 * reached[-1]
    return {"metres_per_second": reached}


def check_control_comes_back(s: Session) -> dict[str, Any]:
    car = s.car()
    wanted = Control(throttle=0.25, steer=-0.5, brake=0.125, hand_brake=True, reverse=False)
    car.apply_control(wanted)
    s.tick(2)
    found = car.get_control()
    close_to([found.throttle, found.steer, found.brake], [0.25, -0.5, 0.125], 1e-6, "control")
    assert found.hand_brake
    assert not found.reverse
    return {}


def check_gears(s: Session) -> dict[str, Any]:
    """An automatic box of several gears starts in first and changes up; a manual one obeys."""
    place = s.straight(150)
    car = s.spawn("vehicle.lincoln.mkz_2020", place)
    s.tick(20)
    number = len(car.get_physics_control().forward_gears)
    car.apply_control(Control(throttle=1.0))
    gears = []
    for _ in range(110):
        s.tick()
        gears.append(car.get_control().gear)
    assert gears[10] == 1, f"gear {gears[10]} half a second after the start"
    changes = [g for g in gears if g > 0]  # 0 while it changes
    assert changes == sorted(changes), "it changed down while accelerating"
    if number > 1:
        assert max(gears) >= 2
        car.set_transform(place)
        car.set_target_velocity(carla.Vector3D())
        car.apply_control(Control(throttle=0.3, manual_gear_shift=True, gear=2))
        s.tick(20)
        assert car.get_control().manual_gear_shift
        assert car.get_control().gear == 2
    return {"gears": number, "highest": max(gears)}


def check_velocity_is_motion(s: Session) -> dict[str, Any]:
    """Velocity is the change of place, acceleration the change of velocity, also in a bend."""
    car = s.car(s.straight(60))
    car.apply_control(Control(throttle=0.6, steer=0.1))
    s.tick(30)
    poses, velocities, rates = [], [], []
    for _ in range(10):
        s.tick()
        poses.append(car.get_transform())
        velocities.append(vector(car.get_velocity()))
        rates.append(car.get_angular_velocity().z)
    places = np.array([vector(p.location) for p in poses])
    moved = np.diff(places, axis=0)[:, :2] / DT
    mean = (np.array(velocities)[1:] + np.array(velocities)[:-1])[:, :2] / 2
    scale = np.linalg.norm(mean, axis=1).max()
    close_to(moved, mean, 0.05 * scale + 0.05, "change of place per second")
    yaws = [turn(a.rotation.yaw, b.rotation.yaw) / DT for a, b in itertools.pairwise(poses)]
    close_to(np.mean(rates), np.mean(yaws), 0.15 * abs(np.mean(yaws)) + 0.5, "degrees per second")
    return {"metres_per_second": scale, "degrees_per_second": float(np.mean(rates))}


def check_acceleration_is_change_of_velocity(s: Session) -> dict[str, Any]:
    car = s.car(s.straight(80))
    car.apply_control(Control(throttle=1.0))
    s.tick(20)
    first = vector(car.get_velocity())
    felt = []
    for _ in range(10):
        s.tick()
        felt.append(vector(car.get_acceleration()))
    wanted = (vector(car.get_velocity()) - first) / (10 * DT)
    size = float(np.linalg.norm(wanted))
    close_to(np.mean(felt, axis=0)[:2], wanted[:2], 0.25 * size + 0.2, "mean acceleration")
    return {"metres_per_second_squared": size}


def check_physics_control(s: Session) -> dict[str, Any]:
    """What is set is what is read; a heavier car accelerates more slowly."""
    place = s.straight(80)
    car = s.car(place)
    physics = car.get_physics_control()
    assert 1000 < physics.mass < 3000
    assert len(physics.wheels) == 4
    assert len(physics.torque_curve) >= 2
    assert len(physics.steering_curve) >= 2
    assert physics.max_rpm > 1000
    front = [w.max_steer_angle for w in physics.wheels]
    assert front[0] > 20
    assert front[1] > 20
    assert front[2] < 5
    mass = physics.mass
    normal = seconds_to(s, car, 30)
    assert car.destroy()
    s.tick()
    car = s.car(place)
    physics.mass = 2 * mass
    physics.drag_coefficient = 0.5
    wheels = physics.wheels
    for wheel in wheels:
        wheel.tire_friction = 2.5
        wheel.max_brake_torque = 900.0
    physics.wheels = wheels
    car.apply_physics_control(physics)
    s.tick(5)
    found = car.get_physics_control()
    close_to(found.mass, 2 * mass, 0.5, "mass")
    close_to(found.drag_coefficient, 0.5, 1e-3, "drag_coefficient")
    close_to([w.tire_friction for w in found.wheels], [2.5] * 4, 1e-3, "tire_friction")
    close_to([w.max_brake_torque for w in found.wheels], [900] * 4, 0.5, "max_brake_torque")
    heavy = seconds_to(s, car, 30)
    # Where the tyres' grip limits both, CARLA's engine does not notice the mass.
    assert heavy > (1.3 if EMBEDDED else 0.95) * normal, (
        f"twice the mass: {heavy:.2f} s instead of {normal:.2f}"
    )
    return {"mass_kg": mass, "seconds_0_30": normal, "seconds_0_30_twice_the_mass": heavy}


def fields(found: Any) -> dict[str, Any]:
    """Every number of a physics control, by name."""
    rows: dict[str, Any] = {}
    for name in dir(found):
        value = None if name.startswith("_") else getattr(found, name)
        if isinstance(value, bool | int | float):
            rows[name] = float(value)
        elif name in ("torque_curve", "steering_curve"):
            rows[name] = [c for point in value for c in (point.x, point.y)]
        elif name == "center_of_mass":
            rows[name] = vector(value).tolist()
        elif name == "forward_gears":
            rows[name] = [c for g in value for c in (g.ratio, g.down_ratio, g.up_ratio)]
    return rows


def check_physics_is_kept(s: Session) -> dict[str, Any]:
    """Every field of the physics control and of its wheels comes back as it was set."""
    compared = 0
    for name in (CAR, "vehicle.lincoln.mkz_2020", "vehicle.bh.crossbike"):
        car = s.spawn(name, s.straight(40))
        s.tick(2)
        wanted = car.get_physics_control()
        assert len(wanted.wheels) >= 4, f"{name}: CARLA gives four wheels to bicycles, too"
        wanted.mass *= 1.1
        wanted.moi *= 1.2
        wanted.drag_coefficient = 0.77
        wanted.gear_switch_time = 0.33
        wanted.damping_rate_full_throttle *= 1.5
        wanted.max_rpm *= 0.9
        wanted.final_ratio *= 1.1
        wanted.center_of_mass = wanted.center_of_mass + carla.Vector3D(0.1, 0.0, -0.1)
        wanted.use_sweep_wheel_collision = True
        wheels = wanted.wheels
        for i, wheel in enumerate(wheels):
            wheel.tire_friction = 2.0 + i
            wheel.damping_rate = 0.3
            wheel.max_brake_torque = 777.0
            wheel.max_handbrake_torque = 1234.0
            wheel.long_stiff_value = 987.0
            wheel.lat_stiff_value = 15.0
            wheel.lat_stiff_max_load = 2.5
        wanted.wheels = wheels
        car.apply_physics_control(wanted)
        s.tick(2)
        found = car.get_physics_control()
        pairs = [("", fields(wanted), fields(found))]
        for i, (a, b) in enumerate(zip(wanted.wheels, found.wheels, strict=True)):
            pairs.append((f"wheel {i} ", fields(a), fields(b)))
        wrong = []
        for where, set_to, read in pairs:
            for key, value in set_to.items():
                compared += 1
                if not np.allclose(value, read[key], rtol=1e-4, atol=1e-3):
                    wrong.append(f"{where}{key}: set {value}, read {read[key]}")
        assert not wrong, f"{name}: {'; '.join(wrong[:5])}"
        assert car.destroy()
        s.tick()
    return {"compared": compared}


def check_sticky_control(s: Session) -> dict[str, Any]:
    """With sticky_control off a control holds for one tick, with it on until the next."""
    place, reached = s.straight(80), {}
    for sticky in ("true", "false"):
        car = s.spawn(CAR, place, sticky_control=sticky)
        s.tick(20)
        car.apply_control(Control(throttle=1.0))
        s.tick(40)
        reached[sticky] = speed(car)
        assert car.destroy()
        s.tick()
    assert reached["true"] > 5
    assert reached["false"] < 0.3 * reached["true"], reached
    return reached


def check_without_friction(s: Session) -> dict[str, Any]:
    """On tyres without grip, without air, 100 km/h stay 100 km/h."""
    car = s.car(s.straight(120))
    physics = car.get_physics_control()
    physics.drag_coefficient = 0.0
    wheels = physics.wheels
    for wheel in wheels:
        wheel.tire_friction = 0.0
    physics.wheels = wheels
    car.apply_physics_control(physics)
    car.apply_control(Control())
    s.tick(2)
    car.set_target_velocity(car.get_transform().get_forward_vector() * (100 * KMH))
    s.tick()
    close_to(speed(car), 100 * KMH, 0.02, "speed after one frame")
    s.tick(60)
    close_to(speed(car), 100 * KMH, 0.1, "speed after 3 s")
    return {"metres_per_second": speed(car)}


def check_constant_velocity(s: Session) -> dict[str, Any]:
    car = s.car(s.straight(80))
    start = car.get_transform()
    car.enable_constant_velocity(carla.Vector3D(6, 0, 0))
    s.tick(20)
    before = vector(car.get_location())
    s.tick(20)
    moved = float(np.linalg.norm(vector(car.get_location()) - before))
    close_to(moved, 6.0, 0.4, "metres in a second at 6 m/s")
    assert abs(start.inverse_transform(car.get_location()).y) < 0.5
    car.disable_constant_velocity()
    car.apply_control(Control(brake=1.0))
    s.tick(60)
    close_to(speed(car), 0, 0.1, "speed after braking")
    return {"metres_in_1_s": moved}


def check_target_velocity(s: Session) -> dict[str, Any]:
    """A velocity given once: the car has it, then rolls."""
    car = s.car(s.straight(80))
    car.apply_control(Control())
    forward = car.get_transform().get_forward_vector()
    car.set_target_velocity(forward * 10)
    s.tick()
    close_to(speed(car), 10, 1.5, "speed")
    s.tick(10)
    assert 5 < speed(car) < 10.5
    return {"after_half_a_second": speed(car)}


def check_impulse_and_force(s: Session) -> dict[str, Any]:
    """An impulse of mass times 3 m/s along the car gives about 3 m/s; a force acts for one step."""
    car = s.car(s.straight(80))
    car.apply_control(Control())
    s.tick(5)
    mass = car.get_physics_control().mass
    forward = car.get_transform().get_forward_vector()
    car.add_impulse(forward * (3 * mass))
    s.tick(2)
    after_impulse = speed(car)
    assert 1.5 < after_impulse < 4.0, f"{after_impulse:.2f} m/s"
    for _ in range(20):
        car.add_force(forward * (4 * mass))
        s.tick()
    gained = speed(car) - after_impulse
    assert 1.0 < gained < 5.5, f"{gained:.2f} m/s gained in 1 s at 4 m/s^2"
    return {"metres_per_second": after_impulse, "gained": gained}


def check_torque(s: Session) -> dict[str, Any]:
    """An angular velocity, an angular impulse and a torque about z each turn the car to the right."""
    turned = {}
    for name in ("velocity", "impulse", "torque"):
        car = s.car(s.straight(60))
        car.apply_control(Control())
        start = car.get_transform().rotation.yaw
        inertia = car.get_physics_control().mass * 2.0  # kg m^2, about (length^2 + width^2) / 12
        for _ in range(10):
            if name == "velocity":
                car.set_target_angular_velocity(carla.Vector3D(0, 0, 60))
            elif name == "torque":
                car.add_torque(carla.Vector3D(0, 0, 20 * inertia))
            else:
                car.add_angular_impulse(carla.Vector3D(0, 0, 1 * inertia))
            s.tick()
        turned[name] = turn(start, car.get_transform().rotation.yaw)
        assert car.destroy()
        s.tick()
    assert all(angle >= 0 for angle in turned.values()), turned
    assert turned["velocity"] > 3, turned
    return turned


def check_lights_of_the_car(s: Session) -> dict[str, Any]:
    car = s.car()
    state = carla.VehicleLightState
    wanted = state.Position | state.LowBeam | state.LeftBlinker
    car.set_light_state(carla.VehicleLightState(wanted))
    s.tick(2)
    assert int(car.get_light_state()) == int(wanted)
    everyone = s.world.get_vehicles_light_states()
    assert int(everyone[car.id]) == int(wanted)
    car.set_light_state(state.NONE)
    s.tick(2)
    assert int(car.get_light_state()) == 0
    return {"state": int(wanted)}


def check_ackermann(s: Session) -> dict[str, Any]:
    """The controller by speed reaches that speed and holds it."""
    car = s.car(s.straight(150))
    settings = car.get_ackermann_controller_settings()
    settings.speed_kp = settings.speed_kp * 1.5
    car.apply_ackermann_controller_settings(settings)
    s.tick()
    found = car.get_ackermann_controller_settings()
    close_to(found.speed_kp, settings.speed_kp, 1e-4, "speed_kp")
    for _ in range(160):
        car.apply_ackermann_control(carla.VehicleAckermannControl(speed=8.0, acceleration=3.0))
        s.tick()
    close_to(speed(car), 8, 2.0, "speed")
    return {"metres_per_second": speed(car)}


def check_speed_limit(s: Session) -> dict[str, Any]:
    car = s.car(s.straight(60))
    s.tick(5)
    limit = car.get_speed_limit()
    assert 10 <= limit <= 150, f"{limit} km/h"
    return {"kmh": limit}


def check_doors_and_failures(s: Session) -> dict[str, Any]:
    """Calls that change only the looks are accepted."""
    car = s.car()
    car.open_door(carla.VehicleDoor.All)
    s.tick(2)
    car.close_door(carla.VehicleDoor.All)
    car.show_debug_telemetry(False)
    car.set_enable_gravity(True)
    car.set_collisions(True)
    car.set_wheel_steer_direction(carla.VehicleWheelLocation.FL_Wheel, 0.0)
    s.tick(2)
    assert car.get_failure_state() == carla.VehicleFailureState.NONE
    return {}


def check_telemetry(s: Session) -> dict[str, Any]:
    """Telemetry agrees with the car's state."""
    car = s.car(s.straight(60))
    car.apply_control(Control(throttle=0.8))
    s.tick(40)
    found = car.get_telemetry_data()
    close_to(found.speed, speed(car), 0.3, "speed")
    close_to(found.throttle, 0.8, 0.05, "throttle")
    assert found.gear >= 1
    assert len(found.wheels) == 4
    return {"rpm": found.engine_rpm}


def check_friction_follows_weather(s: Session) -> dict[str, Any]:
    """A soaked road lengthens the braking distance."""
    embedded_only("CARLA's tyres do not know the weather")
    place, distances = s.straight(80), {}
    soaked = carla.WeatherParameters(
        precipitation=100.0, precipitation_deposits=100.0, wetness=100.0, sun_altitude_angle=45.0
    )
    for name, weather in (("dry", carla.WeatherParameters.ClearNoon), ("soaked", soaked)):
        s.world.set_weather(weather)
        car = s.car(place)
        distances[name], _ = metres_to_stop(s, car)
        assert car.destroy()
        s.tick()
    assert distances["soaked"] > 1.2 * distances["dry"], distances
    return {"metres_dry": distances["dry"], "metres_soaked": distances["soaked"]}


def check_step_size_changes_little(s: Session) -> dict[str, Any]:
    """The same second of driving at 0.05 and 0.02 s: the same place within 5 %."""
    place, moved = s.straight(80), {}
    for dt in (0.05, 0.02):
        s.synchronous(dt)
        car = s.car(place, settle=round(1 / dt))
        before = vector(car.get_location())
        car.apply_control(Control(throttle=0.8))
        s.tick(round(3 / dt))
        moved[dt] = float(np.linalg.norm(vector(car.get_location()) - before))
        assert car.destroy()
        s.tick()
    close_to(moved[0.02], moved[0.05], 0.05 * moved[0.05] + 0.3, "metres in 3 s")
    return {str(k): v for k, v in moved.items()}


def check_two_wheels_and_trucks(s: Session) -> dict[str, Any]:
    """Other vehicles drive too: a bicycle, a motorcycle, a truck."""
    place, reached = s.straight(80), {}
    for name in (
        "vehicle.bh.crossbike",
        "vehicle.harley-davidson.low_rider",
        "vehicle.carlamotors.carlacola",
    ):
        car = s.spawn(name, ahead(place, 0))
        s.tick(20)
        car.apply_control(Control(throttle=1.0))
        s.tick(60)
        reached[name] = speed(car)
        assert 1 < reached[name] < 45, f"{name}: {reached[name]:.1f} m/s after 3 s"
        assert car.destroy()
        s.tick()
    return reached


if __name__ == "__main__":
    main(globals())
