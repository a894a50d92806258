"""The part of the route that was driven off the road or against the traffic.

Source: ``OutsideRouteLanesTest`` of ``atomic_criteria.py`` in
github.com/carla-simulator/scenario_runner (MIT), by its rules: off the road is more than half a
lane's width and 0.5 m from the middle of the nearest driving or parking lane; against the traffic is
a lane entered outside a junction, the direction of which is more than 150 degrees from that of the
lane before, or after a junction more than 120 degrees from the car's. Junctions' lanes are not judged.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from apps.driving.evaluation.progress import Progress
from apps.driving.evaluation.scores import Infraction
from apps.driving.evaluation.state import EgoState

if TYPE_CHECKING:
    import carla

ALLOWANCE = 0.5  # m: the edge between a lane and the pavement
AGAINST = 120.0  # degrees between the car and the lane it came onto from a junction
TURNED = 150.0  # degrees between two lanes, one entered from the other


class OutsideLanes:
    """Adds up the metres of the plan that were passed while the car was outside its lanes."""

    def __init__(self, town: carla.Map, ego: carla.Vehicle, progress: Progress) -> None:
        import carla

        self._map, self._progress = town, progress
        self._driving, self._parking = carla.LaneType.Driving, carla.LaneType.Parking
        self._location: Any = carla.Location
        self._last = town.get_waypoint(ego.get_location(), lane_type=self._driving)
        self.off_road = self.wrong_lane = False
        self.outside = 0.0  # m
        self._at: tuple[float, tuple[float, float]] | None = None  # time and place of the first

    def update(self, state: EgoState) -> None:
        """Look where the car is; after ``Progress.update``."""
        place = self._location(state.x, state.y, state.z)
        waypoint = self._map.get_waypoint(place, lane_type=self._driving)
        parking = self._map.get_waypoint(place, lane_type=self._parking)
        nearest = min((waypoint, parking), key=lambda found: _away(found, state))
        self.off_road = _away(nearest, state) > nearest.lane_width / 2 + ALLOWANCE
        self._judge_lane(waypoint, state)
        if (self.off_road or self.wrong_lane) and self._progress.step > 0:
            self.outside += self._progress.step
            if self._at is None:
                self._at = (state.time, state.position)

    def infractions(self) -> list[Infraction]:
        """At most one: all that was driven outside, as a percentage of what was driven."""
        if self._at is None:
            return []
        share = 100 * self.outside / max(self._progress.distance, 1e-9)
        message = f"{self.outside:.1f} m outside the route's lanes ({share:.1f} % of those driven)"
        return [Infraction("outside_route_lanes", *self._at, message, share)]

    def _judge_lane(self, waypoint: Any, state: EgoState) -> None:
        last = self._last
        entered = (waypoint.road_id, waypoint.lane_id) != (last.road_id, last.lane_id)
        if waypoint.is_junction:
            self.wrong_lane = False
        elif entered and last.is_junction:
            self.wrong_lane = _turn(waypoint.transform.rotation.yaw, state.yaw) >= AGAINST
        elif entered:
            turned = _turn(waypoint.transform.rotation.yaw, last.transform.rotation.yaw)
            if turned > TURNED:  # onto the other direction's lane, or back from it
                self.wrong_lane = not self.wrong_lane
        self._last = waypoint


def _away(waypoint: Any, state: EgoState) -> float:
    """Metres from the car to the middle of a lane; infinite where there is no such lane."""
    if waypoint is None:
        return math.inf
    at = waypoint.transform.location
    return math.dist((at.x, at.y), state.position)


def _turn(a: float, b: float) -> float:
    """Degrees between two headings, 0 to 180."""
    return abs((a - b + 180) % 360 - 180)
