"""What driving scores without looking: the floors beside every figure.

``Constant`` is told only the next point of the sparse route. ``Blind`` knows more of the way than a
learned driver does: a point of the route every 10 m, as a navigation device draws it, and the speed
limits of a road map; it draws a smooth line through the points and slows down for its bends. (With
the 50 m of the others it leaves the road in bends outside junctions, which would make the floor too
low.) Both steer by LeTFuser's PIDs and brake for nothing.
"""

from __future__ import annotations

import numpy as np

from apps.driving.agents.base import Command, Decision, Drive, Observation
from apps.driving.control.pid import WaypointController
from apps.driving.rig import LETFUSER, Rig
from core.errors import UsageError

HORIZON = 0.5 * np.arange(1, 5)
"""Seconds ahead of a decision's waypoints."""

LATERAL_M_S2 = 2.0  # in bends; PDM-Lite and human drivers in towns take 2 to 3
BRAKING_M_S2 = 2.0
BEYOND_M = 5.0  # the line goes on past the route's end, so that the end is reached


class Constant:
    """Holds ``speed`` (m/s) and steers at the next point of the sparse route."""

    name = "constant"
    cameras: frozenset[str] = frozenset()
    privileged = False

    def __init__(self, speed: float = 5.0, rig: Rig = LETFUSER) -> None:
        if not 0 < speed <= 50:
            raise UsageError(f"constant speed {speed} m/s: give one above 0 and at most 50")
        self.speed, self.rig = speed, rig

    def begin(self, drive: Drive) -> None:
        self._controller = WaypointController(dt=drive.interval)

    def act(self, observation: Observation) -> Decision:
        target = np.asarray(observation.target, np.float64)
        distance = float(np.hypot(*target))
        # a point behind or underneath says nothing about where to go: straight on
        ahead = target / distance if distance > 1.0 and target[0] > -5.0 else np.array([1.0, 0.0])
        waypoints = self.speed * HORIZON[:, None] * ahead
        throttle, steer, brake = self._controller.step(waypoints, observation.speed)
        return Decision(throttle, steer, brake, waypoints=waypoints, target_speed=self.speed)

    def end(self) -> None:
        pass


class Blind:
    """Follows a smooth line through the route at the speed of its bends and limits."""

    name = "blind"
    cameras: frozenset[str] = frozenset()
    privileged = False

    def __init__(self, spacing: float = 10.0, rig: Rig = LETFUSER) -> None:
        self.spacing, self.rig = spacing, rig

    def begin(self, drive: Drive) -> None:
        self._line = smooth(*drive.plan.sparse(self.spacing))
        # of the whole plan only the limits are used, as a map that knows roads would have them
        middle = np.linspace(0, len(drive.plan.speed_limit) - 1, len(self._line)).round()
        self._speed = speed_profile(self._line, drive.plan.speed_limit[middle.astype(int)])
        self._at = 0
        self._controller = WaypointController(dt=drive.interval)

    def act(self, observation: Observation) -> Decision:
        self._at = _nearest(self._line, np.asarray(observation.position), self._at)
        places, speed = self._line[self._places()], float(self._speed[self._at])
        angle = np.radians(observation.heading)
        offset = places - observation.position
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        waypoints = offset @ turn
        throttle, steer, brake = self._controller.step(waypoints, observation.speed)
        return Decision(throttle, steer, brake, waypoints=waypoints, target_speed=speed)

    def end(self) -> None:
        pass

    def _places(self) -> list[int]:
        """Indices of where it will be at ``HORIZON``, driving as fast as it may everywhere."""
        step = 0.1
        found, s, at = [], 0.0, self._at
        for k in range(round(HORIZON[-1] / step)):
            s += self._speed[at] * step
            at = min(self._at + round(s / RESOLUTION_M), len(self._line) - 1)
            if (k + 1) % round(HORIZON[0] / step) == 0:
                found.append(at)
        return found


RESOLUTION_M = 0.25
_TURNS = (Command.LEFT, Command.RIGHT, Command.STRAIGHT)


def smooth(
    points: np.ndarray, commands: np.ndarray, resolution: float = RESOLUTION_M
) -> np.ndarray:
    """(n, 2) and (n,) -> (m, 2), ``resolution`` apart: cubic Hermite pieces through the points.

    Where a turn begins, the line has the direction of the chord that leads there, and where it ends,
    that of the chord that leads on: roads are straight before and behind junctions. Elsewhere it has
    the mean direction of both chords, the longer one counting more.
    """
    keep = np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 0.5]
    p = np.asarray(points, np.float64)[keep]
    if len(p) < 2:
        raise UsageError("a route of one point is no route; give two or more")
    chord = np.diff(p, axis=0)
    length = np.hypot(*chord.T)
    unit = chord / length[:, None]
    turns = np.isin(np.asarray(commands)[keep], _TURNS)
    into, out = (length[:-1] ** 2)[:, None], (length[1:] ** 2)[:, None]
    begins, ends = (turns[1:-1] & ~turns[:-2])[:, None], (turns[:-2] & ~turns[1:-1])[:, None]
    into, out = np.where(ends, 0.0, into), np.where(begins, 0.0, out)
    tangent = np.concatenate([unit[:1], into * unit[:-1] + out * unit[1:], unit[-1:]])
    size = np.hypot(*tangent.T)[:, None]
    # two chords that cancel out, in a turn about: the direction of the one that leads on
    tangent = np.where(size > 1e-9, tangent / np.maximum(size, 1e-9), np.r_[unit, unit[-1:]])
    pieces = []
    for a, b, ta, tb, d in zip(p, p[1:], tangent, tangent[1:], length):
        u = np.linspace(0, 1, max(round(d / resolution), 2) * 2, endpoint=False)[:, None]
        pieces.append(
            a * (1 + 2 * u) * (1 - u) ** 2
            + b * u**2 * (3 - 2 * u)
            + d * (ta * u * (1 - u) ** 2 - tb * u**2 * (1 - u))
        )
    dense = np.concatenate([*pieces, p[-1:], p[-1:] + BEYOND_M * unit[-1:]])
    s = np.r_[0.0, np.cumsum(np.hypot(*np.diff(dense, axis=0).T))]
    at = np.arange(0.0, s[-1] + resolution / 2, resolution)
    return np.stack([np.interp(at, s, dense[:, 0]), np.interp(at, s, dense[:, 1])], axis=1)


def speed_profile(
    line: np.ndarray, limit: np.ndarray, resolution: float = RESOLUTION_M
) -> np.ndarray:
    """(m,) m/s along ``line``: at most ``limit``, sideways and braking acceleration bounded."""
    reach = max(1, round(1.0 / resolution))  # directions over a metre: the line is sampled finely
    n = len(line)
    before, after = np.maximum(np.arange(n) - reach, 0), np.minimum(np.arange(n) + reach, n - 1)
    into, out = line - line[before], line[after] - line
    bend = np.arctan2(into[:, 0] * out[:, 1] - into[:, 1] * out[:, 0], np.sum(into * out, axis=1))
    curvature = np.abs(bend) / (reach * resolution)
    speed = np.minimum(limit, np.sqrt(LATERAL_M_S2 / np.maximum(curvature, 1e-4)))
    for i in range(n - 2, -1, -1):
        speed[i] = min(speed[i], np.sqrt(speed[i + 1] ** 2 + 2 * BRAKING_M_S2 * resolution))
    return speed


def _nearest(line: np.ndarray, position: np.ndarray, at: int) -> int:
    """The index of the nearest point not far from ``at``, so that loops and crossings do not jump."""
    low = max(0, at - round(5 / RESOLUTION_M))
    window = line[low : at + round(30 / RESOLUTION_M)]
    return low + int(np.argmin(np.sum((window - position) ** 2, axis=1)))
