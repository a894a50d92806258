"""Lidar, semantic lidar, radar and the obstacle detector, against a parked car."""

from __future__ import annotations

import itertools
from typing import Any

import carla
import numpy as np
from harness import DT, Session, ahead, close_to, main, speed, vector

FULL = {
    "channels": 32,
    "range": 60,
    "points_per_second": 640_000,
    "rotation_frequency": 20,
    "upper_fov": 10,
    "lower_fov": -30,
}
"""A full turn of a thousand columns in each frame at 20 Hz."""
EXACT = {
    "dropoff_general_rate": 0.0,
    "dropoff_intensity_limit": 0.0,
    "dropoff_zero_intensity": 0.0,
    "noise_stddev": 0.0,
}
HEIGHT = 2.2
MOUNT = carla.Transform(carla.Location(z=HEIGHT))
SEMANTIC = np.dtype(
    [("x", "f4"), ("y", "f4"), ("z", "f4"), ("cosine", "f4"), ("index", "u4"), ("tag", "u4")]
)


def two_cars(s: Session, gap: float) -> tuple[Any, Any]:
    place = s.straight(gap + 30)
    behind = s.car(place, settle=0)
    return behind, s.car(ahead(place, gap))


def points_of(scan: Any) -> np.ndarray:
    """(n, 4) of x, y, z, intensity in the sensor's frame."""
    return np.frombuffer(scan.raw_data, np.float32).reshape(-1, 4)


def world_points(scan: Any, points: np.ndarray) -> np.ndarray:
    matrix = np.array(scan.transform.get_matrix())
    return points[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]


def check_lidar(s: Session) -> dict[str, Any]:
    """Layout, range, intensity, the ground at its height and the car ahead at its distance."""
    behind, front = two_cars(s, 15.0)
    mail = s.sensor("sensor.lidar.ray_cast", MOUNT, behind, **FULL, **EXACT)
    s.tick(2)
    scan = mail.at(s.tick())
    points = points_of(scan)
    assert len(points) == len(scan) == sum(scan.get_point_count(c) for c in range(scan.channels))
    assert scan.channels == 32
    assert len(points) > 5000
    distance = np.linalg.norm(points[:, :3], axis=1)
    assert distance.max() < 60.5
    close_to(points[:, 3], np.exp(-0.004 * distance), 0.02, "intensity, exp(-0.004 d)")
    first = scan[0]
    close_to(vector(first.point), points[0, :3], 1e-4, "first point")
    close_to(first.intensity, points[0, 3], 1e-5, "first intensity")
    azimuth = np.degrees(np.arctan2(points[:, 1], points[:, 0]))
    seen = np.histogram(azimuth, 12, (-180, 180))[0]
    assert (seen > 0).all(), f"points by 30 degrees of azimuth: {seen.tolist()}"
    elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
    assert elevation.min() > -30.7
    assert elevation.max() < 10.7
    placed = world_points(scan, points)
    local = [
        front.get_transform().inverse_transform(carla.Location(*map(float, p))) for p in placed
    ]
    box, half = front.bounding_box.location, front.bounding_box.extent
    off = np.abs(np.array([vector(p) for p in local]) - vector(box)) - vector(half)
    hits = int((off.max(axis=1) < 0.15).sum())
    assert hits > 15, f"{hits} points on the car 15 m ahead"
    ground = placed[(distance < 20) & (elevation < -8) & (np.abs(points[:, 1]) < 1.5)]
    road = s.map.get_waypoint(behind.get_location()).transform.location.z
    close_to(np.median(ground[:, 2]), road, 0.3, "height of the road")
    return {"points": len(points), "on_the_car": hits}


def check_lidar_rate(s: Session) -> dict[str, Any]:
    """Never more points than points_per_second allows; half of them with half the drop-off."""
    car = s.car(s.straight(40))
    counts = []
    for rate in (0.0, 0.5):
        mail = s.sensor(
            "sensor.lidar.ray_cast", MOUNT, car, **(FULL | EXACT | {"dropoff_general_rate": rate})
        )
        s.tick()
        counts.append(np.mean([len(mail.at(s.tick())) for _ in range(4)]))
        mail.sensor.destroy()
        s.tick()
    assert counts[0] <= 640_000 * DT * 1.01
    close_to(counts[1] / counts[0], 0.5, 0.06, "share left")
    return {"points": counts}


def check_lidar_turns(s: Session) -> dict[str, Any]:
    """At 5 turns a second and 20 frames, each frame covers a quarter, the next one the next."""
    car = s.car(s.straight(40))
    mail = s.sensor(
        "sensor.lidar.ray_cast", MOUNT, car, **(FULL | EXACT | {"rotation_frequency": 5})
    )
    s.tick()
    middles, spans = [], []
    for _ in range(4):
        points = points_of(mail.at(s.tick())).astype(float)
        angle = np.arctan2(points[:, 1], points[:, 0])
        middle = np.angle(np.exp(1j * angle).mean())
        middles.append(np.degrees(middle))
        spread = np.degrees(np.angle(np.exp(1j * (angle - middle))))
        spans.append(np.ptp(spread))
    close_to(spans, [90] * 4, 12, "degrees in a frame")
    steps = [(b - a) % 360 for a, b in itertools.pairwise(middles)]
    close_to(steps, [90] * 3, 12, "degrees from frame to frame")
    return {"degrees": spans}


def check_lidar_noise(s: Session) -> dict[str, Any]:
    """noise_stddev moves points along their ray."""
    car = s.car(s.straight(40))
    spread = {}
    for stddev in (0.0, 0.2):
        mail = s.sensor(
            "sensor.lidar.ray_cast", MOUNT, car, **(FULL | EXACT | {"noise_stddev": stddev})
        )
        s.tick()
        points = points_of(mail.at(s.tick()))
        elevation = np.arctan2(-points[:, 2], np.hypot(points[:, 0], points[:, 1]))
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        # The road ahead, beyond the bonnet: 5 to 10 m.
        road = (np.abs(azimuth) < 0.15) & (elevation > 0.21) & (elevation < 0.38)
        points, elevation = points[road], elevation[road]
        # On flat ground the true range of a ray is height / sin(elevation).
        spread[stddev] = float(
            np.std(np.linalg.norm(points[:, :3], axis=1) - HEIGHT / np.sin(elevation))
        )
        mail.sensor.destroy()
        s.tick()
    assert spread[0.2] > spread[0.0] + 0.08, spread
    return {str(k): v for k, v in spread.items()}


def check_semantic_lidar(s: Session) -> dict[str, Any]:
    """Tags and actors' numbers; the car ahead is its own actor."""
    behind, front = two_cars(s, 15.0)
    mail = s.sensor("sensor.lidar.ray_cast_semantic", MOUNT, behind, **FULL)
    s.tick(2)
    scan = mail.at(s.tick())
    points = np.frombuffer(scan.raw_data, SEMANTIC)
    assert len(points) == len(scan) == sum(scan.get_point_count(c) for c in range(scan.channels))
    first = scan[0]
    assert first.object_tag == points["tag"][0]
    assert first.object_idx == points["index"][0]
    assert (np.abs(points["cosine"]) <= 1.001).all()
    tags = set(np.unique(points["tag"]).tolist())
    assert tags <= set(range(29))
    assert {1, 14} & tags == {1, 14}, f"tags {tags}"
    cars = points[points["tag"] == 14]
    numbers = set(np.unique(cars["index"]).tolist())
    assert front.id in numbers, f"the car ahead is {front.id}, hit were {numbers}"
    mine = cars[cars["index"] == front.id]
    flat = np.column_stack([mine["x"], mine["y"], mine["z"]])
    ahead_of_us = 15 - front.bounding_box.extent.x
    close_to(np.percentile(flat[:, 0], 5), ahead_of_us, 0.9, "metres to the car's back")
    roads = points[points["tag"] == 1]
    close_to(np.median(roads["z"]), -HEIGHT, 0.35, "height of the road below the sensor")
    return {"points": len(points), "on_the_car": len(mine), "tags": sorted(tags)}


def check_radar(s: Session) -> dict[str, Any]:
    """Driving at 8 m/s towards a parked car: it comes at 8 m/s (negative), at its distance."""
    behind, front = two_cars(s, 40.0)
    mount = carla.Transform(carla.Location(x=2.5, z=1.0))
    mail = s.sensor(
        "sensor.other.radar", mount, behind,
        horizontal_fov=10, vertical_fov=6, range=80, points_per_second=20_000,
    )  # fmt: skip
    behind.enable_constant_velocity(carla.Vector3D(8, 0, 0))
    s.tick(20)
    scan = mail.at(s.tick())
    rows = np.frombuffer(scan.raw_data, np.float32).reshape(-1, 4)
    assert len(rows) == len(scan) == scan.get_detection_count() > 20
    first = scan[0]
    close_to([first.velocity, first.azimuth, first.altitude, first.depth], rows[0], 1e-4, "first")
    velocity, azimuth, altitude, depth = rows.T.astype(float)
    assert np.abs(np.degrees(azimuth)).max() < 5.2
    assert np.abs(np.degrees(altitude)).max() < 3.2
    assert depth.max() < 80.5
    gap = scan.transform.location.distance(front.get_location()) - front.bounding_box.extent.x
    on_car = (np.abs(depth - gap) < 1.5) & (np.abs(azimuth * depth) < 1)
    assert on_car.sum() > 5, f"{on_car.sum()} detections at {gap:.1f} m"
    close_to(np.median(velocity[on_car]), -speed(behind), 0.8, "velocity of the parked car")
    return {
        "detections": len(rows),
        "on_the_car": int(on_car.sum()),
        "velocity": float(np.median(velocity[on_car])),
    }


def check_obstacle(s: Session) -> dict[str, Any]:
    """The car 10 m ahead is reported with its actor; one 30 m away is not."""
    found = {}
    for gap in (10.0, 30.0):
        behind, front = two_cars(s, gap)
        mail = s.sensor(
            "sensor.other.obstacle", carla.Transform(carla.Location(x=2.5, z=0.9)), behind,
            distance=15, hit_radius=0.5, only_dynamics=True,
        )  # fmt: skip
        s.tick(10)
        events = mail.drain()
        found[gap] = len(events)
        if gap == 10.0:
            assert events, "nothing was reported"
            assert {e.other_actor.id for e in events} == {front.id}
            assert events[-1].actor.id == behind.id
            assert 2 < events[-1].distance < 10.5, f"{events[-1].distance} m"
        for actor in (mail.sensor, behind, front):
            actor.destroy()
        s.tick()
    assert found[30.0] == 0
    return {str(k): v for k, v in found.items()}


def check_obstacle_in_the_world(s: Session) -> dict[str, Any]:
    """With only_dynamics off, what stands beside the road is found too, to one side at least."""
    car = s.car(s.straight(40))
    mails = [
        s.sensor(
            "sensor.other.obstacle",
            carla.Transform(carla.Location(z=1.0), carla.Rotation(yaw=yaw)),
            car,
            distance=100,
            hit_radius=0.5,
            only_dynamics=False,
        )
        for yaw in (-135, -90, -45, 45, 90, 135)
    ]
    s.tick(5)
    events = [e for mail in mails for e in mail.drain(0.05)]
    assert events, "nothing within 100 m in six directions"
    assert all(e.other_actor.id != car.id for e in events)
    assert all(0 < e.distance <= 100.5 for e in events)
    return {"kinds": sorted({e.other_actor.type_id for e in events})}


if __name__ == "__main__":
    main(globals())
