"""Every sensor against what can be computed by hand in a town."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.sensors.base import Sensor
from apps.driving.world.sensors.payloads import (
    Collision,
    Gnss,
    Image,
    Imu,
)
from apps.driving.world.simulation.actors import Actor
from apps.driving.world.simulation.world import World
from apps.driving.world.tags import Tag

CAR = "vehicle.tesla.model3"
SMALL = {"image_size_x": "64", "image_size_y": "32", "fov": "90"}
OPEN = Transform(4000.0, 4000.0, 0.0)
"""Grass without anything on it, far from the town."""


# When readings are made.


def test_nobody_listens_nothing_is_made(world: World, car: Actor, only: Callable[..., Any]) -> None:
    gnss = world.spawn("sensor.other.gnss", {}, Transform(), car.id)
    world.tick()
    assert world.readings == []
    world.listen(gnss.id, True)
    world.tick()
    assert isinstance(only(world, gnss), Gnss)
    world.listen(gnss.id, False)
    world.tick()
    assert world.readings == []


@pytest.mark.parametrize(
    ("tick", "step", "every"), [(0.0, 0.05, 1), (0.1, 0.05, 2), (0.5, 0.05, 10), (0.01, 0.05, 1)]
)
def test_sensor_tick(tick: float, step: float, every: int) -> None:
    sensor = Sensor(Actor(1, "sensor.other.imu", 1, "sensor", {"sensor_tick": str(tick)}, OPEN))
    elapsed, due = 0.0, []
    for i in range(1, 201):
        elapsed += step
        since = sensor.due(elapsed, step)
        if since:
            due.append(i)
            if len(due) > 1:
                assert since == pytest.approx(every * step)
    assert due == list(range(1, 201, every))


def test_a_sensor_tick_between_two_steps_does_not_drift() -> None:
    sensor = Sensor(Actor(1, "sensor.other.imu", 1, "sensor", {"sensor_tick": "0.12"}, OPEN))
    due = [i for i in range(1, 2401) if sensor.due(i * 0.05, 0.05)]
    assert len(due) == pytest.approx(2400 * 0.05 / 0.12, abs=1)


def test_readings_belong_to_the_frame_that_made_them(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    gnss = attach(world, "sensor.other.gnss", Transform(), car.id)
    world.bodies.set_target_velocity(car.id, (10.0, 0.0, 0.0))
    for _ in range(5):
        world.tick()
        here = world.geolocation(*world.transform(gnss.id)[:3])
        assert vars(only(world, gnss)) == dict(
            zip(("latitude", "longitude", "altitude"), here, strict=True)
        )


# Cameras.


def decode_depth(image: Image) -> np.ndarray:
    pixels = np.frombuffer(image.bgra, np.uint8).reshape(image.height, image.width, 4).astype(float)
    raw = pixels[..., 2] + 256 * pixels[..., 1] + 65536 * pixels[..., 0]
    metres: np.ndarray = 1000 * raw / (2**24 - 1)
    return metres


def channels(image: Image) -> np.ndarray:
    return np.frombuffer(image.bgra, np.uint8).reshape(image.height, image.width, 4)


def test_cameras_see_the_car_ahead(
    new_world: Callable[..., World], attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    world = new_world(render=True)
    car = world.spawn(CAR, {}, OPEN)
    mount = Transform(0, 0, 3)
    kinds = ("rgb", "depth", "semantic_segmentation", "instance_segmentation")
    rgb, depth, tags, ids = (
        attach(world, f"sensor.camera.{k}", mount, car.id, **SMALL) for k in kinds
    )
    other = world.spawn(CAR, {}, OPEN.then(Transform(12, 0, 0)))
    world.tick()
    image = only(world, rgb)
    assert (image.width, image.height, image.fov) == (64, 32, 90.0)
    assert len(image.bgra) == 64 * 32 * 4
    tag = channels(only(world, tags))[..., 2]
    metres = decode_depth(only(world, depth))
    met = tag == Tag.CAR
    assert met.sum() > 20
    back = 12 + other.box.centre[0] - other.box.half[0]
    assert metres[met].min() == pytest.approx(back, abs=0.6)
    number = channels(only(world, ids)).astype(int)
    assert set((number[..., 1] + 256 * number[..., 0])[met].tolist()) == {other.id}
    assert (number[..., 2] == tag).all()
    rows, ground = np.flatnonzero(~met[:, 0]), metres[:, 0]
    below = rows[rows > 20]
    assert ground[below] == pytest.approx(3 / ((below + 0.5 - 16) / 32), rel=0.01)


def test_cameras_at_one_place_share_a_render(
    new_world: Callable[..., World], attach: Callable[..., Actor]
) -> None:
    world = new_world(render=True)
    renders = []
    plain = world.renderer

    class Counting:
        def render(self, scene: Any, pose: Any, lens: Any, rgb: bool = True) -> Any:
            renders.append((pose, lens, rgb))
            return plain.render(scene, pose, lens, rgb)

        def close(self) -> None: ...

    world.renderer = Counting()
    car = world.spawn(CAR, {}, OPEN)
    for name in ("depth", "semantic_segmentation", "rgb", "rgb"):
        attach(world, f"sensor.camera.{name}", Transform(1, 0, 2), car.id, **SMALL)
    attach(world, "sensor.camera.depth", Transform(1, 0, 3), car.id, **SMALL)
    world.tick()
    assert [colours for _, _, colours in renders] == [True, False]
    assert len(world.readings) == 5


def test_no_rendering_mode_makes_no_pictures(
    new_world: Callable[..., World], attach: Callable[..., Actor]
) -> None:
    from dataclasses import replace

    world = new_world(render=True)
    car = world.spawn(CAR, {}, OPEN)
    attach(world, "sensor.camera.rgb", Transform(1, 0, 2), car.id, **SMALL)
    gnss = attach(world, "sensor.other.gnss", Transform(), car.id)
    world.set_settings(replace(world.settings, no_rendering_mode=True))
    world.tick()
    assert [actor for actor, _, _ in world.readings] == [gnss]


# The rest.


def test_gnss_follows_the_map_and_its_noise(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    plain = attach(world, "sensor.other.gnss", Transform(0, 0, 1.5), car.id)
    noisy = attach(
        world, "sensor.other.gnss", Transform(0, 0, 1.5), car.id,
        noise_lat_stddev=0.5, noise_lon_bias=2.0,
    )  # fmt: skip
    lat, lon, off = [], [], []
    for _ in range(200):
        world.tick()
        a, b = only(world, plain), only(world, noisy)
        lat.append(b.latitude - a.latitude)
        lon.append(b.longitude - a.longitude)
        off.append(b.altitude - a.altitude)
    assert a.altitude == pytest.approx(1.5, abs=1e-5)
    assert a.latitude > 0 < a.longitude  # as 0.9.16 has it: y to the north, x to the east
    assert np.std(lat) == pytest.approx(0.5, rel=0.2)
    assert lon == pytest.approx([2.0] * 200)
    assert off == pytest.approx([0.0] * 200)


def test_imu_at_rest_feels_gravity(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    imu = attach(world, "sensor.other.imu", Transform(), car.id)
    tilted = attach(world, "sensor.other.imu", Transform(pitch=30.0), car.id)
    for _ in range(4):
        world.tick()
        found = only(world, imu)
        assert isinstance(found, Imu)
        assert found.accelerometer == pytest.approx((0, 0, 9.81), abs=1e-6)
        assert found.gyroscope == pytest.approx((0, 0, 0), abs=1e-9)
        lifted = only(world, tilted).accelerometer
        assert lifted == pytest.approx((9.81 * 0.5, 0, 9.81 * math.sqrt(0.75)), abs=1e-6)


@pytest.mark.parametrize(("yaw", "compass"), [(-90, 0), (0, 90), (90, 180), (180, 270)])
def test_compass(
    world: World, yaw: float, compass: float, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    car = world.spawn(CAR, {}, OPEN._replace(yaw=yaw))
    imu = attach(world, "sensor.other.imu", Transform(), car.id)
    world.tick()
    found = math.degrees(only(world, imu).compass)
    assert math.cos(math.radians(found - compass)) == pytest.approx(1.0)


def test_imu_in_a_steady_turn(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    imu = attach(world, "sensor.other.imu", Transform(), car.id)
    for _ in range(200):
        world.vehicles.apply_control(car.id, 0.3, 0.5, 0.0)
        world.tick()
    found = only(world, imu)
    velocity, turning, _ = world.motion(car.id)
    rate = math.radians(turning[2])
    assert found.gyroscope == pytest.approx((0, 0, rate), abs=1e-9)
    assert rate > 0.1
    assert found.accelerometer[1] == pytest.approx(rate * np.hypot(*velocity[:2]), rel=0.05)


def test_imu_noise(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    imu = attach(
        world, "sensor.other.imu", Transform(), car.id,
        noise_accel_stddev_x=0.3, noise_gyro_bias_z=0.1, noise_gyro_stddev_y=0.02,
    )  # fmt: skip
    felt, rates = [], []
    for _ in range(300):
        world.tick()
        felt.append(only(world, imu).accelerometer)
        rates.append(only(world, imu).gyroscope)
    assert np.std(felt, axis=0) == pytest.approx((0.3, 0, 0), abs=0.06)
    assert np.mean(rates, axis=0) == pytest.approx((0, 0, 0.1), abs=0.006)
    assert np.std(rates, axis=0) == pytest.approx((0, 0.02, 0), abs=0.004)


def test_collision_tells_each_side_of_its_own(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    other = world.spawn(CAR, {}, OPEN.then(Transform(7, 0, 0)))
    mine = attach(world, "sensor.other.collision", Transform(), car.id)
    theirs = attach(world, "sensor.other.collision", Transform(), other.id)
    world.bodies.set_target_velocity(car.id, (9.0, 0.0, 0.0))
    for _ in range(40):
        world.tick()
        if world.readings:
            break
    a, b = only(world, mine), only(world, theirs)
    assert isinstance(a, Collision)
    assert (a.actor, a.other, b.actor, b.other) == (car, other, other, car)
    assert a.impulse == pytest.approx([-v for v in b.impulse])
    assert a.impulse[0] < 0


def test_running_into_a_house_names_what_it_is(
    world: World, attach: Callable[..., Actor], payloads: Callable[..., list[Any]]
) -> None:
    boxes = world.town.scenery.boxes
    house = int(np.flatnonzero(boxes.tag == Tag.BUILDINGS)[0])
    x, y, _ = boxes.centre[house].tolist()
    half = float(np.hypot(*boxes.half[house, :2]))
    car = world.spawn(CAR, {}, OPEN)
    sensor = attach(world, "sensor.other.collision", Transform(), car.id)
    yaw = float(np.degrees(boxes.yaw[house]))
    away = Transform(x, y, 0.0, 0.0, yaw).then(Transform(-half - 4.0))
    world.bodies.set_transform(car.id, away)
    direction = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    world.bodies.set_target_velocity(car.id, (12 * direction[0], 12 * direction[1], 0.0))
    met = []
    for _ in range(40):
        world.tick()
        met += [p.other for p in payloads(world, sensor)]
    assert met
    assert all(other.id == 0 for other in met)
    assert any(other.tags == (Tag.BUILDINGS,) for other in met)
    assert any(other.type_id == "static.buildings" for other in met)
