"""Where every actor is, in the world's frame, and the rows that tell the clients.

N actors, by ascending id. A change of the set of actors is taken up when somebody next asks, so that
ten thousand spawns between two ticks cost one rebuild.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from apps.driving.world.geometry import Transform
from apps.driving.world.simulation import snapshot
from apps.driving.world.simulation.actors import Actor, Attachment


def matrices(poses: np.ndarray) -> np.ndarray:
    """(n, 6) as ``Transform`` -> (n, 4, 4), as ``Transform.matrix``."""
    angles = np.radians(poses[:, 3:])
    (sp, sy, sr), (cp, cy, cr) = np.sin(angles).T, np.cos(angles).T
    m = np.zeros((len(poses), 4, 4))
    m[:, 0, 0], m[:, 0, 1], m[:, 0, 2] = cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr
    m[:, 1, 0], m[:, 1, 1], m[:, 1, 2] = cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr
    m[:, 2, 0], m[:, 2, 1], m[:, 2, 2] = sp, -cp * sr, cp * cr
    m[:, :3, 3] = poses[:, :3]
    m[:, 3, 3] = 1.0
    return m


def from_matrices(m: np.ndarray) -> np.ndarray:
    """(n, 4, 4) rigid -> (n, 6), as ``geometry.from_matrix``."""
    pitch = np.arcsin(np.clip(m[:, 2, 0], -1.0, 1.0))
    upright = np.abs(m[:, 2, 0]) < 1 - 1e-12
    yaw = np.where(upright, np.arctan2(m[:, 1, 0], m[:, 0, 0]), np.arctan2(-m[:, 0, 1], m[:, 1, 1]))
    roll = np.where(upright, np.arctan2(-m[:, 2, 1], m[:, 2, 2]), 0.0)
    angles = np.degrees(np.column_stack([pitch, yaw, roll])) + 0.0  # no -0.0 on the wire
    return np.column_stack([m[:, :3, 3], angles])


@dataclass(frozen=True)
class Level:
    """Actors attached to parents that are already placed: m rows."""

    rows: np.ndarray  # (m)
    parents: np.ndarray  # (m) rows
    relative: np.ndarray  # (m, 4, 4)
    level_only: np.ndarray  # (m) bool: a spring arm keeps out the parent's pitch and roll


class Poses:
    """``pose`` (N, 6) and ``rows`` (N) of ``snapshot.ROW``, in the order of ``ids``."""

    def __init__(self, actors: Mapping[int, Actor]) -> None:
        self.ids = np.fromiter(actors, np.int64, len(actors))
        self.row_of = {actor_id: row for row, actor_id in enumerate(actors)}
        self.rows = snapshot.blank(self.ids.tolist())
        self.pose = np.array([a.transform for a in actors.values()], float).reshape(-1, 6)
        self.levels = self._levels(actors)

    def _levels(self, actors: Mapping[int, Actor]) -> list[Level]:
        # A child may be older than a parent it was given later, so depth is followed, not order.
        depth: dict[int, int] = {}

        def depth_of(actor: Actor) -> int:
            chain = []
            while actor.parent and actor.id not in depth:
                chain.append(actor.id)
                actor = actors[actor.parent]
            base = depth.get(actor.id, 0)
            for step, actor_id in enumerate(reversed(chain), 1):
                depth[actor_id] = base + step
            return depth.get(chain[0], 0) if chain else base

        by_depth: dict[int, list[Actor]] = {}
        for actor in actors.values():
            if actor.parent:
                by_depth.setdefault(depth_of(actor), []).append(actor)
        return [self._level(by_depth[d]) for d in sorted(by_depth)]

    def _level(self, children: list[Actor]) -> Level:
        return Level(
            np.array([self.row_of[c.id] for c in children]),
            np.array([self.row_of[c.parent] for c in children]),
            matrices(np.array([c.transform for c in children], float)),
            np.array([c.attachment != Attachment.RIGID for c in children]),
        )

    def follow(self) -> None:
        """Place what is attached, after its parents were placed."""
        for level in self.levels:
            parents = self.pose[level.parents]
            if level.level_only.any():
                parents[level.level_only, 3] = parents[level.level_only, 5] = 0.0
            self.pose[level.rows] = from_matrices(matrices(parents) @ level.relative)

    def at(self, row: int) -> Transform:
        """The place of a row."""
        return Transform(*self.pose[row].tolist())
