"""Whose turn it is where ways meet: crossings, turns across, merging lanes.

Every other vehicle is forecast along each way it may take, up to a red light or a stop sign. Where
such a way touches the car's, there is a zone; each of the two has an interval of time in it. If the
intervals, with a margin, overlap, the car stands before the zone, or before the junction when it has
not entered that. Being there first is right of way: whoever would have to wait for it is not seen.

Glossary: entry, exit of the zone (m along either way); comes, goes: s from now.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from apps.driving.agents.expert.course import Course
from apps.driving.agents.expert.following import ACCELERATION, HARDEST
from apps.driving.agents.expert.lanes import Lanes
from apps.driving.agents.expert.surroundings import Bodies

FORESIGHT = 7.0  # s that others are forecast
REACH = 60.0  # m of others' ways at most
CLEAR = 0.45  # m between two cars that pass
BEFORE, AFTER = 1.0, 0.7  # s of margin before we come and after we have gone
STANDS = 0.3  # m/s
START = 1.0  # m/s^2: how one who stands may set off
PARKED = 3.0  # s after which one who stands is taken to stay
MERGES = math.radians(40.0)  # ways that meet at less go on together
ACROSS = math.radians(25.0)  # a way that turns left by more turns
SETBACK = 1.2  # m before a zone


class Yield(NamedTuple):
    """Where to stand (m from the bumper), and for whom."""

    distance: float
    id: int


class Yielding:
    """Remembers how long others have stood."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self._stood: dict[int, float] = {}

    def find(
        self,
        course: Course,
        bodies: Bodies,
        barred: np.ndarray,
        *,
        speed: float,
        wish: float,
        front: float,
        half: np.ndarray,
        hold: float,
        waited: float,
        dt: float,
    ) -> Yield | None:
        """The nearest place to stand, or None.

        ``front``: s of the bumper. ``hold``: s of the entry of the junction ahead, inf inside one.
        ``barred`` (m, 3): lines at which others stop. ``waited``: s that the car has stood for it.
        """
        self._watch(bodies, dt)
        if not len(bodies.id):
            return None
        reach = 12.0 + 3.0 * max(speed, wish) + speed * speed / 6.0
        first, end = course.window(0.0, reach + half[0])
        mine = course.xy[first:end]
        place = course.at(course.own)
        nearest: Yield | None = None
        for i in np.flatnonzero(np.hypot(*(bodies.xy - place).T) < reach + REACH).tolist():
            pace = max(float(bodies.speed[i]), 0.0)
            id = int(bodies.id[i])
            stood = self._stood.get(id, 0.0)
            if stood > (PARKED if waited < 15.0 else 0.5):
                continue
            length = min(max(pace * FORESIGHT, 15.0), REACH)
            apart = half[1] + float(bodies.half[i, 1]) + CLEAR
            if np.hypot(*(mine - bodies.xy[i]).T).min() > length + apart:
                continue
            for way, inside in self.lanes.ways(bodies.xy[i], float(bodies.yaw[i]), length):
                found = self._meet(
                    course, first, end, way, inside, barred,
                    pace=pace, half=bodies.half[i], apart=apart, speed=speed, wish=wish,
                    front=front, mine=half, hold=hold, waited=waited,
                )  # fmt: skip
                if found is not None and (nearest is None or found < nearest.distance):
                    nearest = Yield(found, id)
        return nearest

    def _meet(
        self, course: Course, first: int, end: int, way: np.ndarray, inside: bool,
        barred: np.ndarray, *, pace: float, half: np.ndarray, apart: float, speed: float,
        wish: float, front: float, mine: np.ndarray, hold: float, waited: float,
    ) -> float | None:  # fmt: skip
        """Metres from the bumper to where to stand for one other on one way."""
        way = _until(way, barred, float(half[0]))
        here = course.xy[first:end]
        gap = here[:, None] - way[None, :, :2]
        touch = np.einsum("ijk,ijk->ij", gap, gap) < apart * apart
        rows = touch.any(1)
        if not rows.any():
            return None
        i0 = int(np.argmax(rows))
        columns = np.flatnonzero(touch[i0])
        j0 = int(columns[0])
        nearest = int(columns[np.argmin(np.einsum("jk,jk->j", gap[i0, columns], gap[i0, columns]))])
        turn = _wrap(float(way[nearest, 2] - course.heading[first + i0]))
        merges = abs(turn) < MERGES
        if j0 == 0 and merges:
            return None  # ahead of us on our way, or behind: following sees to the first
        if i0 == 0 and merges:
            return None  # it comes up behind
        s0 = float(course.s[first + i0])
        to = s0 - front
        # The zone: as long as the ways keep touching, of a merge the first metres.
        left = np.flatnonzero(~rows[i0:])
        i1 = i0 + (int(left[0]) - 1 if len(left) else len(rows) - 1 - i0)
        if merges:
            i1 = min(i1, i0 + 4)
        theirs = np.flatnonzero(touch[i0 : i1 + 1].any(0))
        j0, j1 = int(theirs[0]), int(theirs[-1])
        if merges:
            j1 = min(j1, j0 + 4)
        if not inside and self._gives_way(course, way, first + i0, turn):
            return None
        entry, exit = j0 - float(half[0]), j1 + float(half[0])
        if pace < STANDS:
            comes = math.sqrt(max(2.0 * entry / START, 0.0))
            goes = math.sqrt(2.0 * exit / START)
        else:
            comes, goes = max(entry, 0.0) / (1.1 * pace + 0.3), exit / max(0.85 * pace, 0.5)
        length = float(course.s[first + i1]) - s0 + 2.0 * float(mine[0])
        we_come, we_go = _time(max(to, 0.0), speed, wish), _time(max(to + length, 0.0), speed, wish)
        hasty = waited > 10.0
        before, after = (0.4, 0.3) if hasty else (BEFORE, AFTER)
        if merges:
            after += 0.6  # it is to have a gap to us when it comes after
        if comes > we_go + after or goes < we_come - before:
            return None
        if to < 0.3:
            return None  # we are in it: out of it is best
        at_zone = max(to - SETBACK, 0.0)
        line = min(hold - front, at_zone) if hold > front else at_zone
        if speed * speed / (2.0 * max(line, 0.05)) < 5.0:
            return line
        if speed * speed / (2.0 * max(at_zone, 0.05)) < HARDEST:
            return at_zone
        return None if we_come < comes else at_zone

    def _gives_way(self, course: Course, way: np.ndarray, at: int, turn: float) -> bool:
        """Whether one who has not entered the junction turns left across us, who do not."""
        theirs = _wrap(float(way[-1, 2] - way[0, 2]))
        ahead = min(at + 12, len(course.heading) - 1)
        ours = float(course.heading[ahead] - course.heading[course.index])
        faces = abs(_wrap(float(way[0, 2] - course.heading[course.index]))) > math.radians(135.0)
        return faces and theirs < -ACROSS and ours > -ACROSS

    def _watch(self, bodies: Bodies, dt: float) -> None:
        slow = np.abs(bodies.speed) < STANDS
        self._stood = {
            int(id): self._stood.get(int(id), 0.0) + dt for id in bodies.id[slow].tolist()
        }


def _until(way: np.ndarray, barred: np.ndarray, half: float) -> np.ndarray:
    """A way up to the first line at which its vehicle must stop."""
    if not len(barred):
        return way
    gap = way[:, None, :2] - barred[None, :, :2]
    on = np.einsum("ijk,ijk->ij", gap, gap) < 2.5
    turn = np.cos(way[:, None, 2] - barred[None, :, 2])
    on &= (turn > 0.5) | np.isnan(turn)
    # a line under its bonnet is behind it
    rows = np.flatnonzero(on.any(1) & (np.arange(len(way)) > half - 1.0))
    return way[: int(rows[0]) + 1] if len(rows) else way


def _time(distance: float, speed: float, wish: float) -> float:
    """s for metres, speeding up to ``wish``."""
    top = max(wish, speed, 1.0)
    ramp = (top * top - speed * speed) / (2.0 * ACCELERATION)
    if distance < ramp:
        return (math.sqrt(speed * speed + 2.0 * ACCELERATION * distance) - speed) / ACCELERATION
    return (top - speed) / ACCELERATION + (distance - ramp) / top


def _wrap(angle: float) -> float:
    return (angle + math.pi) % (2.0 * math.pi) - math.pi
