"""Where people may walk in a town, as convex areas: pavements, crossings and roadways.

Pavements are the sidewalk lanes, narrowed on each side by a walker's radius, so that nobody's
middle is on a kerb; in towns without such lanes a strip along every road. Crossings are the marked
crosswalks and the crossings and joints of the footway graph. Roadways are the lanes between.
Areas may overlap: the earlier one in the list holds.

Letters: t metres to the left of a road's reference line (OpenDRIVE's sign), n stations along it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from apps.driving.world.maps.footways import Footways
from apps.driving.world.maps.roads import Road, Roads, Section
from apps.driving.world.townscape.roadway import between, stations

Area = tuple[str, np.ndarray]
"""A kind ("sidewalk", "crosswalk", "road") and a convex polygon (n, 2) in CARLA's metres."""

MARGIN_M = 0.3
"""A walker's radius (LibCarla/source/carla/nav/Navigation.cpp: AGENT_RADIUS)."""
LONGEST_M = 10.0
"""Detour's path search goes from edge to edge by their middles, so long areas mislead it; and a
path holds 256 areas (Navigation.cpp: MAX_POLYS), so short ones limit how far walkers plan."""
CHORD_M = 0.1
"""How far a chord may lie from a curve. Walkers' paths follow the chords."""
CROSSING_M = 3.0
"""Width of a crossing where no crosswalk is marked."""
JOINT_M = 1.2
"""Width of what joins two ends of pavements; gaps longer than 2.6 m count as crossings."""
STRIP_M = 2.0
"""Width of the strip along roads without sidewalk lanes."""

LEAST_M2 = 0.01
"""Areas below this are left out: stations and records of lanes may lie micrometres apart."""

_PAVEMENT = {"sidewalk", "walking"}
_ROADWAY = {
    *("driving", "shoulder", "parking", "bidirectional", "biking", "restricted", "stop", "border"),
    *("curb", "median", "entry", "exit", "onramp", "offramp", "connectingramp", "bus", "taxi"),
}


def walkable_areas(
    roads: Roads, crosswalks: Sequence[np.ndarray], footways: Footways
) -> list[Area]:
    """Areas of a whole town: pavements first, then crossings, then roadways."""
    paved = any(lane.type in _PAVEMENT for _, _, lane in roads.lanes())
    found = [
        (kind, road.junction != -1, polygon)
        for road in roads.roads.values()
        for section in road.sections
        if section.length > 0.01
        for kind, polygon in _cross_sections(road, section, paved)
    ]
    pavements = [polygon for kind, _, polygon in found if kind == "sidewalk"]
    areas: list[Area] = [("sidewalk", polygon) for polygon in pavements]
    marked = [hull for hull in map(_hull, crosswalks) if len(hull)]
    areas += [("crosswalk", hull) for hull in marked]
    areas += _joints(footways, pavements, marked)
    # Lanes within junctions overlap each other and come last: what they add is cut to pieces.
    areas += [("road", p) for kind, inside, p in found if kind == "road" and not inside]
    areas += [("road", p) for kind, inside, p in found if kind == "road" and inside]
    return [(kind, polygon) for kind, polygon in areas if _size(polygon) > LEAST_M2]


def _cross_sections(road: Road, section: Section, paved: bool) -> Iterator[Area]:
    """Quads of each band of lanes of one kind, from station to station."""
    dense = between(stations(road), section.s, section.end)
    outer = [values[:, 1] for values in road.borders(section, dense).values()]
    lines = np.stack([road.place(dense, t)[0] for t in outer])  # (lanes, n, 2)
    s = _thinned(dense, lines)
    for kind, left, right in _bands(road, section, s, paved):
        one, other = road.place(s, left)[0], road.place(s, right)[0]
        for k, m in pairwise(range(len(s))):
            if max(left[k] - right[k], left[m] - right[m]) > 0.2:
                yield kind, _hull(np.stack([one[k], one[m], other[m], other[k]]))


def _thinned(dense: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """As few of the stations as keep every line within ``CHORD_M`` of its chords, with more put in
    so that none is farther than ``LONGEST_M`` from the next."""
    kept = [0]
    for last in range(2, len(dense)):
        first = kept[-1]
        start, chord = lines[:, first], lines[:, last] - lines[:, first]  # (lanes, 2)
        inner = lines[:, first + 1 : last] - start[:, None]
        length = np.maximum(np.hypot(*chord.T), 1e-9)[:, None]
        aside = np.abs(inner[..., 0] * chord[:, None, 1] - inner[..., 1] * chord[:, None, 0])
        if (aside / length).max() > CHORD_M or dense[last] - dense[first] > LONGEST_M:
            kept.append(last - 1)
    kept.append(len(dense) - 1)
    found = [dense[:1]]
    for low, high in pairwise(dense[kept]):
        steps = max(1, int(np.ceil((high - low) / LONGEST_M)))
        found.append(np.linspace(low, high, steps + 1)[1:])
    return np.concatenate(found)


def _bands(
    road: Road, section: Section, s: np.ndarray, paved: bool
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(kind, t of the left edge, t of the right edge), each (n), from left to right; lanes side by
    side of one kind are one band."""
    borders = road.borders(section, s)
    bands: list[tuple[str, np.ndarray, np.ndarray]] = []
    touching = False  # the band before ends where this lane begins
    for lane in sorted((i for i in borders if i), reverse=True):
        kind = _kind(section.lanes[lane].type)
        left, right = (borders[lane][:, k] for k in ((1, 0) if lane > 0 else (0, 1)))
        if kind and touching and bands[-1][0] == kind:
            bands[-1] = (kind, bands[-1][1], right)
        elif kind:
            bands.append((kind, left, right))
        touching = bool(kind)
    if not paved and bands and road.junction == -1:
        (_, left, _), (_, _, right) = bands[0], bands[-1]
        bands = [
            ("sidewalk", left + STRIP_M, left),
            *bands,
            ("sidewalk", right, right - STRIP_M),
        ]
    # A pavement gives up its margins, the roadway beside it takes them.
    lefts, rights = [band[1] for band in bands], [band[2] for band in bands]
    for k, (kind, left, right) in enumerate(bands):
        if kind == "sidewalk":
            margin = np.minimum(MARGIN_M, (left - right) / 5)
            if k and np.allclose(bands[k - 1][2], left):
                rights[k - 1] = left - margin
            if k + 1 < len(bands) and np.allclose(bands[k + 1][1], right):
                lefts[k + 1] = right + margin
            lefts[k], rights[k] = left - margin, right + margin
    kinds = [band[0] for band in bands]
    return list(zip(kinds, lefts, rights, strict=True))


def _size(polygon: np.ndarray) -> float:
    """Square metres of a polygon (n, 2), in either direction; 0 where there is none."""
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _kind(lane_type: str) -> str:
    if lane_type in _PAVEMENT:
        return "sidewalk"
    return "road" if lane_type.lower() in _ROADWAY else ""


def _joints(
    footways: Footways, pavements: Sequence[np.ndarray], marked: Sequence[np.ndarray]
) -> Iterator[Area]:
    """Quads along the footway graph's edges that leave the pavements. They reach 0.5 m past their
    ends, so that they meet what they join at an angle too."""
    if not len(footways.edges):
        return
    a, b = (footways.nodes[footways.edges[:, k]] for k in (0, 1))
    length = np.hypot(*(b - a).T)
    inside = np.ones(len(a), bool)
    for part in np.linspace(0.0, 1.0, 7):
        inside &= _covered(a + (b - a) * part, pavements)
    crossing = footways.crossing | _covered(a, marked) | _covered(b, marked)
    for k in np.flatnonzero((footways.crossing | ~inside) & (length > 0.05)).tolist():
        along = (b[k] - a[k]) / length[k]
        aside = np.array([-along[1], along[0]])
        short = not crossing[k] and length[k] < 2.6
        half = aside * (JOINT_M if short else CROSSING_M) / 2
        start, end = a[k] - 0.5 * along, b[k] + 0.5 * along
        corners = np.stack([start + half, end + half, end - half, start - half])
        yield ("sidewalk" if short else "crosswalk"), corners


def _covered(points: np.ndarray, polygons: Sequence[np.ndarray]) -> np.ndarray:
    """(n) bool: within 0.3 m of one of the convex polygons, which are at most ``LONGEST_M`` by a
    few metres."""
    from scipy.spatial import cKDTree

    found = np.zeros(len(points), bool)
    if not polygons:
        return found
    tree = cKDTree(points)
    for polygon in polygons:
        middle = polygon.mean(0)
        reach = np.hypot(*(polygon - middle).T).max() + 0.5
        near = tree.query_ball_point(middle, reach)
        if near:
            ahead = np.roll(polygon, -1, axis=0) - polygon
            offset = points[near][:, None] - polygon  # (m, k, 2)
            side = ahead[:, 0] * offset[..., 1] - ahead[:, 1] * offset[..., 0]
            side /= np.maximum(np.hypot(*ahead.T), 1e-9)
            found[near] |= (side <= 0.3).all(1)  # hulls run as rings do: inside is to the right
    return found


def _hull(points: np.ndarray) -> np.ndarray:
    """The convex hull (n, 2), running the way rings do; empty where the points span no area."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    rows = [tuple(map(float, points[k])) for k in order]
    chains = []
    for sequence in (rows, rows[::-1]):
        chain: list[tuple[float, ...]] = []
        for x, y in sequence:
            while len(chain) > 1:
                (x0, y0), (x1, y1) = chain[-2:]
                if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) < -1e-9:
                    break
                chain.pop()
            chain.append((x, y))
        chains += chain[:-1]
    return np.array(chains).reshape(-1, 2) if len(chains) >= 3 else np.zeros((0, 2))
