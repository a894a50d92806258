"""The ground that is still free while a town is furnished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from apps.driving.world.townscape.ground import Ground, Material
from apps.driving.world.townscape.raster import ramp

if TYPE_CHECKING:
    from apps.driving.world.maps.footways import Footways
    from apps.driving.world.maps.network import Network

MOST_BLOCKS = 4_000_000
"""Bounds the distance transform to about 100 MB; Town04 has 1 million blocks of 1 m."""
CARRIAGEWAY = (
    Material.ASPHALT, Material.TRACKS, Material.SHOULDER, Material.PARKING, Material.BIKE_LANE,
    Material.WHITE, Material.YELLOW,
)  # fmt: skip


class Plots:
    """Which ground is still free, on a grid of 1 m (of more where the town is vast)."""

    def __init__(self, ground: Ground, network: Network) -> None:
        self.ground = ground
        coarse = int(np.ceil(np.sqrt(ground.cells.size / MOST_BLOCKS)))
        step = self.step = max(1, round(1.0 / ground.resolution), coarse)
        self.pitch = step * ground.resolution
        height, width = (n // step for n in ground.cells.shape)
        self.used = np.empty((height, width), bool)
        for row in range(height):  # row by row: a mask of all cells would take 40 MB in Town04
            some = ground.cells[row * step : (row + 1) * step, : width * step]
            highest = some.max(0).reshape(width, step).max(1)
            self.used[row] = highest >> 4 != Material.GRASS
        walks = _between(network.sidewalk)
        self.used[self._at(walks)] = True  # people walk there, paved or not
        self.walks = cKDTree(walks if len(walks) else np.full((1, 2), np.inf))
        self.clear = ndimage.distance_transform_edt(~self.used) * self.pitch

    def _at(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = np.floor((np.asarray(xy) - self.ground.origin) / self.pitch).astype(np.int64)
        height, width = self.used.shape
        return np.clip(at[..., 1], 0, height - 1), np.clip(at[..., 0], 0, width - 1)

    def clearance(self, xy: np.ndarray) -> np.ndarray:
        """Metres (...) from points (..., 2) to the nearest pavement, road or walk."""
        found: np.ndarray = self.clear[self._at(xy)]
        return found

    def take(self, xy: np.ndarray, yaw: float, half: Sequence[float], margin: float) -> bool:
        """Whether a rectangle is ``margin`` m from all paving and free; if so it no longer is."""
        inside = np.asarray(self.ground.cells.shape[::-1]) * self.ground.resolution
        along = np.arange(-half[0], half[0] + 0.99, 1.0)
        across = np.arange(-half[1], half[1] + 0.99, 1.0)
        u, v = (w.ravel() for w in np.meshgrid(along, across))
        c, s = np.cos(yaw), np.sin(yaw)
        points = np.stack([xy[0] + u * c - v * s, xy[1] + u * s + v * c], 1)
        off = points - self.ground.origin
        if (off < 0).any() or (off >= inside).any():
            return False
        at = self._at(points)
        if self.used[at].any() or self.clear[at].min() < margin:
            return False
        self.used[at] = True
        return True

    def on_grass(self, xy: np.ndarray) -> np.ndarray:
        """Whether points (..., 2) lie on ground that nothing covers."""
        found: np.ndarray = self.ground.material(xy) == Material.GRASS
        return found

    def on_carriageway(self, xy: np.ndarray) -> np.ndarray:
        """Whether points (..., 2) lie on a road."""
        return np.isin(self.ground.material(xy), CARRIAGEWAY)

    def stand(self, xy: np.ndarray, travel: float) -> np.ndarray | None:
        """The place nearest to ``xy`` (2) for a post: 0.6 m off the road, 0.5 m off every walk.

        Searched to 25 m on either side of the traffic's direction and 2 m along it."""
        ahead = np.array([np.cos(travel), np.sin(travel)])
        right = np.array([-ahead[1], ahead[0]])
        across, along = np.arange(-25.0, 25.1, 0.25), np.arange(-2.0, 2.1, 0.5)
        u, v = (w.ravel()[:, None] for w in np.meshgrid(along, across))
        tried = xy + ahead * u + right * v
        turn = np.arange(8) * np.pi / 4
        around = 0.6 * np.stack([np.cos(turn), np.sin(turn)], 1)
        free = ~self.on_carriageway(tried[:, None] + around).any(1)
        rows = np.flatnonzero(free)
        rows = rows[np.argsort((np.abs(v) + np.abs(u) + 0.1 * (v < 0))[rows, 0], kind="stable")]
        rows = rows[self.off_walks(tried[rows]) > 0.5]
        return tried[rows[0]] if len(rows) else None

    def off_walks(self, xy: np.ndarray) -> np.ndarray:
        """Metres (...) from points (..., 2) to the nearest line that people walk along."""
        found: np.ndarray = self.walks.query(xy)[0]
        return found


def _between(walks: Footways) -> np.ndarray:
    """Points (n, 2) at most 0.5 m apart along the edges of the graph of walks."""
    a, b = walks.nodes[walks.edges[:, 0]], walks.nodes[walks.edges[:, 1]]
    count = np.ceil(np.hypot(*(b - a).T) * 2).astype(np.int64) + 1
    share = (ramp(count) / np.repeat(np.maximum(count - 1, 1), count))[:, None]
    points: np.ndarray = np.repeat(a, count, 0) + np.repeat(b - a, count, 0) * share
    return points
