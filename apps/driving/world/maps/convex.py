"""Convex polygons that overlap, made into convex polygons that share whole edges.

``conform`` cuts away what an earlier polygon already covers, welds the corners that are one place,
puts a corner into every edge that another polygon's corner lies on, and splits what then has too
many corners. Afterwards two polygons that touch along a line have an edge in common, which is what
a navigation mesh needs and what laying areas side by side does not give.

Letters: a polygon is a list of (x, y) in metres; a ring is a tuple of rows of a table of corners.
Rings run so that the shoelace sum x_i y_j - x_j y_i is negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ON_LINE = 0.02
"""Metres: corners nearer to a cutting line lie on it, so that no thinner sliver is cut off."""
WELD = 0.05
"""Metres: corners nearer to each other are one; nearer to an edge, they are on it."""
THIN = 0.05
"""Metres: pieces narrower than this are left out, since welding would fold them."""
SMALLEST = 0.02
"""Square metres: overlaps and pieces below this are ignored."""

LEAST_ISLAND = 1.0
"""Square metres: what hangs together by edges and is smaller is left out."""

Polygon = list[tuple[float, float]]
Ring = tuple[int, ...]


def conform(
    polygons: Sequence[Polygon], most: int
) -> tuple[np.ndarray, list[Ring], list[int], np.ndarray]:
    """Corners (V, 2), rings of at most ``most`` corners, the polygon each ring is part of, and the
    neighbours (R, most): the ring beyond each edge (edge k runs from corner k), or -1."""
    pieces, source = partition(polygons)
    corners, rings, kept = weld(pieces)
    rings = insert_corners(corners, rings)
    found: list[Ring] = []
    origin: list[int] = []
    for ring, piece in zip(rings, kept, strict=True):
        parts = split(corners, ring, most)
        found += parts
        origin += [source[piece]] * len(parts)
    found, origin = _without_specks(corners, found, origin, most)
    used, packed = np.unique(np.concatenate([[], *found]).astype(int), return_inverse=True)
    ends = np.cumsum([len(ring) for ring in found])
    found = [tuple(part.tolist()) for part in np.split(packed, ends)[:-1]]
    return corners[used], found, origin, neighbours(found, most)


def _without_specks(
    corners: np.ndarray, rings: list[Ring], origin: list[int], most: int
) -> tuple[list[Ring], list[int]]:
    """Rings that are part of ``LEAST_ISLAND`` or more that hangs together by edges."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(rings)
    beyond = neighbours(rings, most)
    i, k = np.nonzero(beyond >= 0)
    graph = coo_matrix((np.ones(len(i)), (i, beyond[i, k])), (n, n))
    _, island = connected_components(graph, directed=False)
    size = np.bincount(island, weights=[_ring_area(corners, ring) for ring in rings])
    kept = np.flatnonzero(size[island] >= LEAST_ISLAND).tolist()
    return [rings[r] for r in kept], [origin[r] for r in kept]


def area(polygon: Sequence[tuple[float, float]]) -> float:
    """Half the shoelace sum: negative where the polygon runs the way rings do."""
    total = 0.0
    x0, y0 = polygon[-1]
    for x1, y1 in polygon:
        total += x0 * y1 - x1 * y0
        x0, y0 = x1, y1
    return 0.5 * total


def partition(polygons: Sequence[Polygon]) -> tuple[list[Polygon], list[int]]:
    """Convex pieces that overlap nowhere, and for each the number of its polygon; where polygons
    overlap the earlier one keeps the ground."""
    low = np.array([np.min(p, axis=0) for p in polygons]).reshape(-1, 2)
    high = np.array([np.max(p, axis=0) for p in polygons]).reshape(-1, 2)
    pieces: list[Polygon] = []
    source: list[int] = []
    for i, polygon in enumerate(polygons):
        (x0, y0), (x1, y1) = low[i] + ON_LINE, high[i] - ON_LINE
        near = (low[:i, 0] < x1) & (high[:i, 0] > x0) & (low[:i, 1] < y1) & (high[:i, 1] > y0)
        parts = [polygon]
        for j in np.flatnonzero(near).tolist():
            parts = [piece for part in parts for piece in subtract(part, polygons[j])]
        for part in parts:
            if _worth_keeping(part):
                pieces.append(part)
                source.append(i)
    return pieces, source


def subtract(polygon: Polygon, other: Polygon) -> list[Polygon]:
    """Convex pieces of ``polygon`` outside ``other``; ``polygon`` itself where they hardly meet."""
    rest: Polygon = polygon
    outside = []
    for k, end in enumerate(other):
        beyond, rest = _cut(rest, other[k - 1], end)
        if not rest:
            return [polygon]
        if beyond:
            outside.append(beyond)
    return outside if -area(rest) > SMALLEST else [polygon]


def _cut(
    polygon: Polygon, start: tuple[float, float], end: tuple[float, float]
) -> tuple[Polygon, Polygon]:
    """The parts of a polygon to the left of a line (outside a ring with this edge) and right of it.
    A part that only touches the line is empty."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = (dx * dx + dy * dy) ** 0.5
    if length < 1e-9:
        return [], polygon
    dx, dy = dx / length, dy / length
    sides = [dx * (y - start[1]) - dy * (x - start[0]) for x, y in polygon]
    if max(sides) <= ON_LINE:
        return [], polygon
    if min(sides) >= -ON_LINE:
        return polygon, []
    left: Polygon = []
    right: Polygon = []
    before, at = polygon[-1], sides[-1]
    for corner, side in zip(polygon, sides, strict=True):
        if min(at, side) < -ON_LINE and max(at, side) > ON_LINE:
            t = at / (at - side)
            crossing = (
                before[0] + t * (corner[0] - before[0]),
                before[1] + t * (corner[1] - before[1]),
            )
            left.append(crossing)
            right.append(crossing)
        if side > -ON_LINE:
            left.append(corner)
        if side < ON_LINE:
            right.append(corner)
        before, at = corner, side
    return left, right


def _worth_keeping(polygon: Polygon) -> bool:
    """Not too small, and nowhere narrower than ``THIN`` as a whole."""
    if len(polygon) < 3 or -area(polygon) < SMALLEST:
        return False
    for k, (x1, y1) in enumerate(polygon):
        x0, y0 = polygon[k - 1]
        dx, dy = x1 - x0, y1 - y0
        length = (dx * dx + dy * dy) ** 0.5
        if length > 1e-6:
            width = max(abs(dx * (y - y0) - dy * (x - x0)) for x, y in polygon) / length
            if width < THIN:
                return False
    return True


def weld(pieces: Sequence[Polygon]) -> tuple[np.ndarray, list[Ring], list[int]]:
    """Corners (V, 2), the rings that still have an area, and the piece of each."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    points = np.array([corner for piece in pieces for corner in piece]).reshape(-1, 2)
    pairs = cKDTree(points).query_pairs(WELD, output_type="ndarray")
    n = len(points)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (n, n))
    _, place = connected_components(graph, directed=False)
    # The first point of a place stands for it: what comes first keeps its shape.
    _, first, place = np.unique(place, return_index=True, return_inverse=True)
    corners = points[first]
    rings: list[Ring] = []
    kept: list[int] = []
    at = 0
    for number, piece in enumerate(pieces):
        whole = place[at : at + len(piece)].tolist()
        at += len(piece)
        ring = tuple(v for k, v in enumerate(whole) if v != whole[k - 1])
        if len(ring) >= 3 and len(set(ring)) == len(ring) and _ring_area(corners, ring) > 1e-3:
            rings.append(ring)
            kept.append(number)
    return corners, rings, kept


def _ring_area(corners: np.ndarray, ring: Sequence[int]) -> float:
    return -area([(corners[v, 0], corners[v, 1]) for v in ring])


def insert_corners(corners: np.ndarray, rings: Sequence[Ring]) -> list[Ring]:
    """The rings with every corner that lies on one of their edges put into it."""
    from scipy.spatial import cKDTree

    if not rings:
        return []
    start = np.concatenate(rings)
    end = np.concatenate([ring[1:] + ring[:1] for ring in rings])
    used = np.unique(start)
    a, b = corners[start], corners[end]
    length = np.hypot(*(b - a).T)
    tree = cKDTree(corners[used])
    near = tree.query_ball_point((a + b) / 2, length / 2, return_sorted=True)
    edge = np.repeat(np.arange(len(near)), [len(found) for found in near])
    corner = used[np.concatenate([[], *near]).astype(int)]
    way = (b - a)[edge] / length[edge, None]
    offset = corners[corner] - a[edge]
    along = (offset * way).sum(1)
    aside = np.abs(offset[:, 0] * way[:, 1] - offset[:, 1] * way[:, 0])
    on = (aside < WELD) & (along > 1e-6) & (along < length[edge] - 1e-6)
    on &= (corner != start[edge]) & (corner != end[edge])
    edge, corner, along = edge[on], corner[on], along[on]
    order = np.lexsort((along, edge))
    between: dict[int, list[int]] = {}
    for e, v in zip(edge[order].tolist(), corner[order].tolist(), strict=True):
        between.setdefault(e, []).append(v)
    found: list[Ring] = []
    at = 0
    for ring in rings:
        grown: list[int] = []
        for k, v in enumerate(ring):
            grown.append(v)
            # A corner of the ring itself near another of its edges would make it pinch.
            grown += [w for w in between.get(at + k, ()) if w not in ring and w not in grown]
        at += len(ring)
        found.append(tuple(grown))
    return found


def split(corners: np.ndarray, ring: Ring, most: int) -> list[Ring]:
    """Parts of a ring with at most ``most`` corners each, cut between corners; of the cuts that
    leave the larger part smallest, the one whose lesser part has most area."""
    n = len(ring)
    if n <= most:
        return [ring]
    best: tuple[int, float] | None = None
    parts: tuple[Ring, Ring] | None = None
    for i in range(n):
        for j in range(i + 2, min(n, i + n - 1)):
            one, other = ring[i : j + 1], ring[j:] + ring[: i + 1]
            lesser = min(_ring_area(corners, one), _ring_area(corners, other))
            rank = (-max(len(one), len(other)), lesser)
            if lesser > 1e-3 and (best is None or rank > best):
                best, parts = rank, (one, other)
    if parts is None:
        # All corners but two on one line, within rounding: what is left is no area to walk on.
        return []
    return [piece for part in parts for piece in split(corners, part, most)]


def neighbours(rings: Sequence[Ring], most: int) -> np.ndarray:
    """(R, most) int32: the ring that has each edge the other way round, -1 where there is none."""
    owner: dict[tuple[int, int], tuple[int, int]] = {}
    for number, ring in enumerate(rings):
        for k, v in enumerate(ring):
            owner.setdefault((v, ring[(k + 1) % len(ring)]), (number, k))
    found = np.full((len(rings), most), -1, np.int32)
    for (v, w), (number, k) in owner.items():
        beyond = owner.get((w, v))
        if beyond is not None:
            found[number, k] = beyond[0]
    return found
