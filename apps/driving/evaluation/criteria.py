"""What is held against a driver, tick by tick, seen through CARLA's public interface alone.

    criteria = Criteria(world, map, ego, plan)
    while not criteria.over:
        criteria.update(world_snapshot)  # once a tick
    criteria.finish()
    criteria.completion, criteria.infractions, criteria.status

The criteria and their thresholds are those of CARLA's Leaderboard 2 (``_create_test_criteria`` of its
``scenarios/route_scenario.py``); each module that holds one names its source and deviations. Not
among them: emergency vehicles and scenarios' own time-outs, for there are no scenarios here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.driving.evaluation.collisions import Collisions
from apps.driving.evaluation.lanes import OutsideLanes
from apps.driving.evaluation.progress import Blocked, Deviation, MinimumSpeed, Progress, Timeout
from apps.driving.evaluation.scores import Infraction
from apps.driving.evaluation.signals import RedLights, StopLine, StopSigns
from apps.driving.evaluation.state import EgoState, ego_state
from core.errors import ResourceError

if TYPE_CHECKING:
    import carla

    from apps.driving.routes.plan import Plan

STATUS = {
    "route_dev": "deviated from the route",
    "vehicle_blocked": "blocked",
    "route_timeout": "timed out",
}


class EgoGone(ResourceError):
    """The car is no longer in the world."""


@dataclass(frozen=True)
class CriteriaOptions:
    """``blocked_after`` s of standing end a route. ``min_speed`` counts quarters of a route driven
    slower than the traffic as infractions; without it they are measured alone: a route of half a
    kilometre has one or two red lights, and which quarter they fall into, and who else waits there,
    would decide (the Leaderboard's own routes are ten times as long). After ``max_seconds`` s a route
    has timed out, also where the Leaderboard would give it more."""

    blocked_after: float = 180.0
    min_speed: bool = False
    max_seconds: float | None = None


class Criteria:
    """All criteria over one route. ``infractions`` grows as they happen; ``over`` ends the route."""

    def __init__(
        self,
        world: carla.World,
        town: carla.Map,
        ego: carla.Vehicle,
        plan: Plan,
        options: CriteriaOptions | None = None,
    ) -> None:
        options = options or CriteriaOptions()
        self._ego = ego
        self._began: float | None = None
        self.state: EgoState | None = None
        self.infractions: list[Infraction] = []
        self.ended_by: str | None = None
        self._finished = False
        self.progress = Progress(plan)
        self._lanes = OutsideLanes(town, ego, self.progress)
        self._red_lights = RedLights(world, town, ego, plan)
        self._stop_signs = StopSigns(world, town, ego, plan)
        self._endings = (
            Deviation(self.progress),
            Blocked(options.blocked_after),
            Timeout(plan, self.progress, options.max_seconds),
        )
        self._speed = MinimumSpeed(world, ego, self.progress)
        self._counts_speed = options.min_speed
        self.slow: list[Infraction] = []  # by speed; also among the infractions where they count
        self._collisions = Collisions(world, ego)  # the last: it spawns a sensor

    @property
    def completion(self) -> float:
        """Percent of the route driven."""
        return self.progress.completion

    @property
    def traffic_speed(self) -> tuple[float, ...]:
        """Mean speed in percent of the traffic's, for each quarter of the route that has ended."""
        return tuple(self._speed.percentages)

    @property
    def lights(self) -> list[tuple[carla.TrafficLight, list[StopLine]]]:
        """The traffic lights near the route, and the lines at which they hold cars."""
        return [(light, lines) for light, _, lines in self._red_lights.lights]

    @property
    def stops(self) -> list[list[tuple[float, float]]]:
        """Outlines (x, y) on the ground of where the stop signs near the route hold."""
        return [sign.outline for sign in self._stop_signs.signs]

    @property
    def over(self) -> bool:
        """Whether the route has ended, well or not."""
        return self.progress.arrived or self.ended_by is not None

    @property
    def status(self) -> str:
        """In words: how it ended, or that it has not."""
        if self.progress.arrived:
            return "completed" if self.infractions else "perfect"
        return f"failed: {STATUS[self.ended_by]}" if self.ended_by else "under way"

    def update(self, snapshot: carla.WorldSnapshot) -> list[Infraction]:
        """Look at one tick; what happened in it. EgoGone when the car has gone."""
        if self._began is None:
            self._began = snapshot.timestamp.elapsed_seconds
        state = ego_state(snapshot, self._ego, self._began)
        if state is None:
            raise EgoGone(
                f"the car (actor {self._ego.id}) has gone from the simulator; did another program "
                "destroy it? Run the route again"
            )
        self.state = state
        self.progress.update(state)
        self._lanes.update(state)
        found = [
            *self._collisions.update(state),
            *self._red_lights.update(state),
            *self._stop_signs.update(state),
        ]
        found += self._slow(self._speed.update(state, snapshot))
        for ending in self._endings:
            ended = ending.update(state)
            if ended and not self.progress.arrived and self.ended_by is None:
                self.ended_by = ended[0].kind
                found += ended
        self.infractions += found
        return found

    def finish(self) -> tuple[Infraction, ...]:
        """Close the sums that run over the whole route, stop listening; all infractions."""
        self._collisions.destroy()
        if self.state is not None and not self._finished:
            self._finished = True
            self.infractions += self._collisions.update(self.state)
            self.infractions += self._slow(self._speed.finish(self.state))
            self.infractions += self._lanes.infractions()
        return tuple(self.infractions)

    def _slow(self, found: list[Infraction]) -> list[Infraction]:
        self.slow += found
        return found if self._counts_speed else []
