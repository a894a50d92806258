"""Collisions, each counted once and by what was hit.

Source: ``CollisionTest`` of ``atomic_criteria.py`` in github.com/carla-simulator/scenario_runner
(MIT): within 5 m of the last one, or with the same body within 5 s of it, it is the same collision,
and a car that stands is not to blame.

Deviates from it: the car's speed is that of the tick before the impact (there, of the last tick that
was processed: a car that a wall stops at once would be excused), and touching a kerb does not hide
what is hit within 5 m of it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from apps.driving.evaluation.scores import Infraction
from apps.driving.evaluation.state import EgoState

if TYPE_CHECKING:
    import carla

SAME_PLACE = 5.0  # m
SAME_BODY = 5.0  # s
STANDING = 0.1  # m/s
_REMEMBERED = 40  # ticks of speeds: an event comes at most a few ticks late


class Collisions:
    """Listens to a collision sensor that it fixes to the car."""

    def __init__(self, world: carla.World, ego: carla.Vehicle) -> None:
        import carla

        blueprint = world.get_blueprint_library().find("sensor.other.collision")
        self._sensor: Any = world.spawn_actor(blueprint, carla.Transform(), attach_to=ego)
        # The client's threads append, the driving thread takes: both are atomic on a deque.
        self._events: deque[tuple[int, int, str]] = deque()
        self._sensor.listen(
            lambda event: self._events.append(
                (event.frame, event.other_actor.id, event.other_actor.type_id)
            )
        )
        self._states: dict[int, EgoState] = {}
        self._place: tuple[float, float] | None = None
        self._body: tuple[int, float] | None = None

    def update(self, state: EgoState) -> list[Infraction]:
        """What was hit since the last tick."""
        self._states[state.frame] = state
        if len(self._states) > _REMEMBERED:
            del self._states[min(self._states)]
        found = []
        while self._events:
            infraction = self.judge(*self._events.popleft(), state)
            if infraction is not None:
                found.append(infraction)
        if self._place is not None and math.dist(self._place, state.position) > SAME_PLACE:
            self._place = None
        if self._body is not None and state.time - self._body[1] > SAME_BODY:
            self._body = None
        return found

    def judge(self, frame: int, other: int, type_id: str, now: EgoState) -> Infraction | None:
        """An event of the sensor as an infraction, or None where it is none or a known one.

        ``other`` is the id of what was hit, 0 for scenery.
        """
        kind = _kind(type_id)
        if kind is None:
            return None
        at = self._states.get(frame, now)
        before = self._states.get(frame - 1, at)
        if self._body is not None and self._body[0] == other:
            return None
        if self._place is not None and math.dist(self._place, at.position) <= SAME_PLACE:
            return None
        if before.speed < STANDING:
            return None
        self._place = at.position
        if other:
            self._body = (other, at.time)
        message = f"hit {type_id} (id {other}) at {before.speed:.1f} m/s"
        return Infraction(kind, at.time, at.position, message)

    def destroy(self) -> None:
        """Stop listening."""
        if self._sensor is not None:
            self._sensor.stop()
            self._sensor.destroy()
            self._sensor = None


def _kind(type_id: str) -> str | None:
    if "vehicle" in type_id:
        return "collisions_vehicle"
    if "walker" in type_id:
        return "collisions_pedestrian"
    if ("static" in type_id or "traffic" in type_id) and "sidewalk" not in type_id:
        return "collisions_layout"
    return None
