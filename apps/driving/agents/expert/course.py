"""The way of the car: where it is on its plan, and how fast it may go there.

``s`` are metres along the plan. The speed allowed at a place keeps the limit and a sideways
acceleration of ``SIDEWAYS`` in bends, and is such that braking by ``GENTLE`` suffices for what comes.
"""

from __future__ import annotations

import numpy as np

from apps.driving.routes.plan import Plan

SIDEWAYS = 3.0  # m/s^2 in bends
SLOWEST = 2.5  # m/s in the tightest
GENTLE = 2.0  # m/s^2 of braking before bends and lower limits
BEND = 2  # points before and after that a bend is measured over: lanes join with kinks


class Course:
    """A plan with its bends and speeds, and the car's place on it."""

    def __init__(self, plan: Plan, limit: float, share: float) -> None:
        """``limit`` (m/s) is never exceeded, nor ``share`` of the signs' limits."""
        self.plan, self.xy, self.s = plan, plan.xy, plan.s
        way = np.diff(plan.xy, axis=0)
        heading = np.arctan2(way[:, 1], way[:, 0])
        self.heading = np.unwrap(np.append(heading, heading[-1]))  # (n) radians, to the next point
        self.curvature = _bends(self.heading, plan.s)
        bend = np.sqrt(SIDEWAYS / np.maximum(np.abs(self.curvature), 1e-6))
        speed = np.minimum(np.minimum(plan.speed_limit * share, limit), np.maximum(bend, SLOWEST))
        self.speed = _foreseen(speed, plan.s)
        self.junction = plan.junction
        self.index, self.own, self.offset = 0, float(plan.s[0]), 0.0
        self._found = False

    def locate(self, xy: np.ndarray) -> None:
        """The car is at ``xy`` (2,): sets ``index``, ``own`` (s) and ``offset`` (m to the right)."""
        around = self.index if self._found else None
        self.index, self.offset = self.plan.nearest(xy, around)
        self._found = True
        beyond = xy - self.xy[self.index]
        heading = self.heading[self.index]
        self.own = float(
            self.s[self.index] + beyond[0] * np.cos(heading) + beyond[1] * np.sin(heading)
        )

    def at(self, s: np.ndarray | float) -> np.ndarray:
        """(..., 2): places on the way; it goes straight on past its end."""
        s = np.asarray(s, np.float64)
        x, y = np.interp(s, self.s, self.xy[:, 0]), np.interp(s, self.s, self.xy[:, 1])
        past = np.maximum(s - self.s[-1], 0.0)
        x, y = x + past * np.cos(self.heading[-1]), y + past * np.sin(self.heading[-1])
        return np.stack([x, y], -1)

    def allowed(self, ahead: float = 0.0) -> float:
        """m/s at ``ahead`` metres from the car; nothing once the car is past the end."""
        if self.own > self.s[-1] + 1.0:
            return 0.0
        return float(np.interp(self.own + ahead, self.s, self.speed))

    def window(self, behind: float, ahead: float) -> tuple[int, int]:
        """First and end of the points from ``behind`` to ``ahead`` metres of the car."""
        first, end = np.searchsorted(self.s, (self.own - behind, self.own + ahead)).tolist()
        return first, max(end, min(first + 2, len(self.s)))

    def junction_after(self, s: float) -> tuple[float, float]:
        """s of the entry and of the exit of the next junction that begins past ``s``; inf if none."""
        inside = self.junction
        enters = np.flatnonzero(inside[1:] & ~inside[:-1]) + 1
        enters = enters[self.s[enters] > s]
        if not len(enters):
            return np.inf, np.inf
        first = int(enters[0])
        leaves = np.flatnonzero(~inside[first:])
        last = first + int(leaves[0]) if len(leaves) else len(inside) - 1
        return float(self.s[first]), float(self.s[last])


def _bends(heading: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Curvature (n), 1/m, right positive."""
    n = len(s)
    low, high = np.maximum(np.arange(n) - BEND, 0), np.minimum(np.arange(n) + BEND, n - 1)
    # a heading belongs to the middle of its segment
    middle = np.append(0.5 * (s[1:] + s[:-1]), s[-1])
    curvature: np.ndarray = (heading[high] - heading[low]) / np.maximum(
        middle[high] - middle[low], 1.0
    )
    return curvature


def _foreseen(speed: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Speeds (n) from which braking gently leads to ``speed`` everywhere after."""
    squared = (speed * speed).tolist()
    step = (2.0 * GENTLE * np.diff(s)).tolist()
    for i in range(len(squared) - 2, -1, -1):
        squared[i] = min(squared[i], squared[i + 1] + step[i])
    return np.sqrt(np.array(squared))
