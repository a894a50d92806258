"""Traffic lights and stop signs: where they hold on the car's way and on the ways of others.

A light stops at the ends of the lanes that it affects (``get_stop_waypoints``). A stop sign is to be
obeyed while its trigger volume is ahead, as the Leaderboard judges it (ScenarioRunner,
atomic_criteria.py, ``RunningStopTest``: slower than 0.1 m/s with the car's origin at most 4 m from
the volume's middle).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from apps.driving.agents.expert.course import Course

BESIDE = 1.8  # m: of a stop line's lane
SAME_WAY = 0.5  # cosine of the angle between a lane and a way
AT_SIGN = 2.0  # m from the middle of a stop sign's volume back to where the origin stands


class Line(NamedTuple):
    """A place to stop at."""

    s: float  # on the course
    light: Any  # carla.TrafficLight, or None at a stop sign
    key: int  # the actor's id


class Signals:
    """All lights and stop signs of the world, and those on one course."""

    def __init__(self, world: Any, course: Course, front: float) -> None:
        """``front``: metres from the car's origin to its bumper."""
        actors = world.get_actors()
        self.lights = list(actors.filter("traffic.traffic_light*"))
        places, owner = [], []
        for i, light in enumerate(self.lights):
            for waypoint in light.get_stop_waypoints():
                transform = waypoint.transform
                yaw = np.radians(transform.rotation.yaw)
                places.append((transform.location.x, transform.location.y, yaw))
                owner.append(i)
        signs = []
        for sign in actors.filter("traffic.stop*"):
            middle = sign.get_transform().transform(sign.trigger_volume.location)
            signs.append((middle.x, middle.y, sign.id))
        self._signs = np.array(signs, np.float64).reshape(-1, 3)
        self._stops = np.array(places, np.float64).reshape(-1, 3)
        self._owner = np.array(owner, np.int64)
        self.lines = self._of_lights(course) + self._of_signs(course, front)
        self.lines.sort(key=lambda line: line.s)

    def barred(self, sign_too: bool = True) -> np.ndarray:
        """(m, 3) x, y, heading of the lines that one must not cross now; nan for any heading."""
        import carla

        shut = (carla.TrafficLightState.Red, carla.TrafficLightState.Yellow)
        closed = np.array([light.state in shut for light in self.lights], bool)
        lines = self._stops[closed[self._owner]] if len(self._stops) else self._stops
        if sign_too and len(self._signs):
            stops = np.concatenate(
                [self._signs[:, :2], np.full((len(self._signs), 1), np.nan)], axis=1
            )
            lines = np.concatenate([lines, stops])
        return lines

    def _of_lights(self, course: Course) -> list[Line]:
        lines = []
        for (x, y, yaw), i in zip(self._stops.tolist(), self._owner.tolist(), strict=True):
            for k in _passes(course, x, y):
                if np.cos(course.heading[k] - yaw) < SAME_WAY:
                    continue
                # The criterion's line is where the junction begins, a little after the waypoint.
                s = float(course.s[k])
                lines.append(Line(s, self.lights[i], self.lights[i].id))
        return lines

    def _of_signs(self, course: Course, front: float) -> list[Line]:
        lines = []
        for x, y, id in self._signs.tolist():
            for k in _passes(course, x, y):
                lines.append(Line(float(course.s[k]) - AT_SIGN + front, None, int(id)))
        return lines


def _passes(course: Course, x: float, y: float) -> list[int]:
    """Points of the course at which it passes a place, one for each time it does."""
    away = np.hypot(course.xy[:, 0] - x, course.xy[:, 1] - y)
    near = np.flatnonzero(away < BESIDE)
    if not len(near):
        return []
    times = np.split(near, np.flatnonzero(np.diff(near) > 1) + 1)
    return [int(group[np.argmin(away[group])]) for group in times]
