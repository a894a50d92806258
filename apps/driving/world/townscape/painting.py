"""Painting a town's ground: every lane, kerb and marking of its map, layer on layer.

From below: terrain, pavements, medians, kerbs, carriageways, the filled middles of junctions, then
markings. Marking widths, types and colours are the map's. What OpenDRIVE leaves open follows the
German road-marking guideline RMS: broken lines of 3 m with gaps of 6 m, 6 m and 12 m on roads of
70 km/h and more; stop lines 0.5 m wide; arrows on approaches of several lanes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from apps.driving.world.maps.roads import Item, Roads
from apps.driving.world.townscape import stencils
from apps.driving.world.townscape.ground import Ground, Material, tables
from apps.driving.world.townscape.raster import fill
from apps.driving.world.townscape.roadway import Line, Ribbon, lines, ribbons, strip

if TYPE_CHECKING:
    from apps.driving.world.maps.network import Network

FINEST = 0.1
MOST_CELLS = 40_000_000
MARGIN = 60.0
"""Metres of terrain around the outermost lane: as far as buildings stand from the road."""
NARROWEST = 0.15
"""Metres: markings of 0.125 m would be one cell wide here and two there."""
STOP_LINE = 0.5
FAST = 70 / 3.6 - 0.1
_SEED = 0x67726F75

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


def paint(
    roads: Roads,
    network: Network | None = None,
    *,
    seed: int = 0,
    resolution: float = FINEST,
) -> Ground:
    """The ground of all ``roads``, at ``resolution`` or as much coarser as 40 million cells allow.

    ``network``, of the same roads, adds what follows from who must stop where: stop lines, rows of
    teeth, arrows.
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
    _bays(brush, lanes)
    _fill_junctions(ground, lanes)
    _markings(brush, found)
    _listed(brush, roads.items)
    if network is not None:
        _held_up(brush, network)
    _texture(ground.cells, ground.resolution, seed)
    return ground


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


def _seams(brush: _Brush, found: Sequence[Ribbon]) -> None:
    """A joint across the pavement every 2 m."""
    for r in found:
        if _material(r) is Material.PAVEMENT:
            brush.fill(_across(r, 2.0, brush.ground.resolution), Material.SEAM)


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


def _bays(brush: _Brush, found: Iterable[Ribbon]) -> None:
    """A line across parking lanes every 6 m: bays for one car."""
    for r in found:
        if _material(r) is Material.PARKING:
            brush.fill(_across(r, 6.0, NARROWEST), Material.WHITE)


def _across(ribbon: Ribbon, spacing: float, width: float) -> np.ndarray:
    """Bars (n, 4, 2) from edge to edge of a lane, at the same s whatever the sections."""
    at = np.arange(np.ceil(ribbon.s[0] / spacing) * spacing, ribbon.s[-1], spacing)
    ends = [
        np.stack([np.interp(at, ribbon.s, edge[:, k]) for k in (0, 1)], 1)
        for edge in (ribbon.inner, ribbon.outer)
    ]
    return stencils.bars(ends[0], ends[1], width)


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


def _listed(brush: _Brush, items: Iterable[Item]) -> None:
    """What the map lists as objects, by RoadRunner's names: crosswalks and single lines."""
    for item in items:
        outline = item.outline
        if len(outline) < 2:
            continue
        if item.type == "crosswalk":
            if len(outline) >= 3:
                closed = np.allclose(outline[0], outline[-1], atol=1e-3)
                _crosswalk(brush, outline[:-1] if closed else outline, item.name)
        elif item.name == "StopLine":
            brush.fill(stencils.bars(outline[:-1], outline[1:], STOP_LINE), Material.WHITE)
        elif item.name.startswith("SolidSingle"):
            material = Material.YELLOW if item.name.endswith("Yellow") else Material.WHITE
            brush.fill(stencils.bars(outline[:-1], outline[1:], NARROWEST), material)


def _crosswalk(brush: _Brush, outline: np.ndarray, name: str) -> None:
    if name != "SimpleCrosswalk":
        brush.fill(stencils.zebra(outline), Material.WHITE)
    if name in ("SimpleCrosswalk", "LadderCrosswalk"):
        brush.fill(stencils.sides(outline), Material.WHITE)


def stop_lines(network: Network, kinds: Sequence[str] = ("light", "stop")) -> np.ndarray:
    """(n, 2, 2) m: across each lane that a light or a sign of ``kinds`` holds up, at its end, from
    the left to the right of who comes. None where the map itself lists a line within 6 m."""
    stops = [light.stop_nodes for light in network.lights if "light" in kinds]
    stops += [sign.stop_nodes for sign in network.signs if sign.kind in kinds]
    nodes = np.unique(np.array([node for some in stops for node in some], np.int64))
    if not len(nodes):
        return np.zeros((0, 2, 2))
    yaw = network.yaw_rad[nodes]
    ahead = np.stack([np.cos(yaw), np.sin(yaw)], 1)
    right = np.stack([-np.sin(yaw), np.cos(yaw)], 1)
    middle = network.position[nodes] + ahead * (network.length[nodes] - STOP_LINE)[:, None] / 2
    drawn = [item.outline.mean(0) for item in network.roads.items if item.name == "StopLine"]
    if drawn:
        gap = np.hypot(*(middle[:, None] - np.array(drawn)).transpose(2, 0, 1)).min(1)
        middle, right, nodes = middle[gap > 6.0], right[gap > 6.0], nodes[gap > 6.0]
    reach = right * (network.width[nodes] / 2 - 0.1)[:, None]
    return np.stack([middle - reach, middle + reach], axis=1)


def _held_up(brush: _Brush, network: Network) -> None:
    """Stop lines, teeth before signs to give way, and arrows where two lanes or more wait."""
    stops = stop_lines(network)
    brush.fill(stencils.bars(stops[:, 0], stops[:, 1], STOP_LINE), Material.WHITE)
    for left, right in stop_lines(network, ("yield",)):
        brush.fill(stencils.teeth(right, left), Material.WHITE)
    sites = [light.stop_nodes for light in network.lights]
    sites += [sign.stop_nodes for sign in network.signs if sign.kind != "speed_limit"]
    held = sorted({node for nodes in sites for node in nodes})
    approach = {n: (network.road[n], network.section[n], network.lane[n] > 0) for n in held}
    for node in held:
        if sum(other == approach[node] for other in approach.values()) < 2:
            continue
        back = node - 5  # some 10 m, in a lane's order of nodes
        if back < 0 or any(
            a[back] != a[node] for a in (network.road, network.section, network.lane)
        ):
            continue
        turns = {int(t) for t in network.turn[network.next.of(node)]}
        if turns:
            polygons = stencils.arrow(network.position[back], network.yaw_rad[back], turns)
            brush.fill(polygons, Material.WHITE)


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
    coarse = int(np.ceil(np.sqrt(cells.size / 4e6)))  # bounds the tables to about 50 MB
    block = max(1, round(0.6 / resolution), coarse)
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
