"""Who is there, and whose children they are."""

from __future__ import annotations

from typing import Any

import pytest

from apps.driving.world.errors import SimulationError
from apps.driving.world.geometry import Transform
from apps.driving.world.simulation import registry
from apps.driving.world.simulation.actors import Actor
from apps.driving.world.simulation.registry import Registry


def add(found: Registry, kind: str = "static", parent: int = 0, streamed: bool = False) -> Actor:
    fields: dict[str, Any] = {"type_id": "x", "uid": 1, "attributes": {}, "transform": Transform()}
    return found.add(kind=kind, parent=parent, streamed=streamed, **fields)


def test_ids_ascend_and_streams_are_apart() -> None:
    found = Registry()
    a, b = add(found), add(found, "sensor", streamed=True)
    assert (a.id, b.id) == (1, 2)
    assert a.stream == 0
    assert b.stream > 1
    found.remove(b.id)
    assert add(found, "sensor").id == 3


def test_children_outlive_their_parent() -> None:
    found = Registry()
    parent = add(found)
    first, second = add(found, parent=parent.id), add(found, parent=parent.id)
    assert found.children(parent.id) == [first.id, second.id]
    found.remove(first.id)
    gone, orphans = found.remove(parent.id)
    assert (gone, orphans) == (parent, [second])
    assert second.parent == 0
    found.remove(second.id)
    assert not found.actors


def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST_ACTORS", 5)
    monkeypatch.setattr(registry, "MOST_MOVING", 2)
    found = Registry()
    cars = [add(found, "vehicle"), add(found, "walker")]
    with pytest.raises(SimulationError, match="2 vehicles and walkers"):
        add(found, "vehicle")
    for _ in range(3):
        add(found)
    with pytest.raises(SimulationError, match="5 actors"):
        add(found)
    found.remove(cars[0].id)
    add(found, "vehicle")


def test_nobody() -> None:
    with pytest.raises(SimulationError, match="actor 7 not found"):
        Registry().get(7)
