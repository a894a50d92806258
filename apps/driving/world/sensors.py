"""Sensors: what each of them makes of the world at the end of a tick.

A sensor is built for its actor and keeps what it must remember between readings; ``read`` gives a
payload, or None where there is nothing to tell. Cameras that stand at one place with one lens share
a picture (``take``). Encodings, units and the order of numbers are those of CARLA 0.9.16
(``Docs/ref_sensors.md``; the formulas of lidar, radar and IMU follow the descriptions there and were
checked against ``Sensor/{RayCastLidar,Radar,InertialMeasurementUnit}.cpp`` of carla-simulator/carla).

Deviates from CARLA: noise is drawn from a NumPy generator of the sensor's ``noise_seed`` and its kind,
so streams differ from CARLA's bit by bit though not in distribution; the gyroscope is turned into the
sensor's own frame (CARLA turns it the other way, which shows only on tilted mounts); the obstacle
detector sweeps nine rays instead of a capsule and does not report the ground; ``lane_invasion`` has no
class, the client computes it. Lens distortion, film and motion blur are not simulated.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from apps.driving.world.actors import Actor
from apps.driving.world.blueprints import truth
from apps.driving.world.geometry import Transform
from apps.driving.world.raycast import cast
from apps.driving.world.render import (
    Renderer,
    encode_depth,
    encode_instance,
    encode_rgb,
    encode_semantic,
)
from apps.driving.world.render.scene import Lens, Picture, Scene
from apps.driving.world.tags import Tag

MOST_RAYS = 1_000_000
"""Rays of one reading: 0.4 GB while they are followed. A lidar of 20 million points a second, or one
that is read every hour, gets its first million."""
GROUND_TAGS = (Tag.ROADS, Tag.SIDEWALKS, Tag.TERRAIN, Tag.ROAD_LINES, Tag.GROUND, Tag.WATER)
DYNAMIC_TAGS = (
    Tag.PEDESTRIANS, Tag.RIDER, Tag.CAR, Tag.TRUCK, Tag.BUS, Tag.TRAIN, Tag.MOTORCYCLE, Tag.BICYCLE,
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """H x W pixels, BGRA."""

    bgra: bytes
    width: int
    height: int
    fov: float


@dataclass(frozen=True)
class Lidar:
    """Points in the sensor's frame, by channel from the highest to the lowest."""

    angle: float  # radians: where the head has turned to
    counts: np.ndarray  # (channels) uint32 points of each
    points: np.ndarray  # (n, 4) float32: x, y, z (m), intensity


SEMANTIC_POINT = np.dtype(
    [("xyz", "<f4", 3), ("cosine", "<f4"), ("instance", "<u4"), ("tag", "<u4")]
)


@dataclass(frozen=True)
class SemanticLidar:
    """Points with the cosine of incidence, the actor met (0: none) and its tag."""

    angle: float
    counts: np.ndarray  # (channels) uint32
    points: np.ndarray  # (n) of SEMANTIC_POINT


@dataclass(frozen=True)
class Radar:
    """Detections: (n, 4) float32 of velocity (m/s, towards is negative), azimuth, altitude (radians), depth (m)."""

    detections: np.ndarray


@dataclass(frozen=True)
class Gnss:
    """Degrees, degrees, m."""

    latitude: float
    longitude: float
    altitude: float


@dataclass(frozen=True)
class Imu:
    """m/s^2 with gravity, rad/s, and radians clockwise from the north (-y)."""

    accelerometer: tuple[float, float, float]
    gyroscope: tuple[float, float, float]
    compass: float


@dataclass(frozen=True)
class Collision:
    """The parent met ``other``; the impulse acts on the parent, N s, world frame."""

    actor: Actor
    other: Actor
    impulse: tuple[float, float, float]


@dataclass(frozen=True)
class Obstacle:
    """``other`` is ``distance`` m ahead."""

    actor: Actor
    other: Actor
    distance: float


Payload = Image | Lidar | SemanticLidar | Radar | Gnss | Imu | Collision | Obstacle
Reading = tuple[Actor, str, Payload]
"""A sensor, the kind of its payload ("image", "lidar", ...) and the payload."""


class Surroundings(Protocol):
    """What sensors ask of the world."""

    elapsed: float
    imu_gravity: float
    collisions: list[Collision]

    def scene(self) -> Scene: ...
    def transform(self, actor_id: int) -> Transform: ...
    def motion(self, actor_id: int) -> np.ndarray:
        """(3, 3): velocity (m/s), angular velocity (degrees/s), acceleration (m/s^2); zero at rest."""
        ...

    def met(self, instance: int, tag: int) -> Actor:
        """The actor of a box, or a stand-in for a piece of the scenery."""
        ...

    def geolocation(self, x: float, y: float, z: float) -> tuple[float, float, float]: ...


def generator(attributes: Mapping[str, str], kind: str) -> np.random.Generator:
    """The sensor's own noise."""
    seed = int(attributes.get("noise_seed", "0"))
    return np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(kind.encode())])


class Sensor:
    """A sensor of one actor. ``interval`` is its ``sensor_tick`` (s; 0: every tick)."""

    kind: str

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.listened = False
        self.interval = float(actor.attributes.get("sensor_tick", "0"))
        self._due = -math.inf
        self._last = math.nan

    def numbers(self, *names: str) -> list[float]:
        """Values of number attributes."""
        return [float(self.actor.attributes[name]) for name in names]

    def forget(self) -> None:
        """Drop what was remembered of earlier readings: someone begins to listen."""
        self._last = math.nan

    def due(self, elapsed: float, delta: float) -> float:
        """Seconds that a reading now stands for, or 0 when it is not yet time for one.

        A ``sensor_tick`` that is no multiple of the step does not drift: it is due at its multiples.
        """
        if elapsed < self._due - 1e-6:
            return 0.0
        if self.interval > 0.0:
            missed = self._due + self.interval
            self._due = missed if missed > elapsed - 1e-6 else elapsed + self.interval
        since = elapsed - self._last if self._last < elapsed else max(delta, self.interval)
        self._last = elapsed
        return since

    def read(self, world: Surroundings, delta: float) -> Iterable[Payload]:
        """What it has to tell after ``delta`` seconds."""
        raise NotImplementedError


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


def take(world: Surroundings, cameras: list[Camera], renderer: Renderer) -> dict[int, Image]:
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


class Rotating(Sensor):
    """What the two lidars share: the rays of one tick."""

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        values = self.numbers("channels", "range", "points_per_second", "rotation_frequency")
        self.channels, self.range = int(values[0]), values[1]
        self.rate, self.frequency = values[2], values[3]
        upper, lower, self.width = self.numbers("upper_fov", "lower_fov", "horizontal_fov")
        self.pitch_rad = np.radians(np.linspace(upper, lower, self.channels))
        self.angle = 0.0  # degrees

    def sweep(self, delta: float) -> tuple[np.ndarray, np.ndarray]:
        """(channels * k, 3) unit directions in the sensor's frame and the channel of each; turns on."""
        k = round(min(self.rate * delta, MOST_RAYS) / self.channels)
        turned = self.frequency * self.width * delta
        width = self.width or 360.0
        steps = (self.angle + turned * np.arange(k) / max(k, 1)) % width - self.width / 2
        self.angle = (self.angle + turned) % width
        yaw = np.radians(steps)
        flat, up = np.cos(self.pitch_rad)[:, None], np.sin(self.pitch_rad)[:, None]
        directions = np.stack(
            [flat * np.cos(yaw), flat * np.sin(yaw), np.broadcast_to(up, (self.channels, k))], -1
        )
        return directions.reshape(-1, 3), np.repeat(np.arange(self.channels), k)

    def counts(self, channel: np.ndarray) -> np.ndarray:
        """(channels) uint32 points of each."""
        return np.bincount(channel, minlength=self.channels).astype(np.uint32)


class RayCastLidar(Rotating):
    """Points with the intensity exp(-a d), dropped and blurred as the attributes say."""

    kind = "lidar"

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        self.random = generator(actor.attributes, self.kind)
        self.attenuation, self.general, self.limit, self.zero, self.noise = self.numbers(
            "atmosphere_attenuation_rate", "dropoff_general_rate", "dropoff_intensity_limit",
            "dropoff_zero_intensity", "noise_stddev",
        )  # fmt: skip

    def read(self, world: Surroundings, delta: float) -> Iterable[Payload]:
        """One sweep."""
        directions, channel = self.sweep(delta)
        if self.general > 0.0:
            kept = self.random.random(len(channel)) >= self.general
            directions, channel = directions[kept], channel[kept]
        distance, *_ = beams(world, self.actor, directions, self.range)
        hit = np.isfinite(distance)
        distance, directions, channel = distance[hit], directions[hit], channel[hit]
        intensity = np.exp(-self.attenuation * distance)
        if self.noise > 0.0:
            distance = distance + self.noise * self.random.standard_normal(len(distance))
        if self.zero > 0.0 and self.limit > 0.0:
            chance = self.zero / self.limit * intensity + 1.0 - self.zero
            lucky = self.random.random(len(intensity)) < chance
            kept = (intensity > self.limit) | lucky
            distance, directions = distance[kept], directions[kept]
            channel, intensity = channel[kept], intensity[kept]
        points = np.column_stack([directions * distance[:, None], intensity]).astype(np.float32)
        yield Lidar(math.radians(self.angle), self.counts(channel), points)


class RayCastSemanticLidar(Rotating):
    """Points that tell what they met; neither noise nor drop-off."""

    kind = "semantic_lidar"

    def read(self, world: Surroundings, delta: float) -> Iterable[Payload]:
        """One sweep."""
        directions, channel = self.sweep(delta)
        distance, tag, instance, cosine = beams(world, self.actor, directions, self.range)
        hit = np.isfinite(distance)
        points = np.empty(int(hit.sum()), SEMANTIC_POINT)
        points["xyz"] = directions[hit] * distance[hit, None]
        points["cosine"] = cosine[hit]
        points["instance"] = instance[hit]
        points["tag"] = tag[hit]
        yield SemanticLidar(math.radians(self.angle), self.counts(channel[hit]), points)


class RadarSensor(Sensor):
    """Random rays in an elliptic cone; each echo carries the speed along its ray."""

    kind = "radar"

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        self.random = generator(actor.attributes, self.kind)
        across, up, self.range, self.rate = self.numbers(
            "horizontal_fov", "vertical_fov", "range", "points_per_second"
        )
        self.reach = np.tan(np.radians((across / 2, up / 2)))  # at a depth of 1
        self._place: np.ndarray | None = None

    def forget(self) -> None:
        super().forget()
        self._place = None

    def read(self, world: Surroundings, delta: float) -> Iterable[Payload]:
        """The echoes of one tick."""
        n = int(min(self.rate * delta, MOST_RAYS))
        radius, angle = self.random.random(n), self.random.random(n) * 2 * math.pi
        off = self.reach * np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
        local = np.column_stack([np.ones(n), off])
        local /= np.linalg.norm(local, axis=1, keepdims=True)
        pose = world.transform(self.actor.id)
        place = np.array(pose[:3])
        own = np.zeros(3) if self._place is None else (place - self._place) / delta
        self._place = place
        distance, _, instance, _ = beams(world, self.actor, local, self.range)
        hit = np.isfinite(distance)
        local, distance, instance = local[hit], distance[hit], instance[hit]
        theirs = np.zeros((len(distance), 3))
        for number in np.unique(instance):
            theirs[instance == number] = world.motion(int(number))[0]
        along = ((theirs - own) * (local @ pose.matrix()[:3, :3].T)).sum(1)
        azimuth = np.arctan2(local[:, 1], local[:, 0])
        altitude = np.arcsin(np.clip(local[:, 2], -1.0, 1.0))
        yield Radar(np.column_stack([along, azimuth, altitude, distance]).astype(np.float32))


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

    def read(self, world: Surroundings, delta: float) -> Iterable[Payload]:
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

    def read(self, world: Surroundings, delta: float) -> Iterable[Payload]:
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

    def read(self, world: Surroundings, delta: float) -> Iterable[Payload]:
        """What its parent met."""
        return [c for c in world.collisions if c.actor.id == self.actor.parent]


class ObstacleSensor(Sensor):
    """The nearest thing that a ray ahead, or one of eight about it at ``hit_radius``, meets."""

    kind = "obstacle"

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        self.distance, radius = self.numbers("distance", "hit_radius")
        self.moving_only = truth(actor.attributes["only_dynamics"])
        around = np.arange(8) * math.pi / 4
        self.starts = np.zeros((9, 3))
        self.starts[1:, 1] = radius * np.cos(around)
        self.starts[1:, 2] = radius * np.sin(around)

    def read(self, world: Surroundings, delta: float) -> Iterable[Payload]:
        """What is ahead, if anything is."""
        ahead = np.tile((1.0, 0.0, 0.0), (9, 1))
        distance, tag, instance, _ = beams(world, self.actor, ahead, self.distance, self.starts)
        wanted = np.isin(tag, DYNAMIC_TAGS) if self.moving_only else ~np.isin(tag, GROUND_TAGS)
        distance = np.where(wanted, distance, np.inf)
        nearest = int(distance.argmin())
        if math.isfinite(distance[nearest]) and self.actor.parent:
            other = world.met(int(instance[nearest]), int(tag[nearest]))
            parent = world.met(self.actor.parent, 0)
            yield Obstacle(parent, other, float(distance[nearest]))


def beams(
    world: Surroundings,
    actor: Actor,
    directions: np.ndarray,
    reach: float,
    starts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rays (n, 3) in the frame of ``actor``: distance (n; inf: nothing), tag, instance, cosine.

    The parent's own box does not stand in the way of a sensor inside it.
    """
    pose, scene = world.transform(actor.id), world.scene()
    origins = np.zeros_like(directions) if starts is None else starts
    outside = ~_inside(scene, np.array(pose[:3]), actor.parent)
    if not outside.all():
        scene = replace(scene, moving=scene.moving.take(outside))
    turned = directions @ pose.matrix()[:3, :3].T
    return cast(scene, pose.apply(origins), turned, reach)


def _inside(scene: Scene, point: np.ndarray, parent: int) -> np.ndarray:
    """(K) bool: moving boxes of ``parent`` that hold ``point``."""
    boxes = scene.moving
    held = boxes.instance == parent
    if parent and held.any():
        away = point - boxes.centre
        c, s = np.cos(boxes.yaw), np.sin(boxes.yaw)
        local = np.abs(
            np.column_stack([c * away[:, 0] + s * away[:, 1], c * away[:, 1] - s * away[:, 0]])
        )
        held &= (local <= boxes.half[:, :2]).all(1) & (np.abs(away[:, 2]) <= boxes.half[:, 2])
        return held
    return np.zeros(len(boxes), bool)


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
    world: Surroundings, sensors: Iterable[Sensor], delta: float, renderer: Renderer | None
) -> list[Reading]:
    """Readings of all listened ``sensors`` that are due, in the order given."""
    now = [(s, since) for s in sensors if s.listened and (since := s.due(world.elapsed, delta))]
    cameras = [s for s, _ in now if isinstance(s, Camera)]
    images: dict[int, Any] = take(world, cameras, renderer) if renderer and cameras else {}
    readings: list[Reading] = []
    for sensor, since in now:
        if isinstance(sensor, Camera):
            if sensor.actor.id in images:
                readings.append((sensor.actor, sensor.kind, images[sensor.actor.id]))
        else:
            readings += [(sensor.actor, sensor.kind, p) for p in sensor.read(world, since)]
    return readings
