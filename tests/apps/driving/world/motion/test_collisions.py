"""Impulses against conservation laws."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.motion.catalogue import DEFAULT, VEHICLES
from apps.driving.world.motion.collisions import resolve
from apps.driving.world.motion.overlaps import Contacts, FixedIndex, contacts
from apps.driving.world.motion.vehicles import Fleet
from apps.driving.world.tags import Tag

TRUCK = VEHICLES["vehicle.carlamotors.firetruck"]


def as_boxes(place: np.ndarray, yaw: np.ndarray, half: np.ndarray, z: float = 1.0) -> Boxes:
    boxes = Boxes.empty(len(yaw))
    boxes.centre[:, :2], boxes.centre[:, 2] = place, z
    boxes.half[:, :2], boxes.half[:, 2] = half, 1.0
    boxes.yaw[:] = yaw
    boxes.tag[:] = Tag.BUILDINGS
    return boxes


def two(speed: float, other: float, gap: float = 4.5, spec: Any = DEFAULT) -> Fleet:
    fleet = Fleet()
    fleet.add(1, DEFAULT, Transform())
    fleet.add(2, spec, Transform(x=gap + spec.half[0] - DEFAULT.half[0]))
    fleet.set_velocity(1, (speed, 0.0, 0.0))
    fleet.set_velocity(2, (other, 0.0, 0.0))
    return fleet


@pytest.mark.parametrize("spec", [DEFAULT, TRUCK])
def test_a_rear_end_collision_keeps_momentum_and_loses_energy(spec: Any) -> None:
    fleet = two(15.0, 5.0, spec=spec)
    before = fleet.mass @ fleet.vx, fleet.mass @ fleet.vx**2
    events = resolve(fleet)
    assert fleet.mass @ fleet.vx == pytest.approx(before[0])
    assert fleet.mass @ fleet.vx**2 < before[1]
    assert fleet.vx[1] - fleet.vx[0] == pytest.approx(0.1 * 10.0)  # restitution
    assert [(e.id, e.other) for e in events] == [(1, 2), (2, 1)]
    assert events[0].impulse[0] == -events[1].impulse[0] < 0
    assert events[0].tag == spec.tag
    assert fleet.yaw_rate.tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert fleet.x[1] - fleet.x[0] > 4.5 + spec.half[0] - DEFAULT.half[0]


def test_those_who_part_are_left_alone() -> None:
    fleet = two(5.0, 15.0)
    assert resolve(fleet) == []
    assert fleet.vx.tolist() == [5.0, 15.0]


def test_a_blow_on_the_corner_turns() -> None:
    fleet = Fleet()
    fleet.add(1, DEFAULT, Transform())
    fleet.add(2, DEFAULT, Transform(x=4.6, y=1.5))
    fleet.set_velocity(1, (15.0, 0.0, 0.0))
    events = resolve(fleet)
    assert len(events) == 2
    assert fleet.yaw_rate[0] > 1.0  # its right front is held back: it turns right
    assert fleet.yaw_rate[1] > 1.0


def test_a_wall_stops_and_is_named() -> None:
    fleet = Fleet()
    fleet.add(4, DEFAULT, Transform())
    fleet.set_control(4, throttle=1.0)
    wall = as_boxes(np.array([[10.0, 0.0]]), np.zeros(1), np.array([[0.5, 8.0]]))
    index = FixedIndex(wall)
    events = []
    for _ in range(100):
        fleet.step(0.05)
        events += resolve(fleet, fixed=index)
    assert events[0][:3] == (4, 0, Tag.BUILDINGS)
    assert events[0].impulse[0] < -DEFAULT.mass * 5
    assert 9.4 - DEFAULT.half[0] < fleet.x[0] < 9.7 - DEFAULT.half[0]


def test_props_are_told_by_their_actor() -> None:
    fleet = Fleet()
    fleet.add(4, DEFAULT, Transform())
    fleet.set_velocity(4, (5.0, 0.0, 0.0))
    box = as_boxes(np.array([[2.5, 0.0]]), np.zeros(1), np.array([[0.4, 0.4]]))
    box.instance[:] = 77
    assert resolve(fleet, props=FixedIndex(box))[0].other == 77


def test_ghosts_meet_nothing_and_the_immovable_do_not_budge() -> None:
    fleet = two(15.0, 0.0)
    fleet.solid[1] = False
    assert resolve(fleet) == []
    fleet = two(15.0, 0.0)
    fleet.simulate[1] = False
    there = fleet.x[1]
    assert resolve(fleet)
    assert fleet.x[1] == there
    assert fleet.vx[0] == pytest.approx(-1.5)
    fleet = two(15.0, 0.0)
    fleet.z[1] = 9.0
    assert resolve(fleet) == []


def test_a_walker_is_thrown_and_barely_slows_the_car() -> None:
    class Standing(SimpleNamespace):
        def __len__(self) -> int:
            return 1

        def shift(self, row: int, dx: float, dy: float) -> None:
            self.x[row] += dx
            self.y[row] += dy

        def push(self, id: int, impulse: tuple[float, ...], mass: float) -> None:
            self.vx[0] += impulse[0] / mass

    one = np.zeros(1)
    walkers: Any = Standing(
        ids=np.array([9]), x=one + 2.5, y=one.copy(), z=one + 0.93, yaw=one.copy(),
        vx=one.copy(), vy=one.copy(), half=np.array([[0.19, 0.19, 0.93]]), solid=one == 0,
    )  # fmt: skip
    fleet = two(10.0, 0.0, gap=50.0)
    events = resolve(fleet, walkers)
    assert [(e.id, e.other) for e in events] == [(1, 9), (9, 1)]
    assert events[0].tag == Tag.PEDESTRIANS
    assert walkers.vx[0] > fleet.vx[0] > 9.0
    assert fleet.mass[0] * fleet.vx[0] + 70 * walkers.vx[0] == pytest.approx(10 * fleet.mass[0])


def test_a_pile_comes_to_rest() -> None:
    fleet = Fleet()
    rng = np.random.default_rng(3)
    for i in range(12):
        fleet.add(i, DEFAULT, Transform(*rng.uniform(-6, 6, 2), yaw=rng.uniform(-180, 180)))
    for _ in range(300):
        fleet.step(0.05)
        resolve(fleet)
        assert np.isfinite(fleet.x).all()
    x, y = fleet.box_centres()
    left: Contacts = contacts(np.stack([x, y], 1), np.radians(fleet.yaw), fleet.half[:, :2])
    assert left.depth.max(initial=0.0) < 0.05
    assert np.abs(fleet.vx).max() < 0.1


def test_the_search_is_quick() -> None:
    rng = np.random.default_rng(0)
    town = as_boxes(
        rng.uniform(0, 400, (800, 2)), rng.uniform(-3, 3, 800), rng.uniform(0.1, 8.0, (800, 2))
    )
    index = FixedIndex(town)
    fleet = Fleet()
    for i in range(20):
        fleet.add(i, DEFAULT, Transform(x=-20.0 * i, y=-20.0))
    start = time.process_time()
    for _ in range(200):
        resolve(fleet, fixed=index)
    assert (time.process_time() - start) / 200 < 0.9e-3  # 0.2 ms measured
