"""Calls on walkers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.driving.world.calls.checks import finite, place, vector
from apps.driving.world.errors import SimulationError
from apps.driving.world.simulation.actors import Actor

if TYPE_CHECKING:
    from apps.driving.world.simulation.world import World

FASTEST = 20.0
"""m/s: nobody runs faster."""
LED = 2
"""Ticks for which the speed that a client's navigation sends counts: it sends one a tick while its
controller runs, and nothing when that stops; the second is for clients that come late."""


class People:
    """As the methods of ``carla.Walker``. SimulationError for an actor that is no walker."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._led: dict[int, int] = {}  # ticks left, of those whom a client's navigation leads

    def apply_control(
        self, actor_id: int, direction: Sequence[float], speed: float, jump: bool
    ) -> None:
        """Walk along ``direction`` (world frame; its length does not matter) at ``speed`` m/s."""
        self._walker(actor_id)
        along = vector("the direction", direction)
        finite("the speed", speed)
        self._led.pop(actor_id, None)
        self._world.walkers.set_control(actor_id, along, min(max(speed, 0.0), FASTEST), bool(jump))

    def set_state(self, actor_id: int, transform: Sequence[float], speed: float) -> None:
        """Where the client's navigation has put a walker's feet, and how fast it walks there."""
        tall = self._walker(actor_id).box.half[2]
        pose = place("the transform", transform)
        finite("the speed", speed)
        self._world.walkers.place(actor_id, pose._replace(z=pose.z + tall))
        yaw = math.radians(pose.yaw)
        self.apply_control(actor_id, (math.cos(yaw), math.sin(yaw), 0.0), speed, False)
        self._led[actor_id] = LED
        self._world.moved()

    def tire(self) -> None:
        """A tick is over: whom no client leads any more stands."""
        for actor_id in [i for i, left in self._led.items() if left == 1]:
            walkers = self._world.walkers
            walkers.speed[walkers.row(actor_id)] = 0.0
        self._led = {i: left - 1 for i, left in self._led.items() if left > 1}

    def forget(self, actor_id: int) -> None:
        """A walker is gone."""
        self._led.pop(actor_id, None)

    def _walker(self, actor_id: int) -> Actor:
        actor = self._world.actor(actor_id)
        if actor.kind != "walker":
            raise SimulationError(f"actor {actor_id} is a {actor.kind}, want a walker")
        return actor
