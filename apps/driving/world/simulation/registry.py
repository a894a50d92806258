"""Who is in the world: actors by id, parents and children, numbers never used twice in an episode."""

from __future__ import annotations

from typing import Any

from apps.driving.world.errors import SimulationError
from apps.driving.world.simulation.actors import Actor

MOST_ACTORS = 10_000
"""A client in a loop must not fill the memory of the machine: about 20 MB at this number."""
MOST_MOVING = 2_000
"""Vehicles and walkers: with more, a tick takes longer than a second."""
STREAMS = 1_000
"""Sensors' streams are numbered from here; stream 1 is the world's own."""


class Registry:
    """Actors in the order of their ids, which is the order in which they came."""

    def __init__(self) -> None:
        self.actors: dict[int, Actor] = {}
        self._children: dict[int, list[int]] = {}
        self._next = 1
        self._moving = 0

    def add(self, *, kind: Any, parent: int = 0, streamed: bool = False, **fields: Any) -> Actor:
        """A new actor, with a stream of its own if ``streamed``.

        Raises SimulationError when there are too many.
        """
        if len(self.actors) >= MOST_ACTORS:
            raise SimulationError(
                f"Spawn failed: the world holds {MOST_ACTORS} actors; destroy some first"
            )
        moves = kind in ("vehicle", "walker")
        if moves and self._moving >= MOST_MOVING:
            raise SimulationError(
                f"Spawn failed: the world holds {MOST_MOVING} vehicles and walkers; "
                "destroy some first"
            )
        stream = STREAMS + self._next if streamed else 0
        actor = Actor(id=self._next, kind=kind, parent=parent, stream=stream, **fields)
        self._next += 1
        self._moving += moves
        self.actors[actor.id] = actor
        if parent:
            self._children.setdefault(parent, []).append(actor.id)
        return actor

    def get(self, actor_id: int) -> Actor:
        """The actor. Raises SimulationError when there is none."""
        actor = self.actors.get(actor_id)
        if actor is None:
            raise SimulationError(f"actor {actor_id} not found: it was never there or is destroyed")
        return actor

    def ancestors(self, actor_id: int) -> list[int]:
        """The actor, what carries it, what carries that. SimulationError when it is not there."""
        found = []
        while actor_id:
            found.append(actor_id)
            actor_id = self.get(actor_id).parent
        return found

    def remove(self, actor_id: int) -> tuple[Actor, list[Actor]]:
        """Take an actor out; it and its children, which have no parent from now on."""
        actor = self.actors.pop(actor_id)
        if actor.parent:
            self._children[actor.parent].remove(actor_id)
        orphans = [self.actors[i] for i in self._children.pop(actor_id, [])]
        for orphan in orphans:
            orphan.parent = 0
        self._moving -= actor.kind in ("vehicle", "walker")
        return actor, orphans

    def children(self, actor_id: int) -> list[int]:
        """Ids of what is attached to an actor."""
        return list(self._children.get(actor_id, ()))
