"""A drive with every sensor, as hashes: two servers with the same seed must give the same ones."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import carla
from harness import CAR, Session, ahead, main, vector

SMALL = {"image_size_x": 80, "image_size_y": 40}
SENSORS: dict[str, dict[str, Any]] = {
    "sensor.camera.rgb": SMALL,
    "sensor.camera.depth": SMALL,
    "sensor.camera.semantic_segmentation": SMALL,
    "sensor.camera.instance_segmentation": SMALL,
    "sensor.lidar.ray_cast": {"range": 40, "points_per_second": 40_000, "noise_stddev": 0.05},
    "sensor.lidar.ray_cast_semantic": {"range": 40, "points_per_second": 40_000},
    "sensor.other.radar": {},
    "sensor.other.gnss": {"noise_lat_stddev": 1e-5, "noise_seed": 3},
    "sensor.other.imu": {"noise_accel_stddev_x": 0.1, "noise_seed": 3},
}
TICKS = 60


def content(datum: Any) -> bytes:
    """Every value of a sensor's datum, frame number aside: it counts from the server's start."""
    pose = datum.transform
    place = struct.pack(
        "<6d", *vector(pose.location), pose.rotation.pitch, pose.rotation.yaw, pose.rotation.roll
    )
    if hasattr(datum, "raw_data"):
        return place + bytes(datum.raw_data)
    if isinstance(datum, carla.GnssMeasurement):
        return place + struct.pack("<3d", datum.latitude, datum.longitude, datum.altitude)
    return place + struct.pack(
        "<7d", *vector(datum.accelerometer), *vector(datum.gyroscope), datum.compass
    )


def check_drive(s: Session) -> dict[str, Any]:
    """Three seconds with steering, among other cars and walkers; one SHA-256 a sensor."""
    s.world = s.client.reload_world(False)
    s.map = s.world.get_map()
    s.world.set_weather(carla.WeatherParameters.MidRainSunset)
    place = s.straight(60)
    car = s.spawn(CAR, place, role_name="hero")
    s.spawn("vehicle.audi.tt", ahead(place, 12))
    s.spawn("walker.pedestrian.0003", ahead(place, 8, 4, 0.8))
    mount = carla.Transform(carla.Location(0.5, 0, 2.2), carla.Rotation(pitch=-5, yaw=10))
    mails = {kind: s.sensor(kind, mount, car, **options) for kind, options in SENSORS.items()}
    hashes = {kind: hashlib.sha256() for kind in (*SENSORS, "snapshot")}
    total = dict.fromkeys(SENSORS, 0)
    first = s.world.get_snapshot().timestamp.elapsed_seconds
    for i in range(TICKS):
        control = carla.VehicleControl(throttle=0.6, steer=0.15 * (i > 20) - 0.3 * (i > 40))
        car.apply_control(control)
        frame = s.tick()
        for kind, mail in mails.items():
            data = content(mail.at(frame))
            hashes[kind].update(data)
            total[kind] += len(data)
        snapshot = s.world.get_snapshot()
        for actor in sorted(snapshot, key=lambda a: a.id):
            pose = actor.get_transform()
            row = [*vector(pose.location), pose.rotation.yaw, *vector(actor.get_velocity())]
            hashes["snapshot"].update(json.dumps([round(v, 9) for v in row]).encode())
    assert all(size > 48 * TICKS for size in total.values()), total
    last = s.world.get_snapshot().timestamp.elapsed_seconds
    assert abs(last - first - TICKS * 0.05) < 1e-4
    return {kind: h.hexdigest() for kind, h in hashes.items()}


if __name__ == "__main__":
    main(globals())
