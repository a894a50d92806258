"""What a client must not do, and what it is told.  After each the world goes on as before."""

from __future__ import annotations

import math
import time
from typing import Any

import carla
import numpy as np
from harness import (
    CAR,
    EMBEDDED,
    HOST,
    PORT,
    TIMEOUT,
    Session,
    ahead,
    close_to,
    embedded_only,
    main,
    raises,
    speed,
    vector,
)

NAN = float("nan")


def check_unknown_blueprint(s: Session) -> dict[str, Any]:
    message = raises(lambda: s.library.find("vehicle.tesla.cybertruck2"), IndexError)
    assert "vehicle.tesla.cybertruck2" in message
    return {"message": message}


OUT_OF_RANGE = {
    "sensor.camera.rgb": {"image_size_x": (0, -5, 100_000), "image_size_y": (0, -1), "fov": (0, -10, 180, 400, "wide")},
    "sensor.camera.depth": {"image_size_x": (0,), "fov": (720,)},
    "sensor.lidar.ray_cast": {"channels": (0, -1, 100_000), "range": (-5,), "points_per_second": (-1, 10**9),
                              "rotation_frequency": (-1,), "upper_fov": ("nan",)},
    "sensor.other.radar": {"points_per_second": (-5, 10**9), "range": (-1,)},
    "sensor.other.obstacle": {"distance": (-2,), "hit_radius": (-1,)},
    "sensor.other.gnss": {"noise_lat_stddev": (-1,), "sensor_tick": (-1,)},
}  # fmt: skip


def check_sensor_attributes(s: Session) -> dict[str, Any]:
    """Sizes and angles that no sensor can have are refused at the spawn, by name."""
    embedded_only("CARLA takes them and may end")
    accepted, messages = [], 0
    for kind, attributes in OUT_OF_RANGE.items():
        for name, values in attributes.items():
            for value in values:
                blueprint = s.library.find(kind)
                blueprint.set_attribute(name, str(value))
                place = s.map.get_spawn_points()[0]
                try:
                    s.world.spawn_actor(blueprint, place)
                    answer = "taken"
                except RuntimeError as error:
                    answer = str(error)
                messages += 1
                if name not in answer:
                    accepted.append(f"{kind} {name}={value}: {answer}")
    assert not accepted, "; ".join(accepted)
    frame = s.tick()
    assert s.tick() == frame + 1
    return {"refused": messages}


def check_nan_control(s: Session) -> dict[str, Any]:
    """A control that is no number changes nothing; in a batch the client is told."""
    embedded_only("CARLA passes it to the engine")
    car = s.car(s.straight(40))
    s.tick()
    before = vector(car.get_location())
    for bad in (
        carla.VehicleControl(throttle=NAN),
        carla.VehicleControl(throttle=1.0, steer=NAN),
        carla.VehicleControl(brake=math.inf),
    ):
        car.apply_control(bad)
        s.tick(5)
        command = carla.command.ApplyVehicleControl(car, bad)
        answer = s.client.apply_batch_sync([command])[0]
        assert answer.has_error(), "a control of NaN was accepted"
        assert "\n" not in answer.error
    close_to(vector(car.get_location()), before, 0.05, "place")
    car.apply_control(carla.VehicleControl(throttle=0.8))
    s.tick(30)
    assert speed(car) > 1
    return {"error": answer.error}


def check_control_beyond_its_range(s: Session) -> dict[str, Any]:
    """Throttle 7 is throttle 1, steer -3 is steer -1."""
    place = s.straight(60)
    reached = {}
    for throttle in (1.0, 7.0):
        car = s.car(place)
        car.apply_control(carla.VehicleControl(throttle=throttle))
        s.tick(30)
        reached[throttle] = speed(car)
        assert car.destroy()
        s.tick()
    close_to(reached[7.0], reached[1.0], 0.1 * reached[1.0], "speed")
    return {str(k): v for k, v in reached.items()}


def check_nan_places(s: Session) -> dict[str, Any]:
    """A place that is no number: refused at a spawn, ignored for an actor."""
    embedded_only("CARLA passes it to the engine")
    blueprint = s.library.find(CAR)
    nowhere = carla.Transform(carla.Location(NAN, 0, 0))
    message = raises(lambda: s.world.spawn_actor(blueprint, nowhere))
    car = s.car(s.straight(40))
    before = vector(car.get_location())
    car.set_transform(nowhere)
    car.set_location(carla.Location(math.inf, 0, 0))
    car.set_target_velocity(carla.Vector3D(NAN, 0, 0))
    car.add_impulse(carla.Vector3D(0, NAN, 0))
    car.add_force(carla.Vector3D(0, 0, math.inf))
    s.tick(5)
    close_to(vector(car.get_location()), before, 0.05, "place")
    far = carla.Transform(carla.Location(1e30, -1e30, 1e30))
    car.set_transform(far)
    s.tick(5)
    assert np.isfinite(vector(car.get_location())).all()
    return {"message": message}


def check_settings_that_cannot_be(s: Session) -> dict[str, Any]:
    """A step of an hour or of no number is refused or put right; the world ticks on."""
    embedded_only("CARLA takes them")
    good = s.world.get_settings()
    answers = {}
    for name, field, value in (
        ("negative step", "fixed_delta_seconds", -0.05),  # the library sends none at all
        ("step NaN", "fixed_delta_seconds", NAN),  # likewise
        ("step of an hour", "fixed_delta_seconds", 3600.0),
        ("no substeps", "max_substeps", 0),
        ("substep NaN", "max_substep_delta_time", NAN),
        ("culling NaN", "max_culling_distance", NAN),
    ):
        bad = s.world.get_settings()
        setattr(bad, field, value)
        try:
            s.world.apply_settings(bad)
            answers[name] = "taken"
        except RuntimeError as error:
            answers[name] = str(error)
        frame = s.tick()
        assert s.tick() == frame + 1
        assert 0 < s.world.get_snapshot().timestamp.delta_seconds < 10
        s.world.apply_settings(good)
        s.tick()
        close_to(s.world.get_snapshot().timestamp.delta_seconds, 0.05, 1e-6, "step")
    for name in ("step of an hour", "substep NaN", "culling NaN"):
        assert answers[name] != "taken", name
    return answers


def check_weather_that_cannot_be(s: Session) -> dict[str, Any]:
    embedded_only("CARLA passes it to the engine")
    good = s.world.get_weather()
    s.world.set_weather(carla.WeatherParameters(cloudiness=NAN))  # nobody waits for an answer
    s.tick()
    assert s.world.get_weather() == good
    return {}


def check_no_such_parent(s: Session) -> dict[str, Any]:
    """A sensor on a car that has gone: an error, no sensor."""
    car = s.car()
    s.tick()
    gone = carla.Client(HOST, PORT)
    gone.set_timeout(TIMEOUT)
    assert gone.get_world().get_actor(car.id).destroy()
    s.tick()
    blueprint = s.library.find("sensor.other.gnss")
    message = raises(lambda: s.world.spawn_actor(blueprint, carla.Transform(), attach_to=car))
    s.tick()
    assert len(s.world.get_actors().filter("sensor.*")) == 0
    return {"message": message}


def check_spawn_below_and_far(s: Session) -> dict[str, Any]:
    """A car far outside the town or under the ground: refused or there, but the world stays sane."""
    embedded_only("CARLA lets it fall for ever")
    found = {}
    for name, place in (
        ("far", carla.Transform(carla.Location(1e6, 1e6, 1))),
        ("under the ground", ahead(s.straight(20), 0, z=-30)),
        ("in the sky", ahead(s.straight(20), 0, z=200)),
    ):
        car = s.world.try_spawn_actor(s.library.find(CAR), place)
        s.tick(10)
        if car is None:
            found[name] = "refused"
            continue
        height = car.get_location().z
        assert np.isfinite(vector(car.get_location())).all()
        found[name] = f"z = {height:.1f} m"
        car.destroy()
        s.tick()
    return found


def check_long_words(s: Session) -> dict[str, Any]:
    """A role name of a megabyte either comes back whole or is refused."""
    embedded_only("CARLA copies it with every actor")
    blueprint = s.library.find(CAR)
    blueprint.set_attribute("role_name", "x" * 1_000_000)
    try:
        car = s.world.spawn_actor(blueprint, s.map.get_spawn_points()[0])
    except RuntimeError as error:
        return {"answer": str(error)[:200]}
    s.tick()
    assert len(s.world.get_actor(car.id).attributes["role_name"]) == 1_000_000
    return {"answer": "taken"}


def check_many_spawns(s: Session) -> dict[str, Any]:
    """Ten thousand spawn commands in one batch: each is answered, the world is not lost."""
    count = 10_000 if EMBEDDED else 300
    blueprint = s.library.find(CAR)
    points = s.map.get_spawn_points()
    batch = [carla.command.SpawnActor(blueprint, points[i % len(points)]) for i in range(count)]
    began = time.perf_counter()
    answers = s.client.apply_batch_sync(batch, True)
    seconds = time.perf_counter() - began
    assert len(answers) == count
    made = [a.actor_id for a in answers if not a.has_error()]
    assert 0.9 * min(len(points), count) <= len(made) <= len(points), f"{len(made)} were made"
    assert len(s.world.get_actors().filter("vehicle.*")) == len(made)
    frame = s.tick()
    assert s.tick() == frame + 1
    gone = s.client.apply_batch_sync([carla.command.DestroyActor(i) for i in made], True)
    assert not any(a.has_error() for a in gone)
    return {"made": len(made), "seconds": seconds}


if __name__ == "__main__":
    main(globals())
