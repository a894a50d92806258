"""What a sensor has found, as the bytes of its stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apps.driving.world.protocol import layouts
from apps.driving.world.protocol.layouts import SensorType
from apps.driving.world.sensors.payloads import (
    Collision,
    Gnss,
    Image,
    Imu,
    Lidar,
    Obstacle,
    Payload,
    Radar,
    SemanticLidar,
)
from apps.driving.world.simulation.actors import Actor

CAMERAS = {
    "sensor.camera.rgb": SensorType.RGB_CAMERA,
    "sensor.camera.depth": SensorType.DEPTH_CAMERA,
    "sensor.camera.semantic_segmentation": SensorType.SEMANTIC_CAMERA,
    "sensor.camera.instance_segmentation": SensorType.INSTANCE_CAMERA,
}


def encode(
    sensor: Actor, payload: Payload, actor_out: Callable[[Actor], list[Any]]
) -> tuple[SensorType, bytes]:
    """The serializer's index and the data after the sensor's header.

    ``actor_out`` writes an actor as clients read it. Raises KeyError for a camera and TypeError for
    a payload that 0.9.16's client would not know.
    """
    match payload:
        case Image(bgra, width, height, fov):
            return CAMERAS[sensor.type_id], layouts.image(width, height, fov, bgra)
        case Lidar(angle, counts, points):
            return SensorType.LIDAR, layouts.lidar(angle, counts, points)
        case SemanticLidar(angle, counts, points):
            return SensorType.SEMANTIC_LIDAR, layouts.semantic_lidar(angle, counts, points)
        case Radar(detections):
            return SensorType.RADAR, layouts.radar(detections)
        case Gnss(latitude, longitude, altitude):
            return SensorType.GNSS, layouts.gnss(latitude, longitude, altitude)
        case Imu(accelerometer, gyroscope, compass):
            return SensorType.IMU, layouts.imu(accelerometer, gyroscope, compass)
        case Collision(actor, other, impulse):
            data = layouts.collision(actor_out(actor), actor_out(other), impulse)
            return SensorType.COLLISION, data
        case Obstacle(actor, other, distance):
            data = layouts.obstacle(actor_out(actor), actor_out(other), distance)
            return SensorType.OBSTACLE, data
    raise TypeError(f"no layout for {type(payload).__name__}")
