"""Many commands in one message."""

from __future__ import annotations

from typing import Any

import carla
import numpy as np
from harness import CAR, DT, Session, ahead, close_to, main, speed, vector

command = carla.command
STRANGER = 4_000_000
"""An id that no actor has."""


def check_spawn_then(s: Session) -> dict[str, Any]:
    """Spawn with what follows done to the new actor; the answers are in order."""
    points = s.map.get_spawn_points()[:5]
    blueprint = s.library.find(CAR)
    control = carla.VehicleControl(throttle=0.7)
    batch = [
        command.SpawnActor(blueprint, p).then(
            command.ApplyVehicleControl(command.FutureActor, control)
        )
        for p in points
    ]
    answers = s.client.apply_batch_sync(batch, True)
    assert [a.has_error() for a in answers] == [False] * 5, [a.error for a in answers]
    s.tick(30)
    for answer, point in zip(answers, points, strict=True):
        car = s.world.get_actor(answer.actor_id)
        assert car.get_location().distance(point.location) < 25
        assert speed(car) > 0.5, "the control given with the spawn was not applied"
    return {"actors": len(answers)}


def check_errors_in_order(s: Session) -> dict[str, Any]:
    """What fails says so in its place; the rest is done."""
    points = s.map.get_spawn_points()
    blueprint = s.library.find(CAR)
    batch = [
        command.SpawnActor(blueprint, points[0]),
        command.SpawnActor(blueprint, points[0]),
        command.SpawnActor(blueprint, points[2]),
        command.DestroyActor(STRANGER),
        command.ApplyVehicleControl(STRANGER, carla.VehicleControl()),
    ]
    answers = s.client.apply_batch_sync(batch, True)
    assert [a.has_error() for a in answers] == [False, True, False, True, True]
    assert "collision" in answers[1].error.lower(), answers[1].error
    assert len(s.world.get_actors().filter("vehicle.*")) == 2
    return {"errors": [a.error for a in answers if a.has_error()]}


def check_tick_in_batch(s: Session) -> dict[str, Any]:
    """do_tick advances the world by one frame, and the client has seen it."""
    car = s.car()
    before = s.tick()
    s.client.apply_batch_sync([command.ApplyVehicleControl(car, carla.VehicleControl())], True)
    assert s.world.get_snapshot().frame == before + 1
    s.client.apply_batch_sync([command.ApplyVehicleControl(car, carla.VehicleControl())], False)
    assert s.tick() == before + 2
    s.client.apply_batch_sync([], True)
    assert s.tick() == before + 4
    return {}


def check_without_answer(s: Session) -> dict[str, Any]:
    """apply_batch does not wait, but is done before the next call."""
    car = s.car(s.straight(40))
    s.client.apply_batch([command.ApplyVehicleControl(car, carla.VehicleControl(throttle=0.9))])
    s.tick(20)
    assert speed(car) > 0.5
    close_to(car.get_control().throttle, 0.9, 1e-3, "throttle")
    return {"metres_per_second": speed(car)}


def one(s: Session, *commands: Any) -> None:
    for answer in s.client.apply_batch_sync(list(commands), True):
        assert not answer.has_error(), answer.error


def check_vehicle_commands(s: Session) -> dict[str, Any]:
    """Every command for vehicles, by its effect."""
    place = s.straight(90)
    car = s.car(place)
    forward = place.get_forward_vector()
    mass = car.get_physics_control().mass
    one(s, command.ApplyVehicleControl(car, carla.VehicleControl()))
    one(s, command.ApplyTargetVelocity(car, forward * 6))
    close_to(speed(car), 6, 1.2, "speed after ApplyTargetVelocity")
    one(s, command.ApplyImpulse(car, forward * (2 * mass)))
    s.tick()
    assert speed(car) > 6.3, "ApplyImpulse"
    before = speed(car)
    for _ in range(10):
        one(s, command.ApplyForce(car, forward * (6 * mass)))
    gained = speed(car) - before
    assert 1 < gained < 4, f"ApplyForce of 6 m/s^2 for half a second gave {gained:.2f} m/s"
    there = ahead(place, 10)
    one(s, command.ApplyTransform(car, there), command.ApplyTargetVelocity(car, carla.Vector3D()))
    assert car.get_location().distance(there.location) < 1.0, "ApplyTransform"
    one(s, command.ApplyTargetAngularVelocity(car, carla.Vector3D(0, 0, 30)))
    one(s, command.ApplyTorque(car, carla.Vector3D(0, 0, 1000)))
    one(s, command.ApplyAngularImpulse(car, carla.Vector3D(0, 0, 10)))
    lights = carla.VehicleLightState(carla.VehicleLightState.Position)
    one(s, command.SetVehicleLightState(car, lights))
    s.tick()
    assert int(car.get_light_state()) == int(lights)
    physics = car.get_physics_control()
    physics.mass = 2222.0
    one(s, command.ApplyVehiclePhysicsControl(car, physics))
    s.tick()
    close_to(car.get_physics_control().mass, 2222, 0.5, "mass")
    one(s, command.ApplyVehicleAckermannControl(car, carla.VehicleAckermannControl(speed=3.0)))
    one(s, command.SetEnableGravity(car, True))
    one(s, command.SetSimulatePhysics(car, False))
    held = vector(car.get_location())
    one(s, command.ApplyVehicleControl(car, carla.VehicleControl(throttle=1.0)))
    s.tick(10)
    close_to(vector(car.get_location()), held, 0.05, "place of a car without physics")
    one(s, command.DestroyActor(car))
    assert car.id not in s.present()
    return {}


def check_walker_commands(s: Session) -> dict[str, Any]:
    place = ahead(s.straight(40), 0, z=0.8)
    walker = s.spawn("walker.pedestrian.0002", place)
    s.tick(20)
    start = walker.get_location()
    forward = place.get_forward_vector()
    one(s, command.ApplyWalkerControl(walker, carla.WalkerControl(forward, 2.0, False)))
    s.tick(40)
    assert walker.get_location().distance(start) > 2, "ApplyWalkerControl"
    one(s, command.ApplyWalkerControl(walker, carla.WalkerControl(forward, 0.0, False)))
    there = ahead(place, 8)
    there.location.z = walker.get_location().z
    one(s, command.ApplyWalkerState(walker, there, 0.0))
    assert np.linalg.norm((vector(walker.get_location()) - vector(there.location))[:2]) < 0.5
    return {}


def check_mounted(s: Session) -> dict[str, Any]:
    """Sensors spawned on an actor by a batch ride on it."""
    car = s.car(s.straight(40))
    blueprint = s.library.find("sensor.other.gnss")
    mount = carla.Transform(carla.Location(x=1, z=2))
    answers = s.client.apply_batch_sync([command.SpawnActor(blueprint, mount, car)] * 3, True)
    assert not any(a.has_error() for a in answers)
    sensors = s.world.get_actors([a.actor_id for a in answers])
    assert {x.parent.id for x in sensors} == {car.id}
    wanted = car.get_transform().transform(carla.Location(x=1, z=2))
    close_to(vector(sensors[0].get_location()), vector(wanted), 0.05, "place")
    return {"dt": DT}


if __name__ == "__main__":
    main(globals())
