"""The flat ground of a town as a raster of materials: what cameras and rays see at z = 0.

One byte a cell: ``16 * material + shade``, where the shade (0 to 15) is texture. Colours, semantic
tags and gloss are tables of 256 entries, so that light, rain and night are applied to a table and
not to 20 million cells, and Town01 at 0.1 m takes 25 MB instead of 99 MB. ``painting`` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from apps.driving.world.tags import Tag
from apps.driving.world.townscape.raster import fill


class Material(IntEnum):
    """The upper four bits of a cell."""

    GRASS = 0
    SOIL = 1
    ASPHALT = 2
    TRACKS = 3  # where tyres roll: darker
    SHOULDER = 4
    PARKING = 5
    BIKE_LANE = 6
    PAVEMENT = 7
    SEAM = 8  # joints between slabs
    KERB = 9
    MEDIAN = 10
    PLAZA = 11  # paved ground around buildings
    WHITE = 12
    YELLOW = 13


# material: RGB at mid shade, RGB from shade 0 to 15, tag, gloss when wet
_TABLE: dict[Material, tuple[tuple[int, int, int], tuple[int, int, int], Tag, float]] = {
    Material.GRASS: ((88, 112, 58), (62, 56, 40), Tag.TERRAIN, 0.05),
    Material.SOIL: ((122, 104, 78), (44, 40, 34), Tag.TERRAIN, 0.15),
    Material.ASPHALT: ((84, 84, 87), (20, 20, 20), Tag.ROADS, 0.9),
    Material.TRACKS: ((79, 79, 82), (20, 20, 20), Tag.ROADS, 1.0),
    Material.SHOULDER: ((96, 95, 95), (32, 32, 31), Tag.ROADS, 0.8),
    Material.PARKING: ((98, 97, 96), (30, 30, 30), Tag.ROADS, 0.8),
    Material.BIKE_LANE: ((126, 70, 62), (28, 20, 18), Tag.ROADS, 0.8),
    Material.PAVEMENT: ((158, 153, 146), (30, 30, 30), Tag.SIDEWALKS, 0.5),
    Material.SEAM: ((122, 118, 112), (24, 24, 24), Tag.SIDEWALKS, 0.4),
    Material.KERB: ((186, 184, 178), (34, 34, 33), Tag.SIDEWALKS, 0.5),
    Material.MEDIAN: ((146, 142, 134), (30, 30, 30), Tag.GROUND, 0.5),
    Material.PLAZA: ((142, 134, 124), (34, 32, 30), Tag.GROUND, 0.5),
    Material.WHITE: ((222, 222, 218), (44, 44, 44), Tag.ROAD_LINES, 0.7),
    Material.YELLOW: ((220, 172, 44), (44, 40, 26), Tag.ROAD_LINES, 0.7),
}


@dataclass(frozen=True)
class Ground:
    """Cells (H, W) uint8 and their tables; row = y, column = x, ``origin`` the corner of [0, 0]."""

    cells: np.ndarray  # (H, W) uint8: 16 * material + shade
    resolution: float  # m a cell
    origin: tuple[float, float]  # x, y in m
    colour: np.ndarray  # (256, 3) uint8 RGB
    tag: np.ndarray  # (256) uint8
    gloss: np.ndarray  # (256) float32, 0 dull to 1: how much the wet material mirrors
    outside: int = 7  # the cell wherever the raster ends: grass at mid shade

    def index(self, xy: np.ndarray) -> np.ndarray:
        """Cells (...) uint8 under points (..., 2)."""
        height, width = self.cells.shape
        at = np.floor((np.asarray(xy)[..., :2] - self.origin) / self.resolution).astype(np.int64)
        column, row = at[..., 0], at[..., 1]
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        cells = self.cells[np.where(inside, row, 0), np.where(inside, column, 0)]
        return np.where(inside, cells, self.outside).astype(np.uint8)

    def material(self, xy: np.ndarray) -> np.ndarray:
        """Materials (...) under points (..., 2)."""
        return self.index(xy) >> 4

    @cached_property
    def texel(self) -> np.ndarray:
        """(256) uint32: R, G, B and the tag of each cell value, R in the lowest byte."""
        rgb = self.colour.astype(np.uint32)
        packed: np.ndarray = rgb[:, 0] | rgb[:, 1] << 8 | rgb[:, 2] << 16
        return packed | self.tag.astype(np.uint32) << 24

    def lay(self, polygons: np.ndarray, material: Material) -> None:
        """Cover convex polygons (n, k, 2), m, with a material; the texture's grain stays."""
        fill(self.cells, self.to_cells(polygons), material << 4, keep=15)

    def to_cells(self, xy: np.ndarray) -> np.ndarray:
        """Points (..., 2) in metres as (column, row) in cells, not rounded."""
        scaled: np.ndarray = (np.asarray(xy, np.float64) - self.origin) / self.resolution
        return scaled


def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour (256, 3) uint8, tag (256) uint8 and gloss (256) float32 of every cell value."""
    colour, tag = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
    gloss = np.zeros(256, np.float32)
    shade = (np.arange(16) - 7.5)[:, None] / 15
    for material, (middle, reach, name, shine) in _TABLE.items():
        rows = slice(16 * material, 16 * material + 16)
        colour[rows] = np.clip(np.array(middle) + shade * np.array(reach), 0, 255).round()
        tag[rows], gloss[rows] = name, shine
    return colour, tag, gloss
