"""Sensors by blueprint, cameras and those that feel, and how a tick's readings come together.

A sensor is built for its actor and keeps what it must remember between readings. Cameras that stand at
one place with one lens share a picture (``take``). Encodings and units are those of CARLA 0.9.16
(``Docs/ref_sensors.md``; the IMU was checked against ``Sensor/InertialMeasurementUnit.cpp`` of
carla-simulator/carla).

Deviates from CARLA: noise is drawn from a NumPy generator of the sensor's ``noise_seed`` and its kind;
the gyroscope is turned into the sensor's own frame (CARLA turns it the other way, which shows only on
tilted mounts); ``lane_invasion`` has no class, as the client computes it. Lens distortion, film and
motion blur are not simulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.render import (
    Renderer,
    encode_depth,
    encode_instance,
    encode_rgb,
    encode_semantic,
)
from apps.driving.world.render.scene import Lens, Picture
from apps.driving.world.sensors.base import Senses, Sensor, generator
from apps.driving.world.sensors.payloads import Gnss, Image, Imu, Payload, Reading
from apps.driving.world.sensors.rays import (
    ObstacleSensor,
    RadarSensor,
    RayCastLidar,
    RayCastSemanticLidar,
)
from apps.driving.world.simulation.actors import Actor


class Camera(Sensor):
    """A camera; ``take`` develops the pictures of many."""

    kind = "image"
    encodings: dict[str, Callable[[Picture], bytes]] = {
        "sensor.camera.rgb": encode_rgb,
        "sensor.camera.depth": encode_depth,
        "sensor.camera.semantic_segmentation": encode_semantic,
        "sensor.camera.instance_segmentation": encode_instance,
    }

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        width, height, fov = self.numbers("image_size_x", "image_size_y", "fov")
        self.lens = Lens(int(width), int(height), fov)
        self.encode = self.encodings[actor.type_id]
        self.coloured = actor.type_id == "sensor.camera.rgb"

    def develop(self, picture: Picture) -> Image:
        """The picture in this camera's encoding."""
        return Image(self.encode(picture), self.lens.width, self.lens.height, self.lens.fov)


def take(world: Senses, cameras: list[Camera], renderer: Renderer) -> dict[int, Image]:
    """Images of ``cameras`` by actor id; one render for all that share a place and a lens."""
    places: dict[tuple[Transform, Lens], list[Camera]] = {}
    for camera in cameras:
        places.setdefault((world.transform(camera.actor.id), camera.lens), []).append(camera)
    images: dict[int, Image] = {}
    for (pose, lens), together in places.items():
        picture = renderer.render(world.scene(), pose, lens, any(c.coloured for c in together))
        developed: dict[str, Image] = {}
        for camera in together:
            kind = camera.actor.type_id
            if kind not in developed:
                developed[kind] = camera.develop(picture)
            images[camera.actor.id] = developed[kind]
    return images


class GnssSensor(Sensor):
    """Latitude, longitude and altitude by the map's reference, with noise.

    As in CARLA 0.9.16 latitude grows with y, which earlier versions had the other way
    (carla-simulator/carla #9389); the client's ``Map.transform_to_geolocation`` agrees.
    """

    kind = "gnss"

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        self.random = generator(actor.attributes, self.kind)
        axes = ("lat", "lon", "alt")
        self.bias = np.array(self.numbers(*(f"noise_{axis}_bias" for axis in axes)))
        self.deviation = np.array(self.numbers(*(f"noise_{axis}_stddev" for axis in axes)))

    def read(self, world: Senses, delta: float) -> Iterable[Payload]:
        """Where it is."""
        place = np.array(world.geolocation(*world.transform(self.actor.id)[:3]))
        place += self.bias + self.deviation * self.random.standard_normal(3)
        yield Gnss(*place.tolist())


class ImuSensor(Sensor):
    """Acceleration by the second difference of its places, turn rate of its parent, compass."""

    kind = "imu"

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        self.random = generator(actor.attributes, self.kind)
        axes = ("x", "y", "z")
        self.shake = np.array(self.numbers(*(f"noise_accel_stddev_{a}" for a in axes)))
        self.spin = np.array(self.numbers(*(f"noise_gyro_stddev_{a}" for a in axes)))
        self.bias = np.array(self.numbers(*(f"noise_gyro_bias_{a}" for a in axes)))
        self._places: list[tuple[np.ndarray, float]] = []

    def forget(self) -> None:
        super().forget()
        self._places = []

    def read(self, world: Senses, delta: float) -> Iterable[Payload]:
        """What it feels; until three places are known, its parent's acceleration."""
        pose = world.transform(self.actor.id)
        _, turning, pushed = world.motion(self.actor.parent)
        here = np.array(pose[:3])
        self._places = [*self._places[-2:], (here, delta)]
        acceleration = pushed
        if len(self._places) == 3:
            (p0, _), (p1, h1), (p2, h2) = self._places
            acceleration = 2.0 * ((p2 - p1) / h2 - (p1 - p0) / h1) / (h1 + h2)
        turn = pose.matrix()[:3, :3]
        felt = (acceleration + (0.0, 0.0, world.imu_gravity)) @ turn
        felt = felt + self.shake * self.random.standard_normal(3)
        rate = np.radians(turning) @ turn + self.bias
        rate = rate + self.spin * self.random.standard_normal(3)
        compass = math.radians((pose.yaw + 90.0) % 360.0)
        yield Imu(_triple(felt), _triple(rate), compass)


class CollisionSensor(Sensor):
    """One event for each thing its parent met in this tick."""

    kind = "collision"

    def read(self, world: Senses, delta: float) -> Iterable[Payload]:
        """What its parent met."""
        return [c for c in world.collisions if c.actor.id == self.actor.parent]


def _triple(v: np.ndarray) -> tuple[float, float, float]:
    x, y, z = v.tolist()
    return x, y, z


SENSORS: dict[str, Callable[[Actor], Sensor]] = {
    **dict.fromkeys(Camera.encodings, Camera),
    "sensor.lidar.ray_cast": RayCastLidar,
    "sensor.lidar.ray_cast_semantic": RayCastSemanticLidar,
    "sensor.other.radar": RadarSensor,
    "sensor.other.gnss": GnssSensor,
    "sensor.other.imu": ImuSensor,
    "sensor.other.collision": CollisionSensor,
    "sensor.other.obstacle": ObstacleSensor,
}


def gather(
    world: Senses, sensors: Iterable[Sensor], delta: float, renderer: Renderer | None
) -> list[Reading]:
    """Readings of all listened ``sensors`` that are due, in the order given."""
    now = [(s, since) for s in sensors if s.listened and (since := s.due(world.elapsed, delta))]
    cameras = [s for s, _ in now if isinstance(s, Camera)]
    images = take(world, cameras, renderer) if renderer and cameras else {}
    readings: list[Reading] = []
    for sensor, since in now:
        if isinstance(sensor, Camera):
            if sensor.actor.id in images:
                readings.append((sensor.actor, sensor.kind, images[sensor.actor.id]))
        else:
            readings += [(sensor.actor, sensor.kind, p) for p in sensor.read(world, since)]
    return readings
