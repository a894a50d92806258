"""The blueprint library, and that each of its actors can be made."""

from __future__ import annotations

from typing import Any

import carla
from harness import CAR, Inbox, Session, close_to, main, raises

SENSORS = {
    "sensor.camera.rgb": {"image_size_x": 800, "image_size_y": 600, "fov": 90, "sensor_tick": 0,
                          "gamma": 2.2, "iso": 100, "shutter_speed": 200, "fstop": 1.4,
                          "lens_k": -1, "lens_circle_falloff": 5},
    "sensor.camera.depth": {"image_size_x": 800, "image_size_y": 600, "fov": 90, "lens_k": -1},
    "sensor.camera.semantic_segmentation": {"image_size_x": 800, "image_size_y": 600, "fov": 90},
    "sensor.camera.instance_segmentation": {"image_size_x": 800, "image_size_y": 600, "fov": 90},
    "sensor.lidar.ray_cast": {"channels": 32, "range": 10, "points_per_second": 56000,
                              "rotation_frequency": 10, "upper_fov": 10, "lower_fov": -30,
                              "horizontal_fov": 360, "atmosphere_attenuation_rate": 0.004,
                              "dropoff_general_rate": 0.45, "dropoff_intensity_limit": 0.8,
                              "dropoff_zero_intensity": 0.4, "noise_stddev": 0, "sensor_tick": 0},
    "sensor.lidar.ray_cast_semantic": {"channels": 32, "range": 10, "points_per_second": 56000,
                                       "rotation_frequency": 10, "upper_fov": 10, "lower_fov": -30},
    "sensor.other.radar": {"horizontal_fov": 30, "vertical_fov": 30, "range": 100,
                           "points_per_second": 1500, "sensor_tick": 0},
    "sensor.other.gnss": {"noise_alt_bias": 0, "noise_lat_stddev": 0, "noise_lon_stddev": 0,
                          "noise_seed": 0, "sensor_tick": 0},
    "sensor.other.imu": {"noise_accel_stddev_x": 0, "noise_gyro_bias_z": 0, "noise_gyro_stddev_y": 0,
                         "noise_seed": 0, "sensor_tick": 0},
    "sensor.other.obstacle": {"distance": 5, "hit_radius": 0.5, "sensor_tick": 0},
    "sensor.other.collision": {},
    "sensor.other.lane_invasion": {},
}  # fmt: skip
"""Numbers of CARLA's documentation (Docs/ref_sensors.md): attribute and default."""

EVENTS = {"sensor.other.obstacle", "sensor.other.collision", "sensor.other.lane_invasion"}
"""Sensors that send when something happens; the others do at every tick."""


def check_library(s: Session) -> dict[str, Any]:
    """Finding and filtering."""
    library = s.library
    assert len(library) == len(list(library)) > 40
    names = [b.id for b in library]
    assert len(set(names)) == len(names)
    cars = library.filter("vehicle.*")
    assert {b.id for b in cars} == {n for n in names if n.startswith("vehicle.")}
    car = library.find(CAR)
    assert car.id == CAR
    assert car.has_tag("vehicle")
    assert car.has_tag("model3")
    assert not car.has_tag("walker")
    assert car.match_tags("*tesla*")
    assert set(car.tags) >= {"vehicle", "tesla", "model3"}
    bikes = library.filter_by_attribute("number_of_wheels", "2")
    assert len(bikes) > 0
    assert CAR not in [b.id for b in bikes]
    four = {b.id for b in cars if int(b.get_attribute("number_of_wheels")) == 4}
    assert CAR in four
    assert {b.id for b in bikes}.isdisjoint(four)
    for wanted in ("controller.ai.walker", *SENSORS):
        assert library.find(wanted).id == wanted
    message = raises(lambda: library.find("vehicle.tesla.model9"), IndexError)
    assert "vehicle.tesla.model9" in message
    return {
        "blueprints": len(library),
        "vehicles": len(cars),
        "walkers": len(library.filter("walker.*")),
        "props": len(library.filter("static.prop.*")),
    }


def number(attribute: carla.ActorAttribute) -> float:
    """Its value, which CARLA gives only in its own type."""
    if attribute.type == carla.ActorAttributeType.Int:
        return attribute.as_int()
    return attribute.as_float()


def check_sensor_defaults(s: Session) -> dict[str, Any]:
    """Each documented attribute is there with its documented default."""
    wrong = []
    for blueprint, attributes in SENSORS.items():
        found = s.library.find(blueprint)
        for name, wanted in attributes.items():
            if not found.has_attribute(name):
                wrong.append(f"{blueprint} lacks {name}")
            elif abs(number(found.get_attribute(name)) - wanted) > 1e-6:
                wrong.append(f"{blueprint} {name} is {found.get_attribute(name)}, not {wanted}")
    assert not wrong, "; ".join(wrong)
    return {"attributes": sum(map(len, SENSORS.values()))}


def check_attributes(s: Session) -> dict[str, Any]:
    """Types, recommended values, what may be set and what may not; the actor carries what was set."""
    camera = s.library.find("sensor.camera.rgb")
    width = camera.get_attribute("image_size_x")
    assert width.is_modifiable
    assert width.type == carla.ActorAttributeType.Int
    assert width.as_int() == int(width) == 800
    assert camera.get_attribute("fov").type == carla.ActorAttributeType.Float
    close_to(camera.get_attribute("fov").as_float(), 90, 1e-6, "fov")
    camera.set_attribute("image_size_x", "320")
    assert camera.get_attribute("image_size_x").as_int() == 320
    assert "nonsense" in raises(lambda: camera.set_attribute("nonsense", "1"), IndexError)
    car = s.library.find(CAR)
    wheels = car.get_attribute("number_of_wheels")
    assert not wheels.is_modifiable
    assert int(wheels) == 4
    raises(lambda: car.set_attribute("number_of_wheels", "3"), RuntimeError, ValueError)
    colour = car.get_attribute("color")
    assert colour.type == carla.ActorAttributeType.RGBColor
    assert len(colour.recommended_values) >= 2
    car.set_attribute("color", "10,200,30")
    assert car.get_attribute("color").as_color() == carla.Color(10, 200, 30)
    car.set_attribute("role_name", "hero")
    actor = s.world.spawn_actor(car, s.map.get_spawn_points()[0])
    s.tick()
    for view in (actor, s.client.get_world().get_actor(actor.id)):
        assert view.attributes["role_name"] == "hero"
        assert view.attributes["color"] == "10,200,30"
        assert view.attributes["number_of_wheels"] == "4"
    return {"car_attributes": len(car)}


def check_every_vehicle(s: Session) -> dict[str, Any]:
    """Each vehicle stands where it was spawned, with a believable size and mass."""
    place = s.straight(20)
    sizes = {}
    for blueprint in s.library.filter("vehicle.*"):
        car = s.world.spawn_actor(blueprint, place)
        s.tick(2)
        half = car.bounding_box.extent
        assert 0.5 < half.x < 7, f"{blueprint.id} is {2 * half.x:.1f} m long"
        assert 0.1 < half.y < 2.5, f"{blueprint.id} is {2 * half.y:.1f} m wide"
        assert 0.3 < half.z < 2.6, f"{blueprint.id} is {2 * half.z:.1f} m high"
        assert car.get_location().distance(place.location) < 1.5, blueprint.id
        physics = car.get_physics_control()
        assert 5 < physics.mass < 50_000, f"{blueprint.id} weighs {physics.mass} kg"
        assert len(physics.wheels) == int(blueprint.get_attribute("number_of_wheels")) or len(
            physics.wheels
        ) in (4, 6), blueprint.id
        sizes[blueprint.id] = round(2 * half.x, 2)
        assert car.destroy()
        s.tick()
    return {"vehicles": len(sizes), "model3_length_m": sizes[CAR]}


def check_every_walker(s: Session) -> dict[str, Any]:
    place = s.straight(20)
    heights = []
    for blueprint in s.library.filter("walker.pedestrian.*"):
        walker = s.world.spawn_actor(blueprint, place)
        s.tick()
        heights.append(2 * walker.bounding_box.extent.z)
        assert 0.8 < heights[-1] < 2.2, f"{blueprint.id} is {heights[-1]:.2f} m tall"
        assert walker.destroy()
        s.tick()
    return {"walkers": len(heights)}


def check_every_sensor(s: Session) -> dict[str, Any]:
    """Every sensor of the library can be spawned on a car, listened to, stopped and destroyed.

    The embedded world lists a few only so that programs find them; their spawn says so.
    """
    car = s.car()
    done, refused = [], {}
    for name in [b.id for b in s.library.filter("sensor.*")]:
        try:
            sensor = s.spawn(name, carla.Transform(carla.Location(z=2.5)), car)
        except RuntimeError as error:
            refused[name] = str(error)
            continue
        mail = Inbox(sensor)
        assert sensor.is_listening()
        frame = s.tick(2)
        if name not in EVENTS:
            mail.at(frame)
        mail.stop()
        assert sensor.destroy()
        s.tick()
        done.append(name)
    assert set(SENSORS) <= set(done), f"refused: {refused}"
    assert all("not supported" in message for message in refused.values()), refused
    return {"sensors": done, "refused": sorted(refused)}


if __name__ == "__main__":
    main(globals())
