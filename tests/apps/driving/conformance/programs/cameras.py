"""Cameras: encodings, geometry, timing.  The truth is a parked car at a known place."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import carla
import numpy as np
from harness import (
    EMBEDDED,
    Inbox,
    Session,
    ahead,
    close_to,
    depth_metres,
    main,
    pixels,
    vector,
)

KINDS = ("rgb", "depth", "semantic_segmentation", "instance_segmentation")
CAR_TAG, ROAD, LINES, SKY = 14, 1, 24, 11
SIZE = {"image_size_x": 320, "image_size_y": 160, "fov": 60}


def two_cars(s: Session, gap: float = 15.0) -> tuple[Any, Any]:
    """One car, and another ``gap`` m ahead of its centre in the same lane."""
    place = s.straight(gap + 30)
    behind = s.car(place, settle=0)
    front = s.car(ahead(place, gap))
    return behind, front


def camera(s: Session, kind: str, place: carla.Transform, parent: Any = None, **more: Any) -> Inbox:
    return s.sensor(f"sensor.camera.{kind}", place, parent, **(SIZE | more))


def project(
    points: np.ndarray, pose: carla.Transform, size: tuple[int, int], fov: float
) -> np.ndarray:
    """World points (n, 3) as columns u, v (pixels) and depth (m) of a camera at ``pose``: (n, 3)."""
    width, height = size
    inverse = np.array(pose.get_inverse_matrix())
    local = points @ inverse[:3, :3].T + inverse[:3, 3]
    focal = width / 2 / np.tan(np.radians(fov) / 2)
    depth = local[:, 0]
    u = width / 2 + focal * local[:, 1] / depth
    v = height / 2 - focal * local[:, 2] / depth
    return np.column_stack([u, v, depth])


def corners(actor: carla.Actor) -> np.ndarray:
    """(8, 3) world coordinates of an actor's bounding box."""
    box = actor.bounding_box
    return np.array([vector(v) for v in box.get_world_vertices(actor.get_transform())])


def check_frames(s: Session) -> dict[str, Any]:
    """Four cameras, one image each a tick, all of that frame, time and place."""
    car = s.car(s.straight(60))
    mount = carla.Transform(carla.Location(1.3, 0, 2.3), carla.Rotation(yaw=-60))
    size = {"image_size_x": 96, "image_size_y": 48, "fov": 75}
    mails = [s.sensor(f"sensor.camera.{kind}", mount, car, **size) for kind in KINDS]
    car.apply_control(carla.VehicleControl(throttle=0.6))
    s.tick(2)
    for _ in range(15):
        frame = s.tick()
        stamp = s.world.get_snapshot().timestamp
        images = [mail.at(frame) for mail in mails]
        for image in images:
            close_to(image.timestamp, stamp.elapsed_seconds, 1e-6, "timestamp")
            assert (image.width, image.height) == (96, 48)
            close_to(image.fov, 75, 1e-4, "fov")
            assert len(image.raw_data) == 96 * 48 * 4
            assert image.transform == images[0].transform
    extra = sum(len(mail.drain(0.1)) for mail in mails)
    assert extra == 0, f"{extra} images too many"
    return {"images": 4 * 15}


def check_encodings(s: Session) -> dict[str, Any]:
    """Bytes are blue, green, red, alpha; the tag is in red; depth spans three bytes."""
    behind, _ = two_cars(s)
    mount = carla.Transform(carla.Location(x=1.5, z=2.0))
    mails = {kind: camera(s, kind, mount, behind) for kind in KINDS}
    frame = s.tick(3)
    images = {kind: mail.at(frame) for kind, mail in mails.items()}
    rgb, semantic, instance = (pixels(images[k]) for k in (KINDS[0], KINDS[2], KINDS[3]))
    for kind in ("rgb", "semantic_segmentation", "instance_segmentation"):
        assert (pixels(images[kind])[..., 3] == 255).all(), f"alpha of {kind}"
    assert rgb[..., :3].std() > 5, "a picture of one colour"
    assert (semantic[..., :2] == 0).all(), "only red carries the tag"
    tags = set(np.unique(semantic[..., 2]).tolist())
    assert tags <= set(range(29)), tags
    assert {ROAD, CAR_TAG} <= tags, tags
    assert np.mean(instance[..., 2] == semantic[..., 2]) > 0.98, "instance and semantic tags differ"
    metres = depth_metres(images["depth"])
    assert metres.min() > 0.2
    assert metres[semantic[..., 2] == SKY].min(initial=1000) > 200, "the sky is far"
    assert metres[-1, 160] < metres[100, 160], "the road comes nearer towards the bottom"
    return {"tags": sorted(tags), "mean_rgb": rgb[..., 2::-1].mean(axis=(0, 1)).round(1).tolist()}


def check_depth_of_a_car(s: Session) -> dict[str, Any]:
    """The car ahead is as far as its bounding box says; its pixels are where its box projects."""
    behind, front = two_cars(s, 15.0)
    mount = carla.Transform(carla.Location(x=2.0, z=1.2))
    depth = camera(s, "depth", mount, behind)
    semantic = camera(s, "semantic_segmentation", mount, behind)
    frame = s.tick(3)
    image = depth.at(frame)
    metres, mask = depth_metres(image), pixels(semantic.at(frame))[..., 2] == CAR_TAG
    seen = project(corners(front), image.transform, (320, 160), 60)
    nearest = float(seen[:, 2].min())
    rows, columns = np.nonzero(mask)
    assert len(rows) > 100, "the car ahead is not in the semantic image"
    found = float(np.median(metres[mask]))
    # A real car's back is curved, up to about half a metre behind its box.
    assert nearest - 0.2 < found < nearest + 1.6, (
        f"{found:.2f} m; its box begins at {nearest:.2f} m"
    )
    box = np.array([seen[:, 0].min(), seen[:, 1].min(), seen[:, 0].max(), seen[:, 1].max()])
    mine = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    low, high = np.maximum(box[:2], mine[:2]), np.minimum(box[2:], mine[2:])
    common = np.prod(np.maximum(high - low, 0))
    union = np.prod(box[2:] - box[:2]) + np.prod(mine[2:] - mine[:2]) - common
    overlap = float(common / union)
    assert overlap > 0.6, (
        f"its pixels {mine} cover its projected box {box.round()} by {overlap:.2f}"
    )
    return {"depth_m": found, "box_m": nearest, "overlap": overlap}


def check_depth_of_the_road(s: Session) -> dict[str, Any]:
    """Straight down from 10 m: the road, 10 m away; along the road: the plane's perspective."""
    lane = s.map.get_waypoint(s.straight(60).location).transform
    above = ahead(lane, 10, z=10)
    above.rotation = carla.Rotation(pitch=-90, yaw=lane.rotation.yaw)
    mails = [camera(s, kind, above) for kind in ("depth", "semantic_segmentation")]
    level = ahead(lane, 0, z=2)
    along = camera(s, "depth", level)
    frame = s.tick(3)
    metres, tags = depth_metres(mails[0].at(frame)), pixels(mails[1].at(frame))[..., 2]
    middle = float(np.median(metres[70:90, 150:170]))
    close_to(middle, 10, 0.35, "metres to the road straight down")
    assert set(np.unique(tags[75:85, 155:165]).tolist()) <= {ROAD, LINES}
    ground = depth_metres(along.at(frame))
    focal = 160 / np.tan(np.radians(30))
    for row in (120, 140, 155):
        wanted = 2 * focal / (row + 0.5 - 80)
        close_to(ground[row, 160], wanted, 0.06 * wanted, f"metres to the road in row {row}")
    return {"straight_down_m": middle}


def check_instances(s: Session) -> dict[str, Any]:
    """Two cars have two numbers, the same ones in the next frame."""
    place = s.straight(60)
    behind = s.car(place, settle=0)
    s.car(ahead(place, 12, z=0), settle=0)
    second = s.map.get_waypoint(ahead(place, 22).location)
    side = second.get_left_lane()
    other = side.transform if side is not None else second.transform
    other.location.z += 0.4
    s.car(other)
    mail = camera(
        s, "instance_segmentation", carla.Transform(carla.Location(x=1, z=4)), behind, fov=90
    )
    numbers = []
    for _ in range(2):
        bgra = pixels(mail.at(s.tick()))
        cars = bgra[bgra[..., 2] == CAR_TAG]
        number = cars[:, 1] + 256 * cars[:, 0].astype(int)
        identity, count = np.unique(number, return_counts=True)
        numbers.append(set(identity[count > 20].tolist()))
    assert len(numbers[0]) >= 2, f"the instances of two cars: {numbers[0]}"
    assert numbers[0] == numbers[1]
    return {"numbers": sorted(numbers[0])}


def check_poses(s: Session) -> dict[str, Any]:
    """Cameras that yaw, pitch and roll: the car ahead is where the projection says."""
    behind, front = two_cars(s, 14.0)
    mounts = [
        carla.Transform(carla.Location(1.0, -0.5, 2.2), carla.Rotation(yaw=15)),
        carla.Transform(carla.Location(0.0, 0.8, 3.0), carla.Rotation(yaw=-12, pitch=-10)),
        carla.Transform(carla.Location(2.6, 0.0, 2.5), carla.Rotation(pitch=-8, roll=25)),
        carla.Transform(carla.Location(2.6, 0.3, 2.5), carla.Rotation(yaw=10, pitch=5, roll=-30)),
    ]
    mails = [camera(s, "semantic_segmentation", m, behind, fov=80) for m in mounts]
    frame = s.tick(3)
    offsets = []
    for mail in mails:
        image = mail.at(frame)
        rows, columns = np.nonzero(pixels(image)[..., 2] == CAR_TAG)
        assert len(rows) > 30, "the car ahead is not in the picture"
        seen = project(corners(front), image.transform, (320, 160), 80)
        box = (
            np.array([(seen[:, 0].min() + seen[:, 0].max()), (seen[:, 1].min() + seen[:, 1].max())])
            / 2
        )
        found = np.array([columns.min() + columns.max() + 1, rows.min() + rows.max() + 1]) / 2
        offsets.append(float(np.abs(found - box).max()))
    assert max(offsets) < 6, f"the car is {offsets} pixels from where it should be"
    return {"offsets_px": offsets}


def check_fov(s: Session) -> dict[str, Any]:
    """The car's width in pixels follows the focal length."""
    behind, _ = two_cars(s, 20.0)
    mount = carla.Transform(carla.Location(x=2, z=1.2))
    mails = [camera(s, "semantic_segmentation", mount, behind, fov=fov) for fov in (30, 60, 110)]
    frame = s.tick(3)
    widths = []
    for mail in mails:
        columns = np.nonzero((pixels(mail.at(frame))[..., 2] == CAR_TAG).any(0))[0]
        widths.append(float(np.ptp(columns) + 1))
    for fov, width in zip((30, 60), widths[:2], strict=True):
        wanted = np.tan(np.radians(55)) / np.tan(np.radians(fov / 2))
        close_to(width / widths[2], wanted, 0.12 * wanted, f"widening from 110 to {fov} degrees")
    return {"widths_px": widths}


def check_converters(s: Session) -> dict[str, Any]:
    """The client's converters accept the images."""
    behind, _ = two_cars(s)
    mount = carla.Transform(carla.Location(x=1.5, z=2.0))
    semantic = camera(s, "semantic_segmentation", mount, behind)
    depth = camera(s, "depth", mount, behind)
    frame = s.tick(3)
    image, metres = semantic.at(frame), depth.at(frame)
    tags = pixels(image)[..., 2].copy()
    image.convert(carla.ColorConverter.CityScapesPalette)
    painted = pixels(image)
    assert (painted[tags == CAR_TAG][:, 2::-1] == [0, 0, 142]).all()
    assert (painted[tags == ROAD][:, 2::-1] == [128, 64, 128]).all()
    far = depth_metres(metres).copy()
    metres.convert(carla.ColorConverter.LogarithmicDepth)
    grey = pixels(metres)[..., 0].astype(int)
    low, high = np.percentile(far, (20, 80))
    near, distant = grey[far <= low].mean(), grey[far >= high].mean()
    assert near < distant, "logarithmic depth grows with distance"
    return {"grey_of_the_nearest": float(near), "grey_of_the_farthest": float(distant)}


def check_light(s: Session) -> dict[str, Any]:
    """Noon is brighter than midnight."""
    car = s.car(s.straight(40))
    mail = camera(s, "rgb", carla.Transform(carla.Location(x=1, z=2)), car)
    mean = {}
    for name, altitude in (("noon", 80.0), ("night", -80.0)):
        weather = carla.WeatherParameters.ClearNoon
        weather.sun_altitude_angle = altitude
        s.world.set_weather(weather)
        # CARLA's exposure adapts over a second or two.
        mean[name] = float(pixels(mail.at(s.tick(5 if EMBEDDED else 60)))[..., :3].mean())
    assert mean["noon"] > 1.2 * mean["night"], mean
    assert 40 < mean["noon"] < 220, mean
    return mean


def check_sensor_tick(s: Session) -> dict[str, Any]:
    """sensor_tick 0.2 s at 20 Hz: every fourth frame."""
    car = s.car()
    mount = carla.Transform(carla.Location(z=2))
    size = {"image_size_x": 32, "image_size_y": 16}
    mails = [
        s.sensor("sensor.camera.rgb", mount, car, sensor_tick=0.2, **size),
        s.sensor("sensor.other.gnss", mount, car, sensor_tick=0.2),
    ]
    s.tick(40)
    counts = [len(mail.drain()) for mail in mails]
    assert all(9 <= count <= 11 for count in counts), f"{counts} data in 2 s"
    return {"counts": counts}


def check_stop_and_listen_again(s: Session) -> dict[str, Any]:
    car = s.car()
    mail = camera(
        s, "rgb", carla.Transform(carla.Location(z=2)), car, image_size_x=32, image_size_y=16
    )
    mail.at(s.tick())
    mail.stop()
    assert not mail.sensor.is_listening()
    mail.drain()
    s.tick(5)
    assert mail.drain() == []
    again = Inbox(mail.sensor)
    s.tick()
    again.at(s.tick())
    return {}


def check_free_camera(s: Session) -> dict[str, Any]:
    """A camera without a parent stays where it is put, and can be moved."""
    lane = s.map.get_waypoint(s.straight(40).location).transform
    mail = camera(s, "depth", ahead(lane, 0, z=5), image_size_x=32, image_size_y=32)
    first = mail.at(s.tick(2)).transform
    close_to(vector(first.location), vector(ahead(lane, 0, z=5).location), 0.01, "location")
    there = ahead(lane, 10, z=8)
    there.rotation.pitch = -90
    mail.sensor.set_transform(there)
    s.tick()
    image = mail.at(s.tick())
    close_to(vector(image.transform.location), vector(there.location), 0.01, "location")
    close_to(np.median(depth_metres(image)[12:20, 12:20]), 8, 0.4, "metres to the road")
    return {}


def check_nine_cameras(s: Session) -> dict[str, Any]:
    """Three views of RGB, depth and semantics at 320 x 160; the rate is measured, not judged."""
    car = s.car(s.straight(60))
    mails = [
        camera(s, kind, carla.Transform(carla.Location(1.3, 0, 2.3), carla.Rotation(yaw=yaw)), car)
        for yaw in (-60, 0, 60)
        for kind in KINDS[:3]
    ]
    car.apply_control(carla.VehicleControl(throttle=0.5))
    s.tick(3)
    ticks = 20
    began = time.perf_counter()
    for _ in range(ticks):
        frame = s.tick()
        for mail in mails:
            mail.at(frame)
    return {"ticks_per_s": ticks / (time.perf_counter() - began)}


def check_saved_pictures(s: Session) -> dict[str, Any]:
    """Images and scans are written to files by the client."""
    car = s.car(s.straight(30))
    mount = carla.Transform(carla.Location(z=2.2))
    mails = {
        "picture.png": camera(s, "rgb", mount, car),
        "scan.ply": s.sensor("sensor.lidar.ray_cast", mount, car),
        "tags.ply": s.sensor("sensor.lidar.ray_cast_semantic", mount, car),
    }
    frame = s.tick(2)
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, mail in mails.items():
            path = os.path.join(folder, name)
            mail.at(frame).save_to_disk(path)
            sizes[name] = os.path.getsize(path)
    assert min(sizes.values()) > 100, sizes
    return sizes


def check_large_image(s: Session) -> dict[str, Any]:
    """1920 x 1080: eight megabytes in one datum."""
    car = s.car()
    mail = camera(
        s, "rgb", carla.Transform(carla.Location(z=2)), car, image_size_x=1920, image_size_y=1080
    )
    image = mail.at(s.tick(2))
    assert pixels(image).shape == (1080, 1920, 4)
    return {"bytes": len(image.raw_data)}


if __name__ == "__main__":
    main(globals())
