"""Vehicles that touch: oriented rectangles that overlap, and the impulses that part them.

Rectangles overlap unless one of their four edge directions separates them (the separating axis
theorem; Ericson, Real-Time Collision Detection, 2005, chapters 4.4 and 5.2.1); the normal is the
direction of the smallest overlap. Pairs come from a sweep along x; what stands still is in a grid
of cells built once. Impulses are those of two rigid bodies in the plane with restitution and
Coulomb friction at one point (Baraff, SIGGRAPH 1997 course notes, "Rigid Body Simulation", section
8), one contact after the other; what still overlaps is moved apart.

Deviates from rigid bodies: whoever is walked into does not stop a vehicle but is thrown, as a mass
of 70 kg; contacts are solved once a step, not until all agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from apps.driving.world.geometry import Boxes
from apps.driving.world.tags import Tag

if TYPE_CHECKING:
    from apps.driving.world.vehicles import Fleet
    from apps.driving.world.walkers import Walkers

CELL = 8.0  # m: about a vehicle's length, so that one meets up to 3 x 3 cells
CLEARANCE = 2.2  # m: what begins above this is no obstacle (crowns of trees, arms of lights)
STEP_OVER = 0.2  # m: what ends below is none either
RESTITUTION, FRICTION = 0.1, 0.4  # of metal on metal at town speeds, and of what scrapes along
PART = 0.8  # share of an overlap that is undone a step; all of it makes piles shake
WALKER_MASS = 70.0
UNNOTICED = 1.0  # N s: less is no event


class Contacts(NamedTuple):
    """m overlaps of a first and a second rectangle."""

    first: np.ndarray  # (m) rows
    second: np.ndarray  # (m) rows
    normal: np.ndarray  # (m, 2), of length 1, from the first to the second
    depth: np.ndarray  # (m) m
    point: np.ndarray  # (m, 2) the middle of what overlaps


class Collision(NamedTuple):
    """What one vehicle or walker felt of another, or of something fixed, in a step."""

    id: int
    other: int  # an actor's id; 0 for scenery
    tag: int  # of the other, of tags.Tag
    impulse: tuple[float, float, float]  # N s on ``id``
    point: tuple[float, float]


def contacts(place: np.ndarray, yaw: np.ndarray, half: np.ndarray) -> Contacts:
    """Overlaps among n rectangles: middles (n, 2), radians (n), halves of length and width (n, 2).

    Each pair once, the lower row first, in the order of rows.
    """
    first, second = _pairs(place, np.hypot(half[:, 0], half[:, 1]))
    return _overlaps(place, yaw, half, first, place, yaw, half, second)


class FixedIndex:
    """Boxes that never move, by cells of ``CELL`` metres; those above or below vehicles left out."""

    def __init__(self, boxes: Boxes) -> None:
        z, height = boxes.centre[:, 2], boxes.half[:, 2]
        keep = np.flatnonzero((z - height < CLEARANCE) & (z + height > STEP_OVER))
        self.rows = keep  # of ``boxes``
        self.place = boxes.centre[keep, :2].astype(float)
        self.half = boxes.half[keep, :2].astype(float)
        self.yaw = boxes.yaw[keep].astype(float)
        self.tag = boxes.tag[keep]
        self.instance = boxes.instance[keep]
        self.reach = np.hypot(self.half[:, 0], self.half[:, 1])
        c, s = np.abs(np.cos(self.yaw)), np.abs(np.sin(self.yaw))
        extent = np.stack(
            [
                self.half[:, 0] * c + self.half[:, 1] * s,
                self.half[:, 0] * s + self.half[:, 1] * c,
            ],
            1,
        )
        if not len(keep):
            self._origin, self._shape = np.zeros(2, np.int64), (1, 1)
            self._starts, self._items = np.zeros(2, np.int64), np.zeros(0, np.int64)
            return
        low = np.floor((self.place - extent) / CELL).astype(np.int64)
        high = np.floor((self.place + extent) / CELL).astype(np.int64)
        self._origin = low.min(0)
        columns, rows = (high.max(0) - self._origin + 1).tolist()
        self._shape = (columns, rows)
        wide, tall = (high - low + 1).T
        box, nth = _ranges(wide * tall)
        cx, cy = low[box, 0] + nth % wide[box], low[box, 1] + nth // wide[box]
        cell = (cy - self._origin[1]) * columns + cx - self._origin[0]
        order = np.argsort(cell, kind="stable")
        self._items = box[order]
        counts = np.bincount(cell, minlength=columns * rows)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self.rows)

    def contacts(self, place: np.ndarray, yaw: np.ndarray, half: np.ndarray) -> Contacts:
        """Overlaps of n rectangles (first) with the index's (second: rows of ``self.place``)."""
        none = np.zeros(0, np.int64)
        if not len(self) or not len(place):
            return _overlaps(place, yaw, half, none, self.place, self.yaw, self.half, none)
        reach = np.hypot(half[:, 0], half[:, 1])
        low = np.floor((place - reach[:, None]) / CELL).astype(np.int64) - self._origin
        high = np.floor((place + reach[:, None]) / CELL).astype(np.int64) - self._origin
        low, high = np.maximum(low, 0), np.minimum(high, np.array(self._shape) - 1)
        wide, tall = np.maximum(high - low + 1, 0).T
        mover, nth = _ranges(wide * tall)
        at_x, at_y = low[mover, 0] + nth % wide[mover], low[mover, 1] + nth // wide[mover]
        cell = at_y * self._shape[0] + at_x
        row, nth = _ranges(self._starts[cell + 1] - self._starts[cell])
        if not len(row):
            return _overlaps(place, yaw, half, none, self.place, self.yaw, self.half, none)
        first, second = mover[row], self._items[self._starts[cell[row]] + nth]
        away = self.place[second] - place[first]
        near = (away * away).sum(1) < (reach[first] + self.reach[second]) ** 2
        key = np.unique(first[near] * len(self) + second[near])  # a box may lie in many cells
        first, second = key // len(self), key % len(self)
        return _overlaps(place, yaw, half, first, self.place, self.yaw, self.half, second)


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


def _ranges(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """0 0 1 1 1 .. and 0 1 0 1 2 .. for counts 2, 3, .."""
    row = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, nth


def _pairs(place: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose circles meet, by a sweep along x."""
    order = np.argsort(place[:, 0] - reach, kind="stable")
    starts = (place[:, 0] - reach)[order]
    until = np.searchsorted(starts, (place[:, 0] + reach)[order], "right")
    row, nth = _ranges(until - np.arange(len(order)) - 1)
    a, b = order[row], order[row + 1 + nth]
    away = place[a] - place[b]
    near = (away * away).sum(1) < (reach[a] + reach[b]) ** 2
    a, b = a[near], b[near]
    first, second = np.minimum(a, b), np.maximum(a, b)
    by_row = np.lexsort((second, first))
    return first[by_row], second[by_row]


def _overlaps(
    place_a: np.ndarray,
    yaw_a: np.ndarray,
    half_a: np.ndarray,
    a: np.ndarray,
    place_b: np.ndarray,
    yaw_b: np.ndarray,
    half_b: np.ndarray,
    b: np.ndarray,
) -> Contacts:
    if not len(a):
        empty = np.zeros((0, 2))
        return Contacts(a, b, empty, np.zeros(0), empty)
    ha, hb = half_a[a], half_b[b]
    ca, sa, cb, sb = np.cos(yaw_a[a]), np.sin(yaw_a[a]), np.cos(yaw_b[b]), np.sin(yaw_b[b])
    # The axes (m, 4, 2): forward and right of the first, then of the second.
    axes = np.stack([ca, sa, -sa, ca, cb, sb, -sb, cb], 1).reshape(-1, 4, 2)
    away = place_b[b] - place_a[a]
    along = np.einsum("mij,mj->mi", axes, away)
    turn = np.abs(ca * cb + sa * sb), np.abs(ca * sb - sa * cb)
    reach = np.concatenate([ha, hb], 1)
    reach[:, 0] += hb[:, 0] * turn[0] + hb[:, 1] * turn[1]
    reach[:, 1] += hb[:, 0] * turn[1] + hb[:, 1] * turn[0]
    reach[:, 2] += ha[:, 0] * turn[0] + ha[:, 1] * turn[1]
    reach[:, 3] += ha[:, 0] * turn[1] + ha[:, 1] * turn[0]
    left = reach - np.abs(along)
    met = np.flatnonzero((left > 0.0).all(1))
    a, b, axes, along, left = a[met], b[met], axes[met], along[met], left[met]
    least, rows = np.argmin(left, 1), np.arange(len(met))
    normal = axes[rows, least] * np.where(along[rows, least] < 0.0, -1.0, 1.0)[:, None]
    point = _middle(place_a[a], axes[:, :2], ha[met], place_b[b], axes[:, 2:], hb[met])
    return Contacts(a, b, normal, left[rows, least], point)


_CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])


def _middle(
    place_a: np.ndarray,
    axes_a: np.ndarray,
    half_a: np.ndarray,
    place_b: np.ndarray,
    axes_b: np.ndarray,
    half_b: np.ndarray,
) -> np.ndarray:
    """The mean of the corners of either (m, 4, 2) inside the other; else midway."""
    total, count = np.zeros_like(place_a), np.zeros(len(place_a))
    sides = ((place_a, axes_a, half_a), (place_b, axes_b, half_b))
    for mine, theirs in (sides, sides[::-1]):
        corners = mine[0][:, None] + (mine[2][:, None] * _CORNERS) @ mine[1]
        local = np.einsum("mij,mkj->mki", theirs[1], corners - theirs[0][:, None])
        inside = (np.abs(local) <= theirs[2][:, None] + 1e-9).all(2)
        total += (corners * inside[..., None]).sum(1)
        count += inside.sum(1)
    midway = 0.5 * (place_a + place_b)
    point: np.ndarray = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], midway)
    return point


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
    first, second = _pairs(
        np.concatenate([place, where]),
        np.concatenate([np.hypot(*half.T), np.hypot(*size.T)]),
    )
    mixed = (first < n) & (second >= n)
    first, second = first[mixed], second[mixed] - n
    met = _overlaps(place, yaw, half, first, where, np.radians(walkers.yaw), size, second)
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
