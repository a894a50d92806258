"""Lidars, radar and obstacle detector against what can be computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.sensors.payloads import Lidar, Obstacle, Radar, SemanticLidar
from apps.driving.world.sensors.rays import RayCastLidar
from apps.driving.world.simulation.actors import Actor
from apps.driving.world.simulation.world import World

CAR = "vehicle.tesla.model3"
OPEN = Transform(4000.0, 4000.0, 0.0)
"""Grass without anything on it, far from the town."""


def test_lidar_meets_flat_ground_where_geometry_says(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    lidar = attach(
        world, "sensor.lidar.ray_cast", Transform(0, 0, 2.5), car.id, channels=8, range=30,
        points_per_second=16000, rotation_frequency=20, upper_fov=-10, lower_fov=-40,
        dropoff_general_rate=0, dropoff_zero_intensity=0, atmosphere_attenuation_rate=0.01,
    )  # fmt: skip
    world.tick()
    found = only(world, lidar)
    assert isinstance(found, Lidar)
    assert found.points.dtype == np.float32
    assert found.counts.tolist() == [100] * 8  # 16000 / s * 0.05 s / 8
    x, y, z, intensity = found.points.T
    assert intensity == pytest.approx(np.exp(-0.01 * np.hypot(np.hypot(x, y), z)), rel=1e-5)
    pitch = np.degrees(np.arctan2(z, np.hypot(x, y))).reshape(8, 100)
    assert pitch == pytest.approx(np.repeat(np.linspace(-10, -40, 8)[:, None], 100, 1), abs=0.01)
    outer = found.points[:100]  # beyond the own roof
    assert outer[:, 2] == pytest.approx(-2.5, abs=1e-4)
    assert found.angle == pytest.approx(0.0, abs=1e-6)  # one turn a tick
    yaw = np.degrees(np.arctan2(outer[:, 1], outer[:, 0]))
    assert np.diff(np.unwrap(np.radians(yaw))) == pytest.approx(math.radians(3.6), abs=1e-3)


def test_lidar_turns_on_from_tick_to_tick(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    lidar = attach(
        world, "sensor.lidar.ray_cast", Transform(0, 0, 2.5), car.id, rotation_frequency=5,
        dropoff_general_rate=0, dropoff_zero_intensity=0, upper_fov=-5, lower_fov=-5, channels=1,
        points_per_second=2000, range=100,
    )  # fmt: skip
    yaws = []
    for _ in range(4):
        world.tick()
        x, y, _, _ = only(world, lidar).points.T
        yaws.append(np.degrees(np.arctan2(y, x)))
    swept = np.concatenate(yaws)
    assert len(swept) == 400
    assert np.sort(swept) == pytest.approx(np.arange(-180, 180, 0.9), abs=0.01)


def test_lidar_drops_as_many_as_asked(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    def points(**given: object) -> int:
        lidar = attach(
            world, "sensor.lidar.ray_cast", Transform(0, 0, 2.5), car.id, upper_fov=-10,
            points_per_second=200000, range=100, **given,
        )  # fmt: skip
        world.tick()
        count = len(only(world, lidar).points)
        world.destroy(lidar.id)
        return count

    every = points(dropoff_general_rate=0, dropoff_zero_intensity=0)
    assert points(dropoff_general_rate=0.45, dropoff_zero_intensity=0) == pytest.approx(
        0.55 * every, rel=0.03
    )
    assert points(dropoff_general_rate=1.0) == 0
    # Air so thick that hardly any intensity is left: the share at zero intensity goes.
    thick = points(
        dropoff_general_rate=0, dropoff_zero_intensity=0.4, atmosphere_attenuation_rate=50
    )
    assert thick == pytest.approx(0.6 * every, rel=0.03)


def test_lidar_noise_is_along_the_ray_and_seeded(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    def cloud(seed: int) -> np.ndarray:
        lidar = attach(
            world, "sensor.lidar.ray_cast", Transform(0, 0, 2.5), car.id, upper_fov=-10, range=80,
            dropoff_general_rate=0, dropoff_zero_intensity=0, noise_stddev=0.2, noise_seed=seed,
        )  # fmt: skip
        world.tick()
        points: np.ndarray = only(world, lidar).points
        world.destroy(lidar.id)
        return points

    first, again, other = cloud(1), cloud(1), cloud(2)
    assert (first == again).all()
    assert not (first == other).all()
    sure = first[:87]
    off = np.linalg.norm(sure[:, :3], axis=1) * (1 + 2.5 / sure[:, 2])
    assert 0.1 < off.std() < 0.4


def test_semantic_lidar_tells_what_it_met(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    other = world.spawn("vehicle.ford.ambulance", {}, OPEN.then(Transform(15, 0, 0)))
    lidar = attach(
        world, "sensor.lidar.ray_cast_semantic", Transform(3, 0, 1.0), car.id, channels=16,
        points_per_second=64000, rotation_frequency=20, range=40, upper_fov=10, lower_fov=-30,
    )  # fmt: skip
    world.tick()
    found = only(world, lidar)
    assert isinstance(found, SemanticLidar)
    assert found.counts.sum() == len(found.points)
    hit = found.points["instance"] == other.id
    assert hit.sum() > 5
    assert set(found.points["tag"][hit].tolist()) == {other.tags[0]}
    wall = hit & (found.points["xyz"][:, 0] < 15 + other.box.centre[0] - other.box.half[0] - 2.9)
    x, y, z = found.points["xyz"][wall].T
    assert x == pytest.approx(15 - 3 + other.box.centre[0] - other.box.half[0], abs=0.02)
    away = np.sqrt(x**2 + y**2 + z**2)
    assert found.points["cosine"][wall] == pytest.approx(x / away, abs=1e-3)
    ground = found.points["instance"] == 0
    assert found.points["xyz"][ground][:, 2] == pytest.approx(-1.0, abs=1e-3)


def test_a_sensor_inside_its_own_car_sees_out(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    lidar = attach(
        world, "sensor.lidar.ray_cast", Transform(0, 0, 0.8), car.id, range=50, channels=4,
        upper_fov=-3, lower_fov=-6, dropoff_general_rate=0, dropoff_zero_intensity=0,
    )  # fmt: skip
    world.tick()
    assert np.linalg.norm(only(world, lidar).points[:, :3], axis=1).min() > 5.0


def test_radar_measures_the_approach(
    world: World, car: Actor, attach: Callable[..., Actor], only: Callable[..., Any]
) -> None:
    other = world.spawn(CAR, {}, OPEN.then(Transform(40, 0, 0)))
    radar = attach(
        world, "sensor.other.radar", Transform(2.5, 0, 0.8), car.id, points_per_second=20000
    )
    world.bodies.enable_constant_velocity(car.id, (8.0, 0.0, 0.0))
    world.bodies.enable_constant_velocity(other.id, (-4.0, 0.0, 0.0))
    world.tick()
    world.tick()
    found = only(world, radar)
    assert isinstance(found, Radar)
    velocity, azimuth, altitude, depth = found.detections.T
    facing = (np.abs(azimuth) < 0.02) & (np.abs(altitude) < 0.015)
    assert facing.sum() > 2
    gap = world.transform(other.id).x - world.transform(radar.id).x
    gap += other.box.centre[0] - other.box.half[0]
    assert depth[facing].min() == pytest.approx(gap, abs=0.02)
    assert depth[facing].max() < gap + 1.0  # the cabin stands behind the bonnet
    assert velocity[facing] == pytest.approx(-12.0, abs=0.05)
    low = altitude < math.radians(-5)  # the ground comes nearer with its cosine
    cosine = np.cos(altitude[low]) * np.cos(azimuth[low])
    assert velocity[low] == pytest.approx(-8.0 * cosine, abs=0.05)
    assert np.abs(np.degrees(azimuth)).max() <= 15.01
    assert np.abs(np.degrees(altitude)).max() <= 15.01


@pytest.mark.parametrize("ahead", [True, False])
def test_obstacle(
    world: World,
    car: Actor,
    ahead: bool,
    attach: Callable[..., Actor],
    payloads: Callable[..., list[Any]],
) -> None:
    place = OPEN.then(Transform(8.0 if ahead else -8.0))
    cone = world.spawn("static.prop.vendingmachine", {}, place)
    sensor = attach(world, "sensor.other.obstacle", Transform(2.5, 0, 0.6), car.id, distance=10)
    moving = attach(
        world, "sensor.other.obstacle", Transform(2.5, 0, 0.6), car.id, distance=10, only_dynamics="true"
    )  # fmt: skip
    world.tick()
    found = payloads(world, sensor)
    assert len(found) == ahead
    if ahead:
        assert isinstance(found[0], Obstacle)
        assert (found[0].actor, found[0].other) == (car, cone)
        assert found[0].distance == pytest.approx(8 - 2.5 - cone.box.half[0], abs=0.02)
    assert payloads(world, moving) == []


def test_a_lidar_read_once_an_hour_is_bounded(
    world: World, car: Actor, attach: Callable[..., Actor]
) -> None:
    lidar = RayCastLidar(
        attach(world, "sensor.lidar.ray_cast", Transform(0, 0, 2.5), car.id, sensor_tick=3600)
    )
    directions, channel = lidar.sweep(3600.0)
    assert len(directions) == len(channel) == 1_000_000


def test_a_lidar_keeps_its_state_to_itself(
    world: World, car: Actor, attach: Callable[..., Actor]
) -> None:
    one, two = (
        RayCastLidar(attach(world, "sensor.lidar.ray_cast", Transform(0, 0, 2.5), car.id))
        for _ in range(2)
    )
    one.sweep(0.03)
    assert two.angle == 0.0 != one.angle
