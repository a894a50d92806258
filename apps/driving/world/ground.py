"""The flat ground of a town as a raster of materials: what cameras and rays see at z = 0.

One byte a cell: ``16 * material + shade``, where the shade (0 to 15) is texture. Colours, semantic
tags and gloss are tables of 256 entries, so that light, rain and night are applied to a table and
not to 20 million cells, and Town01 at 0.1 m takes 20 MB instead of 79 MB.

Layers, from below: terrain, pavements, medians, kerbs, carriageways, the filled middles of
junctions, then markings. Marking widths, types and colours are the map's. What OpenDRIVE leaves
open follows the German road-marking guideline RMS: broken lines of 3 m with gaps of 6 m, 6 m and
12 m on roads of 70 km/h and more; stop lines 0.5 m wide; zebra bars 0.5 m wide with gaps of 0.5 m.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from scipy import ndimage

from apps.driving.world.raster import fill
from apps.driving.world.roads import Item, Roads
from apps.driving.world.roadway import Line, Ribbon, lines, ribbons, strip
from apps.driving.world.tags import Tag

FINEST = 0.1
MOST_CELLS = 40_000_000
MARGIN = 60.0
"""Metres of terrain around the outermost lane: as far as buildings stand from the road."""
NARROWEST = 0.15
"""Metres: markings of 0.125 m would be one cell wide here and two there."""
STOP_LINE = 0.5
FAST = 70 / 3.6 - 0.1
_SEED = 0x67726F75


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

# OpenDRIVE's lane types; those not named (none, tram, rail) leave the terrain.
_LANES = {
    **dict.fromkeys(("sidewalk", "walking"), Material.PAVEMENT),
    **dict.fromkeys(("median", "restricted"), Material.MEDIAN),
    "curb": Material.KERB,
    **dict.fromkeys(("shoulder", "border", "stop"), Material.SHOULDER),
    "parking": Material.PARKING,
    "biking": Material.BIKE_LANE,
    **dict.fromkeys(
        ("driving", "entry", "exit", "onRamp", "offRamp", "connectingRamp", "bidirectional",
         "slipLane", "mwyEntry", "mwyExit", "special1", "special2", "special3"),
        Material.ASPHALT,
    ),
}  # fmt: skip
_LAYERS = (
    (Material.PAVEMENT, Material.MEDIAN),
    (Material.KERB,),
    (Material.SHOULDER, Material.PARKING),
    (Material.BIKE_LANE, Material.ASPHALT),
)


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


def paint(
    roads: Roads,
    *,
    seed: int = 0,
    resolution: float = FINEST,
    crosswalks: Sequence[np.ndarray] = (),
    stop_lines: np.ndarray | None = None,
) -> Ground:
    """The ground of all ``roads``, at ``resolution`` or as much coarser as 40 million cells allow.

    crosswalks: outlines (n, 2), m; one that the map names as lines or ladder is painted as such.
    stop_lines: (n, 2, 2), m: the two ends of each.
    """
    lanes = [ribbon for road in roads.roads.values() for ribbon in ribbons(road)]
    found = [line for road in roads.roads.values() for line in lines(road)]
    ground = _blank(lanes, resolution)
    brush = _Brush(ground)
    for layer in _LAYERS:
        _areas(brush, [r for r in lanes if _material(r) in layer])
        if Material.PAVEMENT in layer:
            _seams(brush, lanes)
        if Material.KERB in layer:
            _kerbs(brush, found)
    _tracks(brush, lanes)
    _fill_junctions(ground, lanes)
    _markings(brush, found)
    _painted(brush, roads.items)
    for outline in crosswalks:
        brush.fill(zebra(outline), Material.WHITE)
    if stop_lines is not None and len(stop_lines):
        brush.fill(bars(stop_lines[:, 0], stop_lines[:, 1], STOP_LINE), Material.WHITE)
    _texture(ground.cells, ground.resolution, seed)
    return ground


def bars(start: np.ndarray, stop: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Rectangles (n, 4, 2) around the segments from ``start`` to ``stop`` (n, 2), ``width`` wide."""
    along = stop - start
    along = along / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    side = np.stack([-along[:, 1], along[:, 0]], 1) * (np.asarray(width) / 2).reshape(-1, 1)
    return np.stack([start - side, stop - side, stop + side, start + side], axis=1)


def zebra(outline: np.ndarray, bar: float = 0.5, gap: float = 0.5) -> np.ndarray:
    """Bars (n, 4, 2) across a crosswalk's outline (k, 2), side by side along its longer axis."""
    outline = np.asarray(outline, np.float64)
    corners, axes, low, high = _frame(outline)
    count = max(1, int((high[0] - low[0] + gap) // (bar + gap)))
    first = (low[0] + high[0]) / 2 - (count * (bar + gap) - gap) / 2
    u0 = first + np.arange(count) * (bar + gap)
    ends = []
    for u in (u0, u0 + bar):
        below, above = _crossings(corners, u)
        ends.append((np.stack([u, below], 1), np.stack([u, above], 1)))
    (a, d), (b, c) = ends
    middle = outline.mean(0)
    return np.stack([a, b, c, d], axis=1) @ axes + middle


def _frame(outline: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Corners (k, 2) in the frame of the longest side; that frame's axes (2, 2) as rows; bounds."""
    sides = np.roll(outline, -1, 0) - outline
    longest = sides[np.argmax(np.hypot(sides[:, 0], sides[:, 1]))]
    along = longest / max(float(np.hypot(*longest)), 1e-9)
    axes = np.array([along, [-along[1], along[0]]])
    corners = (outline - outline.mean(0)) @ axes.T
    return corners, axes, corners.min(0), corners.max(0)


def _crossings(corners: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest second coordinate of a convex polygon at first coordinates u (n)."""
    low, high = np.full(len(u), np.inf), np.full(len(u), -np.inf)
    for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
        run = b[0] - a[0]
        if abs(run) < 1e-9:
            continue
        p = (u - a[0]) / run
        v = np.where((p >= -1e-9) & (p <= 1 + 1e-9), a[1] + p * (b[1] - a[1]), np.nan)
        low, high = np.fmin(low, v), np.fmax(high, v)
    missed = low > high
    return np.where(missed, 0.0, low), np.where(missed, 0.0, high)


class _Brush:
    """Fills polygons given in metres."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    def fill(self, polygons: np.ndarray, material: Material | np.ndarray) -> None:
        """Paint (n, k, 2) polygons with one material, or each with its own."""
        if len(polygons):
            values = np.asarray(material, np.uint8) << 4
            fill(self.ground.cells, self.ground.to_cells(polygons), values)


def _blank(ribbons: Sequence[Ribbon], resolution: float) -> Ground:
    """Grass around all lanes, on a grid that starts at a whole metre."""
    edges = np.concatenate([r.outer for r in ribbons])
    low = np.floor(edges.min(0) - MARGIN)
    size = np.ceil(edges.max(0) + MARGIN) - low
    resolution = max(resolution, _round_up(float(np.sqrt(size[0] * size[1] / MOST_CELLS))))
    width, height = (int(np.ceil(v / resolution)) for v in size)
    cells = np.zeros((height, width), np.uint8)
    return Ground(cells, resolution, (float(low[0]), float(low[1])), *tables())


def _round_up(resolution: float) -> float:
    """To the next 5 mm: the figure that people read stays short."""
    return float(np.ceil(resolution * 200 - 1e-9) / 200)


def _material(ribbon: Ribbon) -> Material | None:
    """What a lane is made of; within a junction a shoulder is carriageway like the rest."""
    found = _LANES.get(ribbon.kind)
    return Material.ASPHALT if found is Material.SHOULDER and ribbon.junction >= 0 else found


def _areas(brush: _Brush, ribbons: Sequence[Ribbon]) -> None:
    if ribbons:
        quads = [r.quads for r in ribbons]
        material = [int(_material(r) or 0) for r in ribbons]
        brush.fill(np.concatenate(quads), np.repeat(material, [len(q) for q in quads]))


def _kerbs(brush: _Brush, found: Sequence[Line]) -> None:
    """Stones along every edge that the map marks as a curb, on the side away from the road."""
    for line in found:
        if line.kind == "curb" and line.lane:
            width = max(line.width, 0.15)
            brush.fill(line.whole(np.sign(line.lane) * width / 2, width), Material.KERB)


def _seams(brush: _Brush, ribbons: Sequence[Ribbon]) -> None:
    """A joint across the pavement every 2 m."""
    for r in ribbons:
        if _material(r) is Material.PAVEMENT:
            at = np.arange(np.ceil(r.s[0] / 2) * 2, r.s[-1], 2.0)
            ends = [
                np.stack([np.interp(at, r.s, edge[:, k]) for k in (0, 1)], 1)
                for edge in (r.inner, r.outer)
            ]
            brush.fill(bars(ends[0], ends[1], brush.ground.resolution), Material.SEAM)


def _tracks(brush: _Brush, ribbons: Iterable[Ribbon]) -> None:
    """Two darker bands along each driving lane, 1.6 m apart, as wide as worn by tyres: 0.6 m."""
    for r in ribbons:
        if _material(r) is not Material.ASPHALT or r.junction >= 0:
            continue
        across = r.outer - r.inner
        width = np.hypot(across[:, 0], across[:, 1])
        if width.min() < 2.4:
            continue
        unit = across / width[:, None]
        for side in (-0.8, 0.8):
            middle = r.inner + unit * (width / 2 + side)[:, None]
            brush.fill(strip(middle - 0.3 * unit, middle + 0.3 * unit), Material.TRACKS)


def _fill_junctions(ground: Ground, found: Iterable[Ribbon]) -> None:
    """Close the patches of grass that a junction's lanes leave between them, each up to 150 m2.

    Beside a pavement or a median a patch becomes an island like it, else carriageway. What reaches
    the junction's bounds, such as a block that streets enclose, stays.
    """
    corners: dict[int, list[np.ndarray]] = {}
    for r in found:
        if r.junction >= 0 and _material(r) is Material.ASPHALT:
            corners.setdefault(r.junction, []).extend((r.inner, r.outer))
    raised = np.isin(np.arange(16), (Material.PAVEMENT, Material.MEDIAN))
    most = 150.0 / ground.resolution**2
    for junction in sorted(corners):
        at = ground.to_cells(np.concatenate(corners[junction]))
        low = np.maximum(np.floor(at.min(0)).astype(int) - 2, 0)
        high = np.ceil(at.max(0)).astype(int) + 2
        window = ground.cells[low[1] : high[1], low[0] : high[0]]
        label, count = ndimage.label(window >> 4 == Material.GRASS)
        border = np.concatenate((label[0], label[-1], label[:, 0], label[:, -1]))
        sizes = np.bincount(label.ravel(), minlength=count + 1)
        for patch, box in enumerate(ndimage.find_objects(label), 1):
            if sizes[patch] > most or np.any(border == patch):
                continue
            rows, columns = (slice(max(b.start - 2, 0), b.stop + 2) for b in box)
            mine, around = label[rows, columns] == patch, window[rows, columns]
            rim = ndimage.binary_dilation(mine, iterations=2) & ~mine
            island = raised[around[rim] >> 4].any()
            around[mine] = (Material.MEDIAN if island else Material.ASPHALT) << 4


def _painted(brush: _Brush, items: Iterable[Item]) -> None:
    """Lines that the map lists as objects, by RoadRunner's names."""
    for item in items:
        outline = item.outline
        if len(outline) < 2:
            continue
        a, b = outline[:-1], outline[1:]
        if item.name == "StopLine":
            brush.fill(bars(a, b, STOP_LINE), Material.WHITE)
        elif item.name.startswith("SolidSingle"):
            material = Material.YELLOW if item.name.endswith("Yellow") else Material.WHITE
            brush.fill(bars(a, b, NARROWEST), material)


def _markings(brush: _Brush, found: Sequence[Line]) -> None:
    for line in found:
        parts = line.kind.split()
        if parts[0] not in ("solid", "broken", "botts"):
            continue  # none, curb, grass, custom, edge
        width = max(line.width or 0.12, NARROWEST, brush.ground.resolution)
        material = Material.YELLOW if line.colour in ("yellow", "orange") else Material.WHITE
        dash, gap = (6.0, 12.0) if _fast(line) else (3.0, 6.0)
        if parts[0] == "botts":
            parts, (dash, gap) = ["dots"], (0.25, 2.0)
        # The lines of a double marking lie one width apart; the first named is the inner one.
        outward = -1.0 if line.lane < 0 else 1.0
        for k, part in enumerate(parts[:2]):
            offset = outward * (2 * k - (len(parts[:2]) - 1)) * width
            if part == "solid":
                brush.fill(line.whole(offset, width), material)
            else:
                brush.fill(line.dashed(offset, width, dash, gap), material)


def _fast(line: Line) -> bool:
    """Whether 70 km/h and more are allowed where the line starts."""
    return bool(line.road.speed_at(np.array([line.start]))[0] >= FAST)


def _texture(cells: np.ndarray, resolution: float, seed: int) -> None:
    """Add the shade, the mean of two tables: grain of a cell, and patches of 1 m to 10 m."""
    rng = np.random.default_rng([seed, _SEED])
    height, width = cells.shape
    grain = rng.binomial(15, 0.5, (512, 512)).astype(np.uint8)
    block = max(1, round(0.6 / resolution))
    rows, columns = height // block + 1, width // block + 1
    patch = ndimage.gaussian_filter(rng.standard_normal((rows, columns), np.float32), 1.5)
    patch /= patch.std()
    wide = rng.standard_normal((rows // 5 + 2, columns // 5 + 2), np.float32)
    wide = ndimage.gaussian_filter(wide, 1.2)
    wide *= 1.5 / wide.std()
    patch += ndimage.zoom(wide, 5, order=1)[:rows, :columns]
    shade = np.clip(7.5 + 2.4 * patch, 0, 15).astype(np.uint8)
    across = np.repeat(shade, block, axis=1)[:, :width]
    grain = np.tile(grain, (1, width // 512 + 1))[:, :width]
    for row in range(height):
        cells[row] |= (grain[row & 511] + across[row // block]) >> 1
