"""Small recordings, written by the recorder or laid out by hand as TransFuser's are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.driving.recordings.layout import Measurement
from apps.driving.recordings.writer import Recorder
from apps.driving.rig import Camera, Rig

H, W, V = 8, 16, 3

Path2 = Callable[[int], tuple[float, float, float]]


@pytest.fixture
def rig() -> Rig:
    """Three tiny cameras."""
    return Rig(
        tuple(
            Camera(name, yaw, width=W, height=H)
            for name, yaw in (("left", -60.0), ("front", 0.0), ("right", 60.0))
        )
    )


def scene(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours, depth and tags (new) that differ from frame to frame and from view to view."""
    rng = np.random.default_rng([number, 7])
    rgb = rng.integers(0, 256, (V, H, W, 3), dtype=np.uint8)
    depth = rng.uniform(1, 900, (V, H, W)).astype(np.float32)
    semantics = np.full((V, H, W), 11, np.uint8)  # sky
    semantics[:, H // 2 :] = 1  # road
    semantics[1, 0, 0] = 14  # a car
    return rgb, depth, semantics


def straight(number: int) -> tuple[float, float, float]:
    """Two metres a frame along +x: x, y, heading."""
    return 2.0 * number, 5.0, 0.0


@pytest.fixture
def record(rig: Rig) -> Callable[..., Path]:
    """Write a route with the recorder; ``ticks`` are its frames' times."""

    def write(
        folder: Path,
        frames: int = 10,
        *,
        pose: Path2 = straight,
        ticks: list[int] | None = None,
        about: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        with Recorder(folder, rig, about=about) as to:
            for i in range(frames):
                tick = ticks[i] if ticks else i
                x, y, heading = pose(tick)
                values: dict[str, Any] = {
                    "position": np.array([x, y]),
                    "heading": heading,
                    "speed": 4.0,
                    "target": np.array([40.0, 5.0]),
                    "command": 4,
                    "steer": 0.0,
                    "throttle": 0.5,
                    "brake": 0.0,
                    "tick": tick,
                }
                to.add(*scene(i), Measurement(**(values | changes)))
        return folder

    return write


@pytest.fixture
def transfuser() -> Callable[..., Path]:
    """Lay out a route by hand as TransFuser's recorder does: old tags, its frame, no route.json."""

    def write(folder: Path, frames: int = 8, *, table: str = "old", **changes: Any) -> Path:
        for kind in ("rgb", "depth", "semantics", "measurements"):
            (folder / kind).mkdir(parents=True)
        for i in range(frames):
            rgb, depth, _ = scene(i)
            tags = np.full((H, V * W), 13 if table == "old" else 11, np.uint8)
            tags[H // 2 :] = 7 if table == "old" else 1
            steps = np.round(np.concatenate(list(depth), axis=1) / 1000 * (2**24 - 1)).astype(int)
            # OpenCV wrote CARLA's red, the least significant byte, as blue
            bytes24 = np.stack([steps >> 16, steps >> 8 & 255, steps & 255], -1).astype(np.uint8)
            for kind, picture in (
                ("rgb", np.concatenate(list(rgb), axis=1)),
                ("depth", bytes24),
                ("semantics", tags),
            ):
                Image.fromarray(picture).save(folder / kind / f"{i:04d}.png")
            x, y, heading = 2.0 * i, 5.0, 0.0
            values: dict[str, Any] = {
                "x": -y,
                "y": x,
                "theta": math.radians(heading) + math.pi / 2,
                "speed": 4.0,
                "target_speed": 4.0,
                "x_command": -9.0,
                "y_command": x + 10.0,
                "command": 1,
                "waypoints": [],
                "steer": 0.1,
                "throttle": 0.5,
                "brake": False,
                "junction": False,
                "vehicle_hazard": [False] * 3,
                "light_hazard": True,
                "walker_hazard": [False, True],
                "stop_sign_hazard": False,
                "angle": 0.0,
            }
            text = json.dumps(values | changes)
            (folder / "measurements" / f"{i:04d}.json").write_text(text)
        return folder

    return write


@pytest.fixture
def frame() -> Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What ``record`` writes as frame ``n``."""
    return scene
