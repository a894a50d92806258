"""The CARLA Leaderboard's driving scores, by each of its formulas.

    completion  R: percent of the route that was driven, 0 to 100
    penalty     P: 1 without an infraction, towards 0 with more
    score       R * P of one route; that of several routes is the mean

Leaderboard 1.0 and 2.0 multiply a factor for each infraction; 2.1 divides by 1 + the sum of their
coefficients, so that one more infraction never weighs more than the first.  In all three, the share
of the driven route that lay outside its lanes is taken off: P is multiplied by (1 - share).  Figures
of the one are not figures of the other, so each is named wherever it is printed.

Source: ``leaderboard/utils/statistics_manager.py`` of github.com/carla-simulator/leaderboard (MIT),
branches ``leaderboard-1.0``, ``leaderboard-2.0``, ``leaderboard-2.1``.  The kinds of infraction bear
the names of its result files.  Some forks set the factor of stop signs to 1 (TransFuser's local
evaluator, for one); these here do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# 1.0: the factor by which each infraction multiplies the penalty.
FACTORS_1_0 = {
    "collisions_pedestrian": 0.50,
    "collisions_vehicle": 0.60,
    "collisions_layout": 0.65,
    "red_light": 0.70,
    "stop_infraction": 0.80,
}
FACTORS_2_0 = FACTORS_1_0 | {
    "scenario_timeouts": 0.70,
    "yield_emergency_vehicle_infractions": 0.70,
}
SLOWEST_2_0 = 0.70  # the factor of a car that stands while the traffic moves

# 2.1: what each infraction adds to the denominator.
COEFFICIENTS_2_1 = {
    "collisions_pedestrian": 1.0,
    "collisions_vehicle": 0.7,
    "collisions_layout": 0.6,
    "red_light": 0.4,
    "stop_infraction": 0.25,
    "scenario_timeouts": 0.4,
    "yield_emergency_vehicle_infractions": 0.4,
}
SLOWEST_2_1 = 0.4

# All kinds, in the order of the tables; the last three end a route and cost its remainder.
KINDS = (
    "collisions_pedestrian",
    "collisions_vehicle",
    "collisions_layout",
    "red_light",
    "stop_infraction",
    "outside_route_lanes",
    "min_speed_infractions",
    "yield_emergency_vehicle_infractions",
    "scenario_timeouts",
    "route_dev",
    "vehicle_blocked",
    "route_timeout",
)


@dataclass(frozen=True)
class Infraction:
    """Something that a driver must not do.

    ``time`` s since the start of the route, ``position`` (x, y) in the world. ``percentage``: of
    "outside_route_lanes" the share of the driven route that lay outside (0 to 100, the lower the
    better), of "min_speed_infractions" the car's mean speed in percent of the traffic's.
    """

    kind: str
    time: float
    position: tuple[float, float]
    message: str
    percentage: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "time": round(self.time, 2),
            "position": [round(v, 2) for v in self.position],
            "message": self.message,
        }
        if self.percentage is not None:
            found["percentage"] = round(self.percentage, 2)
        return found


def penalty_1_0(infractions: Iterable[Infraction]) -> float:
    """P by Leaderboard 1.0: kinds that it does not know count nothing."""
    return _product(infractions, FACTORS_1_0, slowest=1.0)


def penalty_2_0(infractions: Iterable[Infraction]) -> float:
    """P by Leaderboard 2.0, which also counts a speed below the traffic's."""
    return _product(infractions, FACTORS_2_0, slowest=SLOWEST_2_0)


def penalty_2_1(infractions: Iterable[Infraction]) -> float:
    """P by Leaderboard 2.1."""
    total, inside = 0.0, 1.0
    for infraction in infractions:
        total += COEFFICIENTS_2_1.get(infraction.kind, 0.0)
        share = _share(infraction)
        if infraction.kind == "min_speed_infractions":
            total += SLOWEST_2_1 * (1 - share)
        elif infraction.kind == "outside_route_lanes":
            inside *= 1 - share
    return inside / (1 + total)


def driving_score_1_0(completion: float, infractions: Iterable[Infraction]) -> float:
    """0 to 100, by Leaderboard 1.0."""
    return max(completion * penalty_1_0(infractions), 0.0)


def driving_score_2_0(completion: float, infractions: Iterable[Infraction]) -> float:
    """0 to 100, by Leaderboard 2.0."""
    return max(completion * penalty_2_0(infractions), 0.0)


def driving_score_2_1(completion: float, infractions: Iterable[Infraction]) -> float:
    """0 to 100, by Leaderboard 2.1."""
    return max(completion * penalty_2_1(infractions), 0.0)


def score_route(completion: float, infractions: Iterable[Infraction]) -> dict[str, float]:
    """All that one route scores; ``completion`` in percent."""
    found = tuple(infractions)
    return {
        "driving_score_2_1": driving_score_2_1(completion, found),
        "driving_score_2_0": driving_score_2_0(completion, found),
        "driving_score_1_0": driving_score_1_0(completion, found),
        "route_completion": completion,
        "penalty_2_1": penalty_2_1(found),
        "penalty_1_0": penalty_1_0(found),
    }


def _product(infractions: Iterable[Infraction], factors: dict[str, float], slowest: float) -> float:
    penalty = 1.0
    for infraction in infractions:
        penalty *= factors.get(infraction.kind, 1.0)
        share = _share(infraction)
        if infraction.kind == "min_speed_infractions":
            penalty *= 1 - (1 - slowest) * (1 - share)
        elif infraction.kind == "outside_route_lanes":
            penalty *= 1 - share
    return penalty


def _share(infraction: Infraction) -> float:
    """An infraction's percentage as a part of 1."""
    return min(max((infraction.percentage or 0.0) / 100, 0.0), 1.0)
