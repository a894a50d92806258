"""How far along its route a car is, and what of that ends the route.

A point of the plan is passed once the car is in front of the line across the route at it. Sources,
all of github.com/carla-simulator/scenario_runner (MIT): ``RouteCompletionTest``, ``InRouteTest``,
``ActorBlockedTest`` and ``MinimumSpeedRouteTest`` of ``atomic_criteria.py``, and
``RouteTimeoutBehavior`` of ``timer.py``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.evaluation.scores import Infraction
from apps.driving.evaluation.state import EgoState

if TYPE_CHECKING:
    import carla

    from apps.driving.routes.plan import Plan

WINDOW = 3  # points of the plan, about 1 m apart, that a tick may pass
NEAR_END = 10.0  # m from the last point
NEARLY_ALL = 99.0  # percent
DEVIATION = 30.0  # m beside the plan at which a route ends
DOUBTFUL = 15.0  # m beside the plan from which on ...
DOUBTFUL_SHARE = 30.0  # ... more than this percentage of the route ends it, too
STANDING = 0.1  # m/s
TIMEOUT = 300.0  # s at the least
CRAWLING = 0.1  # of the speed limit: each metre driven gives as many seconds as it takes at that


class Progress:
    """Where on the plan the car is.

    ``index`` is the last point it passed, ``completion`` the percentage driven (100 once it has
    arrived), ``distance`` and ``step`` the metres driven so far and in this tick.
    """

    def __init__(self, plan: Plan) -> None:
        self.xy: list[list[float]] = np.asarray(plan.xy, float).tolist()
        yaw = np.radians(np.asarray(plan.yaw, float))
        self.ahead: list[list[float]] = np.stack([np.cos(yaw), np.sin(yaw)], axis=1).tolist()
        self.s: list[float] = np.asarray(plan.s, float).tolist()
        self.index = 0
        self.step = 0.0
        self.arrived = False

    @property
    def distance(self) -> float:
        """Metres along the plan to the last point passed."""
        return self.s[self.index]

    @property
    def completion(self) -> float:
        """Percent."""
        return 100.0 if self.arrived else 100.0 * self.distance / max(self.s[-1], 1e-9)

    def update(self, state: EgoState) -> None:
        """Pass what there is to pass."""
        before = self.index
        for i in range(before, min(before + WINDOW + 1, len(self.s))):
            (x, y), (ax, ay) = self.xy[i], self.ahead[i]
            if (state.x - x) * ax + (state.y - y) * ay > 0:
                self.index = i
        self.step = self.s[self.index] - self.s[before]
        if self.completion > NEARLY_ALL and math.dist(self.xy[-1], state.position) < NEAR_END:
            self.arrived = True


class Deviation:
    """Too far beside the route, or beside it for too much of it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._index = 0
        self._doubtful = 0.0
        self._near = True

    def update(self, state: EgoState) -> list[Infraction]:
        """An infraction that ends the route, or none."""
        xy, s = self._progress.xy, self._progress.s
        window = range(self._index, min(self._index + 6, len(s)))
        away, closest = min((math.dist(xy[i], state.position), -i) for i in window)
        if away < DEVIATION:
            self._near = away < DOUBTFUL
        if not self._near:
            self._doubtful += s[-closest] - s[self._index]
        self._index = -closest
        share = 100 * self._doubtful / max(s[-1], 1e-9)
        if away < DEVIATION and share <= DOUBTFUL_SHARE:
            return []
        message = f"{away:.1f} m beside the route"
        if away < DEVIATION:
            message = f"more than {DOUBTFUL:g} m beside the route for {share:.0f} % of it"
        return [Infraction("route_dev", state.time, state.position, message)]


class Blocked:
    """Standing for ``patience`` seconds."""

    def __init__(self, patience: float = 180.0) -> None:
        self._patience = patience
        self._moved: float | None = None

    def update(self, state: EgoState) -> list[Infraction]:
        """An infraction that ends the route, or none."""
        if self._moved is None or state.speed >= STANDING:
            self._moved = state.time
        if state.time - self._moved <= self._patience:
            return []
        message = f"stood for {self._patience:g} s"
        return [Infraction("vehicle_blocked", state.time, state.position, message)]


class Timeout:
    """Time runs out: 300 s, and for each metre driven what it takes at a tenth of the limit.

    ``longest`` s bounds it further, for whoever waits; the Leaderboard has no such bound.
    """

    def __init__(self, plan: Plan, progress: Progress, longest: float | None = None) -> None:
        self._progress, self._longest = progress, math.inf if longest is None else longest
        self._limits: list[float] = np.asarray(plan.speed_limit, float).tolist()
        self.allowed = TIMEOUT

    def update(self, state: EgoState) -> list[Infraction]:
        """An infraction that ends the route, or none; after ``Progress.update``."""
        limit = max(self._limits[self._progress.index], 1.0)
        self.allowed += self._progress.step / (CRAWLING * limit)
        allowed = min(self.allowed, self._longest)
        if state.time <= allowed:
            return []
        message = f"not there after {allowed:.0f} s"
        return [Infraction("route_timeout", state.time, state.position, message)]


class MinimumSpeed:
    """Slower than the traffic: four times a route, the car's mean speed against the others'.

    Deviates from its source in which others: every vehicle within 100 m (there, those of the role
    "background", which that Leaderboard keeps around the car; ours are all over the town). And it
    looks at two ticks a second.
    """

    AROUND = 100.0  # m
    EVERY = 0.5  # s
    REFRESH = 10.0  # s

    def __init__(
        self, world: carla.World, ego: carla.Vehicle, progress: Progress, checkpoints: int = 4
    ) -> None:
        self._world, self._ego, self._progress = world, ego, progress
        self._part = progress.s[-1] / checkpoints
        self._others: list[int] = []
        self._listed = self._looked = -math.inf
        self._from = 0.0
        self._own = self._theirs = 0.0
        self._count = 0
        self.percentages: list[float] = []

    def update(self, state: EgoState, snapshot: carla.WorldSnapshot) -> list[Infraction]:
        """An infraction where a quarter of the route ended with this tick and was driven slowly."""
        found = []
        if self._progress.distance - self._from > self._part:
            found = self._close(state)
        if state.time - self._looked < self.EVERY - 1e-6:
            return found
        self._looked = state.time
        if state.time - self._listed >= self.REFRESH:
            self._listed = state.time
            vehicles = self._world.get_actors().filter("vehicle.*")
            self._others = [actor.id for actor in vehicles if actor.id != self._ego.id]
        speeds = []
        for number in self._others:
            other = snapshot.find(number)
            if other is None:
                continue
            at = other.get_transform().location
            if math.dist((at.x, at.y), state.position) < self.AROUND:
                velocity = other.get_velocity()
                speeds.append(math.hypot(velocity.x, velocity.y))
        if speeds:
            self._theirs += sum(speeds) / len(speeds)
            self._own += state.speed
            self._count += 1
        return found

    def finish(self, state: EgoState) -> list[Infraction]:
        """The last quarter, which ends with the route: only where that was driven to its end."""
        return self._close(state) if self._progress.completion > 95 else []

    def _close(self, state: EgoState) -> list[Infraction]:
        share = 100.0
        if self._count and self._theirs > 0:
            share = 100 * self._own / self._theirs
        self.percentages.append(share)
        self._from = self._progress.distance
        self._own = self._theirs = 0.0
        self._count = 0
        if share >= 100:
            return []
        message = f"mean speed {share:.0f} % of the surrounding traffic's"
        return [Infraction("min_speed_infractions", state.time, state.position, message, share)]
