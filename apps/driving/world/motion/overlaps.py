"""Oriented rectangles that overlap: among themselves, and with many that never move.

Rectangles overlap unless one of their four edge directions separates them (the separating axis
theorem; Ericson, Real-Time Collision Detection, 2005, chapters 4.4 and 5.2.1); the normal is the
direction of the smallest overlap. Pairs come from a sweep along x; what stands still is in a grid
of cells built once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from apps.driving.world.geometry import Boxes

CELL = 8.0  # m: about a vehicle's length, so that one meets up to 3 x 3 cells
CLEARANCE = 2.2  # m: what begins above this is no obstacle (crowns of trees, arms of lights)
STEP_OVER = 0.2  # m: what ends below is none either


class Contacts(NamedTuple):
    """m overlaps of a first and a second rectangle."""

    first: np.ndarray  # (m) rows
    second: np.ndarray  # (m) rows
    normal: np.ndarray  # (m, 2), of length 1, from the first to the second
    depth: np.ndarray  # (m) m
    point: np.ndarray  # (m, 2) the middle of what overlaps


def contacts(place: np.ndarray, yaw: np.ndarray, half: np.ndarray) -> Contacts:
    """Overlaps among n rectangles: middles (n, 2), radians (n), halves of length and width (n, 2).

    Each pair once, the lower row first, in the order of rows.
    """
    first, second = near_pairs(place, np.hypot(half[:, 0], half[:, 1]))
    return overlaps(place, yaw, half, first, place, yaw, half, second)


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
            return overlaps(place, yaw, half, none, self.place, self.yaw, self.half, none)
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
            return overlaps(place, yaw, half, none, self.place, self.yaw, self.half, none)
        first, second = mover[row], self._items[self._starts[cell[row]] + nth]
        away = self.place[second] - place[first]
        near = (away * away).sum(1) < (reach[first] + self.reach[second]) ** 2
        key = np.unique(first[near] * len(self) + second[near])  # a box may lie in many cells
        first, second = key // len(self), key % len(self)
        return overlaps(place, yaw, half, first, self.place, self.yaw, self.half, second)


def _ranges(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """0 0 1 1 1 .. and 0 1 0 1 2 .. for counts 2, 3, .."""
    row = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, nth


def near_pairs(place: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def overlaps(
    place_a: np.ndarray,
    yaw_a: np.ndarray,
    half_a: np.ndarray,
    a: np.ndarray,
    place_b: np.ndarray,
    yaw_b: np.ndarray,
    half_b: np.ndarray,
    b: np.ndarray,
) -> Contacts:
    """Of the pairs of rows ``a`` (m) of the first set and ``b`` (m) of the second."""
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
