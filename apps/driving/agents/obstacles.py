"""How far the car can go before it meets something: depth pictures and the arc that it steers.

Points are in the ego frame, on a road taken as a plane through the car's origin that may rise by
2 % (more at a distance than a height threshold alone would let pass).
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from apps.driving.rig import Rig

LOW_M, RISE, HIGH_M = 0.35, 0.02, 2.2  # what counts as an obstacle: above a kerb, below a lamp
SIDE_M = 0.2  # room on both sides of the car
AXLE_M = -1.4  # the rear axle, round whose line a car turns
CURVATURE = 0.27  # 1/m at full lock: a turning circle of 7.4 m
FAR_M = 40.0
FEW = 4  # so many points are something; fewer are edges between pixels
STRIDE = 2


class Corridor:
    """The strip of road in front of the car under its wheel's angle.

    ``front`` and ``side`` are half the car's length and width in metres.
    """

    def __init__(self, rig: Rig, front: float = 2.45, side: float = 1.06) -> None:
        self.front, self.side = front, side
        self._rays = np.stack([camera.rays(STRIDE) for camera in rig.cameras]).astype(np.float32)
        self._origin = np.array(
            [[[[camera.x, camera.y, camera.z]]] for camera in rig.cameras], np.float32
        )

    def gap(self, depth: np.ndarray, steer: float) -> float:
        """Metres from the front bumper along the arc to the nearest thing; infinity if none is near.

        ``depth`` (V, H, W) metres along the optical axis; what is not a positive number is nothing.
        """
        near = depth[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
        with np.errstate(invalid="ignore"):
            valid = (near > 0) & (near < FAR_M)
        points = near[valid][:, None] * self._rays[valid]
        points += np.broadcast_to(self._origin, self._rays.shape)[valid]
        x, y, z = points.T
        high = (z > LOW_M + RISE * np.hypot(x, y)) & (z < HIGH_M) & (x > self.front)
        along, across = arc(x[high], y[high], CURVATURE * steer)
        ahead = along[(np.abs(across) < self.side + SIDE_M) & (along > 0)]
        if len(ahead) < FEW:
            return math.inf
        start = float(np.partition(ahead, FEW - 1)[FEW - 1])
        return max(0.0, start - (self.front - AXLE_M))


def arc(x: np.ndarray, y: np.ndarray, curvature: float) -> tuple[np.ndarray, np.ndarray]:
    """Distance along, and to the right of, the arc of the rear axle's middle; metres.

    ``curvature`` 1/m, positive to the right.
    """
    x = x - AXLE_M
    if abs(curvature) < 1e-3:
        return x, y
    radius = 1 / curvature
    side = math.copysign(1.0, radius)
    angle = np.arctan2(x, side * (radius - y))
    across = side * (abs(radius) - np.hypot(x, radius - y))
    return angle * abs(radius), across


class Gap:
    """The gap over time: how fast it closes, and what has fallen out of the cameras' sight.

    Cameras 2.3 m up see a car's roof no nearer than about 2 m in front of the bumper. What was that
    near is remembered for ``MEMORY_S`` while the car moves on.
    """

    MEMORY_S = 2.0
    HIDDEN_M = 4.0
    WINDOW_S = 0.5
    JUMP_M = 1.5  # between two decisions, beyond the car's own way: another thing

    def __init__(self) -> None:
        self.closing = 0.0  # m/s; the car's own speed as long as nothing else is known
        self._seen: deque[tuple[float, float]] = deque()
        self._last = (-math.inf, math.inf)  # time and gap when last seen
        self._time: float | None = None
        self._kept = math.inf

    def step(self, gap: float, speed: float, time: float) -> float:
        """The gap to count on, from the one just seen (infinity: none)."""
        passed = 0.0 if self._time is None else max(0.0, time - self._time)
        self._time = time
        self._kept = max(0.0, self._kept - max(speed, 0.0) * passed)
        if math.isinf(gap):
            self._seen.clear()
            self.closing = speed
            hidden = self._kept < self.HIDDEN_M and time - self._last[0] < self.MEMORY_S
            if not hidden:
                self._kept = math.inf
            return self._kept
        if self._seen and abs(gap - self._seen[-1][1]) > self.JUMP_M + abs(speed) * passed:
            self._seen.clear()
        self._seen.append((time, gap))
        while self._seen[0][0] < time - self.WINDOW_S - 1e-6:
            self._seen.popleft()
        self.closing = speed
        if len(self._seen) >= 3:
            t, d = np.array(self._seen).T
            self.closing = -float(np.polyfit(t - t[-1], d, 1)[0])
        self._last, self._kept = (time, gap), gap
        return gap
