"""The cameras of the car, as data: where they look from, their intrinsics, their sensor list.

Frames are CARLA's: x forward, y right, z up, metres; yaw in degrees, positive to the right. A
picture's pixel (u, v) has its centre at (u + 0.5, v + 0.5).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from core.errors import UsageError


@dataclass(frozen=True)
class Camera:
    """A pinhole camera fixed to the car; ``fov`` is horizontal, in degrees."""

    name: str
    yaw: float = 0.0
    x: float = 1.3
    y: float = 0.0
    z: float = 2.3
    pitch: float = 0.0
    roll: float = 0.0
    width: int = 320
    height: int = 160
    fov: float = 60.0

    @property
    def focal(self) -> float:
        """Focal length in pixels, the same along both axes."""
        return self.width / (2 * math.tan(math.radians(self.fov) / 2))

    @property
    def intrinsics(self) -> np.ndarray:
        """(3, 3): pixel coordinates from (right, down, forward) of the camera."""
        f = self.focal
        return np.array([[f, 0, self.width / 2], [0, f, self.height / 2], [0, 0, 1]])


@dataclass(frozen=True)
class Rig:
    """Cameras in the order, left to right, in which their pictures stand side by side."""

    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if not names or len(set(names)) != len(names):
            raise UsageError(f"cameras {names}: want one or more, each with its own name")
        if len({(camera.width, camera.height) for camera in self.cameras}) != 1:
            raise UsageError(
                "cameras of different picture sizes: give all the same width and height"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of one camera's picture."""
        return self.cameras[0].height, self.cameras[0].width

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that differ where any number of the rig differs."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``from_dict`` reads it."""
        return {"cameras": [asdict(camera) for camera in self.cameras]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Rig:
        """UsageError where a camera lacks a name or has a value it should not have."""
        try:
            return cls(tuple(Camera(**camera) for camera in values["cameras"]))
        except (KeyError, TypeError) as error:
            raise UsageError(f"rig: not a list of cameras ({error})") from error


# LeTFuser's: 320 x 160 pixels over 60 degrees at -60, 0 and +60 degrees, as its data is recorded.
LETFUSER = Rig((Camera("left", -60.0), Camera("front", 0.0), Camera("right", 60.0)))
