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

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3): ego coordinates of the camera's own x, y and z axes, as columns.

        ``ego = rotation @ camera + (x, y, z)``, as ``carla.Transform.get_matrix`` has it.
        """
        cy, cp, cr = (math.cos(math.radians(a)) for a in (self.yaw, self.pitch, self.roll))
        sy, sp, sr = (math.sin(math.radians(a)) for a in (self.yaw, self.pitch, self.roll))
        return np.array(
            [
                [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr],
                [cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr],
                [sp, -cp * sr, cp * cr],
            ]
        )

    def rays(self, stride: int = 1) -> np.ndarray:
        """(h, w, 3): the ego point of a pixel is ``depth * ray + (x, y, z)``, every ``stride`` pixels.

        ``depth`` counts along the optical axis, as CARLA's depth camera has it.
        """
        u = np.arange(stride // 2, self.width, stride) + 0.5
        v = np.arange(stride // 2, self.height, stride) + 0.5
        right, down = np.meshgrid(
            (u - self.width / 2) / self.focal, (v - self.height / 2) / self.focal
        )
        return np.stack([np.ones_like(right), right, -down], axis=-1) @ self.rotation.T

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ego points (..., 3) -> pixels (..., 2) and depths (...); not in the picture if depth <= 0."""
        camera = (np.asarray(points) - (self.x, self.y, self.z)) @ self.rotation
        depth = camera[..., 0]
        safe = np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        u = self.width / 2 + self.focal * camera[..., 1] / safe
        v = self.height / 2 - self.focal * camera[..., 2] / safe
        return np.stack([u, v], axis=-1), depth


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
