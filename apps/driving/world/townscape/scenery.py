"""What stands beside the roads, placed by rule: houses, trees, lamps, signs, lights, rails, benches.

OpenDRIVE lists traffic lights and signs and hardly anything else, so the rest is invented, seeded:
houses face the street behind a setback, higher where a slow random field says "centre"; street
lamps stand at the kerb, trees and walls behind the pavement, guard rails along fast roads. Nothing
stands on a carriageway, and only lamps, signs, lights and benches stand on a pavement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from apps.driving.world.geometry import Boxes
from apps.driving.world.maps.roads import Roads
from apps.driving.world.tags import Tag
from apps.driving.world.townscape.ground import Ground, Material
from apps.driving.world.townscape.painting import FAST
from apps.driving.world.townscape.plots import Plots
from apps.driving.world.townscape.posts import METAL, sign_post, traffic_light
from apps.driving.world.townscape.stock import Stock

if TYPE_CHECKING:
    from apps.driving.world.maps.network import Network

STOREY = 3.2
LONGEST = 60_000.0
"""Metres of roadside (Town04 has 23,000) beyond which everything stands further apart, so that a
map of a whole county does not become a million boxes."""
_SEED = 0x7363656E
_WALKED = ("sidewalk", "walking")
_FACADES = np.array(
    [(196, 178, 150), (172, 96, 74), (210, 204, 194), (150, 142, 132), (188, 156, 112),
     (126, 96, 82), (164, 172, 178), (204, 186, 142), (140, 74, 62), (176, 168, 148)]
)  # fmt: skip
_WOOD = (104, 76, 52)


@dataclass(frozen=True)
class Scenery:
    """The boxes that never move, K of them, and which of them belong to lights and signs."""

    boxes: Boxes
    light_heads: dict[str, np.ndarray]  # sign id -> rows of its heads, one to three
    rows_of: dict[str, np.ndarray]  # sign id -> all rows of that light or sign
    lamps: np.ndarray  # (l, 3) float64 x, y, z, m: bulbs of street lamps


def furnish(network: Network, roads: Roads, ground: Ground, seed: int = 0) -> Scenery:
    """Place everything; ``ground`` gets paths to the houses' doors and yards around blocks.

    ``network`` gives ``lights`` and ``signs`` and the ``sidewalk`` graph that stays free.
    """
    rng = np.random.default_rng([seed, _SEED])
    stock, plots = Stock(), Plots(ground, network)
    for light in network.lights:
        traffic_light(stock, plots, network, light)
    for sign in network.signs:
        sign_post(stock, plots, sign)
    sides = list(_roadsides(roads))
    sparse = max(1.0, sum(side.s[-1] - side.s[0] for side in sides) / LONGEST)
    sides = [replace(side, sparse=sparse) for side in sides]
    for side in sides:
        _street_lamps(stock, plots, side)
        if side.fast and sparse == 1.0:
            _guard_rails(stock, plots, side)
    for side in sides:
        _houses(stock, plots, side, rng)
    for side in sides:
        _greenery(stock, plots, side, rng)
        if side.paved:
            _benches(stock, plots, side, rng)
    _woods(stock, plots, rng)
    return Scenery(
        stock.boxes(),
        {sign: np.array(rows, np.int64) for sign, rows in stock.heads.items()},
        {sign: np.array(rows, np.int64) for sign, rows in stock.owned.items()},
        np.array(stock.lamps, np.float64).reshape(-1, 3),
    )


@dataclass(frozen=True)
class _Side:
    """One side of a road's section: points every metre or so along its outermost edge."""

    edge: np.ndarray  # (n, 2) m: where the road's lanes end
    kerb: np.ndarray  # (n, 2) m: where the pavement begins; equals ``edge`` without one
    out: np.ndarray  # (n, 2) unit vector away from the road
    yaw: np.ndarray  # (n) radians along increasing s
    s: np.ndarray  # (n)
    fast: bool  # 70 km/h and more, and no pavement on either side
    paved: bool
    left: bool
    sparse: float = 1.0  # by how much further apart than usual things stand

    def every(self, spacing: float, phase: float = 0.5) -> np.ndarray:
        """Indices about ``spacing`` m apart, at the same s whatever the sections."""
        spacing *= self.sparse
        at = (np.arange(np.ceil(self.s[-1] / spacing) + 1) + phase) * spacing
        at = at[(at >= self.s[0]) & (at < self.s[-1])]
        return np.minimum(np.searchsorted(self.s, at), len(self.s) - 1)


def _roadsides(roads: Roads) -> Iterator[_Side]:
    """Both sides of every section outside junctions that is 2 m long or more."""
    for road in roads.roads.values():
        if road.junction >= 0:
            continue
        for section in road.sections:
            if section.end - section.s < 2.0:
                continue
            s = np.linspace(section.s, section.end, 2 + int(section.end - section.s))
            borders = road.borders(section, s)
            walked = any(lane.type in _WALKED for lane in section.lanes.values())
            fast = bool(road.speed_at(s[:1])[0] >= FAST) and not walked
            for sign in (1, -1):
                ids = [lane for lane in borders if lane * sign > 0]
                last = max(ids, key=abs) if ids else 0
                kind = section.lanes[last].type if last else "none"
                paved = kind in _WALKED
                edge, yaw = road.place(s, borders[last][:, 1])
                kerb = road.place(s, borders[last][:, 0])[0] if paved else edge
                out = sign * np.stack([np.sin(yaw), -np.cos(yaw)], 1)
                yield _Side(edge, kerb, out, yaw, s, fast, paved, sign > 0)


def _street_lamps(stock: Stock, plots: Plots, side: _Side) -> None:
    """Every 30 m at the kerb, the sides of a road in turn: pole, arm and lamp."""
    for i in side.every(30.0, 0.25 if side.left else 0.75):
        out, yaw = side.out[i], float(side.yaw[i])
        xy = side.kerb[i] + out * (0.5 if side.paved else 1.0)
        near = plots.on_carriageway(xy + out * np.array([[-0.2], [0.0], [0.4]]))
        if near.any() or plots.off_walks(xy) < 0.5:
            continue
        stock.begin()
        stock.add((*xy, 3.6), (0.08, 0.08, 3.6), yaw, Tag.POLES, METAL)
        stock.add((*(xy - out * 0.9), 7.2), (0.05, 0.9, 0.05), yaw, Tag.POLES, METAL)
        stock.add((*(xy - out * 1.6), 7.1), (0.14, 0.35, 0.06), yaw, Tag.POLES, (228, 224, 206))
        stock.lamps.append((*(xy - out * 1.6), 7.0))


def _guard_rails(stock: Stock, plots: Plots, side: _Side) -> None:
    """Rails 0.6 m beyond a fast road without pavement, in pieces as long as the curve allows."""
    if side.paved:
        return
    line = side.edge + side.out * 0.6
    beyond = np.stack([line, line + side.out * 0.5])
    free = (plots.ground.material(beyond) == Material.GRASS).all(0)
    first = 0
    while first < len(line) - 1:
        last = first
        while (
            last + 1 < len(line)
            and last - first < 24
            and free[first : last + 2].all()
            and abs(side.yaw[last + 1] - side.yaw[first]) < 0.03
        ):
            last += 1
        if last - first >= 4:
            a, b = line[first], line[last]
            middle, run = (a + b) / 2, b - a
            yaw, half = float(np.arctan2(run[1], run[0])), float(np.hypot(*run)) / 2
            stock.begin()
            stock.add((*middle, 0.62), (half, 0.05, 0.16), yaw, Tag.GUARD_RAIL, (150, 152, 154))
        first = max(last, first + 1)


def _houses(stock: Stock, plots: Plots, side: _Side, rng: np.random.Generator) -> None:
    """Fronts along the street; paths and yards are painted on the ground."""
    for i in side.every(4.0):
        xy, out, yaw = side.edge[i], side.out[i], float(side.yaw[i])
        urban = 0.0 if side.fast else float(_centre(xy))
        if rng.random() < (0.9 if side.fast else 0.25 - 0.25 * urban):
            continue
        storeys = int(rng.integers(1, 4) if urban < 0.5 else rng.integers(3, 4 + int(8 * urban)))
        half = (rng.uniform(4.5, 8.0) + 3 * urban, rng.uniform(4.0, 6.5) + 2 * urban)
        setback = rng.uniform(14, 24) if side.fast else rng.uniform(2.5, 3.5 + 6 * (1 - urban))
        middle = xy + out * (setback + half[1])
        if not plots.take(middle, yaw, (half[0] + 1.0, half[1] + 0.5), 2.0):
            continue
        rgb = _FACADES[rng.integers(len(_FACADES))] + rng.integers(-12, 13)
        high = storeys * STOREY + 0.4
        stock.begin()
        stock.add((*middle, high / 2), (*half, high / 2), yaw, Tag.BUILDINGS, rgb)
        along = np.array([np.cos(yaw), np.sin(yaw)])
        if storeys > 4:  # a tower on a base
            top = rng.uniform(0.3, 0.6) * high
            inner = (half[0] * 0.7, half[1] * 0.7)
            stock.add((*middle, high + top / 2), (*inner, top / 2), yaw, Tag.BUILDINGS, rgb)
        elif rng.random() < 0.5:  # a roof smaller than the house
            inner = (half[0] * 0.96, half[1] * 0.6)
            stock.add((*middle, high + 0.5), (*inner, 0.5), yaw, Tag.BUILDINGS, (112, 72, 60))
        if side.fast:
            continue  # no door opens on a motorway
        yard = half[0] + 1.0 if urban > 0.5 else 0.9
        front, back = xy + out * -0.2, xy + out * (setback + 0.5)
        corners = [front - along * yard, back - along * yard, back + along * yard]
        plots.ground.lay(np.array([[*corners, front + along * yard]]), Material.PLAZA)


def _centre(xy: np.ndarray) -> np.ndarray:
    """0 suburb to 1 centre: a slow field over the map (the same for every seed)."""
    x, y = xy[..., 0] / 140.0, xy[..., 1] / 140.0
    wave = np.sin(x + 1.3 * np.sin(0.7 * y)) + np.sin(1.1 * y + 0.9 * np.cos(0.8 * x) + 1.0)
    found: np.ndarray = np.clip(0.5 + 0.35 * wave, 0, 1)
    return found


def _tree(
    stock: Stock, plots: Plots, xy: np.ndarray, size: float, rng: np.random.Generator
) -> None:
    """A trunk in bare soil and a crown; ``size`` 1 is 5.5 m high."""
    trunk = max(0.9 * size, 1.15)  # half: crowns begin at 2.3 m, above whoever walks under them
    crown, yaw = 1.6 * size, float(rng.uniform(0, np.pi / 2))
    green = np.array([52, 84, 38]) + rng.integers(-14, 15) + np.array([1, 0, 0]) * rng.integers(20)
    stock.begin()
    stock.add((*xy, trunk), (0.15 * size, 0.15 * size, trunk), yaw, Tag.VEGETATION, _WOOD)
    pit = xy + 0.5 * size * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    plots.ground.lay(pit[None], Material.SOIL)
    top = (crown, crown, 1.2 * crown)
    stock.add((*xy, 2 * trunk + 1.1 * crown), top, yaw, Tag.VEGETATION, green)


def _greenery(stock: Stock, plots: Plots, side: _Side, rng: np.random.Generator) -> None:
    """Street trees behind the pavement or verge, hedges and walls where a plot is left empty."""
    for i in side.every(9.0):
        out, yaw, kind = side.out[i], float(side.yaw[i]), rng.random()
        if kind < 0.55:
            size = rng.uniform(0.7, 1.15)  # a crown of 2.6 m to its corners stays off the road
            xy = side.edge[i] + out * (rng.uniform(2.8, 3.4) + (3.0 if side.fast else 0.0))
            paved_yard = _centre(xy) > 0.5  # where a tree may stand; a path to a door stays free
            if (paved_yard or plots.on_grass(xy)) and plots.take(xy, yaw, (1.0, 1.0), 1.0):
                _tree(stock, plots, xy, size, rng)
        elif kind < 0.75 and not side.fast:
            xy, half = side.edge[i] + out * 1.9, float(rng.uniform(2.0, 3.9))
            along = np.array([np.cos(yaw), np.sin(yaw)]) * half
            ends = xy + along * np.linspace(-1, 1, 9)[:, None]
            if plots.on_grass(ends).all() and plots.take(xy, yaw, (half, 0.4), 0.9):
                stock.begin()
                _barrier(stock, xy, half, yaw, rng)


def _barrier(
    stock: Stock, xy: np.ndarray, half: float, yaw: float, rng: np.random.Generator
) -> None:
    """A row of bushes, a garden wall or a fence."""
    kind, along = rng.integers(3), np.array([np.cos(yaw), np.sin(yaw)])
    if kind == 0:
        for k in np.arange(-half + 0.5, half, 1.2):
            size = rng.uniform(0.4, 0.6)
            bush = (size, 0.4, size)
            stock.add((*(xy + along * k), size), bush, yaw, Tag.VEGETATION, (58, 88, 44))
    elif kind == 1:
        stock.add((*xy, 0.55), (half, 0.12, 0.55), yaw, Tag.WALLS, (168, 158, 144))
    else:
        stock.add((*xy, 0.65), (half, 0.04, 0.65), yaw, Tag.FENCES, (96, 82, 66))


def _benches(stock: Stock, plots: Plots, side: _Side, rng: np.random.Generator) -> None:
    """On the far edge of pavements 2.5 m wide and more: benches, bins, boxes."""
    width = np.hypot(*(side.edge - side.kerb).T)
    for i in side.every(23.0, 0.6):
        kind = rng.random()
        if width[i] < 2.5 or kind > 0.6:
            continue
        out, yaw = side.out[i], float(side.yaw[i])
        xy = side.edge[i] - out * 0.4
        stock.begin()
        if kind < 0.3:
            stock.add((*xy, 0.24), (0.8, 0.22, 0.24), yaw, Tag.STATIC, _WOOD)
            stock.add((*(xy + out * 0.2), 0.66), (0.8, 0.04, 0.2), yaw, Tag.STATIC, _WOOD)
        elif kind < 0.45:
            stock.add((*xy, 0.5), (0.25, 0.25, 0.5), yaw, Tag.STATIC, (52, 74, 60))
        else:
            stock.add((*xy, 0.6), (0.35, 0.2, 0.6), yaw, Tag.STATIC, (120, 122, 118))


def _woods(stock: Stock, plots: Plots, rng: np.random.Generator) -> None:
    """Trees over the open ground: one try for every 400 m2, at most 1,200."""
    height, width = plots.used.shape
    size = np.array([width, height]) * plots.pitch
    tries = min(1200, int(size[0] * size[1] / 400))
    places = plots.ground.origin + rng.uniform(0, 1, (tries, 2)) * size
    clear = plots.clearance(places)
    for xy, room in zip(places, clear, strict=True):
        if room > 6.0 and plots.take(xy, 0.0, (1.5, 1.5), 4.0):
            _tree(stock, plots, xy, float(rng.uniform(1.0, 1.9)), rng)
