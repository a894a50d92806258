"""A car on open grass, and sensors put on it and read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from apps.driving.world.geometry import Transform
from apps.driving.world.simulation.actors import Actor
from apps.driving.world.simulation.world import World


@pytest.fixture
def car(world: World) -> Actor:
    """Far from the town, without anything on the grass around it."""
    return world.spawn("vehicle.tesla.model3", {}, Transform(4000.0, 4000.0, 0.0))


@pytest.fixture
def attach() -> Callable[..., Actor]:
    """Spawns a sensor on an actor and listens to it."""

    def put(world: World, name: str, place: Transform, parent: int, **given: object) -> Actor:
        actor = world.spawn(name, {k: str(v) for k, v in given.items()}, place, parent)
        world.listen(actor.id, True)
        return actor

    return put


@pytest.fixture
def payloads() -> Callable[[World, Actor], list[Any]]:
    """What a sensor told at the last tick."""

    def read(world: World, actor: Actor) -> list[Any]:
        return [payload for found, _, payload in world.readings if found is actor]

    return read


@pytest.fixture
def only(payloads: Callable[[World, Actor], list[Any]]) -> Callable[[World, Actor], Any]:
    """The same where it is one reading."""

    def read(world: World, actor: Actor) -> Any:
        (payload,) = payloads(world, actor)
        return payload

    return read
