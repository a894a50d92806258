"""Traffic lights and signs as actors, and the calls on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from apps.driving.world.calls.checks import finite
from apps.driving.world.errors import SimulationError
from apps.driving.world.simulation.actors import Actor, BoundingBox
from apps.driving.world.tags import Tag

if TYPE_CHECKING:
    from apps.driving.world.calls.surroundings import Surrounding
    from apps.driving.world.simulation.world import World

RED, YELLOW, GREEN, OFF, UNKNOWN = range(5)
"""``carla.TrafficLightState``."""


class Signals:
    """As the methods of ``carla.TrafficLight``. SimulationError for an actor that is none."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.light_ids: list[int] = []
        self._index: dict[int, int] = {}
        self.sign_of: dict[int, str] = {}  # by actor: the OpenDRIVE signal's id

    def populate(self) -> None:
        """An actor for each light and each sign of the town."""
        world = self._world
        for i, site in enumerate(world.town.network.lights):
            actor = self._add("traffic.traffic_light", "traffic_light", site, Tag.TRAFFIC_LIGHT)
            self.light_ids.append(actor.id)
            self._index[actor.id] = i
        for sign in world.town.network.signs:
            name = f"traffic.{sign.kind}"
            if sign.kind == "speed_limit":
                name += f".{sign.value:g}"
            self._add(name, "traffic_sign", sign, Tag.TRAFFIC_SIGNS)

    def _add(self, type_id: str, kind: str, site: Any, tag: Tag) -> Actor:
        centre, half = site.trigger
        local = site.transform.inverse_apply(np.array(centre[:3]))
        box = BoundingBox(
            (float(local[0]), float(local[1]), float(local[2])),
            (float(half[0]), float(half[1]), float(half[2])),
            centre.yaw - site.transform.yaw,
        )
        actor = self._world.registry.add(
            type_id=type_id,
            uid=0,
            kind=kind,
            attributes={},
            transform=site.transform,
            box=box,
            tags=(int(tag),),
        )
        self.sign_of[actor.id] = str(site.sign_id)
        return actor

    def set_state(self, actor_id: int, state: int) -> None:
        """Show a state (``carla.TrafficLightState``) until the cycle goes on."""
        if state not in range(5):
            raise SimulationError(f"traffic light state {state}: want 0 to 4")
        self._world.lights.set_state(self._light(actor_id), state)
        self._world.repaint()

    def set_green_time(self, actor_id: int, seconds: float) -> None:
        """s"""
        self._world.lights.set_green_time(self._light(actor_id), self._time(seconds))

    def set_yellow_time(self, actor_id: int, seconds: float) -> None:
        """s"""
        self._world.lights.set_yellow_time(self._light(actor_id), self._time(seconds))

    def set_red_time(self, actor_id: int, seconds: float) -> None:
        """s"""
        self._world.lights.set_red_time(self._light(actor_id), self._time(seconds))

    def freeze(self, actor_id: int, frozen: bool) -> None:
        """Stop the time of a light, and of those that turn with it, or let it go on."""
        self._world.lights.freeze(self._light(actor_id), bool(frozen))

    def freeze_all(self, frozen: bool) -> None:
        """The same for all."""
        self._world.lights.freeze_all(bool(frozen))

    def reset_group(self, actor_id: int) -> None:
        """Begin the cycle of a light's junction anew."""
        self._world.lights.reset_group(self._light(actor_id))

    def reset_all(self) -> None:
        """Begin all cycles anew."""
        self._world.lights.reset_all()

    def group(self, actor_id: int) -> list[int]:
        """Ids of the lights of the same junction."""
        return [self.light_ids[i] for i in self._world.lights.group_of(self._light(actor_id))]

    def light_boxes(self, actor_id: int) -> list[Surrounding]:
        """The boxes of a light's heads."""
        self._light(actor_id)
        return self._world.surroundings.heads(self.sign_of[actor_id])

    def _light(self, actor_id: int) -> int:
        self._world.actor(actor_id)
        if actor_id not in self._index:
            raise SimulationError(f"actor {actor_id} is not a traffic light")
        return self._index[actor_id]

    @staticmethod
    def _time(seconds: float) -> float:
        finite("the time", seconds)
        if seconds < 0.0:
            raise SimulationError(f"the time is {seconds} s; it must not be below 0")
        return float(seconds)
