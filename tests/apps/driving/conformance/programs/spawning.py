"""Actors appear where they are put, ride on each other, and go."""

from __future__ import annotations

import time
from typing import Any

import carla
import numpy as np
from harness import (
    CAR,
    EMBEDDED,
    Session,
    ahead,
    close_to,
    main,
    raises,
    speed,
    turn,
    vector,
)


def check_spawn_and_destroy(s: Session) -> dict[str, Any]:
    place = s.map.get_spawn_points()[0]
    car = s.spawn(CAR, place, role_name="hero")
    assert car.parent is None
    assert car.type_id == CAR
    frame = s.tick()
    assert car.is_alive
    assert s.world.get_snapshot().frame == frame
    pose = car.get_transform()
    close_to([pose.location.x, pose.location.y], [place.location.x, place.location.y], 0.1, "place")
    close_to(turn(place.rotation.yaw, pose.rotation.yaw), 0, 1, "heading")
    assert [a.id for a in s.world.get_actors().filter("vehicle.*")] == [car.id]
    assert s.world.get_actors().find(car.id).id == car.id
    assert s.world.get_actor(car.id).id == car.id
    assert int(carla.CityObjectLabel.Car) in car.semantic_tags
    half = car.bounding_box.extent
    close_to(vector(half), [2.396, 1.082, 0.744], 0.12, "half extents of vehicle.tesla.model3")
    s.tick(20)
    close_to(car.get_velocity().length(), 0, 0.1, "speed of a car left alone")
    assert car.destroy()
    assert not car.is_alive
    s.tick()
    assert car.id not in [a.id for a in s.world.get_actors()]
    assert car.id not in s.present()
    return {"half_extent": vector(half).round(4).tolist()}


def check_collision_at_spawn(s: Session) -> dict[str, Any]:
    """No second car in the same place; the first is untouched, and the place is free once it goes."""
    place = s.map.get_spawn_points()[0]
    car = s.car(place)
    blueprint = s.library.find(CAR)
    message = raises(lambda: s.world.spawn_actor(blueprint, place))
    assert "collision" in message.lower(), message
    assert s.world.try_spawn_actor(blueprint, place) is None
    s.tick()
    assert len(s.world.get_actors().filter("vehicle.*")) == 1
    assert car.destroy()
    s.tick()
    assert s.world.try_spawn_actor(blueprint, place) is not None
    return {"message": message}


MOUNTS = (
    carla.Transform(carla.Location(1.3, 0.0, 2.3), carla.Rotation()),
    carla.Transform(carla.Location(0.2, -1.0, 1.8), carla.Rotation(yaw=-60)),
    carla.Transform(carla.Location(-2.0, 0.7, 2.0), carla.Rotation(pitch=-15, yaw=170, roll=5)),
)


def check_rigid_attachment(s: Session) -> dict[str, Any]:
    """A mounted sensor is at the car's pose composed with its own, at every frame of a turn."""
    car = s.car()
    mails = [s.sensor("sensor.other.gnss", mount, car) for mount in MOUNTS]
    s.tick()
    assert mails[0].sensor.parent.id == car.id
    worst = fastest = 0.0
    for _ in range(40):
        car.apply_control(carla.VehicleControl(throttle=0.7, steer=0.3))
        frame = s.tick()
        fastest = max(fastest, speed(car))
        pose = np.array(car.get_transform().get_matrix())
        for mount, mail in zip(MOUNTS, mails, strict=True):
            wanted = pose @ np.array(mount.get_matrix())
            for found in (mail.at(frame).transform, mail.sensor.get_transform()):
                off = np.abs(np.array(found.get_matrix()) - wanted)
                worst = max(worst, float(off[:3, 3].max()))
                assert off[:3, 3].max() < 0.05, (
                    f"a sensor is {off[:3, 3].max():.3f} m off its mount"
                )
                assert off[:3, :3].max() < 0.02, "a sensor has turned on its mount"
    assert fastest > 2, "the car must move for this to mean anything"
    return {"largest_offset_m": worst}


def check_spring_arm(s: Session) -> dict[str, Any]:
    """A camera on a spring arm hangs behind the car and comes along."""
    car = s.car(s.straight(60))
    mount = carla.Transform(carla.Location(x=-5.5, z=2.8), carla.Rotation(pitch=-15))
    arm = carla.AttachmentType.SpringArmGhost
    camera = s.spawn("sensor.camera.rgb", mount, car, arm, image_size_x=32, image_size_y=16)
    car.apply_control(carla.VehicleControl(throttle=0.5))
    s.tick(40)
    local = car.get_transform().inverse_transform(camera.get_transform().location)
    assert -12 < local.x < -2, f"the camera is {local.x:.1f} m ahead of the car"
    assert abs(local.y) < 2
    assert 0.5 < local.z < 6
    assert camera.parent.id == car.id
    return {"local": vector(local).round(3).tolist()}


def check_child_of_destroyed(s: Session) -> dict[str, Any]:
    """A car goes before its sensor: the world ticks on and the sensor can still be destroyed."""
    car = s.car()
    mail = s.sensor("sensor.other.imu", carla.Transform(), car)
    mail.at(s.tick())
    assert car.destroy()
    s.tick(3)
    alive = mail.sensor.id in s.present()
    if alive:
        mail.stop()
        mail.sensor.destroy()
    s.tick()
    assert mail.sensor.id not in s.present()
    return {"outlives_its_parent": alive}


def check_teleport(s: Session) -> dict[str, Any]:
    points = s.map.get_spawn_points()
    car = s.car(points[0])
    s.tick()
    car.set_transform(points[5])
    s.tick()
    found = car.get_transform()
    close_to(found.location.distance(points[5].location), 0, 1.0, "distance to where it was put")
    close_to(turn(points[5].rotation.yaw, found.rotation.yaw), 0, 1, "heading")
    there = ahead(car.get_transform(), 3).location
    car.set_location(there)
    s.tick()
    close_to(vector(car.get_location()), vector(there), 0.2, "location")
    return {"jump_m": points[0].location.distance(points[5].location)}


def check_physics_off(s: Session) -> dict[str, Any]:
    """Without physics a car stays, whatever its pedals say; with them again it drives."""
    car = s.car()
    car.set_simulate_physics(False)
    s.tick()
    before = vector(car.get_location())
    car.apply_control(carla.VehicleControl(throttle=1.0))
    s.tick(20)
    close_to(vector(car.get_location()), before, 0.02, "location of a car without physics")
    car.set_simulate_physics(True)
    s.tick(40)
    moved = float(np.linalg.norm(vector(car.get_location()) - before))
    assert moved > 0.5
    return {"moved_m_in_2_s_with_physics": moved}


def check_props(s: Session) -> dict[str, Any]:
    props = s.library.filter("static.prop.*")
    assert len(props) > 0
    point = s.straight(60)
    made = [
        s.world.spawn_actor(props[i], ahead(point, 20.0 * i)) for i in range(min(3, len(props)))
    ]
    s.tick()
    found = s.world.get_actors().filter("static.prop.*")
    assert {a.id for a in found} >= {a.id for a in made}
    for prop in made:
        assert prop.destroy()
    s.tick()
    left = {a.id for a in s.world.get_actors()}
    assert left.isdisjoint(a.id for a in made)
    return {"props": len(props)}


def check_hundred_actors(s: Session) -> dict[str, Any]:
    """A hundred cars at once, all in the snapshot, all moving, all gone again."""
    points = s.map.get_spawn_points()[:100]
    blueprint = s.library.find(CAR)
    answers = s.client.apply_batch_sync(
        [carla.command.SpawnActor(blueprint, point) for point in points], True
    )
    errors = [a.error for a in answers if a.has_error()]
    assert not errors, errors[0]
    cars = s.world.get_actors([a.actor_id for a in answers])
    assert len(cars) == len(points)
    s.client.apply_batch_sync(
        [carla.command.ApplyVehicleControl(c, carla.VehicleControl(throttle=0.5)) for c in cars]
    )
    ticks = 40
    began = time.perf_counter()
    s.tick(ticks)
    seconds = time.perf_counter() - began
    snapshot = s.world.get_snapshot()
    speeds = [snapshot.find(c.id).get_velocity().length() for c in cars]
    assert np.mean(np.array(speeds) > 0.5) > 0.8, "most of them must be on their way after 2 s"
    answers = s.client.apply_batch_sync([carla.command.DestroyActor(c) for c in cars], True)
    assert not any(a.has_error() for a in answers)
    assert len(s.world.get_actors().filter("vehicle.*")) == 0
    return {"actors": len(points), "ticks_per_s": ticks / seconds}


def check_five_hundred_spawns(s: Session) -> dict[str, Any]:
    """Spawn and destroy again and again: nothing is left behind."""
    rounds = 500 if EMBEDDED else 50
    place = s.map.get_spawn_points()[0]
    before = {a.id for a in s.world.get_actors()}
    seen = set()
    for _ in range(rounds):
        car = s.spawn(CAR, place)
        seen.add(car.id)
        s.tick()  # what no snapshot has shown is not alive to the client, which will not destroy it
        assert car.destroy()
    s.tick(2)
    assert len(seen) == rounds, "an id was used twice"
    assert {a.id for a in s.world.get_actors()} == before
    return {"rounds": rounds}


if __name__ == "__main__":
    main(globals())
