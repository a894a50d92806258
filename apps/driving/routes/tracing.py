"""From a way over lanes to a plan: its points, at equal steps, with what belongs to each.

A change of lanes is a cubic between two poses, as early as the marks allow and 8 to 25 m long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apps.driving.agents.base import Command
from apps.driving.routes.lanes import CHANGE_M, RIGHT, Key, Lanes
from apps.driving.routes.plan import Plan
from core.errors import DataError

STRAIGHT_DEG = 35.0
_CHANGE_LENGTH_M = 25.0
_SHORTEST_CHANGE_M = 8.0
_SHORTEST_M = 3.0

_Visit = tuple[Key, float, float, int]
"""A lane, from where to where on it (m), and the side by which it was entered (0: its beginning)."""


@dataclass(frozen=True)
class Place:
    """A point of a lane, ``s`` metres from the lane's start, ``away`` metres from what was meant."""

    lane: Key
    s: float
    away: float


Leg = tuple[Place, Place, list[Key]]
"""From where, to where, and the lanes from the first to the last."""


def trace(lanes: Lanes, legs: Sequence[Leg], resolution: float, name: str) -> Plan:
    """The plan of consecutive legs, points ``resolution`` m apart.

    Raises DataError, with ``name``, where there is nothing to drive.
    """
    return _resample(_Tracer(lanes).points(legs), resolution, lanes.town, name)


@dataclass
class _Points:
    """Rows of the route before it is resampled."""

    xy: np.ndarray
    z: np.ndarray
    limit: np.ndarray
    junction: np.ndarray
    command: np.ndarray

    def __getitem__(self, rows: Any) -> _Points:
        return _Points(
            *(v[rows] for v in (self.xy, self.z, self.limit, self.junction, self.command))
        )

    @classmethod
    def join(cls, parts: Sequence[_Points]) -> _Points:
        names = ("xy", "z", "limit", "junction", "command")
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


class _Tracer:
    """Rows of routes in one town."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes, self._graph = lanes.lanes, lanes.graph

    def points(self, legs: Sequence[Leg]) -> _Points:
        """Rows of the whole route; legs meet within a lane."""
        visits: list[_Visit] = []
        for start, goal, path in legs:
            for i, key in enumerate(path):
                low = start.s if i == 0 else 0.0
                high = goal.s if i == len(path) - 1 else self.lanes[key].length
                side = self._side(path[i - 1], key) if i else 0
                if i == 0 and visits and visits[-1][0] == key:
                    _, low, _, side = visits.pop()
                visits.append((key, low, high, side))
        commands = self._commands(visits)
        parts = []
        i, at = 0, visits[0][1]
        while i < len(visits):
            key, _, high, _ = visits[i]
            if i + 1 < len(visits) and visits[i + 1][3]:
                side = visits[i + 1][3]
                leave = max(at, self.lanes[key].stretch(side, at)[0])
                parts.append(self._part(key, at, leave, commands[i]))
                i, at = self._rejoin(visits, i, leave)
                end = self._part(visits[i][0], at, at, commands[i])
                parts.append(
                    self._changing(parts[-1][-1:], key, leave, end, visits[i][0], at, side)
                )
            else:
                if high > at or not parts:
                    parts.append(self._part(key, at, high, commands[i]))
                i, at = i + 1, 0.0
        return _Points.join(parts)

    def _rejoin(self, visits: list[_Visit], i: int, leave: float) -> tuple[int, float]:
        """Visit and place on its lane where the change out of visit ``i`` at ``leave`` ends.

        As far on as there is room up to ``_CHANGE_LENGTH_M``: up to the end of the lane beside, and
        leaving as much for each further change in the same section. Where that is too short it goes
        on into what follows.
        """
        here = self.lanes[visits[i][0]].at(leave)
        i += 1
        at = self.lanes[visits[i][0]].project(here)[0]
        changes = 1
        while i + changes < len(visits) and visits[i + changes][3]:
            changes += 1
        room = (visits[i][2] - at) / changes
        remaining = min(max(room, _SHORTEST_CHANGE_M), _CHANGE_LENGTH_M)
        if room < _SHORTEST_CHANGE_M and changes == 1:
            remaining = CHANGE_M
            while at + remaining > visits[i][2] and i + 1 < len(visits) and not visits[i + 1][3]:
                remaining -= max(visits[i][2] - at, 0.0)
                i, at = i + 1, 0.0
        return i, min(at + remaining, self.lanes[visits[i][0]].length)

    def _changing(
        self,
        start: _Points,
        left: Key,
        leave: float,
        end: _Points,
        joined: Key,
        at: float,
        side: int,
    ) -> _Points:
        """A cubic from pose to pose: rows a metre apart, without its ends but for the last."""
        yaws = []
        for key, s in ((left, leave), (joined, at)):
            lane = self.lanes[key]
            yaws.append(math.radians(float(lane.yaw[int(np.argmin(np.abs(lane.s - s)))])))
        p, q = start.xy[0], end.xy[0]
        length = float(np.hypot(*(q - p)))
        u, v = (length * np.array([math.cos(yaw), math.sin(yaw)]) for yaw in yaws)
        t = np.linspace(0.0, 1.0, max(3, round(length) + 1))[1:, None]
        xy = (
            (2 * t**3 - 3 * t**2 + 1) * p
            + (t**3 - 2 * t**2 + t) * u
            + (3 * t**2 - 2 * t**3) * q
            + (t**3 - t**2) * v
        )
        n = len(t)
        command = Command.CHANGE_LANE_RIGHT if side == RIGHT else Command.CHANGE_LANE_LEFT
        return _Points(
            xy,
            np.interp(t[:, 0], (0.0, 1.0), (start.z[0], end.z[0])),
            np.full(n, start.limit[0]),
            np.zeros(n, bool),
            np.full(n, int(command), np.int8),
        )

    def _side(self, before: Key, after: Key) -> int:
        """0 where ``after`` follows, RIGHT or LEFT where it lies beside."""
        if before != after and before[:2] == after[:2]:
            edge = self._graph.get_edge_data(before, after)
            return int(edge["side"]) if edge else 0
        return 0

    def _part(self, key: Key, low: float, high: float, command: Command) -> _Points:
        lane = self.lanes[key]
        inner = lane.s[(lane.s > low + 1e-6) & (lane.s < high - 1e-6)]
        s = np.concatenate([[low], inner, [high] if high > low + 1e-6 else []])
        xy = np.stack([np.interp(s, lane.s, lane.xy[:, i]) for i in (0, 1)], axis=1)
        nearest = np.clip(np.searchsorted(lane.s, s, side="right") - 1, 0, len(lane.s) - 1)
        n = len(s)
        return _Points(
            xy,
            np.interp(s, lane.s, lane.z),
            lane.limit[nearest],
            np.full(n, lane.junction >= 0),
            np.full(n, int(command), np.int8),
        )

    def _commands(self, visits: list[_Visit]) -> list[Command]:
        """The manoeuvre of each visited lane; a junction's lanes have one in common."""
        lanes = [self.lanes[visit[0]] for visit in visits]
        found: list[Command] = []
        first = 0
        while first < len(lanes):
            last = first
            if lanes[first].junction < 0:
                found.append(Command.LANE_FOLLOW)
            else:
                while last + 1 < len(lanes) and lanes[last + 1].junction == lanes[first].junction:
                    last += 1
                turn = turned(_entry(lanes[first].xy), _exit(lanes[last].xy))
                command = Command.RIGHT if turn > 0 else Command.LEFT
                if abs(turn) < STRAIGHT_DEG:
                    command = Command.STRAIGHT
                found += [command] * (last + 1 - first)
            first = last + 1
        return found


def _resample(points: _Points, resolution: float, town: str, name: str) -> Plan:
    """Equal steps of about ``resolution``."""
    steps = np.hypot(*np.diff(points.xy, axis=0).T)
    points = points[np.concatenate([[True], steps > 1e-3])]
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points.xy, axis=0).T))])
    length = float(s[-1])
    if length < _SHORTEST_M:
        raise DataError(
            f"{name}: start and goal are {length:.1f} m apart on the same lane of {town}; "
            "nothing to drive"
        )
    at = np.linspace(0.0, length, max(2, round(length / resolution) + 1))
    xy = np.stack([np.interp(at, s, points.xy[:, i]) for i in (0, 1)], axis=1)
    row = np.clip(np.searchsorted(s, at + 1e-9, side="right") - 1, 0, len(s) - 1)
    row[-1] = len(s) - 1
    along = np.gradient(xy, axis=0)
    return Plan(
        town=town,
        xy=xy,
        yaw=np.degrees(np.arctan2(along[:, 1], along[:, 0])),
        command=points.command[row],
        junction=points.junction[row],
        speed_limit=points.limit[row],
        s=at,
        z=np.interp(at, s, points.z),
    )


def turned(before: float, after: float) -> float:
    """Degrees from one heading to another, -180 to 180."""
    return (after - before + 180.0) % 360.0 - 180.0


def _entry(xy: np.ndarray) -> float:
    return math.degrees(math.atan2(*(xy[1] - xy[0])[::-1]))


def _exit(xy: np.ndarray) -> float:
    return math.degrees(math.atan2(*(xy[-1] - xy[-2])[::-1]))
