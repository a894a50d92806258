"""The lanes of a town as points, and the ways on from a place: where others may be going."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

STEP = 1.0  # m between points
ON_LANE = 1.6  # m from a lane's middle within which a vehicle may be on it
ALONG = np.radians(40.0)  # between a vehicle and the lane it follows
WAYS = 6  # of one vehicle at most


class Lanes:
    """Every driving lane of a ``carla.Map`` in pieces between junctions and forks."""

    def __init__(self, town: Any) -> None:
        pieces: list[np.ndarray] = []
        self._after: list[list[int]] = []
        inside: list[bool] = []
        seen: set[tuple[int, int, int]] = set()
        for start, _ in town.get_topology():
            key = (start.road_id, start.section_id, start.lane_id)
            if key not in seen:
                seen.add(key)
                pieces.append(_points(start))
                inside.append(start.is_junction)
                self._after.append([])
        starts = cKDTree(np.array([piece[0, :2] for piece in pieces]))
        for i, piece in enumerate(pieces):
            # carla joins lanes where they touch: an end and the starts that lie on it
            for j in starts.query_ball_point(piece[-1, :2], 1.5 * STEP):
                turn = piece[-1, 2] - pieces[j][0, 2]
                if j != i and abs(_wrap(turn)) < np.radians(60.0):
                    self._after[i].append(j)
        self._pieces = pieces
        self.inside = np.array(inside)  # (pieces) in a junction
        self._points = np.concatenate(pieces)  # (p, 3) x, y, heading
        self._piece = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
        self._index = np.concatenate([np.arange(len(piece)) for piece in pieces])
        self._tree = cKDTree(self._points[:, :2])

    def ways(self, xy: np.ndarray, yaw: float, length: float) -> list[tuple[np.ndarray, bool]]:
        """What lies ahead of a vehicle: for each way (k, 3) x, y, heading every metre, and whether
        the vehicle is in a junction on it. Empty for one that is on no lane."""
        near = np.array(self._tree.query_ball_point(xy, ON_LANE), np.int64)
        if not len(near):
            return []
        near = near[np.abs(_wrap(self._points[near, 2] - yaw)) < ALONG]
        away = np.hypot(*(self._points[near, :2] - xy).T)
        found: list[tuple[np.ndarray, bool]] = []
        seen: set[int] = set()
        for k in near[np.argsort(away, kind="stable")].tolist():
            piece = int(self._piece[k])
            if piece in seen:
                continue
            seen.add(piece)
            here = bool(self.inside[piece])
            for way in self._onward(piece, int(self._index[k]), length):
                found.append((way, here))
                if len(found) == WAYS:
                    return found
        return found

    def _onward(self, piece: int, index: int, length: float) -> list[np.ndarray]:
        ways: list[np.ndarray] = []
        stack = [(piece, [self._pieces[piece][index:]])]
        while stack and len(ways) < WAYS:
            last, parts = stack.pop()
            have = sum(len(part) for part in parts) * STEP
            if have >= length or not self._after[last]:
                ways.append(np.concatenate(parts)[: max(int(length / STEP), 2)])
                continue
            for after in reversed(self._after[last]):
                stack.append((after, [*parts, self._pieces[after]]))
        return ways


def _points(start: Any) -> np.ndarray:
    """(k, 3) of a lane from ``start`` to its end."""
    rows = []
    for waypoint in [start, *_to_the_end(start)]:
        transform = waypoint.transform
        place = transform.location
        rows.append((place.x, place.y, np.radians(transform.rotation.yaw)))
    return np.array(rows)


def _to_the_end(start: Any) -> list[Any]:
    """Waypoints after ``start``, about ``STEP`` apart.

    CARLA's library raises "distance > 0.0" where the lane's end falls on a step, as it does in lanes of
    whole metres; another step then misses it. At the very end of a lane nothing is left.
    """
    for step in (STEP, 0.97 * STEP):
        try:
            return list(start.next_until_lane_end(step))
        except RuntimeError as error:
            if "distance > 0" not in str(error):
                raise
    return []


def _wrap(angle: Any) -> Any:
    return (angle + np.pi) % (2.0 * np.pi) - np.pi
