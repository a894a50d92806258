"""Sensors that follow rays: lidars, radar, obstacle detector.

Formulas follow CARLA's documentation (``Docs/ref_sensors.md``) and were checked against
``Sensor/RayCastLidar.cpp`` and ``Sensor/Radar.cpp`` of carla-simulator/carla.

Deviates from CARLA: noise is drawn from a NumPy generator of the sensor's ``noise_seed`` and its kind,
so that clouds differ from CARLA's bit by bit though not in distribution; the obstacle detector sweeps
nine rays instead of a capsule and does not report the ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from apps.driving.world.render.scene import Scene
from apps.driving.world.sensors.base import Senses, Sensor, generator
from apps.driving.world.sensors.payloads import (
    SEMANTIC_POINT,
    Lidar,
    Obstacle,
    Payload,
    Radar,
    SemanticLidar,
)
from apps.driving.world.sensors.raycast import cast
from apps.driving.world.simulation.actors import Actor
from apps.driving.world.simulation.blueprints import truth
from apps.driving.world.tags import Tag

MOST_RAYS = 1_000_000
"""Rays of one reading: 0.4 GB while they are followed. A lidar of 20 million points a second, or one
that is read every hour, gets its first million."""
GROUND_TAGS = (Tag.ROADS, Tag.SIDEWALKS, Tag.TERRAIN, Tag.ROAD_LINES, Tag.GROUND, Tag.WATER)
DYNAMIC_TAGS = (
    Tag.PEDESTRIANS, Tag.RIDER, Tag.CAR, Tag.TRUCK, Tag.BUS, Tag.TRAIN, Tag.MOTORCYCLE, Tag.BICYCLE,
)  # fmt: skip


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

    def read(self, world: Senses, delta: float) -> Iterable[Payload]:
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

    def read(self, world: Senses, delta: float) -> Iterable[Payload]:
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

    def read(self, world: Senses, delta: float) -> Iterable[Payload]:
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

    def read(self, world: Senses, delta: float) -> Iterable[Payload]:
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
    world: Senses,
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
