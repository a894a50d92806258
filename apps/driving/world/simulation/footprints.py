"""Whether there is room for an actor: its box against the scenery and everything that stands or moves.

Boxes are upright, so two meet where their heights overlap and no side of either separates them in the
plane (separating axis theorem).
"""

from __future__ import annotations

import math

import numpy as np

from apps.driving.world.geometry import Boxes, Transform
from apps.driving.world.simulation.actors import BoundingBox

SLACK = 0.02
"""m: boxes that touch by less do not collide; a spawn point may lie against a kerb."""


def meets(box: Boxes, others: Boxes) -> np.ndarray:
    """(K) bool: which of ``others`` overlap the one ``box`` by more than SLACK."""
    met = np.zeros(len(others), bool)
    if len(others) == 0:
        return met
    away = others.centre.astype(float) - box.centre[0]
    own = float(np.hypot(*box.half[0, :2]))
    reach = own + np.hypot(others.half[:, 0], others.half[:, 1])
    near = (away[:, 0] ** 2 + away[:, 1] ** 2 < reach**2) & (
        np.abs(away[:, 2]) < box.half[0, 2] + others.half[:, 2] - SLACK
    )
    rows = np.flatnonzero(near)
    if len(rows) == 0:
        return met
    away, half = away[rows, :2], others.half[rows, :2].astype(float)
    mine = box.half[0, :2].astype(float)
    c, s = float(np.cos(box.yaw[0])), float(np.sin(box.yaw[0]))
    turn = others.yaw[rows].astype(float) - float(box.yaw[0])
    ct, st = np.cos(turn), np.sin(turn)
    # In my frame, then in theirs.
    local = np.column_stack([c * away[:, 0] + s * away[:, 1], c * away[:, 1] - s * away[:, 0]])
    theirs = np.column_stack(
        [ct * local[:, 0] + st * local[:, 1], ct * local[:, 1] - st * local[:, 0]]
    )
    ac, as_ = np.abs(ct), np.abs(st)
    grown = np.column_stack(
        [half[:, 0] * ac + half[:, 1] * as_, half[:, 0] * as_ + half[:, 1] * ac]
    )
    shown = np.column_stack([mine[0] * ac + mine[1] * as_, mine[0] * as_ + mine[1] * ac])
    apart = (np.abs(local) >= mine + grown - SLACK) | (np.abs(theirs) >= half + shown - SLACK)
    met[rows] = ~apart.any(1)
    return met


def outline(box: BoundingBox, pose: Transform) -> Boxes:
    """The one box in the world's frame, upright."""
    found = Boxes.empty(1)
    yaw = math.radians(pose.yaw)
    c, s = math.cos(yaw), math.sin(yaw)
    x, y, z = box.centre
    found.centre[0] = pose.x + c * x - s * y, pose.y + s * x + c * y, pose.z + z
    found.half[0] = box.half
    found.yaw[0] = yaw
    return found


class Footprints:
    """The boxes of what moves or was put there, kept while actors are spawned between two ticks."""

    def __init__(self, boxes: Boxes) -> None:
        self._n = len(boxes)
        self._boxes = boxes

    def add(self, box: Boxes) -> None:
        """One more box."""
        if self._n == len(self._boxes):
            self._boxes = Boxes.joined([self._boxes, Boxes.empty(max(16, self._n))])
        for name in ("centre", "half", "yaw", "tag", "rgb", "instance"):
            getattr(self._boxes, name)[self._n] = getattr(box, name)[0]
        self._n += 1

    def remove(self, instance: int) -> None:
        """The box of an actor that is gone."""
        rows = np.flatnonzero(self._boxes.instance[: self._n] == instance)
        self._boxes.half[rows] = -1e9  # meets nothing from now on

    def meets(self, box: Boxes) -> bool:
        """Whether ``box`` overlaps any of them."""
        return bool(meets(box, self._boxes.take(slice(0, self._n))).any())  # type: ignore[arg-type]
