"""What is read of a world, from actors made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.agents.expert.surroundings import SIGHT, Surroundings
from core.errors import ResourceError

carla = pytest.importorskip("carla")


def actor(
    id: int, kind: str, x: float, y: float, yaw: float = 0.0, velocity: Any = (0.0, 0.0), **box: Any
) -> Any:
    values = {"length": 2.0, "width": 1.0, "ahead": 0.0, "turn": 0.0, **box}
    return SimpleNamespace(
        id=id,
        type_id=kind,
        bounding_box=SimpleNamespace(
            location=carla.Location(values["ahead"], 0.0, 0.7),
            extent=carla.Vector3D(values["length"], values["width"], 0.7),
            rotation=carla.Rotation(yaw=values["turn"]),
        ),
        state=SimpleNamespace(
            get_transform=lambda: carla.Transform(carla.Location(x, y), carla.Rotation(yaw=yaw)),
            get_velocity=lambda: carla.Vector3D(*velocity, 0.0),
            get_angular_velocity=lambda: carla.Vector3D(0.0, 0.0, 90.0),
        ),
    )


def surroundings(*actors: Any, gone: tuple[int, ...] = ()) -> Surroundings:
    states = {one.id: one.state for one in actors if one.id not in gone}
    world = SimpleNamespace(
        get_actors=lambda: list(actors), get_snapshot=lambda: SimpleNamespace(find=states.get)
    )
    return Surroundings(world, actors[0])


EGO = actor(1, "vehicle.tesla.model3", 10.0, 20.0, 90.0, (0.5, 6.0))


def test_the_car_itself() -> None:
    ego, bodies, people = surroundings(EGO).read()
    assert ego.xy == pytest.approx([10.0, 20.0])
    assert ego.yaw == pytest.approx(math.pi / 2)
    assert ego.speed == pytest.approx(6.0)  # along it
    assert ego.yaw_rate == pytest.approx(math.pi / 2)
    assert len(bodies.id) == len(people.id) == 0


def test_who_is_around() -> None:
    _, bodies, people = surroundings(
        EGO,
        actor(2, "vehicle.audi.tt", 30.0, 20.0, 180.0, (-3.0, 0.0), ahead=0.5),
        actor(3, "static.prop.barrel", 12.0, 25.0, length=0.3, width=0.3),
        actor(4, "walker.pedestrian.0001", 5.0, 20.0, 0.0, (0.0, 1.5)),
        actor(5, "traffic.traffic_light", 12.0, 20.0),
        actor(6, "vehicle.audi.tt", 10.0 + SIGHT + 1.0, 20.0),
        actor(7, "vehicle.audi.tt", 11.0, 20.0),
        gone=(7,),
    ).read()
    assert bodies.id.tolist() == [2, 3]
    assert bodies.xy[0] == pytest.approx([29.5, 20.0], abs=1e-4)  # the middle of its box
    assert bodies.speed == pytest.approx([3.0, 0.0])
    assert people.id.tolist() == [4]
    assert people.velocity[0] == pytest.approx([0.0, 1.5])


def test_a_box_that_is_turned_against_its_actor() -> None:
    _, bodies, _ = surroundings(EGO, actor(2, "vehicle.audi.tt", 20.0, 20.0, turn=90.0)).read()
    assert bodies.half[0] == pytest.approx(np.array([1.0, 2.0]), abs=1e-4)


def test_the_car_has_gone() -> None:
    with pytest.raises(ResourceError, match="actor 1"):
        surroundings(EGO, gone=(1,)).read()
