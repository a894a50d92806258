"""The next traffic light on a route and whether one may pass: a label, whatever the driver does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.evaluation.signals import stop_lines

if TYPE_CHECKING:
    import carla

    from apps.driving.routes.plan import Plan

AHEAD_M = 30.0
PASSED_M = 1.5  # the bumper that far beyond the line: the car is through
_BESIDE_M = 1.75  # half a lane
_SAME_WAY = 0.7  # cosine between lane and route


class LightsAhead:
    """The stop lines of traffic lights on a plan. ``front``: from the car's origin to its bumper."""

    def __init__(self, world: carla.World, town: carla.Map, plan: Plan, front: float) -> None:
        self._front = front
        self._lines: list[tuple[float, Any]] = []  # metres along the plan, light
        yaw = np.radians(plan.yaw)
        along = np.stack([np.cos(yaw), np.sin(yaw)], -1)
        for light in world.get_actors().filter("traffic.traffic_light*"):
            for line in stop_lines(light, town):
                middle = (np.array(line.left) + line.right) / 2
                away = np.hypot(*(plan.xy - middle).T)
                on = (away < _BESIDE_M) & (along @ np.array(line.forward) > _SAME_WAY)
                hits = np.flatnonzero(on)
                # a route may pass a light more than once
                for run in np.split(hits, np.flatnonzero(np.diff(hits) > 5) + 1):
                    if len(run):
                        self._lines.append((float(plan.s[run[np.argmin(away[run])]]), light))
        self._lines.sort(key=lambda line: line[0])

    def ahead(self, s: float) -> tuple[bool, float | None]:
        """Seen from ``s`` metres along the plan: whether a red or yellow light holds within
        ``AHEAD_M`` of the bumper, and how far its line is; (False, None) with none that near.
        """
        import carla

        shut = (carla.TrafficLightState.Red, carla.TrafficLightState.Yellow)
        bumper = s + self._front
        for line, light in self._lines:
            if -PASSED_M < line - bumper <= AHEAD_M:
                return light.state in shut, line - bumper
        return False, None
