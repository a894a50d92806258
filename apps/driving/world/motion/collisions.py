"""Vehicles that touch, and the impulses that part them.

Impulses are those of two rigid bodies in the plane with restitution and Coulomb friction at one
point (Baraff, SIGGRAPH 1997 course notes, "Rigid Body Simulation", section 8), one contact after the
other; what still overlaps is moved apart.

Deviates from rigid bodies: whoever is walked into does not stop a vehicle but is thrown, as a mass
of 70 kg; contacts are solved once a step, not until all agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apps.driving.world.motion.overlaps import (
    CLEARANCE,
    Contacts,
    FixedIndex,
    contacts,
    near_pairs,
    overlaps,
)
from apps.driving.world.tags import Tag

if TYPE_CHECKING:
    from apps.driving.world.motion.vehicles import Fleet
    from apps.driving.world.motion.walkers import Walkers

RESTITUTION, FRICTION = 0.1, 0.4  # of metal on metal at town speeds, and of what scrapes along
PART = 0.8  # share of an overlap that is undone a step; all of it makes piles shake
WALKER_MASS = 70.0
UNNOTICED = 1.0  # N s: less is no event


class Collision(NamedTuple):
    """What one vehicle or walker felt of another, or of something fixed, in a step."""

    id: int
    other: int  # an actor's id; 0 for scenery
    tag: int  # of the other, of tags.Tag
    impulse: tuple[float, float, float]  # N s on ``id``
    point: tuple[float, float]


def resolve(
    fleet: Fleet,
    walkers: Walkers | None = None,
    fixed: FixedIndex | None = None,
    props: FixedIndex | None = None,
) -> list[Collision]:
    """Parts what overlaps, changes the velocities of those that met, and tells who felt what.

    ``fixed`` is scenery, ``props`` what clients put there (its ``instance`` are actors' ids).
    Vehicles without ``solid`` meet nothing; those without ``simulate`` do not budge.
    """
    if not len(fleet):
        return []
    x, y = fleet.box_centres()
    place, yaw, half = np.stack([x, y], 1), np.radians(fleet.yaw), fleet.half[:, :2]
    found: list[Collision] = []
    solid = fleet.solid
    if len(fleet) > 1:
        met = contacts(place, yaw, half)
        for i, j, normal, depth, point in _each(met):
            apart = abs(fleet.z[i] - fleet.z[j]) > fleet.half[i, 2] + fleet.half[j, 2]
            if solid[i] and solid[j] and not apart:
                found += _two_vehicles(fleet, i, j, normal, depth, point)
    if walkers is not None and len(walkers):
        found += _walked_into(fleet, walkers, place, yaw, half)
    for index, known in ((fixed, False), (props, True)):
        if index is not None and len(index):
            for i, j, normal, depth, point in _each(index.contacts(place, yaw, half)):
                if solid[i] and fleet.simulate[i] and fleet.z[i] < CLEARANCE:
                    other = int(index.instance[j]) if known else 0
                    tag = int(index.tag[j])
                    found += _one_vehicle(fleet, i, normal, depth, point, other, tag)
    return found


def _each(met: Contacts) -> list[tuple[int, int, tuple[float, float], float, tuple[float, float]]]:
    return list(
        zip(
            met.first.tolist(),
            met.second.tolist(),
            map(tuple, met.normal.tolist()),
            met.depth.tolist(),
            map(tuple, met.point.tolist()),
        )
    )


Pair = tuple[float, float]


def _two_vehicles(
    fleet: Fleet, i: int, j: int, normal: Pair, depth: float, point: Pair
) -> list[Collision]:
    a, b = _Body.vehicle(fleet, i, point), _Body.vehicle(fleet, j, point)
    impulse = _impulse(a, b, normal)
    free = a.free + b.free
    if free:
        move = PART * depth / free
        fleet.shift(i, -move * a.free * normal[0], -move * a.free * normal[1])
        fleet.shift(j, move * b.free * normal[0], move * b.free * normal[1])
    if math.hypot(*impulse) < UNNOTICED:
        return []
    first, second = int(fleet.ids[i]), int(fleet.ids[j])
    fleet.push(first, (impulse[0], impulse[1], 0.0), (*point, 0.0))
    fleet.push(second, (-impulse[0], -impulse[1], 0.0), (*point, 0.0))
    tags = int(fleet.specs[i].tag), int(fleet.specs[j].tag)
    return [
        Collision(first, second, tags[1], (impulse[0], impulse[1], 0.0), point),
        Collision(second, first, tags[0], (-impulse[0], -impulse[1], 0.0), point),
    ]


def _one_vehicle(
    fleet: Fleet, i: int, normal: Pair, depth: float, point: Pair, other: int, tag: int
) -> list[Collision]:
    impulse = _impulse(_Body.vehicle(fleet, i, point), _Body(), normal)
    fleet.shift(i, -PART * depth * normal[0], -PART * depth * normal[1])
    if math.hypot(*impulse) < UNNOTICED:
        return []
    mine = int(fleet.ids[i])
    fleet.push(mine, (impulse[0], impulse[1], 0.0), (*point, 0.0))
    return [Collision(mine, other, tag, (impulse[0], impulse[1], 0.0), point)]


def _walked_into(
    fleet: Fleet, walkers: Walkers, place: np.ndarray, yaw: np.ndarray, half: np.ndarray
) -> list[Collision]:
    where = np.stack([walkers.x, walkers.y], 1)
    size = walkers.half[:, :2]
    n = len(fleet)
    first, second = near_pairs(
        np.concatenate([place, where]),
        np.concatenate([np.hypot(*half.T), np.hypot(*size.T)]),
    )
    mixed = (first < n) & (second >= n)
    first, second = first[mixed], second[mixed] - n
    met = overlaps(place, yaw, half, first, where, np.radians(walkers.yaw), size, second)
    found = []
    for i, j, normal, depth, point in _each(met):
        apart = walkers.z[j] - walkers.half[j, 2] > fleet.z[i] + 2.0 * fleet.half[i, 2]
        if not fleet.solid[i] or not walkers.solid[j] or apart:
            continue
        a = _Body.vehicle(fleet, i, point)
        b = _Body(float(walkers.vx[j]), float(walkers.vy[j]), 1.0 / WALKER_MASS)
        impulse = _impulse(a, b, normal)
        walkers.shift(j, depth * normal[0], depth * normal[1])
        if math.hypot(*impulse) < UNNOTICED:
            continue
        vehicle, walker = int(fleet.ids[i]), int(walkers.ids[j])
        fleet.push(vehicle, (impulse[0], impulse[1], 0.0))
        walkers.push(walker, (-impulse[0], -impulse[1], 0.0), WALKER_MASS)
        tag = int(fleet.specs[i].tag)
        push = (impulse[0], impulse[1], 0.0)
        back = (-impulse[0], -impulse[1], 0.0)
        found.append(Collision(vehicle, walker, int(Tag.PEDESTRIANS), push, point))
        found.append(Collision(walker, vehicle, tag, back, point))
    return found


class _Body(NamedTuple):
    """The velocity (m/s) of a body at a point, and what an impulse there does to it."""

    vx: float = 0.0
    vy: float = 0.0
    free: float = 0.0  # 1 / mass; 0 does not budge
    turns: float = 0.0  # 1 / moment of inertia
    arm: Pair = (0.0, 0.0)

    @classmethod
    def vehicle(cls, fleet: Fleet, i: int, point: Pair) -> _Body:
        arm = (point[0] - float(fleet.x[i]), point[1] - float(fleet.y[i]))
        rate = math.radians(float(fleet.yaw_rate[i]))
        vx, vy = float(fleet.vx[i]) - rate * arm[1], float(fleet.vy[i]) + rate * arm[0]
        if not fleet.simulate[i]:
            return cls(vx, vy)
        mass = float(fleet.mass[i])
        return cls(vx, vy, 1.0 / mass, 1.0 / (mass * float(fleet.gyration[i])), arm)


def _impulse(a: _Body, b: _Body, normal: Pair) -> Pair:
    """N s on ``a`` (and minus that on ``b``), nothing where they part already."""
    vx, vy = b.vx - a.vx, b.vy - a.vy
    closing = vx * normal[0] + vy * normal[1]
    if closing >= 0.0 or a.free + b.free == 0.0:
        return 0.0, 0.0
    push = -(1.0 + RESTITUTION) * closing / _give(a, b, normal)
    aside = (-normal[1], normal[0])
    slip = vx * aside[0] + vy * aside[1]
    drag = max(-FRICTION * push, min(FRICTION * push, -slip / _give(a, b, aside)))
    return -push * normal[0] - drag * aside[0], -push * normal[1] - drag * aside[1]


def _give(a: _Body, b: _Body, way: Pair) -> float:
    """The relative velocity that one N s along ``way`` makes."""
    ta = a.arm[0] * way[1] - a.arm[1] * way[0]
    tb = b.arm[0] * way[1] - b.arm[1] * way[0]
    return a.free + b.free + ta * ta * a.turns + tb * tb * b.turns
