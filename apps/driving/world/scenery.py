"""What stands beside the roads, placed by rule: houses, trees, lamps, signs, lights, rails, benches.

OpenDRIVE lists traffic lights and signs and hardly anything else, so the rest is invented, seeded:
houses face the street behind a setback, higher where a slow random field says "centre"; street
lamps stand at the kerb, trees and walls behind the pavement, guard rails along fast roads. Nothing
stands on a carriageway, and only lamps, signs, lights and benches stand on a pavement.

A signal head is one box: which of its three lamps shines is the renderer's, from the light's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from apps.driving.world.geometry import Boxes
from apps.driving.world.ground import Ground, Material
from apps.driving.world.painting import FAST
from apps.driving.world.raster import ramp
from apps.driving.world.roads import Roads
from apps.driving.world.tags import Tag

if TYPE_CHECKING:
    from apps.driving.world.network import Footways, LightSite, Network, SignSite

STOREY = 3.2
_SEED = 0x7363656E
_CARRIAGEWAY = (
    Material.ASPHALT, Material.TRACKS, Material.SHOULDER, Material.PARKING, Material.BIKE_LANE,
    Material.WHITE, Material.YELLOW,
)  # fmt: skip
_WALKED = ("sidewalk", "walking")
_FACADES = np.array(
    [(196, 178, 150), (172, 96, 74), (210, 204, 194), (150, 142, 132), (188, 156, 112),
     (126, 96, 82), (164, 172, 178), (204, 186, 142), (140, 74, 62), (176, 168, 148)]
)  # fmt: skip
_METAL, _DARK, _WOOD = (112, 114, 116), (34, 36, 38), (104, 76, 52)


@dataclass(frozen=True)
class Scenery:
    """The boxes that never move, K of them, and which of them belong to lights and signs."""

    boxes: Boxes
    light_heads: dict[str, np.ndarray]  # sign id -> rows of its heads, one or two
    rows_of: dict[str, np.ndarray]  # sign id -> all rows of that light or sign
    lamps: np.ndarray  # (l, 3) float64 x, y, z, m: bulbs of street lamps


def furnish(network: Network, roads: Roads, ground: Ground, seed: int = 0) -> Scenery:
    """Place everything; ``ground`` gets paths to the houses' doors and yards around blocks.

    ``network`` gives ``lights`` and ``signs`` and the ``sidewalk`` graph that stays free.
    """
    rng = np.random.default_rng([seed, _SEED])
    stock, site = _Stock(), _Site(ground, network)
    for light in network.lights:
        _traffic_light(stock, site, network, light)
    for sign in network.signs:
        _sign(stock, site, sign)
    sides = list(_roadsides(roads))
    for side in sides:
        _street_lamps(stock, site, side)
        if side.fast:
            _guard_rails(stock, site, side)
    for side in sides:
        _houses(stock, site, side, rng)
    for side in sides:
        _greenery(stock, site, side, rng)
        if side.paved:
            _benches(stock, site, side, rng)
    _woods(stock, site, rng)
    return stock.scenery()


@dataclass
class _Stock:
    """Boxes collected so far; one ``begin`` for each object, which is one instance."""

    rows: list[tuple[float, ...]] = field(default_factory=list)
    objects: int = 0
    heads: dict[str, list[int]] = field(default_factory=dict)
    owned: dict[str, list[int]] = field(default_factory=dict)
    lamps: list[tuple[float, ...]] = field(default_factory=list)

    def begin(self) -> None:
        self.objects += 1

    def add(
        self,
        centre: Sequence[float],
        half: Sequence[float],
        yaw: float,
        tag: Tag,
        rgb: Sequence[float] | np.ndarray,
    ) -> int:
        """The row of a new box of the current object."""
        self.rows.append((*centre, *half, yaw, float(tag), *rgb, self.objects))
        return len(self.rows) - 1

    def scenery(self) -> Scenery:
        table = np.array(self.rows, np.float64).reshape(-1, 12)
        boxes = Boxes(
            table[:, 0:3].astype(np.float32),
            table[:, 3:6].astype(np.float32),
            table[:, 6].astype(np.float32),
            table[:, 7].astype(np.uint8),
            np.clip(table[:, 8:11], 0, 255).astype(np.uint8),
            (65536 - table[:, 11]).astype(np.int32),
        )
        return Scenery(
            boxes,
            {sign: np.array(rows, np.int64) for sign, rows in self.heads.items()},
            {sign: np.array(rows, np.int64) for sign, rows in self.owned.items()},
            np.array(self.lamps, np.float64).reshape(-1, 3),
        )


class _Site:
    """Which ground is still free, on a grid of 1 m."""

    def __init__(self, ground: Ground, network: Network) -> None:
        self.ground = ground
        step = self.step = max(1, round(1.0 / ground.resolution))
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

    def on_carriageway(self, xy: np.ndarray) -> np.ndarray:
        """Whether points (..., 2) lie on a road."""
        return np.isin(self.ground.material(xy), _CARRIAGEWAY)

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

    def every(self, spacing: float, phase: float = 0.5) -> np.ndarray:
        """Indices about ``spacing`` m apart, at the same s whatever the sections."""
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


def _head(stock: _Stock, sign: str, xy: np.ndarray, z: float, travel: float) -> None:
    """A head of 1.2 m around (xy, z); its yaw is the traffic's, so its back face is seen."""
    row = stock.add((*xy, z), (0.14, 0.24, 0.6), travel, Tag.TRAFFIC_LIGHT, _DARK)
    stock.heads.setdefault(sign, []).append(row)
    stock.owned.setdefault(sign, []).append(row)


def _traffic_light(stock: _Stock, site: _Site, network: Network, light: LightSite) -> None:
    """A pole with a head at 3.2 m, and an arm with one at 5.5 m over the lanes it is for.

    Where the pole stands at the stop line, as in CARLA's Town01, a car that waits there sees
    neither; so a second pole repeats the light beyond the junction.
    """
    travel = float(np.radians(light.heading))
    ahead = np.array([np.cos(travel), np.sin(travel)])
    right = np.array([-ahead[1], ahead[0]])
    given = np.array([light.transform.x, light.transform.y])
    stock.begin()
    own = stock.owned.setdefault(light.sign_id, [])
    xy = site.stand(given, travel)
    if xy is None:  # in the middle of a wide junction: it hangs from a wire
        _head(stock, light.sign_id, given, 5.5, travel)
        return
    own.append(stock.add((*xy, 3.0), (0.09, 0.09, 3.0), travel, Tag.POLES, _METAL))
    _head(stock, light.sign_id, xy - ahead * 0.25, 3.2, travel)
    if not len(light.stop_nodes):
        return
    stop = network.position[np.asarray(light.stop_nodes)].mean(0)
    reach = float(np.clip((stop - xy) @ right, -7.0, 7.0))
    if abs(reach) > 1.0:
        arm = xy + right * reach / 2
        half = (0.06, abs(reach) / 2, 0.06)
        own.append(stock.add((*arm, 5.9), half, travel, Tag.POLES, _METAL))
        _head(stock, light.sign_id, xy + right * reach - ahead * 0.22, 5.5, travel)
    if (xy - stop) @ ahead < 6.0:
        far = _beyond(site, network, light, stop)
        far = None if far is None else site.stand(far, travel)
        if far is not None:
            own.append(stock.add((*far, 1.9), (0.07, 0.07, 1.9), travel, Tag.POLES, _METAL))
            _head(stock, light.sign_id, far - ahead * 0.25, 3.2, travel)


def _beyond(site: _Site, network: Network, light: LightSite, stop: np.ndarray) -> np.ndarray | None:
    """Where (2) the way straight on leaves the junction, or else where the road ahead ends."""
    travel = np.radians(light.heading)
    for node in light.stop_nodes:
        for _ in range(60):
            ways = network.next.of(node)
            ways = ways[network.turn[ways] == 0]
            if not len(ways):
                break
            node = int(ways[0])
            if network.junction[node] == -1:
                if np.cos(network.yaw_rad[node] - travel) > 0.8:
                    half = network.width[node] / 2 * np.array([-np.sin(travel), np.cos(travel)])
                    beside: np.ndarray = network.position[node] + half
                    return beside
                break
    line = stop + np.array([np.cos(travel), np.sin(travel)]) * np.arange(4.0, 60.0, 0.5)[:, None]
    off = np.flatnonzero(~site.on_carriageway(line))
    return line[off[0]] if len(off) else None


def _sign(stock: _Stock, site: _Site, sign: SignSite) -> None:
    """A post with a plate at 2.3 m that looks against the traffic it is for; amid a road of more
    than 25 m on either side the plate hangs at 6 m, without a post."""
    travel = float(np.radians(sign.heading))
    ahead = np.array([np.cos(travel), np.sin(travel)])
    given = np.array([sign.transform.x, sign.transform.y])
    xy = site.stand(given, travel)
    stock.begin()
    rows = stock.owned.setdefault(sign.sign_id, [])
    if xy is not None:
        rows.append(stock.add((*xy, 1.3), (0.04, 0.04, 1.3), travel, Tag.POLES, _METAL))
    z, xy = (6.0, given) if xy is None else (2.3, xy)
    outer, inner = {
        "stop": ((186, 22, 30), (236, 236, 232)),
        "yield": ((196, 26, 32), (240, 240, 236)),
    }.get(sign.kind, ((200, 24, 30), (242, 242, 240)))
    size = 0.38 if sign.kind == "stop" else 0.34
    inside = (0.28, 0.07) if sign.kind == "stop" else (0.24, 0.24)
    plate, face = xy - ahead * 0.06, xy - ahead * 0.09
    rows.append(stock.add((*plate, z), (0.015, size, size), travel, Tag.TRAFFIC_SIGNS, outer))
    rows.append(stock.add((*face, z), (0.01, *inside), travel, Tag.TRAFFIC_SIGNS, inner))


def _street_lamps(stock: _Stock, site: _Site, side: _Side) -> None:
    """Every 30 m at the kerb, the sides of a road in turn: pole, arm and lamp."""
    for i in side.every(30.0, 0.25 if side.left else 0.75):
        out, yaw = side.out[i], float(side.yaw[i])
        xy = side.kerb[i] + out * (0.5 if side.paved else 1.0)
        near = site.on_carriageway(xy + out * np.array([[-0.2], [0.0], [0.4]]))
        if near.any() or site.off_walks(xy) < 0.5:
            continue
        stock.begin()
        stock.add((*xy, 3.6), (0.08, 0.08, 3.6), yaw, Tag.POLES, _METAL)
        stock.add((*(xy - out * 0.9), 7.2), (0.05, 0.9, 0.05), yaw, Tag.POLES, _METAL)
        stock.add((*(xy - out * 1.6), 7.1), (0.14, 0.35, 0.06), yaw, Tag.POLES, (228, 224, 206))
        stock.lamps.append((*(xy - out * 1.6), 7.0))


def _guard_rails(stock: _Stock, site: _Site, side: _Side) -> None:
    """Rails 0.6 m beyond a fast road without pavement, in pieces as long as the curve allows."""
    if side.paved:
        return
    line = side.edge + side.out * 0.6
    beyond = np.stack([line, line + side.out * 0.5])
    free = (site.ground.material(beyond) == Material.GRASS).all(0)
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


def _houses(stock: _Stock, site: _Site, side: _Side, rng: np.random.Generator) -> None:
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
        if not site.take(middle, yaw, (half[0] + 1.0, half[1] + 0.5), 2.0):
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
        site.ground.lay(np.array([[*corners, front + along * yard]]), Material.PLAZA)


def _centre(xy: np.ndarray) -> np.ndarray:
    """0 suburb to 1 centre: a slow field over the map (the same for every seed)."""
    x, y = xy[..., 0] / 140.0, xy[..., 1] / 140.0
    wave = np.sin(x + 1.3 * np.sin(0.7 * y)) + np.sin(1.1 * y + 0.9 * np.cos(0.8 * x) + 1.0)
    found: np.ndarray = np.clip(0.5 + 0.35 * wave, 0, 1)
    return found


def _tree(stock: _Stock, xy: np.ndarray, size: float, rng: np.random.Generator) -> None:
    """A trunk and a crown; ``size`` 1 is 5.5 m high."""
    trunk = max(0.9 * size, 1.15)  # half: crowns begin at 2.3 m, above whoever walks under them
    crown, yaw = 1.6 * size, float(rng.uniform(0, np.pi / 2))
    green = np.array([52, 84, 38]) + rng.integers(-14, 15) + np.array([1, 0, 0]) * rng.integers(20)
    stock.begin()
    stock.add((*xy, trunk), (0.15 * size, 0.15 * size, trunk), yaw, Tag.VEGETATION, _WOOD)
    top = (crown, crown, 1.2 * crown)
    stock.add((*xy, 2 * trunk + 1.1 * crown), top, yaw, Tag.VEGETATION, green)


def _greenery(stock: _Stock, site: _Site, side: _Side, rng: np.random.Generator) -> None:
    """Street trees behind the pavement or verge, hedges and walls where a plot is left empty."""
    for i in side.every(9.0):
        out, yaw, kind = side.out[i], float(side.yaw[i]), rng.random()
        if kind < 0.55:
            size = rng.uniform(0.7, 1.15)  # a crown of 2.6 m to its corners stays off the road
            xy = side.edge[i] + out * (rng.uniform(2.8, 3.4) + (3.0 if side.fast else 0.0))
            if site.take(xy, yaw, (1.0, 1.0), 1.0):
                _tree(stock, xy, size, rng)
        elif kind < 0.75 and not side.fast:
            xy, half = side.edge[i] + out * 1.9, float(rng.uniform(2.0, 3.9))
            if site.take(xy, yaw, (half, 0.4), 0.9):
                stock.begin()
                _barrier(stock, xy, half, yaw, rng)


def _barrier(
    stock: _Stock, xy: np.ndarray, half: float, yaw: float, rng: np.random.Generator
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


def _benches(stock: _Stock, site: _Site, side: _Side, rng: np.random.Generator) -> None:
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


def _woods(stock: _Stock, site: _Site, rng: np.random.Generator) -> None:
    """Trees over the open ground: one try for every 400 m2, at most 1,200."""
    height, width = site.used.shape
    size = np.array([width, height]) * site.pitch
    tries = min(1200, int(size[0] * size[1] / 400))
    places = site.ground.origin + rng.uniform(0, 1, (tries, 2)) * size
    clear = site.clearance(places)
    for xy, room in zip(places, clear, strict=True):
        if room > 6.0 and site.take(xy, 0.0, (1.5, 1.5), 4.0):
            _tree(stock, xy, float(rng.uniform(1.0, 1.9)), rng)
