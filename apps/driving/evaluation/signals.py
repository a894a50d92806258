"""Red lights that were run and stop signs at which the car did not stop.

Source: ``RunningRedLightTest`` and ``RunningStopTest`` of ``atomic_criteria.py`` in
github.com/carla-simulator/scenario_runner (MIT). A red light is run when the tail of the car crosses
the line across a lane that the light holds, at the end of the lane before the junction. A stop sign
holds from 4 m before its trigger volume until that is left; somewhere in it the car must stand.

Deviates from it: a stop's volume is taken in the direction in which it lies (there, along the axes of
the world), and only lights and stops within 60 m of the plan are looked at, which a car that has not
left its route (30 m) cannot miss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.evaluation.scores import Infraction
from apps.driving.evaluation.state import EgoState

if TYPE_CHECKING:
    import carla

    from apps.driving.routes.plan import Plan

NEAR_ROUTE = 60.0  # m
NEAR_LIGHT = 15.0  # m between the car and the light's volume
NEAR_STOP = 4.0  # m before a stop sign's volume
STEP = 0.5  # m between two points of a lane
STOPPED = 0.1  # m/s
WIDER = 1.2  # a stop's volume, times this
BACKWARDS = -0.17  # cosine: from 100 degrees on, it is the other direction

Point = tuple[float, float]


@dataclass(frozen=True)
class StopLine:
    """The line across a lane's end before a junction, and the lane it belongs to."""

    road: int
    lane: int
    forward: Point
    left: Point
    right: Point


class RedLights:
    """Knows the stop lines of every light near the plan, and looks which the car's tail crosses."""

    def __init__(self, world: carla.World, town: carla.Map, ego: carla.Vehicle, plan: Plan) -> None:
        self._map, self._length = town, ego.bounding_box.extent.x
        self._red = _state_red()
        self._last: int | None = None
        self.lights: list[tuple[Any, Point, list[StopLine]]] = []
        for light in world.get_actors().filter("*traffic_light*"):
            centre = _centre(light)
            if _near(plan, centre):
                self.lights.append((light, centre, stop_lines(light, town)))

    def update(self, state: EgoState) -> list[Infraction]:
        """The red light that is being run in this tick."""
        forward = state.forward
        lane: tuple[int, int] | None = None
        for light, centre, lines in self.lights:
            if math.dist(centre, state.position) > NEAR_LIGHT or light.id == self._last:
                continue
            if light.state != self._red:
                continue
            near = _along(state, forward, -0.8 * self._length)
            far = _along(state, forward, -self._length - 1)
            if lane is None:
                lane = self._lane(far, state.z)
            for line in lines:
                if lane != (line.road, line.lane):
                    continue
                if forward[0] * line.forward[0] + forward[1] * line.forward[1] <= 0:
                    continue
                if crosses(near, far, line.left, line.right):
                    self._last = light.id
                    message = f"ran the red light {light.id}"
                    return [Infraction("red_light", state.time, state.position, message)]
        return []

    def _lane(self, at: Point, z: float) -> tuple[int, int]:
        import carla

        waypoint = self._map.get_waypoint(carla.Location(at[0], at[1], z))
        return waypoint.road_id, waypoint.lane_id


class StopSigns:
    """One stop sign at a time: from when it comes near until its volume is left."""

    def __init__(self, world: carla.World, town: carla.Map, ego: carla.Vehicle, plan: Plan) -> None:
        self._map = town
        self.signs = [
            _Volume.of(sign)
            for sign in world.get_actors().filter("traffic.stop")
            if _near(plan, _centre(sign))
        ]
        self._held: _Volume | None = None
        self._stopped = False
        self._last: int | None = None

    def update(self, state: EgoState) -> list[Infraction]:
        """A stop sign that the car has now left without having stood there."""
        near = [s for s in self.signs if math.dist(s.centre, state.position) < 4 * NEAR_STOP]
        if not near and self._held is None:
            return []
        lane = self._lane_ahead(state)
        if self._held is None:
            self._held = self._find(state, lane, near)
            return []
        if state.speed < STOPPED:
            self._stopped = True
        if self._held.holds(lane):
            return []
        left, stood = self._held, self._stopped
        self._held, self._stopped = None, False
        if stood or self._last == left.number:
            return []
        self._last = left.number
        message = f"did not stop at the stop sign {left.number}"
        return [Infraction("stop_infraction", state.time, state.position, message)]

    def _find(self, state: EgoState, lane: list[Any], near: list[_Volume]) -> _Volume | None:
        ax, ay = state.forward
        way = lane[0].transform.get_forward_vector()
        if state.vx * ax + state.vy * ay < BACKWARDS or ax * way.x + ay * way.y < BACKWARDS:
            return None
        return next((sign for sign in near if sign.holds(lane)), None)

    def _lane_ahead(self, state: EgoState) -> list[Any]:
        """The lane's waypoints from the car on, ``NEAR_STOP`` m."""
        import carla

        found = [self._map.get_waypoint(carla.Location(state.x, state.y, state.z))]
        for _ in range(int(NEAR_STOP / STEP)):
            following = _following(found[-1])
            if following is None:
                break
            found.append(following)
        return found


@dataclass(frozen=True)
class _Volume:
    """A sign's trigger volume on the ground."""

    number: int
    centre: Point
    axis: Point  # of its length
    half: Point

    @classmethod
    def of(cls, sign: Any) -> _Volume:
        box = sign.trigger_volume
        yaw = math.radians(sign.get_transform().rotation.yaw + box.rotation.yaw)
        axis = (math.cos(yaw), math.sin(yaw))
        return cls(sign.id, _centre(sign), axis, (WIDER * box.extent.x, WIDER * box.extent.y))

    @property
    def outline(self) -> list[Point]:
        """Its four corners."""
        (cx, cy), (ax, ay), (along, aside) = self.centre, self.axis, self.half
        return [
            (cx + u * along * ax - v * aside * ay, cy + u * along * ay + v * aside * ax)
            for u, v in ((1, 1), (1, -1), (-1, -1), (-1, 1))
        ]

    def holds(self, lane: list[Any]) -> bool:
        """Whether it is within ``NEAR_STOP`` of the first waypoint and has one of them in it."""
        places = [(w.transform.location.x, w.transform.location.y) for w in lane]
        if math.dist(places[0], self.centre) > NEAR_STOP:
            return False
        (cx, cy), (ax, ay) = self.centre, self.axis
        for x, y in places:
            along = (x - cx) * ax + (y - cy) * ay
            aside = (y - cy) * ax - (x - cx) * ay
            if abs(along) < self.half[0] and abs(aside) < self.half[1]:
                return True
        return False


def stop_lines(light: Any, town: carla.Map) -> list[StopLine]:
    """The lines at which a traffic light holds cars, one for each lane under its trigger volume."""
    import carla

    base, box = light.get_transform(), light.trigger_volume
    centre = base.transform(box.location)
    yaw = math.radians(base.rotation.yaw)
    lanes: list[Any] = []
    # 0.9 of the volume, so that the lane beside it is not met
    for x in np.arange(-0.9 * box.extent.x, 0.9 * box.extent.x, 1.0).tolist():
        place = carla.Location(centre.x + x * math.cos(yaw), centre.y + x * math.sin(yaw), centre.z)
        found = town.get_waypoint(place)
        known = [(w.road_id, w.lane_id) for w in lanes]
        if found is not None and (found.road_id, found.lane_id) not in known:
            lanes.append(found)
    return [_line(_last_before_junction(lane)) for lane in lanes]


def _last_before_junction(waypoint: Any) -> Any:
    while not waypoint.is_junction:
        following = _following(waypoint)
        if following is None or following.is_junction:
            break
        waypoint = following
    return waypoint


def _following(waypoint: Any) -> Any | None:
    """The lane's next waypoint. CARLA's map links some lanes to the wrong end of another road."""
    at = waypoint.transform.location
    found = [w for w in waypoint.next(STEP) if at.distance(w.transform.location) < 10 * STEP]
    return found[0] if found else None


def _line(waypoint: Any) -> StopLine:
    at, forward = waypoint.transform.location, waypoint.transform.get_forward_vector()
    reach = 0.6 * waypoint.lane_width
    dx, dy = -forward.y * reach, forward.x * reach
    return StopLine(
        waypoint.road_id,
        waypoint.lane_id,
        (forward.x, forward.y),
        (at.x - dx, at.y - dy),
        (at.x + dx, at.y + dy),
    )


def crosses(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments a-b and c-d have a point in common (parallel ones: no)."""
    rx, ry = b[0] - a[0], b[1] - a[1]
    sx, sy = d[0] - c[0], d[1] - c[1]
    denominator = rx * sy - ry * sx
    if abs(denominator) < 1e-12:
        return False
    qx, qy = c[0] - a[0], c[1] - a[1]
    t = (qx * sy - qy * sx) / denominator
    u = (qx * ry - qy * rx) / denominator
    return 0 <= t <= 1 and 0 <= u <= 1


def _along(state: EgoState, forward: Point, distance: float) -> Point:
    return state.x + distance * forward[0], state.y + distance * forward[1]


def _centre(actor: Any) -> Point:
    """Where the trigger volume of a light or a sign is."""
    place = actor.get_transform().transform(actor.trigger_volume.location)
    return place.x, place.y


def _near(plan: Plan, place: Point) -> bool:
    return bool(np.hypot(*(np.asarray(plan.xy) - place).T).min() < NEAR_ROUTE)


def _state_red() -> Any:
    import carla

    return carla.TrafficLightState.Red
