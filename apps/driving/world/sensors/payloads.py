"""What sensors tell, in the units and the order of CARLA 0.9.16 (``Docs/ref_sensors.md``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apps.driving.world.simulation.actors import Actor


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
