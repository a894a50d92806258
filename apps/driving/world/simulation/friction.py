"""Patches of road with a friction of their own: the actors ``static.trigger.friction``.

As in CARLA a patch is an upright box of half extents given in centimetres, and a vehicle whose middle
is inside has the patch's tyre friction in place of its own; of two patches the later counts. Rain
takes its share of that as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.motion.catalogue import VEHICLES

if TYPE_CHECKING:
    from apps.driving.world.simulation.actors import Actor
    from apps.driving.world.simulation.world import World

TRIGGER = "static.trigger.friction"


class Friction:
    """Sets the grip of n vehicles by the patches they are on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._patches: list[Actor] | None = None
        self._changed = False
        self.under: dict[int, float] = {}
        """The friction of the patch that a vehicle is on, by its id."""

    def rebuild(self) -> None:
        """A patch has come, gone or moved."""
        self._patches = None

    def apply(self) -> None:
        """For the tick that begins."""
        if self._patches is None:
            found = self._world.actors.values()
            self._patches = [actor for actor in found if actor.type_id == TRIGGER]
        if not self._patches and not self._changed:
            return
        fleet = self._world.fleet
        self.under.clear()
        grip = np.array([spec.grip for spec in fleet.specs])
        # Of the vehicles as they came: a client may have taken all their friction away.
        came = [VEHICLES[spec.id] for spec in fleet.specs]
        each = np.array([spec.grip / spec.tire_friction for spec in came])
        x, y = fleet.box_centres()
        middle = np.column_stack([x, y, fleet.z + fleet.centre[:, 2]])
        for patch in self._patches:
            place = self._world.transform(patch.id)
            inside = (np.abs(place.inverse_apply(middle)) <= patch.box.half).all(1)
            friction = float(patch.attributes["friction"])
            grip[inside] = friction * each[inside]
            self.under |= {int(i): friction for i in fleet.ids[inside]}
        fleet.grip[:] = grip
        self._changed = bool(self._patches)
