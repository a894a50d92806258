"""Traffic and walkers of the world's own, and the same world in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apps.driving.world.simulation.world import World

PROGRAM = """
import hashlib, sys
from apps.driving.world.simulation.actors import Settings
from apps.driving.world.geometry import Transform
from apps.driving.world.render import open_renderer
from apps.driving.world.simulation.world import World
from apps.driving.world.town import build_town

town = build_town(sys.argv[1], 3, resolution=0.5)
world = World(town, 3, open_renderer("numpy"), traffic=15, walkers=10)
world.set_settings(Settings(synchronous_mode=True, fixed_delta_seconds=0.05))
car = next(a for a in world.actors.values() if a.kind == "vehicle")
for name in ("sensor.camera.rgb", "sensor.lidar.ray_cast", "sensor.other.imu"):
    small = {"image_size_x": "80", "image_size_y": "40"} if "camera" in name else {}
    world.listen(world.spawn(name, small, Transform(1.0, 0.0, 2.4), car.id).id, True)
digest = hashlib.sha256()
for _ in range(60):
    world.tick()
    digest.update(world.snapshot().tobytes())
    for _, _, payload in world.readings:
        for value in vars(payload).values():
            digest.update(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())
print(digest.hexdigest())
"""


def test_two_processes_tell_the_same(root: Path, samples: Path) -> None:
    """Other hashes of strings, another start: the same bytes of states and sensors."""
    told = []
    for seed in ("1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(samples / "Town01.xodr")],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.strip())
    assert told[0] == told[1] != ""


def test_own_traffic_drives_and_does_not_crash(new_world: Callable[..., World]) -> None:
    world = new_world(traffic=25)
    cars = [a.id for a in world.actors.values() if a.kind == "vehicle"]
    assert len(cars) == 25
    assert len({a.attributes.get("color") for a in world.actors.values()}) > 5
    start = np.column_stack([world.fleet.x, world.fleet.y])
    hits = 0
    for _ in range(400):
        world.tick()
        hits += len(world.collisions)
    gone = np.hypot(*(np.column_stack([world.fleet.x, world.fleet.y]) - start).T)
    assert np.median(gone) > 30.0
    assert hits == 0


def test_autopilot_takes_over_and_hands_back(world: World) -> None:
    place = world.town.network.spawn_points[0]
    car = world.spawn("vehicle.tesla.model3", {}, place).id
    world.vehicles.set_autopilot(car, True)
    for _ in range(100):
        world.tick()
    assert world.fleet.speed[0] > 2.0
    world.vehicles.set_autopilot(car, False)
    for _ in range(100):
        world.vehicles.apply_control(car, 0.0, 0.0, 1.0)
        world.tick()
    assert world.fleet.speed[0] == pytest.approx(0.0, abs=1e-6)
    world.vehicles.set_autopilot(car, True)
    world.destroy(car)
    world.tick()
    assert not world.vehicles.autopilot


def test_more_than_there_is_room_for(new_world: Callable[..., World]) -> None:
    world = new_world(traffic=2000, walkers=3)
    cars = [a for a in world.actors.values() if a.kind == "vehicle"]
    assert len(cars) == len(world.town.network.spawn_points)
    world.tick()
