"""Routes and weather drawn at random, the same ones for the same seed.

A route is a walk over the lanes from a random place: at each junction the manoeuvre that the routes
before it have used least is the likeliest one, so that left, right and straight on are mixed also in
towns that favour one of them. A waypoint after each junction pins the way.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.agents.base import Command
from apps.driving.routes.files import RouteSpec
from apps.driving.routes.lanes import LEFT, RIGHT, Lane
from apps.driving.routes.planner import Planner
from core.errors import DataError, UsageError, unknown

if TYPE_CHECKING:
    import carla

_ATTEMPTS = 60  # for a route; towns with many dead ends need some
_CLEAR_OF_JUNCTIONS_M = 6.0
_TOLERANCE_M = 20.0  # that a plan may differ from the walk, at changes of lanes
_CHANGES_OF = 0.4  # the share of stretches with room for a change of lanes where one is made
_CHANGE_ROOM_M = 60.0
_NUMBER = {"routes": 61, "weather": 62}

SKIES: dict[str, dict[str, tuple[float, float]]] = {
    "clear": {"cloudiness": (0, 15)},
    "cloudy": {"cloudiness": (50, 95)},
    "wet": {"cloudiness": (5, 60), "precipitation_deposits": (30, 60), "wetness": (30, 70)},
    "soft rain": {
        "cloudiness": (70, 95),
        "precipitation": (10, 30),
        "precipitation_deposits": (30, 60),
        "wetness": (40, 80),
    },
    "hard rain": {
        "cloudiness": (85, 100),
        "precipitation": (60, 100),
        "precipitation_deposits": (60, 100),
        "wetness": (80, 100),
    },
    "fog": {"cloudiness": (30, 90), "fog_density": (20, 50), "fog_distance": (2, 20)},
}
"""Ranges of ``carla.WeatherParameters``, per cent, fog distance in m; after CARLA's 14 presets."""

SUNS: dict[str, tuple[float, float]] = {
    "noon": (35, 80),
    "afternoon": (18, 35),
    "sunset": (3, 15),
    "night": (-60, -10),
}
"""Altitude of the sun in degrees."""

_SKY_SHARE = (0.3, 0.25, 0.15, 0.1, 0.08, 0.12)
_SUN_SHARE = (0.4, 0.25, 0.2, 0.15)


def sample_routes(
    map: carla.Map,
    town: str,
    count: int,
    seed: int,
    length: tuple[float, float] = (150.0, 400.0),
    planner: Planner | None = None,
) -> list[RouteSpec]:
    """``count`` routes of ``length`` metres from seed ``seed``; ``planner`` saves reading the map.

    The first k of n routes are those of ``count=k``. Start and goal are outside junctions. Each route
    has been planned once and is as long as it should be.

    Raises UsageError for a count or lengths that make no sense, DataError where the town has no such
    routes.
    """
    low, high = length
    if count < 1 or not 10.0 <= low < high < 1e5:
        raise UsageError(
            f"{count} routes of {low} to {high} m: want one or more, of 10 m or more, the second "
            "length above the first"
        )
    planner = planner or Planner(map)
    label = re.sub(r"[^A-Za-z0-9_]+", "_", town).strip("_")[:60] or "town"  # fit for a file's name
    used = dict.fromkeys((Command.LEFT, Command.RIGHT, Command.STRAIGHT), 0)
    found: list[RouteSpec] = []
    for number in range(count):
        rng = np.random.default_rng([seed, _NUMBER["routes"], number])
        for _ in range(_ATTEMPTS):
            spec = _walk(planner, town, f"{label}_{seed}_{number:03d}", rng, length, used)
            if spec is not None:
                found.append(spec)
                break
        else:
            raise DataError(
                f"{town}: no route of {low:.0f} to {high:.0f} m found; ask for shorter ones"
            )
    return found


def sample_weather(seed: int) -> dict[str, float]:
    """One weather from a seed: sky, sun's altitude and azimuth, wind.

    Three in ten skies are clear, about one in five has rain or fog dense enough to matter; three in
    twenty are at night.
    """
    rng = np.random.default_rng([seed, _NUMBER["weather"]])
    sky = list(SKIES)[int(rng.choice(len(SKIES), p=_SKY_SHARE))]
    sun = list(SUNS)[int(rng.choice(len(SUNS), p=_SUN_SHARE))]
    weather = {
        "cloudiness": 5.0,
        "precipitation": 0.0,
        "precipitation_deposits": 0.0,
        "wind_intensity": float(rng.uniform(0, 60)),
        "fog_density": 2.0,
        "fog_distance": 0.75,
        "wetness": 0.0,
        "sun_azimuth_angle": float(rng.uniform(0, 360)),
        "sun_altitude_angle": float(rng.uniform(*SUNS[sun])),
    }
    weather |= {name: float(rng.uniform(*bounds)) for name, bounds in SKIES[sky].items()}
    return {name: round(value, 2) for name, value in weather.items()}


def typical_weather(sky: str, sun: str) -> dict[str, float]:
    """The middle of a sky's and a sun's ranges. UsageError for one that is not in the tables."""
    for kind, name, known in (("sky", sky, SKIES), ("sun", sun, SUNS)):
        if name not in known:
            raise UsageError(unknown(kind, name, known))
    weather = {"cloudiness": 5.0, "sun_altitude_angle": sum(SUNS[sun]) / 2}
    return weather | {name: sum(bounds) / 2 for name, bounds in SKIES[sky].items()}


def _walk(
    planner: Planner,
    town: str,
    name: str,
    rng: np.random.Generator,
    length: tuple[float, float],
    used: dict[Command, int],
) -> RouteSpec | None:
    """One route, or None where this walk came to nothing; counts its manoeuvres in ``used``."""
    lanes = planner.lanes
    open_lanes = [
        lane
        for lane in lanes.lanes.values()
        if lane.junction < 0 and lane.length > 2 * _CLEAR_OF_JUNCTIONS_M
    ]
    if not open_lanes:
        return None
    weights = np.array([lane.length for lane in open_lanes])
    lane = open_lanes[int(rng.choice(len(open_lanes), p=weights / weights.sum()))]
    wanted = float(rng.uniform(*length))
    at = float(rng.uniform(_CLEAR_OF_JUNCTIONS_M, lane.length - _CLEAR_OF_JUNCTIONS_M))
    waypoints = [_waypoint(lane, at)]
    gone, key = -at, lane.key
    taken: list[Command] = []
    while True:
        here = lanes.lanes[key]
        goal = wanted - gone
        if here.junction < 0 and here.length > 2 * _CLEAR_OF_JUNCTIONS_M:
            clear = (_CLEAR_OF_JUNCTIONS_M, here.length - _CLEAR_OF_JUNCTIONS_M)
            if goal <= here.length:
                end = min(max(goal, clear[0]), clear[1])
                if gone + end < length[0] or gone + end > length[1] or gone + end < 10.0:
                    return None
                waypoints.append(_waypoint(here, end))
                break
            if gone > 0:
                waypoints.append(_waypoint(here, min(clear[1], 10.0)))
            side = (LEFT, RIGHT)[int(rng.integers(2))]
            start, end = here.stretch(side, max(at, 10.0))
            if end - start > _CHANGE_ROOM_M and rng.random() < _CHANGES_OF:
                beside = lanes.lanes.get(here.beside(side))
                if beside is not None and beside.length > end:
                    waypoints.append(_waypoint(beside, start + _CHANGE_ROOM_M))
                    key, here = beside.key, beside
        elif goal < -_TOLERANCE_M and gone > length[1]:
            return None
        following = sorted(lanes.following(key))
        if not following:
            return None
        # Lanes of a junction lead on in one way; into a junction the rarer manoeuvre is likelier.
        options = [_command(lanes.lanes[k]) for k in following]
        share = np.array([1.0 / (1.0 + used.get(c, 0) + taken.count(c)) ** 2 for c in options])
        choice = int(rng.choice(len(following), p=share / share.sum()))
        if here.junction < 0 and options[choice] is not Command.LANE_FOLLOW:
            taken.append(options[choice])
        gone += here.length
        key, at = following[choice], 0.0
    spec = RouteSpec(name, town, tuple(waypoints))
    try:
        plan = planner.plan_route(spec)
    except DataError:
        return None
    if not length[0] - _TOLERANCE_M <= plan.length <= length[1] + _TOLERANCE_M:
        return None
    for command in taken:
        used[command] += 1
    return spec


def _command(lane: Lane) -> Command:
    """What driving along a lane of a junction is, by its two ends; following the lane elsewhere."""
    if lane.junction < 0:
        return Command.LANE_FOLLOW
    turn = (lane.yaw[-1] - lane.yaw[0] + 180.0) % 360.0 - 180.0
    if abs(turn) < 35.0:
        return Command.STRAIGHT
    return Command.RIGHT if turn > 0 else Command.LEFT


def _waypoint(lane: Lane, s: float) -> tuple[float, float, float, float]:
    """x, y, z and yaw of a place on a lane, to a centimetre."""
    x, y = (float(np.interp(s, lane.s, lane.xy[:, i])) for i in (0, 1))
    i = int(np.clip(np.searchsorted(lane.s, s, side="right") - 1, 0, len(lane.s) - 2))
    along = lane.xy[i + 1] - lane.xy[i]
    yaw = math.degrees(math.atan2(along[1], along[0]))
    return (round(x, 2), round(y, 2), round(float(np.interp(s, lane.s, lane.z)), 2), round(yaw, 1))
