"""Places and boxes in CARLA's frame: x forward, y to the right, z up, left-handed; metres, degrees.

``Transform`` is the six numbers that travel on the wire; ``Boxes`` many upright boxes as arrays,
which is what cameras and rays meet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
    """A place (m) and a rotation (degrees), as ``carla.Transform``."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0

    def matrix(self) -> np.ndarray:
        """(4, 4) float64, from this frame to its parent's; equals ``carla.Transform.get_matrix``."""
        p, w, r = np.radians((self.pitch, self.yaw, self.roll))
        cp, sp, cy, sy, cr, sr = np.cos(p), np.sin(p), np.cos(w), np.sin(w), np.cos(r), np.sin(r)
        return np.array(
            [
                [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr, self.x],
                [cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr, self.y],
                [sp, -cp * sr, cp * cr, self.z],
                [0.0, 0.0, 0.0, 1.0],
            ]
        )

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of this frame in the parent's."""
        m = self.matrix()
        moved: np.ndarray = np.asarray(points) @ m[:3, :3].T + m[:3, 3]
        return moved

    def inverse_apply(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the parent's frame in this one."""
        m = self.matrix()
        moved: np.ndarray = (np.asarray(points) - m[:3, 3]) @ m[:3, :3]
        return moved

    def then(self, child: Transform) -> Transform:
        """``child``, given in this frame, in the parent's."""
        return from_matrix(self.matrix() @ child.matrix())


def from_matrix(m: np.ndarray) -> Transform:
    """The Transform of a rigid (4, 4) matrix; at a pitch of 90 degrees its roll is taken as 0."""
    pitch = float(np.degrees(np.arcsin(np.clip(m[2, 0], -1.0, 1.0))))
    if abs(m[2, 0]) < 1 - 1e-12:
        yaw = float(np.degrees(np.arctan2(m[1, 0], m[0, 0])))
        roll = float(np.degrees(np.arctan2(-m[2, 1], m[2, 2])))
    else:
        yaw, roll = float(np.degrees(np.arctan2(-m[0, 1], m[1, 1]))), 0.0
    return Transform(float(m[0, 3]), float(m[1, 3]), float(m[2, 3]), pitch, yaw, roll)


@dataclass(frozen=True)
class Boxes:
    """K upright boxes: they turn about z only."""

    centre: np.ndarray  # (K, 3) float32, m
    half: np.ndarray  # (K, 3) float32, m: half of the length, width and height
    yaw: np.ndarray  # (K) float32, radians
    tag: np.ndarray  # (K) uint8, of tags.Tag
    rgb: np.ndarray  # (K, 3) uint8
    instance: np.ndarray  # (K) int32: an actor's id, or a number of its own above 65,535 - K

    def __len__(self) -> int:
        return len(self.yaw)

    @classmethod
    def empty(cls, n: int = 0) -> Boxes:
        """n boxes of zeros."""
        return cls(
            np.zeros((n, 3), np.float32),
            np.zeros((n, 3), np.float32),
            np.zeros(n, np.float32),
            np.zeros(n, np.uint8),
            np.zeros((n, 3), np.uint8),
            np.zeros(n, np.int32),
        )

    @classmethod
    def joined(cls, parts: Iterable[Boxes]) -> Boxes:
        """The boxes of all ``parts``, in order."""
        found = [cls.empty(), *parts]
        return cls(*(np.concatenate([getattr(p, f.name) for p in found]) for f in fields(cls)))

    def take(self, rows: np.ndarray) -> Boxes:
        """The boxes at an index or mask."""
        return Boxes(*(getattr(self, f.name)[rows] for f in fields(self)))
